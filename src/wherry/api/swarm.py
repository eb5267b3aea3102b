"""Routes of what an engine without Swarm and plugins still answers, because tools poll for it."""

from __future__ import annotations

from aiohttp import web

from wherry.api.call import Call
from wherry.api.routes import Route
from wherry.errors import NotFound, Unavailable, Unsupported

# Docker's text, byte for byte.
NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)


async def not_a_manager(call: Call) -> web.StreamResponse:
    raise Unavailable(NOT_A_MANAGER)


async def not_in_a_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable("This node is not part of a swarm")  # Docker's text


async def no_swarm(call: Call) -> web.StreamResponse:
    raise Unsupported("swarm mode is not supported yet")


async def list_plugins(call: Call) -> web.StreamResponse:
    call.filters()
    return call.json([])


async def no_such_plugin(call: Call) -> web.StreamResponse:
    raise NotFound(f'plugin "{call.ref}" not found')  # Docker's text


ROUTES = [
    Route("GET", "/plugins", list_plugins),
    Route("GET", "/plugins/{ref:path}/json", no_such_plugin),
    Route("POST", "/swarm/init", no_swarm),
    Route("POST", "/swarm/join", no_swarm),
    Route("POST", "/swarm/leave", not_in_a_swarm),
    *(
        Route(method, path, not_a_manager)
        for kind in ("swarm", "nodes", "services", "tasks", "secrets", "configs")
        for method in ("GET", "POST", "DELETE")
        for path in (f"/{kind}", f"/{kind}/{{ref:path}}")
    ),
]
