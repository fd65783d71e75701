"""ed25519 keys in Nix's format, signatures, and their verification.

A secret key's text is `NAME:` and the base 64 of 64 bytes, the seed and the public key; a public
key's has the latter 32, a signature 64. Keys are read from files outside the store only, and never
shown in a message.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from reconciler.binary_cache.narinfo import fingerprint
from reconciler.errors import CacheError
from reconciler.model import Cache, PathInfo

_SEED = 32
_SECRET = 64
_LONGEST_FILE = 4096
_MAKE_ONE = "make one with `nix key generate-secret --key-name NAME`"


class PublicKey(Struct, frozen=True):
    """What a reader of a cache trusts."""

    name: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.name}:{base64.b64encode(self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read `NAME:BASE64`; CacheError where it is no public key."""
        name, raw = _split(text)
        if not name or raw is None or len(raw) != _SEED:
            raise CacheError(f"{text!r:.80} is no public key: it has the form NAME:BASE64")
        return cls(name, raw)

    def signed(self, fingerprint: str, signatures: Iterable[str]) -> bool:
        """Whether one of the signatures is this key's, and right."""
        for signature in signatures:
            name, raw = _split(signature)
            if name == self.name and raw is not None and self._fits(raw, fingerprint.encode()):
                return True
        return False

    def _fits(self, signature: bytes, data: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SecretKey:
    """What signs. Its `repr` shows the name only."""

    public: PublicKey
    _key: Ed25519PrivateKey = field(repr=False)

    def sign(self, fingerprint: str) -> str:
        """The text of a narinfo's `Sig`."""
        raw = self._key.sign(fingerprint.encode())
        return f"{self.public.name}:{base64.b64encode(raw).decode()}"


def signatures(info: PathInfo, keys: Iterable[SecretKey]) -> tuple[str, ...]:
    """What a path is signed with, and with the keys."""
    text = fingerprint(
        info.path, nar_hash=info.nar_hash, nar_size=info.nar_size, references=info.references
    )
    return tuple(sorted({*info.signatures, *(key.sign(text) for key in keys)}))


def signing_keys(cache: Cache, *, store_dir: str) -> list[SecretKey]:
    """What signs for a cache; CacheError where a key cannot serve, or clients do not trust it."""
    keys = [read_secret_key(Path(file), store_dir=store_dir) for file in cache.key_files]
    for file, key in zip(cache.key_files, keys, strict=True):
        if cache.public_keys and str(key.public) not in cache.public_keys:
            raise CacheError(
                f"signing key file {file} holds {key.public.name}, which is not among publicKeys: "
                f"clients would refuse what it signs; declare {key.public} there, or name the file "
                "of a key that is"
            )
    return keys


def read_secret_key(file: Path, *, store_dir: str) -> SecretKey:
    """The key in a file; CacheError, without any of its text, where it cannot serve."""
    where = f"signing key file {file}"
    try:
        # Resolved: a link in /etc may well lead into the store.
        if file.resolve().is_relative_to(Path(store_dir).resolve()):
            raise CacheError(
                f"{where} is in the Nix store, which everyone can read: keep it outside, "
                "and replace the key"
            )
        with file.open("rb") as stream:
            raw = stream.read(_LONGEST_FILE)
    except OSError as error:
        raise CacheError(f"{where} cannot be read: {error.strerror}; {_MAKE_ONE}") from error
    return _parse_secret(raw.decode("ascii", "replace").strip(), where)


def _parse_secret(text: str, where: str) -> SecretKey:
    name, raw = _split(text)
    if not name or raw is None or len(raw) not in (_SEED, _SECRET):
        raise CacheError(f"{where} holds no signing key of Nix; {_MAKE_ONE}")
    if len(raw) == _SEED:
        raise CacheError(f"{where} holds a public key: name the secret one that belongs to it")
    key = Ed25519PrivateKey.from_private_bytes(raw[:_SEED])
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    if public != raw[_SEED:]:
        raise CacheError(f"{where} is damaged: its two halves do not belong together; {_MAKE_ONE}")
    return SecretKey(PublicKey(name, public), key)


def _split(text: str) -> tuple[str, bytes | None]:
    """Name and bytes of a key's or a signature's text; no bytes where they are not base 64."""
    name, _, encoded = text.partition(":")
    try:
        return name, base64.b64decode(encoded, validate=True) if encoded else None
    except (binascii.Error, ValueError):
        return name, None
