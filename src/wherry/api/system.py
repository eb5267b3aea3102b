"""Routes about the engine itself: ping, version, info, events, registry login."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from wherry.api import streams, versions
from wherry.api.call import Call
from wherry.api.routes import Route
from wherry.errors import InvalidParameter
from wherry.model.events import Event
from wherry.model.images import AuthConfig


async def ping(call: Call) -> web.StreamResponse:
    headers = {
        **call.headers,
        "Builder-Version": "1",
        "Swarm": "inactive",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Content-Type": "text/plain; charset=utf-8",
        **await call.engine.system.ping(),
    }
    if call.request.method == "HEAD":
        # Docker says 0 here, not the length that GET would have.
        return web.Response(headers={**headers, "Content-Length": "0"})
    return web.Response(body=b"OK", headers=headers)


async def version(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.system.version())


async def info(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.system.info())


async def events(call: Call) -> web.StreamResponse:
    stream = call.engine.events.subscribe(
        since_ns=call.optional_time_ns("since"),
        until_ns=call.optional_time_ns("until"),
        filters=call.filters(),
    )
    if call.version < versions.IMAGE_CREATE_EVENT:
        stream = _without_image_create(stream)
    return await streams.lines(call, stream, "application/json")


async def _without_image_create(stream: AsyncIterator[Event]) -> AsyncIterator[Event]:
    try:
        async for event in stream:
            if (event.type, event.action) != ("image", "create"):
                yield event
    finally:
        await streams.close(stream)


async def disk_usage(call: Call) -> web.StreamResponse:
    kinds = call.texts("type") if call.version >= versions.DISK_USAGE_TYPES else []
    for kind in kinds:
        if kind not in ("container", "image", "volume", "build-cache"):
            raise InvalidParameter(f"unknown object type: {kind}")  # Docker's text
    return call.json(await call.engine.system.disk_usage(kinds))


async def login(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.images.login(await call.body(AuthConfig)))


ROUTES = [
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/events", events),
    Route("GET", "/system/df", disk_usage),
    Route("POST", "/auth", login),
]
