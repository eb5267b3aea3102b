"""Names in a container as Docker understands them: cleaned first, symlinks followed inside the root afterwards."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import Final

from wherry.errors import InvalidParameter, NotFound
from wherry.linux.files import open_below

_MAX_LINKS: Final = 255
_GO_TYPES: Final = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS: Final = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class Place:
    """A path that a client gave. `is_inside`: it ends in `/` or `/.`, which asks for what a symlink leads to."""

    def __init__(self, text: str) -> None:
        self.text = text
        clean = posixpath.normpath("/" + text)
        self.clean = "/" + clean.lstrip("/")
        ends_in_dot = text.endswith("/.") or text == "."
        self.is_inside = text.endswith("/") or ends_in_dot
        self.name = "/" if self.clean == "/" else "." if ends_in_dot else posixpath.basename(self.clean)
        """What the last component is called in an archive, and by stat."""

    def open(self, root: int) -> int:
        """An O_PATH descriptor of what is there. Raises NotFound (the caller knows the text), InvalidParameter."""
        try:
            if not self.is_inside:
                return open_below(root, self.clean, os.O_PATH | os.O_NOFOLLOW)
            found = open_below(root, self.clean, os.O_PATH)
        except OSError as exc:
            raise explained(exc, self.text) from exc
        if not stat.S_ISDIR(os.fstat(found).st_mode):
            os.close(found)
            raise InvalidParameter(f"lstat {self.text}: not a directory")
        return found

    def open_directory(self, root: int) -> int:
        """The directory something is to be put into, symlinks followed."""
        try:
            return open_below(root, self.clean, os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError:
            raise InvalidParameter("extraction point is not a directory") from None  # Docker's text
        except OSError as exc:
            raise explained(exc, self.text) from exc


def explained(error: OSError, path: str) -> Exception:
    """What a look-up's failure means to whoever asked for `path`."""
    if error.errno == errno.ENOENT:
        return NotFound(path)
    if error.errno == errno.ELOOP:
        return InvalidParameter(f"too many links in {path}")
    if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
        return InvalidParameter(f"lstat {path}: {(os.strerror(error.errno or 0)).lower()}")
    return error


def follow(root: int, path: str) -> str:
    """Where the symlink at `path` leads in the end, as the container would call it; as far as that exists."""
    todo = [part for part in path.split("/") if part][::-1]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part in (".", ""):
            continue
        if part == "..":
            del done[-1:]
            continue
        try:
            found = open_below(root, "/".join(["", *done, part]), os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            done.append(part)
            continue
        try:
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                done.append(part)
                continue
            target = os.readlink("", dir_fd=found)
        finally:
            os.close(found)
        links += 1
        if links > _MAX_LINKS:
            raise InvalidParameter(f"too many links in {path}")
        if target.startswith("/"):
            done.clear()
        todo += [each for each in target.split("/") if each][::-1]
    return "/" + "/".join(done)


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    result = mode & 0o777 | _GO_TYPES.get(stat.S_IFMT(mode), 0)
    for bit, go_bit in _GO_BITS.items():
        if mode & bit:
            result |= go_bit
    return result
