"""Image archives as `docker save`, skopeo and buildx write them, read in one pass and made sense of afterwards.

An archive's manifest usually comes last, so members are kept until it is known: small ones in memory, the others in
a spool that has no name. Nothing of the archive is ever written under a name that it chose: paths in it, links and
what the manifest says about them are only looked up among its own members.

    docker-archive   manifest.json → config and layer.tar members          (also what docker 25 and newer write)
    OCI layout       index.json → blobs/sha256/… manifests, configs, layers (image-spec image-layout.md)
    legacy           repositories → ID/json, ID/layer.tar, before Docker 1.10: see legacy.py
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Sequence
from typing import BinaryIO, TypeVar, cast

import msgspec

from wherry.engine.spool import Spool
from wherry.errors import InvalidParameter, NotFound
from wherry.oci.digest import Digest, digest_of, parse_digest
from wherry.oci.image import (
    INDEX_TYPES,
    MAX_CONFIG_BYTES,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Index,
    Platform,
    parse_manifest,
)
from wherry.oci.platform import choose
from wherry.oci.reference import Reference, parse_reference
from wherry.store.compression import decompressed
from wherry.store.tar import BLOCK, LINK, REGULAR, SYMLINK, TarReader

SMALL = 1 << 20
MAX_IN_MEMORY = 64 << 20
MAX_MEMBERS = 100_000
MAX_IMAGES = 1000
MAX_LINKS = 16
MAX_INDEX_DEPTH = 3
_BLOCKS = 1 << 20

T = TypeVar("T")

NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"


class Member(msgspec.Struct, frozen=True):
    """One file of the archive: its bytes, or where they are in the spool."""

    size: int
    data: bytes | None = None
    offset: int = 0


class ArchivedImage(msgspec.Struct, frozen=True):
    """An image found in an archive: all that `loads.py` needs to know."""

    config: bytes
    layers: tuple[Member, ...]
    """Lowest first, compressed or not."""
    tags: tuple[Reference, ...] = ()


class Archive:
    """The members of an archive by normalised path."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._members: dict[str, Member | str] = {}
        self._in_memory = 0

    @classmethod
    def read(cls, spool: Spool, source: BinaryIO) -> Archive:
        """Take in the whole of `source`, compressed or not. Blocks. Raises InvalidParameter for no proper tar."""
        archive = cls(spool)
        tar = TarReader(_Blocks(decompressed(source)), _forget)  # pyright: ignore[reportArgumentType]
        while (entry := tar.next()) is not None:
            path = normalised(entry.name)
            if path is None or entry.type not in (REGULAR, LINK, SYMLINK):
                continue
            if len(archive._members) >= MAX_MEMBERS:
                raise InvalidParameter(f"the archive has more than {MAX_MEMBERS} members")
            if entry.pieces is not None:
                raise InvalidParameter(f"invalid archive: {path[:200]!r} is a sparse file")
            if entry.type == REGULAR:
                archive._members[path] = archive._keep(tar, entry.size)
            else:
                base = posixpath.dirname(path) if entry.type == SYMLINK else ""
                target = normalised(posixpath.join(base.encode(), entry.link))
                if target is not None and not entry.link.startswith(b"/"):
                    archive._members[path] = target
        return archive

    def find(self, path: str) -> Member | None:
        """The file at `path`, links followed inside the archive."""
        name = normalised(path.encode("utf-8", "replace"))
        for _ in range(MAX_LINKS):
            found = self._members.get(name) if name is not None else None
            if not isinstance(found, str):
                return found
            name = found
        return None

    def get(self, path: str) -> Member:
        """As `find`. Raises InvalidParameter when there is none."""
        member = self.find(path)
        if member is None:
            raise InvalidParameter(f"invalid archive: it holds no file {path[:200]!r}")
        return member

    def read_small(self, member: Member, limit: int, what: str) -> bytes:
        """The bytes of a member that may have `limit` at most."""
        if member.size > limit:
            raise InvalidParameter(f"invalid archive: {what} is larger than {limit} bytes")
        return member.data if member.data is not None else self._spool.read(member.offset, member.size)

    def open(self, member: Member, report: Callable[[int], None] | None = None) -> BinaryIO:
        """The bytes of a member as a file."""
        if member.data is not None:
            if report is not None:
                report(member.size)
            return io.BytesIO(member.data)
        return cast("BinaryIO", self._spool.reader(member.offset, member.size, report))

    def images(self, platforms: Sequence[Platform] = ()) -> list[ArchivedImage]:
        """What images it holds (of an index, those for `platforms`, or this host's). Raises InvalidParameter."""
        if self.find("manifest.json") is not None:
            return self._docker_images()
        if self.find("index.json") is not None:
            return self._oci_images(platforms)
        if self.find("repositories") is not None:
            raise InvalidParameter(
                "unsupported archive: images saved by Docker before 1.10 are not loaded; save them again"
            )
        raise InvalidParameter(
            "unrecognized image format: the archive holds neither manifest.json nor index.json"
        )

    def blob(self, descriptor: Descriptor, limit: int, what: str) -> bytes:
        """A small blob of an OCI layout, its digest checked."""
        path = f"blobs/{descriptor.digest.replace(':', '/')}"
        data = self.read_small(self.get(path), limit, what)
        if digest_of(data) != descriptor.digest:
            raise InvalidParameter(f"invalid archive: {what} is not {descriptor.digest}")
        return data

    def _docker_images(self) -> list[ArchivedImage]:
        data = self.read_small(self.get("manifest.json"), MAX_MANIFEST_BYTES, "manifest.json")
        items = _decode(data, list[_ManifestItem], "manifest.json")
        if len(items) > MAX_IMAGES:
            raise InvalidParameter(f"invalid manifest.json: more than {MAX_IMAGES} images")
        images: list[ArchivedImage] = []
        for item in items:
            if len(item.layers or ()) > MAX_LAYERS:
                raise InvalidParameter(f"invalid manifest.json: an image has more than {MAX_LAYERS} layers")
            tags = [parse_reference(text) for text in item.repo_tags or ()]
            for tag in tags:
                if tag.tag is None or tag.digest is not None:
                    raise InvalidParameter(f'invalid tag "{tag.familiar}"')  # Docker's text
            images.append(
                ArchivedImage(
                    config=self.read_small(self.get(item.config), MAX_CONFIG_BYTES, "an image config"),
                    layers=tuple(self.get(path) for path in item.layers or ()),
                    tags=tuple(tags),
                )
            )
        return images

    def _oci_images(self, platforms: Sequence[Platform]) -> list[ArchivedImage]:
        data = self.read_small(self.get("index.json"), MAX_MANIFEST_BYTES, "index.json")
        index = parse_manifest(data, INDEX_TYPES[0])
        if not isinstance(index, Index):
            raise InvalidParameter("invalid archive: index.json is no index")
        images: dict[Digest, ArchivedImage] = {}
        for descriptor in index.manifests:
            name = _name_of(descriptor)
            for manifest in self._manifests(descriptor, platforms):
                image = images.get(manifest.digest) or self._oci_image(manifest)
                if name is not None and name not in image.tags:
                    image = ArchivedImage(image.config, image.layers, (*image.tags, name))
                images[manifest.digest] = image
        return list(images.values())

    def _manifests(self, top: Descriptor, platforms: Sequence[Platform]) -> list[Descriptor]:
        """The image manifests for each platform at or below `top`."""
        if top.media_type not in INDEX_TYPES:
            return [top]
        found: list[Descriptor] = []
        for platform in platforms or (None,):
            descriptor = top
            for _ in range(MAX_INDEX_DEPTH):
                data = self.blob(descriptor, MAX_MANIFEST_BYTES, "an index")
                index = parse_manifest(data, descriptor.media_type)
                if not isinstance(index, Index):
                    raise InvalidParameter(f"invalid archive: {descriptor.digest} is no index")
                try:
                    descriptor = choose(index.manifests, platform)
                except NotFound as exc:
                    raise InvalidParameter(str(exc)) from exc
                if descriptor.media_type not in INDEX_TYPES:
                    break
            else:
                raise InvalidParameter(f"invalid archive: indexes nest more than {MAX_INDEX_DEPTH} deep")
            found.append(descriptor)
        return found

    def _oci_image(self, descriptor: Descriptor) -> ArchivedImage:
        data = self.blob(descriptor, MAX_MANIFEST_BYTES, "a manifest")
        manifest = parse_manifest(data, descriptor.media_type)
        if isinstance(manifest, Index):
            raise InvalidParameter(f"invalid archive: {descriptor.digest} is an index, not a manifest")
        return ArchivedImage(
            config=self.blob(manifest.config, MAX_CONFIG_BYTES, "an image config"),
            layers=tuple(
                self.get(f"blobs/{parse_digest(layer.digest).replace(':', '/')}") for layer in manifest.layers
            ),
        )

    def _keep(self, tar: TarReader, size: int) -> Member:
        if size <= SMALL and self._in_memory + size <= MAX_IN_MEMORY:
            data = bytearray()
            while chunk := tar.content():
                data += chunk
            self._in_memory += len(data)
            return Member(len(data), data=bytes(data))
        start = self._spool.size
        while chunk := tar.content():
            self._spool.write(chunk)
        return Member(self._spool.size - start, offset=start)


