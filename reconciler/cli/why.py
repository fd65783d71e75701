"""`reconciler why`: why a job is not there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import click
from msgspec.structs import replace

from reconciler.cli import base_told
from reconciler.cli.log_text import tail
from reconciler.cli.output import Json, plain, print_json
from reconciler.cli.settings import settings, verb
from reconciler.cli.state import daemon, document_in_force, local_systems, not_a_job, reading
from reconciler.cli.status import complete_subject
from reconciler.cli.status_text import state
from reconciler.cli.text import BUSY, DIM, columns, harmless, lasting, one_line, wrapped
from reconciler.database import lookup, slots
from reconciler.database.bases import BuildFacts
from reconciler.database.blocked import blocked, slots_of
from reconciler.database.cached import why_not_there
from reconciler.database.file import Database
from reconciler.database.held import hold_on, holds
from reconciler.database.in_force import InForce
from reconciler.database.lookup import DerivationSubject, JobsetSubject, JobSubject
from reconciler.database.needs import by_rule
from reconciler.explain import Explanation, Step, explain
from reconciler.model import BuilderName
from reconciler.status import JobState, gist

LINES = 10
"""Of the root cause's log."""
STEPS_SHOWN = 12


@verb(
    "why",
    examples="""
    reconciler why website.tests
    reconciler why website.tests --json
    reconciler why lib-base-1.0          # any derivation, by name or path
    """,
)
@click.argument("job", shell_complete=complete_subject)
def why(job: str, *, as_json: bool) -> None:
    """Say why JOB is not there.

    Shows the chain down to the root cause with the end of its log, or what JOB waits for.
    """
    where = settings()
    with reading(where) as database:
        subject = lookup.resolve(database, job)
        match subject:
            case JobsetSubject():
                raise not_a_job(database, subject.jobset)
            case JobSubject() | DerivationSubject():
                answer = _answer(database, subject)
        notes = _notes(
            database, subject, running=daemon(where) is not None, waits=answer.state.live
        )
        unpushed = [] if answer.facts is None else why_not_there(database, answer.facts.id)
        base = _base(database, answer)
        if as_json:
            told = None if base is None else base_told.build_json(base)
            said: list[Json] = [*notes, *unpushed]
            print_json({**_json(database, answer), "incremental": told, "notes": said})
        else:
            for line in _lines(database, answer, notes):
                click.echo(line)
            for note in unpushed:
                click.echo(_note(one_line(note)))
            if base is not None:
                sentence = one_line(base_told.sentence(database, base))
                click.echo(wrapped(sentence, width=columns(), indent="  ", first=""))


class _Answer:
    """What is known of the subject; the explanation is None where there is nothing to explain."""

    def __init__(
        self,
        database: Database,
        subject: JobSubject | DerivationSubject,
        explanation: Explanation | None,
    ) -> None:
        self.subject = subject
        self.explanation = explanation
        self.facts = (
            None if subject.derivation is None else lookup.build_facts(database, subject.derivation)
        )
        root = subject.derivation if explanation is None else explanation.last.id
        self.attempts = () if root is None else lookup.attempts(database, root)
        self.log_command = (
            None
            if root is None or not self.attempts
            else f"reconciler log {lookup.log_name(database, root)}"
            + (" -f" if self.attempts[-1].outcome is None else "")
        )
        logs = settings().logs
        self.log = tail(logs, self.attempts[-1].id, LINES) if self.attempts else []

    @property
    def state(self) -> JobState:
        """The job's."""
        if self.facts is None:
            return JobState.EVALUATION_ERROR
        return JobState.SUCCEEDED if self.explanation is None else self.explanation.state

    @property
    def message(self) -> str:
        """One sentence."""
        if self.facts is None:
            assert isinstance(self.subject, JobSubject)
            return self.subject.error or ""
        if self.explanation is not None:
            return self.explanation.message
        if not self.attempts:
            return "its outputs exist: they were there already, or were fetched"
        last = self.attempts[-1]
        took = lasting((last.finished_at or last.started_at) - last.started_at)
        return f"its outputs exist: built in {took} on {last.builder}"


def _base(database: Database, answer: _Answer) -> BuildFacts | None:
    """What the subject's build started from, if it takes part in incremental builds."""
    if answer.facts is None:
        return None
    return slots.build(database, answer.facts.id, answer.subject.name)


def _answer(database: Database, subject: JobSubject | DerivationSubject) -> _Answer:
    if subject.derivation is None:
        return _Answer(database, subject, None)
    facts = lookup.build_facts(database, subject.derivation)
    if facts.state.good:
        return _Answer(database, subject, None)
    current = document_in_force(database)
    builds = lookup.missing_below(database, facts.id)
    here = local_systems({each.system for each in builds})
    asked = by_rule(database, current.rules)
    now = time.time()
    in_way = blocked(database, current, local_systems=local_systems, now=now)
    slots = slots_of(database, current.builders, here, asked)

    def kept_free(derivation: int) -> Mapping[BuilderName, str]:
        from reconciler.database import kept_free  # noqa: PLC0415 - it takes all of the daemon's

        return kept_free.kept_free(database, slots, asked, derivation, now=now)

    explanation = explain(
        facts.id,
        builds,
        slots,
        attempts=current.fewest_attempts,
        now=now,
        needless=facts.id in in_way.needless,
        fails_at=in_way.fails_at,
        asked=asked,
        kept_free=kept_free,
    )
    explanation = _held(database, current, facts.id, explanation)
    return _Answer(database, subject, explanation)


