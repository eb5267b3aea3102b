"""File trees on disk: looking through a stack of layers, measuring, removing, copying.

Trees come from images and containers and are hostile: names are followed one directory at a time by descriptor,
symlinks never; nesting may be deeper than any path or stack is long.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Sequence
from typing import Final

from wherry.linux.disk import copy_contents, unlock

OPAQUE: Final = "trusted.overlay.opaque"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEP: Final = 64
MAX_DEPTH: Final = 300
"""Layers are not unpacked deeper than `layers.MAX_DEPTH`, a little less."""


def is_whiteout(found: os.stat_result) -> bool:
    """Whether this is overlayfs's sign for "nothing here": the character device 0:0."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(descriptor: int) -> bool:
    """Whether a directory of a layer hides what lower layers have at its place."""
    try:
        return os.getxattr(descriptor, OPAQUE) == b"y"
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


class LayerStack:
    """What overlayfs would show of some layers, without mounting them."""

    def __init__(self, trees: Sequence[str]) -> None:
        """`trees`: directories, topmost first."""
        self._trees = trees

    def find(self, path: bytes) -> os.stat_result | None:
        """The status of what is at `path` (clean, relative; empty: the root), or None. Symlinks are not followed."""
        parent, _, name = path.rpartition(b"/")
        for directory in self._directories(parent):
            try:
                found = (
                    os.stat(name, dir_fd=directory, follow_symlinks=False) if name else os.fstat(directory)
                )
            except FileNotFoundError:
                continue
            return None if is_whiteout(found) else found
        return None

    def names(self, path: bytes = b"") -> set[bytes]:
        """The names in the directory `path`; none where there is no such directory."""
        names: set[bytes] = set()
        hidden: set[bytes] = set()
        for directory in self._directories(path):
            for name in map(os.fsencode, os.listdir(directory)):
                if name not in names and name not in hidden:
                    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    (hidden if is_whiteout(found) else names).add(name)
        return names

    def _directories(self, path: bytes) -> Generator[int]:
        """A descriptor of the directory `path` in each layer that has a part in it, one after the other."""
        for tree in self._trees:
            directory, is_there, goes_on = _descend(tree, path)
            try:
                if is_there:
                    yield directory
                if not goes_on:
                    return
            finally:
                os.close(directory)


def _descend(tree: str, path: bytes) -> tuple[int, bool, bool]:
    """Walk to `path` in one layer: how far that went, whether it is `path`, whether lower layers have a part in it."""
    directory = os.open(tree, _DIRECTORY)
    goes_on = True
    try:
        for name in path.split(b"/") if path else ():
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
            goes_on = goes_on and not is_opaque(directory)
    except FileNotFoundError:
        return directory, False, goes_on
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):
            return directory, False, False  # a file, a symlink or a whiteout hides what is below
        os.close(directory)
        raise
    return directory, True, goes_on


def tree_size(path: str) -> int:
    """Bytes of the files and symlinks below `path`, each inode once, as Docker counts a layer's size.

    A running container may change the tree meanwhile. What is nested deeper than `MAX_DEPTH` is not counted.
    """
    seen: set[tuple[int, int]] = set()
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return 0
    try:
        return _directory_size(top, seen, 0)
    finally:
        os.close(top)


def _directory_size(directory: int, seen: set[tuple[int, int]], depth: int) -> int:
    total = 0
    inner: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(found.st_mode):
                inner.append(entry.name)
            elif found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                if found.st_nlink > 1:
                    seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    for name in inner if depth < MAX_DEPTH else ():
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            total += _directory_size(descriptor, seen, depth + 1)
        finally:
            os.close(descriptor)
    return total


def remove_tree(path: str) -> None:
    """Remove a directory and all that is in it; nothing happens when it is not there.

    What lies deeper than any stack or path is brought up to the top first, level by level.
    """
    try:
        remove_at(None, path)
    except FileNotFoundError:
        pass


def remove_at(directory: int | None, name: str) -> None:
    """As `remove_tree`, of what the open `directory` has under `name`. Raises FileNotFoundError."""
    try:
        top = os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=directory)
        return
    try:
        _empty(top, top, 0)
        # What was brought up to the top lies there under new names; each round goes `_DEEP` levels further down.
        while os.listdir(top):
            _empty(top, top, 0)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=directory)


