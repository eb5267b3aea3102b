"""Unpacking a layer's tar into a directory of its own, in overlayfs's form (image-spec layer.md).

Nothing a tar holds can write outside: names are cleaned lexically, then every directory is opened below the layer's
root by descriptor (openat2; a symlink in the archive leads where it would lead inside), and the last component is
made with O_EXCL and never followed. Of entries with one name the last wins.

Left to others: decompression (`compression.py`), reading headers (`tar.py`), whiteouts (`whiteouts.py`), giving the
bytes back (`record.py`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import BinaryIO

from wherry.errors import InvalidParameter
from wherry.linux.files import open_below
from wherry.oci.digest import DiffID
from wherry.store.placing import INSIDE, OPEN_DIRECTORY, STRICT, Placer, set_status, show, split
from wherry.store.record import Displaced, RecordWriter
from wherry.store.snapshots.driver import Stop
from wherry.store.tar import CHARACTER, DIRECTORY, Entry, Feed, TarReader
from wherry.store.trees import LayerStack, tree_size
from wherry.store.whiteouts import PREFIX, Whiteouts, is_aufs_own


def unpack_layer(
    tar: BinaryIO, directory: str, diff_id: DiffID, lower: Sequence[str], *, stop: Stop | None = None
) -> int:
    """Unpack the uncompressed `tar` as `directory`/fs, with its record; the size of the layer in bytes.

    `lower` are the trees of the layers below, topmost first: what only implied directories look like comes from
    there. Raises InvalidParameter where the archive is malformed or not `diff_id`. On any error the directory is the
    caller's to remove.
    """
    return _unpack(tar, directory, lower, diff_id, stop)[0]


def absorb_layer(
    tar: BinaryIO, directory: str, lower: Sequence[str], *, stop: Stop | None = None
) -> tuple[int, DiffID]:
    """As `unpack_layer`, of a tar whose diffID is not known before: the layer's size, and its diffID."""
    return _unpack(tar, directory, lower, None, stop)


def _unpack(
    tar: BinaryIO, directory: str, lower: Sequence[str], expected: DiffID | None, stop: Stop | None
) -> tuple[int, DiffID]:
    tree = os.path.join(directory, "fs")
    os.mkdir(tree, 0o755)
    os.chmod(tree, 0o755)
    recorder = RecordWriter(os.path.join(directory, "record.zst"))
    unpacker = None
    try:
        with Feed(tar) as feed:
            unpacker = _Unpacker(directory, TarReader(feed, recorder.raw), recorder, LayerStack(lower), stop)
            unpacker.run()
            found = DiffID(feed.digest())
        if expected is not None and found != expected:
            raise InvalidParameter(f"layer does not match its diffID: expected {expected}, got {found}")
        recorder.finish()
        return unpacker.size, found
    finally:
        recorder.close()
        if unpacker is not None:
            unpacker.close()


