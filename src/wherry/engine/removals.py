"""Taking images away: which name or image goes, what forbids it, and in which words. The rules are Docker's.

By name: the name goes, and with the last name the image. By ID: the image goes with all its names, if they are
all in one repository. A container made of it keeps an image (`must be forced`); a running one cannot be overruled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from wherry.engine import image_filters
from wherry.engine.image_filters import Filters
from wherry.engine.pulls import Emit, short
from wherry.errors import Conflict
from wherry.model.images import ImageDelete, ImagesPruned
from wherry.oci.digest import Digest
from wherry.oci.reference import Reference, parse_reference
from wherry.store.store import Store


class ImageUser(msgspec.Struct, frozen=True):
    """A container made of an image."""

    container_id: str
    is_running: bool


class Removals:
    """`users` tells which containers are made of an image; `labels` an image's labels.

    `naming` is held from looking at names and users to changing them.
    """

    def __init__(
        self,
        store: Store,
        emit: Emit,
        users: Callable[[Digest], Sequence[ImageUser]],
        labels: Callable[[Digest], Awaitable[Mapping[str, str]]],
        naming: asyncio.Lock,
    ) -> None:
        self._store = store
        self._emit = emit
        self._users = users
        self._labels = labels
        self._naming = naming

    async def remove(self, name: str, *, force: bool) -> list[ImageDelete]:
        """Take a name away, and the image with the last one. Raises Conflict where Docker does."""
        async with self._naming:
            return await self._remove(name, force)

    async def prune(self, filters: Filters | None = None) -> ImagesPruned:
        """Remove images without a name (`dangling=false`: without a container) and what only they needed."""
        filters = filters or {}
        image_filters.check_names(filters, image_filters.PRUNE_FILTERS)
        is_dangling_only = image_filters.truth(filters, "dangling", True)
        until = image_filters.until_ns(filters)
        removed: list[ImageDelete] = []
        async with self._naming:
            before = await self._store.images.layer_sizes()
            for image in await self._store.images.all():
                if until is not None and image.created_ns > until:
                    continue
                labels = await self._labels(image.id)
                if not image_filters.has_labels(filters.get("label", ()), labels):
                    continue
                if any(image_filters.has_labels((item,), labels) for item in filters.get("label!", ())):
                    continue
                tags = await self._store.images.tags_of(image.id)
                if self._users(image.id) or (is_dangling_only and tags):
                    continue
                removed += await self._delete(image.id)
            after = await self._store.images.layer_sizes()
        reclaimed = sum(size for chain, size in before.items() if chain not in after)
        reclaimed += await self._store.collect()  # what broken-off pulls left to go on with
        self._emit("prune", "", {"reclaimed": str(reclaimed)})
        return ImagesPruned(removed or None, reclaimed)

    async def _remove(self, name: str, force: bool) -> list[ImageDelete]:
        image = await self._store.images.get(name)
        tags = await self._store.images.tags_of(image.id)
        digests = await self._store.images.digests_of(image.id)
        users = self._users(image.id)
        if _is_id(name, image.id):
            _check_by_id(image.id, users, tags, digests, force=force)
            return await self._delete(image.id)
        reference = parse_reference(name).with_default_tag()
        if not force and users and _is_single(tags, digests):
            # Docker's text.
            raise Conflict(
                f'conflict: unable to remove repository reference "{name}" (must force) - container '
                f"{short(users[0].container_id)} is using its referenced image {short(image.id)}"
            )
        gone = [reference]
        # Digests of a repository go with its last tag.
        left = [tag for tag in tags if tag != reference]
        if reference.digest is None and not any(tag.repository == reference.repository for tag in left):
            gone += [one for one in digests if one.repository == reference.repository]
        kept = [one for one in (*left, *digests) if one not in gone]
        is_held = any(user.is_running for user in users) or (users and not force)
        if not kept and not is_held:
            return await self._delete(image.id)
        deletes: list[ImageDelete] = []
        for one in gone:
            await self._store.images.untag(one)
            self._emit("untag", image.id, {**await self._labels(image.id), "name": image.id})
            deletes.append(ImageDelete(untagged=one.familiar))
        return deletes

    async def _delete(self, image_id: Digest) -> list[ImageDelete]:
        """Forget the image with all its names."""
        labels = await self._labels(image_id)
        removed = await self._store.remove_image(image_id)
        deletes = [ImageDelete(untagged=ref.familiar) for ref in removed.untagged]
        for _ in removed.untagged:
            self._emit("untag", image_id, {**labels, "name": image_id})
        if removed.image_id is not None:
            deletes.append(ImageDelete(deleted=image_id))
            deletes += [ImageDelete(deleted=chain) for chain in removed.layers]
            self._emit("delete", image_id, {**labels, "name": image_id})
        return deletes


def _check_by_id(
    image_id: Digest,
    users: Sequence[ImageUser],
    tags: Sequence[Reference],
    digests: Sequence[Reference],
    *,
    force: bool,
) -> None:
    """Raise Docker's Conflict when the image must not be deleted by its ID."""
    running = next((user for user in users if user.is_running), None)
    if running is not None:
        why, how = (
            f"image is being used by running container {short(running.container_id)}",
            "cannot be forced",
        )
    elif force:
        return
    elif not _is_single(tags, digests):
        why, how = "image is referenced in multiple repositories", "must be forced"
    elif users:
        why, how = (
            f"image is being used by stopped container {short(users[0].container_id)}",
            "must be forced",
        )
    else:
        return
    raise Conflict(f"conflict: unable to delete {short(image_id)} ({how}) - {why}")


def _is_single(tags: Sequence[Reference], digests: Sequence[Reference]) -> bool:
    """Whether the image goes by one name: at most one tag, and all digests in that repository."""
    return len(tags) <= 1 and len({ref.repository for ref in (*tags, *digests)}) <= 1


def _is_id(name: str, image_id: Digest) -> bool:
    """Whether `name` is (the beginning of) the ID it was found by, and no name."""
    return image_id.startswith(name) or image_id.removeprefix("sha256:").startswith(name)
