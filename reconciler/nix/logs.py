"""What a Nix daemon says while it works: the typed records of the protocol's log stream.

Types, and the reading of one record each; what a record means for a build's log is the
executor's to decide. Bytes of a build's log are passed on as they are; every other text is
freed of terminal escapes, which Nix puts into its messages even for a client that is no terminal.

Source: "Logger" in the Nix manual's worker-protocol chapter; the numbers are those of Nix's
activity and result types.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum

from msgspec import Struct

from reconciler.nix.wire import PeerError, Reader

RECORD_ALLOWANCE = 16 * 1024 * 1024
"""Bytes one record may take; lines of a build's log are handed on in pieces and have no bound."""

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")


def plain(text: str) -> str:
    """The text without terminal escapes and the blanks at its end."""
    return _ESCAPE.sub("", text).rstrip()


class StderrTag(IntEnum):
    """What comes next in the log stream."""

    NEXT = 0x6F6C6D67
    LAST = 0x616C7473
    ERROR = 0x63787470
    START_ACTIVITY = 0x53545254
    STOP_ACTIVITY = 0x53544F50
    RESULT = 0x52534C54

    @classmethod
    def of(cls, number: int) -> StderrTag:
        """The tag with this number."""
        try:
            return cls(number)
        except ValueError:
            raise PeerError(f"it sent {number:#x} where its log goes on") from None


class RefusedError(Exception):
    """Nix's own refusal or failure of an operation, in its words."""


class ActivityKind(IntEnum):
    """What Nix is busy with; a kind that a later Nix adds is UNKNOWN."""

    UNKNOWN = 0
    COPY_PATH = 100
    FILE_TRANSFER = 101
    REALISE = 102
    COPY_PATHS = 103
    BUILDS = 104
    BUILD = 105
    OPTIMISE_STORE = 106
    VERIFY_PATHS = 107
    SUBSTITUTE = 108
    QUERY_PATH_INFO = 109
    POST_BUILD_HOOK = 110
    BUILD_WAITING = 111
    FETCH_TREE = 112

    @classmethod
    def _missing_(cls, _value: object) -> ActivityKind:
        return cls.UNKNOWN


class _ResultKind(IntEnum):
    BUILD_LOG_LINE = 101
    SET_PHASE = 104
    PROGRESS = 105
    POST_BUILD_LOG_LINE = 107


_LOG_LINES = (_ResultKind.BUILD_LOG_LINE, _ResultKind.POST_BUILD_LOG_LINE)
_RESULT_HEAD = 4
"""Words of a result before its fields: the tag, the activity, the kind, how many fields."""

Field = int | str


class Message(Struct, frozen=True):
    """A line for the user, outside any activity: a warning, most often."""

    text: str


class ActivityStarted(Struct, frozen=True):
    """Something began. Of a BUILD, the first field is the derivation's path."""

    activity: int
    parent: int
    kind: ActivityKind
    text: str
    fields: tuple[Field, ...]


class ActivityStopped(Struct, frozen=True):
    """Something ended, well or not."""

    activity: int


class BuildLog(Struct, frozen=True):
    """A line of a builder's output, raw, without its newline.

    A very long line comes in several records; `line_ends` is true of the last one.
    """

    activity: int
    data: bytes
    line_ends: bool


class PhaseStarted(Struct, frozen=True):
    """A builder says which phase it has come to (stdenv does)."""

    activity: int
    phase: str


class Progress(Struct, frozen=True):
    """How far an activity is: bytes of a copy, builds of a closure."""

    activity: int
    done: int
    expected: int


class ActivityResult(Struct, frozen=True):
    """Any other news of an activity, as it came."""

    activity: int
    kind: int
    fields: tuple[Field, ...]


LogRecord = (
    Message
    | ActivityStarted
    | ActivityStopped
    | BuildLog
    | PhaseStarted
    | Progress
    | ActivityResult
)
LogHandler = Callable[[LogRecord], None]


def ignore(_record: LogRecord) -> None:
    """The handler of whoever does not want the log."""


