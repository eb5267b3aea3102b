"""Disks: forcing what was written onto them, and copying without moving bytes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat

from wherry.linux.libc import check, function

_FICLONE = 0x40049409
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_IMMUTABLE_OR_APPEND = 0x10 | 0x20
_TOPDIR = 0x20000
_FALLOC_FL_KEEP_SIZE = 1
_COPY_STEP = 1 << 30
_LOCKABLE = (stat.S_IFREG, stat.S_IFDIR)
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS)

_DIRENT_LENGTH = 16  # struct linux_dirent64: u64 inode, s64 offset, u16 length, u8 type, name
_DIRENT_TYPE = 18

_syncfs = function("syncfs", ctypes.c_int)
_fallocate = function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_getdents64 = function("getdents64", ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, result=ctypes.c_ssize_t)


def sync_filesystem(descriptor: int) -> None:
    """syncfs(2): everything written so far to the filesystem that `descriptor` lies on is on its disk."""
    check("syncfs", _syncfs(descriptor))


def reserve(descriptor: int, length: int) -> bool:
    """Keep disk space for the first `length` bytes of a file, whose size stays as it is; False where that fails.

    What is written there later needs no space, and so cannot meet a full disk.
    """
    return _fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, 0, length) == 0


def has_file_types(directory: int) -> bool:
    """Whether the filesystem says in its directory listings what kind of file each name is (d_type)."""
    buffer = ctypes.create_string_buffer(4096)
    length = check("getdents64", _getdents64(directory, buffer, len(buffer)))
    at = 0
    types: list[int] = []
    while at < length:
        types.append(buffer.raw[at + _DIRENT_TYPE])
        at += int.from_bytes(buffer.raw[at + _DIRENT_LENGTH : at + _DIRENT_LENGTH + 2], "little")
    return all(types)


def spread(directory: str) -> None:
    """Ask ext4 to put the trees below `directory` far from each other (chattr +T); other filesystems need not.

    It does not give out an inode for minutes after a deletion, and looks at such inodes one by one: a tree that is
    made where another was just removed takes several times as long (measured: 2.3 s of CPU against 4 to 8).
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _set_flags(descriptor, add=_TOPDIR)
    except OSError:
        pass  # no such flag here
    finally:
        os.close(descriptor)


def unlock(name: str, directory: int) -> bool:
    """Take away what chattr +i or +a did to a file or directory, so that it can be removed; whether it had that.

    Symlinks are not followed, devices and fifos not opened: they cannot be locked.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if stat.S_IFMT(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode) not in _LOCKABLE:
            return False
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError:
        return False
    try:
        return bool(_set_flags(descriptor, remove=_IMMUTABLE_OR_APPEND) & _IMMUTABLE_OR_APPEND)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _set_flags(descriptor: int, *, add: int = 0, remove: int = 0) -> int:
    """Change the flags of chattr(1); what they were. The calls say long and mean int."""
    found = int.from_bytes(fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(8))[:4], "little")
    wanted = (found | add) & ~remove
    if wanted != found:
        fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, wanted.to_bytes(8, "little"))
    return found


def copy_contents(source: int, target: int) -> None:
    """Make the empty file `target` equal to `source`: shared blocks where the filesystem can, else copied ones."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as exc:
        if exc.errno not in _NO_CLONE:
            raise
    try:
        while os.copy_file_range(source, target, _COPY_STEP):
            pass
    except OSError as exc:
        if exc.errno not in _NO_CLONE:
            raise
        os.lseek(source, 0, os.SEEK_SET)
        os.lseek(target, 0, os.SEEK_SET)
        os.ftruncate(target, 0)
        while data := os.read(source, 1 << 20):
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
