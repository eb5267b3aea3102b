"""The driver `local`: a directory of this host for each volume, `DATA/volumes/NAME/_data`, or a filesystem by
Docker's options `type`, `device` and `o`.

A filesystem is never mounted on the host. Each container mounts it for itself, detached, in its own mount namespace;
two mounts of one device are the same filesystem to the kernel. `mount` tries it first, so that what is wrong with it
is said in Docker's words before a container is begun.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from wherry.errors import Internal, InvalidParameter, Unavailable
from wherry.linux import mounts
from wherry.linux.killpoint import killpoint
from wherry.store.trees import remove_tree
from wherry.volumes.driver import Data, Found

T = TypeVar("T")

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
MAX_NAME_BYTES = 255
"""A name is a directory's."""
MOUNT_TIMEOUT_S = 60.0
MAX_UNANSWERED = 16
"""Mounts that the kernel may be stuck with (a server that does not answer) before no more are tried."""

_OPTIONS = ("type", "device", "o", "size")
_NEEDED = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_SIZE = re.compile(r"[0-9]+(\.[0-9]*)? ?[kKmMgGtTpP]?[iI]?[bB]?")
_FRESH = ("tmpfs", "ramfs")
_GONE = ".gone-"

_FLAGS = {
    "ro": 0x1, "nosuid": 0x2, "nodev": 0x4, "noexec": 0x8, "sync": 0x10, "remount": 0x20, "mand": 0x40,
    "dirsync": 0x80, "noatime": 0x400, "nodiratime": 0x800, "bind": 0x1000, "rbind": 0x5000,
    "unbindable": 0x20000, "runbindable": 0x24000, "private": 0x40000, "rprivate": 0x44000, "slave": 0x80000,
    "rslave": 0x84000, "shared": 0x100000, "rshared": 0x104000, "relatime": 0x200000, "strictatime": 0x1000000,
    "defaults": 0, "rw": 0, "suid": 0, "dev": 0, "exec": 0, "async": 0, "atime": 0, "diratime": 0, "norelatime": 0,
}  # fmt: skip
"""Words of mount(8) and their flags of mount(2); everything else is the filesystem's own."""
_ATTRIBUTES = {
    "ro": mounts.ATTR_RDONLY,
    "nosuid": mounts.ATTR_NOSUID,
    "nodev": mounts.ATTR_NODEV,
    "noexec": mounts.ATTR_NOEXEC,
}


class _DockerOptions(msgspec.Struct):
    """`opts.json`, which Docker's engine writes beside a volume's data."""

    MountType: str = ""
    MountOpts: str = ""
    MountDevice: str = ""


class Local:
    name = "local"
    scope = "local"

    def __init__(self, root: str) -> None:
        self._root = root
        self._unanswered = 0

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """Docker's texts."""
        if len(name) == 1:
            raise InvalidParameter(
                "volume name is too short, names should be at least two alphanumeric characters"
            )
        if not NAME.fullmatch(name):
            raise InvalidParameter(
                f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are'
                " allowed. If you intended to pass a host directory, use absolute path"
            )
        if len(name) > MAX_NAME_BYTES:
            raise InvalidParameter(f"volume name of {len(name)} characters: at most {MAX_NAME_BYTES} fit")
        check_options(options)

    def data_path(self, name: str) -> str:
        return os.path.join(self._root, name, "_data")

    async def create(self, name: str, options: Mapping[str, str]) -> None:
        try:
            os.makedirs(os.path.join(self._root, name), mode=0o701, exist_ok=True)
            killpoint("volume:directory-made")
            os.makedirs(self.data_path(name), mode=0o755, exist_ok=True)
        except OSError as exc:
            raise Internal(
                f"error while creating volume data path '{self.data_path(name)}': {exc.strerror}"
            ) from exc

    async def remove(self, name: str) -> None:
        """By another name first: half a volume is never seen under its own."""
        gone = os.path.join(self._root, _GONE + secrets.token_hex(8))
        try:
            os.rename(os.path.join(self._root, name), gone)
        except FileNotFoundError:
            return
        killpoint("volume:renamed-away")
        try:
            await asyncio.to_thread(remove_tree, gone)
        except OSError as exc:
            raise Internal(f"error removing volume path '{gone}': {exc.strerror}") from exc

    async def find(self, name: str) -> Found | None:
        path = self.data_path(name)
        return Found(name=name, mountpoint=path) if os.path.isdir(path) else None

    async def list(self) -> list[Found]:
        return [
            Found(
                name=name,
                mountpoint=self.data_path(name),
                created_ns=os.stat(self.data_path(name)).st_ctime_ns,
                options=_options_of_docker(os.path.join(self._root, name, "opts.json")),
            )
            for name in os.listdir(self._root)
            if NAME.fullmatch(name) and os.path.isdir(self.data_path(name))
        ]

    async def mount(self, name: str, options: Mapping[str, str], mount_id: str) -> Data:
        path = self.data_path(name)
        kind, device = options.get("type", ""), options.get("device", "")
        words = [word for word in options.get("o", "").split(",") if word]
        if not kind and not device:
            if not os.path.isdir(path):
                raise Internal(f"the directory of volume {name} is not there: {path}")
            return Data(path=path)
        if not device:
            raise Internal("missing device in volume options")
        if "bind" in words or "rbind" in words:
            return self._bind(device, path, words)
        if kind in ("nfs", "nfs4", "cifs"):
            words = await self._within("looking up its address", lambda: _with_address(words))
        data = Data(
            filesystem=kind,
            device=device,
            options=tuple(words),
            is_fresh=kind in _FRESH,
        )
        try:
            await self._within(f"mounting {kind} {device}", lambda: os.close(open_filesystem(data)))
        except OSError as exc:
            raise Internal(_failure(device, path, words, exc)) from exc
        return data

    async def unmount(self, name: str, mount_id: str) -> None:
        """Nothing of ours is mounted on the host."""

    async def recover(self) -> None:
        os.makedirs(self._root, mode=0o701, exist_ok=True)
        for name in os.listdir(self._root):
            if name.startswith(_GONE):
                await asyncio.to_thread(remove_tree, os.path.join(self._root, name))

    def _bind(self, device: str, path: str, words: list[str]) -> Data:
        try:
            if not device.startswith("/"):
                raise FileNotFoundError(2, "No such file or directory")
            os.stat(device)
        except OSError as exc:
            raise Internal(_failure(device, path, words, exc)) from exc
        kept = [word for word in words if word in ("ro", "nosuid", "nodev", "noexec")]
        return Data(path=device, options=("rbind" if "rbind" in words else "bind", *kept))

    async def _within(self, what: str, work: Callable[[], T]) -> T:
        """`work`'s result, from a thread of its own: one that the kernel never lets go must not hold the others."""
        if self._unanswered >= MAX_UNANSWERED:
            raise Unavailable(f"{self._unanswered} mounts of volumes are stuck: {what} is not tried")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            self._unanswered -= 1
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # pyright: ignore[reportArgumentType]: no error, so it is a T

        def run() -> None:
            try:
                outcome = work(), None
            except Exception as exc:
                outcome = None, exc
            try:
                loop.call_soon_threadsafe(settle, *outcome)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        self._unanswered += 1
        threading.Thread(target=run, daemon=True, name="volume-mount").start()
        try:
            async with asyncio.timeout(MOUNT_TIMEOUT_S):
                return await done
        except TimeoutError as exc:
            raise Unavailable(
                f"failed to mount local volume: {what} did not end within {MOUNT_TIMEOUT_S:g} s"
            ) from exc


