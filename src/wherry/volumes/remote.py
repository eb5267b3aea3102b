"""Drivers of others: Docker's volume-plugin protocol, HTTP with JSON over the plugin's socket.

    POST /Plugin.Activate                    → {"Implements": ["VolumeDriver"]}
    POST /VolumeDriver.Create {"Name", "Opts"}          .Remove {"Name"}      .Path {"Name"}     → {"Err", "Mountpoint"}
    POST /VolumeDriver.Mount {"Name", "ID"}             .Unmount {"Name", "ID"}
    POST /VolumeDriver.Get {"Name"} → {"Volume"}        .List {} → {"Volumes"}
    POST /VolumeDriver.Capabilities → {"Capabilities": {"Scope": "local" or "global"}}

A plugin is found by name, as Docker finds it: NAME.sock or NAME/NAME.sock in /run/docker/plugins, or NAME.spec (an
address) or NAME.json (an address with certificates) in /etc/docker/plugins or /usr/lib/docker/plugins. Whatever it
says, or does not say, each call ends in time, and an answer is read up to `MAX_ANSWER`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from wherry.errors import Internal, InvalidParameter, NotFound, Unavailable
from wherry.volumes.driver import Data, Found

T = TypeVar("T")

SOCKETS = "/run/docker/plugins"
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")
MIME = "application/vnd.docker.plugins.v1.2+json"
QUICK_S, LONG_S = 10.0, 120.0
"""Time for an answer: to a question, and to Create and Mount, which may have to talk to other machines."""
MAX_ANSWER = 16 << 20
MAX_SPEC = 1 << 16


class _Tls(msgspec.Struct, rename="pascal"):
    insecure_skip_verify: bool = False
    ca_file: str = msgspec.field(name="CAFile", default="")
    cert_file: str = ""
    key_file: str = ""


class _Spec(msgspec.Struct, rename="pascal"):
    addr: str
    tls_config: _Tls | None = msgspec.field(name="TLSConfig", default=None)


class _Volume(msgspec.Struct, rename="pascal"):
    name: str = ""
    mountpoint: str = ""
    created_at: str = ""
    status: dict[str, Any] | None = None


class _Answer(msgspec.Struct, rename="pascal"):
    """All fields that any answer has."""

    err: str = ""
    implements: list[str] = []
    mountpoint: str = ""
    volume: _Volume | None = None
    volumes: list[_Volume] | None = None
    capabilities: dict[str, Any] | None = None


class Plugins:
    """The plugins of this host. `find` speaks to one, once; it is remembered until it is not there any more."""

    def __init__(
        self, *, sockets: str = SOCKETS, specs: tuple[str, ...] = SPECS, quick_s: float = QUICK_S, long_s: float = LONG_S
    ) -> None:  # fmt: skip
        self._sockets = sockets
        self._specs = specs
        self._quick_s = quick_s
        self._long_s = long_s
        self._known: dict[str, Remote] = {}

    def names(self) -> list[str]:
        """Those that are installed, whether they answer or not, and whatever they are for."""
        places = (
            (self._sockets, ".sock"),
            *((spec, end) for spec in self._specs for end in (".spec", ".json")),
        )
        found: set[str] = set()
        for folder, ending in places:
            try:
                entries = os.listdir(folder)
            except OSError:
                continue
            exists = _is_socket if ending == ".sock" else os.path.isfile
            names = {entry.removesuffix(ending) for entry in entries}
            found.update(name for name in names if any(map(exists, _places(folder, name, ending))))
        return sorted(found)

    async def find(self, name: str) -> Remote:
        """The volume plugin `name`. Raises NotFound, in Docker's words, Unavailable when it does not answer."""
        spec = self._spec(name)
        if spec is None:
            self._known.pop(name, None)
            raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" not found')
        known = self._known.get(name)
        if known is not None and known.address == spec.addr:
            return known
        remote = Remote(name, spec.addr, _tls_of(spec), quick_s=self._quick_s, long_s=self._long_s)
        await remote.activate()
        self._known[name] = remote
        return remote

    def _spec(self, name: str) -> _Spec | None:
        """How to reach a plugin; None where nothing is installed by that name."""
        if not name or "/" in name or name.startswith(".") or "\0" in name:
            return None
        for path in _places(self._sockets, name, ".sock"):
            if _is_socket(path):
                return _Spec(addr=f"unix://{path}")
        for folder in self._specs:
            for ending in (".spec", ".json"):
                for path in _places(folder, name, ending):
                    text = _read(path)
                    if text is not None:
                        return _parse_spec(name, path, text)
        return None


