"""Routes under /volumes."""

from __future__ import annotations

from aiohttp import web

from wherry.api import versions
from wherry.api.call import Call
from wherry.api.routes import Route
from wherry.model.volumes import VolumeCreate


async def list_(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.volumes.list(call.filters()))


async def create(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.volumes.create(await call.body(VolumeCreate)), status=201)


async def inspect(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.volumes.inspect(call.ref))


async def update(call: Call) -> web.StreamResponse:
    await call.engine.volumes.update(call.ref)
    return call.empty(200)


async def remove(call: Call) -> web.StreamResponse:
    await call.engine.volumes.remove(call.ref, force=call.flag("force"))
    return call.empty()


async def prune(call: Call) -> web.StreamResponse:
    filters = call.filters()
    if call.version < versions.PRUNE_ANONYMOUS_VOLUMES:
        filters["all"] = ["true"]
    return call.json(await call.engine.volumes.prune(filters))


ROUTES = [
    Route("GET", "/volumes", list_),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{ref:path}", inspect),
    Route("PUT", "/volumes/{ref:path}", update),
    Route("DELETE", "/volumes/{ref:path}", remove),
]
