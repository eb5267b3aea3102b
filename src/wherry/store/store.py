"""The image store as one thing: blobs, layers, images and the database, and the order that makes commits safe.

Order of a commit: blobs (each synced, renamed) → layers, lowest first (renamed) → one sync of them all → one durable
transaction. Only rows make an image exist; layers without a row are deleted at the next start, so one that a power
cut left half-written is never used.
Order of a removal: the transaction first, then layers (highest first) and blobs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO, Final, TypeVar

import msgspec

from wherry import plugins
from wherry.errors import Internal, InvalidParameter
from wherry.linux.killpoint import killpoint
from wherry.oci.digest import ChainID, DiffID, Digest, chain_ids, chain_on, digest_of
from wherry.oci.image import (
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    created_ns,
    parse_config,
    parse_manifest,
)
from wherry.oci.reference import Reference
from wherry.store.blobs import Blobs, Ingest
from wherry.store.collect import Lease, Leases, drop_layers, unneeded_blobs, unneeded_layers
from wherry.store.compression import decompressed
from wherry.store.database import Database
from wherry.store.images import Image, ImageLayer, Images, Tag, delete_image, write_image, write_tag
from wherry.store.locks import KeyedLocks
from wherry.store.snapshots.driver import AbsorbedLayer, SnapshotDriver, Stop

T = TypeVar("T")

_log = logging.getLogger(__name__)
_UNPACKING: Final = 2  # layers at once; each takes two threads
KEEP_UNUSED_S: Final = 24 * 3600.0
"""How long a start keeps downloads that no image came of: the next pull goes on with them."""


class LayerSource(msgspec.Struct, frozen=True):
    """Where a layer's bytes come from, if it has to be unpacked."""

    open: Callable[[], BinaryIO]
    """Called in a thread, at most once. Compressed or not: gzip, zstd, bzip2 and xz are recognised by their magic.
    Wrap the stream to count progress; it is closed afterwards. Its reads must not wait for a peer: one that stalls
    would hold the thread."""
    blob: Descriptor | None = None
    """What it was pulled as (recorded; for push and for other tools)."""


class NewTag(msgspec.Struct, frozen=True):
    reference: Reference
    digest: Digest | None = None
    """The manifest or index it resolved to when pulled; `repository@digest` becomes a name too."""


class Removed(msgspec.Struct, frozen=True):
    """What a removal deleted, for Docker's `Untagged:`/`Deleted:` lines."""

    untagged: tuple[Reference, ...]
    image_id: Digest | None
    layers: tuple[ChainID, ...]
    """Highest first."""


