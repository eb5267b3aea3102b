"""Bytes by digest, in an OCI image layout (image-spec image-layout.md) that other tools can read.

    ROOT/oci-layout, index.json, blobs/sha256/HEX      the layout
    ROOT/ingest/HEX.part                               a blob on its way in, kept over crashes and cut connections
    ROOT/ingest/tmp-*                                  small ones; deleted at start

Methods block: call them in threads. A blob gets its name only when its size and digest are right and it is synced.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Final

import msgspec

from wherry.errors import Internal, InvalidParameter, NotFound
from wherry.linux.killpoint import killpoint
from wherry.oci.digest import Digest, digest_of, parse_digest
from wherry.oci.image import MAX_BLOB_BYTES, OCI_INDEX, Descriptor, Index

_READ: Final = 1 << 20


class Blobs:
    """`Blobs(DATA/content)`; `recover()` makes the layout."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._blobs = os.path.join(root, "blobs", "sha256")
        self._ingest = os.path.join(root, "ingest")
        self._guard = threading.Lock()
        self._busy: dict[Digest, _Turn] = {}

    def recover(self) -> None:
        """Make what is missing of the layout, and delete what a crash left half-made. Once, before anything else."""
        for directory in (self._root, self._blobs, self._ingest):
            os.makedirs(directory, mode=0o710, exist_ok=True)
        for name in os.listdir(self._ingest):
            if name.startswith("tmp-"):
                os.unlink(os.path.join(self._ingest, name))
        marker = os.path.join(self._root, "oci-layout")
        if not os.path.exists(marker):
            self._replace(marker, b'{"imageLayoutVersion":"1.0.0"}')
        if not os.path.exists(os.path.join(self._root, "index.json")):
            self.write_index([])

    def has(self, digest: Digest) -> bool:
        return os.path.exists(self.path(digest))

    def path(self, digest: Digest) -> str:
        """Where the blob lies, or would lie. Raises InvalidParameter for what is no sha256 digest."""
        return os.path.join(self._blobs, _hex(digest))

    def size(self, digest: Digest) -> int:
        """In bytes. Raises NotFound."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not stored") from None

    def open(self, digest: Digest) -> BinaryIO:
        """The blob's bytes, unbuffered. Raises NotFound."""
        try:
            return open(self.path(digest), "rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not stored") from None

    def read(self, digest: Digest, *, limit: int = 4 << 20) -> bytes:
        """A small blob whole. Raises NotFound; InvalidParameter above `limit` bytes."""
        with self.open(digest) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise InvalidParameter(f"blob {digest} has {size} bytes, at most {limit} are read here")
            return file.read()

    def put(self, data: bytes) -> Digest:
        """Store `data` durably; its digest."""
        digest = digest_of(data)
        if not self.has(digest):
            self._replace(self.path(digest), data)
        return digest

    def ingest(self, digest: Digest, size: int | None) -> Ingest:
        """Begin, or go on with, writing the blob `digest`. Waits while another thread ingests the same digest:
        prefer `Store.ingest`, which waits without a thread.

        `size` None: unknown (at most `MAX_BLOB_BYTES`). What an earlier attempt wrote is hashed again and kept:
        go on from `ingest.offset`. If the blob is there meanwhile, `ingest.is_done` is true and nothing is owed.
        """
        if size is not None and not 0 <= size <= MAX_BLOB_BYTES:
            raise InvalidParameter(f"blob {digest} of {size} bytes: at most {MAX_BLOB_BYTES} are stored")
        part = os.path.join(self._ingest, f"{_hex(digest)}.part")
        turn = self._take_turn(digest)
        try:
            return Ingest(digest, size, part, self.path(digest), lambda: self._end_turn(digest, turn))
        except BaseException:
            self._end_turn(digest, turn)
            raise

    def remove(self, digest: Digest) -> None:
        """Nothing happens when it is not there."""
        _unlink(self.path(digest))

    def doom(self, digests: Iterable[str]) -> None:
        """Let those that are there look old. A crash between forgetting and deleting them leaves them to the next
        start, which keeps for a while only what a broken-off pull may want."""
        for digest in digests:
            try:
                os.utime(self.path(Digest(digest)), (0, 0))
            except FileNotFoundError:
                continue

    def list(self) -> Iterator[tuple[Digest, int]]:
        """Every blob and its size."""
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                yield Digest(f"sha256:{entry.name}"), entry.stat().st_size

    def age_s(self, digest: Digest) -> float:
        """Seconds since the blob was stored, by the wall clock."""
        return time.time() - os.stat(self.path(digest)).st_mtime

    def remove_parts(self, older_than_s: float) -> int:
        """Delete partial blobs nobody went on with for so long; bytes freed."""
        freed = 0
        with os.scandir(self._ingest) as entries:
            for entry in entries:
                with self._guard:  # no ingest begins meanwhile
                    if Digest(f"sha256:{entry.name[:64]}") in self._busy or not entry.name.endswith(".part"):
                        continue
                    status = entry.stat()
                    if abs(time.time() - status.st_mtime) >= older_than_s:
                        os.unlink(entry.path)
                        freed += status.st_size
        return freed

    def write_index(self, manifests: Sequence[Descriptor]) -> None:
        """Make index.json list these manifests: what other tools find in the layout."""
        index = Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(manifests))
        # Not synced: nothing of ours reads it, and every start writes it anew.
        self._replace(os.path.join(self._root, "index.json"), msgspec.json.encode(index), is_durable=False)

    def _replace(self, path: str, data: bytes, *, is_durable: bool = True) -> None:
        """Write a whole file: synced under a temporary name, then renamed, the directory synced."""
        temporary = os.path.join(self._ingest, f"tmp-{os.urandom(8).hex()}")
        try:
            with open(temporary, "xb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if is_durable:
                    os.fsync(file.fileno())
            killpoint("blob:synced")
            os.rename(temporary, path)
        except OSError as exc:
            _unlink(temporary)
            raise Internal(f"cannot write {path}: {_reason(exc)}") from exc
        killpoint("blob:renamed")
        if is_durable:
            sync_directory(os.path.dirname(path))

    def _take_turn(self, digest: Digest) -> _Turn:
        with self._guard:
            turn = self._busy.setdefault(digest, _Turn())
            turn.users += 1
        turn.lock.acquire()
        return turn

    def _end_turn(self, digest: Digest, turn: _Turn) -> None:
        with self._guard:
            turn.users -= 1
            if not turn.users:
                del self._busy[digest]
        turn.lock.release()


class _Turn:
    """Who may write one digest: one at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


class Ingest:
    """One blob being written: `write` … `commit`, or `abort`. A context manager: leaving it uncommitted aborts,
    keeping the partial file. Not for several threads at once."""

    def __init__(
        self, digest: Digest, size: int | None, part: str, path: str, done: Callable[[], None]
    ) -> None:
        self.digest = digest
        self.size = size
        self.offset = 0
        """Bytes already there and hashed: ask the peer for what follows."""
        self.is_done = os.path.exists(path)
        """The blob is complete and in place; nothing needs to be written."""
        self._part, self._path, self._done = part, path, done
        self._hash = hashlib.sha256()
        self._is_open = True
        self._file = -1
        if not self.is_done:
            self._file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._rehash()
                if size is not None and self.offset == size > 0:
                    self._finish_kept()
            except BaseException:
                os.close(self._file)
                raise
        self.was_resumed = self.offset > 0
        """An earlier attempt's bytes are in it. A power cut can have damaged those: after a mismatch try once more."""

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append. Raises InvalidParameter as soon as more than the size was written."""
        limit = MAX_BLOB_BYTES if self.size is None else self.size
        if self.offset + len(chunk) > limit:
            self.abort(keep=False)
            raise InvalidParameter(f"blob {self.digest} is longer than the {limit} bytes it should have")
        view = memoryview(chunk)
        self._hash.update(view)
        self.offset += len(view)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as exc:
            # What is there no longer fits the hash; and a full disk is not helped by keeping it.
            self.abort(keep=False)
            raise Internal(f"cannot write blob {self.digest}: {_reason(exc)}") from exc

    def restart(self) -> None:
        """Throw away what is there (the peer cannot resume): offset becomes 0."""
        if self._file >= 0:
            os.lseek(self._file, 0, os.SEEK_SET)
            os.ftruncate(self._file, 0)
        self._hash = hashlib.sha256()
        self.offset = 0
        self.was_resumed = False

    def commit(self) -> None:
        """Check size and digest, sync, give the blob its name. InvalidParameter on a mismatch: the part is deleted."""
        if self.is_done:
            self._finish()
            return
        found = f"sha256:{self._hash.hexdigest()}"
        if (self.size is not None and self.offset != self.size) or found != self.digest:
            self.abort(keep=self.size is not None and self.offset < self.size)
            raise InvalidParameter(
                f"blob does not match: expected {self.digest}"
                + (f" of {self.size} bytes" if self.size is not None else "")
                + f", got {found} of {self.offset} bytes"
            )
        self._give_name()
        self._finish()

    def abort(self, *, keep: bool = True) -> None:
        """Stop. `keep` leaves the partial file for a later `ingest` to go on with. Harmless after `commit`."""
        if self._is_open and not self.is_done and (not keep or self.offset == 0):
            os.unlink(self._part)
        self._finish()

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()

    def _rehash(self) -> None:
        """Take over what an earlier attempt wrote."""
        length = os.fstat(self._file).st_size
        if self.size is not None and length > self.size:
            os.ftruncate(self._file, 0)
            return
        while data := os.read(self._file, _READ):
            self._hash.update(data)
            self.offset += len(data)

    def _finish_kept(self) -> None:
        """An earlier attempt wrote everything, and died before it could say so: use it, or begin anew."""
        if f"sha256:{self._hash.hexdigest()}" == self.digest:
            self._give_name()
        else:
            self.restart()

    def _give_name(self) -> None:
        killpoint("ingest:written")
        os.fsync(self._file)
        killpoint("ingest:synced")
        os.rename(self._part, self._path)
        killpoint("ingest:renamed")
        sync_directory(os.path.dirname(self._path))
        self.is_done = True

    def _finish(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._done()


def sync_directory(path: str) -> None:
    """Make what was renamed or made in the directory survive a power cut."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _reason(exc: OSError) -> str:
    """`no space left on device`, as Docker says it."""
    return (exc.strerror or str(exc)).lower()


def _hex(digest: Digest) -> str:
    return parse_digest(digest)[len("sha256:") :]
