"""An image engine on a store of its own, with its events and the users of its images in the open."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from tests.fakes.registry import config_of, digest_of, tar_of
from wherry.engine.images import Images, ImageUser
from wherry.registry.client import Client
from wherry.registry.fetch import Registry
from wherry.registry.resolve import Endpoints
from wherry.store.store import Store


class Bench:
    """`images` under test, and what it says and is told."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self.store = store
        self.registry = registry
        self.events: list[tuple[str, str, str]] = []
        self.users: dict[str, list[ImageUser]] = {}
        self.images = Images(store, registry, self._emit, lambda image_id: self.users.get(image_id, []))

    @classmethod
    async def open(cls, root: str, *, mirrors: Sequence[str] = ()) -> Bench:
        store = await Store.open(os.path.join(root, "data"), "overlay2")
        return cls(store, Registry(Client(Endpoints(mirrors=mirrors))))

    async def close(self) -> None:
        await self.registry.close()
        await self.store.close()

    def _emit(self, action: str, image_id: str, attributes: dict[str, str]) -> None:
        self.events.append((action, image_id, attributes.get("name", "")))

    async def load(self, archive: bytes, **options: Any) -> list[dict[str, Any]]:
        return [message async for message in self.images.load(chunks_of(archive), **options)]

    async def pull(self, name: str, tag: str = "", **options: Any) -> list[dict[str, Any]]:
        return [message async for message in self.images.pull(name, tag, **options)]

    async def save(self, *names: str) -> bytes:
        return b"".join([piece async for piece in self.images.save(list(names))])

    async def names(self) -> list[list[str]]:
        return sorted(image.repo_tags for image in await self.images.list())

    async def is_empty(self) -> bool:
        """No image, and not a byte left of one on disk."""
        await self.store.collect()
        return not (await self.images.list() or list(self.store.blobs.list()) or self.store.driver.layers())


async def chunks_of(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def archive_of(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A plain tar of these files and symlinks, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            tar.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def docker_archive(*tags: str, layers: Sequence[bytes] | None = None, **config: Any) -> bytes:
    """What an old `docker save` writes."""
    layers = [tar_of({"hello": b"world"})] if layers is None else layers
    files = {"config.json": config_of(layers, **config)}
    files |= {f"{n}/layer.tar": layer for n, layer in enumerate(layers)}
    item = {
        "Config": "config.json",
        "RepoTags": list(tags) or None,
        "Layers": [f"{n}/layer.tar" for n in range(len(layers))],
    }
    files["manifest.json"] = json.dumps([item]).encode()
    return archive_of(files)


def image_id_of(archive: bytes) -> str:
    """The ID of the image in a `docker_archive`."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        config = tar.extractfile("config.json")
        assert config is not None
        return digest_of(config.read())
