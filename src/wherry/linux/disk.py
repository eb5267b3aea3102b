"""Disks: forcing what was written onto them, and copying without moving bytes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

from wherry.linux.libc import check, function

_FICLONE = 0x40049409
_COPY_STEP = 1 << 30
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS)

_syncfs = function("syncfs", ctypes.c_int)


def sync_filesystem(descriptor: int) -> None:
    """syncfs(2): everything written so far to the filesystem that `descriptor` lies on is on its disk."""
    check("syncfs", _syncfs(descriptor))


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
