"""Routes of networks."""

from __future__ import annotations

from aiohttp import web

from wherry.api import versions
from wherry.api.call import Call
from wherry.api.routes import Route
from wherry.errors import NotFound
from wherry.model.networks import NetworkConnect, NetworkCreate, NetworkDisconnect


async def list_(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.networks.list(call.filters()), kind="network")


async def inspect(call: Call) -> web.StreamResponse:
    """`verbose` adds what only a cluster has; with another `scope` than ours there is no such network."""
    call.flag("verbose")
    network = await call.engine.networks.inspect(call.ref)
    if call.text("scope") not in ("", network.scope):
        raise NotFound(f"network {call.ref} not found")  # Docker's text
    return call.json(network, kind="network")


async def create(call: Call) -> web.StreamResponse:
    body = await call.body(NetworkCreate)
    if call.version < versions.ENABLE_IPV4:
        body.enable_ipv4 = None
    return call.json(await call.engine.networks.create(body), status=201)


async def remove(call: Call) -> web.StreamResponse:
    await call.engine.networks.remove(call.ref)
    return call.empty(204)


async def connect(call: Call) -> web.StreamResponse:
    body = await call.body(NetworkConnect)
    await call.engine.networks.connect(call.ref, body.container, body.endpoint_config)
    return call.empty(200)


async def disconnect(call: Call) -> web.StreamResponse:
    body = await call.body(NetworkDisconnect)
    await call.engine.networks.disconnect(call.ref, body.container, force=body.force)
    return call.empty(200)


async def prune(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.networks.prune(call.filters()))


ROUTES = [
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("GET", "/networks/{ref}", inspect),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("POST", "/networks/{ref}/connect", connect),
    Route("POST", "/networks/{ref}/disconnect", disconnect),
    Route("DELETE", "/networks/{ref}", remove),
]
