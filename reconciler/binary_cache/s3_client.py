"""Clients for servers that speak S3: keys, sessions, and how requests are made.

Asks no server for anything. Importing it costs as much as importing boto3.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from reconciler.binary_cache.remote import THREADS, UnusableError, authorities
from reconciler.binary_cache.s3_address import S3Address, read_credentials

if TYPE_CHECKING:
    from botocore.loaders import Loader
    from mypy_boto3_s3 import S3Client

_sessions = threading.Lock()
"""boto3's sessions may make only one client at a time."""


@functools.cache
def _shared_session() -> boto3.Session:
    """It holds the descriptions of S3, which take 50 ms to read; no keys."""
    return boto3.Session()


def _new_session(profile: str | None) -> boto3.Session:
    """One that looks for keys anew, with the descriptions that were read before."""
    descriptions = _descriptions()
    session = botocore.session.Session()
    session.register_component("data_loader", descriptions)
    made = boto3.Session(botocore_session=session, profile_name=profile)
    # Each session adds the folder of boto3's own once more.
    descriptions.search_paths[:] = dict.fromkeys(descriptions.search_paths)
    return made


@functools.cache
def _descriptions() -> Loader:
    loader: Loader = botocore.session.Session().get_component("data_loader")
    return loader


def connect(address: S3Address, credentials_file: Path | None, patience: float) -> S3Client:
    """A client of the bucket's server, which nothing is asked of yet. Blocking; UnusableError."""
    config = Config(
        connect_timeout=min(patience, 10.0),
        read_timeout=patience,
        max_pool_connections=THREADS,
        retries={"total_max_attempts": 1},  # ours are better: they honour Retry-After
        s3={"addressing_style": address.style},
        # Servers other than Amazon's refuse the newer checksums; ours are in Content-MD5.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with _sessions:
        try:
            if credentials_file is None:
                session, keys = _new_session(address.profile), None
            else:
                keys = read_credentials(credentials_file, profile=address.profile)
                session = _shared_session()
            return session.client(
                "s3",
                region_name=address.region,
                endpoint_url=address.endpoint,
                use_ssl=address.secure,
                verify=authorities(),
                aws_access_key_id=None if keys is None else keys.key_id,
                aws_secret_access_key=None if keys is None else keys.secret,
                aws_session_token=None if keys is None else keys.token,
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise UnusableError(f"{address.uri}: {error}") from error
