"""Fill a new tmpfs with what lies where it will be mounted (mount option tmpcopyup), by descriptor from end
to end.
"""

from __future__ import annotations

import os
import stat

_SENDFILE = 1 << 20


def copy_directory(source: int, target: int) -> None:
    """Copy the contents of the directory `source` (O_PATH or not) into `target`, owners, modes and times
    kept.

    Sockets are left out. What does not fit into the filesystem fails with ENOSPC.
    """
    reader = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    try:
        for name in os.listdir(reader):
            _copy(reader, target, name)
        _copy_attributes(os.fstat(reader), target, ".")
    finally:
        os.close(reader)


def _copy(source: int, target: int, name: str) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        inner_source = os.open(name, flags, dir_fd=source)
        try:
            inner_target = os.open(name, flags, dir_fd=target)
            try:
                copy_directory(inner_source, inner_target)
            finally:
                os.close(inner_target)
        finally:
            os.close(inner_source)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif kind == stat.S_IFREG:
        _copy_file(source, target, name)
    elif kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
    else:
        return
    _copy_attributes(found, target, name)


def _copy_file(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(writer, reader, None, _SENDFILE):
                pass
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_attributes(found: os.stat_result, target: int, name: str) -> None:
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)
