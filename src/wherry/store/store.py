"""The image store as one thing: blobs, layers, images and the database, and the order that makes commits safe.

Order of a commit: blobs (synced, renamed) → layers, lowest first (synced, renamed) → one durable transaction. Only
rows make an image exist; what lies on disk without a row is found and deleted at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

import msgspec

from wherry.oci.digest import ChainID, DiffID, Digest
from wherry.oci.image import Descriptor, ImageConfig
from wherry.oci.reference import Reference
from wherry.store.blobs import Blobs
from wherry.store.database import Database
from wherry.store.images import Image, Images
from wherry.store.snapshots.driver import SnapshotDriver, Stop


class LayerSource(msgspec.Struct, frozen=True):
    """Where a layer's bytes come from, if it has to be unpacked."""

    open: Callable[[], BinaryIO]
    """Called in a thread, at most once. Compressed or not: gzip, zstd, bzip2 and xz are recognised by their magic.
    Wrap the stream to count progress; it is closed afterwards."""
    blob: Descriptor | None = None
    """What it was pulled as (recorded; for push and for other tools)."""


class NewTag(msgspec.Struct, frozen=True):
    reference: Reference
    digest: Digest | None = None
    """The manifest or index it resolved to when pulled."""


class Removed(msgspec.Struct, frozen=True):
    """What a removal deleted, for Docker's `Untagged:`/`Deleted:` lines."""

    untagged: tuple[Reference, ...]
    image_id: Digest | None
    layers: tuple[ChainID, ...]
    """Highest first."""


class Lease:
    """While open, what it holds is not deleted by a removal that happens meanwhile. `with store.lease() as lease:`."""

    async def hold(self, *names: Digest | ChainID) -> None:
        """Keep these blobs and layers, whether they exist yet or not. Call *before* looking whether one is there."""
        raise NotImplementedError

    def __enter__(self) -> Lease:
        raise NotImplementedError

    def __exit__(self, *error: object) -> None:
        raise NotImplementedError


class Store:
    """`await Store.open(DATA, "overlay2")`; one per data root."""

    blobs: Blobs
    images: Images
    driver: SnapshotDriver
    database: Database

    @classmethod
    async def open(cls, data_root: str, driver_name: str, *, database: Database | None = None) -> Store:
        """Open the store, make what is missing, and clean what a crash left behind.

        Raises InvalidParameter for an unknown driver, Unsupported where it cannot work on this host.
        """
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def lease(self) -> Lease:
        raise NotImplementedError

    async def put_blob(self, data: bytes, lease: Lease) -> Digest:
        """Store a small blob (config, manifest, index) durably, held by `lease`."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def has_layer(self, chain_id: ChainID, lease: Lease) -> bool:
        """Whether the layer is there; held by `lease` from here on."""
        raise NotImplementedError

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
        """
        raise NotImplementedError

    async def config(self, image_id: Digest) -> ImageConfig:
        """The image's config, parsed."""
        raise NotImplementedError

    async def config_bytes(self, image_id: Digest) -> bytes:
        raise NotImplementedError

    async def remove_image(self, image_id: Digest) -> Removed:
        """Forget image and tags, then delete the blobs and layers nothing else needs (not those held by a lease, nor
        layers under a container's writable layer). Whether it may go is the engine's to decide."""
        raise NotImplementedError

    async def export_layer(self, chain_id: ChainID, tar: BinaryIO) -> None:
        """The layer's tar, the very bytes its diffID was computed over, written from a thread."""
        raise NotImplementedError

    async def collect(self) -> int:
        """Delete every blob, ingest and layer nothing refers to; bytes freed. For `prune`: waits until no lease is
        open."""
        raise NotImplementedError
