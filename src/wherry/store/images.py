"""Which images there are, what they are made of and what they are called: the tables image, image_layer, layer, tag.

Config and manifest bytes lie in the blob store; rows hold what is searched and counted. The functions with a
`connection` run inside a transaction of the database's thread; `Store` puts several of them into one.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from wherry.errors import NotFound
from wherry.oci.digest import ChainID, DiffID, Digest
from wherry.oci.image import Descriptor
from wherry.oci.reference import Reference, is_image_id, parse_reference
from wherry.store.database import Database

_HEX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})", re.ASCII)
_SHORT_ID: Final = re.compile(r"[0-9a-f]{12}", re.ASCII)


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

    @property
    def chain_ids(self) -> list[ChainID]:
        """What `SnapshotDriver.prepare` takes."""
        return [layer.chain_id for layer in self.layers]


class Tag(msgspec.Struct, frozen=True):
    """A reference (with a tag, or with a digest alone) that names an image."""

    reference: Reference
    image_id: Digest
    digest: Digest | None


class Images:
    """The images of one storage driver."""

    def __init__(self, database: Database, driver: str) -> None:
        self._database = database
        self._driver = driver

    async def find(self, text: str) -> Image | None:
        """What Docker would find for `text`: a full ID, a reference, `repository:shortid`, a unique ID prefix.

        None when there is none, or an ID prefix fits several. Raises InvalidParameter for no reference at all.
        """
        reference = None if is_image_id(text) else parse_reference(text)

        def step(connection: sqlite3.Connection) -> Image | None:
            image_id = _search(connection, self._driver, text, reference)
            return None if image_id is None else read_image(connection, self._driver, image_id)

        return await self._database.run(step, durable=False)

    async def ids_of(self, texts: Iterable[str]) -> dict[str, Digest]:
        """The IDs of what `find` would find, by text; those that name nothing are left out."""
        wanted = [(text, None if is_image_id(text) else parse_reference(text)) for text in texts]

        def step(connection: sqlite3.Connection) -> dict[str, Digest]:
            found = {text: _search(connection, self._driver, text, reference) for text, reference in wanted}
            return {text: image_id for text, image_id in found.items() if image_id is not None}

        return await self._database.run(step, durable=False)

    async def get(self, text: str) -> Image:
        """As `find`; raises NotFound with Docker's `No such image: busybox:latest`."""
        found = await self.find(text)
        if found is None:
            name = (
                f"sha256:{text.removeprefix('sha256:')}"
                if is_image_id(text)
                else parse_reference(text).with_default_tag().familiar
            )
            raise NotFound(f"No such image: {name}")  # Docker's text
        return found

    async def get_by_id(self, image_id: Digest) -> Image:
        """By full ID. Raises NotFound."""
        found = await self._database.run(
            lambda connection: read_image(connection, self._driver, image_id), durable=False
        )
        if found is None:
            raise NotFound(f"No such image: {image_id}")  # Docker's text
        return found

    async def all(self) -> list[Image]:
        """Every image, newest first."""

        def step(connection: sqlite3.Connection) -> list[Image]:
            layers: dict[str, list[ImageLayer]] = {}
            query = "SELECT * FROM image_layer WHERE driver = ? ORDER BY image_id, position"
            for row in connection.execute(query, (self._driver,)):
                layers.setdefault(row["image_id"], []).append(_layer(row))
            query = "SELECT * FROM image WHERE driver = ? ORDER BY created_ns DESC, id"
            rows = connection.execute(query, (self._driver,))
            return [_image(row, layers.get(row["id"], [])) for row in rows]

        return await self._database.run(step, durable=False)

    async def tag(
        self, reference: Reference, image_id: Digest, digest: Digest | None = None
    ) -> Digest | None:
        """Make `reference` name the image, durably; the ID of the image it named before, if another.

        `digest` is what it resolved to when pulled (manifest or index); `repository@digest` becomes a name too. A
        reference without a tag gets `latest`. Raises NotFound for no such image.
        """
        return await self._database.run(
            lambda connection: write_tag(connection, self._driver, reference, image_id, digest)
        )

    async def untag(self, reference: Reference) -> Digest | None:
        """Forget the name; the ID of the image that had it."""

        def step(connection: sqlite3.Connection) -> Digest | None:
            image_id = _named(connection, self._driver, reference)
            connection.execute(
                "DELETE FROM tag WHERE driver = ? AND reference = ?", (self._driver, _key(reference))
            )
            return image_id

        return await self._database.run(step)

    async def resolve(self, reference: Reference) -> Digest | None:
        """The ID of the image that exactly this name (`latest` where there is no tag) stands for."""
        return await self._database.run(
            lambda connection: _named(connection, self._driver, reference), durable=False
        )

    async def tags(self) -> list[Tag]:
        """Every tag and digest reference, sorted."""

        def step(connection: sqlite3.Connection) -> list[Tag]:
            rows = connection.execute(
                "SELECT * FROM tag WHERE driver = ? ORDER BY reference", (self._driver,)
            )
            return [Tag(parse_reference(row["reference"]), row["image_id"], row["digest"]) for row in rows]

        return await self._database.run(step, durable=False)

    async def tags_of(self, image_id: Digest) -> list[Reference]:
        """`RepoTags`: references with a tag, sorted."""
        return [reference for reference in await self._names_of(image_id) if reference.digest is None]

    async def digests_of(self, image_id: Digest) -> list[Reference]:
        """`RepoDigests`: references by digest, sorted."""
        return [reference for reference in await self._names_of(image_id) if reference.digest is not None]

    async def remove(self, image_id: Digest) -> None:
        """Forget the image and its names, durably. Use `Store.remove_image`, which also deletes what it leaves."""
        await self._database.run(lambda connection: delete_image(connection, self._driver, image_id))

    async def unreferenced_layers(self, chain_ids: Sequence[ChainID] | None = None) -> list[ChainID]:
        """Those of `chain_ids` (None: all rows of `layer`) that no image is made of."""
        return await self._database.run(
            lambda connection: unreferenced_layers(connection, self._driver, chain_ids), durable=False
        )

    async def layer_sizes(self) -> dict[ChainID, int]:
        """Bytes of each layer's own change set."""

        def step(connection: sqlite3.Connection) -> dict[ChainID, int]:
            query = "SELECT chain_id, size FROM layer WHERE driver = ?"
            return dict(connection.execute(query, (self._driver,)).fetchall())

        return await self._database.run(step, durable=False)

    async def _names_of(self, image_id: Digest) -> list[Reference]:
        def step(connection: sqlite3.Connection) -> list[Reference]:
            return _references(connection, self._driver, image_id)

        return await self._database.run(step, durable=False)


