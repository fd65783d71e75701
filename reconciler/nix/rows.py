"""The rows an evaluator prints, parsed: one JSON object for each attribute.

The shape is nix-eval-jobs' own, the built-in evaluator answers in it too: unknown keys are
ignored, so that a newer version may add some. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from reconciler.model import DrvPath, EvaluatedJob, EvaluationFailure, StorePath

MAX_MESSAGE = 8192
"""Characters kept of an error's text."""


class Aggregate(Struct, frozen=True, kw_only=True):
    """An aggregate job whose constituents are not yet resolved to names."""

    job: EvaluatedJob
    by_name: tuple[str, ...]
    by_derivation: tuple[DrvPath, ...]
    globs: bool
    """Whether the names are patterns."""


Row = EvaluatedJob | Aggregate | EvaluationFailure


class RowError(ValueError):
    """A row that is not what an evaluator prints."""


def parse_row(row: object) -> Row:
    """Read one row; RowError when it is none."""
    if not isinstance(row, dict):
        raise RowError("it is not a JSON object")
    attr_path = _attr_path(row)
    if "error" in row:
        return EvaluationFailure(attr_path=attr_path, message=error_message(str(row["error"])))
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise RowError("its `meta` is not an object")
    job = EvaluatedJob(
        attr_path=attr_path,
        name=_text(row, "name"),
        system=_text(row, "system"),
        drv_path=DrvPath(_text(row, "drvPath")),
        outputs=_outputs(row.get("outputs")),
        description=_text(meta, "description") if "description" in meta else None,
        timeout=_seconds(meta, "timeout"),
        max_silent=_seconds(meta, "maxSilent"),
        priority=int(meta.get("schedulingPriority", 0)),
    )
    return _aggregate(job, meta) if "aggregate" in meta else job


def error_message(text: str) -> str:
    """The error itself out of what Nix prints: without colours and the trace that leads to it."""
    lines = _CONTROL.sub("", text).strip().splitlines()
    start = max((at for at, line in enumerate(lines) if _ERROR.match(line)), default=0)
    kept = [_ERROR.sub("", lines[start])] if lines else ["the evaluator gave no reason"]
    indent = len(lines[start]) - len(lines[start].lstrip()) if lines else 0
    kept += [line[indent:] if line[:indent].isspace() else line for line in lines[start + 1 :]]
    return "\n".join(line.rstrip() for line in kept).strip()[:MAX_MESSAGE]


_ERROR = re.compile(r"^\s*error: (?=\S)")
# Escape sequences, and what else a terminal would act on.
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")


def _attr_path(row: Mapping[str, Any]) -> tuple[str, ...]:
    path = row.get("attrPath")
    if isinstance(path, list) and all(isinstance(name, str) for name in path):
        return tuple(path)
    if path is None:
        attr = row.get("attr")
        if isinstance(attr, str):
            return (attr,) if attr else ()
        if "error" in row:
            return ()
    raise RowError("it has no `attrPath`")


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"it has no `{key}`")
    return value


def _outputs(value: object) -> dict[str, StorePath | None]:
    if not isinstance(value, dict):
        raise RowError("it has no `outputs`")
    outputs: dict[str, StorePath | None] = {}
    for name, path in value.items():
        if path is not None and not isinstance(path, str):
            raise RowError(f"its output `{name}` is not a path")
        outputs[name] = StorePath(path) if path else None
    return outputs


def _seconds(meta: Mapping[str, Any], key: str) -> float | None:
    value = meta.get(key)
    return None if value is None else float(value)


def _aggregate(job: EvaluatedJob, meta: Mapping[str, Any]) -> Aggregate:
    kinds = [str(entry).split(" ", 1) for entry in meta["aggregate"]]
    return Aggregate(
        job=job,
        by_name=tuple(value for kind, value in kinds if kind == "job"),
        by_derivation=tuple(DrvPath(value) for kind, value in kinds if kind == "drv"),
        globs=bool(meta.get("aggregateGlobs", False)),
    )
