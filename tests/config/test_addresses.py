from __future__ import annotations

import itertools

import pytest

from reconciler.config.addresses import place_of

SAME = [
    ["file:///srv/cache", "file:/srv/cache", "file:///srv//cache/", "file:///srv/x/../cache",
     "file://localhost/srv/cache", "file:///srv/./cache"],
    ["s3://bucket", "s3://bucket/", "s3://bucket?region=eu-central-1", "s3://bucket?profile=p"],
    ["s3://bucket/a/b?endpoint=s3.example.org&region=r", "s3://bucket/a/b/?region=r&endpoint=S3.example.org",
     "s3://bucket/a//b?endpoint=https://s3.example.org/&scheme=https"],
    ["https://cache.example.org/nix", "https://CACHE.example.org:443/nix/"],
    ["http://cache.example.org/nix"],
    ["https://cache.example.org:8443/nix"],
    ["ssh-ng://nix@big", "ssh-ng://nix@big:22", "ssh-ng://nix@big/"],
    ["ssh-ng://root@big"],
    ["s3://bucket/a"],
    ["s3://bucket?endpoint=other.example.org"],
    ["file:///srv/cache2"],
    ["file:///srv"],
]  # fmt: skip
"""What is one place, by line."""


@pytest.mark.parametrize("addresses", SAME, ids=lambda each: each[0])
def test_one_place_however_it_is_written(addresses: list[str]) -> None:
    assert len({place_of(each) for each in addresses}) == 1


def test_places_are_told_apart() -> None:
    for one, other in itertools.combinations(SAME, 2):
        assert place_of(one[0]) != place_of(other[0])


@pytest.mark.parametrize(
    "text", ["", "cache", "file:", "s3:", "https:///x", "http://[::1", "x://y"]
)
def test_what_is_no_address(text: str) -> None:
    assert place_of(text) is None
