"""The volumes of one engine: which there are, by which driver, and which containers use them.

What is known of a volume (driver, labels, options) is a row of the table `volume`; the data is the driver's. Who uses
it is known from the containers' own records and kept in memory.

Every change can be broken off by a crash and is finished at the next start (`recover`):

    create   row, then the driver's part: made again from the row
    remove   row marked `removing`, the driver's part, row deleted: begun again from the mark
    an anonymous volume of a container   marked with the container's ID until that one's row is written, and again
             when that one is removed together with it: goes, unless there is such a container
    a plugin's mount   noted in `volume_mount` before it is asked for: unmounted, unless the container runs
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import msgspec

from wherry import plugins
from wherry.errors import Conflict, NotFound, Unavailable, WherryError
from wherry.linux.killpoint import killpoint
from wherry.store.database import Database
from wherry.store.locks import KeyedLocks
from wherry.volumes.driver import Data, Found, VolumeDriver
from wherry.volumes.local import Local
from wherry.volumes.remote import Plugins

_log = logging.getLogger(__name__)

LOCAL = "local"
ANONYMOUS = "com.docker.volume.anonymous"
REMOVING = "removing"
MAX_ASKED_AT_ONCE = 16
SPARED_S = 30.0

T = TypeVar("T")
Told = Callable[[str, "Volume"], None]


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One volume. `labels` and `options` are None where none were given, which the API shows as null."""

    name: str
    driver: str
    created_ns: int = 0
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    mountpoint: str = ""
    scope: str = LOCAL
    status: dict[str, object] | None = None


