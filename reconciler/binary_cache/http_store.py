"""The `http:` and `https:` kinds: objects on a web server that takes PUT.

Not every server shows an object only when it is whole: nginx does, others write into the place
itself. Those that speak WebDAV are sent it under another name, and told to move it when it is
there. It knows nothing of what the objects mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import urllib3
from urllib3 import exceptions as fault

from reconciler.binary_cache import http_listing
from reconciler.binary_cache.http_access import (
    FOLLOW,
    Answer,
    HttpAddress,
    address_of,
    broken,
    make_pool,
    read_authorization,
    refused,
)
from reconciler.binary_cache.remote import (
    PATIENCE,
    Reader,
    Remote,
    RemoteStore,
    TransientError,
    UnusableError,
    content_type,
    http_time,
)
from reconciler.binary_cache.traffic import Traffic

_DONE = {200, 201, 202, 204}
_ABSENT = {404, 410}
_NO_MOVE = {405, 501}
_LISTED = 207
_NO_LIST = {400, 403, 405, 501}
"""What PROPFIND is answered with where it is not known."""
_NOTHING_ABOVE = {404, 409}
_THERE_ALREADY = {405, 301}
"""What MKCOL is answered with for a folder that there is."""


class HttpStore(RemoteStore):
    """See the module's text, and ObjectStore for the methods."""

    def __init__(self, address: HttpAddress, pool: urllib3.PoolManager, remote: Remote) -> None:
        super().__init__(remote)
        self._address = address
        self._pool = pool
        self._once = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._dav: bool | None = None
        self._moves = True
        self._folders: set[str] = set()

    @classmethod
    async def open(
        cls,
        uri: str,
        *,
        credentials_file: Path | None,
        patience: float = PATIENCE,
        traffic: Traffic | None = None,
    ) -> HttpStore:
        """Make ready; the server itself is asked with the first request."""
        address = address_of(uri)
        authorization = None
        if credentials_file is not None:
            authorization = await asyncio.to_thread(read_authorization, credentials_file, address)
        pool = make_pool(address, authorization=authorization, patience=patience)
        return cls(address, pool, Remote(uri, traffic, patience=patience))

    @property
    def shows_whole(self) -> bool:
        """Not every server: see the module's text."""
        return False

    @property
    def for_sources(self) -> None:
        """HTTP has no parts: what broke off would have to be made again from its beginning."""
        return

    def _disconnect(self) -> None:
        self._pool.clear()

    # --- Reading ---------------------------------------------------------------------------

    async def present(self, names: Collection[str]) -> set[str]:
        """Ask for each, several at once: HTTP knows no list."""
        return await self._remote.filter(names, self._exists)

    def _exists(self, name: str) -> bool:
        answer = self._ask("HEAD", name)
        if answer.status in _ABSENT:
            return False
        if answer.status != 200:
            raise refused(answer, self._address, f"HEAD {name}")
        return True

    async def names(self, folder: str) -> Mapping[str, float] | None:
        """What a server that speaks WebDAV lists; HTTP itself knows no list."""
        return await self._remote.run(lambda: self._names(folder))

    def _names(self, folder: str) -> Mapping[str, float] | None:
        place = f"{self._address.of(folder).rstrip('/')}/"
        question = http_listing.QUESTION
        answer = self._write("PROPFIND", place, headers=http_listing.HEADERS, body=question)
        if answer.status in _NO_LIST:
            return None
        if answer.status in _ABSENT:
            return {} if folder else None
        if answer.status != _LISTED:
            raise refused(answer, self._address, f"PROPFIND {folder}")
        now = time.time()
        theirs = http_time(answer.headers.get("date")) or now
        try:
            found = http_listing.files(answer.data, now=theirs)
        except http_listing.NoListingError as error:
            raise UnusableError(f"{place}: no listing is answered to PROPFIND: {error}") from error
        # By our clock: what was written just now must not look old where one of the two is wrong.
        return {f"{folder}{name}": written + now - theirs for name, written in found.items()}

    def _open_at(self, name: str, offset: int) -> Reader:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self._ask("GET", name, headers=headers, preload=False)
        body = _Body(answer, self._address)
        try:
            self._check_start(answer, name, offset)
            if answer.status == 200:  # some know no Range
                body.skip(offset)
        except BaseException:
            body.close()
            raise
        return body

    def _check_start(self, answer: Answer, name: str, offset: int) -> None:
        if answer.status in _ABSENT:
            raise FileNotFoundError(name)
        if answer.status not in (200, 206):
            raise refused(answer, self._address, f"GET {name}")
        given = answer.headers.get("content-range", "")
        if answer.status == 206 and not given.startswith(f"bytes {offset}-"):
            raise UnusableError(
                f"{self._address.of(name)}: asked from byte {offset} on, the server gives {given}"
            )

    def _ask(
        self,
        method: str,
        name: str,
        *,
        headers: Mapping[str, str] | None = None,
        preload: bool = True,
    ) -> Answer:
        with self._faults():
            return self._pool.request(
                method,
                self._address.of(name),
                headers={**self._pool.headers, **(headers or {})},
                preload_content=preload,
                retries=FOLLOW,
            )

    # --- Writing ---------------------------------------------------------------------------

    async def _remove(self, name: str) -> None:
        await self._remote.run(lambda: self._delete(name))

    def _delete(self, name: str) -> None:
        answer = self._write("DELETE", self._address.of(name))
        if answer.status not in _DONE | _ABSENT:
            raise refused(answer, self._address, f"DELETE {name}")

    async def _send(self, name: str, content: bytes | Path) -> None:
        await self._remote.run(lambda: self._place(name, content))

    def _place(self, name: str, content: bytes | Path) -> None:
        """One attempt; another one does everything again, so a lost answer does no harm."""
        dav = self._speaks_dav()
        if dav:
            self._have_folder(name.rpartition("/")[0])
        if dav and self._moves:
            self._place_by_move(name, content)
        else:
            self._upload(name, content)

    def _place_by_move(self, name: str, content: bytes | Path) -> None:
        beside = f"{name}.{self._once}-{next(self._numbers)}"
        try:
            self._upload(beside, content)
            self._move(beside, name)
        except _NoMoveError:  # nginx, where a module says DAV of it and MOVE is not allowed
            self._moves = False
            self._write("DELETE", self._address.of(beside))
            self._upload(name, content)
        except BaseException:
            with contextlib.suppress(Exception):  # at the best it is out of the way
                self._write("DELETE", self._address.of(beside))
            raise

    def _speaks_dav(self) -> bool:
        """Whether the server says that it speaks WebDAV, asked once."""
        with self._lock:
            if self._dav is None:
                answer = self._write("OPTIONS", f"{self._address.url}/")
                meaning = refused(answer, self._address, "OPTIONS")
                if isinstance(meaning, TransientError):
                    raise meaning
                self._dav = "dav" in answer.headers
            return self._dav

    def _have_folder(self, folder: str) -> None:
        """Make a folder of the cache, and those above it, unless that was done."""
        with self._lock:
            if folder not in self._folders:
                self._make_folder(self._address.of(folder).rstrip("/"))
                self._folders.add(folder)

    def _make_folder(self, url: str) -> None:
        answer = self._write("MKCOL", f"{url}/")
        above = url.rpartition("/")[0]
        if answer.status in _NOTHING_ABOVE and not above.endswith("/"):
            self._make_folder(above)
            answer = self._write("MKCOL", f"{url}/")
        if answer.status not in _DONE | _THERE_ALREADY:
            raise refused(answer, self._address, f"MKCOL {url}/")

    def _upload(self, name: str, content: bytes | Path) -> None:
        answer = self._put(name, content, {"Content-Type": content_type(name)})
        if answer.status not in _DONE:
            raise refused(answer, self._address, f"PUT {name}")

    def _move(self, source: str, target: str) -> None:
        headers = {"Destination": self._address.of(target), "Overwrite": "T"}
        answer = self._write("MOVE", self._address.of(source), headers=headers)
        if answer.status in _NO_MOVE:
            raise _NoMoveError
        if answer.status not in _DONE:
            raise refused(answer, self._address, f"MOVE {source}")

    def _put(self, name: str, content: bytes | Path, headers: Mapping[str, str]) -> Answer:
        url = self._address.of(name)
        if isinstance(content, bytes):
            self._remote.admit(len(content))
            return self._write("PUT", url, headers=headers, body=content)
        with _Upload(content, self._remote) as file:
            length = {"Content-Length": str(content.stat().st_size)}
            return self._write("PUT", url, headers={**headers, **length}, body=file)

    def _write(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | io.RawIOBase | None = None,
    ) -> Answer:
        with self._faults():
            return self._pool.request(
                method,
                url,
                headers={**self._pool.headers, **(headers or {})},
                body=body,
                retries=False,
                redirect=False,
            )

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Raise what a fault means."""
        try:
            yield
        except fault.HTTPError as error:
            raise broken(error, self._address) from error


class _NoMoveError(Exception):
    """The server moves nothing."""


class _Body:
    """An answer's body that says of its faults what they mean."""

    def __init__(self, answer: Answer, address: HttpAddress) -> None:
        self._answer = answer
        self._address = address

    def read(self, amount: int, /) -> bytes:
        try:
            return self._answer.read(amount)
        except fault.HTTPError as error:
            raise broken(error, self._address) from error

    def skip(self, amount: int) -> None:
        """Read over what is known already."""
        while amount > 0:
            chunk = self.read(min(amount, 1024 * 1024))
            if not chunk:
                raise TransientError(f"{self._address.host} gives less than it did before")
            amount -= len(chunk)

    def close(self) -> None:
        # Half read, a connection is of no use to anyone.
        self._answer.close()
        self._answer.release_conn()


class _Upload(io.FileIO):
    """A file that is sent as fast as the cache allows, until it is said to stop."""

    def __init__(self, file: Path, remote: Remote) -> None:
        super().__init__(file)
        self._remote = remote

    def read(self, size: int | None = -1, /) -> bytes:
        piece = self._remote.traffic.piece
        data = super().read(piece if size is None or size < 0 else min(size, piece))
        self._remote.admit(len(data))
        return data
