"""Making an archive's members below a directory: files, directories, links, devices, with owner, mode, xattrs and times.

Nothing a tar holds can write outside: names are cleaned lexically, every directory is opened by descriptor, and the
last component is made with O_EXCL and never followed. Of entries with one name the last wins.

How a parent is found and what becomes of what is in the way is said by whoever derives from `Placer`: a layer being
unpacked (`layers.py`), or a directory of a container that something is copied into (`extract.py`).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from wherry.errors import Internal, InvalidParameter, Unavailable
from wherry.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_below,
)
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
    TarReader,
)

MAX_ENTRIES: Final = 4_000_000
MAX_DEPTH: Final = 256
MAX_NAMES_BYTES: Final = 256 << 20
"""Of the names of all directories and whiteouts together: they are kept until the end."""
_OPEN_DIRECTORIES: Final = 128
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
STRICT: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
INSIDE: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_NODES: Final = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_OUR_FAULT: Final = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)
"""The machine's, not the archive's."""
_IGNORED_XATTR_ERRORS: Final = (errno.EOPNOTSUPP, errno.EPERM)


class Placer:
    """Makes members below `root`, an open directory. `size` counts the bytes of files and symlinks made."""

    def __init__(self, root: int, reader: TarReader, stop: Stop | None, place: str = "the layer") -> None:
        """`place`: what messages call the directory."""
        self._root = root
        self._place = place
        self._reader = reader
        self._stop = stop
        self._open: dict[bytes, tuple[int, bytes]] = {}  # name as spelled → descriptor, true path
        self._retired: list[int] = []
        self._times: dict[bytes, int] = {}  # directories' mtimes, by true path, set last
        self._name_bytes = 0
        self.size = 0

    # What a kind of archive decides

    def _unpack(self, entry: Entry) -> None:
        """Do with one entry what its name and kind ask for; `_make` makes it."""
        raise NotImplementedError

    def _open_parent(self, name: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory called `name` by the archive, and its true path; made where it is missing."""
        raise NotImplementedError

    def _displace(self, parent: int, name: bytes, path: bytes) -> None:
        """Take away what is at `path`, in the way of another member. Raises FileNotFoundError."""
        raise NotImplementedError

    def _note_content(self, path: bytes, offset: int, length: int) -> None:
        """The next bytes of the archive become these of the file at `path`."""

    def _set_node_xattrs(self, parent: int, name: bytes, xattrs: dict[bytes, bytes]) -> None:
        """Give a symlink or device its extended attributes."""
        set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", xattrs)

    # What is the same for all

    def _unpack_all(self, what: str) -> None:
        count = 0
        next_entry = self._reader.next
        while (entry := next_entry()) is not None:
            count += 1
            if count > MAX_ENTRIES:
                raise InvalidParameter(f"{what} has too many entries: at most {MAX_ENTRIES} are unpacked")
            if self._stop is not None and self._stop.is_set():
                raise Unavailable("unpacking was given up")
            try:
                self._unpack(entry)
            except OSError as exc:
                text = f"cannot unpack {show(entry.name)}: {(exc.strerror or str(exc)).lower()}"
                raise (Internal if exc.errno in _OUR_FAULT else InvalidParameter)(text) from exc

    def close(self) -> None:
        self._forget_open()
        self._close_retired()

    def _make(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        """Make the member in the open directory `parent`."""
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
                f"unhandled tar header type {kind[0]} of {show(entry.name)}"
            )  # Docker's text

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
                self._note_content(path, 0, entry.size)
                content, write = self._reader.content, os.write
                while data := content():
                    written = write(file, data)
                    while written < len(data):
                        written += write(file, data[written:])
                    if self._stop is not None and self._stop.is_set():
                        raise Unavailable("unpacking was given up")
                self.size += entry.size
            set_status(file, entry)
            os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)

    def _write_sparse(self, file: int, entry: Entry, path: bytes) -> None:
        assert entry.pieces is not None
        true_size, pieces = entry.pieces
        self._reader.flush()
        data: memoryview | bytes = b""
        for offset, length in pieces:
            self._note_content(path, offset, length)
            while length:
                data = data or self._reader.content()
                written = os.pwrite(file, data[:length], offset)
                data = data[written:]
                offset += written
                length -= written
        if self._reader.content():
            raise InvalidParameter(f"tar: sparse map of {show(entry.name)} does not fit its size")
        os.ftruncate(file, true_size)
        self.size += true_size

    def _make_directory(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        self._make_plain_directory(parent, name, path)
        directory = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            set_status(directory, entry)
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
            raise InvalidParameter(f"symlink {show(entry.name)} leads nowhere")
        try:
            os.symlink(entry.link, name, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, name, path)
            os.symlink(entry.link, name, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            self._set_node_xattrs(parent, name, entry.xattrs)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        self.size += len(entry.link)

    def _make_link(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        """A hard link to an earlier file of this same archive."""
        target_parent, target_name = split(entry.link, self._place)
        if not target_name:
            raise InvalidParameter(f"hard link {show(entry.name)} leads to the root")
        try:
            source = open_below(
                self._root, os.fsdecode(target_parent) or ".", os.O_PATH | os.O_DIRECTORY, resolve=INSIDE
            )
        except OSError as exc:
            raise InvalidParameter(
                f"hard link {show(entry.name)} leads to {show(entry.link)}: {os.strerror(exc.errno or 0).lower()}"
            ) from exc
        try:
            self._link(source, target_name, parent, name, path)
        except FileNotFoundError:
            raise InvalidParameter(
                f"hard link {show(entry.name)} leads to {show(entry.link)}, which this layer does not have"
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
                f"device {entry.major}:{entry.minor} of {show(entry.name)} is out of range"
            )
        mode, device = _NODES[entry.type] | 0o600, os.makedev(entry.major, entry.minor)
        try:
            os.mknod(name, mode, device, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, name, path)
            os.mknod(name, mode, device, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            self._set_node_xattrs(parent, name, entry.xattrs)
        os.chmod(
            name, entry.mode, dir_fd=parent
        )  # not a symlink: we have just made it, and nobody else is here
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _remember_open(self, name: bytes, directory: int, path: bytes) -> tuple[int, bytes]:
        if path.count(b"/") >= MAX_DEPTH:
            os.close(directory)
            raise InvalidParameter(
                f"{show(name)} is nested too deeply: at most {MAX_DEPTH} levels are unpacked"
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
                directory = open_below(self._root, os.fsdecode(path) or ".", OPEN_DIRECTORY, resolve=STRICT)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later entry took its place
                raise
            try:
                os.utime(directory, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(directory)


def split(name: bytes, place: str = "the layer") -> tuple[bytes, bytes]:
    """A member's name as parent directory and last component, cleaned; both empty for the root itself.

    `..` is resolved lexically, as Docker does. Raises InvalidParameter for what leads out.
    """
    if name.startswith(b"./"):
        name = name[2:]
    name = name.rstrip(b"/")
    if not name.startswith((b"/", b".")) and b"/." not in name and b"//" not in name:
        parent, _, last = name.rpartition(b"/")
        if len(last) > 255:
            raise InvalidParameter(f"file name {show(last)} is longer than 255 bytes")
        return parent, last
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidParameter(f"{show(name)} is outside of {place}")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    if not parts:
        return b"", b""
    if len(parts[-1]) > 255:
        raise InvalidParameter(f"file name {show(parts[-1])} is longer than 255 bytes")
    return b"/".join(parts[:-1]), parts[-1]


def set_status(descriptor: int, entry: Entry) -> None:
    """Owner, xattrs, mode, in the order in which none undoes another (chown clears set-uid and capabilities).

    root's things too: in a set-gid directory they were made with its group.
    """
    os.fchown(descriptor, entry.uid, entry.gid)
    if entry.xattrs:
        set_xattrs(descriptor, entry.xattrs)
    os.fchmod(descriptor, entry.mode)


def set_xattrs(target: int | str, xattrs: dict[bytes, bytes]) -> None:
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


def show(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 200 else text[:200] + "…")
