"""Which images there are, what they are made of and what they are called: the tables image, image_layer, layer, tag.

Config and manifest bytes lie in the blob store; rows hold what is searched and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wherry.oci.digest import ChainID, DiffID, Digest
from wherry.oci.image import Descriptor
from wherry.oci.reference import Reference
from wherry.store.database import Database


class ImageLayer(msgspec.Struct, frozen=True):
    diff_id: DiffID
    chain_id: ChainID
    blob: Descriptor | None
    """What it was pulled as; the blob may no longer be stored."""


class Image(msgspec.Struct, frozen=True):
    """A row of `image` with its layers, lowest first."""

    id: Digest
    manifest: Digest | None
    media_type: str | None
    created_ns: int
    stored_ns: int
    size: int
    last_tagged_ns: int
    layers: tuple[ImageLayer, ...]


class Tag(msgspec.Struct, frozen=True):
    """A reference (with a tag, or with a digest alone) that names an image."""

    reference: Reference
    image_id: Digest
    digest: Digest | None


class Images:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, text: str) -> Image | None:
        """What Docker would find for `text`: a full ID, a reference, `repository:shortid`, a unique ID prefix.

        None when there is none, or an ID prefix fits several. Raises InvalidParameter for no reference at all.
        """
        raise NotImplementedError

    async def get(self, text: str) -> Image:
        """As `find`; raises NotFound with Docker's `No such image: busybox:latest`."""
        raise NotImplementedError

    async def get_by_id(self, image_id: Digest) -> Image:
        """By full ID. Raises NotFound."""
        raise NotImplementedError

    async def all(self) -> list[Image]:
        """Every image, newest first."""
        raise NotImplementedError

    async def tag(
        self, reference: Reference, image_id: Digest, digest: Digest | None = None
    ) -> Digest | None:
        """Make `reference` name the image, durably; the ID of the image it named before, if another.

        `digest` is what it resolved to when pulled (manifest or index). A reference without a tag gets `latest`.
        """
        raise NotImplementedError

    async def untag(self, reference: Reference) -> Digest | None:
        """Forget the name; the ID of the image that had it."""
        raise NotImplementedError

    async def resolve(self, reference: Reference) -> Digest | None:
        """The ID of the image that exactly this name (`latest` where there is no tag) stands for."""
        raise NotImplementedError

    async def tags(self) -> list[Tag]:
        """Every tag and digest reference, sorted."""
        raise NotImplementedError

    async def tags_of(self, image_id: Digest) -> list[Reference]:
        """`RepoTags`: references with a tag."""
        raise NotImplementedError

    async def digests_of(self, image_id: Digest) -> list[Reference]:
        """`RepoDigests`: references by digest."""
        raise NotImplementedError

    async def remove(self, image_id: Digest) -> None:
        """Forget the image and its tags, durably. Its blobs and layers: see `Store.remove_image`, which calls this."""
        raise NotImplementedError

    async def unreferenced_layers(self, chain_ids: Sequence[ChainID] | None = None) -> list[ChainID]:
        """Those of `chain_ids` (None: all rows of `layer`) that no image is made of, highest first."""
        raise NotImplementedError

    async def layer_sizes(self) -> dict[ChainID, int]:
        """Bytes of each layer's own change set."""
        raise NotImplementedError
