"""The client of the API against a server in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.unit.client.servers import Request, Server, json_answer
from wherry.client.address import parse_address
from wherry.client.api import ApiError, CannotConnect, Client, escape, filters, messages, segment
from wherry.client.http import ProtocolError
from wherry.errors import InvalidParameter, Unavailable


@pytest.fixture
def path(tmp_path: object) -> str:
    return os.path.join(str(tmp_path), "s")


def client_of(path: str) -> Client:
    return Client(parse_address(f"unix://{path}"))


def test_get_decodes_and_the_connection_is_used_again(path: str) -> None:
    with Server(path, lambda _request: json_answer('{"A": [1, 2]}')) as server:
        client = client_of(path)
        assert client.get("/x", (("a b", "c/d"),)) == {"A": [1, 2]}
        assert client.get("/y") == {"A": [1, 2]}
        assert server.connections == 1
        assert [request.target for request in server.requests] == ["/x?a%20b=c%2Fd", "/y"]


def test_a_kept_connection_that_was_closed_is_replaced_before_use(path: str) -> None:
    with Server(path, lambda _request: [*json_answer("{}"), b""][:1]) as server:
        client = client_of(path)
        client.get("/x")
        client.close()
        client.get("/y")
        assert server.connections == 2


def test_refusals_carry_status_and_message(path: str) -> None:
    with Server(path, lambda _request: json_answer('{"message": "No such container: x"}', "404 Not Found")):
        with pytest.raises(ApiError, match="No such container: x") as caught:
            client_of(path).get("/containers/x/json")
        assert caught.value.status == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("plain text\n", "plain text"),
        ("", "request returned status 500"),
        ('{"a": 1}', '{"a": 1}'),
        ("[", "["),
    ],
)
def test_refusals_without_a_message_say_what_there_is(path: str, body: str, message: str) -> None:
    with Server(path, lambda _request: json_answer(body, "500 No")), pytest.raises(ApiError) as caught:
        client_of(path).get("/x")
    assert str(caught.value) == message


def test_an_answer_that_is_not_json_is_refused(path: str) -> None:
    with Server(path, lambda _request: json_answer("<html>")), pytest.raises(ProtocolError, match="not JSON"):
        client_of(path).get("/x")


def test_nobody_there(path: str) -> None:
    with pytest.raises(CannotConnect, match=f"Cannot connect to the wherry daemon at unix://{path}"):
        client_of(path).get("/x")


def test_an_engine_that_hangs_up_is_named(path: str) -> None:
    with Server(path, lambda _request: []), pytest.raises(Unavailable, match="closed the connection"):
        client_of(path).get("/x")


def test_upgrade_gives_the_raw_connection(path: str) -> None:
    def answer(request: Request) -> list[bytes]:
        assert request.headers["upgrade"] == "tcp"
        return [b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", b"hello"]

    with Server(path, answer):
        response = client_of(path).upgrade("/containers/x/attach")
        sock, early = response.hijack()
        data = early
        while len(data) < 5:
            data += sock.recv(100)
        assert data == b"hello"
        sock.close()


@pytest.mark.parametrize(
    "pieces",
    [
        [b'{"a":1}\r\n{"b":"\xc3\xa9"}\n'],
        [b'{"a":1}{"b":', b'"\xc3', b'\xa9"}'],
        [bytes([byte]) for byte in '{"a":1}\n{"b":"é"}\n'.encode()],
        [b'\x1e{"a":1}\n\x1e{"b":"\xc3\xa9"}\n'],
    ],
)
def test_messages_are_told_apart_however_they_are_cut(path: str, pieces: list[bytes]) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    with Server(path, lambda _request: [head, *chunks, b"0\r\n\r\n"]):
        stream: Iterator[object] = messages(client_of(path).call("GET", "/events"))
        assert list(stream) == [{"a": 1}, {"b": "é"}]


def test_a_stream_that_ends_inside_a_message_is_an_error(path: str) -> None:
    with Server(path, lambda _request: json_answer('{"a":1}{"b":')):
        stream = messages(client_of(path).call("GET", "/events"))
        assert next(stream) == {"a": 1}
        with pytest.raises(ProtocolError, match="ends inside a message"):
            next(stream)


def test_names_are_escaped_where_they_would_change_the_path() -> None:
    assert segment("registry:5000/a/b:1@sha256:00") == "registry:5000/a/b:1@sha256:00"
    assert segment("a?b#c d\r\nX: y") == "a%3Fb%23c%20d%0D%0AX:%20y"
    assert escape("a/b c") == "a%2Fb%20c"


def test_filters_are_a_map_of_sets() -> None:
    assert filters({}) == ()
    assert filters({"name": ["x", "y"], "label": ["a=b"]}) == (
        ("filters", '{"label":{"a=b":true},"name":{"x":true,"y":true}}'),
    )


@pytest.mark.parametrize(
    ("text", "shown", "parts"),
    [
        ("unix:///run/x.sock", "unix:///run/x.sock", ("/run/x.sock", "", 0)),
        ("unix://", "unix:///run/wherry/wherry.sock", ("/run/wherry/wherry.sock", "", 0)),
        ("tcp://10.0.0.1:99", "tcp://10.0.0.1:99", ("", "10.0.0.1", 99)),
        ("tcp://example", "tcp://example:2375", ("", "example", 2375)),
        ("tcp://:99", "tcp://127.0.0.1:99", ("", "127.0.0.1", 99)),
        ("example:99", "tcp://example:99", ("", "example", 99)),
        ("tcp://[::1]:99", "tcp://[::1]:99", ("", "::1", 99)),
    ],
)
def test_addresses(text: str, shown: str, parts: tuple[str, str, int]) -> None:
    address = parse_address(text)
    assert address.text == shown
    assert (address.path, address.host, address.port) == parts


@pytest.mark.parametrize("text", ["bogus://x", "tcp://a:port", "tcp://a:99999", "fd://", "ssh://"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid bind address format"):
        parse_address(text)


def test_ssh_takes_no_options_from_a_name() -> None:
    from wherry.client.ssh import ssh_command

    assert ssh_command("me@host:22")[-7:] == ["-p", "22", "--", "me@host", "docker", "system", "dial-stdio"]
    for text in ("-oProxyCommand=x", "a@-x", "host:22x"):
        with pytest.raises(InvalidParameter):
            ssh_command(text)
