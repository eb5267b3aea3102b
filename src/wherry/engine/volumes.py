"""Volumes as clients see them: lists, inspects, removals. What containers do with them is in volume_mounts.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import UNSET

from wherry.engine.context import Context
from wherry.engine.views import Filters, check_filters, label_matches
from wherry.errors import Conflict, InvalidParameter, Unavailable, WherryError
from wherry.model import volumes as model
from wherry.store.trees import tree_size
from wherry.volumes.volumes import ANONYMOUS, LOCAL, Volume

_LIST_FILTERS = frozenset(("dangling", "driver", "label", "name"))
_PRUNE_FILTERS = frozenset(("all", "label", "label!"))
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
"""What can make Python's matcher take for ever, where Go's does not."""


class VolumeDirectory:
    """`docker volume` and its five verbs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._volumes = context.volumes
        self._is_pruning = False

    async def create(self, body: model.VolumeCreate) -> model.Volume:
        """The volume asked for, made or found; without a name, a new one. Raises Docker's texts."""
        if body.cluster_volume_spec is not None:
            raise Unavailable("volume create: cluster volumes need a swarm manager, and this node is none")
        made = await self._volumes.create(
            body.name, body.driver, options=body.driver_opts, labels=body.labels
        )
        return resource(made)

    async def list(self, filters: Filters | None = None) -> model.VolumeList:
        """The volumes that `filters` lets through, by name, and a warning for each plugin that is silent."""
        is_wanted = volume_filter(filters or {}, is_used=lambda name: bool(self._volumes.users(name)))
        found, warnings = await self._volumes.list()
        return model.VolumeList([resource(volume) for volume in found if is_wanted(volume)], warnings or None)

    async def inspect(self, name: str) -> model.Volume:
        return resource(await self._volumes.get(name))

    async def update(self, name: str) -> None:
        """Docker's answer where there are no cluster volumes."""
        del name
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")

    async def remove(self, name: str, *, force: bool = False) -> None:
        await self._volumes.remove(name, force=force)

    async def prune(self, filters: Filters | None = None) -> model.VolumesPruned:
        """Remove the local volumes without options that no container uses: the anonymous ones, or with `all` all."""
        filters = dict(filters or {})
        check_filters(filters, _PRUNE_FILTERS)
        if not _all(filters.get("all", [])):
            filters["label"] = [*filters.get("label", []), ANONYMOUS]
        if self._is_pruning:
            raise Conflict("a prune operation is already running")
        self._is_pruning = True
        try:
            return await self._prune(filters)
        finally:
            self._is_pruning = False

    async def _prune(self, filters: Filters) -> model.VolumesPruned:
        deleted: list[str] = []
        reclaimed = 0
        for volume in self._volumes.known():
            if (
                volume.driver != LOCAL
                or volume.options
                or self._volumes.users(volume.name)
                or not _labels_match(volume, filters)
            ):
                continue
            size = await asyncio.to_thread(_size, volume)
            try:
                await self._volumes.remove(volume.name)
            except WherryError:
                continue  # somebody took to it, or removed it, meanwhile
            deleted.append(volume.name)
            reclaimed += max(size, 0)
        self._context.events.emit("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return model.VolumesPruned(deleted, reclaimed)

    async def usage(self) -> list[model.Volume]:
        """The local volumes that are directories of this host, with what they take."""
        shown: list[model.Volume] = []
        for volume in self._volumes.known():
            if volume.driver == LOCAL and not volume.options:
                item = resource(volume)
                size = await asyncio.to_thread(_size, volume)
                item.usage_data = model.UsageData(size, len(self._volumes.users(volume.name)))
                shown.append(item)
        return shown


def resource(volume: Volume) -> model.Volume:
    """A volume in the API's words."""
    created = datetime.fromtimestamp(volume.created_ns // 10**9, UTC) if volume.created_ns else None
    return model.Volume(
        created_at=created.strftime("%Y-%m-%dT%H:%M:%SZ") if created else UNSET,
        driver=volume.driver,
        labels=volume.labels,
        mountpoint=volume.mountpoint,
        name=volume.name,
        options=volume.options,
        scope=volume.scope,
        status=volume.status if volume.status else UNSET,
    )


def volume_filter(filters: Filters, *, is_used: Callable[[str], bool]) -> Callable[[Volume], bool]:
    """Docker's rules for `volume ls --filter`: keys are ANDed, values of a key ORed, labels ANDed.

    Raises InvalidParameter, with Docker's texts, for a key or value nobody knows.
    """
    check_filters(filters, _LIST_FILTERS)
    patterns: list[re.Pattern[str]] = []
    for text in filters.get("name", ()):
        if _REPEATED_GROUP.search(text):
            raise InvalidParameter("invalid filter 'name': a repeated group is not supported")
        try:
            patterns.append(re.compile(text))
        except re.error as exc:
            raise InvalidParameter(f"invalid filter 'name': {exc}") from exc
    wants_dangling = _truth("dangling", filters["dangling"]) if filters.get("dangling") else None

    def matches(volume: Volume) -> bool:
        return (
            (not filters.get("driver") or volume.driver in filters["driver"])
            and (not patterns or any(pattern.search(volume.name) for pattern in patterns))
            and label_matches(volume.labels or {}, filters.get("label", []))
            and (wants_dangling is None or wants_dangling != is_used(volume.name))
        )

    return matches


def _truth(name: str, values: list[str]) -> bool:
    has_true, has_false = bool(_TRUE & set(values)), bool(_FALSE & set(values))
    if has_true == has_false:
        shown = " ".join(values)
        raise InvalidParameter(f"invalid filter '{name}=[{shown}]'")
    return has_true


def _all(values: list[str]) -> bool:
    if len(values) > 1:
        raise InvalidParameter(f"invalid filter 'all=[{' '.join(values)}]': only one value is expected")
    for value in values:
        if value not in _TRUE | _FALSE:
            raise InvalidParameter(
                f"invalid filter 'all': strconv.ParseBool: parsing \"{value}\": invalid syntax"
            )
    return bool(_TRUE & set(values))


def _labels_match(volume: Volume, filters: Filters) -> bool:
    labels = volume.labels or {}
    return label_matches(labels, filters.get("label", [])) and not any(
        label_matches(labels, [label]) for label in filters.get("label!", ())
    )


def _size(volume: Volume) -> int:
    try:
        return tree_size(volume.mountpoint)
    except OSError:
        return -1
