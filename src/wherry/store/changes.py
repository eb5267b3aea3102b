"""What a container changed in its root filesystem: `docker diff`, and the layer that `docker commit` makes.

Docker's rules: a directory is changed when its mode or owner is, or something in it; any other file when its mode,
owner, device, size, time or capabilities are. So a file that was only opened for writing, or given back its mode, is
not in the list although overlayfs has copied it up. Mount points that the engine makes in every container, and Docker
in a layer of its own below the container's, count as the image's.

The trees are hostile, and may be in use: by descriptor, no symlink followed; what vanishes meanwhile is left out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Sequence
from typing import Final, NamedTuple

from wherry.store.pack import Packer
from wherry.store.trees import is_opaque, is_whiteout

MODIFIED, ADDED, DELETED = 0, 1, 2
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_CAPABILITY: Final = "security.capability"

MOUNT_POINTS: Final = frozenset(
    (
        b"/.dockerenv",
        b"/dev",
        b"/dev/console",
        b"/dev/mqueue",
        b"/dev/pts",
        b"/dev/shm",
        b"/etc",
        b"/etc/hostname",
        b"/etc/hosts",
        b"/etc/mtab",
        b"/etc/resolv.conf",
        b"/proc",
        b"/sys",
    )
)


class Change(NamedTuple):
    """`directory` is an open descriptor of the parent in the container's tree, good until the next one is taken."""

    kind: int
    path: bytes
    """Absolute, in the container."""
    directory: int
    status: os.stat_result | None
    """None for what is deleted."""


def changes(tree: int, lower: Sequence[int], *, is_full: bool) -> Generator[Change]:
    """Every change that the open directory `tree` makes to the layers `lower`, topmost first; parents before children.

    `is_full`: the tree is a copy of everything, with nothing in it where something was deleted. Else it is the upper
    directory of an overlay.
    """
    return _Walk(is_full).directory(tree, list(lower), b"", _Parent(tree, b"", None, is_told=True))


def pack_changes(tree: int, lower: Sequence[int], out: int, *, is_full: bool) -> None:
    """Write the changes as a layer's tar (image-spec layer.md), with whiteouts."""
    packer = Packer(out)
    for change in changes(tree, lower, is_full=is_full):
        name = change.path[1:]
        parent, _, last = name.rpartition(b"/")
        if change.status is None:
            packer.empty((parent + b"/" if parent else b"") + b".wh." + last, mtime_s=0)
            continue
        try:
            if stat.S_ISDIR(change.status.st_mode):
                inner = os.open(last, _DIRECTORY, dir_fd=change.directory)
                try:
                    packer.directory(inner, name)
                finally:
                    os.close(inner)
            else:
                packer.member(change.directory, last, name, change.status)
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
    packer.end()


class _Parent:
    """A directory that is told of only when something in it changed."""

    def __init__(
        self,
        directory: int,
        path: bytes,
        status: os.stat_result | None,
        *,
        is_told: bool,
        above: _Parent | None = None,
    ) -> None:
        self.directory = directory
        self.path = path
        self.status = status
        self.is_told = is_told
        self.above = above

    def tell(self) -> Generator[Change]:
        if self.is_told:
            return
        self.is_told = True
        if self.above is not None:
            yield from self.above.tell()
            yield Change(MODIFIED, self.path, self.above.directory, self.status)


class _Walk:
    def __init__(self, is_full: bool) -> None:
        self._is_full = is_full

    def directory(self, tree: int, lower: list[int], path: bytes, parent: _Parent) -> Generator[Change]:
        """Changes in one directory; `lower`: what the layers below have at its place."""
        names = sorted(map(os.fsencode, os.listdir(tree)))
        for name in names:
            try:
                found = os.stat(name, dir_fd=tree, follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield from self._entry(tree, lower, name, path + b"/" + name, found, parent)
        if lower and (self._is_full or is_opaque(tree)):
            there = set(names)
            for name in sorted(_names(lower) - there):
                yield from parent.tell()
                yield Change(DELETED, path + b"/" + name, tree, None)

    def _entry(
        self, tree: int, lower: list[int], name: bytes, path: bytes, found: os.stat_result, parent: _Parent
    ) -> Generator[Change]:
        before = _find(lower, name)
        if is_whiteout(found) and not self._is_full:
            if before is not None:
                yield from parent.tell()
                yield Change(DELETED, path, tree, None)
            return
        is_directory = stat.S_ISDIR(found.st_mode)
        if before is None:
            kind = None if path in MOUNT_POINTS and (is_directory or not _has_content(found)) else ADDED
        else:
            kind = MODIFIED if _differs(tree, lower, name, before, found) else None
        if kind is not None:
            yield from parent.tell()
            yield Change(kind, path, tree, found)
        if not is_directory:
            return
        try:
            inner = os.open(name, _DIRECTORY, dir_fd=tree)
        except OSError as exc:
            if exc.errno in _GONE:
                return
            raise
        below: list[int] = []
        try:
            if before is not None and stat.S_ISDIR(before.st_mode):
                below = _open_below(lower, name)
            told = _Parent(inner, path, found, is_told=kind is not None, above=parent)
            yield from self.directory(inner, below, path, told)
        finally:
            os.close(inner)
            for each in below:
                os.close(each)


def _has_content(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _find(lower: list[int], name: bytes) -> os.stat_result | None:
    for directory in lower:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as exc:
            if exc.errno in _GONE:
                continue
            raise
        return None if is_whiteout(found) else found
    return None


def _names(lower: list[int]) -> set[bytes]:
    """What the layers below show together."""
    names: set[bytes] = set()
    hidden: set[bytes] = set()
    for directory in lower:
        for name in map(os.fsencode, os.listdir(directory)):
            if name not in names and name not in hidden:
                is_hidden = is_whiteout(os.stat(name, dir_fd=directory, follow_symlinks=False))
                (hidden if is_hidden else names).add(name)
    return names


def _open_below(lower: list[int], name: bytes) -> list[int]:
    """The directory `name` in each layer that has a part in it."""
    opened: list[int] = []
    try:
        for directory in lower:
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=directory)
            except FileNotFoundError:
                continue
            except OSError as exc:
                if exc.errno in _GONE:
                    break  # a file, a symlink or a whiteout hides what is below
                raise
            opened.append(inner)
            if is_opaque(inner):
                break
    except BaseException:
        for each in opened:
            os.close(each)
        raise
    return opened


def _differs(tree: int, lower: list[int], name: bytes, before: os.stat_result, now: os.stat_result) -> bool:
    if (before.st_mode, before.st_uid, before.st_gid) != (now.st_mode, now.st_uid, now.st_gid):
        return True
    if stat.S_ISDIR(now.st_mode):
        return False
    if before.st_rdev != now.st_rdev or before.st_size != now.st_size or not _same_time(before, now):
        return True
    return stat.S_ISREG(now.st_mode) and _capability(tree, name) != _lower_capability(lower, name)


def _same_time(before: os.stat_result, now: os.stat_result) -> bool:
    """Layers may hold whole seconds only: a fraction of zero fits any."""
    old, new = divmod(before.st_mtime_ns, 10**9), divmod(now.st_mtime_ns, 10**9)
    return old[0] == new[0] and (old[1] == new[1] or not old[1] or not new[1])


def _capability(directory: int, name: bytes) -> bytes:
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return b""
    try:
        return os.getxattr(descriptor, _CAPABILITY)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _lower_capability(lower: list[int], name: bytes) -> bytes:
    for directory in lower:
        try:
            os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            continue
        return _capability(directory, name)
    return b""