class Volumes:
    """`await Volumes.open(database, DATA)`; one per data root. `told` hears of every `create` and `destroy`."""

    def __init__(self, database: Database, root: str, told: Told, others: Plugins) -> None:
        self._database = database
        self._told = told
        self._others = others
        self._local = Local(root)
        self._root = root
        self._drivers: dict[str, VolumeDriver] = {LOCAL: self._local}
        self._rows: dict[str, Volume] = {}
        self._pending: dict[str, str] = {}
        self._users: dict[str, set[str]] = {}
        self._silent: dict[str, float] = {}
        self._locks = KeyedLocks()

    @classmethod
    async def open(
        cls, database: Database, data_root: str, told: Told, *, others: Plugins | None = None
    ) -> Volumes:
        """Know what the database knows. `recover` must follow, once it is known which containers there are."""
        volumes = cls(database, os.path.join(data_root, "volumes"), told, others or Plugins())
        await volumes._local.recover()
        rows = await database.run(_read_rows, durable=False)
        for volume, pending in rows:
            volumes._rows[volume.name] = volumes._placed(volume)
            if pending:
                volumes._pending[volume.name] = pending
        return volumes

    async def recover(self, known: Collection[str]) -> None:
        """Finish what an earlier engine began, as far as it is on this host's disk; `known`: IDs of containers."""
        for name, pending in list(self._pending.items()):
            if pending != REMOVING and pending in known:
                await self._set_pending([name], None)
            elif self._rows[name].driver == LOCAL:
                await self._finish_removal(name)
        for volume in list(self._rows.values()):
            if volume.driver == LOCAL and not os.path.isdir(volume.mountpoint):
                await self._local.create(volume.name, volume.options or {})
        for found in await self._local.list():
            if found.name not in self._rows:  # put there by somebody: a copy, a backup, Docker's own
                await self._insert(
                    Volume(name=found.name, driver=LOCAL, created_ns=found.created_ns, options=found.options)
                )

    async def recover_others(self, is_running: Callable[[str], bool]) -> None:
        """The same with plugins, which may keep one waiting: unmount for containers that ended, finish removals."""
        for mount_id, name, driver, container_id in await self._database.run(_read_mounts, durable=False):
            if not is_running(container_id):
                await self._unmount(name, driver, mount_id)
        for name in list(self._pending):
            await self._finish_removal(name)

    async def _finish_removal(self, name: str) -> None:
        try:
            async with self._locks.lock(name):
                if name in self._pending and not self._users.get(name):
                    await self._remove(self._rows[name], durable=False)
        except WherryError as exc:
            _log.warning("volume %s could not be removed: %s", name, exc)

    # Looking

    def drivers(self) -> list[str]:
        """Names of drivers, for `info`: built in and installed, and the plugins that were used."""
        return sorted({*plugins.driver_names(plugins.VOLUMES), LOCAL, *self._drivers})

    def known(self) -> list[Volume]:
        """Every volume that is ours to list without asking a driver, by name."""
        return [self._rows[name] for name in sorted(self._rows) if self._pending.get(name) != REMOVING]

    def users(self, name: str) -> list[str]:
        return sorted(self._users.get(name, ()))

    async def list(self) -> tuple[list[Volume], list[str]]:
        """All volumes, those that only plugins know of too, and a warning for each plugin that does not answer."""
        volumes = {volume.name: volume for volume in self.known()}
        warnings: list[str] = []
        names = self._others.names()
        slots = asyncio.Semaphore(MAX_ASKED_AT_ONCE)

        async def ask(name: str) -> tuple[VolumeDriver, list[Found]] | None:
            async with slots:
                try:
                    return await self._ask(name, lambda driver: driver.list())
                except NotFound:
                    return None
                except WherryError as exc:
                    if "does not implement" not in str(exc):
                        warnings.append(f"list {name}: {exc}")
                    return None

        for answer in await asyncio.gather(*(ask(name) for name in names)):
            for found in answer[1] if answer else ():
                driver = answer[0] if answer else self._local
                known = volumes.get(found.name)
                if known is not None and known.driver != driver.name:
                    continue
                volumes[found.name] = _merged(known, found, driver)
        return [volumes[name] for name in sorted(volumes)], warnings

    async def get(self, name: str) -> Volume:
        """One volume, its driver asked. Raises NotFound in Docker's words; Unavailable when a plugin is silent."""
        found = await self._look(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    async def _look(self, name: str) -> Volume | None:
        row = self._rows.get(name)
        if row is not None:
            if row.driver == LOCAL:
                return row if self._pending.get(name) != REMOVING else None
            try:
                driver = await self._driver(row.driver)
                found = await driver.find(name)
            except WherryError as exc:
                raise type(exc)(
                    f'get {name}: error while checking if volume "{name}" exists in driver "{row.driver}": {exc}'
                ) from exc
            return None if found is None else _merged(row, found, driver)

        async def ask(plugin: str) -> Volume | None:
            try:
                driver, found = await self._ask(plugin, lambda driver: driver.find(name))
            except WherryError:
                return None  # it may not be this one's at all
            return None if found is None else _merged(None, found, driver)

        answers = await asyncio.gather(*(ask(plugin) for plugin in self._others.names()[:MAX_ASKED_AT_ONCE]))
        return next((answer for answer in answers if answer is not None), None)

    async def _ask(
        self, plugin: str, question: Callable[[VolumeDriver], Awaitable[T]]
    ) -> tuple[VolumeDriver, T]:
        """A plugin's answer to what every plugin is asked. One that was silent is spared, and so are we, for a while."""
        left = self._silent.get(plugin, 0.0) - time.monotonic()
        if left > 0:
            raise Unavailable(
                f"volume plugin {plugin} was silent when last asked; it is asked again in {left:.0f} s"
            )
        try:
            driver = await self._driver(plugin)
            return driver, await question(driver)
        except Unavailable:
            self._silent[plugin] = time.monotonic() + SPARED_S
            raise

    # Making and removing

    async def create(
        self,
        name: str = "",
        driver: str = "",
        *,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        user: str = "",
        durable: bool = True,
    ) -> Volume:
        """The volume `name`, made if there is none; without a name a new, anonymous one.

        `user`: the container it is made for, which uses it from now on; an anonymous one is that container's alone
        until `settle`. Raises Docker's texts, each beginning with `create NAME: `.
        """
        is_anonymous = not name
        if is_anonymous:
            name, driver = secrets.token_hex(32), driver or LOCAL
            labels = {**(labels or {}), ANONYMOUS: ""}
        async with self._locks.lock(name):
            try:
                volume = await self._create(
                    name, driver, options, labels, user if is_anonymous else "", durable
                )
            except WherryError as exc:
                text = str(exc)
                raise type(exc)(text if text.startswith(f"create {name}: ") else f"create {name}: {text}") from exc  # fmt: skip
            if user:
                self._users.setdefault(name, set()).add(user)
                if self._pending.get(name, user) not in (
                    user,
                    REMOVING,
                ):  # it was to go with another container
                    await self._set_pending([name], None)
        return volume

    async def _create(
        self,
        name: str,
        driver_name: str,
        options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
        pending: str,
        durable: bool,
    ) -> Volume:
        existing = await self._existing(name, driver_name, options)
        if existing is not None:
            if name not in self._rows:
                await self._insert(existing, durable=durable)
            return existing
        driver = await self._driver(driver_name or LOCAL)
        driver.check(name, options or {})
        volume = Volume(
            name=name,
            driver=driver.name,
            created_ns=time.time_ns(),
            labels=None if labels is None else dict(labels),
            options=None if options is None else dict(options),
            scope=driver.scope,
        )
        await self._insert(volume, pending=pending, durable=durable)
        killpoint("volume:row-written")
        try:
            await driver.create(name, options or {})
        except BaseException:
            await asyncio.shield(self._forget(name))
            raise
        killpoint("volume:made")
        self._told("create", volume)
        return self._placed(volume)

    async def _existing(
        self, name: str, driver_name: str, options: Mapping[str, str] | None
    ) -> Volume | None:
        """The volume of that name, unless there is none. Conflict where it is another than is asked for."""
        row = self._rows.get(name)
        if row is None and driver_name:
            return None
        try:
            found = await self._look(name)
        except WherryError as exc:
            assert row is not None
            raise Conflict(
                f"found reference to volume '{name}' in driver '{row.driver}', but got an error while checking the driver:"
                f" {exc}: volume name must be unique"
            ) from exc
        if row is not None and found is None:
            if self._users.get(name):
                raise Conflict(
                    f"found references to volume '{name}' in driver '{row.driver}' but the volume was not found in the"
                    " driver -- you may need to remove containers referencing this volume or force remove the volume to"
                    " re-create it: volume name must be unique"
                )
            await self._forget(name)
            return None
        if found is None:
            return None
        if driver_name and driver_name != found.driver:
            await self._driver(driver_name)  # one that is not there is the first thing to say
            raise Conflict(f"driver '{found.driver}' already has volume '{name}': volume name must be unique")
        if options and row is not None and dict(options) != (row.options or {}):
            raise Conflict(
                f"volume '{name}' exists with other options ({_shown(row.options)}) than asked for ({_shown(options)}):"
                " volume name must be unique"
            )
        return found

    async def remove(self, name: str, *, force: bool = False, durable: bool = True) -> None:
        """The volume and its data are gone. Raises Docker's texts; `force` forgets what its driver cannot remove."""
        async with self._locks.lock(name):
            try:
                volume = await self._look(name)
            except WherryError:
                if not force or name not in self._rows:
                    raise
                volume = self._rows[name]
            if volume is None:
                volume = self._rows.get(name) if force else None
                if volume is None:
                    if force:
                        return
                    raise NotFound(f"get {name}: no such volume")
            if self._users.get(name):
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(self.users(name))}]")
            try:
                await self._remove(volume, durable=durable)
            except WherryError as exc:
                if not force:
                    raise type(exc)(f"remove {name}: {exc}") from exc
                await self._forget(name)
        self._told("destroy", volume)

    async def _remove(self, volume: Volume, *, durable: bool) -> None:
        before = self._pending.get(volume.name)
        if volume.name in self._rows:
            await self._set_pending([volume.name], REMOVING)
        killpoint("volume:removing")
        try:
            driver = await self._driver(volume.driver)
            await driver.remove(volume.name)
        except BaseException:
            if volume.name in self._rows and before != REMOVING:
                await asyncio.shield(self._set_pending([volume.name], before))
            raise
        killpoint("volume:removed")
        await self._forget(volume.name, durable=durable)

    # Using

    def lock(self, name: str) -> AbstractAsyncContextManager[None]:
        """Held by whoever fills the volume: nobody else fills or removes it meanwhile."""
        return self._locks.lock(name)

    def use(self, names: Iterable[str], container_id: str) -> None:
        """Remember that a container, known from its record, uses these."""
        for name in names:
            self._users.setdefault(name, set()).add(container_id)

    def release(self, names: Iterable[str], container_id: str) -> None:
        for name in names:
            users = self._users.get(name, set())
            users.discard(container_id)
            if not users:
                self._users.pop(name, None)

    def settled(self, container_id: str) -> None:
        """The container's row is written, and its transaction has `settle_in`: its anonymous volumes may stay."""
        for name in [name for name, pending in self._pending.items() if pending == container_id]:
            del self._pending[name]

    def doomed(self, names: Iterable[str], container_id: str) -> None:
        """The container's row is deleted, and its transaction has `doom_in`: `remove` must follow."""
        self._pending.update((name, container_id) for name in names if name in self._rows)

    async def discard(self, container_id: str) -> None:
        """The container was not made after all: its anonymous volumes go, and it uses none."""
        for name in [name for name, users in self._users.items() if container_id in users]:
            self.release([name], container_id)
        for name in [name for name, pending in self._pending.items() if pending == container_id]:
            try:
                await self.remove(name, durable=False)
            except WherryError as exc:
                _log.warning("volume %s could not be removed: %s", name, exc)

    async def mount(self, name: str, container_id: str, place: str) -> Data:
        """What the container must mount for this volume at `place`. Raises Docker's texts."""
        volume = self._rows.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        driver = await self._driver(volume.driver)
        mount_id = _mount_id(container_id, place)
        if volume.driver != LOCAL:

            def note(connection: sqlite3.Connection) -> None:
                connection.execute(
                    "INSERT OR REPLACE INTO volume_mount (id, volume, driver, container_id) VALUES (?,?,?,?)",
                    (mount_id, name, volume.driver, container_id),
                )

            await self._database.run(note)
            killpoint("volume:mount-noted")
        try:
            return await driver.mount(name, volume.options or {}, mount_id)
        except WherryError as exc:
            if volume.driver != LOCAL:
                await asyncio.shield(self._unmount(name, volume.driver, mount_id))
            raise type(exc)(
                f"error while mounting volume '{volume.mountpoint if volume.driver == LOCAL else ''}': {exc}"
            ) from exc

    async def unmount(self, name: str, container_id: str, place: str) -> None:
        """The container does not have it any more. A plugin that fails is logged, and keeps nobody."""
        volume = self._rows.get(name)
        if volume is not None and volume.driver != LOCAL:
            await self._unmount(name, volume.driver, _mount_id(container_id, place))

    async def _unmount(self, name: str, driver_name: str, mount_id: str) -> None:
        try:
            driver = await self._driver(driver_name)
            await driver.unmount(name, mount_id)
        except WherryError as exc:
            _log.warning("volume %s could not be unmounted by %s: %s", name, driver_name, exc)

        def forget(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM volume_mount WHERE id=?", (mount_id,))

        await self._database.run(forget, durable=False)

    # Rows

    async def _driver(self, name: str) -> VolumeDriver:
        known = self._drivers.get(name)
        if known is not None:
            return known
        if name in plugins.driver_names(plugins.VOLUMES):
            made: VolumeDriver = plugins.load_driver(plugins.VOLUMES, name)(self._root)
            await made.recover()
            self._drivers[name] = made
            return made
        return await self._others.find(name)

    def _placed(self, volume: Volume) -> Volume:
        """With the mountpoint that only a local volume's name tells."""
        if volume.driver != LOCAL:
            return volume
        return msgspec.structs.replace(volume, mountpoint=self._local.data_path(volume.name))

    async def _insert(self, volume: Volume, *, pending: str = "", durable: bool = True) -> None:
        row = (
            volume.name,
            volume.driver,
            volume.created_ns,
            None if volume.labels is None else msgspec.json.encode(volume.labels).decode(),
            None if volume.options is None else msgspec.json.encode(volume.options).decode(),
            pending or None,
        )

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO volume (name, driver, created_ns, labels, options, pending) VALUES (?,?,?,?,?,?)",
                row,
            )

        await self._database.run(insert, durable=durable)
        self._rows[volume.name] = self._placed(msgspec.structs.replace(volume, status=None))
        if pending:
            self._pending[volume.name] = pending

    async def _forget(self, name: str, *, durable: bool = True) -> None:
        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM volume WHERE name=?", (name,))

        await self._database.run(delete, durable=durable)
        self._rows.pop(name, None)
        self._pending.pop(name, None)

    async def _set_pending(self, names: list[str], value: str | None) -> None:
        def update(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE volume SET pending=? WHERE name=?", [(value, name) for name in names]
            )

        await self._database.run(update, durable=False)
        for name in names:
            if value is None:
                self._pending.pop(name, None)
            else:
                self._pending[name] = value


