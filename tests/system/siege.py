"""Caches under siege: builds are pushed over lines that spoil every fifth request, by a daemon that
is killed again and again; in the end every cache has everything, and nothing was sent in vain.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.reconcile import PUSH_BATCH
from tests.binary_cache.servers import dav_server, netrc, s3_credentials, s3_server
from tests.cli.farm import check_schema
from tests.support.fault_proxy import (
    Answer,
    CutAnswer,
    CutRequest,
    Fault,
    FaultProxy,
    LoseAnswer,
    Request,
    SpoilRequest,
    fault_proxy_beside,
)
from tests.support.trial import Trial
from tests.system.conftest import a_trial
from tests.system.test_cache import keys, whole

ERROR_RATE = 0.2
WIDTH = 50
"""Builds of one layer; each refers to two of the layer below."""
BESIDE = re.compile(r"\.[0-9a-f]{8}-[0-9]+$")
"""What an upload has at the end of its name until it is moved to its place."""


@dataclass
class Line:
    """The way to a cache: what was asked for there, and what befell it."""

    faults: Sequence[Fault]
    placing: str
    """The method after which an object is in its place."""
    chance: random.Random
    quiet: bool = False
    placed: list[tuple[str, bool]] = field(default_factory=list)
    """Objects that were put into their places, and whether nothing was in the way."""
    requests: int = 0
    spoilt: int = 0
    proxy: FaultProxy | None = None

    def judge(self, request: Request) -> Fault | None:
        fault = None
        if not self.quiet:
            self.requests += 1
            if self.chance.random() < ERROR_RATE:
                fault = self.chance.choice(self.faults)
                self.spoilt += 1
        placing = request.method == self.placing
        if placing or (request.method == "PUT" and fault is not None):
            name = BESIDE.sub("", request.path.partition("?")[0])
            self.placed.append((name.partition("/in/")[2], fault is None))
        return fault


@contextmanager
def line(
    upstream: str, *, faults: Sequence[Fault], placing: str, chance: random.Random
) -> Iterator[Line]:
    """A proxy in a thread of its own, since what is tested is waited for."""
    made = Line(faults, placing, chance)
    with fault_proxy_beside(upstream) as proxy:
        proxy.judge = made.judge
        made.proxy = proxy
        yield made


def expression(builds: int) -> str:
    """Layers of builds that refer to those below."""
    return f"""
      let
        width = {WIDTH};
        elem = builtins.elemAt;
        mod = a: b: a - b * (a / b);
        layer = below: n: builtins.genList (i: job "b${{toString n}}-${{toString i}}" ''
          echo ${{toString n}} ${{toString i}} ${{if n == 0 then "" else
            "${{elem below i}} ${{elem below (mod (i + 1) width)}}"}} > $out
        '') width;
        top = builtins.foldl' layer [ ] (builtins.genList (n: n) {builds // WIDTH});
      in builtins.listToAttrs (builtins.genList (i: {{
        name = "top-${{toString i}}"; value = elem top i; }}) width)
    """


COMMON: tuple[Fault, ...] = (
    Answer(500),
    Answer(503),
    Answer(429, {"Retry-After": "0"}),
    CutRequest(),
    LoseAnswer(),
    CutAnswer(),
)


@dataclass
class Siege:
    """A trial with three caches, two of them at the end of bad lines."""

    trial: Trial
    lines: dict[str, Line]
    folders: dict[str, Path]
    builds: int

    def pushed(self, cache: str) -> int:
        return int(
            self.trial.value(
                "SELECT count(*) FROM push p JOIN cache c ON c.id = p.cache"
                " WHERE p.state = 'pushed' AND c.name = ?",
                cache,
            )
            or 0
        )

    def done(self) -> bool:
        return all(self.pushed(cache) == self.builds for cache in self.folders)


@contextmanager
def laid(folder: Path, *, builds: int, seed: int) -> Iterator[Siege]:
    """Everything declared, nothing begun."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    served = folder / "served"
    (served / "bucket").mkdir(parents=True)
    (served / "dav").mkdir()
    with ExitStack() as stack:
        trial = stack.enter_context(a_trial())
        keys(trial)
        s3 = stack.enter_context(s3_server(served))
        dav = stack.enter_context(dav_server(served / "dav"))
        lines = {
            # S3 has a digest to tell by; HTTP has none, and what a bit that flips does is not seen.
            "s3": stack.enter_context(
                line(s3.address, faults=(*COMMON, SpoilRequest()), placing="PUT", chance=chance)
            ),
            "http": stack.enter_context(
                line(dav.address, faults=COMMON, placing="MOVE", chance=chance)
            ),
        }
        address = {name: each.proxy.address for name, each in lines.items() if each.proxy}
        common = {"signingKeyFile": str(trial.root / "key"), "push": "all"}
        source = trial.source("it", expression(builds))
        caches = {
            "s3": {
                "uri": f"s3://bucket/in?endpoint={address['s3']}&scheme=http",
                "credentialsFile": str(s3_credentials(trial.root / "s3-keys")),
                **common,
            },
            "http": {
                "uri": f"http://{address['http']}/in",
                "credentialsFile": str(netrc(trial.root / "netrc")),
                **common,
            },
            "file": {"uri": f"file:{trial.root / 'cache'}", **common},
        }
        trial.declare({"it": {"source": source, "caches": [*caches]}}, caches=caches)
        folders = {
            "s3": served / "bucket" / "in",
            "http": served / "dav" / "in",
            "file": trial.root / "cache",
        }
        yield Siege(trial, lines, folders, builds)


