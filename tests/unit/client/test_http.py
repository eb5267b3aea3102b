"""The HTTP client against bytes that a peer may send."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.client.http import Connection, Disconnected, ProtocolError, Response


class Canned:
    """A socket whose peer has said everything already, in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""
        self.closed = False

    def recv(self, bufsize: int, /) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > bufsize:
            self.pieces.insert(0, piece[bufsize:])
        return piece[:bufsize]

    def sendall(self, data: bytes | memoryview, /) -> None:
        self.sent += bytes(data)

    def send(self, data: bytes | memoryview, /) -> int:
        self.sent += bytes(data)
        return len(data)

    def fileno(self) -> int:
        return -1

    def shutdown(self, how: int, /) -> None: ...

    def close(self) -> None:
        self.closed = True

    def settimeout(self, value: float | None, /) -> None: ...


def ask(*pieces: bytes, method: str = "GET") -> tuple[Response, Canned]:
    sock = Canned(*pieces)
    return Connection(sock, "test").request(method, "/x"), sock


def test_request_has_the_lines_a_server_needs() -> None:
    _, sock = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", method="POST")
    assert sock.sent == b"POST /x HTTP/1.1\r\nHost: test\r\nUser-Agent: wherry\r\nContent-Length: 0\r\n\r\n"


def test_body_by_length_leaves_the_connection_for_the_next_request() -> None:
    response, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    assert response.connection.busy
    assert response.read() == b"hello"
    assert response.connection.reusable
    assert not response.connection.busy


def test_body_in_chunks_with_extensions_and_trailers() -> None:
    response, _ = ask(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5;a=b\r\nhello\r\n",
        b"6\r\n world\r\n0\r\nTrailer: x\r\n\r\n",
    )
    assert response.read() == b"hello world"
    assert response.connection.reusable


def test_body_until_the_connection_closes() -> None:
    response, _ = ask(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo")
    assert response.read() == b"hello"
    assert not response.connection.reusable


def test_pieces_come_as_they_arrive() -> None:
    response, _ = ask(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n"
    )
    assert list(response.pieces()) == [b"abc", b"de"]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_no_body_where_there_can_be_none(status: str) -> None:
    response, _ = ask(f"HTTP/1.1 {status}\r\n\r\n".encode())
    assert response.read() == b""
    assert response.connection.reusable


def test_an_interim_answer_is_passed_over() -> None:
    response, _ = ask(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (response.status, response.read()) == (200, b"ok")


def test_an_upgrade_hands_over_what_was_read_already() -> None:
    response, sock = ask(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\nearly")
    taken, early = response.hijack()
    assert taken is sock
    assert early == b"early"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200",
    ],
)
def test_a_malformed_head_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ask(data)


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nabc\r\n", b"-3\r\nabc\r\n", b"3\r\nabcd\r\n", b"5\r\nabc", b"fffffffffffffffffffff\r\n", b""],
)
def test_malformed_chunks_are_refused(body: bytes) -> None:
    response, _ = ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    with pytest.raises(ProtocolError):
        response.read()


def test_a_body_that_ends_early_is_refused() -> None:
    response, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    with pytest.raises(ProtocolError, match="unexpected EOF"):
        response.read()


def test_a_body_longer_than_the_limit_is_refused() -> None:
    response, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789")
    with pytest.raises(ProtocolError, match="longer than 5"):
        response.read(5)


def test_no_answer_at_all_is_told_apart() -> None:
    with pytest.raises(Disconnected):
        ask()


def test_a_body_of_unknown_length_goes_out_in_chunks() -> None:
    sock = Canned(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    Connection(sock, "test").request("POST", "/x", body=iter([b"abc", b"", b"de"]))
    assert sock.sent.partition(b"\r\n\r\n")[2] == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


def test_an_early_refusal_is_read_although_the_body_was_not_taken() -> None:
    class Refusing(Canned):
        def sendall(self, data: bytes | memoryview, /) -> None:
            if b"HTTP/1.1" not in bytes(data):
                raise BrokenPipeError

    sock = Refusing(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert Connection(sock, "test").request("POST", "/x", body=iter([b"abc"])).status == 413


def test_a_closed_connection_is_not_idle() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        connection = Connection(ours, "test")
        assert connection.is_idle()
        theirs.close()
        assert not connection.is_idle()


@given(
    body=st.binary(max_size=300),
    cuts=st.lists(st.integers(1, 40), max_size=30),
    chunks=st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_any_cutting_of_a_chunked_answer_reads_the_same(
    body: bytes, cuts: list[int], chunks: list[int]
) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    rest = body
    for size in chunks:
        if piece := rest[:size]:
            data += b"%x\r\n%b\r\n" % (len(piece), piece)
        rest = rest[size:]
    if rest:
        data += b"%x\r\n%b\r\n" % (len(rest), rest)
    data += b"0\r\n\r\n"
    pieces: list[bytes] = []
    for cut in cuts:
        if data[:cut]:
            pieces.append(data[:cut])
        data = data[cut:]
    pieces.append(data or b"\0")
    if not data:
        pieces.pop()
    response, _ = ask(*pieces)
    assert response.read() == body


@given(st.binary(max_size=200))
def test_no_answer_makes_anything_but_a_clear_error(data: bytes) -> None:
    def read() -> bytes:
        response, _ = ask(data)
        return response.read()

    _only_our_errors(read)


def _only_our_errors(act: Callable[[], object]) -> None:
    try:
        act()
    except (ProtocolError, Disconnected):
        pass
