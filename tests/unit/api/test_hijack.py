from __future__ import annotations

import asyncio
import hashlib
import os
import socket

import pytest

from tests.fakes.engine import BULK, frame
from tests.unit.api.conftest import Raw, Server, eventually

UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"


def attach_head(name: str, upgrade: bytes = UPGRADE) -> bytes:
    query = b"stream=1&stdin=1&stdout=1&stderr=1"
    return b"POST /containers/%s/attach?%s HTTP/1.1\r\nHost: d\r\n%s\r\n" % (name.encode(), query, upgrade)


async def start_exec(
    server: Server, client: Raw, cmd: str, *, extra: bytes = b"", upgrade: bytes = UPGRADE
) -> None:
    """Send an exec's start, and `extra` in the same segment behind its body."""
    if not server.engine.containers.by_id:
        server.engine.containers.add("c")
    created = await server.ask("POST", "/containers/c/exec", {"Cmd": [cmd]})
    body = b'{"Detach":false,"Tty":false}'
    client.send(
        b"POST /exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n%s\r\n%s%s" % (created.json()["Id"].encode(), len(body), upgrade, body, extra)
    )


async def test_the_head_is_dockers_byte_for_byte(server: Server) -> None:
    server.engine.containers.add("run-hello")
    client = await server.connect()
    client.send(attach_head("run-hello"))
    assert await client.rest() == (
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + frame(1, b"hello\n")
    )


async def test_without_upgrade_the_answer_is_a_plain_200(server: Server) -> None:
    server.engine.containers.add("run-hello")
    client = await server.connect()
    client.send(attach_head("run-hello", upgrade=b""))
    assert await client.rest() == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n" + frame(1, b"hello\n")
    )


@pytest.mark.parametrize(("name", "version"), [("tty-run", "v1.51"), ("run-x", "v1.41")])
async def test_a_terminal_and_old_clients_get_the_raw_type(server: Server, name: str, version: str) -> None:
    server.engine.containers.add(name)
    client = await server.connect()
    client.send(attach_head(name).replace(b"POST /", b"POST /" + version.encode() + b"/"))
    _, headers = await client.head()
    assert headers["Content-Type"] == "application/vnd.docker.raw-stream"


async def test_stdin_in_the_heads_own_segment_arrives(server: Server) -> None:
    server.engine.containers.add("run-cat")
    client = await server.connect()
    client.send(attach_head("run-cat") + b"early")
    client.end()
    await client.head()
    assert await client.rest() == frame(1, b"early")


async def test_stdin_behind_the_body_of_exec_start_arrives(server: Server) -> None:
    client = await server.connect()
    await start_exec(server, client, "cat", extra=b"early\n")
    assert (await client.head())[0] == 101
    assert await client.reader.readexactly(14) == frame(1, b"early\n")
    client.send(b"later\n")
    assert await client.reader.readexactly(14) == frame(1, b"later\n")
    client.end()
    assert await client.rest() == b""


async def test_stdin_without_upgrade_arrives_too(server: Server) -> None:
    client = await server.connect()
    await start_exec(server, client, "cat", extra=b"early", upgrade=b"")
    client.end()
    assert (await client.head())[0] == 200
    assert await client.rest() == frame(1, b"early")


async def test_a_body_in_small_pieces_is_not_stdin(server: Server) -> None:
    server.engine.containers.add("c")
    created = await server.ask("POST", "/containers/c/exec", {"Cmd": ["cat"]})
    client = await server.connect()
    request = (
        b"POST /exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n%s\r\n" % (created.json()["Id"].encode(), UPGRADE)
    ) + b'5\r\n{"Tty\r\n8\r\n":false}\r\n0\r\n\r\nstdin'
    for at in range(len(request)):
        client.send(request[at : at + 1])
        await client.writer.drain()
        if at % 16 == 0:
            await asyncio.sleep(0)
    client.end()
    assert (await client.head())[0] == 101
    answer = await client.rest()
    assert b"".join(answer[i : i + 1] for i in range(8, len(answer))).replace(
        b"\x01\0\0\0", b""
    )  # at least one frame
    assert _payload(answer) == b"stdin"


def _payload(stream: bytes) -> bytes:
    out = b""
    while stream:
        size = int.from_bytes(stream[4:8], "big")
        out += stream[8 : 8 + size]
        stream = stream[8 + size :]
    return out


async def test_half_close_ends_stdin_and_output_goes_on(server: Server) -> None:
    client = await server.connect()
    await start_exec(server, client, "sink")
    await client.head()
    client.send(b"x" * 1000)
    client.end()
    assert await client.rest() == frame(1, hashlib.sha256(b"x" * 1000).hexdigest().encode())


