"""Routes of execs: another process in a running container."""

from __future__ import annotations

from aiohttp import web

from wherry.api import versions
from wherry.api.call import Call
from wherry.api.containers import MULTIPLEXED_STREAM, RAW_STREAM, terminal_size
from wherry.api.hijack import Detached, hijack, stream_head
from wherry.api.routes import Route
from wherry.model.execs import ExecCreate, ExecStart


async def create(call: Call) -> web.StreamResponse:
    body = await call.optional_body(ExecCreate)
    if call.version < versions.CONSOLE_SIZE:
        body.console_size = None
    return call.json(await call.engine.execs.create(call.ref, body), status=201)


async def start(call: Call) -> web.StreamResponse:
    """The body is read to its end first: what comes behind it is already the process's input."""
    body = await call.optional_body(ExecStart)
    if call.version < versions.CONSOLE_SIZE:
        body.console_size = None
    attachment = await call.engine.execs.start(call.ref, body)
    if attachment is None:
        return call.empty(200)
    is_multiplexed = attachment.mux and call.version >= versions.MULTIPLEXED_TYPE
    head = stream_head(call.request, MULTIPLEXED_STREAM if is_multiplexed else RAW_STREAM)
    sock, pending = await hijack(call.request, head, settle=True)
    await attachment.deliver(sock, pending)
    return Detached()


async def resize(call: Call) -> web.StreamResponse:
    height, width = terminal_size(call)
    await call.engine.execs.resize(call.ref, height=height, width=width)
    return call.empty(200)


async def inspect(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.execs.inspect(call.ref))


ROUTES = [
    Route("POST", "/containers/{ref:path}/exec", create),
    Route("POST", "/exec/{ref}/start", start),
    Route("POST", "/exec/{ref}/resize", resize),
    Route("GET", "/exec/{ref}/json", inspect),
]
