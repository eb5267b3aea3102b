"""What a layer hides of the layers below it: AUFS's marks in the archive, overlayfs's in the tree.

A whiteout speaks of lower layers only, wherever it stands in the archive (image-spec layer.md), so all of them are
made when the rest of the layer is there. One that hides nothing must not be made at all: overlayfs does not filter
whiteouts out of a directory that only one layer has, and shows them as broken names.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from wherry.errors import InvalidParameter
from wherry.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_below
from wherry.store.trees import OPAQUE, LayerStack

PREFIX: Final = b".wh."
_OPAQUE_MARK: Final = b".wh..wh..opq"
_AUFS_OWN: Final = b".wh..wh."
_STRICT: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Whiteouts:
    """Collects what one layer hides. Paths are clean, relative to its root and free of symlinks."""

    def __init__(self) -> None:
        self._hidden: dict[bytes, None] = {}
        self._opaque: dict[bytes, None] = {}

    def note(self, parent: bytes, name: bytes) -> None:
        """Take the member `name`, which begins with `.wh.`, of the directory `parent`."""
        if name == _OPAQUE_MARK:
            self._opaque[parent] = None
            return
        if name.startswith(_AUFS_OWN):
            return  # what AUFS kept for itself: hard-linked files, orphans
        hidden = name[len(PREFIX) :]
        if hidden in (b"", b".", b".."):
            raise InvalidParameter(f"invalid whiteout {_show(name)}")
        self.hide(parent + b"/" + hidden if parent else hidden)

    def hide(self, path: bytes) -> None:
        """Hide what lower layers have at `path`."""
        self._hidden[path] = None

    def make(self, root: int, lower: LayerStack) -> None:
        """Make overlayfs's marks in the tree below `root`."""
        if b"" in self._opaque:
            self._hide_all(lower)
        missing: list[bytes] = []
        for path in self._hidden:
            found = _status(root, path)
            if found is None:
                missing.append(path)
            elif stat.S_ISDIR(found.st_mode):
                self._opaque[path] = None  # this layer has a new one in its place
        for path in self._opaque:
            if path:
                _set_opaque(root, path)
        for path in missing:
            if not self._is_below_opaque(path) and lower.find(path) is not None:
                _make_whiteout(root, path)

    def _hide_all(self, lower: LayerStack) -> None:
        """overlayfs does not look for the mark on the root: hide each thing there by itself."""
        for name in lower.names():
            self.hide(name)

    def _is_below_opaque(self, path: bytes) -> bool:
        end = path.rfind(b"/")
        while end > 0:
            if path[:end] in self._opaque:
                return True
            end = path.rfind(b"/", 0, end)
        return False


def is_aufs_own(parent: bytes) -> bool:
    """Whether the directory is AUFS's own, whose members are passed over.

    Raises InvalidParameter for one that is a whiteout: nothing can be in that.
    """
    for part in parent.split(b"/"):
        if part.startswith(_AUFS_OWN):
            return True
        if part.startswith(PREFIX):
            raise InvalidParameter(f"invalid whiteout {_show(part)}: it is a directory with something in it")
    return False


def _open_parent(root: int, path: bytes) -> int:
    return open_below(root, os.fsdecode(os.path.dirname(path)) or ".", _DIRECTORY, resolve=_STRICT)


def _status(root: int, path: bytes) -> os.stat_result | None:
    try:
        parent = _open_parent(root, path)
    except OSError as exc:
        if exc.errno in _GONE:
            return None
        raise
    try:
        return os.stat(os.path.basename(path), dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    finally:
        os.close(parent)


def _set_opaque(root: int, path: bytes) -> None:
    try:
        directory = open_below(root, os.fsdecode(path), _DIRECTORY, resolve=_STRICT)
    except OSError as exc:
        if exc.errno in _GONE:
            return  # a later member took the directory's place
        raise
    try:
        os.setxattr(directory, OPAQUE, b"y")
    finally:
        os.close(directory)


def _make_whiteout(root: int, path: bytes) -> None:
    try:
        parent = _open_parent(root, path)
    except OSError as exc:
        if exc.errno in _GONE:
            return  # what took the parent's place hides it too
        raise
    try:
        os.mknod(os.path.basename(path), stat.S_IFCHR, 0, dir_fd=parent)
    finally:
        os.close(parent)


def _show(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))