class Remote:
    """One plugin, as a VolumeDriver."""

    scope = "local"

    def __init__(
        self, name: str, address: str, tls: ssl.SSLContext | None, *, quick_s: float = QUICK_S, long_s: float = LONG_S
    ) -> None:  # fmt: skip
        self.name = name
        self.address = address
        self._tls = tls
        self._quick_s = quick_s
        self._long_s = long_s

    async def activate(self) -> None:
        """Ask what it is for. Raises InvalidParameter for what is no volume plugin."""
        answer = await self._call("Plugin.Activate", None)
        if "VolumeDriver" not in answer.implements:
            raise InvalidParameter(
                f'error looking up volume plugin {self.name}: plugin does not implement the requested driver: plugin="{self.name}",'
                ' requested implementation="VolumeDriver"'
            )
        try:
            capabilities = (await self._call("VolumeDriver.Capabilities", {})).capabilities or {}
        except Internal:
            return  # the call is not one a plugin must have
        self.scope = "global" if str(capabilities.get("Scope", "")).lower() == "global" else "local"

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """The plugin's own business."""

    async def create(self, name: str, options: Mapping[str, str]) -> None:
        if await self.find(name) is None:
            await self._call("VolumeDriver.Create", {"Name": name, "Opts": dict(options)}, self._long_s)

    async def remove(self, name: str) -> None:
        try:
            await self._call("VolumeDriver.Remove", {"Name": name})
        except Internal:
            if await self.find(name) is not None:
                raise

    async def find(self, name: str) -> Found | None:
        """A plugin says in its own words that there is none: every refusal means that, as Docker takes it."""
        try:
            volume = (await self._call("VolumeDriver.Get", {"Name": name})).volume
        except Internal:
            return None
        return None if volume is None else _found(volume, name)

    async def list(self) -> list[Found]:
        answer = await self._call("VolumeDriver.List", {})
        return [_found(volume, volume.name) for volume in answer.volumes or () if volume.name]

    async def mount(self, name: str, options: Mapping[str, str], mount_id: str) -> Data:
        answer = await self._call("VolumeDriver.Mount", {"Name": name, "ID": mount_id}, self._long_s)
        if not answer.mountpoint.startswith("/"):
            raise Internal(
                f"volume plugin {self.name} mounted {name} at {answer.mountpoint!r}, which is no absolute path"
            )
        return Data(path=os.path.normpath(answer.mountpoint))

    async def unmount(self, name: str, mount_id: str) -> None:
        await self._call("VolumeDriver.Unmount", {"Name": name, "ID": mount_id})

    async def recover(self) -> None:
        """A plugin looks after itself."""

    async def _call(
        self, method: str, body: dict[str, object] | None, timeout_s: float | None = None
    ) -> _Answer:
        """The plugin's answer. Internal when it refuses, Unavailable when it does not answer."""
        timeout_s = timeout_s or self._quick_s
        parts = urlsplit(self.address)
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(parts.path) if parts.scheme == "unix" else aiohttp.TCPConnector(ssl=self._tls or True)
        )  # fmt: skip
        scheme = "https" if parts.scheme == "https" or self._tls is not None else "http"
        host = "plugin.moby.localhost" if parts.scheme == "unix" else parts.netloc
        try:
            async with (
                asyncio.timeout(timeout_s),
                aiohttp.ClientSession(
                    connector=connector, timeout=aiohttp.ClientTimeout(), trust_env=False
                ) as session,
                session.post(
                    f"{scheme}://{host}/{method}",
                    data=b"" if body is None else msgspec.json.encode(body),
                    headers={"Accept": MIME, "Content-Type": MIME},
                    allow_redirects=False,
                ) as response,
            ):
                data = await _read_all(response, method)
                status = response.status
        except TimeoutError as exc:
            raise Unavailable(
                f"{method}: volume plugin {self.name} at {self.address} did not answer within {timeout_s:g} s"
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise Unavailable(
                f"{method}: volume plugin {self.name} at {self.address} cannot be reached: {exc}"
            ) from exc
        return _understand(data, status, method)


async def _read_all(response: aiohttp.ClientResponse, method: str) -> bytes:
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if len(data) > MAX_ANSWER:
            raise Internal(f"{method}: the plugin's answer is longer than {MAX_ANSWER} bytes")
    return bytes(data)


def _understand(data: bytes, status: int, method: str) -> _Answer:
    try:
        answer = msgspec.convert(msgspec.json.decode(data or b"{}"), _Answer, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        if status == 200:
            raise Internal(f"{method}: the plugin's answer cannot be read: {str(exc)[:200]}") from exc
        answer = _Answer(err=data[:4096].decode("utf-8", "replace").strip())
    if status != 200:
        raise Internal(f"{method}: {answer.err or f'status {status}'}")
    if answer.err:
        raise Internal(answer.err)
    return answer


def _found(volume: _Volume, name: str) -> Found:
    return Found(
        name=volume.name or name,
        mountpoint=volume.mountpoint,
        created_ns=_time_ns(volume.created_at),
        status=volume.status,
    )


def _time_ns(text: str) -> int:
    try:
        return max(0, int(datetime.fromisoformat(text).timestamp())) * 1_000_000_000
    except (ValueError, OverflowError):
        return 0


def _places(folder: str, name: str, ending: str) -> tuple[str, str]:
    return os.path.join(folder, name + ending), os.path.join(folder, name, name + ending)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_SPEC)
    except OSError:
        return None


def _parse_spec(name: str, path: str, text: bytes) -> _Spec:
    try:
        spec = (
            msgspec.json.decode(text, type=_Spec) if path.endswith(".json") else _Spec(addr=text.decode().strip())
        )  # fmt: skip
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidParameter(f"error looking up volume plugin {name}: {path}: {exc}") from exc
    parts = urlsplit(spec.addr)
    if parts.scheme not in ("unix", "tcp", "http", "https") or not (parts.netloc or parts.path):
        raise InvalidParameter(
            f"error looking up volume plugin {name}: {path}: unknown protocol in address {spec.addr!r}"
        )
    return spec


def _tls_of(spec: _Spec) -> ssl.SSLContext | None:
    """Without a CA of its own a plugin's certificate is not looked at, as Docker does."""
    asked = spec.tls_config
    if asked is None:
        return None
    try:
        context = ssl.create_default_context(cafile=asked.ca_file or None)
        if asked.insecure_skip_verify or not asked.ca_file:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if asked.cert_file:
            context.load_cert_chain(asked.cert_file, asked.key_file or None)
    except (OSError, ssl.SSLError) as exc:
        raise InvalidParameter(
            f"the certificates of the plugin at {spec.addr} cannot be read: {exc}"
        ) from exc
    return context
