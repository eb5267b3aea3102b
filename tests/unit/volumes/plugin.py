"""A volume plugin for tests: Docker's protocol over a unix socket, volumes as directories.

It can be told to misbehave: `answers[METHOD]` is sent in place of the real answer, as (status, body); a method in
`silent` is never answered.
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any


class Plugin:
    def __init__(
        self, socket_path: str, directory: str, *, implements: tuple[str, ...] = ("VolumeDriver",)
    ) -> None:
        self.socket_path = socket_path
        self.directory = directory
        self.implements = implements
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.options: dict[str, dict[str, str]] = {}
        self.mounted: dict[str, set[str]] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.silent: set[str] = set()
        self.released = threading.Event()
        os.makedirs(os.path.dirname(socket_path), exist_ok=True)
        plugin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                text = self.rfile.read(size)
                method = self.path.lstrip("/")
                asked = json.loads(text) if text else {}
                plugin.calls.append((method, asked))
                if method in plugin.silent:
                    plugin.released.wait(30)
                status, body = plugin.answers.get(method) or (
                    200,
                    json.dumps(plugin.answer(method, asked)).encode(),
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header(
                    "Connection", "close"
                )  # or a client's old connection would outlive this plugin
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the engine hung up: that is what these tests are about

        self._server = Server(socket_path, Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def answer(self, method: str, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked.get("Name", "")
        path = os.path.join(self.directory, name)
        if method == "Plugin.Activate":
            return {"Implements": list(self.implements)}
        if method == "VolumeDriver.Capabilities":
            return {"Capabilities": {"Scope": "global"}}
        if method == "VolumeDriver.List":
            return {"Volumes": [self.described(each) for each in sorted(self.options)], "Err": ""}
        if method == "VolumeDriver.Create":
            os.makedirs(path, exist_ok=True)
            self.options[name] = asked.get("Opts") or {}
            return {"Err": ""}
        if name not in self.options:
            return {"Err": f"no volume {name} here"}
        if method == "VolumeDriver.Get":
            return {"Volume": self.described(name), "Err": ""}
        if method == "VolumeDriver.Path":
            return {"Mountpoint": path, "Err": ""}
        if method == "VolumeDriver.Remove":
            del self.options[name]
            shutil.rmtree(path, ignore_errors=True)
            return {"Err": ""}
        if method == "VolumeDriver.Mount":
            self.mounted.setdefault(name, set()).add(asked["ID"])
            return {"Mountpoint": path, "Err": ""}
        if method == "VolumeDriver.Unmount":
            self.mounted.get(name, set()).discard(asked["ID"])
            return {"Err": ""}
        return {"Err": f"what is {method}?"}

    def described(self, name: str) -> dict[str, Any]:
        return {
            "Name": name,
            "Mountpoint": os.path.join(self.directory, name),
            "CreatedAt": "2026-01-02T03:04:05Z",
            "Status": {"Health": "good"},
        }

    def count(self, method: str) -> int:
        return sum(called == method for called, _ in self.calls)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if os.path.exists(self.socket_path):
            os.unlink(self.socket_path)


@contextmanager
def installed_plugin(name: str, directory: str) -> Iterator[Plugin]:
    """A plugin where every engine of this machine looks for plugins; what was made for that goes again."""
    existed = {path: os.path.isdir(path) for path in ("/run/docker/plugins", "/run/docker")}
    plugin = Plugin(f"/run/docker/plugins/{name}.sock", directory)
    try:
        yield plugin
    finally:
        plugin.close()
        for path, was_there in existed.items():
            if not was_there and os.path.isdir(path) and not os.listdir(path):
                os.rmdir(path)
