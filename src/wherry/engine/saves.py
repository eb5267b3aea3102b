"""`docker save`: images as one tar that is a docker-archive and an OCI layout at once, as docker 25 and newer write.

    blobs/sha256/…    image configs, layers (uncompressed: their digest is their diffID), OCI manifests
    index.json        the manifests, with names in containerd's and the spec's annotations   (image-spec layout)
    manifest.json     configs, names and layers for `docker load`
    oci-layout
    repositories      names and top layers, for readers of the oldest format

The same images give the same bytes: members are sorted, times and owners are zero.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import BinaryIO, cast

import msgspec

from wherry.engine import threads
from wherry.engine.archives import NAME_ANNOTATION, REF_ANNOTATION
from wherry.engine.pulls import Emit
from wherry.engine.spool import Spool
from wherry.errors import InvalidParameter, NotFound
from wherry.oci.digest import ChainID, DiffID, Digest, digest_of
from wherry.oci.image import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor, Index, Manifest
from wherry.oci.reference import Reference, parse_reference
from wherry.store.images import Image
from wherry.store.store import Lease, Store

CHUNK = 1 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Saved(msgspec.Struct):
    """One image to be written, and the names it gets in the archive."""

    image: Image
    config: bytes
    names: list[Reference]
    manifest: bytes = b""


async def save(store: Store, emit: Emit, names: Sequence[str]) -> AsyncGenerator[bytes]:
    """The archive of the images `names`, piece by piece. The first step raises what is wrong with the names.

    A name without a tag stands for all tags of its repository; an ID adds no name.
    """
    with store.lease() as lease:
        images = await select(store, names, lease)
        yield header("blobs/", None) + header("blobs/sha256/", None)
        sizes: dict[DiffID, int] = {}
        for saved in images:
            for layer in saved.image.layers:
                if layer.diff_id in sizes:
                    continue
                with Layer(store, layer.chain_id, layer.diff_id) as tar:
                    sizes[layer.diff_id] = await tar.prepare()
                    async for piece in tar.pieces():
                        yield piece
            saved.manifest = manifest_of(saved, sizes)
            yield member(_blob_path(saved.image.id), saved.config)
            yield member(_blob_path(digest_of(saved.manifest)), saved.manifest)
        yield member("index.json", index_json(images))
        yield member("manifest.json", manifest_json(images))
        yield member("oci-layout", _LAYOUT)
        if repositories := repositories_json(images):
            yield member("repositories", repositories)
        yield _END
    for saved in images:
        emit("save", saved.image.id, {"name": saved.image.id})


class Layer:
    """One layer's tar on its way into the archive. Its size must be known first, so it is written aside."""

    def __init__(self, store: Store, chain_id: ChainID, diff_id: DiffID) -> None:
        self._store = store
        self._chain_id = chain_id
        self._diff_id = diff_id
        self._spool: Spool | None = None

    def __enter__(self) -> Layer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._spool is not None:
            self._spool.close()

    async def prepare(self) -> int:
        """Get hold of the tar; its size."""
        self._spool = await threads.run(Spool.beside, self._store)
        await self._store.export_layer(self._chain_id, cast("BinaryIO", self._spool))
        return self._spool.size

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The archive's member."""
        assert self._spool is not None
        size = self._spool.size
        yield header(_blob_path(self._diff_id), size)
        at = 0
        while at < size:
            piece = await threads.run(self._spool.read, at, min(CHUNK, size - at))
            at += len(piece)
            yield piece
        if size % _BLOCK:
            yield bytes(-size % _BLOCK)


async def select(store: Store, names: Sequence[str], lease: Lease) -> list[Saved]:
    """The images that `names` mean, in their order, each once. Raises NotFound with Docker's text."""
    found: dict[Digest, Saved] = {}
    tags = await store.images.tags()

    async def add(image: Image, name: Reference | None) -> None:
        saved = found.get(image.id)
        if saved is None:
            await lease.hold(image.id, *(layer.chain_id for layer in image.layers))
            config = await store.config_bytes(image.id)
            saved = found[image.id] = Saved(image, config, [])
        if name is not None and name not in saved.names:
            saved.names.append(name)

    for text in names:
        image = await store.images.find(text)
        reference = _as_name(text, image)
        if reference is not None and reference.tag is None and reference.digest is None:
            same = [
                tag for tag in tags if tag.reference.tag and tag.reference.repository == reference.repository
            ]
            for tag in same:
                await add(await store.images.get_by_id(tag.image_id), tag.reference)
            if same:
                continue
        if image is None:
            raise NotFound(f"No such image: {text}")  # Docker's text
        await add(image, reference if reference is not None and reference.tag is not None else None)
    if not found:
        raise InvalidParameter("no image to save was named")
    return list(found.values())


def manifest_of(saved: Saved, sizes: Mapping[DiffID, int]) -> bytes:
    """An OCI manifest of the image with its layers uncompressed."""
    return msgspec.json.encode(
        Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST,
            config=Descriptor(OCI_CONFIG, saved.image.id, len(saved.config)),
            layers=tuple(
                Descriptor(OCI_LAYER, Digest(layer.diff_id), sizes[layer.diff_id])
                for layer in saved.image.layers
            ),
        )
    )


def index_json(images: Sequence[Saved]) -> bytes:
    """index.json: one entry a name, or one without a name."""
    manifests: list[Descriptor] = []
    for saved in images:
        plain = Descriptor(OCI_MANIFEST, digest_of(saved.manifest), len(saved.manifest))
        for name in saved.names:
            annotations = {NAME_ANNOTATION: name.canonical, REF_ANNOTATION: name.tag or ""}
            manifests.append(msgspec.structs.replace(plain, annotations=annotations))
        if not saved.names:
            manifests.append(plain)
    return msgspec.json.encode(Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(manifests)))


def manifest_json(images: Sequence[Saved]) -> bytes:
    """manifest.json as `docker load` reads it."""
    items: list[dict[str, object]] = []
    for saved in images:
        layers = [layer.diff_id for layer in saved.image.layers]
        items.append(
            {
                "Config": _blob_path(saved.image.id),
                "RepoTags": [name.familiar for name in saved.names] or None,
                "Layers": [_blob_path(diff_id) for diff_id in layers],
            }
        )
    return msgspec.json.encode(items)


def repositories_json(images: Sequence[Saved]) -> bytes:
    """repositories: name → tag → top layer; empty when no image has a name."""
    names: dict[str, dict[str, str]] = {}
    for saved in images:
        if saved.image.layers:
            top = saved.image.layers[-1].diff_id.removeprefix("sha256:")
            for name in saved.names:
                names.setdefault(name.familiar_name, {})[name.tag or ""] = top
    return msgspec.json.encode(names) if names else b""


def header(name: str, size: int | None, *, mode: int = 0o644) -> bytes:
    """A tar header: of a file, or of a directory when `size` is None."""
    info = tarfile.TarInfo(name)
    info.mode = mode
    if size is None:
        info.type = tarfile.DIRTYPE
        info.mode = 0o755
    else:
        info.size = size
    return info.tobuf(tarfile.PAX_FORMAT if size and size >= 1 << 33 else tarfile.USTAR_FORMAT)


def member(name: str, data: bytes) -> bytes:
    """A whole small file."""
    return header(name, len(data)) + data + bytes(-len(data) % _BLOCK)


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _as_name(text: str, image: Image | None) -> Reference | None:
    """`text` as a reference, or None when it is the ID the image was found by."""
    if image is not None and (image.id.startswith(text) or image.id.removeprefix("sha256:").startswith(text)):
        return None
    return parse_reference(text)
