from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine.image_filters import glob_to_regex, parse_time_ns
from wherry.errors import InvalidParameter


def fits(pattern: str, text: str) -> bool:
    return re.fullmatch(glob_to_regex(pattern), text) is not None


@pytest.mark.parametrize(
    ("pattern", "text", "result"),
    [
        ("busy*", "busybox", True),
        ("*", "a/b", False),
        ("*/*", "a/b", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("a\\*", "a*", True),
        ("a.c", "abc", False),
        ("[\\]]", "]", True),
    ],
)
def test_globs_are_gos(pattern: str, text: str, result: bool) -> None:
    assert fits(pattern, text) is result


@pytest.mark.parametrize("pattern", ["[", "[]", "[a", "[a-", "a\\", "[-a]", "[b-a]"])
def test_broken_globs_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidParameter, match="syntax error in pattern"):
        glob_to_regex(pattern)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_glob_is_a_regex_or_refused(pattern: str, text: str) -> None:
    try:
        fits(pattern, text)
    except InvalidParameter:
        pass


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1700000000", 1700000000 * 10**9),
        ("1700000000.5", 1700000000_500000000),
        ("1h30m", 10**18 - 5400 * 10**9),
        ("2024-01-02T03:04:05Z", 1704164645 * 10**9),
        ("2024-01-02T03:04:05.000000007+01:00", 1704161045 * 10**9 + 7),
        ("2024-01-02Z", 1704153600 * 10**9),
    ],
)
def test_times(text: str, ns: int) -> None:
    assert parse_time_ns(text, now_ns=10**18) == ns


@given(st.text(max_size=40))
def test_any_time_is_read_or_refused(text: str) -> None:
    try:
        parse_time_ns(text)
    except InvalidParameter:
        pass
