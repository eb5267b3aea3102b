"""`docker import`: a filesystem in a tar becomes an image of one layer."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from functools import partial
from typing import BinaryIO, cast

import msgspec

from wherry.engine import threads
from wherry.engine.changes import apply_changes
from wherry.engine.progress import Message, Progress, stream
from wherry.engine.pulls import Emit
from wherry.engine.spool import Spool
from wherry.errors import InvalidParameter
from wherry.oci.digest import DiffID
from wherry.oci.image import ContainerConfig, History, ImageConfig, Platform, RootFS
from wherry.oci.reference import Reference
from wherry.store.compression import decompressed
from wherry.store.store import LayerSource, NewTag, Store
from wherry.store.tar import BLOCK

CHUNK = 1 << 20


def import_image(
    store: Store,
    emit: Emit,
    chunks: AsyncIterable[bytes],
    *,
    source: str,
    reference: Reference | None,
    message: str,
    changes: Sequence[str],
    platform: Platform,
    total: int = 0,
) -> AsyncGenerator[Message]:
    """Make an image of the tar in `chunks`; the last message is its ID. `total` is its size where it is known."""
    config = apply_changes(ContainerConfig(), changes)

    async def work(progress: Progress) -> None:
        spool = await threads.run(Spool.beside, store)
        stop = threading.Event()
        try:
            report = None
            if source != "-":
                progress.status(f"Downloading from {source}")
                report = partial(_report_import, progress, total)
            diff_id = await threads.consume(chunks, partial(_spool_and_hash, spool), report)
            data = image_config(
                config, diff_id, platform, message=message or f"Imported from {source}", created=now_text()
            )
            layer = LayerSource(open=lambda: cast("BinaryIO", spool.reader(0, spool.size)))
            tags = [NewTag(reference)] if reference is not None else []
            with store.lease() as lease:
                image = await store.commit_image(data, [layer], lease, tags=tags, stop=stop)
        finally:
            stop.set()
            spool.close()
        labels = dict(config.labels or {})
        if reference is not None:
            emit("tag", image.id, labels | {"name": reference.familiar})
        emit("import", image.id, labels | {"name": image.id})
        progress.status(image.id)

    return stream(work)


def image_config(
    config: ContainerConfig, diff_id: DiffID, platform: Platform, *, message: str, created: str
) -> bytes:
    """The config blob of an imported image."""
    return msgspec.json.encode(
        ImageConfig(
            architecture=platform.architecture,
            variant=platform.variant,
            os=platform.os,
            created=created,
            comment=message,
            config=config,
            rootfs=RootFS(diff_ids=(diff_id,)),
            history=[History(created=created, comment=message)],
        )
    )


def now_text() -> str:
    """This moment in RFC 3339 with nanoseconds."""
    seconds, fraction = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def _spool_and_hash(spool: Spool, source: BinaryIO) -> DiffID:
    tar = decompressed(source)
    hashed = hashlib.sha256()
    while chunk := tar.read(CHUNK):
        hashed.update(chunk)
        spool.write(chunk)
    if 0 < spool.size < BLOCK:
        raise InvalidParameter("unexpected EOF")  # Docker's text for what is not even one header
    return DiffID("sha256:" + hashed.hexdigest())


def _report_import(progress: Progress, total: int, done: int) -> None:
    progress.update("Importing", "", done, total)
