"""Just enough of an HTTP client for Docker's API that its own time does not matter: about 0.2 ms a request."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

TIMEOUT_S = 120.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


class Api:
    """An engine's API on a unix socket, on one connection that is kept. Not for several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._kept = _Connection(path)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The decoded answer; RuntimeError when the engine refuses."""
        response = _send(self._kept, method, path, body)
        return _decode(response.status, response.read(), path)

    def begin(self, method: str, path: str) -> http.client.HTTPResponse:
        """An answer whose head has come, on a connection of its own, to be read later."""
        response = _send(_Connection(self._path), method, path, None)
        if response.status >= 300:
            _decode(response.status, response.read(), path)
        return response

    def hijack(self, path: str, body: object) -> bytes:
        """Everything the engine sends on a connection it has upgraded, up to its end, head included."""
        data = json.dumps(body).encode()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(self._path)
            sock.sendall(
                f"POST {path} HTTP/1.1\r\nHost: docker\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                + data
            )
            answer = bytearray()
            while piece := sock.recv(1 << 16):
                answer += piece
        if not answer.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"{path}: {answer[:300]!r}")
        return bytes(answer)

    def close(self) -> None:
        self._kept.close()


def _send(connection: _Connection, method: str, path: str, body: object) -> http.client.HTTPResponse:
    data = None if body is None else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
    return connection.getresponse()


def _decode(status: int, body: bytes, path: str) -> Any:
    if status >= 300:
        raise RuntimeError(f"{path}: {status} {body[:300]!r}")
    return json.loads(body) if body else None
