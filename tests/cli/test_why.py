from __future__ import annotations

import time

from reconciler.database import declared
from reconciler.model import JobsetName, Outcome
from tests.cli.farm import DOCUMENT, SYSTEM, Farm


def test_the_chain_down_to_the_root_cause(broken: Farm) -> None:
    result = broken.run("why", "web.site")
    assert result.exit_code == 0, result.output
    text = result.output
    assert "it needs lib-1.0, which failed" in text
    assert (
        "  site-1.0  dependency-failed\n  └─ mid-1.0  dependency-failed\n    └─ lib-1.0  failed\n"
        in text
    )
    assert "builder failed with exit code 2" in text
    assert "│ line 21\n" in text
    assert "line 20\n" not in text
    assert "│ error: no such file" in text
    assert "all of lib-1.0's log: reconciler log lib-1.0\n" in text
    found = broken.json("why", "web.site", schema="why")
    assert [each["name"] for each in found["chain"]] == ["site-1.0", "mid-1.0", "lib-1.0"]
    assert found["logCommand"] == "reconciler log lib-1.0"
    assert len(found["log"]) == 10
    shown = broken.run(*found["logCommand"].split()[1:])
    assert shown.stdout.startswith("line 0\n")


def test_a_long_chain_is_shortened(farm: Farm) -> None:
    names = [f"n{number:02}-1" for number in range(20)]
    farm.derivations(
        {name: names[place - 1 : place] if place else [] for place, name in enumerate(names)}
    )
    farm.attempt(names[0], Outcome.FAILED, message="no")
    farm.evaluation("web", {"top": names[-1]})
    text = farm.run("why", "web.top").output
    assert "… 8 more" in text
    assert "n00-1  failed" in text


def test_what_does_not_evaluate(broken: Farm) -> None:
    text = broken.run("why", "web.old").output
    assert "web.old: evaluation-error\n  error: attribute 'gone' missing" in text
    assert broken.json("why", "web.old", schema="why")["state"] == "evaluation-error"


def test_what_is_there(good: Farm) -> None:
    text = good.run("why", "web.site").output
    assert "web.site (succeeded): its outputs exist: built in 4s on local" in text
    assert good.json("why", "web.site", schema="why")["state"] == "succeeded"


def test_what_waits_for_its_inputs(waiting: Farm) -> None:
    text = waiting.run("why", "web.site").output
    assert "it waits for 2 inputs: lib-1.0, other-1.0" in text
    assert "└─ lib-1.0  building" in text
    assert "2 builds are still to be done before it" in text
    assert "note: the daemon is not running" in text
    found = waiting.json("why", "web.site", schema="why")
    assert [each["name"] for each in found["waitingFor"]] == ["lib-1.0", "other-1.0"]


def test_what_is_being_built(waiting: Farm) -> None:
    text = waiting.run("why", "lib-1.0").output
    assert "(building)" in text
    assert "lib-1.0's log: reconciler log lib-1.0 -f\n" in text


def test_what_waits_for_a_builder(waiting: Farm) -> None:
    assert "it is ready and starts next" in waiting.run("why", "web.next.ready").output
    waiting.start("other-1.0")
    text = waiting.run("why", "web.next.ready").output
    assert "it is ready, and no builder takes it now" in text
    assert "local: all 2 slots are taken" in text


def test_what_no_builder_can_build(farm: Farm) -> None:
    farm.derivations({"kvm-1.0": []}, features="kvm")
    farm.evaluation("web", {"vm": "kvm-1.0"})
    text = farm.run("why", "web.vm").output
    assert "web.vm (waiting): no declared builder can build it" in text
    assert "It waits for a builder that can, and counts as failed in " in text
    assert "local: lacks the system feature kvm" in text
    assert farm.json("why", "web.vm", schema="why")["failsAt"] > time.time()
    farm.made(ago=86_400)
    text = farm.run("why", "web.vm").output
    assert "web.vm (unsupported): no declared builder can build it" in text
    found = farm.json("why", "web.vm", schema="why")
    assert found["builders"][0]["reasons"] == ["lacks the system feature kvm"]


