"""Where caches and artifact stores are: no two at one place, and none where only Nix may write.

Pure, as `rules` is: addresses are compared as they are written, links are not followed.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

from reconciler.config.tree import Json
from reconciler.problems import quote, render_path

_STORE = re.compile(r"(^|/)nix/store(/|$)")
"""Nix's own folder, and that of a store below some root."""
_PORTS = {"http": 80, "https": 443, "ssh-ng": 22}
_KEYS = {"caches": "uri", "artifactStores": "url"}


def refusals(document: dict[str, Json]) -> Iterator[tuple[list[str | int], str, str]]:
    """Document path, message and mend of each that cannot be where it is to be."""
    first: dict[tuple[str, ...], list[str | int]] = {}
    for kind, key in _KEYS.items():
        declared = document.get(kind)
        for name, value in declared.items() if isinstance(declared, dict) else ():
            address = value.get(key) if isinstance(value, dict) else None
            place = place_of(address) if isinstance(address, str) else None
            if place is None:
                continue
            at: list[str | int] = [kind, name]
            before = first.setdefault(place, at)
            if before != at:
                message = f"{render_path(before)} is at the same place"
                yield [*at, key], message, "give each a place of its own, or keep one of them"
            elif place[0] == "file" and _STORE.search(place[1]):
                message = f"{quote(address)} is in the Nix store, where only Nix may write"
                yield [*at, key], message, "name a folder outside, such as file:///srv/nix-cache"


def place_of(address: str) -> tuple[str, ...] | None:
    """What is the same for two addresses of one place; None for what is no address.

    Of a bucket that is its server, name and prefix: how it is opened makes no other of it.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    path = _normal(unquote(parts.path))
    match parts.scheme:
        case "file" if parts.path:
            return ("file", path)
        case "s3" if parts.netloc:
            return ("s3", _server(dict(parse_qsl(parts.query)).get("endpoint")), host, path)
        case "http" | "https" if host:
            return (parts.scheme, f"{host}:{port}", path, parts.query)
        case "ssh-ng" if host:
            return ("ssh-ng", f"{parts.username or ''}@{host}:{port}", path, parts.query)
        case _:
            return None


def _normal(path: str) -> str:
    # normpath leaves two slashes at the start alone, as POSIX wants it; here they mean nothing.
    return "/" + posixpath.normpath(f"/{path}").lstrip("/")


def _server(endpoint: str | None) -> str:
    """An endpoint of S3, written with its scheme or without; Amazon's own is none."""
    return "" if endpoint is None else endpoint.rpartition("//")[2].rstrip("/").lower()
