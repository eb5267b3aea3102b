"""`docker load`: from an archive on a stream to images in the store."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from functools import partial
from typing import BinaryIO

from wherry.engine import threads
from wherry.engine.archives import find_images
from wherry.engine.members import ArchivedImage, Member, Members
from wherry.engine.progress import Message, Progress, stream
from wherry.engine.pulls import Emit, short
from wherry.engine.spool import Spool
from wherry.engine.transfers import Report
from wherry.errors import InvalidParameter
from wherry.oci.digest import ChainID, DiffID, chain_ids, digest_of
from wherry.oci.image import Platform, parse_config
from wherry.store.store import LayerSource, Lease, NewTag, Store

FORMER = "The image {} already exists, renaming the old one with ID {} to empty string\n"
"""Docker's text."""


def load(
    store: Store, emit: Emit, chunks: AsyncIterable[bytes], *, is_quiet: bool, platforms: Sequence[Platform]
) -> AsyncGenerator[Message]:
    """Load every image of the archive in `chunks`, and say which. Closing the iterator ends it."""

    async def work(progress: Progress) -> None:
        spool = await threads.run(Spool.beside, store)
        try:
            archive = await threads.consume(chunks, partial(Members.read, spool))
            images = await threads.run_alone(find_images, archive, platforms)
            for image in images:
                done_reading = spool.close if image is images[-1] else None
                await _load_one(store, emit, progress, archive, image, done_reading, is_quiet=is_quiet)
        finally:
            spool.close()

    return stream(work)


async def _load_one(
    store: Store,
    emit: Emit,
    progress: Progress,
    archive: Members,
    image: ArchivedImage,
    done_reading: Callable[[], None] | None,
    *,
    is_quiet: bool,
) -> None:
    """`done_reading` is called once nothing more is read of the archive: before the commit, whose sync would write
    the whole spooled archive too."""
    config = parse_config(image.config)
    image_id = digest_of(image.config)
    diff_ids = config.rootfs.diff_ids
    if config.os and config.os != "linux":
        # Docker's text.
        raise InvalidParameter(f"cannot load {config.os} image on linux")
    if len(diff_ids) != len(image.layers):
        # Docker's text.
        raise InvalidParameter(
            f"invalid manifest, layers length mismatch: expected {len(diff_ids)}, got {len(image.layers)}"
        )
    stop = threading.Event()
    try:
        with store.lease() as lease:
            await lease.hold(image_id)
            quietly = None if is_quiet else progress
            sources = await _load_layers(store, quietly, archive, diff_ids, image.layers, lease, stop)
            if done_reading is not None:
                done_reading()
            for tag in image.tags:
                former = await store.images.resolve(tag)
                if former is not None and former != image_id:
                    progress.send({"stream": FORMER.format(tag.familiar, former)})
            await store.commit_image(
                image.config, sources, lease, tags=[NewTag(tag) for tag in image.tags], stop=stop
            )
    finally:
        stop.set()
    labels = dict((config.config.labels if config.config else None) or {})
    emit("load", image_id, labels | {"name": image_id})
    for tag in image.tags:
        progress.send({"stream": f"Loaded image: {tag.familiar}\n"})
    if not image.tags:
        progress.send({"stream": f"Loaded image ID: {image_id}\n"})


async def _load_layers(
    store: Store,
    progress: Progress | None,
    archive: Members,
    diff_ids: Sequence[DiffID],
    layers: Sequence[Member],
    lease: Lease,
    stop: threading.Event,
) -> list[LayerSource]:
    """Bring every layer that is missing into the store, bottom up."""
    sources: list[LayerSource] = []
    parent: ChainID | None = None
    for diff_id, layer, chain in zip(diff_ids, layers, chain_ids(diff_ids), strict=True):
        report = progress.from_thread("Loading layer", short(diff_id), layer.size) if progress else None
        source = LayerSource(open=_Opener(archive, layer, report))
        sources.append(source)
        if not await store.has_layer(chain, lease):
            await store.commit_layer(diff_id, parent, source, lease, stop=stop)
        parent = chain
    return sources


class _Opener:
    """Opens one layer of the archive."""

    def __init__(self, archive: Members, layer: Member, report: Report | None) -> None:
        self._archive, self._layer, self._report = archive, layer, report

    def __call__(self) -> BinaryIO:
        return self._archive.open(self._layer, self._report)
