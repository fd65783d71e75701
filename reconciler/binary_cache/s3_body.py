"""Bodies of requests to S3 and of its answers, as botocore takes and gives them.

Knows no object and makes no request.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from reconciler.binary_cache.remote import Remote
from reconciler.binary_cache.s3_address import S3Address
from reconciler.binary_cache.s3_faults import RAISED, judge

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client


class PacedBody(io.BytesIO):
    """A body that is sent as fast as the cache allows, once it is `being_sent`: before, it is read
    to be signed.
    """

    def __init__(self, body: bytes | bytearray, remote: Remote) -> None:
        super().__init__(body)
        self._remote = remote
        self.being_sent = False

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        if not self.being_sent:
            return super().read(size)
        piece = self._remote.traffic.piece
        data = super().read(piece if size is None or size < 0 else min(size, piece))
        self._remote.admit(len(data))
        return data


def tell_when_signed(client: S3Client) -> None:
    """Have bodies told when their requests are signed, which is what this event's handlers do."""

    def tell(*, being_sent: bool) -> Callable[..., None]:
        def handle(request: AWSRequest, **_rest: object) -> None:
            body: object = request.body  # whatever was given, says boto3's own code
            if isinstance(body, PacedBody):
                body.being_sent = being_sent

        return handle

    client.meta.events.register_first("request-created.s3", tell(being_sent=False))
    client.meta.events.register_last("request-created.s3", tell(being_sent=True))


class Answered:
    """A StreamingBody that says of its faults what they mean."""

    def __init__(self, body: StreamingBody, address: S3Address) -> None:
        self._body = body
        self._address = address

    def read(self, amount: int, /) -> bytes:
        """See Reader."""
        try:
            return self._body.read(amount)
        except RAISED as error:
            raise judge(error, self._address) from error

    def close(self) -> None:
        """See Reader."""
        self._body.close()
