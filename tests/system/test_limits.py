"""Each limit stops the build, says so, and leaves nothing of it running."""

from __future__ import annotations

import pytest

from tests.support.trial import Trial, processes_with


@pytest.mark.parametrize(
    ("script", "limits", "state", "said"),
    [
        ("echo started; exec sleep 3600", {"timeout": "1s"}, "timed-out", "timeout (1s)"),
        ("echo started; exec sleep 3600", {"maxSilent": "1s"}, "timed-out", "maxSilent (1s)"),
        (
            "while :; do echo 0123456789012345678901234567890123456789; done",
            {"maxLog": "100KiB", "timeout": "60s"},
            "log-limit",
            "maxLog allows (100KiB)",
        ),
        (
            "head -c 3000000 /dev/zero > $out",
            {"maxOutput": "1MiB"},
            "output-limit",
            "maxOutput allows (1MiB)",
        ),
    ],
)
def test_a_limit_ends_the_build(
    trial: Trial, script: str, limits: dict[str, str], state: str, said: str
) -> None:
    trial.declare(
        {
            "limited": {
                "source": trial.source(
                    "limited",
                    f"""
                    rec {{
                      it = job "it" "{script}";
                      above = job "above" "cat ${{it}} > $out";
                    }}
                    """,
                ),
                "limits": limits,
            }
        }
    )
    assert trial.once()
    assert trial.builds() == {"it": state, "above": "queued"}
    assert trial.attempts("it") == [state]
    assert said in trial.message("it")
    # The environment of a builder, too, names its store.
    assert processes_with(str(trial.store.root)) == []
    # The verdict stands: it is not tried again.
    assert trial.once()
    assert trial.attempts("it") == [state]


def test_the_outputs_of_a_build_that_was_too_large_count_for_nothing(trial: Trial) -> None:
    big = 'big = job "big" "head -c 2000000 /dev/zero > $out";'
    limits = {"maxOutput": "1MiB"}
    trial.declare({"large": {"source": trial.source("large", f"{{ {big} }}"), "limits": limits}})
    assert trial.once()
    more = f'{{ {big} more = job "more" "touch $out"; }}'
    trial.declare({"large": {"source": trial.source("large", more), "limits": limits}})
    assert trial.once()
    assert trial.builds() == {"big": "output-limit", "more": "succeeded"}


def test_a_jobs_own_timeout_goes_before_its_jobsets(trial: Trial) -> None:
    trial.declare(
        {
            "own": {
                "source": trial.source(
                    "own",
                    """
                    {
                      it = job "it" "echo; exec sleep 4243" // { meta.timeout = 1; };
                    }
                    """,
                ),
                "limits": {"timeout": "1h"},
            }
        }
    )
    assert trial.once()
    assert trial.builds() == {"it": "timed-out"}
    assert processes_with("4243") == []


def test_the_largest_limit_of_those_that_want_a_build_counts(trial: Trial) -> None:
    it = '{ it = job "it" "sleep 1.5; echo done > $out"; }'
    jobsets = {
        "hasty": {"source": trial.source("hasty", it), "limits": {"timeout": "1s"}},
        "patient": {"source": trial.source("patient", it), "limits": {"timeout": "1h"}},
    }
    trial.declare(jobsets, builders={})
    assert trial.once()
    trial.declare(jobsets)
    assert trial.once()
    assert trial.builds() == {"it": "succeeded"}
