"""Volumes as the Docker Engine API spells them: /volumes, and their part of /system/df."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from wherry.model.wire import Wire


class VolumeCreate(Wire):
    """Body of POST /volumes/create. Without a name an anonymous volume is made."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None


class UsageData(Wire):
    """`size` in bytes, `ref_count` containers; -1 where it is not known."""

    size: int
    ref_count: int


class Volume(Wire, kw_only=True):
    """One volume. `labels` and `options` are null where none were given."""

    created_at: str | UnsetType = UNSET
    driver: str
    labels: dict[str, str] | None
    mountpoint: str
    name: str
    options: dict[str, str] | None
    scope: str
    status: dict[str, Any] | UnsetType = UNSET
    usage_data: UsageData | UnsetType = UNSET


class VolumeList(Wire):
    volumes: list[Volume]
    warnings: list[str] | None


class VolumesPruned(Wire):
    volumes_deleted: list[str]
    space_reclaimed: int


class DiskUsage(Wire, kw_only=True):
    """GET /system/df."""

    layers_size: int = 0
    images: list[Any] | None = None
    containers: list[Any] | None = None
    volumes: list[Volume] | None = None
    build_cache: list[Any] | None = None