class _ManifestItem(msgspec.Struct, rename="pascal"):
    """One image in manifest.json of a docker-archive."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class _Blocks:
    """A stream in blocks, as TarReader wants them, without a thread or a digest of its own."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._buffer = bytearray(_BLOCKS)

    def next(self) -> memoryview:
        view = memoryview(self._buffer)
        done = 0
        try:
            while done < len(view) and (count := cast("io.RawIOBase", self._source).readinto(view[done:])):
                done += count
        except OSError as exc:
            raise InvalidParameter(f"cannot read the archive: {exc}") from exc
        if 0 < done < BLOCK:
            raise InvalidParameter("unexpected EOF")  # Docker's text for what is not even one header
        return view[:done]


def normalised(name: bytes) -> str | None:
    """A member's path without `./`, doubled slashes and a leading one; None if it leaves the archive or is odd."""
    try:
        path = posixpath.normpath(name.decode().lstrip("/"))
    except UnicodeDecodeError:
        return None
    return None if path == "." or path == ".." or path.startswith("../") else path


def _name_of(descriptor: Descriptor) -> Reference | None:
    """The name an index gives a manifest: containerd's annotation, or the spec's if it is a whole name."""
    annotations = descriptor.annotations
    text = annotations.get(NAME_ANNOTATION)
    if text is None:
        text = annotations.get(REF_ANNOTATION, "")
        if "/" not in text and ":" not in text:
            return None
    try:
        reference = parse_reference(text)
    except InvalidParameter:
        return None
    return None if reference.digest else reference.with_default_tag()


def _decode(data: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid {what}: {exc}") from exc


def _forget(data: bytes) -> None:
    """Headers and padding of the archive are of no use."""
