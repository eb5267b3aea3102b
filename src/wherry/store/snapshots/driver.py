"""Where layers and containers' writable layers lie on disk.

A driver keeps two kinds of thing: *layers*, committed file trees named by chainID, and *active* snapshots, the
writable layer of one container, named by the container's ID. It never mounts anything on the host: `rootfs`
gives a plain value that the container's runtime mounts in its own mount namespace.

Methods block (they are called in threads), are safe to call again after a crash in the middle, and leave nothing
half-made under a final name: work happens under `tmp-*` names and is renamed; `recover` deletes what a crash left
under such names. Of a power cut a layer is safe only after `sync`: whoever records that it exists calls that first,
and deletes layers of which there is no record before it uses the driver again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, NamedTuple, Protocol, TypedDict

from wherry.oci.digest import ChainID, DiffID


class OverlayRootfs(TypedDict):
    """An overlay mount. `lower` is ordered top to bottom, as overlayfs wants it. Paths are absolute."""

    type: str  # "overlay"
    lower: list[str]
    upper: str
    work: str
    options: list[str]


class BindRootfs(TypedDict):
    """A plain directory."""

    type: str  # "bind"
    source: str


Rootfs = OverlayRootfs | BindRootfs


class OwnTree(NamedTuple):
    """A writable layer beside what it was made of: `store.changes` compares them."""

    tree: str
    lower: list[str]
    """Trees of the layers below, topmost first."""
    is_full: bool
    """The tree is a full copy. Else it has changes only, in overlayfs's form."""


class AbsorbedLayer(NamedTuple):
    chain_id: ChainID
    diff_id: DiffID
    size: int


class SnapshotDriver(Protocol):
    """One storage driver. Constructed with its own directory, `DATA/<name>`, which it may create."""

    name: str

    def probe(self) -> None:
        """Raise Unsupported, saying why and what to do, where this host or filesystem cannot be used."""
        ...

    def recover(self) -> None:
        """Make the directories where missing, and delete what a crash left half-made. Once, before anything else."""
        ...

    def status(self) -> list[tuple[str, str]]:
        """The `DriverStatus` pairs of `/info`, with Docker's keys."""
        ...

    def has_layer(self, chain_id: ChainID) -> bool: ...

    def commit_layer(
        self,
        chain_id: ChainID,
        parent: ChainID | None,
        diff_id: DiffID,
        tar: BinaryIO,
        *,
        stop: "Stop | None" = None,
    ) -> int:
        """Unpack one uncompressed layer tar as `chain_id`, on top of `parent`; return its size in bytes.

        The digest of the bytes read is checked against `diff_id` before the layer gets its name (InvalidParameter
        otherwise). Already there: the tar is left unread.
        """
        ...

    def absorb_layer(
        self,
        parent: ChainID | None,
        tar: BinaryIO,
        *,
        hold: Callable[[ChainID], None],
        stop: "Stop | None" = None,
    ) -> AbsorbedLayer:
        """As `commit_layer`, of a tar whose diffID is what it turns out to be. `hold` is called with the chainID
        before the layer gets that name."""
        ...

    def sync(self) -> None:
        """Every layer committed so far is on the disk. Once for an image, not for each layer: it costs all that
        waits to be written on the whole filesystem."""
        ...

    def export_layer(self, chain_id: ChainID, tar: BinaryIO) -> None:
        """Write the layer's own change set as the very tar it was committed from (same bytes, same diffID).

        Raises Internal where the layer was changed on disk, which shows only when all is written.
        """
        ...

    def remove_layer(self, chain_id: ChainID) -> bool:
        """Delete the layer, unless a writable layer stands on it (False). True too when it is not there."""
        ...

    def layers(self) -> list[ChainID]: ...

    def layer_size(self, chain_id: ChainID) -> int:
        """What `commit_layer` returned. Raises NotFound."""
        ...

    def prepare(self, key: str, chain_ids: Sequence[ChainID], *, root_mode: int = 0o755) -> None:
        """Make the writable layer `key` on top of `chain_ids` (lowest first; may be empty), unless it is there.

        Raises NotFound where one of the layers is not there; from then on they cannot be removed.

        Not synced: after a power cut it may be gone, and with it nothing; prepare it again.
        """
        ...

    def rootfs(self, key: str) -> Rootfs:
        """Raises NotFound."""
        ...

    def own_tree(self, key: str) -> OwnTree:
        """What `key` changed can be seen from this. Raises NotFound."""
        ...

    def layers_below(self, key: str) -> list[ChainID]:
        """The layers that `key` cannot be without, lowest first."""
        ...

    def usage(self, key: str) -> int:
        """Bytes in the writable layer (`SizeRw`)."""
        ...

    def remove(self, key: str) -> None:
        """Nothing happens when it is not there."""
        ...

    def active(self) -> list[str]:
        """The keys of all writable layers."""
        ...

    def graph_data(self, key: str) -> Mapping[str, str]:
        """`GraphDriver.Data` of a container's inspect."""
        ...

    def layer_data(self, chain_id: ChainID) -> Mapping[str, str]:
        """`GraphDriver.Data` of an image's inspect, by its topmost layer."""
        ...


class Stop(Protocol):
    """Looked at between entries, so that a long unpack in a thread can be given up (threading.Event fits)."""

    def is_set(self) -> bool: ...