async def test_much_stdin_sent_before_the_answer_is_kept_whole(server: Server) -> None:
    """More than is held: the client waits in its write, nothing is lost and memory is bounded."""
    server.engine.containers.add("run-sink")
    data = os.urandom(8_000_000)
    client = await server.connect()
    client.send(attach_head("run-sink") + data)
    client.end()
    assert (await client.head())[0] == 101
    assert await client.rest() == frame(1, hashlib.sha256(data).hexdigest().encode())


async def test_a_hundred_megabytes_in(server: Server) -> None:
    client = await server.connect()
    await start_exec(server, client, "sink")
    await client.head()
    digest = hashlib.sha256()
    part = os.urandom(1_000_000)
    for _ in range(BULK // len(part)):
        client.send(part)
        digest.update(part)
        await client.writer.drain()
    client.end()
    assert await client.rest() == frame(1, digest.hexdigest().encode())


async def test_a_hundred_megabytes_out(server: Server) -> None:
    client = await server.connect()
    await start_exec(server, client, "source")
    await client.head()
    size = 0
    while data := await client.reader.read(1 << 20):
        size += len(data)
    assert size == BULK + 8 * (BULK // 100_000)


async def test_a_hijack_on_a_reused_connection(server: Server) -> None:
    """docker-py attaches on a pooled connection that has carried other requests."""
    client = await server.connect()
    for _ in range(3):
        client.send(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        assert (await client.answer()).body == b"OK"
    await start_exec(server, client, "cat", extra=b"x")
    client.end()
    assert (await client.head())[0] == 101
    assert await client.rest() == frame(1, b"x")


async def test_a_hijack_pipelined_behind_another_request(server: Server) -> None:
    server.engine.containers.add("run-cat")
    client = await server.connect()
    client.send(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n" + attach_head("run-cat") + b"stdin")
    client.end()
    assert (await client.answer()).body == b"OK"
    assert (await client.head())[0] == 101
    assert await client.rest() == frame(1, b"stdin")


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    client = await server.connect()
    client.send(b"".join(b"GET /images/n%d/json HTTP/1.1\r\nHost: d\r\n\r\n" % n for n in range(200)))
    assert [(await client.answer()).json()["Id"] for _ in range(200)] == [f"n{n}" for n in range(200)]


async def test_pipelined_bodies_are_told_apart(server: Server) -> None:
    client = await server.connect()
    one = b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc"
    two = b"POST /images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
    client.send((one + two) * 20)
    for _ in range(20):
        for data in (b"abc", b"de"):
            wanted = f"{len(data)} {hashlib.sha256(data).hexdigest()}"
            assert (await client.answer()).json()["stream"] == wanted


async def test_a_flood_behind_a_busy_request_is_held_back(server: Server) -> None:
    server.engine.gate = asyncio.Event()
    server.engine.containers.add("c")
    client = await server.connect()
    client.send(b"POST /containers/c/stop HTTP/1.1\r\nHost: d\r\n\r\n")
    await server.engine.until_noted("stop")
    request = b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: %s\r\n\r\n" % (b"y" * 1000)
    client.send(request * 3000)
    await asyncio.sleep(0.2)
    (connection,) = server.app.connections
    assert len(connection._held) < 1 << 20  # pyright: ignore
    server.engine.gate.set()
    assert (await client.answer()).status == 204
    for _ in range(3000):
        assert (await client.answer()).status == 200


async def test_half_close_behind_an_ordinary_request_still_gets_the_answer(server: Server) -> None:
    server.engine.gate = asyncio.Event()
    server.engine.containers.add("c")
    client = await server.connect()
    client.send(b"POST /containers/c/stop HTTP/1.1\r\nHost: d\r\n\r\nGET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
    client.end()
    await server.engine.until_noted("stop")
    await asyncio.sleep(0.05)
    server.engine.gate.set()
    assert (await client.answer()).status == 204
    assert (await client.answer()).body == b"OK"
    assert await client.rest() == b""


async def test_a_client_that_leaves_does_not_cancel_a_stop(server: Server) -> None:
    server.engine.gate = asyncio.Event()
    server.engine.containers.add("c")
    client = await server.connect()
    client.send(b"POST /containers/c/stop HTTP/1.1\r\nHost: d\r\n\r\n")
    await server.engine.until_noted("stop")
    await client.close()
    await asyncio.sleep(0.05)
    server.engine.gate.set()
    await server.engine.until_noted("stopped")


async def test_an_error_before_the_hijack_is_an_ordinary_answer(server: Server) -> None:
    client = await server.connect()
    client.send(b"POST /exec/none/start HTTP/1.1\r\nHost: d\r\n" + UPGRADE + b"\r\n")
    answer = await client.answer()
    assert (answer.status, answer.message) == (404, "No such exec instance: none")
    client.send(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
    assert (await client.answer()).body == b"OK"


async def test_a_refused_attach_is_dockers_bare_text(server: Server) -> None:
    client = await server.connect()
    client.send(attach_head("none"))
    answer = await client.answer()
    assert (answer.status, answer.body) == (404, b"No such container: none\r\n")
    assert answer.headers["Content-Type"] == "application/vnd.docker.raw-stream"
    assert await client.rest() == b""


async def test_a_hijacked_connection_is_forgotten_by_the_server(server: Server) -> None:
    server.engine.containers.add("run-cat")
    client = await server.connect()
    client.send(attach_head("run-cat"))
    await client.head()
    await eventually(lambda: not server.app.connections)
    client.send(b"still there")
    assert await client.reader.readexactly(19) == frame(1, b"still there")


async def test_descriptors_return(server: Server) -> None:
    server.engine.containers.add("run-cat")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        client = await server.connect()
        client.send(attach_head("run-cat"))
        await client.head()
        await client.close()
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_http2_with_prior_knowledge_is_closed_at_once(server: Server) -> None:
    client = await server.connect()
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
    try:
        assert await asyncio.wait_for(client.rest(), 1) == b""
    except ConnectionResetError:
        pass


# Framing attacks: one answer of 400 or so, the connection closed, and no second request run


PING = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
ATTACKS = {
    "cl+te": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te+cl": b"POST /images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two cl": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "cl list": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 0, 0\r\n\r\n",
    "cl sign": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: +0\r\n\r\n",
    "cl hex": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 0x0\r\n\r\n",
    "cl huge": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "space before colon": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length : 0\r\n\r\n",
    "folded": b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: a\r\n b\r\n\r\n",
    "xchunked": b"POST /images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "no host": b"GET /_ping HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /_ping HTTP/1.1\r\nHost: d\r\nHost: e\r\n\r\n",
    "nul": b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: a\0b\r\n\r\n",
    "bare lf": b"GET /_ping HTTP/1.1\nHost: d\n\n",
    "bare cr": b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: a\rb\r\n\r\n",
    "http 9.9": b"GET /_ping HTTP/9.9\r\nHost: d\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "long line": b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\nHost: d\r\n\r\n",
    "long header": b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"a" * 4_000_000 + b"\r\n\r\n",
    "many headers": b"GET /_ping HTTP/1.1\r\nHost: d\r\n" + b"X: a\r\n" * 150_000 + b"\r\n",
    "300 headers": b"GET /_ping HTTP/1.1\r\nHost: d\r\n" + b"X: a\r\n" * 300 + b"\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: d\r\n\r\n",
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_framing_attacks_end_the_connection(server: Server, name: str) -> None:
    client = await server.connect()
    client.send(ATTACKS[name])
    client.send(PING)
    try:
        answer = await client.rest()
    except ConnectionResetError:
        return  # too much unread to answer politely
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert answer.split()[1] in (b"400", b"405", b"431", b"505"), answer
    assert b'{"message":' in answer
    assert not server.engine.noted("image")


@pytest.mark.parametrize(
    "body", [b"zz\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"3\nabc\n0\n\n"]
)
async def test_bad_chunks_end_the_connection(server: Server, body: bytes) -> None:
    client = await server.connect()
    client.send(
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + body + PING
    )
    answer = await client.rest()
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert answer.split()[1] == b"400"


async def test_a_body_cut_short_is_an_error_not_a_request(server: Server) -> None:
    client = await server.connect()
    client.send(
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        b'Content-Length: 100\r\n\r\n{"Image":"x"}'
    )
    client.end()
    answer = await client.rest()
    assert answer.split()[1] == b"400"
    assert not server.engine.noted("create")


async def test_an_upload_cut_short_is_an_error(server: Server) -> None:
    client = await server.connect()
    client.send(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n\r\nabc")
    client.end()
    answer = await client.answer()
    assert (answer.status, list(answer.json())) == (200, ["errorDetail", "error"])  # as Docker, in the stream
    assert await client.rest() == b""


async def test_half_close_behind_an_upload_is_no_disconnect(server: Server) -> None:
    client = await server.connect()
    client.send(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc")
    client.end()
    assert (await client.answer()).json()["stream"].startswith("3 ")
    assert await client.rest() == b""


async def test_hundreds_of_half_open_connections_cost_nobody_anything(server: Server) -> None:
    socks: list[socket.socket] = []
    for _ in range(300):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(server.path)
        sock.send(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Le")
        socks.append(sock)
    async with asyncio.timeout(1):
        assert (await server.ask("GET", "/_ping")).body == b"OK"
    for sock in socks:
        sock.close()
    await eventually(lambda: len(server.app.connections) <= 1)


async def test_100_continue_is_said(server: Server) -> None:
    client = await server.connect()
    client.send(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert (await client.answer()).json()["stream"].startswith("3 ")
