"""What is said to the service manager, heard at the other end of a real socket."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest

from reconciler.errors import UsageError
from reconciler.notify import ServiceManager
from tests.support.service_manager import service_manager


def test_each_message_is_what_systemd_reads(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with service_manager(address) as systemd:
        said = ServiceManager.of({"NOTIFY_SOCKET": str(address)})
        before = time.monotonic_ns() // 1000
        said.ready()
        said.reloading()
        said.status("building 2 on local")
        said.stopping()
        assert systemd.next() == ("READY=1",)
        first, second = systemd.next()
        name, _, value = second.partition("=")
        assert (first, name) == ("RELOADING=1", "MONOTONIC_USEC")
        assert before <= int(value) <= time.monotonic_ns() // 1000
        assert systemd.next() == ("STATUS=building 2 on local",)
        assert systemd.next() == ("STOPPING=1",)


def test_an_at_sign_is_the_abstract_namespace() -> None:
    address = f"@reconciler-test-{uuid.uuid4()}"
    with service_manager(address) as systemd:
        ServiceManager.of({"NOTIFY_SOCKET": address}).ready()
        assert systemd.next() == ("READY=1",)


def test_a_status_is_said_when_it_changes(tmp_path: Path) -> None:
    with service_manager(tmp_path / "notify") as systemd:
        said = ServiceManager(str(tmp_path / "notify"))
        for text in ("idle", "idle", "building 1 on local", "idle"):
            said.status(text)
        assert systemd.waiting() == [
            ("STATUS=idle",),
            ("STATUS=building 1 on local",),
            ("STATUS=idle",),
        ]


def test_a_sign_of_life_is_given_to_who_waits_for_it_and_not_each_time(tmp_path: Path) -> None:
    with service_manager(tmp_path / "notify") as systemd:
        watched = ServiceManager(str(tmp_path / "notify"), watchdog=3600.0)
        watched.alive()
        watched.alive()
        assert systemd.waiting() == [("WATCHDOG=1",)]
        eager = ServiceManager(str(tmp_path / "notify"), watchdog=1e-9)
        eager.alive()
        eager.alive()
        assert systemd.waiting() == [("WATCHDOG=1",), ("WATCHDOG=1",)]
        ServiceManager(str(tmp_path / "notify")).alive()
        assert systemd.waiting() == []


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert ServiceManager.of(environment).watchdog == seconds


def test_without_a_manager_nothing_is_said_and_one_that_is_gone_is_left_alone(
    tmp_path: Path,
) -> None:
    ServiceManager.of({}).ready()
    ServiceManager.of({"NOTIFY_SOCKET": ""}).ready()
    ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


@pytest.mark.parametrize("address", ["notify", "@", "vsock:2:1234"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=f"NOTIFY_SOCKET={address} is no socket of systemd"):
        ServiceManager.of({"NOTIFY_SOCKET": address})
