"""A registry in this process, on a real socket, that misbehaves where it is told to.

    async with FakeRegistry() as registry:
        registry.add_image("library/x", "1", layers=[tar_of({"hello": b"world"})])
        registry.fault("/blobs/", cut_after(1000), times=1)

A fault is an async function from the request to a response, or to None where the registry's own answer is wanted.
What was asked is in `requests`.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A layer's tar with these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def config_of(layers: Sequence[bytes], **extra: Any) -> bytes:
    """An image config for uncompressed `layers`."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["/x"], "Labels": {"made": "by test"}},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "history": [{"created_by": f"step {n}"} for n in range(len(layers))],
    }
    return json.dumps(config | extra).encode()


class FakeRegistry:
    def __init__(self, *, basic: str | None = None, bearer: str | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.basic = basic
        """`user:password` wanted by Basic authentication."""
        self.bearer = bearer
        """`user:password` wanted by the token server; empty: tokens for everybody."""
        self.realm: str | None = None
        """The token server's URL, if it is not this registry's own."""
        self.tokens_given = 0
        self.open_connections = 0
        self._faults: list[tuple[str, Fault, list[int]]] = []
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def __aenter__(self) -> FakeRegistry:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await self.site(self._runner).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    def site(self, runner: web.AppRunner) -> web.BaseSite:
        """Where it listens."""
        return web.TCPSite(runner, "127.0.0.1", 0)

    async def __aexit__(self, *error: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # Filling

    def add_blob(self, data: bytes) -> str:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    def add_image(
        self,
        name: str,
        tag: str,
        *,
        layers: Sequence[bytes],
        media_type: str = OCI_LAYER_GZIP,
        compress: Callable[[bytes], bytes] = gzip.compress,
        config: bytes | None = None,
    ) -> str:
        """Store an image of these uncompressed layers; its manifest's digest."""
        config = config_of(layers) if config is None else config
        blobs = [compress(layer) for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": self.add_blob(config), "size": len(config)},
            "layers": [
                {"mediaType": media_type, "digest": self.add_blob(blob), "size": len(blob)} for blob in blobs
            ],
        }
        return self.add_manifest(name, tag, manifest)

    def add_manifest(self, name: str, tag: str, manifest: Any, media_type: str = "") -> str:
        data = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        kind = media_type or (manifest["mediaType"] if isinstance(manifest, dict) else OCI_MANIFEST)
        digest = digest_of(data)
        self.manifests[name, tag] = self.manifests[name, digest] = (data, kind)
        return digest

    def add_index(self, name: str, tag: str, platforms: Mapping[str, str]) -> str:
        """An index of manifests (digest by `os/architecture`) already stored."""
        entries: list[dict[str, Any]] = []
        for platform, digest in platforms.items():
            os, _, architecture = platform.partition("/")
            data, kind = self.manifests[name, digest]
            entries.append(
                {
                    "mediaType": kind,
                    "digest": digest,
                    "size": len(data),
                    "platform": {"os": os, "architecture": architecture},
                }
            )
        return self.add_manifest(
            name, tag, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        )

    def fault(self, part: str, fault: Fault, *, times: int = 1_000_000) -> None:
        """Answer requests whose path contains `part` with `fault`, so many times."""
        self._faults.append((part, fault, [times]))

    def asked(self, part: str) -> list[dict[str, str]]:
        """The headers of all requests whose path contains `part`."""
        return [headers for _, path, headers in self.requests if part in path]

    # Answering

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        self.open_connections += 1
        try:
            for part, fault, left in self._faults:
                if part in request.path_qs and left[0] > 0:
                    left[0] -= 1
                    response = await fault(request)
                    if response is not None:
                        return response
            return await self._answer(request)
        finally:
            self.open_connections -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/token":
            return await self._token(request)
        refused = self._refuse(request)
        if refused is not None:
            return refused
        if path == "/v2/":
            return web.json_response({})
        name, _, rest = path.removeprefix("/v2/").rpartition("/")
        name, _, kind = name.rpartition("/")
        if kind == "manifests":
            found = self.manifests.get((name, rest))
            if found is None:
                return error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return web.Response(body=found[0], headers={"Content-Type": found[1]})
        if kind == "tags":
            tags = [tag for stored, tag in self.manifests if stored == name and ":" not in tag]
            return web.json_response({"name": name, "tags": tags})
        blob = self.blobs.get(rest)
        if blob is None:
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return blob_response(request, blob)

    def _refuse(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        if self.basic is not None:
            if given == "Basic " + base64.b64encode(self.basic.encode()).decode():
                return None
            return challenge('Basic realm="test"')
        if self.bearer is not None:
            if given.startswith("Bearer token-"):
                return None
            realm = self.realm or f"http://{self.address}/token"
            name = request.path.removeprefix("/v2/").rsplit("/", 2)[0]
            scope = f',scope="repository:{name}:pull"' if name else ""
            return challenge(f'Bearer realm="{realm}",service="fake"{scope}')
        return None

    async def _token(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if self.bearer and given != "Basic " + base64.b64encode(self.bearer.encode()).decode():
            return error(401, "UNAUTHORIZED", "incorrect username or password")
        self.tokens_given += 1
        return web.json_response({"token": f"token-{self.tokens_given}", "expires_in": 300})


def error(status: int, code: str, message: str, **headers: str) -> web.Response:
    body = {"errors": [{"code": code, "message": message, "detail": None}]}
    return web.json_response(body, status=status, headers=headers)


def challenge(text: str) -> web.Response:
    response = error(401, "UNAUTHORIZED", "authentication required")
    response.headers["WWW-Authenticate"] = text
    return response


def blob_response(request: web.Request, blob: bytes) -> web.Response:
    start = request.http_range.start or 0
    if not start:
        return web.Response(body=blob)
    span = f"bytes {start}-{len(blob) - 1}/{len(blob)}"
    return web.Response(status=206, body=blob[start:], headers={"Content-Range": span})


# Faults


def status(code: int, *, name: str = "", message: str = "", **headers: str) -> Fault:
    """Answer with an error. `retry_after="1"` becomes the header `Retry-After`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        spelled = {key.replace("_", "-").title(): value for key, value in headers.items()}
        return error(code, name or "UNKNOWN", message or "because", **spelled)

    return answer


def redirect(target: str, code: int = 307) -> Fault:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers={"Location": target})

    return answer


def body(data: bytes, *, kind: str = "application/octet-stream") -> Fault:
    """Answer with these bytes whatever was asked."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=data, headers={"Content-Type": kind})

    return answer


def cut_after(count: int, blob: bytes, *, ranges: bool = True) -> Fault:
    """Send `count` bytes of what was asked for of `blob`, then break the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start = (request.http_range.start or 0) if ranges else 0
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(blob) - start
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(blob) - 1}/{len(blob)}"
        await response.prepare(request)
        await response.write(blob[start : start + count])
        if start + count < len(blob):
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


def stall(
    count: int, blob: bytes, gone: asyncio.Event | None = None, begun: asyncio.Event | None = None
) -> Fault:
    """Send `count` bytes of `blob`, set `begun`, then nothing, until the client goes; then `gone` is set."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(blob)
        await response.prepare(request)
        await response.write(blob[:count])
        if begun is not None:
            begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            if gone is not None:
                gone.set()
        return response

    return answer
