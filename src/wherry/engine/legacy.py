"""Archives from before Docker 1.10: `repositories` names top layers, each `ID/json` its parent, `ID/layer.tar` a layer.

Such an archive has no image config. One is made the way Docker does: the top layer's JSON without what
belongs to a layer alone, with the diffIDs of all layers below it and their history (image-spec v1.0 of Docker).
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from wherry.engine.members import ArchivedImage, Member, Members, decode_json
from wherry.errors import InvalidParameter
from wherry.oci.digest import DiffID
from wherry.oci.image import MAX_CONFIG_BYTES, MAX_LAYERS, MAX_MANIFEST_BYTES, History, RootFS
from wherry.oci.reference import Reference, parse_reference
from wherry.store.compression import decompressed

_ID = re.compile(r"[0-9a-f]{64}")
_OF_A_LAYER = ("id", "parent", "parent_id", "layer_id", "throwaway", "Size")
_CHUNK = 1 << 20


class _Command(msgspec.Struct):
    cmd: list[str] | None = msgspec.field(name="Cmd", default=None)


class _LayerJson(msgspec.Struct):
    """What is needed of one `ID/json`."""

    parent: str = ""
    created: str = ""
    author: str = ""
    comment: str = ""
    container_config: _Command | None = None

    def history(self) -> History:
        command = (self.container_config.cmd if self.container_config else None) or []
        return History(
            created=self.created, author=self.author, created_by=" ".join(command), comment=self.comment
        )


def legacy_images(archive: Members) -> list[ArchivedImage]:
    """Every image that `repositories` names. Reads all layers: call it in a thread. Raises InvalidParameter."""
    data = archive.read_small(archive.get("repositories"), MAX_MANIFEST_BYTES, "repositories")
    names = decode_json(data, dict[str, dict[str, str]], "repositories")
    tags: dict[str, list[Reference]] = {}
    for name, by_tag in names.items():
        for tag, image_id in by_tag.items():
            tags.setdefault(image_id, []).append(parse_reference(name).with_tag(tag))
    diff_ids: dict[str, DiffID] = {}
    return [_image(archive, image_id, named, diff_ids) for image_id, named in tags.items()]


def _image(archive: Members, top: str, tags: list[Reference], diff_ids: dict[str, DiffID]) -> ArchivedImage:
    chain: list[tuple[str, _LayerJson]] = []
    at = top
    while at:
        if not _ID.fullmatch(at):
            raise InvalidParameter(f"invalid archive: {at[:100]!r} is no layer ID")
        if len(chain) >= MAX_LAYERS:
            raise InvalidParameter(f"invalid archive: image {top} has more than {MAX_LAYERS} layers")
        layer = decode_json(_json(archive, at), _LayerJson, f"{at}/json")
        chain.append((at, layer))
        at = layer.parent
    chain.reverse()
    members = tuple(archive.get(f"{image_id}/layer.tar") for image_id, _ in chain)
    for (image_id, _), member in zip(chain, members, strict=True):
        if image_id not in diff_ids:
            diff_ids[image_id] = _diff_id(archive, member)
    fields = decode_json(_json(archive, top), dict[str, msgspec.Raw], f"{top}/json")
    for name in _OF_A_LAYER:
        fields.pop(name, None)
    rootfs = RootFS(diff_ids=tuple(diff_ids[image_id] for image_id, _ in chain))
    fields["rootfs"] = msgspec.Raw(msgspec.json.encode(rootfs))
    fields["history"] = msgspec.Raw(msgspec.json.encode([layer.history() for _, layer in chain]))
    return ArchivedImage(msgspec.json.encode(dict(sorted(fields.items()))), members, tuple(tags))


def _json(archive: Members, image_id: str) -> bytes:
    return archive.read_small(archive.get(f"{image_id}/json"), MAX_CONFIG_BYTES, f"{image_id}/json")


def _diff_id(archive: Members, member: Member) -> DiffID:
    hashed = hashlib.sha256()
    with decompressed(archive.open(member)) as tar:
        while chunk := tar.read(_CHUNK):
            hashed.update(chunk)
    return DiffID("sha256:" + hashed.hexdigest())
