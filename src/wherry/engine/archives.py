"""What images an archive holds, in each of the forms that `docker save`, skopeo and buildx write.

    docker-archive   manifest.json → config and layer.tar members          (also what docker 25 and newer write)
    OCI layout       index.json → blobs/sha256/… manifests, configs, layers (image-spec image-layout.md)
    legacy           repositories → ID/json, ID/layer.tar, before Docker 1.10: see legacy.py

Functions of members already read (members.py); large layers may be read again, so call `find_images` in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wherry.engine.legacy import legacy_images
from wherry.engine.members import ArchivedImage, Members, decode_json
from wherry.errors import InvalidParameter, NotFound
from wherry.oci.digest import Digest, digest_of, parse_digest
from wherry.oci.image import (
    INDEX_TYPES,
    MAX_CONFIG_BYTES,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    Descriptor,
    Index,
    Platform,
    parse_manifest,
)
from wherry.oci.platform import choose
from wherry.oci.reference import Reference, parse_reference

MAX_IMAGES = 1000
MAX_INDEX_DEPTH = 3

NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"


def find_images(members: Members, platforms: Sequence[Platform] = ()) -> list[ArchivedImage]:
    """The images (of an index, those for `platforms`, or this host's). Raises InvalidParameter."""
    if members.find("manifest.json") is not None:
        return _docker_images(members)
    if members.find("index.json") is not None:
        return _oci_images(members, platforms)
    if members.find("repositories") is not None:
        return legacy_images(members)
    raise InvalidParameter(
        "unrecognized image format: the archive holds neither manifest.json nor index.json nor repositories"
    )


class _ManifestItem(msgspec.Struct, rename="pascal"):
    """One image in manifest.json of a docker-archive."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


def _docker_images(members: Members) -> list[ArchivedImage]:
    data = members.read_small(members.get("manifest.json"), MAX_MANIFEST_BYTES, "manifest.json")
    items = decode_json(data, list[_ManifestItem], "manifest.json")
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
                config=members.read_small(members.get(item.config), MAX_CONFIG_BYTES, "an image config"),
                layers=tuple(members.get(path) for path in item.layers or ()),
                tags=tuple(tags),
            )
        )
    return images


def _oci_images(members: Members, platforms: Sequence[Platform]) -> list[ArchivedImage]:
    data = members.read_small(members.get("index.json"), MAX_MANIFEST_BYTES, "index.json")
    index = parse_manifest(data, OCI_INDEX)
    if not isinstance(index, Index):
        raise InvalidParameter("invalid archive: index.json is no index")
    images: dict[Digest, ArchivedImage] = {}
    for descriptor in index.manifests:
        name = _name_of(descriptor)
        for manifest in _manifests(members, descriptor, platforms):
            image = images.get(manifest.digest) or _oci_image(members, manifest)
            if name is not None and name not in image.tags:
                image = msgspec.structs.replace(image, tags=(*image.tags, name))
            images[manifest.digest] = image
    return list(images.values())


def _manifests(members: Members, top: Descriptor, platforms: Sequence[Platform]) -> list[Descriptor]:
    """The image manifests for each platform at or below `top`."""
    if top.media_type not in INDEX_TYPES:
        return [top]
    found: list[Descriptor] = []
    for platform in platforms or (None,):
        descriptor = top
        for _ in range(MAX_INDEX_DEPTH):
            index = parse_manifest(
                _blob(members, descriptor, MAX_MANIFEST_BYTES, "an index"), descriptor.media_type
            )
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


def _oci_image(members: Members, descriptor: Descriptor) -> ArchivedImage:
    manifest = parse_manifest(
        _blob(members, descriptor, MAX_MANIFEST_BYTES, "a manifest"), descriptor.media_type
    )
    if isinstance(manifest, Index):
        raise InvalidParameter(f"invalid archive: {descriptor.digest} is an index, not a manifest")
    return ArchivedImage(
        config=_blob(members, manifest.config, MAX_CONFIG_BYTES, "an image config"),
        layers=tuple(members.get(_blob_path(parse_digest(layer.digest))) for layer in manifest.layers),
    )


def _blob(members: Members, descriptor: Descriptor, limit: int, what: str) -> bytes:
    """A small blob of an OCI layout, its digest checked."""
    data = members.read_small(members.get(_blob_path(descriptor.digest)), limit, what)
    if digest_of(data) != descriptor.digest:
        raise InvalidParameter(f"invalid archive: {what} is not {descriptor.digest}")
    return data


def _blob_path(digest: Digest) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _name_of(descriptor: Descriptor) -> Reference | None:
    """The name an index gives a manifest: containerd's annotation, or the spec's if it is a whole name."""
    text = descriptor.annotations.get(NAME_ANNOTATION)
    if text is None:
        text = descriptor.annotations.get(REF_ANNOTATION, "")
        if "/" not in text and ":" not in text:
            return None
    try:
        reference = parse_reference(text)
    except InvalidParameter:
        return None
    return None if reference.digest else reference.with_default_tag()
