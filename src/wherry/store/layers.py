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
from typing import BinaryIO, Final

from wherry.errors import Internal, InvalidParameter, Unavailable
from wherry.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_below,
)
from wherry.oci.digest import DiffID
from wherry.store.record import Displaced, RecordWriter
from wherry.store.snapshots.driver import Stop
from wherry.store.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    LINK,
    REGULAR,
    SYMLINK,
    Entry,
    Feed,
    TarReader,
)
from wherry.store.trees import LayerStack, tree_size
from wherry.store.whiteouts import PREFIX, Whiteouts, is_aufs_own

MAX_ENTRIES: Final = 4_000_000
MAX_DEPTH: Final = 256
MAX_NAMES_BYTES: Final = 256 << 20
"""Of the names of all directories and whiteouts together: they are kept until the end."""
_OPEN_DIRECTORIES: Final = 128
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STRICT: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_INSIDE: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_NODES: Final = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_OUR_FAULT: Final = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)
"""The machine's, not the archive's."""
_IGNORED_XATTR_ERRORS: Final = (errno.EOPNOTSUPP, errno.EPERM)


def unpack_layer(
    tar: BinaryIO, directory: str, diff_id: DiffID, lower: Sequence[str], *, stop: Stop | None = None
) -> int:
    """Unpack the uncompressed `tar` as `directory`/fs, with its record; the size of the layer in bytes.

    `lower` are the trees of the layers below, topmost first: what only implied directories look like comes from
    there. Raises InvalidParameter where the archive is malformed or not `diff_id`. On any error the directory is the
    caller's to remove.
    """
    tree = os.path.join(directory, "fs")
    os.mkdir(tree, 0o755)
    os.chmod(tree, 0o755)
    recorder = RecordWriter(os.path.join(directory, "record.zst"))
    unpacker = None
    try:
        with Feed(tar) as feed:
            unpacker = _Unpacker(directory, TarReader(feed, recorder.raw), recorder, LayerStack(lower), stop)
            unpacker.run()
            found = feed.digest()
        if found != diff_id:
            raise InvalidParameter(f"layer does not match its diffID: expected {diff_id}, got {found}")
        recorder.finish()
        return unpacker.size
    finally:
        recorder.close()
        if unpacker is not None:
            unpacker.close()


