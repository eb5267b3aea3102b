"""Pulling: from a reference a person typed to an image in the store, told in Docker's words.

    manifest (or index → manifest for the platform) → config → missing layers, in parallel → unpacked bottom up
    → one commit of image and names

Layers unpack in order while later ones still download. Everything is verified before it gets a name: manifest and
config here, blobs by the ingest, unpacked layers against the config's diffIDs by the store.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import BinaryIO, cast

from wherry.engine import threads
from wherry.engine.progress import Message, Progress, stream
from wherry.engine.transfers import Report, Transfers
from wherry.errors import Forbidden, InvalidParameter, NotFound, Unauthorized, WherryError
from wherry.model.images import AuthConfig
from wherry.oci.digest import ChainID, DiffID, Digest, chain_ids, digest_of, parse_digest
from wherry.oci.image import (
    DOCKER_CONFIG,
    MAX_CONFIG_BYTES,
    OCI_CONFIG,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    parse_config,
    parse_manifest,
)
from wherry.oci.platform import choose
from wherry.oci.reference import Reference, parse_reference
from wherry.registry.auth import Credentials
from wherry.registry.failures import Denied
from wherry.registry.fetch import Manifest as Fetched
from wherry.registry.fetch import Registry, Repository
from wherry.store.blobs import Ingest
from wherry.store.store import LayerSource, Lease, NewTag, Store

CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", "application/json", "")
LAYER_TYPES = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
MAX_INDEX_DEPTH = 2

Emit = Callable[[str, str, dict[str, str]], None]
"""`emit(action, id, attributes)` of an image event."""


class Pulls:
    """Pulls from registries into one store. Constructed once: concurrent pulls share their downloads."""

    def __init__(
        self, store: Store, registry: Registry, emit: Emit, *, concurrent_downloads: int = 3
    ) -> None:
        self._store = store
        self._registry = registry
        self._emit = emit
        self._transfers = Transfers(concurrent_downloads)

    def limit(self, concurrent_downloads: int) -> None:
        """How many blobs are transferred at once from now on."""
        self._transfers.limit(concurrent_downloads)

    async def pull(
        self, from_image: str, tag: str, *, platform: Platform | None, auth: AuthConfig | None
    ) -> AsyncGenerator[Message]:
        """Begin to pull; what follows is said by the iterator, and its failures are raised by it.

        What can be known from the manifest (no such image, access denied, no connection) is raised here.
        `tag` may be a digest. With neither tag nor digest every tag of the repository is pulled, as in Docker.
        """
        reference = pull_reference(from_image, tag)
        credentials = credentials_from(auth)
        if reference.tag is None and reference.digest is None:
            return await self._pull_all(reference, platform, credentials)
        repository, top = await self._open(reference, credentials)

        async def work(progress: Progress) -> None:
            is_newer = await self._pull_one(progress, reference, repository, top, platform)
            _conclude(progress, reference.familiar, is_newer)

        return stream(work)

    async def _pull_all(
        self, reference: Reference, platform: Platform | None, credentials: Credentials | None
    ) -> AsyncGenerator[Message]:
        try:
            repository, tags = await self._registry.tags(reference.domain, reference.path, credentials)
        except (NotFound, Denied, Unauthorized) as exc:
            raise explain(exc, reference) from exc

        async def work(progress: Progress) -> None:
            is_newer = False
            for tag in tags:
                tagged = reference.with_tag(tag)
                top = await repository.manifest(tag)
                is_newer |= await self._pull_one(progress, tagged, repository, top, platform)
            _conclude(progress, reference.familiar, is_newer)

        return stream(work)

    async def _open(
        self, reference: Reference, credentials: Credentials | None
    ) -> tuple[Repository, Fetched]:
        wanted = reference.digest or reference.tag or ""
        try:
            return await self._registry.open(reference.domain, reference.path, wanted, credentials)
        except (NotFound, Denied, Unauthorized) as exc:
            raise explain(exc, reference) from exc

    async def _pull_one(
        self,
        progress: Progress,
        reference: Reference,
        repository: Repository,
        top: Fetched,
        platform: Platform | None,
    ) -> bool:
        """Pull one manifest; whether the name is new or now means another image."""
        progress.send({"status": f"Pulling from {reference.path}", "id": reference.digest or reference.tag})
        fetched, manifest = await _image_manifest(repository, top, platform)
        _check_types(manifest)
        tags = [NewTag(reference.with_digest(top.digest), top.digest)]
        if reference.tag is not None:
            tags.append(NewTag(reference.with_tag(reference.tag), top.digest))
        before = await self._store.images.resolve(tags[-1].reference)
        try:
            config = await self._bring(progress, repository, fetched, manifest, tags)
        except (OSError, WherryError) as exc:
            if is_disk_full(exc):
                await self._store.collect()  # room for others goes before going on where we were
            raise
        progress.status(f"Digest: {top.digest}")
        labels = dict(config.config.labels or {}) if config.config else {}
        self._emit("pull", reference.familiar, labels | {"name": reference.familiar_name})
        return before != manifest.config.digest

    async def _bring(
        self,
        progress: Progress,
        repository: Repository,
        fetched: Fetched,
        manifest: Manifest,
        tags: Sequence[NewTag],
    ) -> ImageConfig:
        """Bring config, layers and manifest into the store, and name the image."""
        stop = threading.Event()
        try:
            with self._store.lease() as lease:
                image_id = parse_digest(manifest.config.digest)
                await lease.hold(image_id)
                data = await self._config(repository, manifest.config, image_id)
                config = _check_config(data, manifest)
                sources = await self._layers(progress, repository, manifest, config, lease, stop)
                await self._store.commit_image(
                    data,
                    sources,
                    lease,
                    manifest=fetched.data,
                    media_type=fetched.media_type,
                    tags=tags,
                    stop=stop,
                )
                return config
        finally:
            stop.set()

    async def _config(self, repository: Repository, descriptor: Descriptor, image_id: Digest) -> bytes:
        if await threads.run(self._store.blobs.has, image_id):
            return await threads.run(self._store.blobs.read, image_id)
        if descriptor.size > MAX_CONFIG_BYTES:
            raise InvalidParameter(f"image config {image_id} is larger than {MAX_CONFIG_BYTES} bytes")
        sink = _MemorySink()
        await repository.blob(image_id, descriptor.size, sink)
        data = bytes(sink.data)
        if digest_of(data) != image_id:
            raise InvalidParameter(f"image config verification failed for digest {image_id}")
        return data

    async def _layers(
        self,
        progress: Progress,
        repository: Repository,
        manifest: Manifest,
        config: ImageConfig,
        lease: Lease,
        stop: threading.Event,
    ) -> list[LayerSource]:
        """Bring every layer into the store; where each came from."""
        diff_ids = config.rootfs.diff_ids
        chains = chain_ids(diff_ids)
        await lease.hold(*chains, *(layer.digest for layer in manifest.layers))
        present = [await self._store.has_layer(chain, lease) for chain in chains]
        sources = [LayerSource(open=self._opener(layer, progress), blob=layer) for layer in manifest.layers]
        if all(present) and await self._is_stored(manifest.config.digest):
            return sources  # nothing of it is new: Docker says nothing about its layers
        for layer, is_present in zip(manifest.layers, present, strict=True):
            progress.status("Already exists" if is_present else "Pulling fs layer", short(layer.digest))
        missing = [n for n, is_present in enumerate(present) if not is_present]
        downloads = {
            n: asyncio.ensure_future(self._download(progress, repository, manifest.layers[n]))
            for n in missing
        }
        try:
            parent: ChainID | None = None
            for n, chain in enumerate(chains):
                if n in downloads:
                    await _first_failure(downloads, n)
                    try:
                        await self._unpack(progress, diff_ids[n], parent, sources[n], lease, stop)
                    except InvalidParameter:
                        if not await threads.run(_drop_if_damaged, self._store, manifest.layers[n].digest):
                            raise
                        await self._download(progress, repository, manifest.layers[n])
                        await self._unpack(progress, diff_ids[n], parent, sources[n], lease, stop)
                parent = chain
        finally:
            for download in downloads.values():
                download.cancel()
            if downloads:
                await asyncio.wait(downloads.values())
                for download in downloads.values():
                    if not download.cancelled():
                        download.exception()
        return sources

    async def _is_stored(self, image_id: Digest) -> bool:
        try:
            await self._store.images.get_by_id(image_id)
        except NotFound:
            return False
        return True

    async def _download(self, progress: Progress, repository: Repository, layer: Descriptor) -> None:
        name = short(layer.digest)
        if self._transfers.is_busy:
            progress.status("Waiting", name)

        async def work(report: Report) -> None:
            await self._fetch_blob(repository, layer, report)

        def listen(done: int) -> None:
            progress.update("Downloading", name, done, layer.size)

        await self._transfers.join(layer.digest, work, listen)
        progress.status("Verifying Checksum", name)
        progress.status("Download complete", name)

    async def _fetch_blob(self, repository: Repository, layer: Descriptor, report: Report) -> None:
        """Download one blob into the store; what an earlier attempt left is gone on with."""
        for is_retry in (False, True):
            ingest = await _begin_ingest(self._store, layer)
            try:
                if not ingest.is_done:
                    await repository.blob(layer.digest, layer.size, IngestSink(ingest), report)
                    try:
                        await threads.run(ingest.commit)
                    except InvalidParameter as exc:
                        if ingest.was_resumed and not is_retry:
                            continue  # the earlier attempt's part may have been damaged
                        # Docker's text.
                        raise InvalidParameter(
                            f"filesystem layer verification failed for digest {layer.digest}"
                        ) from exc
                return
            finally:
                ingest.abort(keep=True)  # harmless once committed; gives the turn back where nothing was owed

    async def _unpack(
        self,
        progress: Progress,
        diff_id: DiffID,
        parent: ChainID | None,
        source: LayerSource,
        lease: Lease,
        stop: threading.Event,
    ) -> None:
        await self._store.commit_layer(diff_id, parent, source, lease, stop=stop)
        if source.blob is not None:
            progress.status("Pull complete", short(source.blob.digest))

    def _opener(self, layer: Descriptor, progress: Progress) -> Callable[[], BinaryIO]:
        report = progress.from_thread("Extracting", short(layer.digest), layer.size)
        return lambda: cast(BinaryIO, CountingReader(self._store.blobs.open(layer.digest), report))


class IngestSink:
    """A blob's ingest as a registry download writes to it."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    @property
    def offset(self) -> int:
        return self._ingest.offset

    async def write(self, data: bytes) -> None:
        await threads.run(self._ingest.write, data)