def _empty(directory: int, top: int, depth: int) -> None:
    with os.scandir(directory) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            _unlocked(os.unlink, name, directory)
            continue
        try:
            _unlocked(os.rmdir, name, directory)
            continue
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if depth >= _DEEP:
            unlock(name, directory)
            os.rename(name, f"deep-{os.urandom(8).hex()}", src_dir_fd=directory, dst_dir_fd=top)
            continue
        inner = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            _empty(inner, top, depth + 1)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=directory)


def _unlocked(remove: Callable[..., None], name: str, directory: int) -> None:
    """`remove` the name, also where a privileged container has made it or its directory immutable."""
    try:
        remove(name, dir_fd=directory)
    except PermissionError:
        unlocked = unlock(name, directory)
        if not unlock(".", directory) and not unlocked:
            raise
        remove(name, dir_fd=directory)


def copy_tree(source: str, target: str) -> None:
    """Make the missing directory `target` a full copy of `source`: owners, modes, times, xattrs, hard links, devices.

    Blocks are shared where the filesystem can.
    """
    os.mkdir(target, 0o700)
    from_top, to_top = os.open(source, _DIRECTORY), os.open(target, _DIRECTORY)
    try:
        _Copy(to_top).directory(from_top, to_top, "")
    finally:
        os.close(from_top)
        os.close(to_top)


class _Copy:
    def __init__(self, top: int) -> None:
        self._top = top
        self._links: dict[tuple[int, int], str] = {}

    def directory(self, source: int, target: int, path: str) -> None:
        with os.scandir(source) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        for name, status in found:
            inner = f"{path}/{name}" if path else name
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                from_inner = os.open(name, _DIRECTORY, dir_fd=source)
                try:
                    to_inner = os.open(name, _DIRECTORY, dir_fd=target)
                    try:
                        self.directory(from_inner, to_inner, inner)
                    finally:
                        os.close(to_inner)
                finally:
                    os.close(from_inner)
                continue
            if status.st_nlink > 1:
                first = self._links.setdefault((status.st_dev, status.st_ino), inner)
                if first != inner:
                    os.link(first, name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
                    continue
            _copy_file(name, status, source, target)
        _copy_status(source, target, os.fstat(source))


def _copy_file(name: str, status: os.stat_result, source: int, target: int) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            writing = os.open(name, flags, 0o600, dir_fd=target)
            try:
                copy_contents(reading, writing)
                _copy_status(reading, writing, status)
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif kind == stat.S_IFSOCK:
        return  # nothing can be behind it
    else:
        os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_status(source: int, target: int, status: os.stat_result) -> None:
    """Owner, xattrs, mode, times, in the order in which none undoes another."""
    os.fchown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def apply_changes(changes: str, target: str) -> None:
    """Apply a layer's tree (overlay's whiteouts and opaque marks) to the full tree `target`, emptying `changes`.

    Files are moved, not copied: hard links between them stay.
    """
    from_top, to_top = os.open(changes, _DIRECTORY), os.open(target, _DIRECTORY)
    try:
        _apply_directory(from_top, to_top)
    finally:
        os.close(from_top)
        os.close(to_top)


def _apply_directory(changes: int, target: int) -> None:
    own = os.fstat(changes)  # before moving things out of it changes its times
    if is_opaque(changes):
        for name in os.listdir(target):
            _remove_at(target, name)
    with os.scandir(changes) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    for name, status in found:
        if stat.S_ISDIR(status.st_mode):
            _apply_inner(changes, target, name)
            continue
        _remove_at(target, name)
        if not is_whiteout(status):
            os.rename(name, name, src_dir_fd=changes, dst_dir_fd=target)
    _replace_status(changes, target, own)


def _apply_inner(changes: int, target: int, name: str) -> None:
    try:
        there = os.stat(name, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        there = None
    if there is not None and not stat.S_ISDIR(there.st_mode):
        os.unlink(name, dir_fd=target)
        there = None
    if there is None:
        os.mkdir(name, 0o700, dir_fd=target)
    from_inner = os.open(name, _DIRECTORY, dir_fd=changes)
    try:
        to_inner = os.open(name, _DIRECTORY, dir_fd=target)
        try:
            _apply_directory(from_inner, to_inner)
        finally:
            os.close(to_inner)
    finally:
        os.close(from_inner)


def _replace_status(source: int, target: int, status: os.stat_result) -> None:
    for name in os.listxattr(target):
        os.removexattr(target, name)
    _copy_status(source, target, status)


def _remove_at(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        remove_at(directory, name)
