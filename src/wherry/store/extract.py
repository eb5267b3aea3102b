"""Putting an archive's members into a directory that is in use: what `docker cp` and PUT archive do in a container.

Unlike a layer, the directory has things in it, and a container that changes them meanwhile. What is in a member's way
is removed first, unless both are directories; nothing means a whiteout here. The caller's own root must be the
container's: a symlink on the way to a parent is followed, as Docker does, and leads inside that root, whatever it is
swapped for. The last component is never followed.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO, Final

from wherry.errors import InvalidParameter
from wherry.linux.files import RESOLVE_NO_MAGICLINKS, open_below
from wherry.store.placing import OPEN_DIRECTORY, Placer, set_status, set_xattrs, split
from wherry.store.tar import DIRECTORY, Entry, Feed, TarReader
from wherry.store.trees import remove_at

_CHUNK: Final = 1 << 20


def extract(
    tar: BinaryIO, directory: int, *, place: str, merge_only: bool, owner: tuple[int, int] | None = None
) -> None:
    """Unpack the uncompressed `tar` into the open `directory`, which the container calls `place`.

    `merge_only`: refuse to put a directory where something else is, or something else where a directory is. `owner`:
    the uid and gid of all that is made, in place of the archive's. Raises InvalidParameter for a malformed archive
    and Internal where the disk is at fault; what was made by then stays. May change the working directory.
    """
    with Feed(tar) as feed:
        extractor = _Extractor(
            directory, TarReader(feed, _forget), place=place, merge_only=merge_only, owner=owner
        )
        try:
            extractor.run()
        finally:
            extractor.close()


def _forget(data: bytes) -> None:
    """No record is kept."""


class _Extractor(Placer):
    def __init__(
        self, root: int, reader: TarReader, *, place: str, merge_only: bool, owner: tuple[int, int] | None
    ) -> None:
        super().__init__(root, reader, None, f'"{place}"')
        self._directory = place
        self._merge_only = merge_only
        self._owner = owner

    def run(self) -> None:
        self._unpack_all("archive")
        self._set_times()

    def _unpack(self, entry: Entry) -> None:
        if self._retired:
            self._close_retired()
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        parent_name, name = split(entry.name, self._place)
        if not name:
            if entry.type == DIRECTORY:
                self._take_status(entry)
            return
        parent, parent_path = self._open.get(parent_name) or self._open_parent(parent_name)
        path = parent_path + b"/" + name if parent_path else name
        if self._merge_only:
            self._refuse_change_of_kind(entry, parent, name, path)
        self._make(entry, parent, name, path)

    def _take_status(self, entry: Entry) -> None:
        """The directory itself is in the archive (`.`)."""
        set_status(self._root, entry)
        self._times[b""] = entry.mtime_ns

    def _refuse_change_of_kind(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        """Docker's texts."""
        try:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        is_directory = stat.S_ISDIR(there.st_mode)
        if is_directory == (entry.type == DIRECTORY):
            return
        full = os.path.join(self._directory, os.fsdecode(path))
        if is_directory:
            raise InvalidParameter(
                f'cannot overwrite directory "{full}" with non-directory "{self._directory}"'
            )
        raise InvalidParameter(f'cannot overwrite non-directory "{full}" with directory "{self._directory}"')

    def _displace(self, parent: int, name: bytes, path: bytes) -> None:
        remove_at(parent, os.fsdecode(name))
        self._forget_open()

    def _set_node_xattrs(self, parent: int, name: bytes, xattrs: dict[bytes, bytes]) -> None:
        os.fchdir(parent)  # there is no /proc of ours in a container's root
        set_xattrs(os.fsdecode(name), xattrs)

    def _open_parent(self, name: bytes) -> tuple[int, bytes]:
        try:
            return self._remember_open(name, self._follow(self._root, name), name)
        except FileNotFoundError:
            pass
        above, _, last = name.rpartition(b"/")
        parent, parent_path = self._open.get(above) or self._open_parent(above)
        try:
            os.mkdir(last, 0o755, dir_fd=parent)
            os.chmod(last, 0o755, dir_fd=parent)
            uid, gid = self._owner or (0, 0)
            os.chown(last, uid, gid, dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            pass  # a symlink to nowhere: opening it says so
        path = parent_path + b"/" + last if parent_path else last
        return self._remember_open(name, self._follow(parent, last), path)

    def _follow(self, directory: int, name: bytes) -> int:
        """Open a directory, symlinks followed inside our own root."""
        try:
            return open_below(
                directory, os.fsdecode(name) or ".", OPEN_DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS
            )
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from exc
            raise
