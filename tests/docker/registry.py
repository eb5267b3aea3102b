"""Debian's docker-registry on 127.0.0.1, and a proxy before it that fails in the ways registries fail."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

from tests.docker import rootfs

USER = "wherry:s3cret"
HTPASSWD = "wherry:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n"
"""USER as docker-registry reads it (bcrypt)."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Registry:
    """`docker-registry serve`, with what it holds in a folder of its own."""

    def __init__(self, mark: str, *, htpasswd: str | None = None) -> None:
        self.folder = tempfile.mkdtemp(prefix=f"{mark}-registry-")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        auth = ""
        if htpasswd is not None:
            with open(f"{self.folder}/htpasswd", "w") as file:
                file.write(htpasswd)
            auth = f"auth: {{htpasswd: {{realm: test, path: {self.folder}/htpasswd}}}}\n"
        with open(f"{self.folder}/config.yml", "w") as file:
            file.write(
                "version: 0.1\nlog: {level: error}\n"
                f"storage: {{filesystem: {{rootdirectory: {self.folder}/data}}, delete: {{enabled: true}}}}\n"
                f"http: {{addr: '{self.address}'}}\n{auth}"
            )
        with open(f"{self.folder}/log", "wb") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", f"{self.folder}/config.yml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, (
                    "docker-registry does not start"
                )
                time.sleep(0.02)

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str = "application/octet-stream",
        auth: str = "",
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": kind, "Accept": f"{rootfs.MANIFEST}, {rootfs.INDEX}"}
        if auth:
            headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = response.read()
            location = response.getheader("Location")
            return response.status, location.encode() if location and method == "POST" else data
        finally:
            connection.close()

    def put_blob(self, name: str, data: bytes, auth: str = "") -> str:
        status, location = self.request("POST", f"/v2/{name}/blobs/uploads/", auth=auth)
        assert status == 202, (status, location)
        path = location.decode().removeprefix(f"http://{self.address}")
        wanted = rootfs.digest(data)
        status, answer = self.request("PUT", f"{path}&digest={wanted}", data, auth=auth)
        assert status == 201, (status, answer)
        return wanted

    def put_manifest(
        self, name: str, tag: str, data: bytes, kind: str = rootfs.MANIFEST, auth: str = ""
    ) -> str:
        status, answer = self.request("PUT", f"/v2/{name}/manifests/{tag}", data, kind, auth)
        assert status == 201, (status, answer)
        return rootfs.digest(data)

    def put_image(
        self,
        name: str,
        tag: str,
        layers: Sequence[bytes],
        *,
        pack: Callable[[bytes], bytes] = rootfs.gz,
        suffix: str = "+gzip",
        config: bytes | None = None,
        auth: str = "",
    ) -> str:
        """Put an image of these layer tars there; its manifest's digest."""
        config = config or rootfs.image_config(layers)
        blobs = [(rootfs.LAYER + suffix, pack(layer)) for layer in layers]
        for data in (config, *[data for _, data in blobs]):
            self.put_blob(name, data, auth)
        return self.put_manifest(name, tag, rootfs.manifest(config, blobs), auth=auth)

    def put_index(self, name: str, tag: str, manifests: Sequence[tuple[bytes, str, str]]) -> str:
        """An index of (manifest, os, architecture)."""
        value = {
            "schemaVersion": 2,
            "mediaType": rootfs.INDEX,
            "manifests": [
                rootfs.descriptor(rootfs.MANIFEST, data, platform={"os": os_name, "architecture": arch})
                for data, os_name, arch in manifests
            ],
        }
        return self.put_manifest(name, tag, json.dumps(value).encode(), rootfs.INDEX)

    def get_manifest(self, name: str, reference: str) -> bytes:
        status, data = self.request("GET", f"/v2/{name}/manifests/{reference}")
        assert status == 200, (status, data)
        return data

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class FaultyProxy:
    """A registry's bad day: passes requests on to a real one, and lets `fault` spoil the answers.

    `fault(path, n)` is asked for each request (n counts the requests for that path, from 1) and says what to do:
    None passes it on; an int answers with that status; ("cut", size) sends that many bytes of the body and closes;
    ("flip", offset) changes one byte; ("stall", seconds) waits before it answers; ("bearer", token) wants that token.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.fault: Callable[[str, int], object] = lambda path, n: None
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.counts: dict[str, int] = {}
        self.released = threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                try:
                    proxy.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_HEAD = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def reset(self, fault: Callable[[str, int], object]) -> None:
        self.fault = fault
        self.seen.clear()
        self.counts.clear()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path
        self.counts[path] = self.counts.get(path, 0) + 1
        self.seen.append((path, {k.lower(): v for k, v in request.headers.items()}))
        todo = self.fault(path, self.counts[path])
        if isinstance(todo, int):
            body = b'{"errors":[{"code":"UNKNOWN","message":"made to fail"}]}'
            return self.send(request, todo, {"Content-Type": "application/json"}, body)
        if path.startswith("/token"):
            body = json.dumps({"token": "let-me-in", "expires_in": 300}).encode()
            return self.send(request, 200, {"Content-Type": "application/json"}, body)
        if isinstance(todo, tuple) and todo[0] == "bearer":
            if request.headers.get("Authorization") != f"Bearer {todo[1]}":
                challenge = (
                    f'Bearer realm="http://{self.address}/token",service="test",scope="repository:x:pull"'
                )
                return self.send(request, 401, {"Www-Authenticate": challenge}, b"{}")
            todo = None
        if isinstance(todo, tuple) and todo[0] == "stall":
            self.released.wait(todo[1])
        connection = http.client.HTTPConnection("127.0.0.1", self.registry.port, timeout=30)
        kept = {
            k: ", ".join(request.headers.get_all(k) or [])  # Go sends a header line for each media type
            for k in ("Accept", "Range", "Authorization")
            if k in request.headers
        }
        connection.request(request.command, path, headers=kept)
        response = connection.getresponse()
        body = response.read()
        headers = {
            k: v for k, v in response.getheaders() if k.lower() not in ("connection", "transfer-encoding")
        }
        connection.close()
        if isinstance(todo, tuple) and todo[0] == "flip" and len(body) > todo[1]:
            body = body[: todo[1]] + bytes([body[todo[1]] ^ 0x55]) + body[todo[1] + 1 :]
        if isinstance(todo, tuple) and todo[0] == "cut" and len(body) > todo[1]:
            self.send(request, response.status, headers, body, cut=todo[1])
            request.close_connection = True
            return None
        return self.send(request, response.status, headers, body)

    @staticmethod
    def send(
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        cut: int | None = None,
    ) -> None:
        request.send_response_only(status)
        if request.command != "HEAD":
            headers = {**headers, "Content-Length": str(len(body))}
        for key, value in headers.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body[:cut])

    def stop(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
