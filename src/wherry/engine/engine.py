"""The engine: every use case behind one object, with the subsystems it is made of.

`await Engine.open(settings)` takes the data root (one engine per data root), recovers what an earlier one left, and
is ready. `await engine.close()` lets go; containers go on running.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import sqlite3
from contextlib import AsyncExitStack

import msgspec

import wherry
from wherry.engine.boot import begin_boot
from wherry.engine.connecting import Connecting
from wherry.engine.containers import Containers
from wherry.engine.context import Context
from wherry.engine.events import Events
from wherry.engine.execs import Execs
from wherry.engine.files import Files
from wherry.engine.images import Images
from wherry.engine.launching import Launching
from wherry.engine.lifecycle import stop_timeout
from wherry.engine.networks import NetworkDirectory
from wherry.engine.ports import PortChanges
from wherry.engine.restore import restore, revive
from wherry.engine.settings import RELOADABLE, EngineSettings
from wherry.engine.system import System, host_facts
from wherry.engine.volumes import VolumeDirectory
from wherry.errors import Conflict, NotFound, Unsupported
from wherry.network.networks import Networks, NetworkSettings
from wherry.network.pools import DEFAULT_POOLS, PoolSetting
from wherry.registry.client import Client
from wherry.registry.fetch import Registry
from wherry.registry.resolve import Endpoints
from wherry.store.store import Store
from wherry.volumes.volumes import Volumes

GRACE_S = 5
"""What Docker adds to the longest stop timeout when its daemon ends."""


class Engine:
    """Made by `open`. The attributes are the services the API and embedding programs call."""

    def __init__(
        self,
        *,
        settings: EngineSettings,
        context: Context,
        containers: Containers,
        execs: Execs,
        files: Files,
        system: System,
        volumes: VolumeDirectory,
        registry: Registry,
        closing: AsyncExitStack,
    ) -> None:
        self.settings = settings
        self.containers = containers
        self.execs = execs
        self.files = files
        self.images = context.images
        self.ports = PortChanges(context, containers.find)
        self.networks = NetworkDirectory(
            context.networks,
            containers.name_of,
            connecting=Connecting(context, containers.find),
            events=context.events,
        )
        self.volumes = volumes
        self.events = context.events
        self.system = system
        self.launcher = context.launcher
        self._context = context
        self._registry = registry
        self._closing = closing

    @classmethod
    async def open(cls, settings: EngineSettings) -> Engine:
        """Take the data root and recover. Raises Conflict when another engine has it."""
        async with AsyncExitStack() as undo:
            make_roots(settings)
            undo.callback(os.close, lock_root(settings.data_root, "data root"))
            if not os.path.samefile(settings.data_root, settings.exec_root):
                undo.callback(os.close, lock_root(settings.exec_root, "exec root"))
            begin_boot(settings.exec_root)
            store = await _open_store(settings)
            undo.push_async_callback(store.close)
            engine_id = await store.database.run(_engine_id)
            events = Events()
            registry = Registry(Client(_endpoints(settings), agent=f"wherry/{wherry.__version__}"))
            undo.push_async_callback(registry.close)
            networks = await Networks.open(
                store.database,
                network_settings(settings),
            )
            undo.push_async_callback(networks.close)
            launcher = await Launching.open(settings.exec_root)
            undo.push_async_exit(launcher.leave)
            services: list[Containers] = []
            images = Images(
                store,
                registry,
                lambda action, image_id, attributes: events.emit("image", action, image_id, attributes),
                lambda image_id: services[0].users_of(image_id),
                concurrent_downloads=settings.max_concurrent_downloads,
            )
            volumes = await Volumes.open(
                store.database,
                settings.data_root,
                lambda action, volume: events.emit("volume", action, volume.name, {"driver": volume.driver}),
            )
            context = Context(
                settings=settings,
                facts=host_facts(store.driver.name),
                store=store,
                images=images,
                networks=networks,
                volumes=volumes,
                launcher=launcher,
                events=events,
            )
            undo.callback(context.naming.close)
            launcher.background = context.spawn
            containers = Containers(context)
            services.append(containers)
            execs = Execs(context, containers)
            files = Files(context, containers.find, containers.mounts)
            undo.push_async_callback(files.close)
            volume_directory = VolumeDirectory(context)
            system = System(context, containers, volume_directory, engine_id)
            undo.callback(containers.lifecycle.restarts.close)
            await restore(context, containers, execs)
            await revive(context, containers)
            return cls(
                settings=settings,
                context=context,
                containers=containers,
                execs=execs,
                files=files,
                system=system,
                volumes=volume_directory,
                registry=registry,
                closing=undo.pop_all(),
            )

    async def shut_down(self) -> None:
        """Before `close`, where `live_restore` is off: stop every container, as Docker does. Those that have a restart
        policy start again when the next engine is opened.

        Each has its own stop timeout; the whole takes no longer than the settings' timeout, or than the longest of
        those and five seconds.
        """
        self.containers.lifecycle.restarts.close()
        active = [container for container in self.containers.all() if container.state.is_active]
        timeouts = [stop_timeout(container) for container in active]
        is_endless = self.settings.shutdown_timeout < 0 or any(each < 0 for each in timeouts)
        limit_s = max(self.settings.shutdown_timeout, *(each + GRACE_S for each in timeouts), 0)
        stopping = [asyncio.ensure_future(self.containers.lifecycle.shut_down(each)) for each in active]
        if stopping:
            await asyncio.wait(stopping, timeout=None if is_endless else limit_s)

    async def close(self) -> None:
        """Let go of everything. Containers go on, and the next engine finds them."""
        self.containers.lifecycle.restarts.close()
        await self._context.settle()
        await self._closing.aclose()

    def reload(self, settings: EngineSettings) -> None:
        """Go on with what is RELOADABLE of `settings`; the rest stays as it is. All of it or, when this raises, nothing."""
        settings = msgspec.structs.replace(
            self.settings, **{name: getattr(settings, name) for name in RELOADABLE}
        )
        endpoints = _endpoints(settings)
        self.settings = self._context.settings = settings
        self._registry.use(endpoints)
        self.images.limit_downloads(settings.max_concurrent_downloads)
        self.system.reloaded()

    async def dismantle(self) -> None:
        """Before the last `close`: remove every container, and all that this engine made outside its roots."""
        for container in self.containers.all():
            try:
                await self.containers.remove(container.id, force=True)
            except (Conflict, NotFound):
                pass  # it is being removed just now
        await self._context.settle()
        await self._context.networks.remove_all()
        await self.launcher.stop()


def _endpoints(settings: EngineSettings) -> Endpoints:
    return Endpoints(mirrors=settings.registry_mirrors, insecure=settings.insecure_registries)


def network_settings(settings: EngineSettings) -> NetworkSettings:
    """The part of the settings that is about networks."""
    pools = tuple(PoolSetting(base, size) for base, size in settings.default_address_pools)
    return NetworkSettings(
        bridge=settings.bridge,
        bip=settings.bip,
        bip6=settings.bip6,
        fixed_cidr=settings.fixed_cidr,
        fixed_cidr_v6=settings.fixed_cidr_v6,
        default_address_pools=pools or DEFAULT_POOLS,
        default_network_opts=settings.default_network_opts,
        ipv6=settings.ipv6,
        mtu=settings.mtu,
        icc=settings.icc,
        ip_masq=settings.ip_masq,
        ip_forward=settings.ip_forward,
        iptables=settings.iptables,
        ip6tables=settings.ip6tables,
        firewall_accept=settings.firewall_accept,
        publish_address=settings.publish_address,
    )


def make_roots(settings: EngineSettings) -> None:
    for path, mode in (
        (settings.data_root, 0o710),
        (os.path.join(settings.data_root, "containers"), 0o710),
        (settings.exec_root, 0o711),
        (os.path.join(settings.exec_root, "containers"), 0o711),
    ):
        os.makedirs(path, mode=mode, exist_ok=True)


def lock_root(root: str, what: str) -> int:
    """The descriptor that makes this process the owner of `root` until it is closed, or the process dies."""
    path = os.path.join(root, "lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise Conflict(
            f"{what} {root} is in use by another engine (process {holder or 'unknown'}): stop that one, or choose"
            f" another {what}"
        ) from exc
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


async def _open_store(settings: EngineSettings) -> Store:
    if settings.storage_driver:
        return await Store.open(settings.data_root, settings.storage_driver)
    try:
        return await Store.open(settings.data_root, "overlay2")
    except Unsupported:
        return await Store.open(settings.data_root, "vfs")


def _engine_id(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT value FROM fact WHERE key='engine-id'").fetchone()
    if row:
        return str(row[0])
    engine_id = secrets.token_hex(16)
    connection.execute("INSERT INTO fact (key, value) VALUES ('engine-id', ?)", (engine_id,))
    return engine_id
