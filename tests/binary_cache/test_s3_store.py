"""What is said of an S3 cache that does not work, by a real server or in Amazon's own words."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest

from reconciler.binary_cache.s3_address import address_of, read_credentials
from reconciler.binary_cache.s3_client import connect
from reconciler.binary_cache.s3_store import MAX_PAGES, S3Store
from reconciler.errors import CacheError
from tests.binary_cache.servers import SECRET, Server, s3_credentials, s3_server
from tests.support.fault_proxy import Answer, Fault, FaultProxy, LoseAnswer, Request, fault_proxy


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    with s3_server(tmp_path / "served") as running:
        yield running


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(server.address) as running:
        yield running


def uri(address: str, bucket: str = "bucket") -> str:
    return f"s3://{bucket}?endpoint={address}&scheme=http"


async def refusals(uri: str, credentials: Path | None) -> list[str]:
    """What is said to a read, to a question and to a put: each says the same."""
    said = []
    store = await S3Store.open(uri, credentials_file=credentials)
    with pytest.raises(CacheError) as caught:
        await store.read("a")
    said.append(str(caught.value))
    for count in (1, 300):
        with pytest.raises(CacheError) as caught:
            await store.present([str(number) for number in range(count)])
        said.append(str(caught.value))
    said += set((await store.put({"a": b"a", "b": b"b"})).values())
    await store.close()
    return said


async def test_a_bucket_that_is_not_there(server: Server, tmp_path: Path) -> None:
    for message in await refusals(
        uri(server.address, "elsewhere"), s3_credentials(tmp_path / "keys")
    ):
        assert "there is no bucket elsewhere at http://127.0.0.1" in message


@pytest.mark.parametrize(
    ("key_id", "secret", "expected"),
    [("SOMEONEELSE", SECRET, "does not know this key"),
     (None, "not the secret", "the secret is not this key's")],
)  # fmt: skip
async def test_a_key_that_is_wrong(
    server: Server, tmp_path: Path, key_id: str | None, secret: str, expected: str
) -> None:
    given = {} if key_id is None else {"key_id": key_id}
    credentials = s3_credentials(tmp_path / "keys", secret=secret, **given)
    first, *others = await refusals(uri(server.address), credentials)
    assert expected in first
    for message in [first, *others]:  # to a HEAD the server only says 403
        assert expected in message or "denies access" in message
        assert secret not in message


async def test_nobody_there(tmp_path: Path) -> None:
    store = await S3Store.open(
        uri("127.0.0.1:1"), credentials_file=s3_credentials(tmp_path / "keys")
    )
    with pytest.raises(CacheError, match=r"http://127.0.0.1:1 cannot be reached \(6 attempts\)"):
        await store.read("a")
    await store.close()


async def test_a_server_that_speaks_no_tls(server: Server, tmp_path: Path) -> None:
    store = await S3Store.open(
        f"s3://bucket?endpoint={server.address}", credentials_file=s3_credentials(tmp_path / "keys")
    )
    with pytest.raises(CacheError, match="does not speak TLS: add scheme=http"):
        await store.read("a")
    await store.close()


def xml(code: str, message: str = "in its own words") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


OTHER_REGION = {"x-amz-bucket-region": "eu-west-3"}
ANSWERS = {
    "denied": (Answer(403, body=xml("AccessDenied")), "denies access to the bucket bucket"),
    "expired": (Answer(400, body=xml("ExpiredToken")), "the key has expired"),
    "full": (Answer(507, body=xml("InsufficientStorage")), "has no room left"),
    "full, by MinIO": (Answer(507, body=xml("XMinioStorageFull")), "has no room left"),
    "region": (Answer(301, OTHER_REGION, xml("PermanentRedirect")), "write region=eu-west-3"),
    "signed for another region": (
        Answer(400, OTHER_REGION, xml("AuthorizationHeaderMalformed")),
        "is not in the region us-east-1; write region=eu-west-3",
    ),
    "clock": (
        Answer(403, {"Date": formatdate(1_000_000_000)}, xml("RequestTimeTooSkewed")),
        "ahead: set the clock of this machine",
    ),
    "nonsense": (Answer(200, body=b"<html>Welcome</html>"), "answers with nonsense"),
    "unknown": (Answer(418, body=xml("Teapot", "short and stout")), "Teapot: short and stout"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_s3_says_is_put_so_that_a_person_knows_the_mend(
    proxy: FaultProxy, tmp_path: Path, case: str
) -> None:
    answer, expected = ANSWERS[case]
    proxy.judge = lambda _: answer
    store = await S3Store.open(
        uri(proxy.address), credentials_file=s3_credentials(tmp_path / "keys")
    )
    with pytest.raises(CacheError) as caught:
        # So many that all are looked for in a listing: an answer to HEAD has no words.
        await store.present([f"{number}.narinfo" for number in range(250)])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    await store.close()


async def test_an_upload_in_parts_that_fails_is_given_up(proxy: FaultProxy, tmp_path: Path) -> None:
    def judge(request: Request) -> Answer | None:
        wrong = request.method == "PUT" and "partNumber=2" in request.path
        return Answer(403, body=xml("AccessDenied")) if wrong else None

    proxy.judge = judge
    store = await S3Store.open(
        uri(proxy.address), credentials_file=s3_credentials(tmp_path / "keys")
    )
    large = store.staging / "large"
    large.write_bytes(bytes(30_000_000))
    failed = await store.put({"nar/large": large, "small": b"small"})
    assert failed.keys() == {"nar/large"}
    assert "denies access" in failed["nar/large"]
    assert await store.present(["nar/large", "small"]) == {"small"}
    assert [request.method for _, request in proxy.seen].count("DELETE") == 1
    assert not list(store.staging.iterdir())
    await store.close()


async def test_of_unfinished_uploads_all_pages_are_read(
    server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    keys = s3_credentials(tmp_path / "keys")
    client = connect(address_of(uri(server.address)), keys, 20.0)

    def left() -> int:
        answers = client.get_paginator("list_multipart_uploads").paginate(Bucket="bucket")
        return sum(len(each.get("Uploads", ())) for each in answers)

    def begin(number: int) -> None:
        client.create_multipart_upload(Bucket="bucket", Key=f"nar/{number}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(begin, range(1100)))  # a page has a thousand
    assert left() == 1100
    store = await S3Store.open(uri(proxy.address), credentials_file=keys)
    wrong: dict[str, Fault] = {"/nar/1050?": Answer(403, body=xml("AccessDenied"))}
    proxy.judge = lambda request: next(
        (fault for key, fault in wrong.items() if key in request.path), None
    )
    with pytest.raises(CacheError, match="denies access"):
        await store.give_up(before=time.time() + 3600)
    assert left() > 0
    wrong.clear()
    await store.give_up(before=time.time() + 3600)
    assert left() == 0
    await store.close()


async def test_that_an_upload_ended_meanwhile_is_no_fault(
    server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    keys = s3_credentials(tmp_path / "keys")
    client = connect(address_of(uri(server.address)), keys, 20.0)
    client.create_multipart_upload(Bucket="bucket", Key="nar/1")
    lost = False

    def judge(request: Request) -> LoseAnswer | None:
        nonlocal lost
        if request.method != "DELETE" or lost:
            return None
        lost = True
        return LoseAnswer()

    proxy.judge = judge
    store = await S3Store.open(uri(proxy.address), credentials_file=keys)
    await store.give_up(before=time.time() + 3600)
    assert [request.method for _, request in proxy.seen].count("DELETE") == 2
    assert not client.list_multipart_uploads(Bucket="bucket").get("Uploads")
    await store.close()


async def test_a_server_that_lists_the_same_uploads_for_ever_is_not_asked_for_ever(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    store = await S3Store.open(
        uri(proxy.address), credentials_file=s3_credentials(tmp_path / "keys")
    )
    page = (
        b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a"
        b"</NextKeyMarker><NextUploadIdMarker>b</NextUploadIdMarker></ListMultipartUploadsResult>"
    )
    proxy.judge = lambda _request: Answer(200, body=page)
    await store.give_up(before=time.time())
    assert len(proxy.seen) == MAX_PAGES
    await store.close()


async def test_a_listing_in_no_order_is_not_believed(proxy: FaultProxy, tmp_path: Path) -> None:
    names = [f"{number:03}.narinfo" for number in range(300)]
    store = await S3Store.open(
        uri(proxy.address), credentials_file=s3_credentials(tmp_path / "keys")
    )
    await store.put(dict.fromkeys(names, b"x"))
    keys = "".join(f"<Contents><Key>{name}</Key></Contents>" for name in ("z", "a"))
    page = f"<ListBucketResult><IsTruncated>true</IsTruncated>{keys}</ListBucketResult>".encode()
    proxy.judge = lambda request: Answer(200, body=page) if "list-type" in request.path else None
    assert await store.present([*names, "absent"]) == set(names)
    await store.close()


# --- Addresses and credentials ------------------------------------------------------------------


def test_addresses() -> None:
    plain = address_of("s3://nix-cache?region=eu-central-1")
    assert (plain.bucket, plain.prefix, plain.region) == ("nix-cache", "", "eu-central-1")
    assert (plain.endpoint, plain.secure, plain.style) == (None, True, "auto")
    full = address_of("s3://b/some/folder/?endpoint=s3.example.org:9000&scheme=http&profile=ci")
    assert (full.prefix, full.profile) == ("some/folder/", "ci")
    assert (full.endpoint, full.style) == ("http://s3.example.org:9000", "path")
    assert address_of("s3://b?endpoint=https://s3.example.org/").endpoint == (
        "https://s3.example.org"
    )


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "write s3://BUCKET"),
        ("s3://key:secret@bucket", "write it in credentialsFile"),
        ("s3://b?compression=xz", "no parameter compression; it has region, endpoint"),
        ("s3://b?region=", "region is empty"),
        ("s3://b?scheme=ftp", "scheme is ftp; write one of https, http"),
        ("s3://b?endpoint=h:x", "write HOST or HOST:PORT"),
        ("s3://b?endpoint=h/path", "write HOST or HOST:PORT"),
        ("s3://b?endpoint=h&addressing-style=x", "write one of auto, path, virtual"),
    ],
)
def test_addresses_that_are_none(uri: str, message: str) -> None:
    with pytest.raises(CacheError) as caught:
        address_of(uri)
    assert message in str(caught.value)
    assert "secret@" not in str(caught.value)


async def test_a_name_that_no_bucket_can_have(tmp_path: Path) -> None:
    keys = s3_credentials(tmp_path / "keys")
    for message in await refusals("s3://a*b?endpoint=127.0.0.1:1&scheme=http", keys):
        assert "no name of a bucket" in message


def test_credentials_of_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
        "[ci]\naws_access_key_id = C\naws_secret_access_key = D\naws_session_token = E\n"
    )
    first, second = read_credentials(file, profile=None), read_credentials(file, profile="ci")
    assert (first.key_id, first.secret, first.token) == ("A", "B", None)
    assert (second.key_id, second.secret, second.token) == ("C", "D", "E")
    assert "D" not in repr(second).rpartition(".")[2]
    with pytest.raises(CacheError, match=r"no key for the profile other; write a line \[other\]"):
        read_credentials(file, profile="other")


@pytest.mark.parametrize(
    "text",
    ["", "top-secret", "[default]\naws_access_key_id = top-secret\n", "[default]\ntop-secret\n",
     "[default\ntop-secret", "\0\0top-secret"],
)  # fmt: skip
def test_credentials_that_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(CacheError, match="write a line") as caught:
        read_credentials(file, profile=None)
    assert "top-secret" not in str(caught.value)
    with pytest.raises(CacheError, match="cannot be read"):
        read_credentials(tmp_path / "absent", profile=None)