class _Unpacker:
    def __init__(
        self, directory: str, reader: TarReader, recorder: RecordWriter, lower: LayerStack, stop: Stop | None
    ) -> None:
        self._top = directory
        self._tree = os.path.join(directory, "fs")
        self._root = os.open(self._tree, _DIRECTORY | os.O_CLOEXEC)
        self._root_path = os.fsencode(os.readlink(f"/proc/self/fd/{self._root}"))
        self._reader = reader
        self._recorder = recorder
        self._lower = lower
        self._stop = stop
        self._open: dict[bytes, tuple[int, bytes]] = {}  # name as spelled → descriptor, true path
        self._retired: list[int] = []
        self._times: dict[bytes, int] = {}  # directories' mtimes, by true path, set last
        self._name_bytes = 0
        self._displaced = 0
        self._displaced_root = -1
        self._was_displaced = False
        self._whiteouts = Whiteouts()
        self.size = 0

    def run(self) -> None:
        count = 0
        next_entry = self._reader.next
        while (entry := next_entry()) is not None:
            count += 1
            if count > MAX_ENTRIES:
                raise InvalidParameter(f"layer has too many entries: at most {MAX_ENTRIES} are unpacked")
            if self._stop is not None and self._stop.is_set():
                raise Unavailable("unpacking was given up")
            try:
                self._unpack(entry)
            except OSError as exc:
                text = f"cannot unpack {_show(entry.name)}: {(exc.strerror or str(exc)).lower()}"
                raise (Internal if exc.errno in _OUR_FAULT else InvalidParameter)(text) from exc
        self._whiteouts.make(self._root, self._lower)
        self._set_times()
        if self._was_displaced:
            self.size = tree_size(self._tree)

    def close(self) -> None:
        self._forget_open()
        self._close_retired()
        os.close(self._root)
        if self._displaced_root >= 0:
            os.close(self._displaced_root)

    def _unpack(self, entry: Entry) -> None:
        if self._retired:
            self._close_retired()
        parent_name, name = _split(entry.name)
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
        kind = entry.type
        if kind == REGULAR:
            self._make_file(entry, parent, name, path)
        elif kind == DIRECTORY:
            self._make_directory(entry, parent, name, path)
        elif kind == SYMLINK:
            self._make_symlink(entry, parent, name, path)
        elif kind == LINK:
            self._make_link(entry, parent, name, path)
        elif kind in _NODES:
            self._make_node(entry, parent, name, path)
        else:
            raise InvalidParameter(
                f"unhandled tar header type {kind[0]} of {_show(entry.name)}"
            )  # Docker's text

    def _unpack_root(self, entry: Entry) -> None:
        if entry.type != DIRECTORY:
            raise InvalidParameter(f"layer names its own root {_show(entry.name)}, and not as a directory")
        _set_status(self._root, entry)
        self._times[b""] = entry.mtime_ns

    def _make_file(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        try:
            file = os.open(name, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, name, path)
            file = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if entry.pieces is not None:
                self._write_sparse(file, entry, path)
            elif entry.size:
                self._reader.flush()
                self._recorder.content(path, 0, entry.size)
                content, write = self._reader.content, os.write
                while data := content():
                    written = write(file, data)
                    while written < len(data):
                        written += write(file, data[written:])
                    if self._stop is not None and self._stop.is_set():
                        raise Unavailable("unpacking was given up")
                self.size += entry.size
            _set_status(file, entry)
            os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)

    def _write_sparse(self, file: int, entry: Entry, path: bytes) -> None:
        assert entry.pieces is not None
        true_size, pieces = entry.pieces
        self._reader.flush()
        data: memoryview | bytes = b""
        for offset, length in pieces:
            self._recorder.content(path, offset, length)
            while length:
                data = data or self._reader.content()
                written = os.pwrite(file, data[:length], offset)
                data = data[written:]
                offset += written
                length -= written
        if self._reader.content():
            raise InvalidParameter(f"tar: sparse map of {_show(entry.name)} does not fit its size")
        os.ftruncate(file, true_size)
        self.size += true_size

    def _make_directory(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        self._make_plain_directory(parent, name, path)
        directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            _set_status(directory, entry)
        finally:
            os.close(directory)
        self._remember_time(path, entry.mtime_ns)

    def _make_plain_directory(self, parent: int, name: bytes, path: bytes) -> None:
        """A directory at `path`, made anew unless there is one."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            return
        except FileExistsError:
            pass
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            self._displace(parent, name, path)
            os.mkdir(name, 0o700, dir_fd=parent)

    def _make_symlink(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        if not entry.link:
            raise InvalidParameter(f"symlink {_show(entry.name)} leads nowhere")
        try:
            os.symlink(entry.link, name, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, name, path)
            os.symlink(entry.link, name, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            _set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", entry.xattrs)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        self.size += len(entry.link)

    def _make_link(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        """A hard link to an earlier file of this same archive."""
        target_parent, target_name = _split(entry.link)
        if not target_name:
            raise InvalidParameter(f"hard link {_show(entry.name)} leads to the layer's root")
        try:
            source = open_below(
                self._root, os.fsdecode(target_parent) or ".", os.O_PATH | os.O_DIRECTORY, resolve=_INSIDE
            )
        except OSError as exc:
            raise InvalidParameter(
                f"hard link {_show(entry.name)} leads to {_show(entry.link)}: {exc.strerror}"
            ) from exc
        try:
            self._link(source, target_name, parent, name, path)
        except FileNotFoundError:
            raise InvalidParameter(
                f"hard link {_show(entry.name)} leads to {_show(entry.link)}, which this layer does not have"
            ) from None
        finally:
            os.close(source)

    def _link(self, source: int, target_name: bytes, parent: int, name: bytes, path: bytes) -> None:
        try:
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            target = os.stat(target_name, dir_fd=source, follow_symlinks=False)
            if os.path.samestat(there, target):
                return  # a link to itself, or one made before
            self._displace(parent, name, path)
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _make_node(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        if entry.major >= 1 << 12 or entry.minor >= 1 << 20:
            raise InvalidParameter(
                f"device {entry.major}:{entry.minor} of {_show(entry.name)} is out of range"
            )
        mode, device = _NODES[entry.type] | 0o600, os.makedev(entry.major, entry.minor)
        if entry.type == CHARACTER and device == 0:
            self._hide(parent, name, path)
            return
        try:
            os.mknod(name, mode, device, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, name, path)
            os.mknod(name, mode, device, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            _set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", entry.xattrs)
        os.chmod(
            name, entry.mode, dir_fd=parent
        )  # not a symlink: we have just made it, and nobody else is here
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

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
            self._displaced_root = os.open(aside, _DIRECTORY | os.O_CLOEXEC)
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
            return self._remember_open(name, os.open(".", _DIRECTORY | os.O_CLOEXEC, dir_fd=self._root), b"")
        try:
            found = open_below(self._root, os.fsdecode(name), _DIRECTORY, resolve=_STRICT)
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
        directory = os.open(last, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        return self._remember_open(name, directory, path)

    def _open_through(self, name: bytes) -> tuple[int, bytes]:
        """A parent that is reached through symlinks of this archive: they are followed inside the layer."""
        directory = open_below(self._root, os.fsdecode(name), _DIRECTORY, resolve=_INSIDE)
        path = os.fsencode(os.readlink(f"/proc/self/fd/{directory}"))
        if path == self._root_path:
            return self._remember_open(name, directory, b"")
        if not path.startswith(self._root_path + b"/"):
            os.close(directory)
            raise InvalidParameter(f"{_show(name)} leads out of the layer")
        return self._remember_open(name, directory, path[len(self._root_path) + 1 :])

    def _imply_status(self, parent: int, name: bytes, path: bytes) -> None:
        """What the archive does not say of a directory: as it is in the layers below, else root's and 0755."""
        below = self._lower.find(path)
        directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
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

    def _remember_open(self, name: bytes, directory: int, path: bytes) -> tuple[int, bytes]:
        if path.count(b"/") >= MAX_DEPTH:
            os.close(directory)
            raise InvalidParameter(
                f"{_show(name)} is nested too deeply: at most {MAX_DEPTH} levels are unpacked"
            )
        if len(self._open) >= _OPEN_DIRECTORIES:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest)[0])
        self._open[name] = directory, path
        return directory, path

    def _forget_open(self) -> None:
        """Names may lead elsewhere now. Their descriptors stay open until the entry at hand is done with them."""
        self._retired += [directory for directory, _ in self._open.values()]
        self._open.clear()

    def _close_retired(self) -> None:
        while self._retired:
            os.close(self._retired.pop())

    def _remember_time(self, path: bytes, mtime_ns: int) -> None:
        self._count_name(path)
        self._times[path] = mtime_ns

    def _count_name(self, name: bytes) -> None:
        self._name_bytes += len(name)
        if self._name_bytes > MAX_NAMES_BYTES:
            raise InvalidParameter("layer has too many directories and whiteouts")

    def _set_times(self) -> None:
        """Directories' times, after everything was put into them."""
        for path, mtime_ns in self._times.items():
            try:
                directory = open_below(self._root, os.fsdecode(path) or ".", _DIRECTORY, resolve=_STRICT)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later entry took its place
                raise
            try:
                os.utime(directory, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(directory)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """A member's name as parent directory and last component, cleaned; both empty for the root itself.

    `..` is resolved lexically, as Docker does. Raises InvalidParameter for what leads out of the layer.
    """
    if name.startswith(b"./"):
        name = name[2:]
    name = name.rstrip(b"/")
    if not name.startswith((b"/", b".")) and b"/." not in name and b"//" not in name:
        parent, _, last = name.rpartition(b"/")
        if len(last) > 255:
            raise InvalidParameter(f"file name {_show(last)} is longer than 255 bytes")
        return parent, last
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidParameter(f"{_show(name)} is outside of the layer")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    if not parts:
        return b"", b""
    if len(parts[-1]) > 255:
        raise InvalidParameter(f"file name {_show(parts[-1])} is longer than 255 bytes")
    return b"/".join(parts[:-1]), parts[-1]


def _set_status(descriptor: int, entry: Entry) -> None:
    """Owner, xattrs, mode, in the order in which none undoes another (chown clears set-uid and capabilities).

    root's things too: in a set-gid directory they were made with its group.
    """
    os.fchown(descriptor, entry.uid, entry.gid)
    if entry.xattrs:
        _set_xattrs(descriptor, entry.xattrs)
    os.fchmod(descriptor, entry.mode)


def _set_xattrs(target: int | str, xattrs: dict[bytes, bytes]) -> None:
    """Those an image may have. `trusted.overlay.*` would speak to overlayfs, `security.selinux` to the host."""
    for name, value in xattrs.items():
        if name == b"security.capability" or (
            name.startswith(b"user.") and not name.startswith(b"user.overlay.")
        ):
            try:
                os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
            except OSError as exc:
                if exc.errno not in _IGNORED_XATTR_ERRORS:
                    raise


def _show(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 200 else text[:200] + "…")