def settle_in(connection: sqlite3.Connection, container_id: str) -> None:
    """Part of the transaction that writes a container's row: its anonymous volumes are no leftovers any more."""
    connection.execute("UPDATE volume SET pending=NULL WHERE pending=?", (container_id,))


def doom_in(connection: sqlite3.Connection, names: Iterable[str], container_id: str) -> None:
    """Part of the transaction that deletes a container's row: these volumes go with it, now or at the next start."""
    connection.executemany(
        "UPDATE volume SET pending=? WHERE name=?", [(container_id, name) for name in names]
    )


def _merged(known: Volume | None, found: Found, driver: VolumeDriver) -> Volume:
    return Volume(
        name=found.name,
        driver=driver.name,
        created_ns=found.created_ns or (known.created_ns if known and driver.name == LOCAL else 0),
        labels=known.labels if known else None,
        options=known.options if known else None,
        mountpoint=found.mountpoint,
        scope=driver.scope,
        status=found.status,
    )


def _shown(options: Mapping[str, str] | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted((options or {}).items())) or "none"


def _mount_id(container_id: str, place: str) -> str:
    """The same at every time, so that a later engine can unmount what this one mounted."""
    return hashlib.sha256(f"{container_id} {place}".encode()).hexdigest()


def _read_rows(connection: sqlite3.Connection) -> list[tuple[Volume, str | None]]:
    return [
        (
            Volume(
                name=row["name"],
                driver=row["driver"],
                created_ns=row["created_ns"],
                labels=None if row["labels"] is None else msgspec.json.decode(row["labels"]),
                options=None if row["options"] is None else msgspec.json.decode(row["options"]),
            ),
            row["pending"],
        )
        for row in connection.execute("SELECT * FROM volume")
    ]


def _read_mounts(connection: sqlite3.Connection) -> list[tuple[str, str, str, str]]:
    rows = connection.execute("SELECT id, volume, driver, container_id FROM volume_mount")
    return [(row[0], row[1], row[2], row[3]) for row in rows]
