"""Bytes by digest, in an OCI image layout (image-spec image-layout.md) that other tools can read.

DATA/content/{oci-layout, index.json, blobs/sha256/HEX, ingest/HEX.part}. Methods block: call them in threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from wherry.oci.digest import Digest


class Blobs:
    """`Blobs(DATA/content)`; `prepare()` makes the layout."""

    def __init__(self, root: str) -> None:
        self._root = root

    def prepare(self) -> None:
        """Make the layout's directories and marker file where missing."""
        raise NotImplementedError

    def has(self, digest: Digest) -> bool:
        raise NotImplementedError

    def path(self, digest: Digest) -> str:
        """Where the blob lies, or would lie."""
        raise NotImplementedError

    def size(self, digest: Digest) -> int:
        """In bytes. Raises NotFound."""
        raise NotImplementedError

    def open(self, digest: Digest) -> BinaryIO:
        """The blob's bytes, unbuffered. Raises NotFound."""
        raise NotImplementedError

    def read(self, digest: Digest, *, limit: int = 4 << 20) -> bytes:
        """A small blob whole. Raises NotFound; InvalidParameter above `limit`."""
        raise NotImplementedError

    def put(self, data: bytes) -> Digest:
        """Store `data` durably; its digest."""
        raise NotImplementedError

    def ingest(self, digest: Digest, size: int | None) -> Ingest:
        """Begin, or go on with, writing the blob `digest`. Waits while another thread ingests the same digest.

        `size` None: unknown (at most `MAX_BLOB_BYTES`). What an earlier attempt wrote is hashed again and kept:
        go on from `ingest.offset`. If the blob is there meanwhile, `ingest.is_done` is true and nothing is owed.
        """
        raise NotImplementedError

    def remove(self, digest: Digest) -> None:
        """Nothing happens when it is not there."""
        raise NotImplementedError

    def list(self) -> Iterator[tuple[Digest, int]]:
        """Every blob and its size."""
        raise NotImplementedError


class Ingest:
    """One blob being written: `write` … `commit`, or `abort`. A context manager: leaving it uncommitted aborts,
    keeping the partial file."""

    digest: Digest
    offset: int
    """Bytes already there and hashed: ask the peer for what follows."""
    is_done: bool
    """The blob is complete and in place; nothing needs to be written."""

    def write(self, chunk: bytes | memoryview) -> None:
        """Append. Raises InvalidParameter as soon as more than the size was written."""
        raise NotImplementedError

    def restart(self) -> None:
        """Throw away what is there (the peer cannot resume): offset becomes 0."""
        raise NotImplementedError

    def commit(self) -> None:
        """Check size and digest, sync, give the blob its name. InvalidParameter on mismatch: the part is deleted."""
        raise NotImplementedError

    def abort(self, *, keep: bool = True) -> None:
        """Stop. `keep` leaves the partial file for a later `ingest` to go on with."""
        raise NotImplementedError

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *error: object) -> None:
        raise NotImplementedError
