"""What may be deleted: blobs and layers that no image, no container and no lease needs.

References are counted by looking: `image_layer` rows for images, the storage driver for containers, leases for work
in progress. A lease says what it will need *before* it looks whether that is there; a removal marks what it is about
to delete *before* it asks the database. So whoever comes second sees the other, and waits or leaves it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress

from wherry.errors import NotFound
from wherry.linux.killpoint import killpoint
from wherry.oci.digest import ChainID, Digest
from wherry.store.blobs import Blobs
from wherry.store.database import Database
from wherry.store.images import referenced_blobs, unreferenced_layers
from wherry.store.snapshots.driver import SnapshotDriver


class Lease:
    """While open, what it holds is not deleted by a removal that happens meanwhile. `with store.lease() as lease:`."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._names: set[str] = set()

    async def hold(self, *names: Digest | ChainID) -> None:
        """Keep these blobs and layers, whether they exist yet or not. Call *before* looking whether one is there.

        Waits for a removal that is just deleting one of them.
        """
        for name in names:
            if name not in self._names:
                self._names.add(name)
                await self._leases.hold(name)

    def __enter__(self) -> Lease:
        self._leases.opened(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._leases.closed(self, self._names)
        self._names = set()


class Leases:
    """All open leases, and what is being deleted just now. `collect` is called with what removals had to leave."""

    def __init__(self, collect: Callable[[list[str]], None]) -> None:
        self._collect = collect
        self._open: set[Lease] = set()
        self._held: Counter[str] = Counter()
        self._deleting: dict[str, asyncio.Event] = {}
        self._postponed: set[str] = set()

    @property
    def any_open(self) -> bool:
        return bool(self._open)

    def opened(self, lease: Lease) -> None:
        self._open.add(lease)

    async def hold(self, name: str) -> None:
        self._held[name] += 1
        while (gone := self._deleting.get(name)) is not None:
            await gone.wait()

    def closed(self, lease: Lease, names: set[str]) -> None:
        self._open.discard(lease)
        for name in names:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]
        free = [name for name in self._postponed if name not in self._held]
        if free:
            self._postponed.difference_update(free)
            self._collect(free)

    @contextmanager
    def taking(self, names: Iterable[str]) -> Generator[list[str]]:
        """Those of `names` that nobody holds, marked as being deleted; the others are left for later."""
        wanted = list(dict.fromkeys(names))
        self._postponed.update(name for name in wanted if name in self._held)
        free = [name for name in wanted if name not in self._held and name not in self._deleting]
        gone = asyncio.Event()
        self._deleting.update((name, gone) for name in free)
        try:
            yield free
        finally:
            for name in free:
                del self._deleting[name]
            gone.set()


async def unneeded_layers(
    database: Database, driver: SnapshotDriver, chain_ids: Sequence[ChainID] | None
) -> list[ChainID]:
    """Those of `chain_ids` (None: all the driver has) that are there and that nothing needs, highest first."""

    def candidates() -> tuple[list[ChainID], set[ChainID]]:
        there = (
            driver.layers() if chain_ids is None else [name for name in chain_ids if driver.has_layer(name)]
        )
        below: set[ChainID] = set()
        for key in driver.active() if there else ():
            with suppress(NotFound):  # it went meanwhile, and needs nothing any more
                below.update(driver.layers_below(key))
        return there, below

    there, below = await asyncio.to_thread(candidates)
    free = await database.run(
        lambda connection: unreferenced_layers(connection, driver.name, there), durable=False
    )
    unneeded = [name for name in free if name not in below]
    parents = await database.run(lambda connection: _depths(connection, driver.name), durable=False)
    return sorted(unneeded, key=lambda name: -parents.get(name, 0))


async def drop_layers(
    database: Database, driver: SnapshotDriver, chain_ids: Sequence[ChainID]
) -> list[ChainID]:
    """Delete layers, in this order; those that went. One that a container came to stand on meanwhile stays."""
    gone: list[ChainID] = []
    for chain_id in chain_ids:
        if await asyncio.to_thread(driver.remove_layer, chain_id):
            gone.append(chain_id)
        killpoint("rmi:layer-removed")
    if gone:
        rows = [(driver.name, chain_id) for chain_id in gone]
        await database.run(
            lambda connection: connection.executemany(
                "DELETE FROM layer WHERE driver = ? AND chain_id = ?", rows
            ),
            durable=False,
        )
    return gone


async def unneeded_blobs(database: Database, blobs: Blobs, digests: Sequence[Digest] | None) -> list[Digest]:
    """Those of `digests` (None: all that are stored) that are there and that no image needs."""

    def there() -> list[Digest]:
        return (
            [digest for digest, _ in blobs.list()]
            if digests is None
            else [d for d in digests if blobs.has(d)]
        )

    stored = await asyncio.to_thread(there)
    used = await database.run(referenced_blobs, durable=False) if stored else set[Digest]()
    return [digest for digest in stored if digest not in used]


def _depths(connection: sqlite3.Connection, driver: str) -> dict[ChainID, int]:
    """How many layers lie below each."""
    parents = dict(
        connection.execute("SELECT chain_id, parent FROM layer WHERE driver = ?", (driver,)).fetchall()
    )
    depths: dict[ChainID, int] = {}
    for name in parents:
        trail: list[ChainID] = []
        at: ChainID | None = name
        while at is not None and at not in depths:
            trail.append(at)
            at = parents.get(at)
        depth = -1 if at is None else depths[at]
        for passed in reversed(trail):
            depth += 1
            depths[passed] = depth
    return depths
