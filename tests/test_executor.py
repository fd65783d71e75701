"""The executor's queue of rows between an evaluation and the database."""

from __future__ import annotations

from functools import partial

import pytest

from reconciler import evaluating
from tests.support.trial import Trial
from tests.system.conftest import trial

__all__ = ["trial"]


@pytest.mark.parametrize("batch", [1, 3])
def test_more_rows_than_the_queue_holds_are_all_stored(
    trial: Trial,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    """An evaluation that ends while the queue is full has to be noticed."""
    monkeypatch.setattr(evaluating, "MAX_BATCH", batch)
    jobs = " ".join(f'j{n} = job "j{n}" "echo > $out";' for n in range(20))
    trial.declare({"it": f'{{ {jobs} bad = throw "no"; }}'})
    assert trial.once()
    assert trial.value("SELECT count(*) FROM job") == 21
    assert set(trial.builds().values()) == {"succeeded"}


def test_a_slot_that_is_stopped_is_free_for_the_next(trial: Trial) -> None:
    jobs = " ".join(f'j{n} = job "j{n}" "echo on; exec sleep 5757";' for n in range(3))
    trial.declare({"it": f"{{ {jobs} }}"}, builders={"local": {"maxJobs": 1}})
    with trial.running() as daemon:
        for _ in range(3):
            daemon.eventually(lambda: "building" in trial.builds().values())
            running = next(name for name, state in trial.builds().items() if state == "building")
            daemon.ask("cancel", f"it.{running}")
            daemon.eventually(partial(is_cancelled, trial, running))
    assert set(trial.builds().values()) == {"cancelled"}


def is_cancelled(trial: Trial, name: str) -> bool:
    return trial.builds()[name] == "cancelled"
