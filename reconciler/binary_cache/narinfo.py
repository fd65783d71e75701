"""The text of narinfo files: writing, reading, and the fingerprint that signatures are made over.

Pure. The format is the one of Nix's binary caches ("Binary Cache" and "Signing" in its manual).
"""

from __future__ import annotations

import re

from msgspec import Struct

from reconciler.errors import CacheError
from reconciler.model import StorePath

_HASH = re.compile(r"sha256:(?:[0-9abcdfghijklmnpqrsvwxyz]{52}|[0-9a-f]{64})")
_DIGITS = re.compile(r"[0-9abcdfghijklmnpqrsvwxyz]{32}")
_PATH_NAME = re.compile(r"[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9A-Za-z+\-._?=]+")
_URL = re.compile(r"[0-9A-Za-z+\-_?=][0-9A-Za-z+\-._?=]*(?:/[0-9A-Za-z+\-_?=][0-9A-Za-z+\-._?=]*)*")
_HASH_LENGTH = 32


class NarInfo(Struct, frozen=True, kw_only=True):
    """One path as its cache describes it. Sizes in bytes, hashes as `sha256:` and digits."""

    path: StorePath
    url: str
    """Of the NAR, relative to the cache."""
    compression: str
    file_hash: str
    file_size: int
    nar_hash: str
    nar_size: int
    references: tuple[StorePath, ...]
    deriver: str | None = None
    """The derivation's name in the store, without the store's folder."""
    signatures: tuple[str, ...] = ()
    content_address: str | None = None


def hash_part(path: str) -> str:
    """The 32 digits that identify a store path."""
    return path.rpartition("/")[2][:_HASH_LENGTH]


def narinfo_name(path: str) -> str:
    """The name of a path's narinfo in any cache."""
    return f"{hash_part(path)}.narinfo"


def hash_of(name: str) -> str | None:
    """The hash part of the path whose narinfo has this name; None: it is no narinfo's."""
    digits, dot, kind = name.partition(".")
    return digits if dot and kind == "narinfo" and _DIGITS.fullmatch(digits) else None


def fingerprint(
    path: StorePath, *, nar_hash: str, nar_size: int, references: tuple[StorePath, ...]
) -> str:
    """What a signature vouches for: the path, its content and its references in full."""
    return f"1;{path};{nar_hash};{nar_size};{','.join(sorted(references))}"


def render(info: NarInfo) -> str:
    """The file's text, its fields in the order in which Nix writes them."""
    lines = [
        f"StorePath: {info.path}",
        f"URL: {info.url}",
        f"Compression: {info.compression}",
        f"FileHash: {info.file_hash}",
        f"FileSize: {info.file_size}",
        f"NarHash: {info.nar_hash}",
        f"NarSize: {info.nar_size}",
        f"References: {' '.join(path.rpartition('/')[2] for path in info.references)}",
    ]
    if info.deriver is not None:
        lines.append(f"Deriver: {info.deriver}")
    lines += [f"Sig: {signature}" for signature in info.signatures]
    if info.content_address is not None:
        lines.append(f"CA: {info.content_address}")
    return "\n".join(lines) + "\n"


def parse(text: str) -> NarInfo:
    """Read a narinfo; CacheError with the offending field where it is none.

    Unknown fields are skipped, as Nix does.
    """
    fields: dict[str, str] = {}
    signatures: list[str] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            raise CacheError(f"not a narinfo: the line {line!r:.80} has no colon")
        if key == "Sig":
            signatures.append(value.strip())
        elif key in fields:
            raise CacheError(f"not a narinfo: {key} is there twice")
        else:
            fields[key] = value.strip()
    path = _field(fields, "StorePath")
    store_dir, _, name = path.rpartition("/")
    if not store_dir.startswith("/") or not _PATH_NAME.fullmatch(name):
        raise CacheError(f"not a narinfo: StorePath {path!r:.80} is no store path")
    deriver = fields.get("Deriver")
    return NarInfo(
        path=StorePath(path),
        url=_matching(_URL, fields, "URL"),
        compression=fields.get("Compression", "bzip2"),  # Nix's default for old files
        file_hash=_matching(_HASH, fields, "FileHash"),
        file_size=_size(fields, "FileSize"),
        nar_hash=_matching(_HASH, fields, "NarHash"),
        nar_size=_size(fields, "NarSize"),
        references=_references(fields.get("References", ""), store_dir),
        deriver=None if deriver in (None, "", "unknown-deriver") else deriver,
        signatures=tuple(signatures),
        content_address=fields.get("CA") or None,
    )


def _references(text: str, store_dir: str) -> tuple[StorePath, ...]:
    names = text.split()
    for name in names:
        if not _PATH_NAME.fullmatch(name):
            raise CacheError(f"not a narinfo: References has {name!r:.80}, no store path's name")
    return tuple(StorePath(f"{store_dir}/{name}") for name in names)


def _field(fields: dict[str, str], key: str) -> str:
    value = fields.get(key)
    if not value:
        raise CacheError(f"not a narinfo: {key} is missing")
    return value


def _matching(pattern: re.Pattern[str], fields: dict[str, str], key: str) -> str:
    value = _field(fields, key)
    if not pattern.fullmatch(value):
        raise CacheError(f"not a narinfo: {key} is {value!r:.80}")
    return value


def _size(fields: dict[str, str], key: str) -> int:
    value = _field(fields, key)
    if not (value.isascii() and value.isdigit()) or len(value) > 20:  # 2^64 has 20
        raise CacheError(f"not a narinfo: {key} is {value!r:.80}, not a number of bytes")
    return int(value)
