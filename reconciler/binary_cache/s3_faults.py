"""What a fault of S3 means: absent, to be tried again, or what a person has to mend.

Pure. Servers differ in their codes; the status decides where a code is not known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from reconciler.binary_cache.remote import (
    NO_TLS,
    TransientError,
    UnreachableError,
    UnusableError,
    retry_after,
)
from reconciler.binary_cache.s3_address import S3Address
from reconciler.errors import CacheError

RAISED = (ClientError, BotoCoreError, ResponseParserError)
"""All that a call of botocore's may raise."""
Raised = ClientError | BotoCoreError | ResponseParserError
Fault = TransientError | CacheError | FileNotFoundError

_ABSENT = {"NoSuchKey", "404", "NotFound"}
_WRONG_KEY = {
    "InvalidAccessKeyId": "does not know this key",
    "SignatureDoesNotMatch": "refuses the signature: the secret is not this key's",
    "ExpiredToken": "says that the key has expired",
    "TokenRefreshRequired": "says that the key has expired",
    "InvalidToken": "refuses the session token",
    "InvalidClientTokenId": "does not know this key",
}
_WRONG_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
}
_SKEWED = {"RequestTimeTooSkewed", "RequestExpired"}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507"}
_TRANSIENT = {
    "BadDigest", "IncompleteBody", "InternalError", "RequestTimeout", "ServiceUnavailable",
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
}  # fmt: skip
"""Among them what says that the bytes changed on their way."""
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


def judge(error: Raised, address: S3Address) -> Fault:
    """What is to be raised for a fault of botocore's."""
    match error:
        case ClientError():
            return _answered(error, address)
        case boto.NoCredentialsError() | boto.PartialCredentialsError():
            return UnusableError(f"{address.uri}: there is no key: name one in credentialsFile")
        case boto.CredentialRetrievalError() | boto.TokenRetrievalError():
            return UnusableError(f"{address.uri}: no key can be had: {error}")
        case boto.SSLError() if any(word in str(error) for word in NO_TLS):
            return UnusableError(
                f"{address.uri}: {address.place} does not speak TLS: add scheme=http to the uri, "
                "or name the port where it does"
            )
        case boto.SSLError():
            return UnusableError(
                f"{address.uri}: {address.place} cannot be trusted: {error}; "
                "name its authority's certificate in NIX_SSL_CERT_FILE"
            )
        case (
            boto.EndpointConnectionError()
            | boto.ConnectTimeoutError()
            | boto.ProxyConnectionError()
        ):
            return UnreachableError(f"{address.place} cannot be reached")
        case boto.ReadTimeoutError():
            return TransientError(f"{address.place} falls silent")
        case boto.HTTPClientError() | boto.ConnectionClosedError() | boto.IncompleteReadError():
            return TransientError(f"the connection to {address.place} broke")
        case ResponseParserError():
            return TransientError(f"{address.place} answers with nonsense")
        case boto.ParamValidationError():
            return UnusableError(f"{address.uri}: {address.bucket} is no name of a bucket: {error}")
        case _:
            return UnusableError(f"{address.uri}: {error}")


def code_of(error: ClientError) -> str:
    """S3's word for it, or the status of an answer without a body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _answered(error: ClientError, address: S3Address) -> Fault:
    code = code_of(error)
    metadata = error.response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    headers = metadata.get("HTTPHeaders", {})
    text = error.response.get("Error", {}).get("Message", "") or f"status {status}"
    if code in _ABSENT:
        return FileNotFoundError()
    if code in _TRANSIENT or (status in _TRANSIENT_STATUS and code not in _FULL):
        reason = f"{address.place} answers {status} ({text})"
        pause = retry_after(headers.get("retry-after"), date=headers.get("date"))
        return TransientError(reason, retry_after=pause)
    if code in ("EntityTooLarge", "413"):
        return CacheError(f"{address.uri}: {address.place} takes no object of this size: {text}")
    return UnusableError(f"{address.uri}: {_mend(code, status, text, headers, address)}")


def _mend(code: str, status: int, text: str, headers: Mapping[str, str], address: S3Address) -> str:
    place, bucket = address.place, address.bucket
    if code == "NoSuchBucket":
        return no_bucket(address)
    if code in _WRONG_KEY:
        return f"{place} {_WRONG_KEY[code]}; mend credentialsFile, or the profile in the uri"
    if code in _SKEWED:
        return f"{place} refuses us for our clock, {_skew(headers)}: set the clock of this machine"
    region = headers.get("x-amz-bucket-region")
    if code in _WRONG_REGION or (status in (301, 400) and region not in (None, address.region)):
        mend = f"write region={region}" if region else f"write the region of the bucket: {text}"
        return f"the bucket {bucket} is not in the region {address.region}; {mend}"
    if status == 507 or code in _FULL:
        return f"{place} has no room left for {bucket}: {text}"
    if status in (401, 403):
        return (
            f"{place} denies access to the bucket {bucket} ({text}): the key has to be right, and "
            "allowed s3:GetObject, s3:PutObject, s3:ListBucket and s3:AbortMultipartUpload there"
        )
    return f"{place} refuses the request: {code}: {text}"


def no_bucket(address: S3Address) -> str:
    """What is said where the bucket is missing."""
    return f"there is no bucket {address.bucket} at {address.place}: make it, or mend the uri"


def _skew(headers: Mapping[str, str]) -> str:
    """How far our clock is from the server's, which every answer tells."""
    try:
        seconds = time.time() - parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return "which is wrong"
    direction = "ahead" if seconds > 0 else "behind"
    return f"which is {abs(seconds):.0f} s {direction}"
