"""What a container's volumes and image mounts need done: at its creation, its start, its end and its removal.

creation   volumes made where missing, from then on used by the container; first-use copy of the image's content
start      each driver says what is to be mounted (`volumes.driver.Data`); events `mount`
end        the drivers are told; events `unmount`
removal    used no longer; the anonymous ones gone, where that is asked for
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

from msgspec import structs

from wherry.engine.context import Context
from wherry.engine.records import Container, ContainerRecord, MountSpec
from wherry.engine.settings import BUILT_IN_RUNTIME
from wherry.errors import Conflict, Internal, InvalidParameter, NotFound, Unsupported, WherryError
from wherry.linux import files, process
from wherry.linux.killpoint import killpoint
from wherry.oci.digest import ChainID
from wherry.runtime import rootfs
from wherry.volumes import fill
from wherry.volumes.driver import Data
from wherry.volumes.local import open_filesystem
from wherry.volumes.volumes import LOCAL

T = TypeVar("T")

WITHIN = files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS
"""How a subpath is resolved: not a single symlink, since a container that has the volume can make any."""


def volumes_of(record: ContainerRecord) -> list[MountSpec]:
    return [mount for mount in record.mounts if mount.type == "volume"]


def snapshots_of(record: ContainerRecord) -> list[str]:
    """Keys of writable layers that stand for image mounts."""
    return [mount.snapshot for mount in record.mounts if mount.snapshot]


class ContainerMounts:
    """`running`: the containers that run, for a filesystem that only those that have it can share."""

    def __init__(self, context: Context, running: Callable[[], Sequence[Container]]) -> None:
        self._context = context
        self._running = running

    # Creation

    async def provide(self, record: ContainerRecord, until_made: AsyncExitStack) -> tuple[MountSpec, ...]:
        """The record's mounts with their volumes and images found or made. `discard` takes it back."""
        provided: list[MountSpec] = []
        for mount in record.mounts:
            if mount.type == "volume":
                mount = await self.volume(mount, record.id, durable=not record.host.auto_remove)
            elif mount.type == "image":
                mount = await self._image(mount, record.id, until_made)
            elif mount.type == "bind":
                check_source(mount)
            provided.append(mount)
        return tuple(provided)

    async def volume(self, mount: MountSpec, container_id: str, *, durable: bool = True) -> MountSpec:
        """The mount with its volume, which is made if there is none."""
        volume = await self._context.volumes.create(
            mount.name,
            mount.driver,
            options=mount.driver_options,
            labels=mount.labels,
            user=container_id,
            durable=durable,
        )
        is_local = volume.driver == LOCAL
        return structs.replace(
            mount,
            name=volume.name,
            driver=volume.driver,
            source=volume.mountpoint,
            driver_options=None,
            labels=None,
            mode=mount.mode or ("z" if is_local and not mount.is_declared else ""),  # as Docker shows it
        )

    async def _image(self, mount: MountSpec, container_id: str, until_made: AsyncExitStack) -> MountSpec:
        image = await until_made.enter_async_context(self._context.images.held(mount.name))
        key = hashlib.sha256(f"{container_id} {mount.name} {mount.target}".encode()).hexdigest()
        return structs.replace(mount, source=image.id, snapshot=key, chain_ids=tuple(image.chain_ids))

    def make_snapshots(self, record: ContainerRecord) -> None:
        """Blocks. Again after a crash: nothing happens to what is there."""
        for mount in record.mounts:
            if mount.snapshot:
                self._context.driver.prepare(mount.snapshot, [ChainID(text) for text in mount.chain_ids])

    async def populate(self, record: ContainerRecord) -> None:
        """Empty volumes get what the image has at their place. The container's own layer must be there."""
        for mount in volumes_of(record):
            if mount.copies_up:
                async with self._context.volumes.lock(mount.name):
                    await self._populate(record, mount)

    async def _populate(self, record: ContainerRecord, mount: MountSpec) -> None:
        volumes, place = self._context.volumes, f"copy to {mount.target}"
        data = await volumes.mount(mount.name, record.id, place)
        try:
            if not data.is_fresh:  # what is copied into such a one would be gone with the copier's mount
                root = self._context.driver.rootfs(record.id)
                await in_own_thread(lambda: _copy_up(root, mount, data))
        except OSError as exc:
            raise Internal(
                f"failed to populate volume {mount.name}: {(exc.strerror or str(exc)).lower()}"
            ) from exc
        finally:
            await asyncio.shield(volumes.unmount(mount.name, record.id, place))
        killpoint("create:volume-populated")

    # Start and end

    async def mount(self, container: Container) -> dict[str, Data]:
        """What is to be mounted for each target that is a volume or an image. `unmount` takes it back."""
        made: dict[str, Data] = {}
        try:
            for mount in container.record.mounts:
                if mount.type in ("volume", "image"):
                    made[mount.target] = await self.data(container, mount)
        except BaseException:
            await asyncio.shield(self._unmount(container, made))
            raise
        return made

    async def data(self, container: Container, mount: MountSpec) -> Data:
        """What the container's runtime has to mount. Events: `mount` of the volume."""
        record = container.record
        is_ours = record.host.runtime == BUILT_IN_RUNTIME
        if mount.subpath and not is_ours:
            raise Unsupported(
                f"subpath {mount.subpath!r} at {mount.target}: only the runtime {BUILT_IN_RUNTIME!r} can mount a part"
                f" of a volume or image safely, and this container's is {record.host.runtime!r}"
            )
        if mount.type == "image":
            return _image_data(self._context.driver.rootfs(mount.snapshot), is_ours=is_ours)
        data = await self._context.volumes.mount(mount.name, record.id, mount.target)
        if data.is_fresh and is_ours:
            data = self._shared(mount, container) or data
        if mount.subpath and data.path:
            try:
                _check_subpath(data.path, mount.subpath)
            except WherryError:
                await self._context.volumes.unmount(mount.name, record.id, mount.target)
                raise
        attributes = {
            "container": record.id,
            "destination": mount.target,
            "driver": mount.driver,
            "propagation": "",
            "read/write": "false" if mount.read_only else "true",
        }
        self._context.events.emit("volume", "mount", mount.name, attributes)
        return data

    def _shared(self, mount: MountSpec, container: Container) -> Data | None:
        """The place of another running container where that filesystem is mounted already."""
        for other in self._running():
            for theirs in volumes_of(other.record):
                if theirs.name == mount.name and not theirs.subpath and other is not container:
                    return Data(path=f"/proc/{other.state.pid}/root{theirs.target}")
        return None

    async def unmount(self, container: Container) -> None:
        """The container has ended, or did not start."""
        await self._unmount(container, {mount.target for mount in volumes_of(container.record)})

    async def _unmount(self, container: Container, targets: Mapping[str, Data] | set[str]) -> None:
        for mount in volumes_of(container.record):
            if mount.target in targets:
                await self.release(container, mount)

    async def release(self, container: Container, mount: MountSpec) -> None:
        """The container has the volume no longer at this place. Events: `unmount`."""
        await self._context.volumes.unmount(mount.name, container.id, mount.target)
        attributes = {"container": container.id, "driver": mount.driver}
        self._context.events.emit("volume", "unmount", mount.name, attributes)

    # Removal

    def going_with(self, record: ContainerRecord) -> list[str]:
        """The anonymous volumes that nobody else uses."""
        volumes = self._context.volumes
        return [
            mount.name
            for mount in volumes_of(record)
            if mount.is_anonymous and volumes.users(mount.name) in ([], [record.id])
        ]

    async def removed(self, record: ContainerRecord, going: Sequence[str]) -> None:
        """The container's row is gone: its volumes are not used by it any more, and those `going` are removed."""
        volumes = self._context.volumes
        volumes.release([mount.name for mount in volumes_of(record)], record.id)
        for name in going:
            try:
                await volumes.remove(name, durable=not record.host.auto_remove)
            except (Conflict, NotFound):
                continue  # somebody else took to it, or was quicker
            except WherryError as exc:
                raise Internal(f"Error removing volumes:\n{exc}") from exc


