"""One API request, decoded as far as every route needs it, and the plain ways to answer it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from wherry.api import filters, versions
from wherry.api.errors import TooLarge
from wherry.errors import InvalidParameter
from wherry.model import wire
from wherry.model.masking import masked

if TYPE_CHECKING:
    from wherry.api.contract import Engine

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_JSON = 4 * 1024 * 1024
"""Bytes of a JSON body. The largest honest ones (a create with thousands of labels) stay far below."""

MAX_PARAMETERS = 1000

MAX_LOGGED = 4096
"""Bytes of a body that goes into the log at level debug. Docker's."""


class Call:
    """A request on its way to the engine. `names` are the parts of the path in braces, decoded."""

    __slots__ = ("_query", "engine", "headers", "names", "request", "version")

    def __init__(
        self,
        request: web.BaseRequest,
        *,
        engine: Engine,
        version: versions.Version,
        names: dict[str, str],
        query: str,
        headers: dict[str, str],
    ) -> None:
        self.request = request
        self.engine = engine
        self.version = version
        self.names = names
        self.headers = headers
        """What every answer carries."""
        self._query = _parse_query(query)

    # The path and the query

    @property
    def ref(self) -> str:
        """The `{id}` or `{name}` of the path."""
        return self.names["ref"]

    def has(self, name: str) -> bool:
        return name in self._query

    def text(self, name: str, default: str = "") -> str:
        values = self._query.get(name)
        return values[0] if values else default

    def texts(self, name: str) -> list[str]:
        return self._query.get(name, [])

    def optional_text(self, name: str) -> str | None:
        return self.text(name) or None

    def flag(self, name: str, *, default: bool = False) -> bool:
        return filters.flag(self.text(name)) if self.has(name) else default

    def number(self, name: str) -> int:
        """A number that must be given."""
        return filters.number(self.text(name))

    def optional_number(self, name: str) -> int | None:
        text = self.text(name)
        return filters.number(text) if text else None

    def optional_time_ns(self, name: str) -> int | None:
        text = self.text(name)
        return filters.timestamp_ns(text) if text else None

    def filters(self) -> dict[str, list[str]]:
        return filters.filters(self.text("filters"))

    # The body

    async def body(self, kind: type[T]) -> T:
        """The JSON body as `kind`; one must be there."""
        return read_as(await self.read_json(), kind)

    async def optional_body(self, kind: type[T]) -> T:
        """The JSON body as `kind`; none is the same as `{}`, as in most of Docker's endpoints."""
        return read_as(await self.read_json() or b"{}", kind)

    async def read_json(self) -> bytes:
        """The body's bytes, once its type is checked; empty if there is none."""
        self._check_json_type()
        data = await self.read_all(MAX_JSON)
        if log.isEnabledFor(logging.DEBUG) and data and len(data) <= MAX_LOGGED:
            _log_form(data)
        return data

    async def read_all(self, limit: int) -> bytes:
        """The whole body, refused (413) when it is larger than `limit`."""
        length = self.request.content_length
        if length is not None and length > limit:
            raise TooLarge(f"request body of {length} bytes is larger than the {limit} allowed")
        if not self.request.can_read_body:
            return b""
        await self._say_continue()
        parts: list[bytes] = []
        size = 0
        async for part in self.request.content.iter_any():
            size += len(part)
            if size > limit:
                raise TooLarge(f"request body is larger than the {limit} bytes allowed")
            parts.append(part)
        return b"".join(parts)

    async def stream(self) -> AsyncIterator[bytes]:
        """The body in parts as they come: for archives of any size."""
        await self._say_continue()
        if self.request.can_read_body:
            async for part in self.request.content.iter_any():
                yield part

    async def _say_continue(self) -> None:
        """A client that asks first (curl with a large file) sends nothing until it is told to."""
        if (
            self.request.headers.get("Expect", "").lower() == "100-continue"
            and not self.request.content.total_bytes
        ):
            transport = self.request.transport
            if transport is not None and not transport.is_closing():
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _check_json_type(self) -> None:
        """Also what keeps a web page from posting here: browsers send other types without asking (CSRF)."""
        given = self.request.headers.get("Content-Type", "")
        if not given and not self.request.can_read_body:
            return
        if given.split(";", 1)[0].strip().lower() != "application/json":
            raise InvalidParameter(
                f"unsupported Content-Type header ({given[:128]}): must be 'application/json'"
            )

    # The answer

    def json(self, value: object, *, status: int = 200, kind: str = "") -> web.Response:
        """`value` as JSON. `kind` names what versions.py may have to shape for an older client."""
        if kind and versions.needs_shaping(kind, self.version):
            plain = msgspec.to_builtins(value)
            items: list[Any] = cast("list[Any]", plain) if isinstance(plain, list) else [plain]
            for item in items:
                versions.shape(kind, self.version, item)
            value = cast(object, plain)
        body = wire.encode(value) + b"\n"
        return web.Response(
            status=status, body=body, headers={**self.headers, "Content-Type": "application/json"}
        )

    def empty(self, status: int = 204) -> web.Response:
        return web.Response(status=status, headers=self.headers)


def _log_form(data: bytes) -> None:
    """A body for the log, as Docker has it: without its secrets, or not at all."""
    try:
        shown = wire.encode(masked(msgspec.json.decode(data))).decode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return
    log.debug("form data: %s", shown)


def read_as(data: bytes, kind: type[T]) -> T:
    """`data`, a request's whole body, as `kind`."""
    if not data:
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    return wire.decode(data, kind)


def _parse_query(query: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    if not query:
        return values
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except (ValueError, UnicodeError) as exc:
        raise InvalidParameter(f"invalid query string: {str(exc)[:128]}") from exc
    for name, value in pairs:
        if "\0" in value:
            raise InvalidParameter(f"invalid value for {name[:64]!r}: it holds a NUL character")
        values.setdefault(name, []).append(value)
    return values
