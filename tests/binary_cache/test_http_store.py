"""What is said of an HTTP cache that does not work, and who is let in."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from time import asctime, gmtime, time

import pytest

from reconciler.binary_cache.http_access import address_of, read_authorization
from reconciler.binary_cache.http_store import HttpStore
from reconciler.binary_cache.remote import LONGEST_BELIEVED, retry_after
from reconciler.errors import CacheError
from tests.binary_cache.servers import PASSWORD, Server, dav_server, netrc
from tests.support.fault_proxy import Answer, FaultProxy, fault_proxy


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    (tmp_path / "served").mkdir()
    with dav_server(tmp_path / "served") as running:
        yield running


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(server.address) as running:
        yield running


async def test_a_password_that_is_wrong(server: Server, tmp_path: Path) -> None:
    wrong = netrc(tmp_path / "keys", password="another-word")
    for keys in (None, wrong):
        store = await HttpStore.open(f"http://{server.address}/c", credentials_file=keys)
        with pytest.raises(CacheError, match="mend credentialsFile") as caught:
            await store.read("a")
        assert "another-word" not in str(caught.value)
        for message in (await store.put({"a": b"a"})).values():
            assert "mend credentialsFile" in message
        await store.close()


async def test_nobody_there() -> None:
    store = await HttpStore.open("http://127.0.0.1:1/", credentials_file=None)
    with pytest.raises(CacheError, match=r"127.0.0.1 cannot be reached \(6 attempts\)"):
        await store.present(["a"])
    failed = await store.put({str(number): b"x" for number in range(100)})
    assert len(failed) == 100
    await store.close()


async def test_a_server_that_speaks_no_tls(server: Server) -> None:
    store = await HttpStore.open(f"https://{server.address}/", credentials_file=None)
    with pytest.raises(CacheError, match="does not speak TLS: write http:"):
        await store.read("a")
    await store.close()


PUTS = {
    "denied": (Answer(403), "denies access"),
    "read-only": (Answer(405), "let it take PUT"),
    "no folder": (Answer(409), "no such folder"),
    "too large": (Answer(413), "raise its limit"),
    "full": (Answer(507), "no room left"),
    "moved": (Answer(301, {"Location": "https://new.example.org/"}), "write that uri"),
    "unknown": (Answer(418), "answers 418"),
}


@pytest.mark.parametrize("case", PUTS)
async def test_what_a_server_says_to_a_put(proxy: FaultProxy, tmp_path: Path, case: str) -> None:
    answer, expected = PUTS[case]
    proxy.judge = lambda request: answer if request.method == "PUT" else None
    keys = netrc(tmp_path / "keys")
    store = await HttpStore.open(f"http://{proxy.address}/c", credentials_file=keys)
    failed = await store.put({"a.narinfo": b"a"})
    assert expected in failed["a.narinfo"]
    assert await store.read("a.narinfo") is None
    await store.close()


async def test_what_a_server_says_to_a_deletion(proxy: FaultProxy, tmp_path: Path) -> None:
    keys = netrc(tmp_path / "keys")
    store = await HttpStore.open(f"http://{proxy.address}/c", credentials_file=keys)
    assert await store.put({"a.narinfo": b"a"}) == {}
    for status, expected in ((403, "denies access"), (405, "let it take DELETE there")):
        answer = Answer(status)
        proxy.judge = lambda _, answer=answer: answer  # type: ignore[misc]
        assert expected in (await store.delete(["a.narinfo"]))["a.narinfo"]
    proxy.judge = lambda _: None
    assert await store.read("a.narinfo") == b"a"
    assert await store.delete(["a.narinfo", "never.narinfo"]) == {}
    assert await store.read("a.narinfo") is None
    await store.close()


async def test_what_a_server_lists(proxy: FaultProxy, tmp_path: Path) -> None:
    keys = netrc(tmp_path / "keys")
    store = await HttpStore.open(f"http://{proxy.address}/c", credentials_file=keys)
    began = time() - 2  # the times have no fractions
    assert await store.names("") is None
    assert await store.put({"a b+c.narinfo": b"a", "nar/x.nar": b"x"}) == {}
    found = await store.names("")
    assert found is not None
    assert found.keys() == {"a b+c.narinfo"}
    assert began < found["a b+c.narinfo"] < time() + 2
    assert (await store.names("nar/") or {}).keys() == {"nar/x.nar"}
    assert await store.names("log/") == {}
    other_day = time() - 5 * 86400
    written = f"<D:getlastmodified>{formatdate(other_day - 60, usegmt=True)}</D:getlastmodified>"
    listing = f'<D:multistatus xmlns:D="DAV:"><D:response><D:href>/c/x</D:href>{written}'
    body = f"{listing}</D:response></D:multistatus>".encode()
    proxy.judge = lambda _: Answer(207, {"Date": formatdate(other_day, usegmt=True)}, body)
    (by_our_clock,) = (await store.names("") or {}).values()
    assert abs(time() - 60 - by_our_clock) < 30
    for unknown in (400, 403, 405, 501):
        answer = Answer(unknown)
        proxy.judge = lambda _, answer=answer: answer  # type: ignore[misc]
        assert await store.names("") is None
    for nonsense in (b"<html></html>", b"<multistatus", b""):
        answer = Answer(207, body=nonsense)
        proxy.judge = lambda _, answer=answer: answer  # type: ignore[misc]
        with pytest.raises(CacheError, match="no listing is answered to PROPFIND"):
            await store.names("")
    proxy.judge = lambda _: Answer(401)
    with pytest.raises(CacheError, match="mend credentialsFile"):
        await store.names("")
    await store.close()


async def test_a_reader_is_sent_on_without_its_password(
    proxy: FaultProxy, server: Server, tmp_path: Path
) -> None:
    async with fault_proxy(server.address) as other:
        target = other.address.replace("127.0.0.1", "localhost")
        proxy.judge = lambda _: Answer(302, {"Location": f"http://{target}/c/a"})
        other.judge = lambda _: Answer(200, body=b"found")
        keys = netrc(tmp_path / "keys")
        store = await HttpStore.open(f"http://{proxy.address}/c", credentials_file=keys)
        assert await store.read("a") == b"found"
        assert b"authorization: basic" in proxy.seen[0][1].head.lower()
        assert b"authorization" not in other.seen[0][1].head.lower()
        proxy.judge = lambda request: Answer(302, {"Location": request.path})
        with pytest.raises(CacheError, match="without end"):
            await store.read("a")
        await store.close()


async def test_a_server_without_ranges_is_read_from_the_start_again(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 8000
    keys = netrc(tmp_path / "keys")
    store = await HttpStore.open(f"http://{proxy.address}/c", credentials_file=keys)
    short = {"Content-Length": str(len(content))}
    answers = iter([Answer(200, short, content[:1_500_000]), Answer(200, body=content)])
    proxy.judge = lambda _: next(answers)
    assert b"".join([chunk async for chunk in store.stream("nar/x")]) == content
    await store.close()


# --- Addresses and credentials ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("https://", "not an address"),
        ("https://h:port/", "not an address"),
        ("https://[::1/", "not an address"),
        ("https://user:hidden@h/", "write them into credentialsFile"),
        ("https://h/?priority=30", "takes no parameters"),
        ("https://h/#x", "takes no parameters"),
    ],
)
def test_addresses_that_are_none(uri: str, message: str) -> None:
    with pytest.raises(CacheError, match=message) as caught:
        address_of(uri)
    assert "hidden" not in str(caught.value)


def test_where_an_object_is() -> None:
    assert address_of("https://h/a/").of("nar/x y") == "https://h/a/nar/x%20y"
    assert address_of("http://h").of("x") == "http://h/x"


def test_credentials(tmp_path: Path) -> None:
    file, address = tmp_path / "keys", address_of("https://cache.example.org/x")

    def given(text: str) -> str:
        file.write_text(text)
        return read_authorization(file, address)

    basic = base64.b64encode(f"u:{PASSWORD}".encode()).decode()
    assert given(f"machine cache.example.org login u password {PASSWORD}") == f"Basic {basic}"
    assert given(f"machine x login a password b\ndefault login u password {PASSWORD}") == (
        f"Basic {basic}"
    )
    assert given("machine cache.example.org password p") == "Basic OnA="
    assert given("eyJhbGciOi.x.y\n") == "Bearer eyJhbGciOi.x.y"


@pytest.mark.parametrize(
    "text", ["", "machine other login u password hidden", "hidden word", "\0 \0"]
)
def test_credentials_that_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    address = address_of("https://cache.example.org/x")
    with pytest.raises(CacheError, match=r"machine cache\.example\.org login") as caught:
        read_authorization(file, address)
    assert "hidden" not in str(caught.value)


def test_a_credentials_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("absent", "binary"):
        with pytest.raises(CacheError, match=f"{name} cannot be read"):
            read_authorization(tmp_path / name, address_of("https://h/"))


def test_how_long_a_server_asks_to_be_left_alone() -> None:
    assert retry_after(None) == 0
    assert retry_after("7") == 7
    assert retry_after("soon") == 0
    assert retry_after(formatdate(time() - 5)) == 0
    assert 990 < retry_after(formatdate(time() + 1000)) <= 1000
    assert 990 < retry_after(asctime(gmtime(time() + 1000))) <= 1000, "it names no zone"
    ahead = formatdate(time() + 86400 + 1000)
    assert retry_after(ahead, date=formatdate(time() + 86400)) in (999, 1000), "by its own clock"
    assert retry_after("86400") == retry_after("9" * 400) == retry_after(ahead) == LONGEST_BELIEVED
    assert retry_after("Mon, 32 Foo 99999 00:00:00 GMT") == 0
