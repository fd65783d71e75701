"""The vocabulary of Nix's worker protocol: versions, operations, and the structures they carry.

Types, and how each is written and read; which operation sends which, and when, is `connection`'s.
Of the versions in use (1.35 of Lix, 1.38 of Nix since 2.24) one form of every structure suffices,
but for a build result's processor times.

Source: the worker-protocol chapter of the Nix manual, and Nix's own serialisers for 1.35 to 1.38.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from sys import intern

from msgspec import Struct, field, structs

from reconciler.model import DrvPath, PathInfo, StorePath
from reconciler.nix.basic_derivation import BasicDerivation, encoded
from reconciler.nix.hashes import DIGITS, from_base32, to_base32
from reconciler.nix.logs import plain
from reconciler.nix.wire import PeerError, Reader, string, strings, word

CLIENT_MAGIC = 0x6E697863
DAEMON_MAGIC = 0x6478696F

Version = tuple[int, int]

NEWEST: Version = (1, 38)
"""What we announce; the older of the two sides' is spoken."""
OLDEST: Version = (1, 35)
OLDEST_NIX: Version = (2, 24)
"""Lix, which speaks 1.35, counts its releases from 2.90."""
FEATURES_SINCE: Version = (1, 38)
PROCESSOR_TIMES_SINCE: Version = (1, 37)

OFFERED_FEATURES: frozenset[str] = frozenset()
"""None: a daemon with features sends their absence the structures read here."""


class Operation(IntEnum):
    """The numbers of the operations we use."""

    ADD_TO_STORE = 7
    ENSURE_PATH = 10
    ADD_TEMP_ROOT = 11
    ADD_INDIRECT_ROOT = 12
    FIND_ROOTS = 14
    SET_OPTIONS = 19
    COLLECT_GARBAGE = 20
    QUERY_PATH_INFO = 26
    QUERY_VALID_PATHS = 31
    QUERY_SUBSTITUTABLE_PATHS = 32
    BUILD_DERIVATION = 36
    ADD_SIGNATURES = 37
    NAR_FROM_PATH = 38
    ADD_TO_STORE_NAR = 39
    QUERY_MISSING = 40
    QUERY_DERIVATION_OUTPUT_MAP = 41
    REGISTER_DRV_OUTPUT = 42
    ADD_MULTIPLE_TO_STORE = 44
    ADD_BUILD_LOG = 45
    BUILD_PATHS_WITH_RESULTS = 46


class Verbosity(IntEnum):
    """How much the daemon tells; a build's log comes at every level."""

    ERROR = 0
    WARN = 1
    NOTICE = 2
    INFO = 3
    TALKATIVE = 4
    CHATTY = 5
    DEBUG = 6
    VOMIT = 7


class BuildStatus(IntEnum):
    """How a build ended, in Nix's words and numbers."""

    BUILT = 0
    SUBSTITUTED = 1
    ALREADY_VALID = 2
    PERMANENT_FAILURE = 3
    INPUT_REJECTED = 4
    OUTPUT_REJECTED = 5
    TRANSIENT_FAILURE = 6
    CACHED_FAILURE = 7
    TIMED_OUT = 8
    MISC_FAILURE = 9
    DEPENDENCY_FAILED = 10
    LOG_LIMIT_EXCEEDED = 11
    NOT_DETERMINISTIC = 12
    RESOLVES_TO_ALREADY_VALID = 13
    NO_SUBSTITUTERS = 14

    @property
    def success(self) -> bool:
        """Whether the outputs exist now."""
        return self in _SUCCESSES


_SUCCESSES = frozenset(
    (
        BuildStatus.BUILT,
        BuildStatus.SUBSTITUTED,
        BuildStatus.ALREADY_VALID,
        BuildStatus.RESOLVES_TO_ALREADY_VALID,
    )
)


class BuildResult(Struct, frozen=True, kw_only=True):
    """What became of one derivation."""

    status: BuildStatus
    message: str
    """Why it failed, without terminal escapes; empty where it did not."""
    times_built: int
    non_deterministic: bool
    started_at: int
    """0 where nothing was started."""
    stopped_at: int
    cpu_user: float | None
    """Seconds; None where the daemon does not measure."""
    cpu_system: float | None
    outputs: Mapping[str, StorePath]
    """Paths of the outputs asked for, also content-addressed ones; empty of a failure."""
    realisations: Mapping[str, str] = field(default_factory=dict)
    """Of the same outputs what Nix says in full of where they are, as JSON."""


class Missing(Struct, frozen=True, kw_only=True):
    """What building or fetching some targets would take. Sizes in bytes."""

    will_build: frozenset[DrvPath]
    will_substitute: frozenset[StorePath]
    unknown: frozenset[StorePath]
    download_size: int
    nar_size: int