def stand(siege: Siege, *, kills: int, seed: int) -> None:
    """Push everything, through so many kills; then look at what is there."""
    trial = siege.trial
    chance = random.Random(seed)  # noqa: S311 - not a secret
    step = siege.builds * 2 // kills
    for _ in range(kills):
        line = siege.lines[chance.choice([*siege.lines])]
        until = line.requests + chance.randint(step // 4, step // 2)
        with trial.running(wait=False) as daemon:
            daemon.eventually(lambda line=line, until=until: line.requests >= until)  # type: ignore[misc]
            assert not siege.done(), "it was over before it was killed"
            daemon.kill()
        trial.until_nothing_runs()
    with trial.running() as daemon:
        daemon.eventually(siege.done, deadline=600)
    for each in siege.lines.values():
        each.quiet = True
        assert each.spoilt > each.requests * ERROR_RATE / 2
    assert trial.once()
    for name, each in siege.lines.items():
        _nothing_in_vain(each, siege.folders[name], kills=kills)
    _all_is_right(siege)


def _nothing_in_vain(line: Line, folder: Path, *, kills: int) -> None:
    """Of a path that is in the cache nothing was sent again. A NAR without its narinfo, which comes
    last, is: of those of the batches that were cut off, and of what waited for a reference.
    """
    narinfo_of = {}
    for file in folder.glob("*.narinfo"):
        fields = dict(row.split(": ", 1) for row in file.read_text().splitlines() if ": " in row)
        narinfo_of[fields["URL"]] = file.name
    arrived: set[str] = set()
    again = 0
    for name, good in line.placed:
        assert name not in arrived or name.startswith("nar/"), f"{name} was sent again"
        assert narinfo_of.get(name) not in arrived, f"{name} was sent again"
        again += name in arrived
        if good:
            arrived.add(name)
    assert again <= kills * PUSH_BATCH
    assert {*narinfo_of, *narinfo_of.values()} <= {name for name, _ in line.placed}


def _all_is_right(siege: Siege) -> None:
    """Every cache says that it is in sync, and is: every byte is read back."""
    trial = siege.trial
    where = ("--config", str(trial.config), "--state-dir", str(trial.state_dir))
    reconciler = (sys.executable, "-m", "reconciler", *where)
    status = json.loads(trial.store.run(*reconciler, "status", "--json").stdout)
    assert {each["name"]: each["verdict"] for each in status["caches"]} == dict.fromkeys(
        siege.folders, "in-sync"
    )
    for name in siege.folders:
        ended = trial.store.run(*reconciler, "caches", "verify", name, "--json", check=False)
        assert ended.stdout, ended.stderr
        found = json.loads(ended.stdout)
        check_schema(found, schema="caches-verify")
        assert (found["findings"], found["paths"]) == ([], siege.builds)
    made = trial.store.run("sh", "-c", f"nix key convert-secret-to-public < {trial.root}/key")
    whole(trial, made.stdout.strip())
    again = "SELECT count(*) FROM attempt WHERE outcome = 'succeeded'"
    assert trial.value(again) <= siege.builds
