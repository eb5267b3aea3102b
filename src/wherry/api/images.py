"""Routes under /images."""

from __future__ import annotations

from aiohttp import web

from wherry.api import streams
from wherry.api.call import Call
from wherry.api.routes import Route
from wherry.errors import InvalidParameter
from wherry.model.images import decode_registry_auth


async def list_(call: Call) -> web.StreamResponse:
    rows = await call.engine.images.list(
        all=call.flag("all"),
        filters=call.filters(),
        shared_size=call.flag("shared-size"),
        digests=call.flag("digests"),
        manifests=call.flag("manifests"),
    )
    return call.json(rows, kind="image row")


async def create(call: Call) -> web.StreamResponse:
    """Pull (`fromImage`) or import (`fromSrc`): one endpoint in Docker's API."""
    images = call.engine.images
    platform = call.optional_text("platform")
    if call.text("fromImage"):
        auth = decode_registry_auth(call.request.headers.get("X-Registry-Auth", ""))
        return await streams.progress(
            call, images.pull(call.text("fromImage"), call.text("tag"), platform=platform, auth=auth)
        )
    source = call.text("fromSrc")
    if not source:
        raise InvalidParameter("give fromImage to pull an image, or fromSrc to import one")
    messages = images.import_image(
        source,
        call.text("repo"),
        call.text("tag"),
        message=call.text("message"),
        changes=call.texts("changes"),
        platform=platform,
        stream=call.stream() if source == "-" else None,
    )
    return await streams.progress(call, messages)


async def load(call: Call) -> web.StreamResponse:
    """Docker answers 200 before it looks at the archive, so all that is wrong with it is told in the stream."""
    messages = call.engine.images.load(
        call.stream(), quiet=call.flag("quiet"), platforms=call.texts("platform")
    )
    return await streams.progress(call, messages, in_band=True)


async def save_many(call: Call) -> web.StreamResponse:
    names = call.texts("names")
    if not names:
        raise InvalidParameter("no image name given: use names=…")
    return await streams.archive(call, call.engine.images.save(names), "application/x-tar")


async def save_one(call: Call) -> web.StreamResponse:
    return await streams.archive(call, call.engine.images.save([call.ref]), "application/x-tar")


async def inspect(call: Call) -> web.StreamResponse:
    found = await call.engine.images.inspect(
        call.ref, platform=call.optional_text("platform"), manifests=call.flag("manifests")
    )
    return call.json(found, kind="image")


async def history(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.images.history(call.ref))


async def tag(call: Call) -> web.StreamResponse:
    await call.engine.images.tag(call.ref, call.text("repo"), call.text("tag"))
    return call.empty(201)


async def remove(call: Call) -> web.StreamResponse:
    gone = await call.engine.images.remove(call.ref, force=call.flag("force"), noprune=call.flag("noprune"))
    return call.json(gone)


async def prune(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.images.prune(call.filters()))


ROUTES = [
    Route("GET", "/images/json", list_),
    Route("GET", "/images/get", save_many),
    Route("POST", "/images/create", create),
    Route("POST", "/images/load", load),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/{ref:path}/get", save_one),
    Route("GET", "/images/{ref:path}/json", inspect),
    Route("GET", "/images/{ref:path}/history", history),
    Route("POST", "/images/{ref:path}/tag", tag),
    Route("DELETE", "/images/{ref:path}", remove),
]
