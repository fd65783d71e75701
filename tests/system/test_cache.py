"""Signed pushes to a cache of files, and what others can do with it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.database import database_path
from tests.support.private_store import PrivateStore
from tests.support.trial import Trial
from tests.system.test_graphs import DIAMOND

REFERRING = """
rec {
  library = job "library" "echo library > $out";
  tool = job "tool" "echo tool > $out";
  program = job "program" "cat ${tool}; echo uses ${library} > $out";
}
"""


def cache_of(trial: Trial) -> Path:
    return trial.root / "cache"


def keys(trial: Trial) -> str:
    """A signing key in place; the public half."""
    secret = trial.store.run("nix", "key", "generate-secret", "--key-name", "test-1").stdout
    (trial.root / "key").write_text(secret)
    made = trial.store.run("sh", "-c", f"nix key convert-secret-to-public < {trial.root}/key")
    return made.stdout.strip()


def declare(trial: Trial, expression: str, **settings: Any) -> None:
    trial.declare(
        {"it": {"source": trial.source("it", expression), "caches": ["main"]}},
        caches={
            "main": {
                "uri": f"file:{cache_of(trial)}",
                "signingKeyFile": str(trial.root / "key"),
                **settings,
            }
        },
    )


def cached(trial: Trial) -> set[str]:
    found = set()
    for narinfo in cache_of(trial).glob("*.narinfo"):
        fields = dict(line.split(": ", 1) for line in narinfo.read_text().splitlines())
        found.add(Path(fields["StorePath"]).name.split("-", 1)[1])
    return found


def pushes(trial: Trial) -> set[tuple[Any, ...]]:
    return {
        (Path(path).name.split("-", 1)[1], state)
        for path, state in trial.query("SELECT path, state FROM push")
    }


@pytest.mark.parametrize("compression", ["none", "zstd", "xz"])
def test_what_was_pushed_is_substituted_into_an_empty_store(trial: Trial, compression: str) -> None:
    public = keys(trial)
    declare(trial, REFERRING, compression=compression)
    assert trial.once()
    assert cached(trial) == {"library", "tool", "program"}
    program = trial.output("program")
    # The store's paths hold its folder's name, so the empty store has to lie where this one does.
    closure = trial.store.run("nix-store", "--query", "--requisites", str(program)).stdout.split()
    text = program.read_text()
    trial.store.destroy()
    trial.store.root.mkdir()
    PrivateStore.create(root=trial.store.root)
    fetch = ("nix-store", "--realise", str(program), "--option", "substituters")
    elsewhere = (f"file://{cache_of(trial)}", "--option", "trusted-public-keys")
    refused = trial.store.run(*fetch, *elsewhere, "other-1:" + public.split(":")[1], check=False)
    assert refused.returncode != 0
    trial.store.run(*fetch, *elsewhere, public)
    assert program.read_text() == text
    assert all(Path(path).exists() for path in closure)
    trial.collected = True
    trial.settled = False


def test_the_scope_decides_what_is_pushed(trial: Trial) -> None:
    keys(trial)
    only = REFERRING.replace("rec {", "let", 1).replace("program =", "in { program =")
    declare(trial, only, push="jobs")
    assert trial.once()
    assert cached(trial) == {"program"}
    declare(trial, only, push="requisites", uri=f"file:{trial.root}/second")
    assert trial.once()
    assert {path.name for path in (trial.root / "second").glob("*.narinfo")} > {
        path.name for path in cache_of(trial).glob("*.narinfo")
    }
    declare(trial, only, push="all", uri=f"file:{trial.root}/third")
    assert trial.once()
    assert pushes(trial) == {("program", "pushed"), ("tool", "pushed"), ("library", "pushed")}


def test_what_was_built_for_a_job_that_failed_is_pushed_where_all_is(trial: Trial) -> None:
    keys(trial)
    expression = """
      let part = job "part" "echo part > $out"; other = job "other" "echo ${part} > $out"; in
      { broken = job "broken" "cat ${other}; false"; }
    """
    declare(trial, expression)
    assert trial.once()
    assert cached(trial) == set()
    declare(trial, expression, push="all")
    assert trial.once()
    assert trial.builds()["broken"] == "failed"
    assert cached(trial) == {"part", "other"}


def test_what_is_excluded_is_not_pushed_nor_what_refers_to_it(trial: Trial) -> None:
    keys(trial)
    expression = REFERRING.replace(
        "rec {", 'rec { secret-1 = job "secret-1" "echo $out > $out";', 1
    )
    declare(trial, expression, exclude=["lib*", "secret-?"])
    assert trial.once()
    assert cached(trial) == {"tool"}
    declare(trial, expression, exclude=["secret-?"])
    assert trial.once()
    assert cached(trial) == {"tool", "library", "program"}
    declare(trial, expression, push="jobs", exclude=["library"], uri=f"file:{trial.root}/second")
    assert trial.once()
    assert len([*(trial.root / "second").glob("*.narinfo")]) == 3


def test_what_waits_and_is_excluded_meanwhile_is_not_pushed(trial: Trial) -> None:
    declare(trial, REFERRING)  # without a key nothing is pushed
    assert trial.once()
    assert {state for _, state in pushes(trial)} == {"pending"}
    keys(trial)
    declare(trial, REFERRING, exclude=["tool"])
    assert trial.once()
    assert cached(trial) == {"library", "program"}


def test_outputs_are_pushed_as_they_are_built(trial: Trial) -> None:
    keys(trial)
    declare(
        trial,
        """
        rec {
          early = job "early" "echo > $out";
          late = job "late" "cat ${early}; echo on; exec sleep 5656";
        }
        """,
    )
    with trial.running() as daemon:
        daemon.eventually(lambda: cache_of(trial).exists() and cached(trial) == {"early"})
        assert trial.builds()["late"] in ("building", "queued")


def test_a_missing_key_costs_the_cache_alone(trial: Trial) -> None:
    declare(trial, DIAMOND)
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds().get("top") == "succeeded")
        daemon.eventually(trial.conditions)
        ((kind, name, _), message) = next(iter(trial.conditions().items()))
        assert (kind, name) == ("cache", "main")
        assert str(trial.root / "key") in message
        keys(trial)
        daemon.eventually(lambda: {state for _, state in pushes(trial)} == {"pushed"})
        daemon.eventually(lambda: trial.conditions() == {})
    assert cached(trial) == {"base", "left", "right", "top"}


def test_a_cache_that_was_pushed_to_is_in_sync(trial: Trial) -> None:
    keys(trial)
    declare(trial, DIAMOND)
    assert trial.once()
    before = trial.dump()
    assert trial.once()
    assert trial.dump() == before


def test_what_existed_before_the_cache_was_declared_is_pushed(trial: Trial) -> None:
    keys(trial)
    trial.declare({"it": DIAMOND})
    assert trial.once()
    declare(trial, DIAMOND)
    assert trial.once()
    assert cached(trial) == {"base", "left", "right", "top"}
    assert trial.value("SELECT count(*) FROM attempt") == 4


def test_what_nix_cannot_tell_of_one_path_keeps_nothing_else_back(trial: Trial) -> None:
    keys(trial)
    trial.declare({"it": DIAMOND})
    assert trial.once()
    left = str(trial.output("left"))
    whole = tell(trial, left, "x")
    declare(trial, DIAMOND)
    assert trial.once()  # it is asked again a few times, not for ever
    trial.settled = False
    assert cached(trial) == {"base", "right", "top"}
    assert left in trial.conditions()["cache", "main", "closure-unknown"]
    tell(trial, left, whole)
    assert trial.once()
    assert cached(trial) == {"base", "left", "right", "top"}
    assert not trial.conditions()


def tell(trial: Trial, path: str, hash_: str) -> str:
    """Have Nix's database say that a path has this hash; what it said before."""
    database = sqlite3.connect(trial.store.root / "state/db/db.sqlite")
    with closing(database), database:
        before = database.execute("SELECT hash FROM ValidPaths WHERE path = ?", (path,)).fetchone()
        database.execute("UPDATE ValidPaths SET hash = ? WHERE path = ?", (hash_, path))
    return str(before[0])