def test_what_leads_to_nothing_is_not_built(farm: Farm) -> None:
    farm.derivations({"bad-1.0": [], "base-1.0": [], "side-1.0": ["base-1.0"], "lib-1.0": []})
    farm.derivations({"site-1.0": ["bad-1.0", "side-1.0", "lib-1.0"], "docs-1.0": ["lib-1.0"]})
    farm.evaluation("web", {"site": "site-1.0", "docs": "docs-1.0"})
    farm.attempt("bad-1.0", Outcome.FAILED, message="no")
    for name in ("base-1.0", "side-1.0"):
        found = farm.json("why", name, schema="why")
        assert found["state"] == "queued"
        assert found["message"] == "it is not built: only what cannot be built needs it"
    assert farm.json("why", "lib-1.0", schema="why")["message"] == "it is ready and starts next"
    assert farm.json("status", schema="status")["builds"]["queued"] == 2  # lib and docs


def test_what_is_tried_again_is_waited_for(farm: Farm) -> None:
    farm.derivations({"shaky-1.0": [], "side-1.0": []})
    farm.derivations({"site-1.0": ["shaky-1.0", "side-1.0"]})
    farm.evaluation("web", {"site": "site-1.0"})
    for _ in range(3):
        farm.attempt("shaky-1.0", Outcome.INFRASTRUCTURE, message="disk full", not_before=1)
    assert farm.json("why", "side-1.0", schema="why")["message"] == "it is ready and starts next"


def test_what_waits_out_a_pause(farm: Farm) -> None:
    farm.derivations({"site-1.0": []})
    farm.evaluation("web", {"site": "site-1.0"})
    later = time.time() + 120
    farm.attempt("site-1.0", Outcome.INFRASTRUCTURE, message="disk full", not_before=later)
    text = farm.run("why", "web.site").output
    assert "it is ready, and tried again after a pause" in text
    assert "site-1.0 is tried again in" in text
    assert farm.json("why", "web.site", schema="why")["retryAt"] == later


def test_what_is_ready_waits_while_its_jobset_is_suspended(waiting: Farm) -> None:
    declared.suspend(waiting.database, JobsetName("web.next"), who="ann", why="", now=time.time())
    for subject in ("web.next.ready", "ready-1.0"):
        text = " ".join(waiting.run("why", subject).output.split())
        assert "it waits: jobset web.next is suspended " in text
        assert "local: jobset web.next is suspended " in text
        assert "takes it next" not in text
        assert "suspended by ann: `reconciler resume web.next`" in text
        found = waiting.json("why", subject, schema="why")
        assert found["builders"][0]["reasons"] == ["jobset web.next is suspended"]
    # What another jobset wants too is built for that one.
    waiting.evaluation("web", {"site": "site-1.0", "ready": "ready-1.0"})
    text = waiting.run("why", "web.next.ready").output
    assert "it is ready and starts next" in text
    assert "local: takes it next" in text


def test_what_waits_below_a_suspended_jobset(farm: Farm) -> None:
    farm.derivations({"lib-1.0": [], "site-1.0": ["lib-1.0"]})
    farm.evaluation("web", {"site": "site-1.0"})
    declared.suspend(farm.database, JobsetName("web"), who="ann", why="", now=time.time())
    text = farm.run("why", "web.site").output
    assert "it waits: jobset web is suspended\n" in text
    assert "local: jobset web is suspended\n" in text
    farm.evaluation("web.next", {"lib": "lib-1.0"})
    text = farm.run("why", "web.site").output
    assert "it waits for 1 input: lib-1.0" in text
    assert "local: takes it next" in text
    assert "`reconciler resume web`" in text


def test_what_holds_a_jobset_up(waiting: Farm) -> None:
    declared.suspend(waiting.database, JobsetName("web"), who="ann", why="repairs", now=time.time())
    text = " ".join(waiting.run("why", "web.site").output.split())
    assert "jobset web was suspended by ann (repairs): `reconciler resume web`" in text
    disabled = {**DOCUMENT["jobsets"]["web.next"], "enabled": False}
    waiting.declare({**DOCUMENT, "jobsets": {"web.next": disabled}})
    assert "declared no longer" in waiting.run("why", "web.site").output
    assert "enabled: false" in waiting.run("why", "web.next.ready").output


def test_a_cancelled_dependency(waiting: Farm) -> None:
    waiting.cancel("other-1.0")
    assert "it needs other-1.0, which was cancelled" in waiting.run("why", "web.site").output


def test_a_derivation_names_its_jobs(waiting: Farm) -> None:
    assert "it is the job web.other" in waiting.run("why", "other-1.0").output


def test_a_whole_jobset_has_no_reason(good: Farm) -> None:
    assert "web is a jobset: name one of its jobs (web.site)" in str(good.failure("why", "web"))
    assert SYSTEM not in str(good.failure("why", "web"))