class GarbageAction(IntEnum):
    """What a garbage collection does."""

    RETURN_LIVE = 0
    RETURN_DEAD = 1
    DELETE_DEAD = 2
    DELETE_SPECIFIC = 3


class GarbageOptions(Struct, frozen=True, kw_only=True):
    """Which garbage to collect; `paths` only for DELETE_SPECIFIC."""

    action: GarbageAction = GarbageAction.DELETE_DEAD
    paths: frozenset[StorePath] = frozenset()
    max_freed: int | None = None
    """Stop after so many bytes."""


class Garbage(Struct, frozen=True, kw_only=True):
    """What a garbage collection found or deleted, and the bytes it freed."""

    paths: frozenset[str]
    """Not all are store paths: leftovers of the store's folder go too."""
    freed: int


class ClientOptions(Struct, frozen=True, kw_only=True):
    """Settings a connection asks of its daemon; they hold for that connection only.

    An untrusted client's `settings` are ignored, with a Message in the log, but for a few
    (`timeout`, `max-silent-time`, an empty `builders`).
    """

    max_silent: int = 0
    """Seconds a build may be silent; 0: for ever."""
    timeout: int = 0
    """Seconds a build may take; 0: for ever."""
    max_build_jobs: int = 1
    build_cores: int = 0
    """What a build gets as NIX_BUILD_CORES; 0: all there are."""
    use_substitutes: bool = True
    fallback: bool = False
    """Build what a substituter has but cannot deliver."""
    keep_failed: bool = False
    keep_going: bool = False
    verbosity: Verbosity = Verbosity.INFO
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of nix.conf by name, such as `{"build-hook": ""}`."""


def write_options(options: ClientOptions) -> bytes:
    """The body of SET_OPTIONS."""
    overrides = {**options.settings, "timeout": str(options.timeout)}
    return b"".join(
        (
            word(options.keep_failed),
            word(options.keep_going),
            word(options.fallback),
            word(options.verbosity),
            word(options.max_build_jobs),
            word(options.max_silent),
            word(1),  # use the build hook: obsolete
            word(Verbosity.VOMIT),  # ERROR would print build logs as messages rather than results
            word(0),  # log type: obsolete
            word(0),  # print the build trace: obsolete
            word(options.build_cores),
            word(options.use_substitutes),
            word(len(overrides)),
            *(string(name) + string(value) for name, value in overrides.items()),
        )
    )


def write_garbage_options(options: GarbageOptions) -> bytes:
    """The body of COLLECT_GARBAGE."""
    limit = 2**64 - 1 if options.max_freed is None else options.max_freed
    return b"".join(
        (
            word(options.action),
            strings(options.paths),
            word(0),  # ignore liveness: refused to every client
            word(limit),
            bytes(24),  # three options that Nix has dropped
        )
    )


def write_basic_derivation(derivation: BasicDerivation, inputs: Iterable[StorePath]) -> bytes:
    """What BUILD_DERIVATION is to build; `inputs` stand where the file names its sources."""
    outputs = [
        string(name) + b"".join(map(string, output)) for name, output in derivation.outputs.items()
    ]
    variables = [
        string(encoded(name)) + string(encoded(value))
        for name, value in derivation.environment.items()
    ]
    return b"".join(
        (
            word(len(outputs)),
            *outputs,
            strings(inputs),
            string(derivation.system),
            string(encoded(derivation.builder)),
            word(len(derivation.arguments)),
            *(string(encoded(argument)) for argument in derivation.arguments),
            word(len(variables)),
            *variables,
        )
    )


def write_path_info(info: PathInfo) -> bytes:
    """A path's information as ADD_TO_STORE_NAR and ADD_MULTIPLE_TO_STORE begin with; the hash
    travels in hexadecimal.
    """
    algorithm, _, digest = info.nar_hash.partition(":")
    if algorithm != "sha256":
        raise ValueError(f"{info.path}: a NAR hash of {info.nar_hash!r}, not of sha256")
    return b"".join(
        (
            string(info.path),
            string(info.deriver or ""),
            string(from_base32(digest).hex()),
            strings(info.references),
            word(int(info.registered_at)),
            word(info.nar_size),
            word(info.ultimate),
            strings(info.signatures),
            string(info.content_address or ""),
        )
    )


_STORE_PATH = re.compile(
    rf"/(?:[^/\0\n]+/)*[{DIGITS}]{{32}}-[0-9a-zA-Z+_?=-][0-9a-zA-Z+_?=.-]{{0,210}}"
)


async def read_path(reader: Reader) -> StorePath:
    """A store path, and nothing else."""
    return _store_path(await reader.text())


async def read_optional_path(reader: Reader) -> StorePath | None:
    """A store path, or None for an empty string."""
    text = await reader.text()
    return _store_path(text) if text else None


async def read_paths(reader: Reader) -> frozenset[StorePath]:
    """A set of store paths."""
    return frozenset([_store_path(text) for text in await reader.texts()])


def _store_path(text: str) -> StorePath:
    if _STORE_PATH.fullmatch(text) is None:
        raise PeerError(f"it sent {text[:200]!r} where a store path belongs")
    return StorePath(text)


async def read_path_info(reader: Reader, path: StorePath) -> PathInfo:
    """What follows the path itself in a path's information."""
    deriver = await read_optional_path(reader)
    nar_hash = _hash(await reader.text())
    # In a large closure most are named many times.
    references = tuple(sorted(StorePath(intern(path)) for path in await read_paths(reader)))
    registered_at = await reader.word()
    nar_size = await reader.word()
    ultimate = await reader.word() != 0
    signatures = tuple(sorted(await reader.texts()))
    return PathInfo(
        path=path,
        deriver=None if deriver is None else DrvPath(deriver),
        nar_hash=nar_hash,
        nar_size=nar_size,
        references=references,
        signatures=signatures,
        content_address=await reader.text() or None,
        registered_at=registered_at,
        ultimate=ultimate,
    )