class _MemorySink:
    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def offset(self) -> int:
        return len(self.data)

    async def write(self, data: bytes) -> None:
        self.data += data


class CountingReader(io.RawIOBase):
    """A binary file that tells how many bytes of it were read."""

    def __init__(self, source: BinaryIO, report: Callable[[int], None]) -> None:
        super().__init__()
        self._source = source
        self._report = report
        self._done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # pyright: ignore[reportArgumentType]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._done += len(data)
        self._report(self._done)
        return data

    def close(self) -> None:
        if not self.closed:
            self._source.close()
            super().close()


def pull_reference(from_image: str, tag: str) -> Reference:
    """What `POST /images/create?fromImage=…&tag=…` asks for; `tag` may be a digest."""
    reference = parse_reference(from_image.strip().removesuffix(":"))
    if reference.repository == "docker.io/library/scratch":
        raise Forbidden("'scratch' is a reserved name")
    if tag:
        if ":" in tag:
            return reference.with_digest(parse_digest(tag))
        return reference.with_tag(tag)
    return reference


def credentials_from(auth: AuthConfig | None) -> Credentials | None:
    if auth is None:
        return None
    return Credentials(auth.username, auth.password, auth.identitytoken, auth.registrytoken) or None


def explain(exc: NotFound | Denied | Unauthorized, reference: Reference) -> WherryError:
    """A registry's refusal in the sentence Docker puts before it."""
    text = str(exc)
    if text.startswith("denied"):
        return NotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            f"'docker login': {text}"
        )
    if isinstance(exc, Unauthorized):
        return Denied(text)
    if isinstance(exc, Denied):
        return exc
    if text.startswith("name unknown"):
        return NotFound(f"repository {reference.familiar_name} not found: {text}")
    return NotFound(f"manifest for {reference.familiar} not found: {text}")