class Store:
    """`await Store.open(DATA, "overlay2")`; one per data root."""

    def __init__(self, data_root: str, database: Database, blobs: Blobs, driver: SnapshotDriver) -> None:
        self.data_root = data_root
        self.database = database
        self.blobs = blobs
        self.driver = driver
        self.images = Images(database, driver.name)
        self._leases = Leases(self._collect_soon)
        self._tasks: set[asyncio.Task[object]] = set()
        self._ingests = KeyedLocks()
        self._commits = KeyedLocks()
        self._unpacking = asyncio.Semaphore(_UNPACKING)
        self._index = asyncio.Lock()
        self._has_unsynced = False
        self._syncing = asyncio.Lock()
        self._configs: dict[Digest, ImageConfig] = {}
        self._owns_database = False

    @classmethod
    async def open(cls, data_root: str, driver_name: str, *, database: Database | None = None) -> Store:
        """Open the store, make what is missing, and clean what a crash left behind.

        Raises InvalidParameter for an unknown driver, Unsupported where it cannot work on this host.
        """
        data_root = os.path.abspath(data_root)
        driver: SnapshotDriver = plugins.load_driver(plugins.SNAPSHOTS, driver_name)(
            os.path.join(data_root, driver_name)
        )
        blobs = Blobs(os.path.join(data_root, "content"))
        owned = database is None
        if database is None:
            database = await Database.open(os.path.join(data_root, "wherry.db"))
        try:
            await asyncio.to_thread(_prepare, data_root, blobs, driver)
            store = cls(data_root, database, blobs, driver)
            store._owns_database = owned
            await store._recover()
        except BaseException:
            if owned:
                await database.close()
            raise
        return store

    async def close(self) -> None:
        """Finish what was postponed; close the database, if `open` opened it."""
        await self._finish_postponed()
        if self._owns_database:
            await self.database.close()

    def lease(self) -> Lease:
        """What is held by the lease stays until it is closed: `with store.lease() as lease:`."""
        return Lease(self._leases)

    @asynccontextmanager
    async def ingest(self, digest: Digest, size: int | None, lease: Lease) -> AsyncGenerator[Ingest]:
        """The blob to write, held by `lease`; one writer at a time. `write` and `commit` block: in threads, please.

        Left uncommitted, the partial blob is kept and the next ingest goes on with it.
        """
        await lease.hold(digest)
        async with self._ingests.lock(digest):
            ingest = await asyncio.to_thread(self.blobs.ingest, digest, size)
            try:
                yield ingest
            finally:
                ingest.abort()

    async def put_blob(self, data: bytes, lease: Lease) -> Digest:
        """Store a small blob (config, manifest, index) durably, held by `lease`."""
        await lease.hold(digest_of(data))
        return await asyncio.to_thread(self.blobs.put, data)

    async def has_layer(self, chain_id: ChainID, lease: Lease) -> bool:
        """Whether the layer is there; held by `lease` from here on."""
        await lease.hold(chain_id)
        return await asyncio.to_thread(self.driver.has_layer, chain_id)

    async def commit_layer(
        self,
        diff_id: DiffID,
        parent: ChainID | None,
        source: LayerSource,
        lease: Lease,
        *,
        stop: Stop | None = None,
    ) -> ChainID:
        """Unpack one layer on top of `parent`, unless it is there. At most two unpack at once; others wait.

        Raises InvalidParameter where the bytes are not `diff_id` or no proper tar; nothing is left then.
        Cancellation stops the unpacking and removes what was made.
        """
        chain_id = chain_on(parent, diff_id)
        await lease.hold(chain_id, *(() if parent is None else (parent,)))
        async with self._commits.lock(chain_id):
            if not await asyncio.to_thread(self.driver.has_layer, chain_id):
                async with self._unpacking:
                    self._has_unsynced = True
                    await self._unpack(chain_id, parent, diff_id, source, _Either(stop))
        return chain_id

    async def absorb_layer(
        self, parent: ChainID | None, tar: BinaryIO, lease: Lease, *, stop: Stop | None = None
    ) -> AbsorbedLayer:
        """Make a layer of the uncompressed `tar`, whatever its diffID turns out to be; held by `lease`.

        Raises InvalidParameter where it is no proper tar; nothing is left then. Cancelled: as `commit_layer`.
        """
        loop = asyncio.get_running_loop()
        if parent is not None:
            await lease.hold(parent)
        stopping = _Either(stop)

        def hold(chain_id: ChainID) -> None:
            asyncio.run_coroutine_threadsafe(lease.hold(chain_id), loop).result()

        async with self._unpacking:
            self._has_unsynced = True
            running = loop.run_in_executor(
                None, lambda: self.driver.absorb_layer(parent, tar, hold=hold, stop=stopping)
            )
            return await _given_up_with(running, stopping)

    async def commit_image(
        self,
        config: bytes,
        sources: Sequence[LayerSource],
        lease: Lease,
        *,
        manifest: bytes | None = None,
        media_type: str | None = None,
        tags: Sequence[NewTag] = (),
        stop: Stop | None = None,
    ) -> Image:
        """Commit the layers that are missing, then the image and its tags in one durable transaction.

        `sources` answer one by one to the config's `rootfs.diff_ids`; those already committed by `commit_layer` are
        not opened. Pass the exact bytes of `config` and `manifest`; both become blobs. Already there: only the tags
        (and a manifest it did not have) are added. A tag that named another image moves.

        Raises InvalidParameter where config, manifest and sources do not fit each other.
        """
        parsed = parse_config(config)
        diff_ids = parsed.rootfs.diff_ids
        image_id = digest_of(config)
        if len(diff_ids) != len(sources):
            raise InvalidParameter(
                f"image {image_id} has {len(diff_ids)} diffIDs in its config and {len(sources)} layers"
            )
        if manifest is not None:
            media_type = _check_manifest(manifest, media_type, image_id, len(sources))
        names = chain_ids(diff_ids)
        await lease.hold(
            image_id, *names, *(source.blob.digest for source in sources if source.blob is not None)
        )
        parent: ChainID | None = None
        for diff_id, source in zip(diff_ids, sources, strict=True):
            parent = await self.commit_layer(diff_id, parent, source, lease, stop=stop)
        await self.put_blob(config, lease)
        killpoint("image:config-stored")
        manifest_digest = None if manifest is None else await self.put_blob(manifest, lease)
        killpoint("image:manifest-stored")
        sizes = await asyncio.to_thread(lambda: [self.driver.layer_size(name) for name in names])
        image = Image(
            id=image_id,
            manifest=manifest_digest,
            media_type=media_type if manifest is not None else None,
            created_ns=created_ns(parsed),
            stored_ns=time.time_ns(),
            size=sum(sizes),
            last_tagged_ns=0,
            layers=tuple(
                ImageLayer(diff_id, name, source.blob)
                for diff_id, name, source in zip(diff_ids, names, sources, strict=True)
            ),
        )
        await self._sync_layers()
        killpoint("image:layers-synced")
        await self.database.run(lambda connection: _record(connection, self.driver.name, image, sizes, tags))
        killpoint("image:recorded")
        await self._write_index()
        return await self.images.get_by_id(image_id)

    async def config(self, image_id: Digest) -> ImageConfig:
        """The image's config, parsed. Raises NotFound."""
        found = self._configs.get(image_id)
        if found is None:
            found = parse_config(await self.config_bytes(image_id))
            while len(self._configs) >= 64:
                self._configs.pop(next(iter(self._configs)))
            self._configs[image_id] = found
        return found

    async def config_bytes(self, image_id: Digest) -> bytes:
        """The exact bytes. Raises NotFound; Internal where they are damaged on disk."""
        data = await asyncio.to_thread(self.blobs.read, image_id)
        if digest_of(data) != image_id:
            raise Internal(f"the config of image {image_id} is damaged in {self.blobs.path(image_id)}")
        return data

    async def remove_image(self, image_id: Digest) -> Removed:
        """Forget image and tags, then delete the blobs and layers nothing else needs (not those held by a lease, nor
        layers under a container's writable layer). Whether it may go is the engine's to decide. Raises NotFound."""
        image = await self.images.get_by_id(image_id)
        names: list[Digest | ChainID] = [image_id, *image.chain_ids]
        names += [layer.blob.digest for layer in image.layers if layer.blob is not None]
        if image.manifest is not None:
            names.append(image.manifest)
        tags = [tag for tag in await self.images.tags() if tag.image_id == image_id]
        names += [tag.digest for tag in tags if tag.digest is not None]
        await asyncio.to_thread(self.blobs.doom, set(names) - set(image.chain_ids))
        untagged = await self.database.run(
            lambda connection: delete_image(connection, self.driver.name, image_id)
        )
        killpoint("rmi:recorded")
        self._configs.pop(image_id, None)
        layers, _ = await self._collect(names)
        await self._write_index()
        return Removed(tuple(untagged), image_id, tuple(layers))

    async def export_layer(self, chain_id: ChainID, tar: BinaryIO) -> None:
        """The layer's tar, the very bytes its diffID was computed over, written from a thread."""
        await asyncio.to_thread(self.driver.export_layer, chain_id, tar)

    async def collect(self) -> int:
        """Delete every blob, ingest and layer nothing refers to; bytes freed. For `prune`: what a lease holds
        stays, and while any lease is open so does what is newer than an hour."""
        await self._finish_postponed()  # what it has marked as its own is not looked at here
        age_s = 3600.0 if self._leases.any_open else 0.0
        freed = await asyncio.to_thread(self.blobs.remove_parts, age_s)
        blobs = await asyncio.to_thread(lambda: list(self.blobs.list()))
        sizes = dict(blobs)
        names: list[Digest | ChainID] = [
            digest for digest, _ in blobs if await asyncio.to_thread(self.blobs.age_s, digest) >= age_s
        ]
        if not self._leases.any_open:
            names += await asyncio.to_thread(self.driver.layers)
        layer_sizes = {name: self.driver.layer_size(ChainID(name)) for name in names if name not in sizes}
        layers, removed = await self._collect(names)
        return (
            freed
            + sum(layer_sizes[layer] for layer in layers)
            + sum(sizes.get(digest, 0) for digest in removed)
        )

    async def _recover(self) -> None:
        """Delete the layers no row knows (a crash came between), forget rows of layers that are gone, and tidy."""
        unneeded = await unneeded_layers(self.database, self.driver, None)
        await drop_layers(self.database, self.driver, unneeded)
        old: list[Digest] = []
        for digest in await unneeded_blobs(self.database, self.blobs, None):
            if await asyncio.to_thread(self.blobs.age_s, digest) > KEEP_UNUSED_S:
                old.append(digest)
        for digest in old:
            await asyncio.to_thread(self.blobs.remove, digest)
        await asyncio.to_thread(self.blobs.remove_parts, KEEP_UNUSED_S)
        await self._write_index()

    async def _sync_layers(self) -> None:
        """Every layer unpacked so far is on the disk."""
        async with self._syncing:  # whoever finds nothing to do must not be ahead of one who is still at it
            if self._has_unsynced:
                self._has_unsynced = False  # a layer that is unpacked meanwhile sets it again
                try:
                    await asyncio.to_thread(self.driver.sync)
                except BaseException:
                    self._has_unsynced = True
                    raise

    async def _unpack(
        self, chain_id: ChainID, parent: ChainID | None, diff_id: DiffID, source: LayerSource, stop: _Either
    ) -> None:
        def work() -> None:
            with decompressed(source.open()) as tar:
                self.driver.commit_layer(chain_id, parent, diff_id, tar, stop=stop)

        await _given_up_with(asyncio.get_running_loop().run_in_executor(None, work), stop)

    async def _finish_postponed(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _collect_soon(self, names: list[str]) -> None:
        """What a removal had to leave because of a lease that is now closed."""
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(self._collect(names))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _collect(self, names: Sequence[str]) -> tuple[list[ChainID], list[Digest]]:
        """Delete those of `names` that nothing needs; what was deleted, layers highest first."""
        with self._leases.taking(names) as free:
            unneeded = await unneeded_layers(self.database, self.driver, [ChainID(name) for name in free])
            layers = await drop_layers(self.database, self.driver, unneeded)
            blobs = await unneeded_blobs(self.database, self.blobs, [Digest(name) for name in free])
            for digest in blobs:
                await asyncio.to_thread(self.blobs.remove, digest)
                killpoint("rmi:blob-removed")
        return layers, blobs

    async def _write_index(self) -> None:
        """Bring the layout's index.json up to date: manifests whose blobs are all here, under their tags' names."""
        async with self._index:
            images = await self.images.all()
            tags = await self.images.tags()
            try:
                await asyncio.to_thread(self._replace_index, images, tags)
            except (
                Internal
            ) as exc:  # a full disk: nothing of ours reads it, and the next change writes it again
                _log.warning("index.json is out of date: %s", exc)

    def _replace_index(self, images: Sequence[Image], tags: Sequence[Tag]) -> None:
        names: dict[Digest, list[Reference]] = {}
        for tag in tags:
            if tag.reference.tag is not None:
                names.setdefault(tag.image_id, []).append(tag.reference)
        listed: list[Descriptor] = []
        for image in images:
            if image.manifest is None or not self._is_whole(image):
                continue
            plain = Descriptor(
                image.media_type or OCI_MANIFEST, image.manifest, self.blobs.size(image.manifest)
            )
            for reference in names.get(image.id, []):
                annotations = {
                    "io.containerd.image.name": reference.canonical,
                    "org.opencontainers.image.ref.name": reference.tag or "",
                }
                listed.append(msgspec.structs.replace(plain, annotations=annotations))
            if image.id not in names:
                listed.append(plain)
        self.blobs.write_index(listed)

    def _is_whole(self, image: Image) -> bool:
        """Whether all blobs of the image as it was pulled are stored."""
        blobs = [
            image.id,
            image.manifest,
            *(None if layer.blob is None else layer.blob.digest for layer in image.layers),
        ]
        return all(digest is not None and self.blobs.has(digest) for digest in blobs)


class _Either:
    """Told to stop by our own word or by the caller's."""

    def __init__(self, other: Stop | None) -> None:
        self._other = other
        self._own = False

    def set(self) -> None:
        self._own = True

    def is_set(self) -> bool:
        return self._own or (self._other is not None and self._other.is_set())


async def _given_up_with(running: asyncio.Future[T], stop: _Either) -> T:
    """What a thread made. When we are cancelled, it is told to stop, and waited for."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])  # short: it looks at `stop` between any two blocks
        if not running.cancelled():
            running.exception()  # it was told to fail
        raise


def _prepare(data_root: str, blobs: Blobs, driver: SnapshotDriver) -> None:
    os.makedirs(data_root, mode=0o710, exist_ok=True)
    driver.probe()
    driver.recover()
    blobs.recover()


def _record(
    connection: sqlite3.Connection, driver: str, image: Image, sizes: Sequence[int], tags: Sequence[NewTag]
) -> None:
    write_image(connection, driver, image, sizes)
    for tag in tags:
        write_tag(connection, driver, tag.reference, image.id, tag.digest)


def _check_manifest(manifest: bytes, media_type: str | None, image_id: Digest, layers: int) -> str:
    """The manifest's media type, once it is one of this image."""
    parsed = parse_manifest(manifest, media_type or "")
    if isinstance(parsed, Index):
        raise InvalidParameter(f"image {image_id}: expected a manifest, got an index")
    if parsed.config.digest != image_id or len(parsed.layers) != layers:
        raise InvalidParameter(
            f"image {image_id} does not fit its manifest, which names {parsed.config.digest}"
        )
    return parsed.media_type
