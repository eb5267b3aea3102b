"""One engine, seen by a client: requests in, decoded answers or ApiError out.

Requests are sent without a version in the path, which asks an engine for its newest answers; `version` (from
DOCKER_API_VERSION) pins one. A connection that is not in use is used again.
"""

from __future__ import annotations

import os

from wherry.client import http, jsontext
from wherry.client.address import Address
from wherry.errors import InvalidParameter, Unavailable, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    Query = Sequence[tuple[str, str]]

CONNECT_TIMEOUT_S = 30
AT_ONCE = 50
"""Most requests of one command that are under way at the same time; docker's number."""
MAX_ERROR_BODY = 1024 * 1024
MAX_MESSAGE = 64 * 1024 * 1024


class ApiError(WherryError):
    """The engine refused. `status` is the HTTP status, the text is the engine's message alone."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CannotConnect(Unavailable):
    """Nobody answers at the address. `errno` is the kernel's reason, 0 if there is none."""

    def __init__(self, address: Address, reason: OSError) -> None:
        self.errno = reason.errno or 0
        if isinstance(reason, PermissionError):
            message = (
                f"permission denied while trying to connect to the wherry daemon socket at {address.text}"
            )
        else:
            message = f"Cannot connect to the wherry daemon at {address.text}. Is the wherry daemon running?"
        super().__init__(message)


class Tls:
    """Client certificates, as `--tlsverify` and its friends name them. Empty paths are not used."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, *, ca: str, cert: str, key: str, verify: bool) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


class Client:
    """Requests to the engine at `address`. Not for more than one thread."""

    def __init__(self, address: Address, *, version: str = "", tls: Tls | None = None) -> None:
        self.address = address
        self.prefix = f"/v{version}" if version else ""
        self.tls = tls
        self._idle: http.Connection | None = None

    def close(self) -> None:
        """Close the connection that is kept for the next request."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def connect(self) -> http.Connection:
        """A new connection. Raises CannotConnect."""
        address = self.address
        try:
            if address.path:
                return http.Connection(http.connect_unix(address.path), "api.moby.localhost")
            if address.ssh:
                from wherry.client.ssh import connect_ssh

                return http.Connection(connect_ssh(address.ssh), "api.moby.localhost")
            sock = http.connect_tcp(address.host, address.port, CONNECT_TIMEOUT_S)
            if self.tls is not None:
                from wherry.client.tls import wrap

                sock = wrap(sock, address.host, self.tls)
            return http.Connection(sock, f"{address.host}:{address.port}")
        except OSError as exc:
            raise CannotConnect(address, exc) from exc

    def open(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Sequence[tuple[str, str]] = (),
        fresh: bool = False,
    ) -> http.Response:
        """Send a request; give the answer, whatever its status, with its body unread.

        A kept connection that the engine closed meanwhile is noticed before anything is sent on it, and
        replaced; nothing is ever sent twice.
        """
        target = self.prefix + path + _encode_query(query)
        kept, self._idle = (None, self._idle) if fresh else (self._idle, None)
        if kept is not None and not kept.is_idle():
            kept.close()
            kept = None
        try:
            return self._keep((kept or self.connect()).request(method, target, headers, body))
        except http.Disconnected as exc:
            raise Unavailable(f"the engine at {self.address.text} closed the connection: {exc}") from exc

    def keep(self, connection: http.Connection) -> None:
        """Use this connection for the next request."""
        self._idle = connection

    def _keep(self, response: http.Response) -> http.Response:
        if self._idle is None and response.connection.reusable:
            self._idle = response.connection
        return response

    def call(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Sequence[tuple[str, str]] = (),
        fresh: bool = False,
    ) -> http.Response:
        """`open`, with a status of 400 or more raised as ApiError."""
        response = self.open(method, path, query, body=body, headers=headers, fresh=fresh)
        if response.status >= 400:
            raise error_of(response)
        return response

    def call_each(
        self, method: str, paths: Sequence[str], query: Query = ()
    ) -> Iterator[http.Response | WherryError]:
        """The same request to many paths at once: their answers, or what went wrong, in the order of the paths."""
        encoded = _encode_query(query)
        for start in range(0, len(paths), AT_ONCE):
            sent: list[http.Connection | WherryError] = []
            for path in paths[start : start + AT_ONCE]:
                try:
                    connection = self.connect()
                    connection.send(method, self.prefix + path + encoded)
                except WherryError as exc:
                    sent.append(exc)
                else:
                    sent.append(connection)
            for connection in sent:
                if isinstance(connection, WherryError):
                    yield connection
                    continue
                try:
                    response = connection.receive(method)
                    yield error_of(response) if response.status >= 400 else response
                except WherryError as exc:
                    yield exc
                finally:
                    connection.close()

    def get(self, path: str, query: Query = ()) -> Any:
        """GET and decode."""
        return decode(self.call("GET", path, query).read())

    def post(self, path: str, query: Query = (), value: Any = None) -> Any:
        """POST a value as JSON, or nothing, and decode the answer; None for an empty one."""
        if value is None:
            response = self.call("POST", path, query)
        else:
            response = self.call(
                "POST",
                path,
                query,
                body=jsontext.dumps(value).encode("utf-8", "surrogateescape"),
                headers=(("Content-Type", "application/json"),),
            )
        data = response.read()
        return decode(data) if data.strip() else None

    def delete(self, path: str, query: Query = ()) -> Any:
        """DELETE and decode the answer; None for an empty one."""
        data = self.call("DELETE", path, query).read()
        return decode(data) if data.strip() else None

    def upgrade(self, path: str, query: Query = (), value: Any = None) -> http.Response:
        """Ask for a raw stream: the answer is 101, or the older 200, and its connection is nobody else's."""
        headers = [("Connection", "Upgrade"), ("Upgrade", "tcp")]
        body = b""
        if value is not None:
            body = jsontext.dumps(value).encode("utf-8", "surrogateescape")
            headers.append(("Content-Type", "application/json"))
        response = self.call("POST", path, query, body=body, headers=headers, fresh=True)
        if response.connection is self._idle:
            self._idle = None
        if response.status not in (101, 200):
            raise http.ProtocolError(f"unable to upgrade to tcp, received {response.status}")
        return response


