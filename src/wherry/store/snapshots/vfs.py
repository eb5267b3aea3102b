"""vfs: every layer and every container a full copy. Slow and large, and works on any filesystem.

A layer is unpacked beside a copy of its parent and then applied to it, so both drivers give the same trees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from wherry.errors import NotFound
from wherry.oci.digest import ChainID, DiffID
from wherry.store.layers import absorb_layer, unpack_layer
from wherry.store.snapshots.directory import DirectoryDriver, LayerFile
from wherry.store.snapshots.driver import AbsorbedLayer, BindRootfs, OwnTree, Stop
from wherry.store.trees import apply_changes, copy_tree, remove_tree, tree_size


class Vfs(DirectoryDriver):
    """`Vfs(DATA/vfs)`."""

    name = "vfs"

    def probe(self) -> None:
        pass

    def status(self) -> list[tuple[str, str]]:
        return []

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
        lower = [] if parent is None else [self._tree(parent)]

        def fill(temporary: str) -> LayerFile:
            size = unpack_layer(tar, temporary, diff_id, lower, stop=stop)
            self._put_on(parent, temporary)
            return LayerFile(diff_id, parent, size)

        return self._directories.make_layer(fill).size

    def absorb_layer(
        self,
        parent: ChainID | None,
        tar: BinaryIO,
        *,
        hold: Callable[[ChainID], None],
        stop: Stop | None = None,
    ) -> AbsorbedLayer:
        lower = [] if parent is None else [self._tree(parent)]

        def fill(temporary: str) -> LayerFile:
            size, diff_id = absorb_layer(tar, temporary, lower, stop=stop)
            self._put_on(parent, temporary)
            return LayerFile(diff_id, parent, size)

        return self._directories.make_layer(fill, hold)

    def _put_on(self, parent: ChainID | None, directory: str) -> None:
        """Make the tree of changes in `directory` a full one."""
        if parent is None:
            return
        changes, tree = os.path.join(directory, "changes"), os.path.join(directory, "fs")
        os.rename(tree, changes)
        copy_tree(self._tree(parent), tree)
        apply_changes(changes, tree)
        remove_tree(changes)

    def remove_layer(self, chain_id: ChainID) -> bool:
        self._directories.remove(self._directories.layer_path(chain_id))
        return True

    def prepare(self, key: str, chain_ids: Sequence[ChainID], *, root_mode: int = 0o755) -> None:
        if os.path.isdir(self._directories.container_path(key)):
            return

        def fill(temporary: str) -> None:
            tree = os.path.join(temporary, "fs")
            if chain_ids:
                self._copy_layer(chain_ids[-1], tree)
            else:
                os.mkdir(tree)
            os.chmod(tree, root_mode)
            self._directories.write_lower(temporary, chain_ids)

        self._directories.make_container(key, fill, os.rename)

    def rootfs(self, key: str) -> BindRootfs:
        path = os.path.join(self._directories.container_path(key), "fs")
        if not os.path.isdir(path):
            raise NotFound(f"no writable layer {key} in the storage driver vfs")
        return {"type": "bind", "source": path}

    def own_tree(self, key: str) -> OwnTree:
        tree = self.rootfs(key)["source"]
        below = self._directories.lower_of(key)
        if below is None:
            raise NotFound(f"the writable layer {key} does not say which layers it was made of")
        return OwnTree(tree, [self._tree(below[-1])] if below else [], True)

    def layers_below(self, key: str) -> list[ChainID]:
        return []

    def usage(self, key: str) -> int:
        return tree_size(self.rootfs(key)["source"])

    def remove(self, key: str) -> None:
        self._directories.remove(self._directories.container_path(key))

    def graph_data(self, key: str) -> Mapping[str, str]:
        return {}

    def layer_data(self, chain_id: ChainID) -> Mapping[str, str]:
        return {}

    def _copy_layer(self, chain_id: ChainID, tree: str) -> None:
        """Copy a layer that may be removed meanwhile: then the copy may be a part of it only, and is refused."""
        try:
            copy_tree(self._tree(chain_id), tree)
            is_whole = self.has_layer(chain_id)  # a removal takes its name before anything else
        except FileNotFoundError:
            is_whole = False
        if not is_whole:
            raise NotFound(f"layer {chain_id} does not exist")

    def _tree(self, chain_id: ChainID) -> str:
        return os.path.join(self._directories.layer_path(chain_id), "fs")