def check_source(mount: MountSpec) -> None:
    """Refuse a `--mount` of what is not there, before anything is made. -v makes it at the start."""
    if mount.is_mount_api and not mount.create_source and not os.path.exists(mount.source):
        raise InvalidParameter(
            f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
        )


def _check_subpath(path: str, subpath: str) -> None:
    """Say in Docker's words that there is no such place. (The runtime looks again, at what it mounts.)"""
    base = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(files.open_below(base, subpath, os.O_PATH, resolve=WITHIN))
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            raise InvalidParameter(
                f"path concatenation escapes the base directory, base: {path}, subpath: {subpath}"
            ) from exc
        raise NotFound(
            f"cannot access path {os.path.join(path, subpath)}: {os.strerror(exc.errno or 0).lower()}"
        ) from exc
    finally:
        os.close(base)


def open_data(data: Data) -> int:
    """A volume's data as a directory to work in."""
    if data.path:
        return os.open(data.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mounted = open_filesystem(data)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)
    finally:
        os.close(mounted)


def _copy_up(root_value: Mapping[str, object], mount: MountSpec, data: Data) -> None:
    """Fill the volume from the container's root, of which nothing is written. In a thread of its own."""
    process.unshare(process.CLONE_FS)  # an overlay's layers may have to be named from another directory
    os.umask(0)
    volume = open_data(data)
    try:
        if mount.subpath:
            try:
                inner = files.open_below(volume, mount.subpath, os.O_RDONLY | os.O_DIRECTORY, resolve=WITHIN)
            except OSError:
                return  # the start says what is wrong with it
            os.close(volume)
            volume = inner
        if not fill.is_empty(volume):
            return
        root = rootfs.assemble(dict(root_value), {}, "/")
        try:
            source = files.open_below(root, mount.target, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        except NotADirectoryError as exc:
            if not mount.is_declared:
                return
            raise Internal(f"cannot mount volume over existing file, file exists {mount.target}") from exc
        finally:
            os.close(root)
        try:
            fill.fill(volume, source)
        finally:
            os.close(source)
    finally:
        os.close(volume)


def _image_data(value: Mapping[str, object], *, is_ours: bool) -> Data:
    if value["type"] == "bind":
        return Data(path=str(value["source"]))
    lower = [str(path) for path in _texts(value["lower"])]
    options = [f"lowerdir+={path}" for path in lower] if is_ours else [f"lowerdir={':'.join(lower)}"]
    options += [f"upperdir={value['upper']}", f"workdir={value['work']}", *map(str, _texts(value["options"]))]
    return Data(filesystem="overlay", device="overlay", options=tuple(options))


def _texts(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


async def in_own_thread(work: Callable[[], T]) -> T:
    """`work`'s result, from a thread that ends with it. When we are cancelled it is waited for all the same."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as exc:
            loop.call_soon_threadsafe(done.set_exception, exc)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=run, name="volume-copy").start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise
