"""From derivation files of a real store to the rows of a real database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler import config
from reconciler.database import Database, declared, evaluated, open_writer
from reconciler.errors import NixError
from reconciler.ingest import Ingest, Ingested
from reconciler.model import (
    BuildState,
    DrvPath,
    EvaluatedJob,
    EvaluationFailure,
    JobsetName,
    StorePath,
)
from reconciler.nix import derivation
from reconciler.nix.endpoint import Endpoint, local_endpoint
from reconciler.store import Store
from tests.support.private_store import PrivateStore

NOW = 1_000_000.0
JOBSET = JobsetName("tested")

NODE = r"""
  node = name: inputs: more: derivation ({
    inherit name inputs;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" ''for output in $outputs; do eval "echo $name > \$$output"; done'' ];
    outputs = [ "out" ];
  } // more);
"""
DIAMOND = f"""
let {NODE}
  bottom = node "bottom" [ ] {{ }};
  left = node "left" [ bottom ] {{ }};
  right = node "right" [ bottom ] {{ }};
in [ bottom left right (node "top" [ left right ] {{ }}) ]
"""
SEVERAL = f"""
let {NODE}
  bottom = node "bottom" [ ] {{ }};
  several = node "several" [ bottom ] {{ outputs = [ "out" "dev" "doc" ]; }};
  between = node "between" [ several.dev several.doc ] {{ }};
in [
  bottom several between
  (node "top" [ several between ] {{ }})
  (node "needs-out" [ several.out ] {{ }})
  (node "needs-dev" [ several.dev ] {{ }})
  (node "needs-between" [ between ] {{ }})
]
"""
WIDE, DEEP = 50, 30
BROAD = f"""
let {NODE}
  leaves = builtins.genList (n: node "leaf${{toString n}}" [ ] {{ }}) {WIDE};
in leaves ++ builtins.genList (n: node "top${{toString n}}" leaves {{ }}) {DEEP}
"""
CONTENT_ADDRESSED = f"""
let {NODE}
  floating = node "floating" [ ] {{
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  }};
  producer = node "producer.drv" [ ] {{
    __contentAddressed = true; outputHashMode = "text"; outputHashAlgo = "sha256";
  }};
in [
  floating producer
  (node "deferred" [ floating ] {{ }})
  (node "dynamic" [ (builtins.outputOf producer.outPath "out") ] {{ }})
]
"""
FEATURES = "extra-experimental-features = ca-derivations dynamic-derivations\n"


@dataclass(frozen=True)
class Lab:
    """A store with the derivations of an expression, and a state to take them into."""

    nix: PrivateStore
    store: Store
    database: Database
    ingest: Ingest
    evaluation: int
    drvs: dict[str, DrvPath] = field(default_factory=dict)
    """By name."""

    def instantiate(self, expression: str) -> None:
        for path in self.nix.instantiate(expression):
            self.drvs[Path(path).name[33:].removesuffix(".drv")] = DrvPath(path.split("!")[0])

    def realise(self, *names: str) -> None:
        self.nix.run("nix-store", "--realise", *(self.drvs[name] for name in names))

    def output(self, name: str, output: str = "out") -> StorePath:
        path = derivation.read(self.drvs[name]).outputs[output]
        assert path is not None
        return path

    def delete(self, path: str) -> None:
        self.nix.run("nix-store", "--delete", "--ignore-liveness", path)

    def spoil(self, name: str, text: str | None) -> str:
        """Take a derivation's file away, or put something else there; what was there."""
        file = Path(self.drvs[name])
        before = file.read_text()
        file.unlink()
        if text is not None:
            file.write_text(text)
        return before

    def mend(self, name: str, text: str) -> None:
        Path(self.drvs[name]).write_text(text)

    async def add(
        self,
        *names: str,
        in_graph: Collection[DrvPath] = (),
        failures: Collection[EvaluationFailure] = (),
        ingest: Ingest | None = None,
    ) -> Ingested:
        jobs = [
            EvaluatedJob(
                attr_path=(name,), name=name, system="s", drv_path=self.drvs[name], outputs={}
            )
            for name in names
        ]
        return await (ingest or self.ingest).add(
            self.evaluation, jobs, [*failures], in_graph=in_graph, now=NOW
        )

    async def revisit(self, *names: str) -> Ingested:
        return await self.ingest.revisit([self.drvs[name] for name in names], now=NOW + 1)

    def states(self) -> dict[str, str]:
        """What is stored of builds."""
        return {
            row[0]: row[1]
            for row in self.database.query(
                "SELECT d.name, b.state FROM derivation d JOIN build b ON b.derivation = d.id"
            )
        }

    def ids(self) -> dict[str, int]:
        return {row[0]: row[1] for row in self.database.query("SELECT name, id FROM derivation")}

    def names(self, ids: Collection[int]) -> set[str]:
        by_id = {number: name for name, number in self.ids().items()}
        assert len(set(ids)) == len(ids)
        return {by_id[number] for number in ids}

    def edges(self) -> dict[tuple[str, str], str]:
        return {
            (row[0], row[1]): row[2]
            for row in self.database.query(
                "SELECT a.name, b.name, i.outputs FROM input i"
                " JOIN derivation a ON a.id = i.derivation JOIN derivation b ON b.id = i.input"
            )
        }

    def jobs(self) -> dict[str, tuple[str | None, str | None]]:
        """What is stored of jobs: derivation and error."""
        return {
            row[0]: (row[1], row[2])
            for row in self.database.query(
                "SELECT j.attr, d.name, j.error FROM job j LEFT JOIN derivation d"
                " ON d.id = j.derivation"
            )
        }

    def set_state(self, name: str, state: BuildState) -> None:
        with self.database.transaction():
            self.database.execute(
                "UPDATE build SET state = ? WHERE derivation = ?", (state.value, self.ids()[name])
            )


@contextlib.asynccontextmanager
async def a_lab(nix: PrivateStore, folder: Path) -> AsyncIterator[Lab]:
    database = open_writer(folder, now=NOW)
    document = {"jobsets": {JOBSET: {"source": {"path": str(folder), "file": "default.nix"}}}}
    declared.adopt(database, config.parse(json.dumps(document).encode(), name="test"), now=NOW)
    evaluation = evaluated.begin_evaluation(
        database, JOBSET, fingerprint="f", locked="l", cause="test", now=NOW
    )
    store = Store(local_endpoint({**os.environ, **nix.environment}), folder / "roots")
    yield Lab(nix, store, database, Ingest(database, store), evaluation)
    await store.close()
    assert database.integrity() == []
    database.close()


@pytest.fixture
async def lab(store: PrivateStore, tmp_path: Path) -> AsyncIterator[Lab]:
    async with a_lab(store, tmp_path) as made:
        yield made


# --- What is stored ----------------------------------------------------------------------------


async def test_a_graph_is_stored_as_its_files_have_it(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    batch = await lab.add("top")
    assert lab.states() == dict.fromkeys(("bottom", "left", "right", "top"), "queued")
    assert lab.edges() == {
        ("top", "left"): "out",
        ("top", "right"): "out",
        ("left", "bottom"): "out",
        ("right", "bottom"): "out",
    }
    assert batch.jobs == {lab.drvs["top"]: lab.ids()["top"]}
    assert lab.names(batch.live) == lab.drvs.keys()
    assert batch.lost == ()
    assert lab.jobs() == {"top": ("top", None)}
    for row in lab.database.query(
        "SELECT d.path, d.name, d.system, o.name AS output, o.path AS made, b.queued_at,"
        " b.finished_at FROM derivation d JOIN output o ON o.derivation = d.id"
        " JOIN build b ON b.derivation = d.id"
    ):
        read = derivation.read(row["path"])
        assert (row["name"], row["system"]) == (read.name, read.system)
        assert {row["output"]: row["made"]} == read.outputs
        assert (row["queued_at"], row["finished_at"]) == (NOW, None)


async def test_ids_rise_with_the_order_of_building(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("top")
    ids = lab.ids()
    assert ids["bottom"] < min(ids["left"], ids["right"])
    assert ids["top"] > max(ids["left"], ids["right"])


async def test_more_rows_than_a_statement_takes(lab: Lab) -> None:
    lab.instantiate(BROAD)
    tops, leaves = [f"top{n}" for n in range(DEEP)], [f"leaf{n}" for n in range(WIDE)]
    batch = await lab.add(*tops)
    assert lab.edges() == {(top, leaf): "out" for top in tops for leaf in leaves}
    assert lab.states() == dict.fromkeys((*tops, *leaves), "queued")
    assert lab.names(batch.live) == {*tops, *leaves}
    assert lab.jobs() == {top: (top, None) for top in tops}


async def test_what_is_shared_is_stored_once(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    first = await lab.add("left")
    ids = lab.ids()
    second = await lab.add("left", "right", "top")
    assert lab.ids() == {**lab.ids(), **ids}
    assert len(lab.ids()) == len(lab.edges()) == 4
    assert lab.names(first.live) == {"left", "bottom"}
    assert lab.names(second.live) == lab.drvs.keys()


async def test_batches_of_two_evaluations_take_turns(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    await asyncio.gather(lab.add("left"), lab.add("right"), lab.add("top"))
    assert sorted(lab.ids().values()) == [1, 2, 3, 4]
    assert len(lab.edges()) == 4
    assert lab.jobs().keys() == {"left", "right", "top"}


async def test_a_new_process_goes_on_with_the_ids(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("left")
    await lab.add("top", ingest=Ingest(lab.database, lab.store))
    assert sorted(lab.ids().values()) == [1, 2, 3, 4]


async def test_failures_are_stored_beside_jobs(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    failure = EvaluationFailure(attr_path=("bro", "ken"), message="no such attribute")
    await lab.add("bottom", failures=[failure])
    assert lab.jobs() == {"bottom": ("bottom", None), "bro.ken": (None, "no such attribute")}


async def test_a_batch_without_jobs(lab: Lab) -> None:
    assert await lab.add() == Ingested(jobs={}, live=(), lost=())


# --- What is read ------------------------------------------------------------------------------


async def test_what_is_below_an_existing_output_is_not_read(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    lab.realise("left", "right")
    lab.spoil("bottom", None)
    batch = await lab.add("top")
    assert lab.states() == {"left": "substituted", "right": "substituted", "top": "queued"}
    assert lab.edges().keys() == {("top", "left"), ("top", "right")}
    assert lab.names(batch.live) == {"top"}


async def test_an_existing_job_ends_the_walk(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    lab.realise("top")
    for name in ("bottom", "left", "right"):
        lab.spoil(name, None)
    batch = await lab.add("top")
    assert lab.states() == {"top": "substituted"}
    assert batch.live == ()


async def test_what_the_live_graph_has_is_not_read(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("left")
    for name in ("bottom", "left"):
        lab.spoil(name, "garbage")
    batch = await lab.add("top", in_graph={lab.drvs["left"], lab.drvs["bottom"]})
    assert lab.names(batch.live) == lab.drvs.keys()
    assert len(lab.edges()) == 4
    assert set(lab.states().values()) == {"queued"}


async def test_a_job_that_the_live_graph_has(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("left")
    lab.spoil("left", None)
    batch = await lab.add("left", in_graph={lab.drvs["left"]})
    assert batch.jobs == {lab.drvs["left"]: lab.ids()["left"]}
    assert lab.names(batch.live) == {"left"}


class Forgetful(Store):
    """A store during whose answer about a path the live graph and the database are emptied."""

    def forget(self, about: StorePath, graph: set[DrvPath], database: Database) -> None:
        self.about, self.graph, self.database = about, graph, database

    async def available(self, paths: Collection[StorePath]) -> frozenset[StorePath]:
        if self.about in paths:
            self.graph.clear()
            with self.database.transaction():
                self.database.execute("DELETE FROM job")
                self.database.execute("DELETE FROM derivation")
        return await super().available(paths)


async def test_what_leaves_the_live_graph_meanwhile_is_read_after_all(
    lab: Lab, tmp_path: Path
) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("left")
    graph = {lab.drvs["left"], lab.drvs["bottom"]}
    forgetful = Forgetful(lab.store.endpoint, tmp_path / "roots")
    forgetful.forget(lab.output("right"), graph, lab.database)
    batch = await lab.add("top", in_graph=graph, ingest=Ingest(lab.database, forgetful))
    await forgetful.close()
    assert graph == set()
    assert lab.names(batch.live) == lab.drvs.keys() == lab.ids().keys()
    assert len(lab.edges()) == 4


LONG = 200
CHAIN = f"""
let {NODE}
  links = builtins.genList (n: node "link${{toString n}}" (if n == 0 then [ ] else [
    (builtins.elemAt links (n - 1))
  ]) {{ }}) {LONG};
in [ (builtins.elemAt links {LONG - 1}) ] ++ links
"""


class Counting(Store):
    """A store that notes what it is asked."""

    def __init__(self, endpoint: Endpoint, roots: Path) -> None:
        super().__init__(endpoint, roots)
        self.questions: list[frozenset[StorePath]] = []

    async def available(self, paths: Collection[StorePath]) -> frozenset[StorePath]:
        self.questions.append(frozenset(paths))
        return await super().available(paths)


async def test_a_narrow_graph_does_not_cost_a_question_for_each_level(
    lab: Lab, tmp_path: Path
) -> None:
    lab.instantiate(CHAIN)
    counting = Counting(lab.store.endpoint, tmp_path / "roots")
    batch = await lab.add(f"link{LONG - 1}", ingest=Ingest(lab.database, counting))
    await counting.close()
    assert len(batch.live) == len(lab.edges()) + 1 == LONG
    assert len(counting.questions) < LONG // 20
    asked = [path for each in counting.questions for path in each]
    assert len(asked) == len(set(asked)) == LONG


async def test_where_something_exists_little_below_it_is_asked_about(
    lab: Lab, tmp_path: Path
) -> None:
    lab.instantiate(CHAIN)
    lab.realise(f"link{LONG - 3}")
    counting = Counting(lab.store.endpoint, tmp_path / "roots")
    batch = await lab.add(f"link{LONG - 1}", ingest=Ingest(lab.database, counting))
    await counting.close()
    assert lab.names(batch.live) == {f"link{LONG - 1}", f"link{LONG - 2}"}
    assert len(frozenset().union(*counting.questions)) < LONG // 5


async def test_more_outputs_wanted_than_exist(lab: Lab) -> None:
    """Met first by one that wants what exists, and only then by one that wants more."""
    lab.instantiate(SEVERAL)
    lab.realise("several")
    lab.delete(lab.output("several", "doc"))
    batch = await lab.add("top")
    built = dict.fromkeys(("top", "between", "several"), "queued")
    assert lab.states() == {**built, "bottom": "substituted"}
    assert lab.edges() == {
        ("top", "several"): "out",
        ("top", "between"): "out",
        ("between", "several"): "dev doc",
        ("several", "bottom"): "out",
    }
    assert lab.names(batch.live) == {"top", "between", "several"}


@pytest.mark.parametrize("names", [("needs-out", "needs-dev"), ("needs-dev", "needs-out")])
async def test_outputs_wanted_by_several_must_all_exist(lab: Lab, names: tuple[str, ...]) -> None:
    lab.instantiate(SEVERAL)
    lab.realise("several")
    lab.delete(lab.output("several", "out"))
    await lab.add(*names)
    assert lab.states()["several"] == "queued"


async def test_what_exists_in_all_outputs_wanted_is_not_looked_below(lab: Lab) -> None:
    """More of it is wanted by one that the store was asked about together with it."""
    lab.instantiate(SEVERAL)
    lab.realise("several")
    lab.spoil("bottom", None)
    await lab.add("needs-between", "needs-out")
    assert lab.states() == {
        **dict.fromkeys(("needs-between", "needs-out", "between"), "queued"),
        "several": "substituted",
    }


async def test_outputs_that_nobody_wants_need_not_exist(lab: Lab) -> None:
    lab.instantiate(SEVERAL)
    lab.realise("several")
    lab.delete(lab.output("several", "out"))
    await lab.add("between")
    assert lab.states() == {"several": "substituted", "between": "queued"}
    await lab.add("several")  # as a job, whole
    assert lab.states() == {"several": "queued", "between": "queued", "bottom": "substituted"}


# --- What cannot be read -----------------------------------------------------------------------


SPOILT: dict[str, tuple[str | None, str]] = {
    "collected": (None, "cannot read the derivation {}: No such file"),
    "malformed": ("Derive(", "{} is not a derivation that we can read: "),
}


@pytest.mark.parametrize(("text", "message"), SPOILT.values(), ids=SPOILT.keys())
@pytest.mark.parametrize("name", ["bottom", "top"])
async def test_a_spoilt_file_is_named_and_nothing_stored(
    lab: Lab, text: str | None, message: str, name: str
) -> None:
    lab.instantiate(DIAMOND)
    whole = lab.spoil(name, text)
    with pytest.raises(NixError, match=message.format(lab.drvs[name])):
        await lab.add("right", "top")
    assert lab.ids() == {}
    assert lab.jobs() == {}
    lab.mend(name, whole)
    batch = await lab.add("right", "top")
    assert lab.names(batch.live) == lab.drvs.keys()


async def test_a_spoilt_file_among_many_leaves_the_store_usable(lab: Lab) -> None:
    """It is met while the store is still being asked about others."""
    lab.instantiate(BROAD)
    lab.spoil("leaf49", "garbage")
    with pytest.raises(NixError, match=lab.drvs["leaf49"]):
        await lab.add(*(f"top{n}" for n in range(DEEP)))
    await lab.add("leaf0", "leaf1")
    assert lab.states() == {"leaf1": "queued", "leaf0": "queued"}


# --- Looking again -----------------------------------------------------------------------------


async def test_lost_outputs_are_built_again_with_what_they_need(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    lab.realise("left")
    lab.delete(lab.output("bottom"))
    assert (await lab.add("left")).live == ()
    lab.delete(lab.output("left"))
    batch = await lab.revisit("left")
    assert lab.states() == {"left": "queued", "bottom": "queued"}
    assert lab.edges() == {("left", "bottom"): "out"}
    assert lab.names(batch.live) == {"left", "bottom"}
    assert lab.names(batch.lost) == {"left"}
    assert [
        tuple(row)
        for row in lab.database.query(
            "SELECT subject, before, after, cause FROM event WHERE kind = 'build' AND at > ?",
            (NOW,),
        )
    ] == [("left", "substituted", "queued", "outputs lost")]


async def test_a_revisit_stores_no_job(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("left")
    batch = await lab.revisit("left")
    assert batch.jobs == {}
    assert batch.lost == ()
    assert lab.jobs().keys() == {"left"}


async def test_what_exists_still_is_not_lost(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    lab.realise("left")
    await lab.add("left")
    batch = await lab.revisit("left")
    assert batch == Ingested(jobs={}, live=(), lost=())
    assert lab.states() == {"left": "substituted"}


@pytest.mark.parametrize("state", sorted(set(BuildState) - {BuildState.BUILDING}))
async def test_known_builds_are_brought_up_to_what_exists(lab: Lab, state: BuildState) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("left")
    lab.set_state("left", state)
    lab.realise("left")
    await lab.add("left")
    # What is too large exists and is too large all the same.
    after = state if state.good or state is BuildState.OUTPUT_LIMIT else BuildState.SUBSTITUTED
    assert lab.states()["left"] == after


@pytest.mark.parametrize("state", BuildState)
async def test_known_builds_are_brought_up_to_what_does_not_exist(
    lab: Lab, state: BuildState
) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("left")
    lab.set_state("left", state)
    batch = await lab.add("left")
    again = state.good or state is BuildState.CANCELLED
    assert lab.states()["left"] == (BuildState.QUEUED if again else state)
    assert lab.names(batch.live) == {"left", "bottom"}
    assert lab.names(batch.lost) == ({"left"} if state.good else set())


async def test_what_is_too_large_needs_nothing_below(lab: Lab) -> None:
    lab.instantiate(DIAMOND)
    await lab.add("left")
    lab.set_state("left", BuildState.OUTPUT_LIMIT)
    lab.realise("left")
    lab.spoil("bottom", None)
    batch = await lab.add("left")
    assert lab.names(batch.live) == {"left"}
    assert lab.states()["bottom"] == "queued"


async def test_an_output_that_says_it_failed_is_built_again(lab: Lab) -> None:
    lab.instantiate(f"""
        let {NODE} in [
          (node "failed" [ ] {{
            args = [ "-c" "/usr/bin/mkdir -p $out/nix-support; echo > $out/nix-support/failed" ];
          }})
        ]
    """)
    lab.realise("failed")
    await lab.add("failed")
    assert lab.states() == {"failed": "queued"}


# --- Paths that the contents decide ------------------------------------------------------------


@pytest.fixture
def content_store() -> Iterator[PrivateStore]:
    made = PrivateStore.create(settings=FEATURES)
    yield made
    made.destroy()


async def test_content_addressed_outputs_are_found_by_asking(
    content_store: PrivateStore, tmp_path: Path
) -> None:
    async with a_lab(content_store, tmp_path) as lab:
        lab.instantiate(CONTENT_ADDRESSED)
        await lab.add("floating", "deferred")
        assert lab.states() == {"deferred": "queued", "floating": "queued"}
        lab.realise("floating")
        batch = await lab.add("floating", "deferred")
        assert lab.states() == {"deferred": "queued", "floating": "substituted"}
        assert lab.names(batch.live) == {"deferred"}
        found = {
            row[0]: row[1]
            for row in lab.database.query(
                "SELECT d.name, o.path FROM output o JOIN derivation d ON d.id = o.derivation"
            )
        }
        assert found["deferred"] is None
        assert found["floating"].endswith("-floating")


async def test_a_dynamic_derivation_says_why_it_is_not_built(
    content_store: PrivateStore, tmp_path: Path
) -> None:
    async with a_lab(content_store, tmp_path) as lab:
        lab.instantiate(CONTENT_ADDRESSED)
        await lab.add("dynamic")
        reasons = {
            row[0]: row[1] for row in lab.database.query("SELECT name, unsupported FROM derivation")
        }
        assert reasons.keys() == {"dynamic", "producer.drv"}
        assert "dynamic derivation" in reasons["dynamic"]
        assert reasons["producer.drv"] is None
        assert lab.states()["dynamic"] == "queued"
