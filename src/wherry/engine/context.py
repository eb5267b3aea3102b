"""What the engine's parts share: the subsystems, the places on disk, and small look-ups over them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import platform
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from wherry.engine import bundle, confinement
from wherry.engine.creation import HostFacts, ImageDefaults
from wherry.engine.events import Events
from wherry.engine.images import Images
from wherry.engine.launching import Launching
from wherry.engine.naming import Naming
from wherry.engine.ports import Publishing
from wherry.engine.records import Container, ContainerRecord, encode_row
from wherry.engine.settings import EngineSettings
from wherry.errors import Internal, InvalidParameter
from wherry.model.containers import HealthConfig
from wherry.network.networks import Networks
from wherry.oci.image import ContainerConfig as ImageContainerConfig
from wherry.runtime.seccomp import compile_profile
from wherry.store.database import Database
from wherry.store.snapshots.driver import SnapshotDriver
from wherry.store.store import Store
from wherry.volumes.volumes import Volumes

_log = logging.getLogger(__name__)

SAVE_RETRY_S, SAVE_ATTEMPTS = 2.0, 1800
SETTLE_S = 3.0


class FreeFiles(Protocol):
    """See `Files.free`."""

    async def __call__(self, container: Container, /, *, at_once: bool) -> None: ...


async def _nothing_to_free(container: Container, /, *, at_once: bool) -> None:
    """Until `Files` is there."""


class Context:
    """Built once by `Engine.open`. Holds no state of its own beyond caches."""

    def __init__(
        self,
        *,
        settings: EngineSettings,
        facts: HostFacts,
        store: Store,
        images: Images,
        networks: Networks,
        volumes: Volumes,
        launcher: Launching,
        events: Events,
    ) -> None:
        self.settings = settings
        self.facts = facts
        self.store = store
        self.images = images
        self.networks = networks
        self.ports = Publishing(networks)
        self.volumes = volumes
        self.launcher = launcher
        self.events = events
        self.naming = Naming(settings, networks, self.paths)
        self.exec_ended: Callable[[Container, str, object], None] = lambda _c, _e, _code: None
        self.end_execs: Callable[[Container], None] = lambda _c: None
        self.forget_execs: Callable[[Container], None] = lambda _c: None
        self.free_files: FreeFiles = _nothing_to_free
        self._tasks: set[asyncio.Task[None]] = set()
        self._filters: dict[str, str] = {}

    @property
    def database(self) -> Database:
        return self.store.database

    @property
    def driver(self) -> SnapshotDriver:
        return self.store.driver

    # Tasks that outlive the request or event they come from; the engine owns them

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work failed", exc_info=error)

    async def settle(self) -> None:
        """Give the tasks under way a moment to end, then end them: the next engine finds what they left."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=SETTLE_S)
        for task in set(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    # Places

    def container_dir(self, container_id: str) -> str:
        return os.path.join(self.settings.data_root, "containers", container_id)

    def exec_dir(self, container_id: str) -> str:
        return os.path.join(self.settings.exec_root, "containers", container_id)

    def paths(self, container_id: str) -> dict[str, str]:
        """Where a container's own files lie, as `inspect` shows them."""
        base = self.exec_dir(container_id)  # written anew at every start, so they need not outlast a reboot
        return {
            "hosts": os.path.join(base, "hosts"),
            "hostname": os.path.join(base, "hostname"),
            "resolv_conf": os.path.join(base, "resolv.conf"),
            "log": os.path.join(self.container_dir(container_id), f"{container_id}-json.log"),
        }

    def etc_files(self, container_id: str) -> bundle.EtcFiles:
        """The container's own; `container_id` is the other's where it shares another's network namespace."""
        paths = self.paths(container_id)
        return bundle.EtcFiles(
            hosts=paths["hosts"], hostname=paths["hostname"], resolv_conf=paths["resolv_conf"]
        )

    # Images

    async def image_defaults(
        self, reference: str, wanted_platform: str | None, until: AsyncExitStack
    ) -> ImageDefaults:
        """What the image brings to a container; it is kept on disk until `until` ends. Raises NotFound in Docker's
        words."""
        resolved = await until.enter_async_context(self.images.held(reference, platform=wanted_platform))
        config = resolved.config.config or ImageContainerConfig()
        return ImageDefaults(
            id=resolved.id,
            chain_ids=tuple(resolved.chain_ids),
            user=config.user,
            exposed_ports={port: {} for port in config.exposed_ports or ()},
            env=config.env or (),
            entrypoint=config.entrypoint,
            cmd=config.cmd,
            volumes={path: {} for path in config.volumes or ()},
            working_dir=config.working_dir,
            labels=config.labels or {},
            stop_signal=config.stop_signal,
            shell=config.shell or (),
            healthcheck=_health(config),
            on_build=config.on_build,
        )

    async def ancestor_ids(self, references: Iterable[str]) -> set[str]:
        """The IDs of the images named, and of those built on them: the `ancestor` filter."""
        wanted = [await self.store.images.find(text) for text in references]
        chains = [tuple(layer.chain_id for layer in image.layers) for image in wanted if image]
        found = {str(image.id) for image in wanted if image}
        if chains:
            for image in await self.store.images.all():
                own = tuple(layer.chain_id for layer in image.layers)
                if any(chain and own[: len(chain)] == chain for chain in chains):
                    found.add(image.id)
        return found

    async def current_names(self, references: Iterable[str]) -> Mapping[str, str]:
        """The ID each reference names now."""
        return await self.store.images.ids_of(text for text in references if text)

    async def image_size(self, image_id: str) -> int:
        image = await self.store.images.find(image_id) if image_id else None
        return image.size if image else 0

    # Confinement

    def seccomp_for(
        self, record: ContainerRecord, *, compiled: bool
    ) -> tuple[dict[str, Any] | None, str | None]:
        """The container's filter: as a runtime-spec object, or the path of it compiled (cached by content)."""
        host = record.host
        asked = bundle.security_options(host, self.settings).seccomp
        profile = self._profile(asked)
        if host.privileged and asked is None:
            return None, None
        capabilities = confinement.capabilities_for(
            host.cap_add or [], host.cap_drop or [], privileged=host.privileged, bounding=self.facts.bounding
        )
        key = f"{profile}\0{','.join(capabilities)}"
        if compiled and key in self._filters and os.path.exists(self._filters[key]):
            return None, self._filters[key]
        resolved = confinement.seccomp_for(
            profile, capabilities, arch=platform.machine(), kernel=platform.release()
        )
        if resolved is None:
            return None, None
        if not compiled:
            return resolved, None
        path = self._keep_filter(compile_profile(resolved))
        self._filters[key] = path
        return None, path

    def _profile(self, asked: str | None) -> str | None:
        if asked is not None:
            return asked
        named = self.settings.seccomp_profile
        if named in ("", "unconfined", "builtin"):
            return named or None
        with open(named, encoding="utf-8") as file:
            return file.read(1 << 20)

    def _keep_filter(self, program: bytes) -> str:
        directory = os.path.join(self.settings.exec_root, "seccomp")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        path = os.path.join(directory, hashlib.sha256(program).hexdigest() + ".bpf")
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(program)
        os.rename(temporary, path)
        return path

    def runtime_command(self, name: str) -> list[str]:
        setting = self.settings.runtimes.get(name)
        if setting is None:  # taken out of daemon.json after the container was made
            raise InvalidParameter(f"unknown or invalid runtime name: {name}")
        return [setting.path, *setting.args]

    # Rows

    async def save_state(self, container: Container) -> None:
        """Write the container's state down: durably, unless the container removes itself anyway."""
        state, container_id = encode_row(container.state), container.id

        def update(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE container SET state=? WHERE id=?", (state, container_id))

        await self.database.run(update, durable=not container.record.host.auto_remove)

    async def save_state_if_possible(self, container: Container) -> None:
        """As `save_state`, for what has happened whether it can be written down or not: tried again until it is.

        Should this process end first, the shim's own record of the exit is still there.
        """
        try:
            await self.save_state(container)
        except Internal as exc:
            _log.error("the state of container %s is not on disk yet: %s", container.id, exc)
            self.spawn(self._save_state_later(container))

    async def _save_state_later(self, container: Container) -> None:
        for _ in range(SAVE_ATTEMPTS):
            await asyncio.sleep(SAVE_RETRY_S)
            try:
                await self.save_state(container)
                return
            except Internal:
                continue

    async def save_record(self, container: Container) -> None:
        config, container_id = encode_row(container.record), container.id

        def update(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE container SET config=? WHERE id=?", (config, container_id))

        await self.database.run(update)


def _health(config: ImageContainerConfig) -> HealthConfig | None:
    check = config.healthcheck
    if check is None:
        return None
    return HealthConfig(
        test=check.test,
        interval=check.interval,
        timeout=check.timeout,
        retries=check.retries,
        start_period=check.start_period,
        start_interval=check.start_interval,
    )
