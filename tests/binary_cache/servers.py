"""Real servers of objects for the tests: rclone's S3 and WebDAV servers, each on a folder."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

KEY_ID, SECRET = "TESTKEYID", "test-secret-of-no-worth"
USER, PASSWORD = "pusher", "test-password-of-no-worth"

_RCLONE = Path(sys.executable).parent / "rclone"
_CONTROL = re.compile(r"remote control on (http://127\.0\.0\.1:[0-9]+/)")
_READY = re.compile(r"(?i)server.*http://(127\.0\.0\.1:[0-9]+)/")


@dataclass(frozen=True)
class Server:
    """A server that runs: its HOST:PORT, and where it takes commands."""

    address: str
    control: str

    def refresh(self) -> None:
        """Have it forget what it knows of its folder, which was changed by hand."""
        assert urllib3.request("POST", f"{self.control}vfs/forget").status == 200


@contextmanager
def _serve(what: str, folder: Path, *options: str) -> Iterator[Server]:
    argv = [str(_RCLONE), "serve", what, "--addr", "127.0.0.1:0", "--config", "", *options]
    argv += ["--rc", "--rc-addr", "127.0.0.1:0", "--rc-no-auth", str(folder)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            while not ((ready := _READY.search(said)) and (control := _CONTROL.search(said))):
                line = process.stderr.readline()
                assert line, f"rclone ended: {said}"
                said += line
            # A pipe that nobody reads would stop it in the end.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield Server(address=ready.group(1), control=control.group(1))
        finally:
            process.kill()


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """S3 whose buckets are the folders below; signatures are checked."""
    with _serve("s3", folder, "--auth-key", f"{KEY_ID},{SECRET}") as server:
        yield server


@contextmanager
def dav_server(folder: Path) -> Iterator[Server]:
    """HTTP with PUT, for one user. A PUT that breaks off leaves half a file."""
    with _serve("webdav", folder, "--user", USER, "--pass", PASSWORD) as server:
        yield server


def s3_credentials(file: Path, *, key_id: str = KEY_ID, secret: str = SECRET) -> Path:
    """A credentials file of the form of `~/.aws/credentials`."""
    file.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n")
    return file


def netrc(file: Path, *, user: str = USER, password: str = PASSWORD) -> Path:
    """A credentials file of the form of curl's, and Nix's."""
    file.write_text(f"machine 127.0.0.1 login {user} password {password}\n")
    return file
