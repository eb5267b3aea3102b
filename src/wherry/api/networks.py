"""Routes of networks and volumes, as far as there are any: the built-in networks, and no volumes yet."""

from __future__ import annotations

from aiohttp import web

from wherry.api.call import Call
from wherry.api.routes import Route
from wherry.errors import NotFound


async def list_(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.networks.list(call.filters()))


async def inspect(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.networks.inspect(call.ref))


async def list_volumes(call: Call) -> web.StreamResponse:
    call.filters()
    return call.json({"Volumes": [], "Warnings": None})


async def inspect_volume(call: Call) -> web.StreamResponse:
    raise NotFound(f"get {call.ref}: no such volume")  # Docker's text


ROUTES = [
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("GET", "/networks/{ref}", inspect),
    Route("GET", "/volumes", list_volumes),
    Route("GET", "/volumes/{ref}", inspect_volume),
]