async def read_record(reader: Reader, tag: StderrTag, handle: LogHandler) -> None:
    """Read what follows a tag that carries a log record, and hand it on."""
    reader.allow(RECORD_ALLOWANCE)
    match tag:
        case StderrTag.NEXT:
            handle(Message(plain(await _loose_text(reader))))
        case StderrTag.START_ACTIVITY:
            handle(await _activity_started(reader))
        case StderrTag.STOP_ACTIVITY:
            handle(ActivityStopped(await reader.word()))
        case StderrTag.RESULT:
            await _result(reader, handle)
        case StderrTag.LAST | StderrTag.ERROR:
            raise PeerError(f"{tag.name} is not a log record")


def take_numbers(reader: Reader, handle: LogHandler) -> None:
    """Hand on the results in numbers that have arrived whole, up to the first other record.

    Nix tells its progress so dozens of times a build; read word by word they would cost as much as
    all else that is done for a build.
    """
    while (head := reader.arrived(_RESULT_HEAD)) is not None and head[0] == StderrTag.RESULT:
        _, activity, kind, count = head
        ahead = reader.arrived(_RESULT_HEAD + 2 * count)
        if ahead is None or kind in _LOG_LINES or any(ahead[_RESULT_HEAD::2]):  # 0: a number
            return
        reader.allow(RECORD_ALLOWANCE)
        reader.skip(len(ahead))
        handle(_told(activity, kind, ahead[_RESULT_HEAD + 1 :: 2]))


async def read_error(reader: Reader) -> str:
    """Read what follows ERROR: Nix's message, with its context lines."""
    reader.allow(RECORD_ALLOWANCE)
    if (kind := await reader.string()) != b"Error":
        raise PeerError(f"it sent an error of the unknown kind {kind[:80]!r}")
    await reader.word()  # level
    await reader.string()  # name, no longer used
    message = plain(await _loose_text(reader))
    await _no_position(reader)
    traces = [await _trace(reader) for _ in range(await reader.word())]
    return "\n".join((message, *traces))


async def _trace(reader: Reader) -> str:
    await _no_position(reader)
    return "… " + plain(await _loose_text(reader))


async def _no_position(reader: Reader) -> None:
    if await reader.word():
        raise PeerError("it sent an error with a position, which has no known form")


async def _loose_text(reader: Reader) -> str:
    """Messages quote what builders print: not UTF-8, at times."""
    return (await reader.excerpt()).decode(errors="replace")


async def _activity_started(reader: Reader) -> ActivityStarted:
    activity = await reader.word()
    await reader.word()  # level: what we do not want to see, we do not ask for
    kind = ActivityKind(await reader.word())
    text = plain(await _loose_text(reader))
    fields = await _fields(reader)
    parent = await reader.word()
    return ActivityStarted(activity, parent, kind, text, fields)


async def _fields(reader: Reader) -> tuple[Field, ...]:
    return tuple([await _field(reader) for _ in range(await reader.word())])


async def _field(reader: Reader) -> Field:
    match await reader.word():
        case 0:
            return await reader.word()
        case 1:
            return await _loose_text(reader)
        case other:
            raise PeerError(f"it sent a log field of the unknown type {other}")


async def _result(reader: Reader, handle: LogHandler) -> None:
    activity = await reader.word()
    kind = await reader.word()
    if kind in _LOG_LINES:
        await _build_log(reader, activity, handle)
        return
    handle(_told(activity, kind, await _fields(reader)))


def _told(activity: int, kind: int, fields: tuple[Field, ...]) -> LogRecord:
    match fields:
        case (str(phase),) if kind == _ResultKind.SET_PHASE:
            return PhaseStarted(activity, phase)
        case (int(done), int(expected), *_) if kind == _ResultKind.PROGRESS:
            return Progress(activity, done, expected)
        case _:
            return ActivityResult(activity, kind, fields)


async def _build_log(reader: Reader, activity: int, handle: LogHandler) -> None:
    if (await reader.word(), await reader.word()) != (1, 1):
        raise PeerError("it sent a line of a build's log that is not one string")
    held = b""
    async for piece in reader.pieces():
        if held:
            handle(BuildLog(activity, held, line_ends=False))
        held = piece
    handle(BuildLog(activity, held, line_ends=True))