def _held(
    database: Database, document: InForce, derivation: int, found: Explanation
) -> Explanation:
    """Nothing is started for whoever is suspended, however ready it is."""
    of_last = holds(database, document, found.last.id)
    if not of_last or found.state is not JobState.QUEUED:
        return found
    said = " and ".join(dict.fromkeys(each.said for each in of_last))
    builders = tuple(
        each if each.reasons else replace(each, reasons=(said,)) for each in found.builders
    )
    own = of_last if found.last.id == derivation else holds(database, document, derivation)
    why = " and ".join(dict.fromkeys(each.said for each in own))
    return replace(found, builders=builders, message=f"it waits: {why}" if why else found.message)


def _notes(
    database: Database, subject: JobSubject | DerivationSubject, *, running: bool, waits: bool
) -> tuple[str, ...]:
    """What holds everything up."""
    document = document_in_force(database)
    match subject:
        case JobSubject():
            held = [hold_on(database, document, subject.jobset)]
        case DerivationSubject():
            held = [*holds(database, document, subject.derivation)] if waits else []
    found = [note for each in held if each is not None for note in each.notes]
    if not running and waits:
        found.append("the daemon is not running: nothing goes on until it is")
    return tuple(dict.fromkeys(found))


# --- Text --------------------------------------------------------------------------------------


def _lines(database: Database, answer: _Answer, notes: Sequence[str]) -> Iterator[str]:
    width = columns()
    name = click.style(answer.subject.name, bold=True)
    if answer.facts is None:
        yield f"{name}: {state(answer.state)}"
        yield from (f"  {line}" for line in harmless(answer.message).splitlines())
        return
    yield wrapped(
        f"{name} ({state(answer.state)}): {answer.message}", width=width, indent="  ", first=""
    )
    explanation = answer.explanation
    if explanation is not None:
        yield from _chain(explanation)
        yield from _waiting(explanation)
    last = answer.attempts[-1] if answer.attempts else None
    if explanation is not None and last is not None and last.outcome is not None:
        yield ""
        said = one_line(gist(last.message or str(last.outcome)))
        took = lasting((last.finished_at or last.started_at) - last.started_at)
        yield wrapped(
            f"{explanation.last.name} was built on {last.builder} for {took}: {said}",
            width=width,
            indent="  ",
            first="",
        )
    if explanation is not None and answer.log:
        yield from (f"  {click.style('│', fg=DIM)} {line}" for line in answer.log)
    if answer.log_command is not None:
        yield f"{_which_log(answer)}: {click.style(answer.log_command, bold=True)}"
    for note in notes if explanation is not None else ():
        yield _note(note)
    if explanation is not None and isinstance(answer.subject, DerivationSubject):
        jobs = lookup.job_names(database, answer.subject.derivation)
        if jobs:
            yield f"it is the job {', '.join(jobs[:5])}"


def _note(text: str) -> str:
    return wrapped(click.style(f"note: {text}", fg=BUSY), width=columns(), indent="  ", first="")


def _which_log(answer: _Answer) -> str:
    name = "its" if answer.explanation is None else f"{answer.explanation.last.name}'s"
    return f"{name} log" if answer.attempts[-1].outcome is None else f"all of {name} log"


def _chain(explanation: Explanation) -> Iterator[str]:
    steps = list(explanation.chain)
    if len(steps) < 2:
        return
    yield ""
    hidden = len(steps) - STEPS_SHOWN
    shown: list[Step | None] = [*steps]
    if hidden > 0:
        shown = [*steps[: STEPS_SHOWN // 2], None, *steps[-STEPS_SHOWN // 2 :]]
    for depth, step in enumerate(shown):
        lead = "" if depth == 0 else "  " * (depth - 1) + "└─ "
        yield (
            f"  {lead}… {hidden} more"
            if step is None
            else f"  {lead}{step.name}  {state(step.state)}"
        )


def _waiting(explanation: Explanation) -> Iterator[str]:
    if explanation.remaining:
        noun = "build is" if explanation.remaining == 1 else "builds are"
        yield f"{explanation.remaining} {noun} still to be done before it."
    if explanation.retry_at is not None:
        wait = lasting(explanation.retry_at - time.time())
        yield f"{explanation.last.name} is tried again in {wait}."
    if explanation.fails_at is not None:
        wait = lasting(explanation.fails_at - time.time())
        yield f"It waits for a builder that can, and counts as failed in {wait}."
    if explanation.builders:
        yield f"Builders, for {explanation.last.name}:"
    for each in explanation.builders:
        yield f"  {each.builder}: {'; '.join(map(harmless, each.reasons)) or 'takes it next'}"


# --- JSON --------------------------------------------------------------------------------------


def _json(database: Database, answer: _Answer) -> dict[str, Json]:
    explanation = answer.explanation
    return {
        "name": answer.subject.name,
        "derivation": None if answer.facts is None else answer.facts.path,
        "jobs": [] if answer.facts is None else [*lookup.job_names(database, answer.facts.id)],
        "state": answer.state.value,
        "message": answer.message,
        "chain": [] if explanation is None else plain(explanation.chain),
        "waitingFor": [] if explanation is None else plain(explanation.waiting_for),
        "remaining": 0 if explanation is None else explanation.remaining,
        "builders": [] if explanation is None else plain(explanation.builders),
        "retryAt": None if explanation is None else explanation.retry_at,
        "failsAt": None if explanation is None else explanation.fails_at,
        "lastAttempt": plain(answer.attempts[-1]) if answer.attempts else None,
        "log": [*answer.log],
        "logCommand": answer.log_command,
    }
