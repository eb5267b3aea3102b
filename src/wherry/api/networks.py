"""Routes of networks, as far as there are any: the built-in networks."""

from __future__ import annotations

from aiohttp import web

from wherry.api.call import Call
from wherry.api.routes import Route


async def list_(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.networks.list(call.filters()))


async def inspect(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.networks.inspect(call.ref))


ROUTES = [
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("GET", "/networks/{ref}", inspect),
]
