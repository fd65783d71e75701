"""The `s3:` kind: objects in a bucket of any server that speaks S3.

S3 shows an object only when it is whole, so a put is one request, or parts that one request puts
together. It knows nothing of what the objects mean. Importing it costs as much as importing boto3.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import functools
import hashlib
import itertools
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from botocore.exceptions import ClientError
from msgspec import Struct

from reconciler.binary_cache.interface import Source, SourceStore
from reconciler.binary_cache.remote import (
    PATIENCE,
    Reader,
    Remote,
    RemoteStore,
    TransientError,
    UnusableError,
    content_type,
    together,
)
from reconciler.binary_cache.s3_address import S3Address, address_of
from reconciler.binary_cache.s3_body import Answered, PacedBody, tell_when_signed
from reconciler.binary_cache.s3_client import connect
from reconciler.binary_cache.s3_faults import RAISED, code_of, judge, no_bucket
from reconciler.binary_cache.traffic import Traffic
from reconciler.errors import CacheError

if TYPE_CHECKING:
    from typing import BinaryIO

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        ListMultipartUploadsRequestTypeDef,
        ListObjectsV2OutputTypeDef,
        ListObjectsV2RequestTypeDef,
    )

T = TypeVar("T")

_PART = 5 * 1024 * 1024
"""Larger objects go up in parts of this size, the least that S3 takes, or larger: it takes
`_MAX_PARTS` at most. All but the last are alike, which some servers insist on."""
_MAX_PARTS = 10_000
_PARALLEL_PARTS = 4
"""Of all objects together: each is held in memory while it is made and sent."""
_FEW = 40
"""As many questions for one object each cost as much as a page of a listing: measured, 1.1 ms of
our time for one, 42 ms for a page of a thousand names."""
_MANY = 150
"""Fewer are asked for one by one: answered at once by any server, where some take long to list. A
full batch of pushes is more: one page, where little is there, for 200 questions."""
MAX_PAGES = 100
"""Of unfinished uploads, a thousand on each, that are looked at in one go: what is left is for the
next, and a server that always answers with the same page is not asked for ever."""
_WALKS = 4
"""A listing is one page after the other; so many parts of it are read at once. Each ends with a
page that may hold little: measured, twice as many take half as much time again."""


class S3Store(RemoteStore):
    """See the module's text, and ObjectStore for the methods."""

    def __init__(self, address: S3Address, client: S3Client, remote: Remote) -> None:
        super().__init__(remote)
        self._address = address
        self._client = client
        self._parts = asyncio.Semaphore(_PARALLEL_PARTS)

    @classmethod
    async def open(
        cls,
        uri: str,
        *,
        credentials_file: Path | None,
        patience: float = PATIENCE,
        traffic: Traffic | None = None,
    ) -> S3Store:
        """Make ready; the bucket itself is asked for with the first request."""
        address = address_of(uri)
        client = await asyncio.to_thread(connect, address, credentials_file, patience)
        tell_when_signed(client)
        return cls(address, client, Remote(uri, traffic, patience=patience))

    @property
    def shows_whole(self) -> bool:
        """S3 knows no half an object."""
        return True

    @property
    def for_sources(self) -> SourceStore:
        """It takes parts, each of which is sent again where its transfer fails."""
        return self

    def _disconnect(self) -> None:
        self._client.close()

    # --- Asking ----------------------------------------------------------------------------

    async def present(self, names: Collection[str]) -> set[str]:
        """Ask for each, or read the part of the bucket's listing where they would be."""
        folders: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            folder, slash, _ = name.rpartition("/")
            folders[folder + slash].append(name)
        found: set[str] = set()

        async def look(folder: str, some: Sequence[str]) -> None:
            many = len(some) >= _MANY
            found.update(await (self._walk(folder, some) if many else self._ask(some)))

        await together(
            look(folder, some)
            for folder, sorted_names in folders.items()
            for some in _slices(sorted_names)
        )
        return found

    async def _walk(self, folder: str, names: Sequence[str]) -> set[str]:
        """Those of the sorted names of a folder that exist.

        Each page of the listing begins just before the next name that is asked for, so what nobody
        asked for is passed over. Where pages hold few of the names, each is asked for by itself.
        """
        found: set[str] = set()
        rest = names
        while len(rest) >= _FEW:
            page = await self._remote.run(functools.partial(self._page, folder, rest[0]))
            covered = page.covers(rest)
            found.update(page.names.intersection(covered))
            rest = rest[len(covered) :]
            if len(covered) < _FEW:
                break
        return found | await self._ask(rest)

    def _page(self, folder: str, first: str) -> _Page:
        with self._faults():
            answer = self._client.list_objects_v2(
                Bucket=self._address.bucket,
                Prefix=self._key(folder),
                Delimiter="/",
                StartAfter=self._key(first[:-1]),
            )
        if "IsTruncated" not in answer:  # botocore takes any other XML, or HTML, for an empty page
            raise TransientError(f"{self._address.place} answers with nonsense")
        start = len(self._address.prefix)
        names = [each["Key"][start:] for each in answer.get("Contents", ())]
        folders = [each["Prefix"][start:] for each in answer.get("CommonPrefixes", ())]
        return _Page(
            names=frozenset(names),
            last=max((*names, *folders), default="") if answer["IsTruncated"] else None,
            # Amazon's "directory buckets" are listed in no order.
            ordered=names == sorted(names),
        )

    async def _ask(self, names: Sequence[str]) -> set[str]:
        if not names:
            return set()
        found = await self._remote.filter(names, self._exists)
        if len(found) < len(names):
            # To HEAD, an absent bucket looks like an absent object.
            await self._run(lambda: self._client.head_bucket(Bucket=self._address.bucket))
        return found

    def _exists(self, name: str) -> bool:
        try:
            with self._faults():
                self._client.head_object(Bucket=self._address.bucket, Key=self._key(name))
        except FileNotFoundError:
            return False
        return True

    async def names(self, folder: str) -> Mapping[str, float] | None:
        """Read the bucket's listing of the folder, page by page."""
        found: dict[str, float] = {}
        follows: str | None = None
        start = len(self._address.prefix)
        while True:
            answer = await self._run(functools.partial(self._listed, folder, follows))
            found |= {
                each["Key"][start:]: each["LastModified"].timestamp()
                for each in answer.get("Contents", ())
                # Some servers list the folder itself as an object.
                if not each["Key"].endswith("/")
            }
            if not answer["IsTruncated"]:
                return found
            follows = answer["NextContinuationToken"]

    def _listed(self, folder: str, follows: str | None) -> ListObjectsV2OutputTypeDef:
        where: ListObjectsV2RequestTypeDef = {
            "Bucket": self._address.bucket,
            "Prefix": self._key(folder),
            "Delimiter": "/",
        }
        if follows is not None:
            where["ContinuationToken"] = follows
        answer = self._client.list_objects_v2(**where)
        if "IsTruncated" not in answer:  # some other XML, or HTML
            raise TransientError(f"{self._address.place} answers with nonsense")
        return answer

    # --- Reading ---------------------------------------------------------------------------

    def _open_at(self, name: str, offset: int) -> Reader:
        bucket, key = self._address.bucket, self._key(name)
        with self._faults():
            if offset:
                answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-")
            else:
                answer = self._client.get_object(Bucket=bucket, Key=key)
        return Answered(answer["Body"], self._address)

    # --- Writing ---------------------------------------------------------------------------

    async def _send(self, name: str, content: bytes | Path) -> None:
        if isinstance(content, Path):
            size = (await asyncio.to_thread(content.stat)).st_size
            if size > _PART:
                with await asyncio.to_thread(content.open, "rb") as file:
                    await self.put_source(name, _FileSource(file), at_most=size)
                return
            content = await asyncio.to_thread(content.read_bytes)
        await self._put_whole(name, content)

    async def _put_whole(self, name: str, body: bytes | bytearray) -> None:
        await self._run(
            lambda: self._client.put_object(
                Bucket=self._address.bucket,
                Key=self._key(name),
                Body=self._paced(body),
                ContentMD5=_md5(body),
                ContentType=content_type(name),
            )
        )

    async def put_source(self, name: str, source: Source, *, at_most: int) -> None:
        """Send it in parts; in one request where it proves no larger than one of them."""
        size = max(_PART, -(-at_most // _MAX_PARTS))
        async with self._parts:
            first = await source.read(size)
            if len(first) < size:
                await self._put_whole(name, first)
                return
        await self._send_parts(name, _Begun(first, source), size)

    async def _send_parts(self, name: str, source: Source, part_size: int) -> None:
        bucket, key, client = self._address.bucket, self._key(name), self._client
        begun = await self._run(
            lambda: client.create_multipart_upload(
                Bucket=bucket, Key=key, ContentType=content_type(name)
            )
        )
        upload = begun["UploadId"]
        try:
            parts, size = await self._upload_parts(key, upload, source, part_size)
            await self._run(lambda: self._complete(key, upload, parts, size))
        except BaseException:
            # What is not put together is kept, and paid for, until it is given up.
            with contextlib.suppress(*RAISED):
                await asyncio.to_thread(
                    client.abort_multipart_upload, Bucket=bucket, Key=key, UploadId=upload
                )
            raise

    async def _upload_parts(
        self, key: str, upload: str, source: Source, part_size: int
    ) -> tuple[list[CompletedPartTypeDef], int]:
        """Send the parts, some at once, each read when there is room for it; and their size."""
        parts: dict[int, CompletedPartTypeDef] = {}
        sizes: list[int] = []
        turn = asyncio.Lock()

        async def one() -> bool:
            async with contextlib.AsyncExitStack() as room:
                async with turn:
                    await room.enter_async_context(self._parts)
                    body = await source.read(part_size)
                    sizes.append(len(body))
                    number = len(sizes)
                if body:
                    request = functools.partial(self._upload_part, key, upload, number, body)
                    parts[number] = await self._run(request)
                return bool(body)

        async def work() -> None:
            while await one():  # between two, no part is held
                pass

        await together(work() for _ in range(_PARALLEL_PARTS))
        return [parts[number] for number in sorted(parts)], sum(sizes)

    def _upload_part(
        self, key: str, upload: str, number: int, body: bytes | bytearray
    ) -> CompletedPartTypeDef:
        answer = self._client.upload_part(
            Bucket=self._address.bucket,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            Body=self._paced(body),
            ContentMD5=_md5(body),
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _complete(
        self, key: str, upload: str, parts: Sequence[CompletedPartTypeDef], size: int
    ) -> None:
        bucket, client = self._address.bucket, self._client
        try:
            client.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise
            # An earlier attempt did it, and its answer was lost.
            if client.head_object(Bucket=bucket, Key=key)["ContentLength"] != size:
                raise

    async def give_up(self, *, before: float) -> None:
        """Have uploads in parts that were cut off forgotten: they are paid for."""
        follows: ListMultipartUploadsRequestTypeDef = {
            "Bucket": self._address.bucket,
            "Prefix": self._address.prefix,
        }
        for _ in range(MAX_PAGES):
            asked = functools.partial(self._client.list_multipart_uploads, **follows)
            found = await self._run(asked)
            old = {
                each["UploadId"]: each["Key"]
                for each in found.get("Uploads", ())
                if each["Initiated"].timestamp() < before
            }
            failed = await self._remote.each(old, functools.partial(self._forget, old))
            for reason in failed.values():
                raise CacheError(reason)
            if not found.get("IsTruncated"):
                break
            follows["KeyMarker"] = found["NextKeyMarker"]
            follows["UploadIdMarker"] = found["NextUploadIdMarker"]

    async def _forget(self, keys: Mapping[str, str], upload: str) -> None:
        def abort() -> None:
            try:
                self._client.abort_multipart_upload(
                    Bucket=self._address.bucket, Key=keys[upload], UploadId=upload
                )
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":  # it ended meanwhile
                    raise

        await self._run(abort)

    async def _remove(self, name: str) -> None:
        bucket, key = self._address.bucket, self._key(name)
        await self._run(lambda: self._client.delete_object(Bucket=bucket, Key=key))

    # --- Helpers ---------------------------------------------------------------------------

    def _paced(self, body: bytes | bytearray) -> bytes | PacedBody:
        if self._remote.traffic.limit is not None:
            return PacedBody(body, self._remote)
        self._remote.admit(len(body))
        # botocore takes both, whatever its types say; bytes it copies behind the headers.
        return cast("bytes", body)

    def _key(self, name: str) -> str:
        return self._address.prefix + name

    async def _run(self, request: Callable[[], T]) -> T:
        def judged() -> T:
            with self._faults():
                return request()

        try:
            return await self._remote.run(judged)
        except FileNotFoundError as error:
            raise UnusableError(f"{self._address.uri}: {no_bucket(self._address)}") from error

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Raise what a fault means."""
        try:
            yield
        except RAISED as error:
            raise judge(error, self._address) from error


class _FileSource:
    """A file, read piece by piece."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    async def read(self, size: int) -> bytes:
        return await asyncio.to_thread(self._file.read, size)


class _Begun:
    """A source of which something was read already."""

    def __init__(self, first: bytes | bytearray, rest: Source) -> None:
        self._first = first
        self._rest = rest

    async def read(self, size: int) -> bytes | bytearray:
        first, self._first = self._first, b""
        return first or await self._rest.read(size)


class _Page(Struct, frozen=True, kw_only=True):
    """A page of a listing."""

    names: frozenset[str]
    last: str | None
    """How far it goes; None: to the end."""
    ordered: bool

    def covers(self, names: Sequence[str]) -> Sequence[str]:
        """The first of the sorted names: those on which this page has the last word."""
        if not self.ordered:
            return ()
        return names if self.last is None else names[: bisect.bisect_right(names, self.last)]


def _slices(names: Sequence[str]) -> Iterator[Sequence[str]]:
    walks = max(1, min(_WALKS, len(names) // _MANY))
    size = max(1, -(-len(names) // walks))
    for start in itertools.count(0, size):
        if start >= len(names):
            return
        yield names[start : start + size]


def _md5(body: bytes | bytearray) -> str:
    """What makes the server refuse a body that changed on its way; older ones know no other."""
    return b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
