"""What goes to a cache is said for each jobset; of what several want, what any of them sends."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from typing import Any

from reconciler.database import database_path
from reconciler.upkeep import MARK_INTERVAL, SAMPLE_INTERVAL
from tests.binary_cache import harm
from tests.cli.farm import check_schema
from tests.support.trial import Trial
from tests.system.test_cache import cache_of, cached, keys, pushes, whole
from tests.system.test_changes import ahead
from tests.system.test_drift import looks, pass_time, path

COMMON = """
  library = job "library" "echo library > $out";
  program = job "program" "echo uses ${library} > $out";
"""
NARROW = f"let {COMMON} in {{ inherit program; }}"
WIDE = f"""
let {COMMON}
  part = job "part" "echo part > $out";
  a-vm-test = job "a-vm-test" "echo ${{part}} > $out";
in {{
  inherit program a-vm-test;
  own = job "own" "echo ${{part}} > $out";
  over = job "over" "echo ${{a-vm-test}} > $out";
}}
"""
JOBS = {"name": "main", "push": "jobs"}
LESS = {"name": "main", "exclude": ["*-vm-test"]}
DAY = 86400.0


def declare(trial: Trial, *, settings: dict[str, Any] | None = None, **pushed: Any) -> None:
    """Jobsets, each with what it says of the cache."""
    expressions = {"narrow": NARROW, "wide": WIDE}
    trial.declare(
        {
            name: {"source": trial.source(name, expressions[name]), "caches": [said], "keep": 1}
            for name, said in pushed.items()
        },
        caches={
            "main": {
                "uri": f"file:{cache_of(trial)}",
                "signingKeyFile": str(trial.root / "key"),
                **(settings or {}),
            }
        },
    )


def cli(trial: Trial, *arguments: str, check: bool = True) -> str:
    where = ("--config", str(trial.config), "--state-dir", str(trial.state_dir))
    argv = (sys.executable, "-m", "reconciler", *where, *arguments)
    return trial.store.run(*argv, check=check).stdout


def verified(trial: Trial, *options: str) -> Any:
    found = json.loads(cli(trial, "caches", "verify", "main", "--json", *options, check=False))
    check_schema(found, schema="caches-verify")
    return found


def days_pass(trial: Trial, days: float) -> None:
    with closing(sqlite3.connect(database_path(trial.state_dir), timeout=30)) as database:
        database.execute("UPDATE push SET unwanted_at = unwanted_at - ?", (days * DAY,))
        database.execute("UPDATE cache SET marked_at = marked_at - ?", (MARK_INTERVAL,))
        database.commit()
    trial.settled = False


def test_of_what_several_want_goes_there_what_any_of_them_sends(trial: Trial) -> None:
    public = keys(trial)
    ours = {"gc": True, "gracePeriod": "1d"}
    declare(trial, settings=ours, narrow=JOBS)
    assert trial.once()
    assert cached(trial) == {"program"}
    declare(trial, settings=ours, narrow=JOBS, wide=LESS)
    assert trial.once()
    whole(trial, public)
    assert cached(trial) == {"program", "library", "part", "own"}
    before = trial.dump()
    assert trial.once()
    assert trial.dump() == before  # what was found is remembered with its rule
    declare(trial, settings=ours, narrow=JOBS, wide="main")
    assert trial.once()
    whole(trial, public)
    assert cached(trial) == {"program", "library", "part", "own", "a-vm-test", "over"}
    assert trial.value("SELECT count(*) FROM push WHERE alone") == 0
    declare(trial, settings=ours, narrow=JOBS)
    assert trial.once()
    for days in (0.0, 2.0):
        days_pass(trial, days)
        assert trial.once()
    # `library` is needed to build `program` again, and was not pushed for that alone.
    assert cached(trial) == {"program", "library"}
    assert trial.value("SELECT count(*) FROM attempt") == 6


def test_without_retention_what_was_pushed_stays(trial: Trial) -> None:
    keys(trial)
    declare(trial, narrow=JOBS, wide=LESS)
    assert trial.once()
    assert cached(trial) == {"program", "library", "part", "own"}
    declare(trial, narrow=JOBS)
    assert trial.once()
    assert ahead(trial).actions == ()
    assert cached(trial) == {"program", "library", "part", "own"}


def test_excluded_is_what_every_jobset_excludes(trial: Trial) -> None:
    keys(trial)
    declare(
        trial,
        settings={"exclude": ["own"]},
        narrow={"name": "main", "exclude": ["program"]},
        wide={"name": "main", "exclude": ["library"]},
    )
    assert trial.once()
    # For the one it is excluded, for the other what it refers to.
    assert cached(trial) == {"library", "part", "a-vm-test", "over"}
    declare(
        trial,
        settings={"exclude": ["own"]},
        narrow={"name": "main"},
        wide={"name": "main", "exclude": ["library"]},
    )
    assert trial.once()
    assert cached(trial) == {"library", "part", "a-vm-test", "over", "program"}


def test_what_waits_goes_by_the_rule_that_is_declared_meanwhile(trial: Trial) -> None:
    declare(trial, wide="main")  # without a key nothing is pushed
    assert trial.once()
    everything = {"program", "library", "part", "own", "a-vm-test", "over"}
    assert pushes(trial) == {(name, "pending") for name in everything}
    declare(trial, wide={**LESS, **JOBS})
    keys(trial)
    assert trial.once()
    assert cached(trial) == {"program", "own", "over"}
    assert {name for name, _ in pushes(trial)} == cached(trial)


def test_what_goes_there_alone_lacks_nothing(trial: Trial) -> None:
    """Neither the daemon nor a person who looks misses what it refers to, nor sends that."""
    keys(trial)
    declare(trial, narrow=JOBS)
    assert trial.once()
    pass_time(trial, SAMPLE_INTERVAL)
    assert trial.once()
    assert looks(trial) == {"sample": (1, 0)}
    assert verified(trial)["good"]
    harm.nar(cache_of(trial), path(trial, "program")).unlink()
    (finding,) = verified(trial, "--heal")["findings"]
    assert (finding["flaw"], finding["healed"]) == ("nar-absent", True)
    harm.narinfo(cache_of(trial), path(trial, "program")).unlink()
    pass_time(trial, SAMPLE_INTERVAL)
    assert trial.once()
    assert cached(trial) == {"program"}


def test_what_goes_there_whole_beside_that_lacks_what_it_refers_to(trial: Trial) -> None:
    keys(trial)
    declare(trial, narrow=JOBS, wide=LESS)
    assert trial.once()
    harm.narinfo(cache_of(trial), path(trial, "library")).unlink()
    with closing(sqlite3.connect(database_path(trial.state_dir))) as database:
        database.execute("DELETE FROM push WHERE path = ?", (path(trial, "library"),))
        database.commit()
    (finding,) = verified(trial)["findings"]
    assert finding["message"].startswith(f"{path(trial, 'program')} refers to")
    pass_time(trial, SAMPLE_INTERVAL)
    assert trial.once()
    assert ("library", "pushed") in pushes(trial)
    assert verified(trial)["good"]


def test_a_job_of_one_jobset_goes_nowhere_for_another_that_needs_it_to_build(trial: Trial) -> None:
    keys(trial)
    part = 'part = job "part" "echo part > $out";'
    expressions = {
        "parts": f"{{ {part} }}",
        "wholes": f"""let {part} in {{ it = job "it" "cat ${{part}}; echo it > $out"; }}""",
    }
    trial.declare(
        {
            name: {"source": trial.source(name, text), "caches": [name]}
            for name, text in expressions.items()
        },
        caches={
            name: {"uri": f"file:{trial.root}/{name}", "signingKeyFile": str(trial.root / "key")}
            for name in expressions
        },
    )
    assert trial.once()
    query = "SELECT c.name, p.path FROM push p JOIN cache c ON c.id = p.cache"
    found = {(cache, each.rpartition("-")[2]) for cache, each in trial.query(query)}
    assert found == {("parts", "part"), ("wholes", "it")}


def test_names_are_shown_as_ever(trial: Trial) -> None:
    keys(trial)
    declare(trial, narrow=JOBS, wide=LESS)
    assert "jobset narrow" in cli(trial, "plan")
    trial.declare({"narrow": NARROW, "wide": WIDE})
    assert trial.once()
    declare(trial, narrow=JOBS, wide=LESS)
    told = [line for line in cli(trial, "plan").splitlines() if line.startswith("+ push")]
    assert told == [
        "+ push what 1 job made, to main  (jobs)",
        "+ push what 4 jobs made, to main  (requisites, without *-vm-test)",
    ]
    assert trial.once()
    shown = cli(trial, "status", "wide", check=False)
    assert [line.split() for line in shown.splitlines() if "caches" in line] == [["caches", "main"]]
    settings = json.loads(cli(trial, "status", "wide", "--json", check=False))
    assert settings["caches"] == ["main"]
