"""Routes for a container's files: /archive, /changes, /export; and POST /commit."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiohttp import web

from wherry.api import streams
from wherry.api.call import Call
from wherry.api.routes import Route
from wherry.engine.times import rfc3339
from wherry.errors import InvalidParameter
from wherry.model import wire
from wherry.model.files import Change, PathStat

if TYPE_CHECKING:
    from wherry.files.client import PathStat as Found

TAR = "application/x-tar"
STAT_HEADER = "X-Docker-Container-Path-Stat"
OWNER_HEADER = "X-Engine-Chown"
"""Ours: `user[:group]` of what an upload makes, names as the container has them."""


def _path(call: Call) -> str:
    if not call.text("path"):
        raise InvalidParameter("bad parameter: pathcannot be empty")  # Docker's text
    return call.text("path")


async def stat(call: Call) -> web.StreamResponse:
    found = await call.engine.files.stat(call.ref, _path(call))
    return web.Response(headers={**call.headers, STAT_HEADER: _stat_header(found)})


async def download(call: Call) -> web.StreamResponse:
    async with call.engine.files.archive(call.ref, _path(call)) as (found, pieces):
        headers = {**call.headers, STAT_HEADER: _stat_header(found), "Content-Type": TAR}
        packed: AsyncIterator[bytes] = pieces
        coding = _coding(call.request.headers.get("Accept-Encoding", ""))
        if coding:
            headers["Content-Encoding"] = coding
            packed = _compressed(pieces, coding)
        response = web.StreamResponse(headers=headers)
        with streams.UntilGone(call):
            await response.prepare(call.request)
            async for piece in packed:
                await response.write(piece)
    return response


async def upload(call: Call) -> web.StreamResponse:
    await call.engine.files.extract(
        call.ref,
        _path(call),
        call.stream(),
        merge_only=call.flag("noOverwriteDirNonDir"),
        owner=call.request.headers.get(OWNER_HEADER, ""),
    )
    return call.empty(200)


async def changes(call: Call) -> web.StreamResponse:
    found = await call.engine.files.changes(call.ref)
    return call.json([Change(path=path, kind=kind) for kind, path in found] or None)


async def export(call: Call) -> web.StreamResponse:
    with streams.UntilGone(call):
        return await streams.archive(call, call.engine.files.export(call.ref), "application/octet-stream")


def _stat_header(found: Found) -> str:
    shown = PathStat(
        name=found.name,
        size=found.size,
        mode=found.mode,
        mtime=rfc3339(found.mtime_ns),
        link_target=found.target,
    )
    return base64.b64encode(wire.encode(shown)).decode()


def _coding(accepted: str) -> str:
    """How to compress, by what the client takes: Docker asks for nothing but the bare words."""
    words = [word.strip().lower() for word in accepted.split(",")]
    return next((word for word in words if word in ("gzip", "deflate")), "")


async def _compressed(pieces: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31 if coding == "gzip" else -15)
    async for piece in pieces:
        if data := packer.compress(piece):
            yield data
    yield packer.flush()


ROUTES = [
    Route("HEAD", "/containers/{ref:path}/archive", stat),
    Route("GET", "/containers/{ref:path}/archive", download),
    Route("PUT", "/containers/{ref:path}/archive", upload),
    Route("GET", "/containers/{ref:path}/changes", changes),
    Route("GET", "/containers/{ref:path}/export", export),
]