def read_image(connection: sqlite3.Connection, driver: str, image_id: Digest) -> Image | None:
    row = connection.execute("SELECT * FROM image WHERE driver = ? AND id = ?", (driver, image_id)).fetchone()
    if row is None:
        return None
    layers = connection.execute(
        "SELECT * FROM image_layer WHERE driver = ? AND image_id = ? ORDER BY position", (driver, image_id)
    )
    return _image(row, map(_layer, layers))


def write_image(connection: sqlite3.Connection, driver: str, image: Image, sizes: Sequence[int]) -> None:
    """Insert the image and the rows of its layers, whose sizes are given in the same order.

    There already: only a manifest that it did not have is added, with what its layers are called in it.
    """
    there = read_image(connection, driver, image.id)
    if there is not None and (there.manifest is not None or image.manifest is None):
        return
    connection.execute(
        "INSERT INTO image (driver, id, manifest, media_type, created_ns, stored_ns, size)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET manifest = excluded.manifest, media_type = excluded.media_type",
        (driver, image.id, image.manifest, image.media_type, image.created_ns, image.stored_ns, image.size),
    )
    parent: ChainID | None = None
    for position, (layer, size) in enumerate(zip(image.layers, sizes, strict=True)):
        connection.execute(
            "INSERT INTO layer (driver, chain_id, parent, diff_id, size) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (driver, layer.chain_id, parent, layer.diff_id, size),
        )
        blob = layer.blob
        connection.execute(
            "INSERT OR REPLACE INTO image_layer VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                driver,
                image.id,
                position,
                layer.diff_id,
                layer.chain_id,
                None if blob is None else blob.digest,
                None if blob is None else blob.size,
                None if blob is None else blob.media_type,
            ),
        )
        parent = layer.chain_id


def write_tag(
    connection: sqlite3.Connection, driver: str, reference: Reference, image_id: Digest, digest: Digest | None
) -> Digest | None:
    """See `Images.tag`."""
    there = connection.execute(
        "SELECT 1 FROM image WHERE driver = ? AND id = ?", (driver, image_id)
    ).fetchone()
    if there is None:
        raise NotFound(f"No such image: {image_id}")  # Docker's text
    before = _named(connection, driver, reference)
    names = [_key(reference)]
    if digest is not None and reference.digest is None:
        names.append(reference.with_digest(digest).canonical)
    for name in names:
        connection.execute(
            "INSERT INTO tag (driver, reference, image_id, digest) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET image_id = excluded.image_id, digest = excluded.digest",
            (driver, name, image_id, digest if digest is not None else reference.digest),
        )
    connection.execute(
        "UPDATE image SET last_tagged_ns = ? WHERE driver = ? AND id = ?", (time.time_ns(), driver, image_id)
    )
    return before if before != image_id else None