class _Unpacker(Placer):
    def __init__(
        self, directory: str, reader: TarReader, recorder: RecordWriter, lower: LayerStack, stop: Stop | None
    ) -> None:
        self._top = directory
        self._tree = os.path.join(directory, "fs")
        super().__init__(os.open(self._tree, OPEN_DIRECTORY | os.O_CLOEXEC), reader, stop)
        self._root_path = os.fsencode(os.readlink(f"/proc/self/fd/{self._root}"))
        self._recorder = recorder
        self._lower = lower
        self._displaced = 0
        self._displaced_root = -1
        self._was_displaced = False
        self._whiteouts = Whiteouts()

    def run(self) -> None:
        self._unpack_all("layer")
        self._whiteouts.make(self._root, self._lower)
        self._set_times()
        if self._was_displaced:
            self.size = tree_size(self._tree)

    def close(self) -> None:
        super().close()
        os.close(self._root)
        if self._displaced_root >= 0:
            os.close(self._displaced_root)

    def _unpack(self, entry: Entry) -> None:
        if self._retired:
            self._close_retired()
        parent_name, name = split(entry.name)
        if not name:
            self._unpack_root(entry)
            return
        if PREFIX in parent_name and is_aufs_own(parent_name):
            return
        parent, parent_path = self._open.get(parent_name) or self._open_parent(parent_name)
        if name.startswith(PREFIX):
            self._count_name(parent_path + name)
            self._whiteouts.note(parent_path, name)
            return
        path = parent_path + b"/" + name if parent_path else name
        if entry.type == CHARACTER and not (entry.major or entry.minor):
            self._hide(parent, name, path)
        else:
            self._make(entry, parent, name, path)

    def _note_content(self, path: bytes, offset: int, length: int) -> None:
        self._recorder.content(path, offset, length)

    def _unpack_root(self, entry: Entry) -> None:
        if entry.type != DIRECTORY:
            raise InvalidParameter(f"layer names its own root {show(entry.name)}, and not as a directory")
        set_status(self._root, entry)
        self._times[b""] = entry.mtime_ns

    def _hide(self, parent: int, name: bytes, path: bytes) -> None:
        """The device 0:0 is overlayfs's own whiteout, and means here what it would mean there."""
        try:
            self._displace(parent, name, path)
        except FileNotFoundError:
            pass
        self._count_name(path)
        self._whiteouts.hide(path)

    def _displace(self, parent: int, name: bytes, path: bytes) -> None:
        """Take away what an earlier entry made at `path`. What has content is kept aside: the record needs it."""
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        self._was_displaced = True
        if not stat.S_ISDIR(found.st_mode) and not (stat.S_ISREG(found.st_mode) and found.st_size):
            os.unlink(name, dir_fd=parent)
            return
        if self._displaced_root < 0:
            aside = os.path.join(self._top, "displaced")
            os.mkdir(aside, 0o700)
            self._displaced_root = os.open(aside, OPEN_DIRECTORY | os.O_CLOEXEC)
        place, self._displaced = self._displaced, self._displaced + 1
        os.rename(name, b"%d" % place, src_dir_fd=parent, dst_dir_fd=self._displaced_root)
        index = os.open(
            "index", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=self._displaced_root
        )
        try:
            os.write(index, Displaced.line(self._recorder.files, place, path))
        finally:
            os.close(index)
        self._forget_open()

    def _open_parent(self, name: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory called `name` by the archive, and its true path; made where it is missing."""
        if not name:
            return self._remember_open(
                name, os.open(".", OPEN_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root), b""
            )
        try:
            found = open_below(self._root, os.fsdecode(name), OPEN_DIRECTORY, resolve=STRICT)
            return self._remember_open(name, found, name)
        except FileNotFoundError:
            pass
        except OSError as exc:
            if exc.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        parent = self._open.get(b"") or self._open_parent(b"")
        end = -1
        while end < len(name):
            end = name.find(b"/", end + 1)
            end = len(name) if end < 0 else end
            parent = self._open.get(name[:end]) or self._step(name[:end], *parent)
        return parent

    def _step(self, name: bytes, parent: int, parent_path: bytes) -> tuple[int, bytes]:
        """The last component of the directory `name`, whose parent is open."""
        last = name[name.rfind(b"/") + 1 :]
        path = parent_path + b"/" + last if parent_path else last
        try:
            found = os.stat(last, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(last, 0o700, dir_fd=parent)
            self._imply_status(parent, last, path)
        else:
            if stat.S_ISLNK(found.st_mode):
                return self._open_through(name)
        directory = os.open(last, OPEN_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        return self._remember_open(name, directory, path)

    def _open_through(self, name: bytes) -> tuple[int, bytes]:
        """A parent that is reached through symlinks of this archive: they are followed inside the layer."""
        directory = open_below(self._root, os.fsdecode(name), OPEN_DIRECTORY, resolve=INSIDE)
        path = os.fsencode(os.readlink(f"/proc/self/fd/{directory}"))
        if path == self._root_path:
            return self._remember_open(name, directory, b"")
        if not path.startswith(self._root_path + b"/"):
            os.close(directory)
            raise InvalidParameter(f"{show(name)} leads out of the layer")
        return self._remember_open(name, directory, path[len(self._root_path) + 1 :])

    def _imply_status(self, parent: int, name: bytes, path: bytes) -> None:
        """What the archive does not say of a directory: as it is in the layers below, else root's and 0755."""
        below = self._lower.find(path)
        directory = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if below is not None and stat.S_ISDIR(below.st_mode):
                os.fchown(directory, below.st_uid, below.st_gid)
                os.fchmod(directory, stat.S_IMODE(below.st_mode))
                self._remember_time(path, below.st_mtime_ns)
            else:
                os.fchown(directory, 0, 0)
                os.fchmod(directory, 0o755)
                self._remember_time(path, 0)
        finally:
            os.close(directory)
