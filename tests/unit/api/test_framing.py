from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api.framing import MAX_HEAD, Chunks, FramingError, body_length, check_beginning


def head(*lines: str, first: str = "POST /x HTTP/1.1", host: bool = True) -> bytes:
    return "\r\n".join([first, *(["Host: d"] if host else []), *lines, "", ""]).encode("latin-1")


def test_no_body_unless_announced() -> None:
    assert body_length(head()) == 0


def test_content_length_counts() -> None:
    assert body_length(head("Content-Length: 12")) == 12
    assert body_length(head("content-length:12  ")) == 12


def test_chunked_has_no_length() -> None:
    assert body_length(head("Transfer-Encoding: chunked")) is None
    assert body_length(head("transfer-encoding: Chunked")) is None


def test_http_10_needs_no_host() -> None:
    assert body_length(head(first="GET / HTTP/1.0", host=False)) == 0


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 1", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 1"],
        ["Content-Length: 1", "Content-Length: 1"],
        ["Content-Length: 1", "Content-Length: 2"],
        ["Content-Length: 1, 1"],
        ["Content-Length: +1"],
        ["Content-Length: -1"],
        ["Content-Length: 0x1"],
        ["Content-Length: 1 2"],
        ["Content-Length: 9999999999999999999999"],
        ["Content-Length:"],
        ["Content-Length : 1"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding:\x0bchunked"],
        ["X: 1", " folded: 2"],
        ["X: a\x00b"],
        ["X: a\rb"],
        ["X: a\nb"],
        ["X"],
        [": x"],
        ["Host: other"],
    ],
)
def test_ambiguous_heads_are_refused(lines: list[str]) -> None:
    with pytest.raises(FramingError):
        body_length(head(*lines))


@pytest.mark.parametrize(
    "first",
    [
        "GET / HTTP/9.9",
        "GET / HTTP/2.0",
        "GET / HTTP/1.11",
        "GET / http/1.1",
        "GET /",
        "GET  / HTTP/1.1",
        "GET / / HTTP/1.1",
        "G@T / HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "",
    ],
)
def test_malformed_request_lines_are_refused(first: str) -> None:
    with pytest.raises(FramingError):
        body_length(head(first=first))


def test_http_11_without_host_is_refused() -> None:
    with pytest.raises(FramingError, match="host"):
        body_length(head(host=False))


@pytest.mark.parametrize(
    "part", [b"\x16\x03\x01\x02", b"GET / HTTP/1.1\nHost: x\n", b"G" * (MAX_HEAD + 1), b" GET"]
)
def test_hopeless_beginnings_are_refused_early(part: bytes) -> None:
    with pytest.raises(FramingError):
        check_beginning(part)


def test_honest_beginnings_are_waited_for() -> None:
    check_beginning(b"")
    check_beginning(b"GET / HTTP/1.1\r\nHos")


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=8),
    st.binary(max_size=30),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
def test_chunks_end_where_they_end_however_they_arrive(
    parts: list[bytes], behind: bytes, steps: list[int]
) -> None:
    body = chunked(*parts)
    stream = body + behind
    chunks = Chunks()
    held = b""
    taken = at = turn = 0
    while not chunks.is_done:
        step = steps[turn % len(steps)]
        turn += 1
        held += stream[at : at + step]
        at += step
        size = chunks.consume(held)
        held = held[size:]
        taken += size
    assert taken == len(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_or_refused(data: bytes) -> None:
    chunks = Chunks()
    try:
        assert 0 <= chunks.consume(data) <= len(data)
    except FramingError:
        pass


def test_extensions_and_trailers_are_allowed() -> None:
    body = b"3;a=b\r\nabc\r\n" + b"0\r\nX: y\r\n\r\n"
    chunks = Chunks()
    assert chunks.consume(body + b"GET") == len(body)
    assert chunks.is_done


@pytest.mark.parametrize(
    "body",
    [
        b"xyz\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3\nabc\r\n",
        b"\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n\r",
        b"ffffffffffffffffff\r\n",
        b"7fffffffffffffff\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"1;" + b"a" * 5000,
    ],
)
def test_malformed_chunks_are_refused(body: bytes) -> None:
    with pytest.raises(FramingError):
        Chunks().consume(body)
