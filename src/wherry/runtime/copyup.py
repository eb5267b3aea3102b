"""Copy one directory's contents into another, by descriptor from end to end: for a new tmpfs that hides them (mount
option tmpcopyup), and for a volume at its first use. Neither tree is trusted: no symlink is followed.
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.linux import files

_SENDFILE = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS
_UNSUPPORTED = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODATA)

MAX_DEPTH = 300
"""Levels of directories. Images are not unpacked that deep."""


def copy_directory(source: int, target: int) -> None:
    """Copy the contents of the directory `source` (O_PATH or not) into `target`: owners, modes, times, extended
    attributes and hard links kept, those of the directory itself too.

    Sockets are left out. What does not fit into the filesystem fails with ENOSPC.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    reader = os.open(".", flags, dir_fd=source)
    try:
        writer = os.open(".", flags, dir_fd=target)
        try:
            _Copy(writer).directory(reader, writer, 0)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def copy_attributes(source: int, target: int) -> None:
    """Make owner, mode, times and extended attributes of the open directory `target` those of `source`."""
    _copy_xattrs(source, target)
    _set_attributes(os.fstat(source), target, ".")


class _Copy:
    """One copy under way. `links`: files with several names, by inode: under which name they are in `target`."""

    def __init__(self, target: int) -> None:
        self._top = target
        self._links: dict[tuple[int, int], str] = {}

    def directory(self, source: int, target: int, depth: int, path: str = "") -> None:
        if depth > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, f"nested more than {MAX_DEPTH} directories deep")
        for name in os.listdir(source):
            self._entry(source, target, name, depth, f"{path}{name}")
        copy_attributes(source, target)

    def _entry(self, source: int, target: int, name: str, depth: int, path: str) -> None:
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            inner_source = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                inner_target = os.open(name, _DIRECTORY, dir_fd=target)
                try:
                    self.directory(inner_source, inner_target, depth + 1, f"{path}/")
                finally:
                    os.close(inner_target)
            finally:
                os.close(inner_source)
            return
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1:
            if key in self._links and self._link(self._links[key], target, name):
                return
            self._links[key] = path
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif kind == stat.S_IFREG:
            _copy_file(source, target, name)
            return
        elif kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        else:
            self._links.pop(key, None)
            return
        _set_attributes(found, target, name)

    def _link(self, path: str, target: int, name: str) -> bool:
        """Another name for what is at `path` already. False where it cannot be had: a copy does as well.

        By descriptor, since whoever has the volume too could put a symlink into the path meanwhile.
        """
        try:
            first = files.open_below(self._top, path, os.O_PATH | os.O_NOFOLLOW, resolve=_BENEATH)
        except OSError:
            return False
        try:
            os.link(f"/proc/self/fd/{first}", name, dst_dir_fd=target, follow_symlinks=True)
        except OSError:
            return False
        finally:
            os.close(first)
        return True


def _copy_file(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(writer, reader, None, _SENDFILE):
                pass
            found = os.fstat(reader)
            os.chown(writer, found.st_uid, found.st_gid)
            _copy_xattrs(reader, writer)  # after the owner, whose change takes file capabilities away
            os.chmod(writer, stat.S_IMODE(found.st_mode))
            os.utime(writer, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_xattrs(source: int, target: int) -> None:
    """What the target's filesystem cannot hold is left out, as Docker does."""
    try:
        names = os.listxattr(source)
    except OSError:
        return
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as exc:
            if exc.errno not in _UNSUPPORTED:
                raise


def _set_attributes(found: os.stat_result, target: int, name: str) -> None:
    """Never through a symlink: only a directory, by its own descriptor, needs its mode set. The umask must be 0."""
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)