def delete_image(connection: sqlite3.Connection, driver: str, image_id: Digest) -> list[Reference]:
    """Forget the image; the names it had. Its tags and layer rows go with it."""
    names = _references(connection, driver, image_id)
    connection.execute("DELETE FROM image WHERE driver = ? AND id = ?", (driver, image_id))
    return names


def unreferenced_layers(
    connection: sqlite3.Connection, driver: str, chain_ids: Sequence[ChainID] | None
) -> list[ChainID]:
    """See `Images.unreferenced_layers`."""
    query = "SELECT DISTINCT chain_id FROM image_layer WHERE driver = ?"
    used = {row["chain_id"] for row in connection.execute(query, (driver,))}
    if chain_ids is None:
        rows = connection.execute("SELECT chain_id FROM layer WHERE driver = ?", (driver,))
        chain_ids = [row["chain_id"] for row in rows]
    return [chain_id for chain_id in chain_ids if chain_id not in used]


def referenced_blobs(connection: sqlite3.Connection) -> set[Digest]:
    """Every blob an image of any driver may use: config, manifest, compressed layers, indexes that tags stand for."""
    return {
        row[0]
        for row in connection.execute(
            "SELECT id FROM image UNION SELECT manifest FROM image WHERE manifest IS NOT NULL"
            " UNION SELECT blob FROM image_layer WHERE blob IS NOT NULL"
            " UNION SELECT digest FROM tag WHERE digest IS NOT NULL"
        )
    }


def _search(
    connection: sqlite3.Connection, driver: str, text: str, reference: Reference | None
) -> Digest | None:
    if reference is None:
        image_id = Digest(f"sha256:{text.removeprefix('sha256:')}")
        return image_id if read_image(connection, driver, image_id) is not None else None
    found = _named(connection, driver, reference)
    if found is not None:
        return found
    # Docker's old form `repository:shortid`.
    if reference.tag is not None and _SHORT_ID.fullmatch(reference.tag):
        by_id = _by_prefix(connection, driver, reference.tag)
        if by_id is not None and any(
            named.repository == reference.repository for named in _references(connection, driver, by_id)
        ):
            return by_id
    match = _HEX.fullmatch(text)
    return None if match is None else _by_prefix(connection, driver, match[1])


def _by_prefix(connection: sqlite3.Connection, driver: str, prefix: str) -> Digest | None:
    rows = connection.execute(
        "SELECT id FROM image WHERE driver = ? AND id >= ? AND id < ? LIMIT 2",
        (driver, f"sha256:{prefix}", f"sha256:{prefix}g"),
    ).fetchall()
    return rows[0]["id"] if len(rows) == 1 else None


def _named(connection: sqlite3.Connection, driver: str, reference: Reference) -> Digest | None:
    query = "SELECT image_id FROM tag WHERE driver = ? AND reference = ?"
    row = connection.execute(query, (driver, _key(reference))).fetchone()
    return None if row is None else row["image_id"]


def _references(connection: sqlite3.Connection, driver: str, image_id: Digest) -> list[Reference]:
    query = "SELECT reference FROM tag WHERE driver = ? AND image_id = ? ORDER BY reference"
    return [parse_reference(row["reference"]) for row in connection.execute(query, (driver, image_id))]


def _key(reference: Reference) -> str:
    """How a reference is looked up: a digest outweighs a tag, no tag means `latest`."""
    if reference.digest is not None:
        return reference.with_digest(reference.digest).canonical
    return reference.with_default_tag().canonical


def _image(row: sqlite3.Row, layers: Iterable[ImageLayer]) -> Image:
    return Image(
        id=row["id"],
        manifest=row["manifest"],
        media_type=row["media_type"],
        created_ns=row["created_ns"],
        stored_ns=row["stored_ns"],
        size=row["size"],
        last_tagged_ns=row["last_tagged_ns"],
        layers=tuple(layers),
    )


def _layer(row: Any) -> ImageLayer:
    blob = None
    if row["blob"] is not None:
        blob = Descriptor(media_type=row["blob_media_type"], digest=row["blob"], size=row["blob_size"])
    return ImageLayer(diff_id=row["diff_id"], chain_id=row["chain_id"], blob=blob)