def _hash(text: str) -> str:
    """A NAR hash, sent as the bare hexadecimal digits of SHA-256."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise PeerError(f"it sent {text[:80]!r} where a SHA-256 belongs")
    return "sha256:" + to_base32(digest)


async def read_output_map(reader: Reader) -> dict[str, StorePath | None]:
    """Outputs of a derivation by name; None where the path is not known yet."""
    count = await reader.word()
    return {await reader.text(): await read_optional_path(reader) for _ in range(count)}


async def read_missing(reader: Reader) -> Missing:
    """The answer to QUERY_MISSING."""
    return Missing(
        will_build=frozenset(DrvPath(path) for path in await read_paths(reader)),
        will_substitute=await read_paths(reader),
        unknown=await read_paths(reader),
        download_size=await reader.word(),
        nar_size=await reader.word(),
    )


async def read_garbage(reader: Reader) -> Garbage:
    """The answer to COLLECT_GARBAGE."""
    garbage = Garbage(paths=frozenset(await reader.texts()), freed=await reader.word())
    await reader.word()  # obsolete
    return garbage


async def read_roots(reader: Reader) -> list[tuple[str, StorePath]]:
    """The answer to FIND_ROOTS: links (or what else holds on) with what they keep alive.

    A daemon that does not trust us names each of them `{censored}`.
    """
    return [(await reader.text(), await read_path(reader)) for _ in range(await reader.word())]


async def read_build_result(reader: Reader, version: Version, store_dir: str) -> BuildResult:
    """One result of BUILD_PATHS_WITH_RESULTS, without the target that stands before it."""
    number = await reader.word()
    if number >= len(BuildStatus):
        raise PeerError(f"it sent the unknown build status {number}")
    timed = version >= PROCESSOR_TIMES_SINCE
    result = BuildResult(
        status=BuildStatus(number),
        message=plain((await reader.excerpt()).decode(errors="replace")),
        times_built=await reader.word(),
        non_deterministic=await reader.word() != 0,
        started_at=await reader.word(),
        stopped_at=await reader.word(),
        cpu_user=await _optional_seconds(reader) if timed else None,
        cpu_system=await _optional_seconds(reader) if timed else None,
        outputs={},
    )
    realisations = await _realisations(reader)
    return structs.replace(
        result,
        outputs={
            name: _store_path(f"{store_dir}/{base_name}")
            for name, (base_name, _) in realisations.items()
        },
        realisations={name: text for name, (_, text) in realisations.items()},
    )


async def _optional_seconds(reader: Reader) -> float | None:
    match await reader.word():
        case 0:
            return None
        case 1:
            return await reader.word() / 1e6
        case other:
            raise PeerError(f"it sent {other} where a value is or is not")


async def _realisations(reader: Reader) -> dict[str, tuple[str, str]]:
    """Outputs by name, from `HASH!NAME` and a JSON object: its `outPath`, which lacks the folder,
    and the whole.
    """
    outputs = {}
    for _ in range(await reader.word()):
        identity, text = await reader.text(), await reader.text()
        _, separator, name = identity.rpartition("!")
        try:
            base_name = json.loads(text)["outPath"]
        except (ValueError, TypeError, LookupError, RecursionError):
            base_name = None
        if not separator or not isinstance(base_name, str):
            raise PeerError(f"it sent the realisation {text[:200]!r} of {identity[:80]!r}")
        outputs[name] = base_name, text
    return outputs
