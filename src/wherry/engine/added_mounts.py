"""Binds and volumes added to a container that exists, or taken from it; running or not, they are remembered.

The shim's act comes first, then the record: what a crash leaves in between shows in the shim's own list of what it
did, and `reconcile` makes it agree with the record again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from msgspec import UNSET, structs

from wherry.engine.bundle import mount_entry
from wherry.engine.context import Context
from wherry.engine.mounts import MAX_MOUNTS, from_bind, from_mount
from wherry.engine.records import Container, MountSpec
from wherry.engine.volume_mounts import ContainerMounts, check_source
from wherry.errors import Conflict, Internal, InvalidParameter, NotFound, WherryError
from wherry.linux.killpoint import killpoint
from wherry.model.containers import HostConfig, Mount
from wherry.shim.client import Shim, ShimError, ShimGone

_log = logging.getLogger(__name__)


class AddedMounts:
    def __init__(self, context: Context, mounts: ContainerMounts) -> None:
        self._context = context
        self._mounts = mounts

    async def add(self, container: Container, body: Mount) -> MountSpec:
        """The container has the bind or volume now, and at every start. Nothing is copied into an empty volume."""
        mount = structs.replace(from_mount(body), is_added=True, copies_up=False)
        if mount.type not in ("bind", "volume"):
            raise InvalidParameter(f"a mount of type {mount.type!r} cannot be added: use bind or volume")
        if mount.is_anonymous:
            raise InvalidParameter('invalid mount config for type "volume": field Source must not be empty')
        if mount.type == "bind":
            check_source(structs.replace(mount, create_source=False))
        async with container.lock:
            self._check(container, mount.target)
            if mount.type == "volume":
                mount = await self._mounts.volume(mount, container.id)
            try:
                await self._add(container, mount)
            except BaseException:
                self._let_go(container, mount)
                raise
        self._emit_update(container)
        return mount

    def _check(self, container: Container, target: str) -> None:
        record = container.record
        if container.state.status in ("removing", "dead"):
            raise Conflict(f"container {container.id} is marked for removal")
        if any(mount.target == target for mount in record.mounts):
            raise Conflict(f"Duplicate mount point: {target}")
        if len(record.mounts) >= MAX_MOUNTS:
            raise InvalidParameter(f"{len(record.mounts)} mounts: a container has at most {MAX_MOUNTS}")

    async def _add(self, container: Container, mount: MountSpec) -> None:
        shim = _shim_of(container)
        if shim is not None:
            await self._attach(container, mount, shim)
        killpoint("mount:attached")
        before = container.record.mounts
        mounts = (*before, mount)
        container.record.mounts = tuple(sorted(mounts, key=lambda each: each.target.count("/")))
        try:
            await self._context.save_record(container)
        except BaseException:
            container.record.mounts = before
            if shim is not None:
                await asyncio.shield(self._take_back(container, mount, shim))
            raise
        killpoint("mount:recorded")

    async def _attach(self, container: Container, mount: MountSpec, shim: Shim) -> None:
        data = await self._mounts.data(container, mount) if mount.type == "volume" else None
        try:
            await shim.mount(mount_entry(mount, data))
        except (ShimError, ShimGone) as exc:
            if data is not None:
                await self._mounts.release(container, mount)
            raise _refusal(container, exc) from exc

    async def _take_back(self, container: Container, mount: MountSpec, shim: Shim) -> None:
        try:
            await shim.unmount(mount.target, lazily=True)
        except (ShimError, ShimGone):
            pass  # it has ended
        if mount.type == "volume":
            await self._mounts.release(container, mount)

    async def remove(self, container: Container, target: str, *, force: bool) -> None:
        """The container does not have what is at `target`, now and at later starts. In use: refused, or `force`."""
        target = from_bind(f"/:{target}").target
        async with container.lock:
            record = container.record
            mount = next(
                (each for each in record.mounts if each.target == target and each.type in ("bind", "volume")),
                None,
            )
            if mount is None:
                raise NotFound(f"no bind or volume is mounted at {target} in container {container.name}")
            shim = _shim_of(container)
            if shim is not None:
                try:
                    await shim.unmount(target, lazily=force)
                except (ShimError, ShimGone) as exc:
                    raise _refusal(container, exc) from exc
            killpoint("mount:detached")
            record.mounts = tuple(each for each in record.mounts if each is not mount)
            record.host = _without(record.host, target)
            await self._context.save_record(container)
            killpoint("mount:forgotten")
            if mount.type == "volume":
                if shim is not None:
                    await self._mounts.release(container, mount)
                self._let_go(container, mount)
        self._emit_update(container)

    def _let_go(self, container: Container, mount: MountSpec) -> None:
        """The volume is not used by the container any more, unless at another place."""
        if mount.name and all(each.name != mount.name for each in container.record.mounts):
            self._context.volumes.release([mount.name], container.id)

    async def reconcile(self, container: Container, shim: Shim, done: Mapping[str, bool]) -> None:
        """After a restart of the engine: `done` is what the shim did (True: mounted), the record what is wanted."""
        wanted = {mount.target: mount for mount in container.record.mounts}
        for target, is_mounted in done.items():
            mount = wanted.get(target)
            try:
                if is_mounted and mount is None:
                    await shim.unmount(target, lazily=True)
                elif not is_mounted and mount is not None:
                    await self._attach(container, mount, shim)
            except (ShimError, ShimGone, WherryError) as exc:
                _log.warning("container %s: the mount at %s: %s", container.id, target, exc)

    def _emit_update(self, container: Container) -> None:
        self._context.events.emit("container", "update", container.id, container.event_attributes())


def _shim_of(container: Container) -> Shim | None:
    """The shim of a running container; None where the next start will do."""
    if not container.state.is_running:
        return None
    if container.shim is None:
        raise Conflict(f"container {container.id} is not running")
    return container.shim


def _refusal(container: Container, error: ShimError | ShimGone) -> WherryError:
    if isinstance(error, ShimGone):
        return Conflict(f"container {container.id} is not running")
    text = str(error)
    if error.kind == "invalid":
        return (
            Conflict(f"{text}: use force")
            if text.endswith("in use by the container")
            else InvalidParameter(text)
        )
    return Conflict(text) if error.kind == "conflict" else Internal(text)


def _without(host: HostConfig, target: str) -> HostConfig:
    """What was asked for at the creation, without what is taken away: `inspect` shows no more than there is."""
    binds = [text for text in host.binds or () if from_bind(text).target != target]
    mounts = (
        UNSET
        if host.mounts is UNSET
        else [mount for mount in host.mounts if from_mount(mount).target != target]
    )
    return structs.replace(host, binds=binds if host.binds is not None else None, mounts=mounts)
