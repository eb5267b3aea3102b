"""Sizes and times as docker writes them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli import units


@pytest.mark.parametrize(
    ("size", "digits", "text"),
    [
        (0, 3, "0B"),
        (999, 3, "999B"),
        (1000, 3, "1kB"),
        (1984000, 3, "1.98MB"),
        (1984000, 4, "1.984MB"),
        (325_130_000, 3, "325MB"),
        (1_500_000_000, 4, "1.5GB"),
        (999_999, 3, "1e+03kB"),
    ],
)
def test_human_size(size: int, digits: int, text: str) -> None:
    assert units.human_size(size, digits) == text


def test_bytes_size() -> None:
    assert units.bytes_size(25276514304) == "23.54GiB"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64m", 64 << 20),
        ("1g", 1 << 30),
        ("1024", 1024),
        ("1.5k", 1536),
        ("10KiB", 10240),
        ("3 MB", 3 << 20),
        ("5b", 5),
        ("0", 0),
        ("2T", 2 << 40),
    ],
)
def test_read_bytes(text: str, value: int) -> None:
    assert units.read_bytes(text) == value


@pytest.mark.parametrize(
    "text", ["", "abc", "-5", "5x", "1.m", ".5m", "m", "1 2", "1e3", "５m", "1ib", "1..5m"]
)
def test_read_bytes_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        units.read_bytes(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1_500_000_000),
        ("2", 2_000_000_000),
        (".25", 250_000_000),
        ("1/4", 250_000_000),
        ("-1", -1_000_000_000),
        ("0.000000001", 1),
        ("1.500", 1_500_000_000),
    ],
)
def test_read_nano_cpus(text: str, value: int) -> None:
    assert units.read_nano_cpus(text) == value


@pytest.mark.parametrize("text", ["abc", "1.5.2", "1/0", "", "1_0", "0.0000000001", "1/3"])
def test_read_nano_cpus_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        units.read_nano_cpus(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1h30m", 5400 * 10**9),
        ("1.5s", 1_500_000_000),
        ("300ms", 300_000_000),
        ("-2m", -120 * 10**9),
        ("0", 0),
        ("5µs", 5000),
    ],
)
def test_read_duration(text: str, value: int) -> None:
    assert units.read_duration(text) == value


@pytest.mark.parametrize("text", ["", "5", "x", "1.2.3s", "5 s", "1d", ".", "+", "999999999h"])
def test_read_duration_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"^time: "):
        units.read_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3600 - 1, "59 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (365 * 86400 * 2, "2 years"),
    ],
)
def test_human_duration(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


@given(st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2200, 1, 1)))
def test_read_timestamp_agrees_with_datetime(when: datetime.datetime) -> None:
    expected = when.replace(tzinfo=datetime.UTC)
    seconds, nanoseconds = units.read_timestamp(when.isoformat(timespec="microseconds") + "Z")
    assert seconds == int(expected.replace(microsecond=0).timestamp())
    assert nanoseconds == when.microsecond * 1000


def test_read_timestamp_with_a_zone() -> None:
    assert units.read_timestamp("2026-11-24T22:00:00+02:00") == units.read_timestamp("2026-11-24T20:00:00Z")


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13-01", "26-01-01", "2026-01-01T25:00:00", "2026-01-01T10:00:00.xZ"]
)
def test_read_timestamp_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        units.read_timestamp(text)


def test_since_argument() -> None:
    assert units.since_argument("5m", 1000.0) == "700"
    assert units.since_argument("0s", 1000.0) == "1000"
    assert units.since_argument("0", 1000.0) == "0"
    assert units.since_argument("2026-11-24T22:00:00.5Z", 0) == "1795557600.500000000"
    assert units.since_argument("1795557600.5", 0) == "1795557600.5"
    with pytest.raises(ValueError, match='failed to parse value as time or duration: "later"'):
        units.since_argument("later", 0)


@given(st.text(max_size=12))
def test_readers_raise_nothing_but_value_errors(text: str) -> None:
    readers = (
        units.read_bytes,
        units.read_nano_cpus,
        units.read_duration,
        units.read_timestamp,
        units.read_memory_swap,
    )
    for read in readers:
        try:
            read(text)
        except (ValueError, OverflowError):
            pass
