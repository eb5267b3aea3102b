"""What drivers that keep directories have in common: names, temporary names, the small file beside a layer's tree.

ROOT/layers/HEX/{fs/, record.zst, layer.json, displaced/}     a layer, by the hex digits of its chainID
ROOT/containers/KEY/…                                         a writable layer
ROOT/{layers,containers}/tmp-*                                being made, or being deleted
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import BinaryIO, Final

import msgspec

from wherry.errors import Internal, InvalidParameter, NotFound
from wherry.linux.disk import spread, sync_filesystem
from wherry.linux.killpoint import killpoint
from wherry.oci.digest import ChainID, DiffID, chain_on
from wherry.store.record import write_tar
from wherry.store.snapshots.driver import AbsorbedLayer
from wherry.store.trees import remove_tree

_log = logging.getLogger(__name__)
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
_TEMPORARY: Final = "tmp-"
_LOWER_END: Final = "end\n"


class LayerFile(msgspec.Struct, frozen=True):
    """layer.json."""

    diff_id: DiffID
    parent: ChainID | None
    size: int


class LayerDirectories:
    """The directories `ROOT/layers` and `ROOT/containers` of one driver."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.layers = os.path.join(root, "layers")
        self.containers = os.path.join(root, "containers")

    def recover(self) -> None:
        """Make both, and delete what has a temporary name."""
        for directory in (self.root, self.layers, self.containers):
            os.makedirs(directory, mode=0o710, exist_ok=True)
        spread(self.layers)  # not the containers: those begin empty, and close together they cost less
        for directory in (self.layers, self.containers):
            for name in os.listdir(directory):
                if name.startswith(_TEMPORARY):
                    try:
                        remove_tree(os.path.join(directory, name))
                    except OSError as exc:  # it stays, which must not keep an engine from starting
                        _log.warning("cannot remove %s: %s", os.path.join(directory, name), exc)

    def layer_path(self, chain_id: ChainID) -> str:
        return os.path.join(self.layers, chain_id.removeprefix("sha256:"))

    def container_path(self, key: str) -> str:
        if not _KEY.fullmatch(key) or key.startswith(_TEMPORARY):
            raise InvalidParameter(f"invalid snapshot key {key!r}")
        return os.path.join(self.containers, key)

    def layer_file(self, chain_id: ChainID) -> LayerFile:
        """Raises NotFound."""
        path = os.path.join(self.layer_path(chain_id), "layer.json")
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(), type=LayerFile)
        except FileNotFoundError:
            raise NotFound(f"layer {chain_id} does not exist") from None
        except msgspec.MsgspecError as exc:
            raise Internal(f"{path} is damaged: {exc}") from exc

    def below(self, chain_id: ChainID | None) -> list[ChainID]:
        """`chain_id` and the layers it lies on, topmost first. Raises NotFound where one is missing."""
        found: list[ChainID] = []
        while chain_id is not None:
            found.append(chain_id)
            chain_id = self.layer_file(chain_id).parent
        return found

    def make_layer(
        self, fill: Callable[[str], LayerFile], hold: Callable[[ChainID], None] | None = None
    ) -> AbsorbedLayer:
        """Make a layer: `fill` writes into a temporary directory, which then gets its name. `hold` is told it before."""
        # A name of its own: a thread that was given up may still be at work on the same layer.
        temporary = os.path.join(self.layers, f"{_TEMPORARY}{os.urandom(8).hex()}")
        os.mkdir(temporary, 0o710)
        killpoint("layer:directory-made")
        try:
            made = fill(temporary)
            killpoint("layer:unpacked")
            with open(os.path.join(temporary, "layer.json"), "xb") as file:
                file.write(msgspec.json.encode(made))
            killpoint("layer:described")
            chain_id = chain_on(made.parent, made.diff_id)
            if hold is not None:
                hold(chain_id)
            _rename_unless_there(temporary, self.layer_path(chain_id))
            killpoint("layer:renamed")
        finally:
            remove_tree(temporary)
        return AbsorbedLayer(chain_id, made.diff_id, made.size)

    def sync(self) -> None:
        directory = os.open(self.layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_filesystem(directory)
        finally:
            os.close(directory)

    def export_layer(self, chain_id: ChainID, tar: BinaryIO, tree: str = "fs") -> None:
        expected = self.layer_file(chain_id).diff_id
        path = self.layer_path(chain_id)
        found = write_tar(
            os.path.join(path, "record.zst"), os.path.join(path, tree), os.path.join(path, "displaced"), tar
        )
        if found != expected:
            raise Internal(f"layer {chain_id} was changed on disk: its tar would be {found}, not {expected}")

    def layer_ids(self) -> list[ChainID]:
        return [
            ChainID(f"sha256:{name}") for name in os.listdir(self.layers) if not name.startswith(_TEMPORARY)
        ]

    def keys(self) -> list[str]:
        return [name for name in os.listdir(self.containers) if not name.startswith(_TEMPORARY)]

    def make_container(
        self, key: str, fill: Callable[[str], None], give_name: Callable[[str, str], None]
    ) -> None:
        """Make a writable layer that is not there.

        `fill` writes into a temporary directory, to which `give_name` (os.rename, or more) then gives its name.
        """
        path = self.container_path(key)
        temporary = os.path.join(self.containers, _TEMPORARY + key)
        remove_tree(temporary)
        os.mkdir(temporary, 0o710)
        killpoint("snapshot:directory-made")
        try:
            fill(temporary)
            killpoint("snapshot:filled")
            give_name(temporary, path)
            killpoint("snapshot:renamed")
        except BaseException:
            remove_tree(temporary)
            raise

    @staticmethod
    def write_lower(directory: str, chain_ids: Sequence[ChainID]) -> None:
        """Note in a writable layer's directory which layers it stands on: a line each, lowest first, then `end`."""
        with open(os.path.join(directory, "lower"), "w", encoding="ascii") as file:
            file.write("".join(f"{chain_id}\n" for chain_id in chain_ids) + _LOWER_END)

    def lower_of(self, key: str) -> list[ChainID] | None:
        """What `write_lower` noted; None where there is nothing, or the file did not reach the disk."""
        try:
            with open(os.path.join(self.container_path(key), "lower"), encoding="ascii") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        if not text.endswith(_LOWER_END):
            return None
        return [ChainID(line) for line in text.removesuffix(_LOWER_END).split()]

    def remove(self, path: str) -> None:
        """Delete a layer or container: it loses its name first, so that a crash leaves no half of it."""
        temporary = self.take_name(path)
        if temporary is not None:
            remove_tree(temporary)

    def take_name(self, path: str) -> str | None:
        """Give a layer or container a temporary name, which is returned; None where it is not there."""
        parent, name = os.path.split(path)
        temporary = os.path.join(parent, f"{_TEMPORARY}gone-{name}")
        try:
            os.rename(path, temporary)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove_tree(temporary)  # a removal that failed half-way
            os.rename(path, temporary)
        killpoint("remove-tree:renamed")
        return temporary


class DirectoryDriver:
    """The part of a SnapshotDriver that is the same for all that keep directories."""

    def __init__(self, root: str) -> None:
        self._directories = LayerDirectories(root)

    def recover(self) -> None:
        self._directories.recover()

    def has_layer(self, chain_id: ChainID) -> bool:
        return os.path.isdir(self._directories.layer_path(chain_id))

    def layer_size(self, chain_id: ChainID) -> int:
        return self._directories.layer_file(chain_id).size

    def layers(self) -> list[ChainID]:
        return self._directories.layer_ids()

    def export_layer(self, chain_id: ChainID, tar: BinaryIO) -> None:
        self._directories.export_layer(chain_id, tar)

    def sync(self) -> None:
        self._directories.sync()

    def active(self) -> list[str]:
        return self._directories.keys()


def _rename_unless_there(temporary: str, path: str) -> None:
    try:
        os.rename(temporary, path)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
