"""The API over a fake engine on a real unix socket, and raw clients for it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest_asyncio

from tests.fakes.engine import FakeEngine
from wherry.api.app import Api, ApiSettings, build_app, serve


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return self.json()["message"]


class Raw:
    """A client that writes exactly what it is told and reads answers one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def end(self) -> None:
        self.writer.write_eof()

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(10):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *rest = text.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in rest)
        return int(first.split()[1]), headers

    async def answer(self) -> Answer:
        status, headers = await self.head()
        body = b""
        async with asyncio.timeout(10):
            if "Content-Length" in headers:
                body = await self.reader.readexactly(int(headers["Content-Length"]))
            elif headers.get("Transfer-Encoding") == "chunked":
                while part := await self.chunk():
                    body += part
        return Answer(status, headers, body)

    async def chunk(self) -> bytes:
        """One chunk; empty for the last one."""
        async with asyncio.timeout(10):
            size = int((await self.reader.readline()).strip(), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(30):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


@dataclass
class Server:
    engine: FakeEngine
    app: Api
    path: str
    clients: list[Raw] = field(default_factory=list)

    async def connect(self) -> Raw:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 20)
        client = Raw(reader, writer)
        self.clients.append(client)
        return client

    async def ask(
        self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own. `body`: bytes as they are, anything else as JSON."""
        client = await self.connect()
        data = b""
        fields = {"Host": "docker", **(headers or {})}
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            fields.setdefault("Content-Type", "application/json")
            fields["Content-Length"] = str(len(data))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        client.send(head.encode() + b"\r\n" + data)
        answer = await client.answer() if method != "HEAD" else Answer(*await client.head(), b"")
        await client.close()
        return answer


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    # A short path: pytest's own do not fit into a socket address.
    directory = tempfile.mkdtemp(prefix="wherry-api-")
    path = os.path.join(directory, "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    engine = FakeEngine()
    app = build_app(engine, ApiSettings(engine_version="28.0.0-test"))
    servers = await serve(app, [listener])
    it = Server(engine, app, path)
    try:
        yield it
    finally:
        for client in it.clients:
            await client.close()
        for one in servers:
            one.close()
        await app.shutdown(1)
        engine.close()
        shutil.rmtree(directory)


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when `holds()` is true, which must be soon."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # what it looks at is no event of ours
            await asyncio.sleep(0.005)
