"""Writing files as a tar: what `docker cp`, `export` and `commit` send. POSIX ustar, with pax headers where they are needed.

As Docker writes it: whole seconds, owners by number, directories' names end in a slash, names sorted. Beyond it: names
that are not UTF-8 keep their bytes, and the holes of large sparse files are not sent (GNU's sparse format 1.0, which Go,
GNU tar, libarchive and Python read).

The tree may be a running container's. It is walked by descriptor, no symlink is followed, nothing that is not a regular
file is opened, and no more is read of one than its size was: what vanishes meanwhile is left out, what shrinks is
filled up with zeros. Kernel filesystems (proc, sysfs, …) look empty: reading them is no copying of files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import Final

from wherry.errors import InvalidParameter
from wherry.linux.files import filesystem_type
from wherry.store.tar import BLOCK, MAX_NAME_BYTES

_FLUSH: Final = 256 << 10
_SENDFILE: Final = 1 << 20
_COPIED: Final = 64 << 10
"""Files up to this size go through our own buffer, larger ones from file to socket by the kernel."""
_SPARSE_GAIN: Final = 1 << 20
_SPARSE_PIECES: Final = 8192
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE)
_ZEROS: Final = bytes(BLOCK)
_OCTAL_8: Final = 0o7777777
_OCTAL_12: Final = 0o77777777777
_KERNEL_FILESYSTEMS: Final = frozenset(
    (
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
        0x6165676C,  # pstore
        0xF97CFF8C,  # selinuxfs
        0x42494E4D,  # binfmt_misc
        0x62656570,  # configfs
        0x65735543,  # fusectl
        0xDE5E81E4,  # efivarfs
        0x6E736673,  # nsfs
    )
)
_TYPES: Final = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def is_kernel_filesystem(descriptor: int) -> bool:
    """Whether the descriptor is in proc, sysfs and the like."""
    return filesystem_type(descriptor) & 0xFFFFFFFF in _KERNEL_FILESYSTEMS


class Packer:
    """Writes to `out`, a socket or pipe. Members in any order; `end` last."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._pending: list[bytes] = []
        self._size = 0
        self._links: dict[tuple[int, int], bytes] = {}

    def tree(
        self,
        directory: int,
        name: bytes,
        as_name: bytes,
        *,
        wanted: Callable[[bytes, os.stat_result], bool] | None = None,
    ) -> None:
        """Write what the open `directory` has at `name` as `as_name`, with all that is below it.

        `wanted` is asked for each member but the first by its name in the archive; what it refuses is left out, with
        what is below.
        """
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            self.member(directory, name, as_name, found)
            return
        inner = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            self.contents(inner, as_name, wanted=wanted)
        finally:
            os.close(inner)

    def contents(
        self,
        directory: int,
        as_name: bytes,
        *,
        wanted: Callable[[bytes, os.stat_result], bool] | None = None,
    ) -> None:
        """Write the open `directory` as `as_name` (without slash at its end; empty: not itself), and all below it."""
        found = os.fstat(directory)
        if as_name:
            self._header(as_name.rstrip(b"/") + b"/", found, xattrs=_xattrs(directory))
        if is_kernel_filesystem(directory):
            return
        prefix = as_name if as_name.endswith(b"/") or not as_name else as_name + b"/"
        for each in sorted(map(os.fsencode, os.listdir(directory))):
            inner_name = prefix + each
            try:
                status = os.stat(each, dir_fd=directory, follow_symlinks=False)
                if wanted is not None and not wanted(inner_name, status):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    inner = os.open(each, _DIRECTORY, dir_fd=directory)
                else:
                    self.member(directory, each, inner_name, status)
                    continue
            except OSError as exc:
                if exc.errno in _GONE:
                    continue
                raise
            try:
                self.contents(inner, inner_name, wanted=wanted)
            finally:
                os.close(inner)

    def member(self, directory: int, name: bytes, as_name: bytes, found: os.stat_result) -> None:
        """Write one thing that is no directory."""
        kind = stat.S_IFMT(found.st_mode)
        if kind not in _TYPES:
            return  # a socket: nothing can be behind it
        if found.st_nlink > 1:
            first = self._links.get((found.st_dev, found.st_ino))
            if first is not None:
                self._header(as_name, found, kind=b"1", link=first)
                return
        if kind == stat.S_IFREG:
            self._file(directory, name, as_name)
            return
        if kind == stat.S_IFLNK:
            self._header(as_name, found, link=os.readlink(name, dir_fd=directory))
        else:
            self._header(as_name, found)
        self._remember(found, as_name)

    def directory(self, descriptor: int, as_name: bytes) -> None:
        """Write a directory alone."""
        self._header(as_name.rstrip(b"/") + b"/", os.fstat(descriptor), xattrs=_xattrs(descriptor))

    def empty(self, as_name: bytes, *, mtime_s: int) -> None:
        """Write an empty file: a whiteout."""
        self._write(header(as_name, size=0, mtime_s=mtime_s, mode=0))

    def end(self) -> None:
        """Write the two blocks that end an archive, and all that is still held back."""
        self._write(bytes(2 * BLOCK))
        self._flush()

    def _file(self, directory: int, name: bytes, as_name: bytes) -> None:
        source = os.open(name, _FILE, dir_fd=directory)
        try:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                return  # swapped meanwhile
            if is_kernel_filesystem(source):
                return
            self._remember(found, as_name)
            gain = found.st_size - found.st_blocks * 512
            pieces = _pieces(source, found.st_size) if gain >= _SPARSE_GAIN else None
            if pieces is None:
                self._header(as_name, found, size=found.st_size, xattrs=_xattrs(source))
                self._content(source, 0, found.st_size)
                self._write(bytes(-found.st_size % BLOCK))
            else:
                self._sparse(source, as_name, found, pieces)
        finally:
            os.close(source)

    def _sparse(
        self, source: int, as_name: bytes, found: os.stat_result, pieces: list[tuple[int, int]]
    ) -> None:
        lines = [str(len(pieces)), *(str(number) for piece in pieces for number in piece)]
        sparse_map = "".join(f"{line}\n" for line in lines).encode()
        sparse_map += bytes(-len(sparse_map) % BLOCK)
        size = len(sparse_map) + sum(length for _, length in pieces)
        extra = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", as_name),
            (b"GNU.sparse.realsize", str(found.st_size).encode()),
        ]
        parent, _, last = as_name.rpartition(b"/")
        stand_in = (parent + b"/" if parent else b"") + b"GNUSparseFile.0/" + last
        self._header(stand_in, found, size=size, xattrs=_xattrs(source), extra=extra)
        self._write(sparse_map)
        for offset, length in pieces:
            self._content(source, offset, length)
        self._write(bytes(-size % BLOCK))

    def _content(self, source: int, offset: int, length: int) -> None:
        if length <= _COPIED:
            while length:
                data = os.pread(source, length, offset)
                if not data:
                    break
                self._write(data)
                offset += len(data)
                length -= len(data)
        else:
            self._flush()
            while length:
                sent = os.sendfile(self._out, source, offset, min(length, _SENDFILE))
                if not sent:
                    break
                offset += sent
                length -= sent
        while length:  # it became shorter
            piece = min(length, _FLUSH)
            self._write(bytes(piece))
            length -= piece

    def _remember(self, found: os.stat_result, as_name: bytes) -> None:
        if found.st_nlink > 1:
            self._links[found.st_dev, found.st_ino] = as_name

    def _header(
        self,
        as_name: bytes,
        found: os.stat_result,
        *,
        kind: bytes | None = None,
        size: int = 0,
        link: bytes = b"",
        xattrs: Iterable[tuple[bytes, bytes]] = (),
        extra: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        is_device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
        self._write(
            header(
                as_name,
                kind=kind or _TYPES[stat.S_IFMT(found.st_mode)],
                mode=stat.S_IMODE(found.st_mode),
                uid=found.st_uid,
                gid=found.st_gid,
                size=size,
                mtime_s=found.st_mtime_ns // 10**9,
                link=link,
                device=found.st_rdev if is_device else 0,
                records=[*extra, *((b"SCHILY.xattr." + key, value) for key, value in xattrs)],
            )
        )

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(b"".join(self._pending))
        self._pending.clear()
        self._size = 0
        while view:
            view = view[os.write(self._out, view) :]


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_s: int = 0,
    link: bytes = b"",
    device: int = 0,
    records: list[tuple[bytes, bytes]] | None = None,
) -> bytes:
    """One member's headers. Raises InvalidParameter for a name longer than any path."""
    if len(name) > MAX_NAME_BYTES or len(link) > MAX_NAME_BYTES:
        raise InvalidParameter(f"the name {show(name)} is too long for an archive")
    records = list(records or ())
    before = b""
    short, prefix = _split_name(name)
    if short is None:
        short, prefix = name[:100], b""
        before += _long(b"L", b"path", name, records)
    if len(link) > 100:
        before += _long(b"K", b"linkpath", link, records)
    if size > _OCTAL_12:
        records.append((b"size", str(size).encode()))
    if uid > _OCTAL_8:
        records.append((b"uid", str(uid).encode()))
    if gid > _OCTAL_8:
        records.append((b"gid", str(gid).encode()))
    if not 0 <= mtime_s <= _OCTAL_12:
        records.append((b"mtime", str(mtime_s).encode()))
    if records:
        data = b"".join(_record(key, value) for key, value in records)
        before += _block(b"PaxHeaders.0/" + name[-80:].rpartition(b"/")[2], b"x", size=len(data))
        before += data + bytes(-len(data) % BLOCK)
    return before + _block(
        short,
        kind,
        mode=mode,
        uid=uid if uid <= _OCTAL_8 else 0,
        gid=gid if gid <= _OCTAL_8 else 0,
        size=size if size <= _OCTAL_12 else 0,
        mtime_s=mtime_s if 0 <= mtime_s <= _OCTAL_12 else 0,
        link=link[:100],
        device=device,
        prefix=prefix,
    )


