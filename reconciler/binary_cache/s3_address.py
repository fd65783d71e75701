"""What an `s3:` URI names, in the form that Nix writes, and who opens it.

s3://BUCKET[/PREFIX]?region=…&endpoint=…&scheme=…&profile=…&addressing-style=…
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.credentials import SharedCredentialProvider
from botocore.exceptions import BotoCoreError
from msgspec import Struct

from reconciler.errors import CacheError
from reconciler.model import S3_PARAMETERS

Word = TypeVar("Word", bound=str)

Style = Literal["auto", "path", "virtual"]
_STYLES: tuple[Style, ...] = ("auto", "path", "virtual")
DEFAULT_REGION = "us-east-1"
"""Nix's, too."""


class S3Address(Struct, frozen=True, kw_only=True):
    """Where a bucket is."""

    uri: str
    bucket: str
    prefix: str
    """Empty, or with a slash at its end."""
    region: str
    endpoint: str | None
    """A URL; None: Amazon's own of the region."""
    secure: bool
    profile: str | None
    style: Style
    """How the bucket is named to the server: `path`, `virtual` (in the host's name) or `auto`."""

    @property
    def place(self) -> str:
        """The server, for messages."""
        return self.endpoint or f"Amazon S3, region {self.region}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Credentials:
    """A key of a credentials file. Never printed."""

    key_id: str
    secret: str
    token: str | None


def address_of(uri: str) -> S3Address:
    """Read a URI; CacheError, with what is wrong, where it is none."""
    parts = urlsplit(uri)
    if "@" in parts.netloc:  # what stands before it is a secret
        raise CacheError(
            "s3://…@…: a key does not belong into the uri; write it in credentialsFile"
        )
    if not parts.netloc or parts.fragment:
        raise CacheError(f"{uri}: write s3://BUCKET?region=…")
    values: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in S3_PARAMETERS:
            raise CacheError(
                f"{uri}: an s3: cache has no parameter {key}; it has {', '.join(S3_PARAMETERS)} "
                "(compression and signingKeyFile are properties of the cache)"
            )
        if not value:
            raise CacheError(f"{uri}: {key} is empty: give it a value, or leave it out")
        values[key] = value
    scheme = _one_of(uri, "scheme", values.get("scheme", "https"), ("https", "http"))
    endpoint = _endpoint(uri, values.get("endpoint"), scheme)
    style = values.get("addressing-style", "path" if endpoint else "auto")
    prefix = unquote(parts.path).strip("/")
    return S3Address(
        uri=uri,
        bucket=parts.netloc,
        prefix=f"{prefix}/" if prefix else "",
        region=values.get("region", DEFAULT_REGION),
        endpoint=endpoint,
        secure=scheme == "https",
        profile=values.get("profile"),
        style=_one_of(uri, "addressing-style", style, _STYLES),
    )


def _one_of(uri: str, key: str, value: str, allowed: tuple[Word, ...]) -> Word:
    for word in allowed:
        if value == word:
            return word
    raise CacheError(f"{uri}: {key} is {value}; write one of {', '.join(allowed)}")


def _endpoint(uri: str, given: str | None, scheme: str) -> str | None:
    """A URL, of a URL or of a host with or without port."""
    if given is None:
        return None
    url = given if "://" in given else f"{scheme}://{given}"
    parts = urlsplit(url)
    try:
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        port_is_right = False
    wrong = parts.path.strip("/") or parts.query or "@" in parts.netloc
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_right or wrong:
        raise CacheError(f"{uri}: endpoint is {given}; write HOST or HOST:PORT")
    return url.rstrip("/")


def read_credentials(file: Path, *, profile: str | None) -> Credentials:
    """The key of a profile in a file of the form of `~/.aws/credentials`. Blocking."""
    name = profile or "default"
    try:
        file.read_bytes()  # botocore says nothing of a file that it cannot read
        found = SharedCredentialProvider(creds_filename=str(file), profile_name=name).load()
    except OSError as error:
        raise CacheError(f"credentialsFile {file} cannot be read: {error.strerror}") from error
    except (BotoCoreError, UnicodeDecodeError) as error:
        # Its own words may hold a line of the file.
        raise CacheError(_malformed(file, name)) from error
    if found is None:
        raise CacheError(_malformed(file, name))
    key = found.get_frozen_credentials()
    if not key.access_key or not key.secret_key:
        raise CacheError(_malformed(file, name))
    return Credentials(key_id=key.access_key, secret=key.secret_key, token=key.token)


def _malformed(file: Path, profile: str) -> str:
    return (
        f"credentialsFile {file} has no key for the profile {profile}; write a line [{profile}], "
        "then aws_access_key_id = … and aws_secret_access_key = …, each on a line"
    )
