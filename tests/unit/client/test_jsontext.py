"""JSON in and out, compared with the standard library where both mean the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.client import jsontext

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_what_is_written_reads_back(value: Any) -> None:
    text = jsontext.dumps(value)
    assert json.loads(text) == value
    assert jsontext.loads(text) == value


@given(plain)
def test_reads_what_the_standard_library_writes(value: Any) -> None:
    assert jsontext.loads(json.dumps(value).encode()) == value


@given(plain)
def test_indent_is_the_standard_librarys_on_the_same_tokens(value: Any) -> None:
    assert jsontext.indent(json.dumps(value)) == json.dumps(value, indent=4).replace("[]", "[]")


@given(st.text(alphabet='{}[]",:\\ntru1e-. \n', max_size=40))
def test_malformed_text_is_a_value_error(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            jsontext.loads(text)
    else:
        assert jsontext.loads(text) == expected


def test_nesting_without_end_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        jsontext.loads("[" * 200_000)


def test_writes_as_go_does() -> None:
    assert jsontext.dumps({"a": "<b> & \u2028 é", "n": 3.0, "f": 1.5}) == (
        '{"a":"\\u003cb\\u003e \\u0026 \\u2028 é","n":3,"f":1.5}'
    )


def test_indent_leaves_escapes_and_numbers_alone() -> None:
    text = '[{"a":"\\u003c\\"]{","n":1.50e3,"e":{},"l":[]}]'
    assert jsontext.indent(text) == (
        '[\n    {\n        "a": "\\u003c\\"]{",\n        "n": 1.50e3,\n        "e": {},\n        "l": []\n    }\n]'
    )
