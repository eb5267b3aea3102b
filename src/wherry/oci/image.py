"""Manifests, indexes and image configs as typed values (image-spec; Docker's schema 2), parsed with bounds.

Content-addressed JSON is never re-encoded: keep the bytes whose digest you were given, and parse a copy. Everything
here comes from outside and is hostile: sizes, counts and nesting are bounded, only sha256 is known, and a document
that could be read as both manifest and index is refused (CVE-2021-41190).
"""

from __future__ import annotations

from typing import Final

import msgspec

from wherry.oci.digest import DiffID, Digest

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
MAX_NESTING: Final = 64
MAX_BLOB_BYTES: Final = 1 << 40


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
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
    """One image for one platform. `media_type` is filled in from the response where the document leaves it out."""

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
    exposed_ports: dict[str, msgspec.Raw] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, msgspec.Raw] | None = None
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
    os_features: list[str] = msgspec.field(name="os.features", default_factory=list)


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """The manifest or index in `data`. `media_type` is what the response or descriptor called it (may be empty).

    Raises InvalidParameter, naming the field, for anything malformed, too large, ambiguous, of schema 1, or with a
    digest other than sha256.
    """
    raise NotImplementedError


def parse_config(data: bytes) -> ImageConfig:
    """The image config in `data`. Raises InvalidParameter, naming the field."""
    raise NotImplementedError


def created_ns(config: ImageConfig) -> int:
    """`created` as nanoseconds since 1970; 0 where it is missing or unreadable."""
    raise NotImplementedError
