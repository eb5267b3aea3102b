from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType, field

from wherry.errors import InvalidParameter
from wherry.model.containers import ContainerCreate
from wherry.model.wire import MAX_DEPTH, Wire, decode, encode


class Inner(Wire):
    cpu_shares: int = 0
    names: list[str] | None = None


class Outer(Wire):
    id: str = field(name="ID", default="")
    inner: Inner | UnsetType = UNSET
    many: dict[str, Inner | None] = {}
    any: dict[str, Any] | None = None
    flag: bool = False


def test_keys_match_in_any_case() -> None:
    value = decode(b'{"id":"x","INNER":{"cpushares":3,"Names":["a"]},"fLaG":true}', Outer)
    assert value == Outer(id="x", inner=Inner(cpu_shares=3, names=["a"]), flag=True)


def test_null_means_the_default() -> None:
    assert decode(b'{"ID":null,"inner":null,"flag":null,"many":null}', Outer) == Outer()


def test_unknown_keys_are_ignored() -> None:
    assert decode(b'{"nope":[1,{"x":2}]}', Outer) == Outer()


def test_a_map_keeps_the_case_of_its_own_keys() -> None:
    assert decode(b'{"many":{"aB":{"CPUSHARES":1}}}', Outer).many == {"aB": Inner(cpu_shares=1)}


def test_encoding_leaves_unset_fields_out() -> None:
    assert json.loads(encode(Outer(id="x"))) == {"ID": "x", "Many": {}, "Any": None, "Flag": False}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"ID":',
        b"[]",
        b"null",
        b"3",
        b'{"ID":3}',
        b'{"ID":"x"} {}',
        b'{"ID":"x"}garbage',
        b'{"any":{"x":NaN}}',
        b'{"any":{"x":Infinity}}',
        b'{"any":{"x":1e999}}',
        b'{"inner":{"CpuShares":9223372036854775808}}',
        b'{"inner":{"CpuShares":-9223372036854775809}}',
        b'{"inner":{"CpuShares":1.5}}',
        b'{"inner":{"CpuShares":"1"}}',
        b'{"inner":{"CpuShares":true}}',
        b'{"any":{"x":' + b"9" * 5000 + b"}}",
        b'{"any":{"x":18446744073709551616}}',
        b'{"ID":"\\u0000"}',
        b'{"any":{"a\\u0000b":1}}',
        b'{"ID":"\\ud800"}',
        b'{"ID":"\\ud800x"}',
        b'{"ID":"\\udc00\\ud800"}',
        b'{"ID":"\xff"}',
        b'{"ID":"\xed\xa0\x80"}',
        b'{"ID":"\n"}',
        b"\xef\xbb\xbf{}",
        b"{'ID':1}",
        b'{"ID":"x",}',
        b"[" * 200_000,
        b'{"any":' * 200_000,
        b'{"any":{"x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}}",
    ],
)
def test_bad_bodies_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidParameter) as caught:
        decode(text, Outer)
    assert len(str(caught.value)) < 500
    str(caught.value).encode()


def test_the_largest_numbers_and_depths_pass() -> None:
    text = b'{"inner":{"CpuShares":-9223372036854775808},"any":{"x":' + b"[" * 60 + b"]" * 60 + b"}}"
    assert decode(text, Outer).inner == Inner(cpu_shares=-(2**63))


def test_surrogate_pairs_are_characters() -> None:
    assert decode(b'{"ID":"\\ud83d\\ude00"}', Outer).id == "\U0001f600"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        decode(data, ContainerCreate)
    except InvalidParameter:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Image", "Cmd", "Env", "HostConfig", "Labels", "x"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(st.sampled_from(["image", "CMD", "HostConfig", "Labels", "Volumes", "x"]), json_values)
)
def test_any_json_is_read_or_refused(value: dict[str, Any]) -> None:
    try:
        decode(json.dumps(value).encode("utf-8", "surrogatepass"), ContainerCreate)
    except InvalidParameter:
        pass
