"""Detach keys, in Docker's spelling and across any cut of the input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.shim.keys import Detacher, parse


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-a", b"\x01"),
        ("a,b,c", b"abc"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x00\x1b\x1c\x1d\x1e\x1f"),
        ("DEL", b"\x7f"),
    ],
)
def test_keys_are_spelled_as_in_docker(text, keys):
    assert parse(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "abc", "a,", "ctrl-ab", "é"])
def test_what_is_no_key_is_refused_by_name(text):
    with pytest.raises(ValueError, match="Unknown character: '"):
        parse(text)


def test_a_prefix_is_held_back_until_the_next_key_decides():
    detacher = Detacher(b"\x10\x11")
    assert detacher.feed(b"a\x10") == b"a"
    assert detacher.feed(b"b") == b"\x10b"
    assert detacher.feed(b"\x10") == b""
    assert detacher.feed(b"\x10") == b"\x10"
    assert detacher.feed(b"\x11") == b""
    assert detacher.detached


def test_repeated_prefixes_are_not_lost():
    detacher = Detacher(b"aab")
    assert b"".join(detacher.feed(bytes([byte])) for byte in b"aaab") == b"a"
    assert detacher.detached


@given(st.lists(st.binary(max_size=4)), st.sampled_from([b"\x10\x11", b"aab", b"aba", b"x"]))
def test_any_cut_gives_what_one_piece_gives(pieces, keys):
    whole = b"".join(pieces)
    detacher = Detacher(keys)
    out = b""
    for piece in pieces:
        out += detacher.feed(piece)
        if detacher.detached:
            break
    before, found, _ = whole.partition(keys)
    assert detacher.detached == bool(found)
    if found:
        assert out == before
    else:
        assert whole.startswith(out)
        assert keys.startswith(whole[len(out) :])