def check_options(options: Mapping[str, str]) -> None:
    """Docker's checks, in its words."""
    for key in options:
        if key not in _OPTIONS:
            raise InvalidParameter(f'invalid option: "{key}"')
    size = options.get("size")
    if size is not None:
        if not _SIZE.fullmatch(size):
            raise InvalidParameter(f"invalid size: '{size}'")
        if size.strip("0.kmgtpibKMGTPIB "):
            raise InvalidParameter("quota size requested but no quota support")
    for key, needed in _NEEDED.items():
        for other in needed if key in options else ():
            if other not in options:
                raise InvalidParameter(f'missing required option: "{other}"')


def split_options(words: tuple[str, ...] | list[str]) -> tuple[int, list[tuple[str, str | None]]]:
    """The words of `o` as mount attributes and the filesystem's own options."""
    attributes = 0
    data: list[tuple[str, str | None]] = []
    for word in words:
        attributes |= _ATTRIBUTES.get(word, 0)
        if word not in _FLAGS:
            key, equals, value = word.partition("=")
            data.append((key, value if equals else None))
    return attributes, data


def open_filesystem(data: Data) -> int:
    """The filesystem mounted for us alone, detached: a descriptor that is its root, the caller's to close."""
    attributes, options = split_options(data.options)
    return mounts.new_filesystem(data.filesystem, [("source", data.device), *options], attributes)


def _failure(device: str, path: str, words: list[str], error: OSError) -> str:
    """Docker's sentence, which ends in the kernel's reason. A password is not for everybody's eyes."""
    flags = 0
    for word in words:
        flags |= _FLAGS.get(word, 0)
    shown = f", flags: {flags:#x}" if flags else ""
    data = ",".join(word for word in words if word not in _FLAGS)
    data = re.sub(r"password=[^,]*", "password=********", data)
    reason = os.strerror(error.errno or 0).lower()
    shown += f", data: {data}" if data else ""
    return f"failed to mount local volume: mount {device}:{path}{shown}: {reason}"


def _with_address(words: list[str]) -> list[str]:
    """`addr=NAME` with the name's address: the kernel knows no names."""
    shown: list[str] = []
    for word in words:
        key, _, value = word.partition("=")
        if key == "addr" and value and not _is_address(value):
            try:
                found = socket.getaddrinfo(value, None, proto=socket.IPPROTO_TCP)
            except OSError as exc:
                raise Internal(
                    f"error resolving passed in network volume address: lookup {value}: {exc}"
                ) from exc
            word = f"addr={found[0][4][0]}"
        shown.append(word)
    return shown


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _options_of_docker(path: str) -> dict[str, str] | None:
    try:
        with open(path, "rb") as file:
            read = msgspec.json.decode(file.read(1 << 16), type=_DockerOptions)
    except (OSError, msgspec.DecodeError):
        return None
    named = {"type": read.MountType, "device": read.MountDevice, "o": read.MountOpts}
    return {key: value for key, value in named.items() if value} or None
