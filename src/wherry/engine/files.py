"""A container's files for `docker cp`, `diff`, `export` and `commit`: whatever state it is in.

A running container is seen as it sees itself. A stopped one is mounted by a helper, with its volumes and binds: once,
for all who ask at a time (an overlay's upper directory must not be mounted twice), and while that is so the container
does not start. The lock that says so is on the container's directory, and held by the helper's processes: it outlives
a daemon that dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

from wherry.engine import bundle
from wherry.engine.context import Context
from wherry.engine.records import Container
from wherry.engine.volume_mounts import ContainerMounts
from wherry.errors import Conflict, Internal, NotFound
from wherry.files.client import Helper, PathStat, View
from wherry.shim.client import ShimError, ShimGone
from wherry.volumes.driver import Data

T = TypeVar("T")

_LOCK_WAIT_S: Final = 10.0
_LOCK_RETRY_S: Final = 0.01
_PROPAGATION: Final = frozenset(
    word for each in ("private", "slave", "shared", "unbindable") for word in (each, f"r{each}")
)


class _Stopped:
    """The one view of a stopped container, and how many use it."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.users = 0
        self.gone = asyncio.Event()


class Files:
    """`find` gives a container by name or ID; `mounts` knows its volumes."""

    def __init__(self, context: Context, find: Callable[[str], Container], mounts: ContainerMounts) -> None:
        self._context = context
        self._find = find
        self._mounts = mounts
        self._helper = Helper()
        self._stopped: dict[str, _Stopped] = {}
        context.free_files = self.free

    async def close(self) -> None:
        await self._helper.close()

    # cp

    async def stat(self, reference: str, path: str) -> PathStat:
        """What is at `path`, its last component not followed. Raises NotFound in Docker's words."""
        container = self._find(reference)
        async with self.view(container, read_only=True) as view:
            return await _told(view.stat(path), reference, path)

    @asynccontextmanager
    async def archive(
        self, reference: str, path: str
    ) -> AsyncGenerator[tuple[PathStat, AsyncGenerator[bytes]]]:
        """What is at `path`, and its tar in pieces. Event: `archive-path`."""
        container = self._find(reference)
        async with self.view(container, read_only=True) as view:
            found, pieces = await _told(view.pack(path), reference, path)
            self._emit(container, "archive-path")
            async with aclosing(pieces):
                yield found, pieces

    async def extract(
        self,
        reference: str,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        merge_only: bool = False,
        owner: str = "",
    ) -> None:
        """Unpack the tar in `chunks` into the container's directory `path`. Event: `extract-to-dir`.

        `merge_only`: Docker's noOverwriteDirNonDir. `owner`: `user[:group]` of all that is made, names as the
        container's own /etc/passwd and /etc/group have them; else the archive's numbers stand.
        """
        container = self._find(reference)
        async with self.view(container, read_only=False) as view:
            await _told(view.extract(path, chunks, merge_only=merge_only, owner=owner), reference, path)
        self._emit(container, "extract-to-dir")

    # export and diff

    async def export(self, reference: str) -> AsyncGenerator[bytes]:
        """The root filesystem as a tar in pieces, without what is mounted in it. Event: `export`."""
        container = self._find(reference)
        if container.state.status in ("dead", "removing"):
            raise Conflict(f"You cannot export container {container.id} which is {container.state.status}")
        async with self.view(container, read_only=True) as view:
            _, pieces = await view.pack("/", bare=True, name="")
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        self._emit(container, "export")

    async def changes(self, reference: str) -> list[tuple[int, str]]:
        """Kind (0 changed, 1 added, 2 deleted) and path of each change to the image's files."""
        container = self._find(reference)
        async with self.layer_view(container) as view:
            found = await view.changes()
        return [(kind, path.decode("utf-8", "replace")) for kind, path in found]

    # Views

    @asynccontextmanager
    async def view(self, container: Container, *, read_only: bool) -> AsyncGenerator[View]:
        """The container's files until the end. `read_only`: nothing will be written."""
        async with container.lock:
            if container.state.status in ("dead", "removing"):
                raise Conflict(f"container {container.id} is marked for removal")
            stopped = None
            if container.state.is_running:
                view = await self._running(container, read_only=read_only)
            else:
                stopped = self._stopped.get(container.id) or await self._open_stopped(container)
                stopped.users += 1
                view = stopped.view
        try:
            yield view
        finally:
            if stopped is None:
                await asyncio.shield(view.close())
            else:
                stopped.users -= 1
                if not stopped.users:
                    await asyncio.shield(self._close_stopped(container, stopped))

    @asynccontextmanager
    async def layer_view(self, container: Container) -> AsyncGenerator[View]:
        """The container's writable layer, to be compared with its image."""
        own = self._context.driver.own_tree(container.id)
        order = {"kind": "layer", "tree": own.tree, "lower": own.lower, "is_full": own.is_full}
        view = await self._helper.open(order, [])
        try:
            yield view
        finally:
            await asyncio.shield(view.close())

    async def _running(self, container: Container, *, read_only: bool) -> View:
        namespace = os.open(f"/proc/{container.state.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._check_running(container)
            return await self._helper.open({"kind": "running", "read_only": read_only}, [namespace])
        finally:
            os.close(namespace)

    async def _check_running(self, container: Container) -> None:
        """The process whose namespace was opened is still not reaped: its number was not another's meanwhile."""
        try:
            assert container.shim is not None
            state = await container.shim.state()
        except (ShimError, ShimGone) as exc:
            raise Conflict(f"container {container.id} is not running") from exc
        if state["pid"] != container.state.pid:
            raise Conflict(f"container {container.id} is not running")

    async def _open_stopped(self, container: Container) -> _Stopped:
        lock = self._lock(container, fcntl.LOCK_SH)
        if lock is None:
            raise Conflict(f"container {container.id} is being started")
        try:
            data = await self._mounts.mount(container)
            try:
                order = {
                    "kind": "stopped",
                    "rootfs": self._context.driver.rootfs(container.id),
                    "mounts": self._entries(container, data),
                    "read_only": container.record.host.readonly_rootfs,
                }
                view = await self._helper.open(order, [lock])
            except BaseException:
                await asyncio.shield(self._mounts.unmount(container))
                raise
        finally:
            os.close(lock)
        self._stopped[container.id] = stopped = _Stopped(view)
        return stopped

    def _entries(self, container: Container, data: Mapping[str, Data]) -> list[dict[str, Any]]:
        """What is mounted in a stopped container: binds, volumes and images, and its own /etc files."""
        entries: list[dict[str, Any]] = []
        for mount in container.record.mounts:
            if mount.type == "tmpfs" or (mount.type == "bind" and not os.path.exists(mount.source)):
                continue
            entry = bundle.mount_entry(mount, data.get(mount.target))
            # Here nothing is to show on the host.
            entry["options"] = [word for word in entry["options"] if word not in _PROPAGATION]
            entries.append(entry)
        paths = self._context.paths(container.id)
        taken = {entry["destination"] for entry in entries}
        for key, target in (
            ("resolv_conf", "/etc/resolv.conf"),
            ("hostname", "/etc/hostname"),
            ("hosts", "/etc/hosts"),
        ):
            if target not in taken and os.path.exists(paths[key]):
                entries.append(
                    {"destination": target, "type": "bind", "source": paths[key], "options": ["bind"]}
                )
        return entries

    async def _close_stopped(self, container: Container, stopped: _Stopped) -> None:
        if self._stopped.get(container.id) is not stopped:
            return  # it was ended by `free`
        del self._stopped[container.id]
        try:
            await stopped.view.close()
            await self._mounts.unmount(container)
        finally:
            stopped.gone.set()

    def _lock(self, container: Container, how: int) -> int | None:
        """The lock on the container's directory, held while the descriptor is open; None where it cannot be had."""
        descriptor = os.open(
            self._context.container_dir(container.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        )
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    async def free(self, container: Container, *, at_once: bool) -> None:
        """Nobody has the stopped container's files mounted when this returns; its lock is held by the caller.

        Waits for those who are at it (Docker does), or ends them: `at_once`.
        """
        stopped = self._stopped.get(container.id)
        if stopped is not None:
            if at_once:
                await self._close_stopped(container, stopped)
            await stopped.gone.wait()
        deadline = asyncio.get_running_loop().time() + _LOCK_WAIT_S
        while True:
            try:
                lock = self._lock(container, fcntl.LOCK_EX)
            except FileNotFoundError:
                return
            if lock is not None:
                os.close(lock)
                return
            if asyncio.get_running_loop().time() > deadline:
                raise Internal(
                    f"the files of container {container.id} are in use by a helper of an earlier daemon"
                )
            await asyncio.sleep(_LOCK_RETRY_S)

    def _emit(self, container: Container, action: str) -> None:
        self._context.events.emit("container", action, container.id, container.event_attributes())


async def _told(work: Coroutine[Any, Any, T], reference: str, path: str) -> T:
    """`work`'s result; what was not found in Docker's words."""
    try:
        return await work
    except NotFound as exc:
        raise NotFound(f"Could not find the file {path} in container {reference}") from exc