def test_a_path_collected_before_its_push_is_dropped_with_a_note(trial: Trial) -> None:
    trial.collected = True
    expression = '{ other = job "other" "echo other > $out"; }'
    declare(trial, REFERRING)
    document = trial.config.read_text().replace(
        '"caches": ["main"]', '"caches": ["main"], "keep": 1'
    )
    trial.config.write_text(document)
    with trial.running() as daemon:
        daemon.eventually(lambda: ("program", "pending") in pushes(trial))
        daemon.eventually(trial.conditions)
        program, library = trial.output("program"), trial.output("library")
        trial.source("it", expression)
        daemon.eventually(lambda: trial.builds().get("other") == "succeeded")
        trial.store.run("nix-store", "--delete", "--ignore-liveness", str(program), str(library))
        keys(trial)
        daemon.eventually(lambda: ("tool", "pushed") in pushes(trial))
        daemon.eventually(lambda: ("library", "failed") in pushes(trial))
        daemon.eventually(lambda: ("program", "failed") in pushes(trial))
        daemon.eventually(lambda: ("other", "pushed") in pushes(trial))
    errors = trial.query("SELECT DISTINCT error FROM push WHERE state = 'failed'")
    assert errors == [("the store has it no longer",)]


def test_killed_in_the_middle_of_pushing_the_cache_is_whole(trial: Trial) -> None:
    public = keys(trial)
    jobs = " ".join(
        f'j{n} = job "j{n}" "head -c 3000000 /dev/urandom > $out; echo {n} >> $out";'
        for n in range(6)
    )
    trial.declare({"it": f"{{ {jobs} }}"})
    assert trial.once()
    declare(trial, f"{{ {jobs} }}", compression="xz")
    for state in ("pushing", "pushed"):
        with trial.running(wait=False) as daemon:
            daemon.eventually(partial(any_push_is, trial, state))
            daemon.kill()
        whole(trial, public)
    assert trial.once()
    whole(trial, public)
    assert cached(trial) == {f"j{n}" for n in range(6)}
    assert {state for _, state in pushes(trial)} == {"pushed"}
    assert not [path for path in cache_of(trial).rglob("*") if "tmp" in path.name]
    assert database_path(trial.state_dir).exists()


def any_push_is(trial: Trial, state: str) -> bool:
    return state in {each for _, each in pushes(trial)}


def whole(trial: Trial, public: str) -> None:
    """What the cache offers, it has."""
    if not cache_of(trial).exists():
        return
    paths = [
        line.split(": ", 1)[1]
        for narinfo in cache_of(trial).glob("*.narinfo")
        for line in narinfo.read_text().splitlines()
        if line.startswith("StorePath: ")
    ]
    if paths:
        trial.store.run(
            *("nix", "store", "verify", "--store", f"file://{cache_of(trial)}", "--sigs-needed"),
            *("1", "--trusted-public-keys", public, *paths),
        )
