"""What killed pushes left of uploads in parts leaves a bucket that is ours when it is old."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import pytest

from reconciler.binary_cache.collection import ABANDONED_AGE
from reconciler.binary_cache.s3_address import address_of
from reconciler.binary_cache.s3_client import connect
from reconciler.database import database_path
from reconciler.upkeep import MARK_INTERVAL
from tests.binary_cache.servers import s3_credentials, s3_server
from tests.support.fault_proxy import Answer, FaultProxy, Request, fault_proxy_beside
from tests.support.trial import Trial
from tests.system.conftest import a_trial
from tests.system.test_cache import REFERRING, declare, keys, pushes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MINUTE = 60.0


@dataclass
class Bucket:
    """A cache in a bucket, and the way around the reconciler."""

    trial: Trial
    proxy: FaultProxy
    client: S3Client

    def begin(self, key: str) -> str:
        """Begin an upload and leave it; its name."""
        return self.client.create_multipart_upload(Bucket="bucket", Key=key)["UploadId"]

    def under_way(self) -> set[str]:
        """Keys of uploads that began and did not end."""
        found = self.client.list_multipart_uploads(Bucket="bucket")
        return {each["Key"] for each in found.get("Uploads", ())}

    def age(self, seconds: float) -> None:
        """Have the server say that all of them began so long ago."""
        began = (datetime.now(tz=UTC) - timedelta(seconds=seconds)).isoformat()
        uploads = "".join(
            f"<Upload><Key>{escape(each['Key'])}</Key><UploadId>{escape(each['UploadId'])}"
            f"</UploadId><Initiated>{began}</Initiated></Upload>"
            for each in self.client.list_multipart_uploads(Bucket="bucket")["Uploads"]
        )
        page = f"<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>".encode()

        def judge(request: Request) -> Answer | None:
            asks = request.method == "GET" and "uploads" in request.path.partition("?")[2]
            return Answer(200, body=page) if asks else None

        self.proxy.judge = judge


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    (tmp_path / "bucket").mkdir()
    with ExitStack() as stack:
        trial = stack.enter_context(a_trial())
        keys(trial)
        server = stack.enter_context(s3_server(tmp_path))
        proxy = stack.enter_context(fault_proxy_beside(server.address))
        credentials = s3_credentials(trial.root / "s3-keys")
        address = address_of(f"s3://bucket/in?endpoint={server.address}&scheme=http")
        yield Bucket(trial, proxy, connect(address, credentials, 20.0))


def look_again(trial: Trial) -> None:
    """It is time to look for what nothing needs."""
    with closing(sqlite3.connect(database_path(trial.state_dir), timeout=30)) as database:
        database.execute("UPDATE cache SET marked_at = marked_at - ?", (MARK_INTERVAL,))
        database.commit()
    trial.settled = False


@pytest.mark.parametrize("ours", [True, False])
def test_it_is_given_up_where_the_cache_is_ours(bucket: Bucket, *, ours: bool) -> None:
    trial = bucket.trial
    uri = f"s3://bucket/in?endpoint={bucket.proxy.address}&scheme=http"
    declare(trial, REFERRING, uri=uri, credentialsFile=str(trial.root / "s3-keys"), gc=ours)
    bucket.begin("in/nar/large.nar.zst")
    bucket.age(ABANDONED_AGE - MINUTE)
    assert trial.once()
    assert bucket.under_way() == {"in/nar/large.nar.zst"}, "a push may still be at it"
    bucket.age(ABANDONED_AGE + MINUTE)
    look_again(trial)
    assert trial.once()
    assert bucket.under_way() == (set() if ours else {"in/nar/large.nar.zst"})
    assert {state for _, state in pushes(trial)} == {"pushed"}, "and nothing else is deleted"
    assert trial.conditions() == {}
