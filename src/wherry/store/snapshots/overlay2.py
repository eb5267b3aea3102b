"""overlay2: each layer unpacked into a directory of its own, stacked by overlayfs; one upper directory a container.

Each layer has its own change set only, in overlayfs's form, so layers can be shared and exported as they are.
`containers/KEY/{upper, work, lower}`; `lower` lists the chainIDs below, lowest first, a line each, then `end`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, Final

from wherry.errors import NotFound, Unsupported
from wherry.linux.disk import has_file_types
from wherry.linux.files import filesystem_type
from wherry.linux.mounts import new_filesystem
from wherry.oci.digest import ChainID, DiffID
from wherry.store.layers import absorb_layer, unpack_layer
from wherry.store.snapshots.directory import DirectoryDriver, LayerFile
from wherry.store.snapshots.driver import AbsorbedLayer, OverlayRootfs, OwnTree, Stop
from wherry.store.trees import remove_tree, tree_size

# What a user of the host's kernel may have switched on by default must not change what an upper directory means:
# it is read as a plain change set when a container is committed or compared.
_OPTIONS: Final = ("index=off", "redirect_dir=off", "metacopy=off")

_FILESYSTEMS: Final = {
    0xEF53: "extfs",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x2FC12FC1: "zfs",
    0x794C7630: "overlayfs",
    0x6969: "nfs",
    0xF2F52010: "f2fs",
    0x61756673: "aufs",
    0xF15F: "ecryptfs",
    0x65735546: "fuse",
    0x858458F6: "ramfs",
    0xCA451A4E: "bcachefs",
}
"""f_type → the name Docker prints."""
_CANNOT_HOLD_UPPER: Final = ("overlayfs", "nfs", "ecryptfs", "aufs")


class Overlay2(DirectoryDriver):
    """`Overlay2(DATA/overlay2)`."""

    name = "overlay2"

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._root = root
        # Between looking whether layers are there and standing on them, none must go; and the other way round.
        self._guard = threading.Lock()
        self._below: dict[str, list[ChainID]] = {}
        """What `lower` says, of the writable layers asked about so far."""

    def probe(self) -> None:
        os.makedirs(self._root, mode=0o710, exist_ok=True)
        backing = self._backing()
        if backing in _CANNOT_HOLD_UPPER:
            raise Unsupported(
                f"overlay2: {self._root} lies on {backing}, which cannot hold an overlay's upper directory:"
                ' use another data root, or the storage driver "vfs"'
            )
        trial = os.path.join(self._root, "tmp-probe")
        remove_tree(trial)
        try:
            for name in ("lower", "upper", "work"):
                os.makedirs(os.path.join(trial, name))
            if not _has_types(trial):
                raise Unsupported(
                    f"overlay2: the filesystem of {self._root} does not support d_type (xfs: format it with ftype=1)"
                )
            os.close(
                new_filesystem(
                    "overlay",
                    [
                        ("lowerdir", f"{trial}/lower"),
                        ("upperdir", f"{trial}/upper"),
                        ("workdir", f"{trial}/work"),
                        *((key, value) for key, _, value in (option.partition("=") for option in _OPTIONS)),
                    ],
                )
            )
        except OSError as exc:
            raise Unsupported(f'overlay2: cannot mount an overlay in {self._root}: {exc}: use "vfs"') from exc
        finally:
            remove_tree(trial)

    def status(self) -> list[tuple[str, str]]:
        return [
            ("Backing Filesystem", self._backing()),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        ]

    def commit_layer(
        self,
        chain_id: ChainID,
        parent: ChainID | None,
        diff_id: DiffID,
        tar: BinaryIO,
        *,
        stop: Stop | None = None,
    ) -> int:
        if self.has_layer(chain_id):
            return self.layer_size(chain_id)
        lower = [self._tree(below) for below in self._directories.below(parent)]

        def fill(temporary: str) -> LayerFile:
            return LayerFile(diff_id, parent, unpack_layer(tar, temporary, diff_id, lower, stop=stop))

        return self._directories.make_layer(fill).size

    def absorb_layer(
        self,
        parent: ChainID | None,
        tar: BinaryIO,
        *,
        hold: Callable[[ChainID], None],
        stop: Stop | None = None,
    ) -> AbsorbedLayer:
        lower = [self._tree(below) for below in self._directories.below(parent)]

        def fill(temporary: str) -> LayerFile:
            size, diff_id = absorb_layer(tar, temporary, lower, stop=stop)
            return LayerFile(diff_id, parent, size)

        return self._directories.make_layer(fill, hold)

    def remove_layer(self, chain_id: ChainID) -> bool:
        with self._guard:
            if any(chain_id in (self._lower_of(key) or ()) for key in self.active()):
                return False
            gone = self._directories.take_name(self._directories.layer_path(chain_id))
        if gone is not None:
            remove_tree(gone)
        return True

    def prepare(self, key: str, chain_ids: Sequence[ChainID], *, root_mode: int = 0o755) -> None:
        path = self._directories.container_path(key)
        if os.path.isdir(path):
            if self._lower_of(key) is None:  # a power cut took its contents
                self._directories.write_lower(path, chain_ids)
            return

        def fill(temporary: str) -> None:
            upper = os.path.join(temporary, "upper")
            os.mkdir(upper)
            os.chmod(upper, root_mode)
            os.mkdir(os.path.join(temporary, "work"), 0o700)
            self._directories.write_lower(temporary, chain_ids)

        def give_name(temporary: str, name: str) -> None:
            with self._guard:
                for chain_id in chain_ids:
                    if not self.has_layer(chain_id):
                        raise NotFound(f"layer {chain_id} does not exist")
                os.rename(temporary, name)

        self._directories.make_container(key, fill, give_name)

    def rootfs(self, key: str) -> OverlayRootfs:
        path = self._directories.container_path(key)
        lower = [self._tree(chain_id) for chain_id in reversed(self.layers_below(key))]
        return {
            "type": "overlay",
            "lower": lower or [self._nothing()],
            "upper": os.path.join(path, "upper"),
            "work": os.path.join(path, "work"),
            "options": list(_OPTIONS),
        }

    def own_tree(self, key: str) -> OwnTree:
        rootfs = self.rootfs(key)
        return OwnTree(rootfs["upper"], rootfs["lower"], False)

    def layers_below(self, key: str) -> list[ChainID]:
        found = self._lower_of(key)
        if found is None:
            raise NotFound(f"no writable layer {key} in the storage driver overlay2")
        return list(found)

    def usage(self, key: str) -> int:
        return tree_size(os.path.join(self._directories.container_path(key), "upper"))

    def remove(self, key: str) -> None:
        self._directories.remove(self._directories.container_path(key))
        self._below.pop(key, None)

    def graph_data(self, key: str) -> Mapping[str, str]:
        rootfs = self.rootfs(key)
        path = self._directories.container_path(key)
        return {
            "LowerDir": ":".join(rootfs["lower"]),
            "MergedDir": os.path.join(
                path, "merged"
            ),  # as Docker names it; nothing is ever mounted on the host
            "UpperDir": rootfs["upper"],
            "WorkDir": rootfs["work"],
        }

    def layer_data(self, chain_id: ChainID) -> Mapping[str, str]:
        path = self._directories.layer_path(chain_id)
        below = [self._tree(lower) for lower in self._directories.below(chain_id)[1:]]
        return {
            **({"LowerDir": ":".join(below)} if below else {}),
            "MergedDir": os.path.join(path, "merged"),
            "UpperDir": self._tree(chain_id),
            "WorkDir": os.path.join(path, "work"),
        }

    def _tree(self, chain_id: ChainID) -> str:
        return os.path.join(self._directories.layer_path(chain_id), "fs")

    def _lower_of(self, key: str) -> list[ChainID] | None:
        """The layers below; None where there is no such snapshot, or the file did not reach the disk."""
        found = self._below.get(key) or self._directories.lower_of(key)
        if found is not None:
            self._below[key] = found
        return found

    def _nothing(self) -> str:
        """An empty directory: an overlay needs at least one lower one."""
        path = os.path.join(self._root, "empty")
        os.makedirs(path, mode=0o755, exist_ok=True)
        return path

    def _backing(self) -> str:
        directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kind = filesystem_type(directory)
        finally:
            os.close(directory)
        return _FILESYSTEMS.get(kind & 0xFFFFFFFF, "<unknown>")


def _has_types(path: str) -> bool:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return has_file_types(directory)
    finally:
        os.close(directory)
