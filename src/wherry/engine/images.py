"""Images as a user sees them: list, inspect, history, tag, remove, prune; and the ways in and out of the store.

How images come and go is in pulls.py, loads.py, saves.py and imports.py; here is what they have in common and what
only reads or renames. Texts are Docker's where users match on them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import cast

import msgspec

from wherry.engine import image_filters
from wherry.engine.image_filters import Filters
from wherry.engine.imports import import_image
from wherry.engine.loads import load
from wherry.engine.progress import Message
from wherry.engine.pulls import Emit, Pulls, credentials_from
from wherry.engine.removals import ImageUser, Removals
from wherry.engine.saves import save
from wherry.errors import InvalidParameter, NotFound
from wherry.linux import memory
from wherry.model.containers import NEVER, GraphDriverData, HealthConfig
from wherry.model.images import (
    AuthConfig,
    AuthResponse,
    HistoryItem,
    ImageConfigView,
    ImageDelete,
    ImageInspect,
    ImageMetadata,
    ImagesPruned,
    ImageSummary,
    RootFS,
)
from wherry.oci.digest import ChainID, Digest
from wherry.oci.image import ContainerConfig, ImageConfig, Platform, created_ns
from wherry.oci.platform import format_platform, host_platform, matches, parse_platform
from wherry.oci.reference import Reference, parse_reference
from wherry.registry.fetch import Download, Registry
from wherry.store.images import Image, Tag
from wherry.store.store import Store

MAX_CACHED_CONFIGS = 256


class ResolvedImage(msgspec.Struct, frozen=True):
    """What a container is created from."""

    id: Digest
    config: ImageConfig
    chain_ids: tuple[ChainID, ...]
    """Lowest first; may be empty."""


class Images:
    """All of the engine's dealings with images. `users` tells which containers are made of an image."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        emit: Emit,
        users: Callable[[Digest], Sequence[ImageUser]],
        *,
        concurrent_downloads: int = 3,
    ) -> None:
        self._store = store
        self._registry = registry
        self._emit = emit
        self._users = users
        self._pulls = Pulls(store, registry, emit, concurrent_downloads=concurrent_downloads)
        self._configs: dict[Digest, ImageConfig] = {}
        self._naming = asyncio.Lock()
        self._removals = Removals(store, emit, users, self._labels, self._naming)

    def limit_downloads(self, limit: int) -> None:
        """How many blobs are pulled at once from now on; 0: any number."""
        self._pulls.limit(limit)

    async def resolve(self, name: str, *, platform: str | None = None) -> ResolvedImage:
        """The image a container is to be made of. Raises NotFound with Docker's `No such image: x:latest`."""
        image = await self._store.images.get(name)
        config = await self._config(image.id)
        if platform:
            wanted = parse_platform(platform)
            actual = _platform_of(config)
            if not matches(wanted, actual):
                # Docker's text; its clients pull the right one on seeing a 404.
                raise NotFound(
                    f"image with reference {name} was found but its platform ({format_platform(actual)}) "
                    f"does not match the specified platform ({format_platform(wanted)})"
                )
        return ResolvedImage(image.id, config, tuple(layer.chain_id for layer in image.layers))

    @asynccontextmanager
    async def held(self, name: str, *, platform: str | None = None) -> AsyncGenerator[ResolvedImage]:
        """As `resolve`, and the image's layers stay on disk until the end, even if it is removed meanwhile.

        For creating a container: between looking an image up and having a writable layer on top of it, nothing else
        keeps its layers.
        """
        with self._store.lease() as lease:
            image = await self.resolve(name, platform=platform)
            await lease.hold(image.id, *image.chain_ids)
            await self._store.images.get_by_id(image.id)  # gone while a removal was waited for: NotFound
            yield image

    async def list(
        self,
        *,
        all: bool = False,
        filters: Filters | None = None,
        shared_size: bool = False,
        digests: bool = False,
        manifests: bool = False,
    ) -> list[ImageSummary]:
        """Images, newest first. `all`, `digests` and `manifests` change nothing: nothing is hidden here."""
        del all, digests, manifests
        filters = filters or {}
        image_filters.check_names(filters, image_filters.LIST_FILTERS)
        is_dangling = image_filters.truth(filters, "dangling", False)
        older = [image_filters.until_ns(filters)]
        older += [(await self._store.images.get(name)).created_ns for name in filters.get("before", ())]
        oldest = min((limit for limit in older if limit is not None), default=None)
        newer = [(await self._store.images.get(name)).created_ns for name in filters.get("since", ())]
        fits = image_filters.reference_matcher(filters.get("reference", ()))
        images = await self._store.images.all()
        tags, by_digest = _names_by_image(await self._store.images.tags())
        shared = await self._shared_sizes(images) if shared_size else {}
        found: list[ImageSummary] = []
        for image in images:
            if oldest is not None and image.created_ns >= oldest:
                continue
            if newer and image.created_ns <= max(newer):
                continue
            repo_tags, repo_digests = tags.get(image.id, []), by_digest.get(image.id, [])
            if filters.get("reference"):
                repo_tags = [name for name in repo_tags if fits(name)]
                repo_digests = [name for name in repo_digests if fits(name)]
                if not repo_tags and not repo_digests:
                    continue
            if filters.get("dangling") and is_dangling != (not repo_tags):
                continue
            config = await self._config(image.id)
            labels = config.config.labels if config.config else None
            if not image_filters.has_labels(filters.get("label", ()), labels or {}):
                continue
            found.append(
                ImageSummary(
                    id=image.id,
                    created=image.created_ns // 10**9,
                    size=image.size,
                    repo_tags=[name.familiar for name in repo_tags],
                    repo_digests=[name.familiar for name in repo_digests],
                    shared_size=shared.get(image.id, -1),
                    labels=labels,
                    containers=len(self._users(image.id)),
                )
            )
        found.sort(key=lambda summary: summary.created, reverse=True)
        return found

    async def inspect(
        self, name: str, *, platform: str | None = None, manifests: bool = False
    ) -> ImageInspect:
        """All about one image. `manifests` is for stores of several platforms, and ours has one an image."""
        del manifests
        image_id = (await self.resolve(name, platform=platform)).id
        image = await self._store.images.get_by_id(image_id)
        config = await self._config(image.id)
        view = ImageInspect(
            id=image.id,
            repo_tags=[ref.familiar for ref in await self._store.images.tags_of(image.id)],
            repo_digests=[ref.familiar for ref in await self._store.images.digests_of(image.id)],
            architecture=config.architecture,
            os=config.os or "linux",
            size=image.size,
            config=_config_view(config.config),
            graph_driver=GraphDriverData(data=self._graph_data(image), name=self._store.driver.name),
            root_fs=RootFS(),
            metadata=ImageMetadata(format_time(image.last_tagged_ns)),
            comment=config.comment or (config.history[-1].comment if config.history else ""),
            docker_version=config.docker_version,
            author=config.author,
        )
        if image.layers:
            view.root_fs.layers = [layer.diff_id for layer in image.layers]
        if config.created:
            view.created = config.created
        if config.variant:
            view.variant = config.variant
        if config.os_version:
            view.os_version = config.os_version
        return view

    async def history(self, name: str) -> list[HistoryItem]:
        """How the image was made, newest step first."""
        image = await self._store.images.get(name)
        config = await self._config(image.id)
        sizes = await self._store.images.layer_sizes()
        layers = iter(image.layers)
        items: list[HistoryItem] = []
        for step in config.history:
            size = 0
            if not step.empty_layer:
                layer = next(layers, None)
                if layer is None:
                    raise InvalidParameter("too many non-empty layers in History section")  # Docker's text
                size = sizes.get(layer.chain_id, 0)
            items.append(
                HistoryItem(
                    id="<missing>",
                    created=_seconds(step.created),
                    created_by=step.created_by,
                    tags=None,
                    size=size,
                    comment=step.comment,
                )
            )
        items.reverse()
        if items:
            items[0].id = image.id
            items[0].tags = [ref.familiar for ref in await self._store.images.tags_of(image.id)] or None
        return items

    async def tag(self, source: str, repo: str, tag: str) -> None:
        """Give the image `source` the name `repo:tag`; another image loses it."""
        image = await self._store.images.get(source)
        reference = tag_reference(repo, tag)
        async with self._naming:
            await self._store.images.tag(reference, image.id)
        await self._say("tag", image.id, name=reference.familiar)

    async def remove(self, name: str, *, force: bool = False, noprune: bool = False) -> list[ImageDelete]:
        """Take a name away, and the image with the last one. Raises Conflict where Docker does.

        `noprune` keeps untagged parents; parents are not kept here at all.
        """
        del noprune
        return await self._removals.remove(name, force=force)

    async def prune(self, filters: Filters | None = None) -> ImagesPruned:
        """Remove images without a name (`dangling=false`: without a container) and what only they needed."""
        return await self._removals.prune(filters)

    async def pull(
        self, from_image: str, tag: str, *, platform: str | None = None, auth: AuthConfig | None = None
    ) -> AsyncGenerator[Message]:
        """Pull, and say how it goes. The first step raises what is known before anything was said.

        Without tag and digest every tag of the repository is pulled. Closing the iterator ends the pull.
        """
        wanted = parse_platform(platform) if platform else None
        messages = await self._pulls.pull(from_image, tag, platform=wanted, auth=auth)
        async with aclosing(messages), giving_memory_back():
            async for message in messages:
                yield message

    async def load(
        self, chunks: AsyncIterable[bytes], *, quiet: bool = False, platforms: Sequence[str] = ()
    ) -> AsyncGenerator[Message]:
        """Load every image of an archive (see archives.py), and say which."""
        wanted = [parse_platform(platform) for platform in platforms]
        messages = load(self._store, self._emit, chunks, is_quiet=quiet, platforms=wanted)
        async with aclosing(messages), giving_memory_back():
            async for message in messages:
                yield message

    async def save(self, names: Sequence[str]) -> AsyncGenerator[bytes]:
        """An archive of images in pieces (see saves.py). The first step raises what is wrong with the names."""
        pieces = save(self._store, self._emit, names)
        async with aclosing(pieces), giving_memory_back():
            async for piece in pieces:
                yield piece

    async def import_image(
        self,
        source: str,
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str | None = None,
        stream: AsyncIterable[bytes] | None = None,
    ) -> AsyncGenerator[Message]:
        """Make an image of a tar: `stream`, or what the URL `source` leads to. The last message holds its ID."""
        reference = tag_reference(repo, tag) if repo else None
        wanted = parse_platform(platform) if platform else host_platform()
        download = await self._registry.download(source) if stream is None else None
        try:
            messages = import_image(
                self._store,
                self._emit,
                cast("Download", download) if stream is None else stream,
                source=download.url if download is not None else "-",
                reference=reference,
                message=message,
                changes=changes,
                platform=wanted,
                total=download.total if download is not None else 0,
            )
            async with aclosing(messages), giving_memory_back():
                async for said in messages:
                    yield said
        finally:
            if download is not None:
                download.close()

    async def login(self, auth: AuthConfig) -> AuthResponse:
        """Check credentials with their registry. Raises Unauthorized."""
        credentials = credentials_from(auth)
        if credentials is None:
            raise InvalidParameter("no username given")
        await self._registry.login(auth.serveraddress, credentials)
        return AuthResponse(identity_token=auth.identitytoken)

    async def _say(self, action: str, image_id: Digest, *, name: str | None = None) -> None:
        self._emit(action, image_id, await self._labels(image_id) | {"name": name or image_id})

    async def _labels(self, image_id: Digest) -> dict[str, str]:
        config = (await self._config(image_id)).config
        return dict((config.labels if config else None) or {})

    async def _config(self, image_id: Digest) -> ImageConfig:
        config = self._configs.get(image_id)
        if config is None:
            config = await self._store.config(image_id)
            while len(self._configs) >= MAX_CACHED_CONFIGS:
                self._configs.pop(next(iter(self._configs)))
            self._configs[image_id] = config
        return config

    def _graph_data(self, image: Image) -> dict[str, str] | None:
        if not image.layers:
            return None
        return dict(self._store.driver.layer_data(image.layers[-1].chain_id))

    async def _shared_sizes(self, images: Sequence[Image]) -> dict[Digest, int]:
        sizes = await self._store.images.layer_sizes()
        users = Counter(layer.chain_id for image in images for layer in image.layers)
        return {
            image.id: sum(sizes.get(one.chain_id, 0) for one in image.layers if users[one.chain_id] > 1)
            for image in images
        }


