"""Jobsets for tests that need one and care for little of it."""

from __future__ import annotations

from reconciler.model import (
    EvaluationSettings,
    Jobset,
    JobsetName,
    Limits,
    PathSource,
    Retry,
    Source,
)

SETTINGS = EvaluationSettings(
    workers=2,
    max_memory=2 * 1024**3,
    timeout=120,
    allow_import_from_derivation=False,
    pure=True,
)


def jobset(
    source: Source | None = None,
    *,
    attributes: tuple[str, ...] | None = None,
    systems: tuple[str, ...] | None = None,
    evaluation: EvaluationSettings = SETTINGS,
) -> Jobset:
    return Jobset(
        name=JobsetName("tested"),
        source=source or PathSource(path="/nowhere", file="release.nix"),
        attributes=attributes,
        systems=systems,
        interval=None,
        enabled=True,
        shares=100,
        caches={},
        keep=1,
        limits=Limits(),
        retry=Retry(attempts=1, backoff=1),
        evaluation=evaluation,
    )
