from __future__ import annotations

import asyncio

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.engine import frame
from tests.unit.api.conftest import Server, eventually
from wherry.api.websocket import Unframer


@given(st.lists(st.binary(max_size=20), max_size=6), st.integers(1, 9))
def test_frames_are_unpacked_however_they_are_cut(parts: list[bytes], step: int) -> None:
    stream = b"".join(frame(1 + n % 2, part) for n, part in enumerate(parts))
    unframer = Unframer()
    out = b"".join(unframer.feed(stream[at : at + step]) for at in range(0, len(stream), step))
    assert out == b"".join(parts)


def session(server: Server) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(server.path))


@pytest.mark.parametrize("name", ["run-cat", "tty-run-cat"])
async def test_bytes_go_both_ways(server: Server, name: str) -> None:
    container = server.engine.containers.add(name)
    container.name = "run " + name
    async with (
        session(server) as http,
        http.ws_connect(f"http://d/containers/{container.id}/attach/ws?stream=1") as ws,
    ):
        await ws.send_bytes(b"abc")
        assert await ws.receive_bytes(timeout=5) == b"abc"
        await ws.send_str("text")
        assert await ws.receive_bytes(timeout=5) == b"text"


async def test_old_clients_get_text(server: Server) -> None:
    server.engine.containers.add("run-cat")
    async with session(server) as http, http.ws_connect("http://d/v1.27/containers/run-cat/attach/ws") as ws:
        await ws.send_bytes(b"abc")
        assert await ws.receive_str(timeout=5) == "abc"


async def test_the_socket_closes_when_the_output_ends(server: Server) -> None:
    server.engine.containers.add("run-hello")
    async with session(server) as http, http.ws_connect("http://d/containers/run-hello/attach/ws") as ws:
        assert await ws.receive_bytes(timeout=5) == b"hello\n"
        assert (await ws.receive(timeout=5)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    await eventually(lambda: not server.app.connections)


async def test_what_is_no_handshake_is_refused(server: Server) -> None:
    server.engine.containers.add("run-cat")
    answer = await server.ask("GET", "/containers/run-cat/attach/ws")
    assert answer.status == 400
    assert (await server.ask("GET", "/containers/none/attach/ws")).status == 404


async def test_a_handshake_with_a_half_close_ends(server: Server) -> None:
    server.engine.containers.add("run-cat")
    client = await server.connect()
    client.send(
        b"GET /containers/run-cat/attach/ws HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    client.end()
    await client.rest()
    await eventually(lambda: not server.app.connections)


async def test_frames_in_the_handshakes_own_segment_arrive(server: Server) -> None:
    server.engine.containers.add("run-cat")
    client = await server.connect()
    client.send(
        b"GET /containers/run-cat/attach/ws HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        b"\x82\x83\0\0\0\0abc"
    )
    assert (await client.head())[0] == 101
    async with asyncio.timeout(5):
        assert await client.reader.readexactly(5) == b"\x82\x03abc"
