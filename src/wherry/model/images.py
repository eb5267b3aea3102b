"""Images as the Docker Engine API 1.51 spells them, and the credentials a client sends along.

Fields that Go leaves out when empty have `UNSET` as their default. Lists of names are never null: clients of the
API have crashed on that.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType, field

from wherry.errors import InvalidParameter
from wherry.model.containers import GraphDriverData, HealthConfig
from wherry.model.wire import Wire, decode

MAX_AUTH_HEADER = 64 << 10


class AuthConfig(Wire, rename="lower"):
    """What `docker login` keeps and sends: body of `POST /auth`, `X-Registry-Auth`."""

    username: str = ""
    password: str = ""
    auth: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class AuthResponse(Wire):
    status: str = "Login Succeeded"
    identity_token: str = ""


class ImageSummary(Wire, kw_only=True):
    """One row of `GET /images/json`. `created` is in seconds; -1 means "was not counted"."""

    containers: int = -1
    created: int
    id: str
    labels: dict[str, str] | None = None
    parent_id: str = ""
    repo_digests: list[str] = []
    repo_tags: list[str] = []
    shared_size: int = -1
    size: int
    virtual_size: int | UnsetType = UNSET
    """Equal to `size`; only clients before API 1.44 get it."""


class ImageConfigView(Wire):
    """`Config` of an image's inspect: what an image can say. Seen of dockerd 28: these are null, those left out."""

    user: str = ""
    exposed_ports: dict[str, dict[str, Any]] | UnsetType = UNSET
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | UnsetType = UNSET
    args_escaped: bool | UnsetType = UNSET
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | UnsetType = UNSET
    shell: list[str] | UnsetType = UNSET


class RootFS(Wire):
    type: str = "layers"
    layers: list[str] | UnsetType = UNSET


class ImageMetadata(Wire):
    last_tag_time: str


class ImageInspect(Wire, kw_only=True):
    """`GET /images/NAME/json`, in dockerd's order: `docker inspect` prints it as it comes."""

    id: str
    repo_tags: list[str]
    repo_digests: list[str]
    parent: str = ""
    comment: str = ""
    created: str | UnsetType = UNSET
    docker_version: str = ""
    author: str = ""
    config: ImageConfigView
    architecture: str
    variant: str | UnsetType = UNSET
    os: str
    os_version: str | UnsetType = UNSET
    size: int
    virtual_size: int | UnsetType = UNSET
    """Equal to `size`; only clients before API 1.44 get it."""
    graph_driver: GraphDriverData
    root_fs: RootFS = field(name="RootFS")
    metadata: ImageMetadata


class HistoryItem(Wire):
    """One step of an image's making, newest first. `created` is in seconds."""

    comment: str
    created: int
    created_by: str
    id: str
    size: int
    tags: list[str] | None


class ImageDelete(Wire):
    """One line of `docker rmi`: a name or an image that went."""

    untagged: str | UnsetType = UNSET
    deleted: str | UnsetType = UNSET


class ImagesPruned(Wire):
    images_deleted: list[ImageDelete] | None
    space_reclaimed: int


def decode_registry_auth(header: str) -> AuthConfig | None:
    """What an `X-Registry-Auth` header holds, in either alphabet and with or without padding; None if unreadable.

    Docker takes an unreadable one for none, and so asks the registry anonymously.
    """
    if not header or len(header) > MAX_AUTH_HEADER:
        return None
    text = header.strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), AuthConfig)
    except (InvalidParameter, binascii.Error, ValueError, msgspec.MsgspecError):
        return None