@asynccontextmanager
async def giving_memory_back() -> AsyncGenerator[None]:
    """Buffers of a megabyte in several threads leave a heap full of holes: once it is done, trim it."""
    try:
        yield
    finally:
        memory.trim()


def tag_reference(repo: str, tag: str) -> Reference:
    """The name `docker tag` gives. Raises InvalidParameter with Docker's texts."""
    reference = parse_reference(repo)
    if reference.digest is not None:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    return reference.with_tag(tag) if tag else reference.with_default_tag()


def format_time(ns: int) -> str:
    """RFC 3339 with nanoseconds as Go prints it: no trailing zeros, year 1 for never."""
    if not ns:
        return NEVER
    seconds, fraction = divmod(ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def _names_by_image(
    names: Sequence[Tag],
) -> tuple[dict[Digest, list[Reference]], dict[Digest, list[Reference]]]:
    tags: dict[Digest, list[Reference]] = {}
    digests: dict[Digest, list[Reference]] = {}
    for name in names:
        kind = digests if name.reference.tag is None else tags
        kind.setdefault(name.image_id, []).append(name.reference)
    return tags, digests


def _platform_of(config: ImageConfig) -> Platform:
    return Platform(architecture=config.architecture, os=config.os or "linux", variant=config.variant)


def _seconds(created: str) -> int:
    return created_ns(ImageConfig(created=created)) // 10**9


def _config_view(config: ContainerConfig | None) -> ImageConfigView:
    """An image's part of the configuration, with nothing where it says nothing."""
    view = ImageConfigView()
    if config is None:
        return view
    for name in (
        "user",
        "env",
        "entrypoint",
        "cmd",
        "working_dir",
        "labels",
        "stop_signal",
        "on_build",
        "shell",
    ):
        value = getattr(config, name)
        if value:
            setattr(view, name, value)
    if config.exposed_ports:
        view.exposed_ports = {port: {} for port in config.exposed_ports}
    if config.volumes:
        view.volumes = {path: {} for path in config.volumes}
    if config.args_escaped:
        view.args_escaped = True
    if config.healthcheck is not None:
        view.healthcheck = HealthConfig(**msgspec.structs.asdict(config.healthcheck))
    return view