def show(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))


def _long(kind: bytes, key: bytes, value: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
    """A name that does not fit: as a pax record, or, since those are UTF-8 by definition, in GNU's way."""
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        data = value + b"\0"
        return _block(b"././@LongLink", kind, size=len(data)) + data + bytes(-len(data) % BLOCK)
    records.append((key, value))
    return b""


def _split_name(name: bytes) -> tuple[bytes | None, bytes]:
    """The name's two fields in a ustar header; None where it does not fit them."""
    if len(name) <= 100:
        return name, b""
    at = name.find(b"/", len(name) - 101, 156)
    if at <= 0 or at >= len(name) - 1:
        return None, b""
    return name[at + 1 :], name[:at]


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_s: int = 0,
    link: bytes = b"",
    device: int = 0,
    prefix: bytes = b"",
) -> bytes:
    data = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%bustar\00000%b%07o\0%07o\0%b" % (
        name.ljust(100, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime_s,
        kind,
        link.ljust(100, b"\0"),
        bytes(64),
        os.major(device),
        os.minor(device),
        prefix.ljust(167, b"\0"),
    )
    return b"%b%06o\0 %b" % (data[:148], sum(data), data[156:])


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, LENGTH counting itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _pieces(source: int, size: int) -> list[tuple[int, int]] | None:
    """The runs of a file that are no holes; None where there are too many of them to be worth it."""
    pieces: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                break
            return None
        if start >= size:
            break
        at = min(os.lseek(source, start, os.SEEK_HOLE), size)
        pieces.append((start, at - start))
        if len(pieces) > _SPARSE_PIECES:
            return None
    return pieces


def _xattrs(descriptor: int) -> list[tuple[bytes, bytes]]:
    """Those that go along: capabilities and what users set (whose kind `store.placing` puts back)."""
    try:
        names = os.listxattr(descriptor)
    except OSError:
        return []
    found: list[tuple[bytes, bytes]] = []
    for name in names:
        if name == "security.capability" or (
            name.startswith("user.") and not name.startswith("user.overlay.")
        ):
            try:
                found.append((os.fsencode(name), os.getxattr(descriptor, name)))
            except OSError:
                continue  # taken away meanwhile
    return found
