"""Durations and sizes: exact where written, near where printed, helpful where wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.quantities import QuantityError, duration, format_duration, format_size, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("1w2d3h4m5s6ms", 788645.006),
        ("0s", 0.0),
        ("90m", 5400.0),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GiB", 4 * 2**30),
        ("64MiB", 64 * 2**20),
        ("1.5KiB", 1536),
        ("500MB", 500_000_000),
        ("2kB", 2000),
        ("3GB", 3_000_000_000),
        ("1TB", 10**12),
        ("2TiB", 2**41),
        ("7B", 7),
    ],
)
def test_a_size_is_bytes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("5", 'write it with a unit: "5s", "5m" or "5h"'),
        ("5 m", 'write "5m"'),
        ("5min", 'write "5m"'),
        ("2 Hours", 'write "2h"'),
        ("1:30", 'write "1h30m" or "1m30s"'),
        ("30m1h", 'write it like "1h30m"'),
        ("1m1m", 'write it like "1h30m"'),
        ("300w10000w", 'write it like "1h30m"'),
        ("10000w", "write a shorter duration"),
        ("", 'such as "5m"'),
        ("-5m", 'such as "5m"'),
        ("5m\n", 'write "5m"'),
        ("soon", 'such as "5m"'),
        ("٣m", 'such as "5m"'),
        ("9" * 10000 + "s", 'such as "5m"'),
    ],
)
def test_what_is_no_duration_is_refused_with_the_mend(text: str, mend: str) -> None:
    with pytest.raises(QuantityError) as refused:
        duration(text)
    assert mend in refused.value.mend
    assert refused.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("4G", 'write "4GiB"'),
        ("4gib", 'write "4GiB"'),
        ("4 GB", 'write "4GB"'),
        ("512", 'write it with a unit: "512B", "512MiB" or "512GiB"'),
        ("64mb", 'write "64MB"'),
        ("9999999999TiB", "write a smaller size"),
        ("4XiB", 'such as "4GiB"'),
        ("-1B", 'such as "4GiB"'),
        ("1GiB2MiB", 'such as "4GiB"'),
        ("", 'such as "4GiB"'),
    ],
)
def test_what_is_no_size_is_refused_with_the_mend(text: str, mend: str) -> None:
    with pytest.raises(QuantityError) as refused:
        size(text)
    assert mend in refused.value.mend


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.9996, "1s"),
        (1.44, "1.4s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m"),
        (63, "1m3s"),
        (3599.6, "1h"),
        (5400, "1h30m"),
        (86399, "1d"),
        (820800, "9d12h"),
        (-63, "-1m3s"),
    ],
)
def test_a_duration_is_printed_by_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1536, "1.5KiB"),
        (2**20 - 1, "1MiB"),
        (2**30 - 1, "1GiB"),
        (5 * 2**40, "5TiB"),
        (-1536, "-1.5KiB"),
    ],
)
def test_a_size_is_printed_with_one_decimal_at_most(count: int, text: str) -> None:
    assert format_size(count) == text


@given(st.integers(0, 10**12))
def test_a_duration_in_milliseconds_is_read_exactly(milliseconds: int) -> None:
    assert duration(f"{milliseconds}ms") == milliseconds / 1000


@given(st.floats(0.001, 3_000_000_000))
def test_a_printed_duration_is_read_back_nearly(seconds: float) -> None:
    printed = format_duration(seconds)
    assert duration(printed) == pytest.approx(seconds, rel=0.06, abs=0.0006)
    assert format_duration(duration(printed)) == printed


@given(st.integers(0, 2**62))
def test_a_printed_size_is_read_back_nearly(count: int) -> None:
    printed = format_size(count)
    assert size(printed) == pytest.approx(count, rel=0.06)
    assert format_size(size(printed)) == printed


@given(st.integers(0, 2**20), st.sampled_from(["B", "KiB", "MiB", "GiB", "kB", "MB", "GB"]))
def test_a_size_scales_with_its_unit(count: int, unit: str) -> None:
    assert size(f"{count}{unit}") == count * size(f"1{unit}")


@given(st.integers(0, 90), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_units_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert duration(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (duration, size):
        with contextlib.suppress(QuantityError):
            assert read(text) >= 0
