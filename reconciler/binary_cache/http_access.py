"""How an HTTP cache is reached: its address, who opens it, its connections, and what a fault means.

It sends nothing itself.
"""

from __future__ import annotations

import base64
import functools
import netrc
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import urllib3
from msgspec import Struct
from urllib3 import exceptions as fault

from reconciler.binary_cache.remote import (
    NO_TLS,
    THREADS,
    TransientError,
    UnreachableError,
    UnusableError,
    authorities,
    retry_after,
)
from reconciler.errors import CacheError

Answer = urllib3.BaseHTTPResponse
Fault = TransientError | CacheError

_TRANSIENT_STATUS = {408, 423, 425, 429, 500, 502, 503, 504}
_REDIRECTS = 5
_BLOCK = 256 * 1024
"""Bytes of a file that are sent in one go; 16 KiB by default, which costs a core."""


class HttpAddress(Struct, frozen=True, kw_only=True):
    """Where a cache is; `url` has no slash at its end."""

    url: str
    host: str

    def of(self, name: str) -> str:
        """Where an object of the cache is."""
        return f"{self.url}/{quote(name)}"


def address_of(uri: str) -> HttpAddress:
    """Read a URI; CacheError, with what is wrong, where it is none."""
    try:
        parts = urlsplit(uri)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        raise CacheError(f"{uri}: not an address: write https://HOST/PATH") from None
    if not parts.hostname or not port_is_right:
        raise CacheError(f"{uri}: not an address: write https://HOST/PATH")
    if "@" in parts.netloc:
        host = parts.netloc.rpartition("@")[2]
        raise CacheError(
            f"{parts.scheme}://{host}{parts.path}: a user or password does not belong into the "
            "uri; write them into credentialsFile"
        )
    if parts.query or parts.fragment:
        raise CacheError(
            f"{uri}: an {parts.scheme}: cache takes no parameters after the path; "
            "compression and signingKeyFile are properties of the cache"
        )
    return HttpAddress(url=uri.rstrip("/"), host=parts.hostname)


def read_authorization(file: Path, address: HttpAddress) -> str:
    """The Authorization header that a file gives: a netrc, as Nix's `netrc-file`, or nothing but a
    token. Blocking. What is in the file is in no message.
    """
    try:
        text = file.read_text()
        words = text.split()
        if len(words) == 1:
            return f"Bearer {words[0]}"
        entry = netrc.netrc(str(file)).authenticators(address.host)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise CacheError(f"credentialsFile {file} cannot be read: {reason}") from error
    except netrc.NetrcParseError as error:
        raise CacheError(
            f"credentialsFile {file}, line {error.lineno}: {_form(address)}"
        ) from None  # it quotes the line
    if entry is None:
        raise CacheError(f"credentialsFile {file} has nothing for this cache: {_form(address)}")
    login, _, password = entry
    pair = f"{login or ''}:{password or ''}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _form(address: HttpAddress) -> str:
    return f"write `machine {address.host} login USER password PASSWORD`, or a token alone"


def make_pool(
    address: HttpAddress, *, authorization: str | None, patience: float
) -> urllib3.PoolManager:
    """The connections to a cache."""
    headers = {"User-Agent": "nix-reconciler"}
    if authorization is not None:
        headers["Authorization"] = authorization
    scheme = address.url.partition(":")[0]
    proxy = urllib.request.getproxies().get(scheme)
    timeout = urllib3.Timeout(connect=min(patience, 10.0), read=patience)
    make: Callable[..., urllib3.PoolManager] = urllib3.PoolManager
    if proxy and not urllib.request.proxy_bypass(address.host):
        make = functools.partial(urllib3.ProxyManager, proxy)
    return make(
        headers=headers,
        timeout=timeout,
        ca_certs=authorities(),
        maxsize=THREADS,
        block=True,
        blocksize=_BLOCK,
    )


FOLLOW = urllib3.Retry(
    total=None, connect=0, read=0, status=0, other=0, redirect=_REDIRECTS, raise_on_redirect=True
)
"""For what is read. To another host no Authorization goes along."""


def broken(error: fault.HTTPError, address: HttpAddress) -> Fault:
    """What it means that no answer came, or half of one."""
    if isinstance(error, fault.MaxRetryError) and isinstance(error.reason, fault.HTTPError):
        error = error.reason
    match error:
        case fault.SSLError() if any(word in str(error) for word in NO_TLS):
            return UnusableError(
                f"{address.url}: the server does not speak TLS: write http: in the uri, or the "
                "port where it does"
            )
        case fault.SSLError() if "CERTIFICATE" in str(error):
            return UnusableError(
                f"{address.url} cannot be trusted: {error}; "
                "name its authority's certificate in NIX_SSL_CERT_FILE"
            )
        case fault.NewConnectionError() | fault.ConnectTimeoutError() | fault.ProxyError():
            return UnreachableError(f"{address.host} cannot be reached")
        case fault.ReadTimeoutError():
            return TransientError(f"{address.host} falls silent")
        case fault.ProtocolError() | fault.SSLError() | fault.DecodeError():
            return TransientError(f"the connection to {address.host} broke")
        case fault.ResponseError():
            return UnusableError(f"{address.url} redirects without end")
        case _:
            return UnusableError(f"{address.url}: {error}")


def refused(answer: Answer, address: HttpAddress, what: str) -> Fault:
    """What an answer means that is not the one that was wanted; `what`: "PUT nar/…"."""
    status, place = answer.status, f"{address.url}: {what}"
    method = what.partition(" ")[0]
    if status in _TRANSIENT_STATUS:
        pause = retry_after(answer.headers.get("retry-after"), date=answer.headers.get("date"))
        return TransientError(f"{what} is answered with {status}", retry_after=pause)
    match status:
        case 401 | 407:
            return UnusableError(f"{place}: the credentials are not right: mend credentialsFile")
        case 403:
            return UnusableError(
                f"{place}: the server denies access: allow our user there, or mend credentialsFile"
            )
        case 404 | 409 | 410:
            return UnusableError(
                f"{place}: the server has no such folder: make it, or mend the uri"
            )
        case 405 if method == "PUT":  # some say so as well where they cannot write
            return UnusableError(
                f"{place}: the server does not allow it: let it take PUT there, see that it has "
                "room left, or mend the uri"
            )
        case 405 | 501:
            return UnusableError(
                f"{place}: the server does not allow it: let it take {method} there, "
                "or mend the uri"
            )
        case 413:
            return CacheError(f"{place}: too large for the server: raise its limit for bodies")
        case 507:
            return UnusableError(f"{place}: the server has no room left: make room there")
        case _ if 300 <= status < 400:
            target = answer.headers.get("location", "elsewhere")
            return UnusableError(f"{place}: the server sends us to {target}: write that uri")
        case _:
            return UnusableError(f"{place}: the server answers {status}")
