"""Manifests, indexes and image configs as typed values (image-spec; Docker's schema 2), parsed with bounds.

Content-addressed JSON is never re-encoded: keep the bytes whose digest you were given, and parse a copy.
Everything here comes from outside and is hostile: sizes and counts are bounded, only sha256 is known, and a
document that could be read as both manifest and index is refused (CVE-2021-41190).

Like Go, which wrote most of these documents, we take `null` for a missing value.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, TypeVar, cast

import msgspec

from wherry.errors import InvalidParameter
from wherry.oci.digest import DiffID, Digest, parse_digest

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1: Final = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

MANIFEST_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES: Final = (OCI_INDEX, DOCKER_INDEX)

MAX_MANIFEST_BYTES: Final = 4 << 20
MAX_CONFIG_BYTES: Final = 4 << 20
MAX_LAYERS: Final = 500  # the kernel's limit of lower layers in one overlay
MAX_INDEX_ENTRIES: Final = 1000
MAX_BLOB_BYTES: Final = 1 << 40


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a manifest runs on: image-index.md. See `oci.platform` for parsing and matching."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What points at a blob: image-spec descriptor.md."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One image for one platform. `media_type` is filled in where the document leaves it out."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = ""
    annotations: dict[str, str] = {}
    subject: Descriptor | None = None
    artifact_type: str = ""


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Manifests by platform (Docker: manifest list)."""

    schema_version: int
    manifests: tuple[Descriptor, ...]
    media_type: str = ""
    annotations: dict[str, str] = {}
    subject: Descriptor | None = None
    artifact_type: str = ""


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """The `config` (and Docker's `container_config`) of an image config: what a container starts from."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, object] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, object] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    created: str = ""
    author: str = ""
    created_by: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFS(msgspec.Struct, frozen=True):
    type: str = "layers"
    diff_ids: tuple[DiffID, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """image-spec config.md, with the fields Docker adds. Its bytes' digest is the image's ID."""

    architecture: str = ""
    os: str = ""
    rootfs: RootFS = RootFS()
    config: ContainerConfig | None = None
    container: str = ""
    container_config: ContainerConfig | None = None
    created: str = ""
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    history: list[History] = []
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())


T = TypeVar("T")


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """The manifest or index in `data`. `media_type` is what the response or descriptor called it (may be empty).

    Raises InvalidParameter, naming the field, for anything malformed, too large, ambiguous, of schema 1, or with
    a digest other than sha256.
    """
    document = _decode(data, "manifest", MAX_MANIFEST_BYTES)
    said = document.get("mediaType", "")
    if not isinstance(said, str):
        raise InvalidParameter("invalid manifest: mediaType is not a string")
    kind = _media_type(media_type.partition(";")[0].strip().lower(), said, document)
    if kind in INDEX_TYPES:
        if document.get("config") or document.get("layers"):
            raise InvalidParameter(
                f"media-type: expected index but found manifest ({kind})"
            )  # containerd's text
        index = _convert({**document, "mediaType": kind}, Index, "manifest")
        _check_count("manifests", len(index.manifests), MAX_INDEX_ENTRIES)
        for position, entry in enumerate(index.manifests):
            _check_descriptor(f"manifests[{position}]", entry)
        return index
    if document.get("manifests"):
        raise InvalidParameter(f"media-type: expected manifest but found index ({kind})")  # containerd's text
    manifest = _convert({**document, "mediaType": kind}, Manifest, "manifest")
    _check_descriptor("config", manifest.config)
    _check_count("layers", len(manifest.layers), MAX_LAYERS)
    for position, layer in enumerate(manifest.layers):
        _check_descriptor(f"layers[{position}]", layer)
    return manifest


def parse_config(data: bytes) -> ImageConfig:
    """The image config in `data`. Raises InvalidParameter, naming the field."""
    config = _convert(_decode(data, "image config", MAX_CONFIG_BYTES), ImageConfig, "image config")
    _check_count("rootfs.diff_ids", len(config.rootfs.diff_ids), MAX_LAYERS)
    if config.rootfs.type not in ("layers", ""):
        raise InvalidParameter(f"invalid image config: rootfs type {config.rootfs.type!r} is not layers")
    for diff_id in config.rootfs.diff_ids:
        parse_digest(diff_id)
    return config


_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def created_ns(config: ImageConfig) -> int:
    """`created` as nanoseconds since 1970; 0 where it is missing or unreadable."""
    match = _TIME.fullmatch(config.created)
    if match is None:
        return 0
    try:
        whole = datetime.fromisoformat(match[1] + match[3].upper().replace("Z", "+00:00"))
    except ValueError:
        return 0
    since = whole.timestamp()
    nanoseconds = int(since) * 10**9 + int((match[2] or "").ljust(9, "0"))
    return nanoseconds if -(2**63) <= nanoseconds < 2**63 else 0


def _media_type(given: str, said: str, document: dict[str, Any]) -> str:
    """Which of our four types this is. What it is served as and what it says of itself must agree."""
    for name in (given, said):
        if name in DOCKER_SCHEMA1:
            raise InvalidParameter(
                "Docker Image manifest version 2, schema 1 is not supported: push the image anew"
            )
    known = (*MANIFEST_TYPES, *INDEX_TYPES)
    if document.get("schemaVersion") != 2:
        raise InvalidParameter(
            f"unsupported manifest schema version {document.get('schemaVersion')!r}: expected 2"
        )
    if said and said not in known:
        raise InvalidParameter(f"unsupported manifest media type {said!r}")
    if given in known:
        if said and said != given:
            raise InvalidParameter(f"mediaType in manifest should be '{given}' not '{said}'")
        return given
    if said:
        return said
    if "manifests" in document and "layers" not in document:
        return OCI_INDEX
    if "config" in document and "layers" in document:
        return OCI_MANIFEST
    raise InvalidParameter(
        f"unsupported manifest media type {given!r}, and the document does not say what it is"
    )


def _check_descriptor(where: str, descriptor: Descriptor) -> None:
    try:
        parse_digest(descriptor.digest)
    except InvalidParameter as exc:
        raise InvalidParameter(f"invalid manifest: {where}: {exc}") from None
    if not 0 <= descriptor.size <= MAX_BLOB_BYTES:
        raise InvalidParameter(f"invalid manifest: {where}: size {descriptor.size} is out of range")


def _check_count(where: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidParameter(f"too many {where}: {count}, at most {limit} are allowed")


def _decode(data: bytes, what: str, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise InvalidParameter(f"{what} is too large: {len(data)} bytes, at most {limit} are read")
    try:
        document = _without_nulls(msgspec.json.decode(data))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise InvalidParameter(f"invalid {what}: {exc}") from None
    if not isinstance(document, dict):
        raise InvalidParameter(f"invalid {what}: expected a JSON object")
    return cast("dict[str, Any]", document)


def _convert(document: dict[str, Any], kind: type[T], what: str) -> T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as exc:
        raise InvalidParameter(f"invalid {what}: {exc}") from None


def _without_nulls(value: Any) -> Any:
    """`value` without the object members that are null: Go takes null for the zero value."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {key: _without_nulls(member) for key, member in members.items() if member is not None}
    if isinstance(value, list):
        return [_without_nulls(member) for member in cast("list[Any]", value)]
    return value
