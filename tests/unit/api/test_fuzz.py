"""Whatever bytes come, in whatever pieces: an answer or the end of the connection, never an exception or a hang."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.engine import FakeEngine
from wherry.api.app import ApiSettings, build_app

HONEST = [
    b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n",
    b"HEAD /_ping HTTP/1.0\r\n\r\n",
    b"GET /containers/json?all=1 HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n",
    b'POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"Image":"x"}',
    b"POST /images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST /images/load HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /exec/x/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /containers/run-cat/attach?stream=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nab",
    b"GET /containers/run-cat/attach/ws HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\x82\x83\0\0\0\0abc",
    b"GET /nope HTTP/1.1\r\nHost: d\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@st.composite
def streams(draw: Any) -> list[bytes]:
    """Honest requests one behind the other, damaged here and there and cut into pieces."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(HONEST), min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 3))
        if kind == 0 and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == 1:
            data[at:at] = draw(st.binary(max_size=6))
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 20))]
        else:
            data[at:at] = draw(
                st.sampled_from(
                    [
                        b"\r\n",
                        b"\n",
                        b"\r\n\r\n",
                        b"0\r\n\r\n",
                        b"Content-Length: 5\r\n",
                        b"Transfer-Encoding: chunked\r\n",
                    ]
                )
            )
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Errors(logging.Handler):
    """Collects what the API logs as its own mistake."""

    def __init__(self, found: list[object]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(self.format(record))


async def converse(pieces: list[bytes]) -> list[object]:
    """Send the pieces, close our side, read to the end. Returns what the event loop and the API complained about."""
    loop = asyncio.get_running_loop()
    complaints: list[object] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    errors = Errors(complaints)
    logging.getLogger("wherry.api").addHandler(errors)
    engine = FakeEngine()
    engine.containers.add("run-cat")
    app = build_app(engine, ApiSettings(engine_version="1"))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    await loop.connect_accepted_socket(app, theirs)
    async with asyncio.timeout(5):
        try:
            for piece in pieces:
                await loop.sock_sendall(ours, piece)
                await asyncio.sleep(0)
            ours.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(ours, 1 << 16):
                pass
        except (ConnectionError, OSError):
            pass
    ours.close()
    await app.shutdown(1)
    engine.close()
    logging.getLogger("wherry.api").removeHandler(errors)
    return complaints


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams())
def test_damaged_requests_are_answered_or_cut_off(pieces: list[bytes]) -> None:
    assert asyncio.run(converse(pieces)) == []


@pytest.mark.parametrize("seed", range(30))
def test_noise_is_answered_or_cut_off(seed: int) -> None:
    noise = random.Random(seed)
    pieces = [noise.randbytes(noise.randrange(1, 5000)) for _ in range(noise.randrange(1, 5))]
    assert asyncio.run(converse(pieces)) == []
