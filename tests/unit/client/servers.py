"""A server of a few canned answers, on a unix socket, for tests of the client."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Request:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """Answers each request with what `answer` returns: raw bytes, as pieces sent one after another.

    An empty answer closes the connection. `requests` holds everything that came.
    """

    path: str
    answer: Callable[[Request], list[bytes]]
    requests: list[Request] = field(default_factory=list[Request])
    connections: int = 0

    def __enter__(self) -> Server:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(16)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)
        os.unlink(self.path)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while True:
                line = stream.readline()
                if not line:
                    return
                method, target, _ = line.decode().split(" ", 2)
                headers: dict[str, str] = {}
                while text := stream.readline().decode().strip():
                    name, _, value = text.partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", "0")))
                if headers.get("transfer-encoding") == "chunked":
                    while size := int(stream.readline(), 16):
                        body += stream.read(size)
                        stream.readline()
                    stream.readline()
                request = Request(method, target, headers, body)
                self.requests.append(request)
                pieces = self.answer(request)
                if not pieces:
                    return
                for piece in pieces:
                    connection.sendall(piece)


def json_answer(body: str, status: str = "200 OK") -> list[bytes]:
    """A JSON answer with its length."""
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return [head.encode() + data]
