"""What a WebDAV server says of a folder: the question, and the answer read.

Pure. Source: RFC 4918, "PROPFIND Method".
"""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

QUESTION = (
    b'<?xml version="1.0" encoding="utf-8"?>'
    b'<propfind xmlns="DAV:"><prop><resourcetype/><getlastmodified/></prop></propfind>'
)
HEADERS = {"Depth": "1", "Content-Type": "application/xml"}


class NoListingError(Exception):
    """What was answered lists nothing."""


def files(answer: bytes, *, now: float) -> dict[str, float]:
    """The files directly in the folder by name, each with the time when it was written; `now` where
    the server does not tell.
    """
    try:
        # Expat bounds what entities can grow to; none is fetched.
        root = ElementTree.fromstring(answer)  # noqa: S314
    except ElementTree.ParseError as error:
        raise NoListingError(str(error)) from error
    if root.tag != "{DAV:}multistatus":
        raise NoListingError(f"it is {root.tag}")
    return dict(_files(root, now))


def _files(root: ElementTree.Element, now: float) -> Iterator[tuple[str, float]]:
    for response in root.iter("{DAV:}response"):
        path = urlsplit(response.findtext("{DAV:}href", "").strip()).path
        name = unquote(path.rpartition("/")[2])
        if name and response.find(".//{DAV:}collection") is None:
            yield name, _seconds(response.findtext(".//{DAV:}getlastmodified"), now)


def _seconds(date: str | None, now: float) -> float:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return now
