"""Opening and making files below a root that somebody else may write to.

Every name is resolved by openat2(2) with RESOLVE_IN_ROOT: `..` and absolute symlinks stay inside, and a
directory that is swapped for a symlink during the walk (CVE-2021-30465, CVE-2024-45310) leads nowhere
outside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from wherry.linux.libc import check, function, system_call

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# openat2(2) answers EAGAIN when something was renamed during a walk over `..`: try again, within reason.
_ATTEMPTS = 128
_SYMLINKS = 40  # as the kernel's own limit (MAXSYMLINKS)

_openat2 = system_call("openat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_fstatfs = function("fstatfs", ctypes.c_int, ctypes.c_char_p)
_statx = function("statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
_AT_EMPTY_PATH = 0x1000
_STATX_MNT_ID = 0x1000
_MNT_ID_OFFSET = 144  # of stx_mnt_id in struct statx


def open_below(
    root: int, path: str, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
) -> int:
    """openat2(2) of `path` relative to the directory `root`, close-on-exec."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    name = os.fsencode(path)
    result = -1
    for _ in range(_ATTEMPTS):
        result = _openat2(root, name, how, len(how))
        if result >= 0:
            return result
        if ctypes.get_errno() != errno.EAGAIN:
            break
    return check("openat2", result, path)


def make_directory(root: int, path: str, mode: int = 0o755) -> int:
    """An O_PATH descriptor of the directory `path` below `root`; what is missing of it is made."""
    try:
        return open_below(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    return _walk(root, path, mode)


def make_file(root: int, path: str, mode: int = 0o644) -> int:
    """An O_PATH descriptor of the file `path` below `root`; an empty one is made when there is none."""
    try:
        return open_below(root, path, os.O_PATH)
    except FileNotFoundError:
        pass
    parent, name = os.path.split(path.rstrip("/"))
    directory = make_directory(root, parent or "/")
    try:
        try:
            # O_EXCL: never through a symlink that appeared meanwhile.
            os.close(
                os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=directory)
            )
        except FileExistsError:
            return _follow_dangling(root, path, directory, name, mode)
        return open_below(directory, name, os.O_PATH | os.O_NOFOLLOW)
    finally:
        os.close(directory)


def filesystem_type(descriptor: int) -> int:
    """f_type of fstatfs(2): which kind of filesystem the descriptor lives on (PROC_SUPER_MAGIC, …)."""
    buffer = ctypes.create_string_buffer(256)
    check("fstatfs", _fstatfs(descriptor, buffer))
    return struct.unpack_from("=q", buffer)[0]


def mount_id(descriptor: int) -> int:
    """The number of the mount that the descriptor was reached through."""
    buffer = ctypes.create_string_buffer(256)
    check("statx", _statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_MNT_ID, buffer))
    return struct.unpack_from("=Q", buffer, _MNT_ID_OFFSET)[0]


def is_device(descriptor: int, major: int, minor: int) -> bool:
    """Whether the descriptor is the character device with this number."""
    found = os.fstat(descriptor)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(major, minor)


def read_text(root: int, path: str, limit: int = 1 << 20) -> str:
    """The first `limit` bytes of a regular file below `root`, as text; never waits on a fifo or device."""
    descriptor = open_below(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        parts: list[bytes] = []
        while limit > 0 and (data := os.read(descriptor, min(limit, 65536))):
            parts.append(data)
            limit -= len(data)
        return b"".join(parts).decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)


def _follow_dangling(root: int, path: str, directory: int, name: str, mode: int) -> int:
    """`path` ended in a symlink to nothing: make the file it names, inside the root."""
    target = os.readlink(name, dir_fd=directory)
    if not target.startswith("/"):
        target = os.path.join(os.path.dirname(path), target)
    if target == path:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return make_file(root, target, mode)


def _walk(root: int, path: str, mode: int) -> int:
    """Make the directories of `path` one at a time, symlinks resolved by us, each open confined to `root`."""
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    symlinks = 0
    current = open_below(root, "/", os.O_PATH | os.O_DIRECTORY)
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                del done[-1:]
                os.close(current)
                current = -1
                current = open_below(root, "/" + "/".join(done), os.O_PATH | os.O_DIRECTORY)
                continue
            try:
                os.mkdir(name, mode, dir_fd=current)
            except FileExistsError:
                pass
            following = open_below(current, name, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH)
            if stat.S_ISLNK(os.fstat(following).st_mode):
                target = os.readlink("", dir_fd=following)
                os.close(following)
                symlinks += 1
                if symlinks > _SYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    done.clear()
                    os.close(current)
                    current = -1
                    current = open_below(root, "/", os.O_PATH | os.O_DIRECTORY)
                todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
                continue
            os.close(current)
            current = following
            done.append(name)
        if not stat.S_ISDIR(os.fstat(current).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        result, current = current, -1
        return result
    finally:
        if current >= 0:
            os.close(current)
