from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api import filters
from wherry.errors import InvalidParameter


@pytest.mark.parametrize("text", ["", "0", "no", "false", "none", "False", " NONE ", "No"])
def test_five_words_are_false(text: str) -> None:
    assert not filters.flag(text)


@pytest.mark.parametrize("text", ["1", "true", "True", "yes", "2", "off", "x"])
def test_everything_else_is_true(text: str) -> None:
    assert filters.flag(text)


def test_both_forms_of_filters_mean_the_same() -> None:
    assert filters.filters('{"label":["a","b=c"],"id":["x"]}') == {"label": ["a", "b=c"], "id": ["x"]}
    assert filters.filters('{"label":{"a":true,"b=c":true}}') == {"label": ["a", "b=c"]}
    assert filters.filters('{"label":{"a":false}}') == {"label": ["a"]}  # as Docker's own set does
    assert filters.filters('{"label":null}') == {"label": []}
    assert filters.filters("") == filters.filters("null") == filters.filters("{}") == {}


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        '"a"',
        "{",
        '{"a":1}',
        '{"a":"b"}',
        '{"a":[1]}',
        '{"a":[null]}',
        '{"a":[["b"]]}',
        '{"a":["\\u0000"]}',
        '{"a":' * 100_000,
        '{"a":["' + "b" * 70_000 + '"]}',
    ],
)
def test_bad_filters_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        filters.filters(text)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=100))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (filters.filters, filters.number, filters.timestamp_ns):
        try:
            read(text)
        except InvalidParameter:
            pass


def test_numbers_are_gos() -> None:
    assert filters.number("12") == 12
    assert filters.number("-1") == -1
    assert filters.number("+3") == 3
    for text in ("", "abc", "1.5", "1_000", " 1", "0x1", "٣", "9" * 19, "9" * 30):
        with pytest.raises(InvalidParameter, match=r"strconv\.Atoi"):
            filters.number(text)


def test_timestamps_keep_their_nanoseconds() -> None:
    assert filters.timestamp_ns("1700000000") == 1_700_000_000_000_000_000
    assert filters.timestamp_ns("1700000000.000000001") == 1_700_000_000_000_000_001
    assert filters.timestamp_ns("1.5") == 1_500_000_000
    assert filters.timestamp_ns("-1.5") == -1_500_000_000
    assert filters.timestamp_ns("1.1234567899") == 1_123_456_789
    for text in ("", "abc", "2026-01-01", "1.", "1e3", "9" * 13):
        with pytest.raises(InvalidParameter):
            filters.timestamp_ns(text)