def error_of(response: http.Response) -> ApiError:
    """The refusal in an answer: its `message`, or its text, or the name of its status."""
    try:
        data = response.read(MAX_ERROR_BODY)
    except http.ProtocolError:
        data = b""
    try:
        value = jsontext.loads(data)
        message = value.get("message") if isinstance(value, dict) else None  # pyright: ignore
    except ValueError:
        message = None
    if not isinstance(message, str) or not message:
        message = data.decode("utf-8", "replace").strip() or f"request returned status {response.status}"
    return ApiError(response.status, message)


def decode(data: bytes) -> Any:
    """An answer's JSON. Raises ProtocolError if it is none."""
    try:
        return jsontext.loads(data)
    except ValueError as exc:
        raise http.ProtocolError(f"the engine's answer is not JSON: {exc}") from exc


def messages(response: http.Response) -> Iterator[Any]:
    """The JSON values of a stream, each as soon as it is whole. Newlines between them are optional."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    for piece in response.pieces():
        text += decoder.decode(piece)
        start = 0
        if "}" in piece.decode("latin-1"):
            while True:
                while start < len(text) and text[start] in " \r\n\t\x1e":
                    start += 1
                if start == len(text):
                    break
                try:
                    value, start = jsontext.scan(text, start)
                except ValueError:
                    break  # the rest is still to come
                yield value
        text = text[start:]
        if len(text) > MAX_MESSAGE:
            raise http.ProtocolError(f"a message longer than {MAX_MESSAGE} bytes")
    if text.strip(" \r\n\t\x1e"):
        raise http.ProtocolError(f"the engine's stream ends inside a message: {text[:80]!r}")


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


def escape(text: str, safe: str = "") -> str:
    """Percent-encode for a query value or a path segment (urllib.parse costs 9 ms to import)."""
    data = os.fsencode(text)
    keep = _SAFE | frozenset(safe.encode()) if safe else _SAFE
    if all(byte in keep for byte in data):
        return data.decode("ascii")
    return "".join(chr(byte) if byte in keep else f"%{byte:02X}" for byte in data)


def segment(name: str) -> str:
    """A container's or image's name as part of a path: without the leading slash that names are listed with."""
    name = name.removeprefix("/")
    if not name:
        raise InvalidParameter("invalid name or ID: value is empty")
    return escape(name, "/:@+")


def _encode_query(query: Query) -> str:
    if not query:
        return ""
    return "?" + "&".join(f"{escape(key)}={escape(value)}" for key, value in query)


def filters(chosen: Mapping[str, Sequence[str]]) -> Query:
    """`filters` in the map form that every version of the API reads; nothing for no filters."""
    if not chosen:
        return ()
    table = {key: dict.fromkeys(values, True) for key, values in sorted(chosen.items())}
    return (("filters", jsontext.dumps(table)),)
