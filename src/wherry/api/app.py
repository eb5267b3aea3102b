"""The API as one callable for aiohttp's low-level server: path to route, route to answer, error to answer.

`build_app` makes it, `serve` puts it on listening sockets. There is no aiohttp Application in between: the API has
one shape of path, one error format and its own way of leaving HTTP, and each layer less is time and memory.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
import re
import ssl
from collections.abc import Iterable
from socket import socket
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec
from aiohttp import web

from wherry.api import containers, errors, execs, files, images, networks, swarm, system, versions, volumes
from wherry.api.call import Call
from wherry.api.contract import Engine
from wherry.api.framing import MAX_FIELDS
from wherry.api.hijack import Connection
from wherry.api.routes import Route, Routes
from wherry.api.tls import TlsConnection
from wherry.errors import InvalidParameter
from wherry.model.masking import masked_url

log = logging.getLogger(__name__)

_VERSIONED = re.compile(r"/v([0-9.]+)(/.*)", re.DOTALL)

MAX_HEADER = 64 * 1024
LINGER_S = 2.0
"""How long the rest of a refused body is read and thrown away, so that the client sees the answer."""

BACKLOG = 4096


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What of the daemon's configuration shows in the API."""

    engine_version: str
    min_api_version: versions.Version = versions.MINIMUM
    experimental: bool = False


class Api(web.Server):
    """The Docker Engine API over one engine. Call it for a protocol, as `loop.create_server` does."""

    def __init__(self, engine: Engine, settings: ApiSettings, routes: Iterable[Route]) -> None:
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "lingering_time": LINGER_S,
            "max_line_size": MAX_HEADER,
            "max_field_size": MAX_HEADER,
            "max_headers": MAX_FIELDS,
        }
        super().__init__(self.answer, **self._options)
        self._engine = engine
        self._settings = settings
        self._routes = Routes(routes)
        self._headers = {
            "Api-Version": versions.text(versions.MAXIMUM),
            "Docker-Experimental": "true" if settings.experimental else "false",
            "Ostype": "linux",
            "Server": f"Docker/{settings.engine_version} (linux)",
        }

    def __call__(self) -> Connection:
        return Connection(self, loop=asyncio.get_running_loop(), headers=self._headers, **self._options)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request passes here; whatever goes wrong becomes an answer in Docker's form."""
        plain_text = False
        if log.isEnabledFor(logging.DEBUG):
            log.debug("handling %s request", request.method, extra={"fields": _shown(request)})
        try:
            path, query = _split(request.raw_path)
            version = versions.MAXIMUM
            if (versioned := _VERSIONED.fullmatch(path)) is not None:
                version = versions.parse(versioned[1])
                path = versioned[2]
                plain_text = version < versions.JSON_ERRORS
                versions.check(version, self._settings.min_api_version)
            return await self._route(request, version, path, query)
        except ConnectionError:
            raise
        except Exception as exc:
            errors.log_failure(exc, request.method, masked_url(request.path))
            if log.isEnabledFor(logging.DEBUG):
                fields = {"status": errors.status_for(exc), "error-response": errors.message_for(exc)}
                log.debug(
                    "error response for %s request",
                    request.method,
                    extra={"fields": fields | _shown(request)},
                )
            if request.writer.output_size:
                # The head is out: the client learns of it by a connection that breaks off.
                raise ConnectionResetError("failed after the answer had begun") from exc
            response = errors.answer(exc, plain_text=plain_text)
            response.headers.update(self._headers)
            return response

    async def _route(
        self, request: web.BaseRequest, version: versions.Version, path: str, query: str
    ) -> web.StreamResponse:
        method = request.method
        if method == "OPTIONS":
            return web.Response(headers=self._headers)
        if ("//" in path or "/." in path) and (clean := _clean(path)) != path:
            if method in ("GET", "HEAD"):
                return web.Response(status=301, headers={**self._headers, "Location": quote(clean)})
            return self._not_found()
        found = self._routes.find(method, path)
        if found is None:
            return self._not_found()
        handler, names = found
        call = Call(
            request, engine=self._engine, version=version, names=names, query=query, headers=self._headers
        )
        return await handler(call)

    def _not_found(self) -> web.Response:
        response = errors.answer_text(404, "page not found")
        response.headers.update(self._headers)
        return response


def _shown(request: web.BaseRequest) -> dict[str, object]:
    """What the log says of a request. Docker's names."""
    return {"method": request.method, "module": "api", "request-url": masked_url(request.raw_path)}


def _split(target: str) -> tuple[str, str]:
    """A request's target as decoded path and raw query. Refuses what is no text or could not be a name."""
    if not target.startswith("/"):
        # Absolute form, as through a proxy: RFC 9112 §3.2.2.
        target = "/" + target.partition("://")[2].partition("/")[2]
    target = target.partition("#")[0]
    raw_path, _, query = target.partition("?")
    try:
        query.encode("utf-8")
        path = unquote_to_bytes(raw_path.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError as exc:
        raise InvalidParameter("invalid path or query: not UTF-8") from exc
    if "\0" in path:
        raise InvalidParameter("invalid path: it holds a NUL character")
    return path, query


def _clean(path: str) -> str:
    """The path without doubled slashes and dots, which Docker's router redirects to."""
    clean = posixpath.normpath(path)
    if clean.startswith("//"):
        clean = clean[1:]
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def build_app(engine: Engine, settings: ApiSettings) -> Api:
    """All routes over `engine`. Needs a running event loop."""
    tables = (
        system.ROUTES,
        files.ROUTES,
        containers.ROUTES,
        execs.ROUTES,
        images.ROUTES,
        networks.ROUTES,
        volumes.ROUTES,
        swarm.ROUTES,
    )
    return Api(engine, settings, [route for table in tables for route in table])


async def serve(
    app: Api, sockets: Iterable[socket], *, tls: ssl.SSLContext | None = None
) -> list[asyncio.Server]:
    """Answer on sockets that already listen. Close what is returned to stop accepting; the sockets' names stay."""
    loop = asyncio.get_running_loop()
    factory = app if tls is None else lambda: TlsConnection(tls, app)
    return [await loop.create_server(factory, sock=sock, backlog=BACKLOG) for sock in sockets]