def is_disk_full(exc: BaseException | None) -> bool:
    """Whether a full disk (or a used-up quota) is at the bottom of it."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        exc = exc.__cause__
    return False


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


async def _image_manifest(
    repository: Repository, top: Fetched, platform: Platform | None
) -> tuple[Fetched, Manifest]:
    """The manifest for one platform below `top`. Indexes may nest, but not for ever."""
    fetched = top
    for _ in range(MAX_INDEX_DEPTH + 1):
        parsed = parse_manifest(fetched.data, fetched.media_type)
        if not isinstance(parsed, Index):
            return fetched, parsed
        chosen = choose(parsed.manifests, platform)
        fetched = await repository.manifest(chosen.digest)
        if len(fetched.data) != chosen.size:
            raise InvalidParameter(
                f"manifest {chosen.digest} has {len(fetched.data)} bytes, its index says {chosen.size}"
            )
    raise InvalidParameter(f"manifest {top.digest} nests indexes more than {MAX_INDEX_DEPTH} deep")


def _check_types(manifest: Manifest) -> None:
    """Refuse what is no container image before anything of it is fetched."""
    if manifest.config.media_type not in CONFIG_TYPES:
        raise InvalidParameter(f"unsupported media type {manifest.config.media_type}")  # Docker's text
    for layer in manifest.layers:
        if not layer.media_type.startswith(LAYER_TYPES):
            raise InvalidParameter(f"unsupported media type {layer.media_type}")  # Docker's text


def _check_config(data: bytes, manifest: Manifest) -> ImageConfig:
    config = parse_config(data)
    if config.os and config.os != "linux":
        # Docker's text.
        raise InvalidParameter(f'image operating system "{config.os}" cannot be used on this platform')
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        # Docker's text.
        raise InvalidParameter("layers from manifest don't match image configuration")
    return config


def _conclude(progress: Progress, name: str, is_newer: bool) -> None:
    if is_newer:
        progress.status(f"Status: Downloaded newer image for {name}")
    else:
        progress.status(f"Status: Image is up to date for {name}")


async def _first_failure(downloads: dict[int, asyncio.Task[None]], n: int) -> None:
    """Wait for download `n`, but not longer than until any other one fails."""
    while not downloads[n].done():
        pending = [task for task in downloads.values() if not task.done()]
        await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
        for task in downloads.values():
            if task.done() and task.exception() is not None:
                task.result()
    downloads[n].result()


def _drop_if_damaged(store: Store, digest: Digest) -> bool:
    """Delete a stored blob that is not what its name says (a disk's fault): else every later pull would fail on it."""
    hashed = hashlib.sha256()
    with store.blobs.open(digest) as blob:
        while data := blob.read(1 << 20):
            hashed.update(data)
    if digest == f"sha256:{hashed.hexdigest()}":
        return False
    store.blobs.remove(digest)
    return True


async def _begin_ingest(store: Store, layer: Descriptor) -> Ingest:
    """An ingest for the blob, never lost to a cancellation between the thread and here."""
    future = asyncio.get_running_loop().run_in_executor(None, store.blobs.ingest, layer.digest, layer.size)
    try:
        return await threads.settled(future)
    except asyncio.CancelledError:
        if future.exception() is None:
            future.result().abort(keep=True)
        raise
