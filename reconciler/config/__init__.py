"""The configuration document as desired state.

Reads the file, checks everything, gives each value its type. The only place where the document's
loose values become the model's. Decides nothing about what follows from them, and looks at no
file but the document: a missing secret is a condition of the object that needs it.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from msgspec import Struct

from reconciler import push_rules
from reconciler.config import document, json_schema, rules, warnings
from reconciler.config.json_schema import schema
from reconciler.config.tree import DocumentError, Json, Node, plain
from reconciler.model import (
    ArtifactStore,
    Branches,
    Builder,
    BuilderName,
    Cache,
    CacheName,
    Compression,
    Desired,
    EvaluationSettings,
    FlakeSource,
    GitSource,
    Incremental,
    Jobset,
    JobsetName,
    Limits,
    PathSource,
    Protocol,
    PushScope,
    ResourceRule,
    Retry,
    Source,
    Strategy,
    Upstream,
)
from reconciler.problems import ConfigError, Problem
from reconciler.quantities import duration, size
from reconciler.resources import Amount, amount

__all__ = ["Checked", "ConfigError", "Problem", "check", "load", "parse", "schema"]


class Checked(Struct, frozen=True, kw_only=True):
    """A valid document."""

    desired: Desired
    warnings: tuple[Problem, ...]
    """What it declares in vain, in its order."""


def load(path: Path) -> Desired:
    """Read the document at `path`; relative paths in it start from its folder."""
    return parse(_read(path), name=str(path), folder=path.absolute().parent)


def check(path: Path) -> Checked:
    """The same, and what in it is of no use."""
    root, located = _valid(_read(path), name=str(path), folder=path.absolute().parent)
    desired = _desired(located)
    return Checked(desired=desired, warnings=tuple(warnings.warnings(root, located, desired)))


def parse(text: bytes, *, name: str, folder: Path = Path("/")) -> Desired:
    """Read a document, JSON or YAML; takes `Desired.document` back to the same value.

    `name` is what messages call it, `folder` where its relative paths start. Raises ConfigError
    with everything that is wrong.
    """
    _, located = _valid(text, name=name, folder=folder)
    return _desired(located)


def _valid(text: bytes, *, name: str, folder: Path) -> tuple[Node, Json]:
    """The document as it is written, and with absolute paths. ConfigError."""
    try:
        root, problems = document.read(text)
    except DocumentError as error:
        raise ConfigError([error.problem], name=name) from None
    # Loading jsonschema takes longer than all else here: the daemon does it while Nix starts up.
    from reconciler.config import refusals  # noqa: PLC0415

    located = json_schema.located(plain(root), folder=folder)
    problems += refusals.problems(root, located)
    problems += rules.problems(root, located)
    if problems:
        raise ConfigError(problems, name=name)
    return root, located


def _read(path: Path) -> bytes:
    """Read the file, of one too large only so much that this shows."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise _unreadable(path, f"it is {kind}", "name the document itself")
        with path.open("rb") as file:
            return file.read(document.MAX_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(
            path, "there is no such file", "create it, or name another with --config"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        mend = "make it readable for the user this runs as, or name another"
        raise _unreadable(path, f"it cannot be read: {reason}", mend) from None


def _unreadable(path: Path, message: str, mend: str) -> ConfigError:
    problem = Problem(path="", line=None, column=None, message=message, mend=mend)
    return ConfigError([problem], name=str(path))


def _desired(located: Json) -> Desired:
    completed: Any = json_schema.completed(located)
    canonical = json.dumps(completed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    jobsets = {
        JobsetName(name): _jobset(JobsetName(name), value, completed["caches"])
        for name, value in completed["jobsets"].items()
    }
    return Desired(
        jobsets={name: each for name, each in jobsets.items() if each.branches is None},
        patterns={name: each for name, each in jobsets.items() if each.branches is not None},
        builders={
            BuilderName(name): _builder(BuilderName(name), value)
            for name, value in completed["builders"].items()
        },
        caches={
            CacheName(name): _cache(CacheName(name), value)
            for name, value in completed["caches"].items()
        },
        artifact_stores={
            name: ArtifactStore(
                name=name, url=value["url"], credentials_file=value["credentialsFile"]
            )
            for name, value in completed["artifactStores"].items()
        },
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
        document=canonical,
    )


def _jobset(name: JobsetName, value: dict[str, Any], caches: dict[str, Any]) -> Jobset:
    limits, retry, evaluation = value["limits"], value["retry"], value["evaluation"]
    source = _source(value["source"])
    return Jobset(
        name=name,
        source=source,
        branches=_branches(value["source"]),
        attributes=_names(value["attributes"]),
        systems=_names(value["systems"]),
        interval=_seconds(value["interval"]),
        enabled=value["enabled"],
        shares=value["shares"],
        caches=push_rules.declared(value["caches"], caches),
        keep=value["keep"],
        limits=Limits(
            timeout=_seconds(limits["timeout"]),
            max_silent=_seconds(limits["maxSilent"]),
            max_log=_bytes(limits["maxLog"]),
            max_output=_bytes(limits["maxOutput"]),
        ),
        retry=Retry(attempts=retry["attempts"], backoff=duration(retry["backoff"])),
        evaluation=EvaluationSettings(
            workers=evaluation["workers"],
            max_memory=size(evaluation["maxMemory"]),
            timeout=duration(evaluation["timeout"]),
            allow_import_from_derivation=evaluation["allowImportFromDerivation"],
            pure=evaluation["pure"],
        ),
        resources=tuple(
            ResourceRule(match=rule["match"], needs=frozenset(_amounts(rule["needs"]).items()))
            for rule in value["resources"]
        ),
        incremental=_incremental(source, value["incremental"]),
    )


def _incremental(source: Source, value: dict[str, Any]) -> Incremental:
    usual = Protocol.GARNIX if isinstance(source, FlakeSource) else Protocol.ARG
    protocols = _names(value["protocols"])
    search, chain, retention = value["search"], value["chain"], value["retention"]
    return Incremental(
        enable=value["enable"],
        protocols=(usual,) if protocols is None else tuple(map(Protocol, protocols)),
        strategy=Strategy(value["strategy"]),
        parents=search["parents"],
        fallback_branch=search["fallbackBranch"],
        max_depth=chain["maxDepth"],
        full_every=_seconds(chain["fullEvery"]),
        audit_fraction=float(value["audit"]["fraction"]),
        audit_before_release=value["audit"]["beforeRelease"],
        per_slot=retention["perSlot"],
        max_size=size(retention["maxSize"]),
        retry_clean=value["retryClean"],
        untrusted=tuple(value["untrusted"]),
        share_read=value["share"]["read"],
        share_write=value["share"]["write"],
    )


def _source(value: dict[str, Any]) -> Source:
    if "flake" in value:
        return FlakeSource(url=value["flake"])
    if "git" in value:
        git = value["git"]
        ref = git["ref"] or "HEAD"
        return GitSource(url=git["url"], ref=ref, file=value["file"], args=value["args"])
    return PathSource(path=value["path"], file=value["file"], args=value["args"])


def _branches(value: dict[str, Any]) -> Branches | None:
    holder = value.get("git", value)
    patterns = holder.get("branches")
    if patterns is None:
        return None
    return Branches(patterns=tuple(patterns), limit=holder["maxBranches"])


def _builder(name: BuilderName, value: dict[str, Any]) -> Builder:
    mandatory = tuple(value["mandatoryFeatures"])
    return Builder(
        name=name,
        uri=value["uri"],
        systems=_names(value["systems"]),
        max_jobs=value["maxJobs"],
        speed_factor=float(value["speedFactor"]),
        # As in Nix's machines file, a mandatory feature is a supported one.
        supported_features=tuple(dict.fromkeys((*value["supportedFeatures"], *mandatory))),
        mandatory_features=mandatory,
        drain=value["drain"],
        ssh_key_file=value["sshKeyFile"],
        public_host_key=value["publicHostKey"],
        resources=_amounts(value["resources"]),
    )


def _cache(name: CacheName, value: dict[str, Any]) -> Cache:
    return Cache(
        name=name,
        uri=value["uri"],
        signing_key_file=value["signingKeyFile"],
        credentials_file=value["credentialsFile"],
        compression=Compression(value["compression"]),
        rule=push_rules.rule(PushScope(value["push"]), value["exclude"]),
        upstreams=tuple(
            Upstream(url=upstream["url"], public_key=upstream["publicKey"])
            for upstream in value["upstreams"]
        ),
        signing_key_files=tuple(value["signingKeyFiles"]),
        public_keys=tuple(value["publicKeys"]),
        gc=value["gc"],
        ssh_key_file=value["sshKeyFile"],
        public_host_key=value["publicHostKey"],
        grace_period=duration(value["gracePeriod"]),
        logs=value["logs"],
        bandwidth=_bytes(value["bandwidth"]),
    )


def _amounts(value: dict[str, str | float]) -> dict[str, Amount]:
    return {name: amount(written) for name, written in value.items()}


def _names(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def _seconds(text: str | None) -> float | None:
    return None if text is None else duration(text)


def _bytes(text: str | None) -> int | None:
    return None if text is None else size(text)
