"""What a jobset was given before a restart is not forgotten."""

from __future__ import annotations

from tests.support.trial import Trial


def test_a_restart_gives_nobody_his_share_again(trial: Trial) -> None:
    """`long` has used much more of its few shares than `short` of its many."""
    shares = {"long": 10, "short": 1000}

    def declare(jobs: dict[str, str], **builder: object) -> None:
        jobsets = {
            name: {"source": trial.source(name, f"{{ {jobs[name]} }}"), "shares": shares[name]}
            for name in shares
        }
        trial.declare(jobsets, builders={"local": {"maxJobs": 1, **builder}})

    declare({name: f'it = job "{name}" "sleep 1; echo > $out";' for name in shares})
    assert trial.once()
    several = {
        name: " ".join(f'j{n} = job "{name}{n}" "echo {n} > $out";' for n in range(3))
        for name in shares
    }
    # All are known before the first of them begins.
    declare(several, drain=True)
    assert trial.once()
    declare(several)
    assert trial.once()
    order = trial.query(
        "SELECT d.name FROM attempt a JOIN derivation d ON d.id = a.derivation ORDER BY a.id"
    )
    assert [name[:-1] for (name,) in order[2:]] == ["short"] * 3 + ["long"] * 3
