"""Getting manifests and blobs of one repository (distribution-spec, "Pull") from the best endpoint.

    Registry.open(domain, path, reference)     picks an endpoint by asking each for the manifest
        → Repository, Manifest
    Repository.manifest(reference)             by tag or digest; the digest is checked
    Repository.blob(digest, size, sink)        resumed where it was cut, at most `size` bytes;
                                               whoever owns the sink checks the digest

Failures that may pass (a cut or stalled connection, 429, 5xx) are repeated with growing pauses, as long as
there is progress or for MAX_ATTEMPTS; `Retry-After` is honoured up to MAX_PAUSE_S.
All else is raised at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

import aiohttp
import msgspec

from wherry.errors import Internal, InvalidParameter, NotFound, Unauthorized, WherryError
from wherry.oci.digest import Digest, digest_of, parse_digest
from wherry.registry.auth import Credentials
from wherry.registry.client import Client
from wherry.registry.failures import NotConnected, TryLater, Unreachable, read_body, reason
from wherry.registry.resolve import HUB_DOMAIN, Endpoint, Endpoints

MAX_MANIFEST = 4 << 20
"""distribution-spec asks registries to take this much; nothing real is larger."""
MAX_ATTEMPTS = 5
MIN_PROGRESS = 32 << 10
"""Bytes that make an attempt count as progress: a server that gives one at a time is not waited for."""
MAX_PAUSE_S = 60.0
FIRST_PAUSE_S = 0.25
CHUNK = 1 << 20
MAX_TAG_PAGES = 100
MAX_TAGS = 100_000
MAX_TAG_LENGTH = 128

SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)

T = TypeVar("T")


class Sink(Protocol):
    """Where a blob goes. It keeps what it has when a download is cut; the download goes on from `offset`."""

    @property
    def offset(self) -> int: ...

    async def write(self, data: bytes) -> None: ...


class Manifest(msgspec.Struct, frozen=True):
    """A manifest or index exactly as it was sent, with what it says it is. `digest` is of `data`."""

    data: bytes
    media_type: str
    digest: Digest


class Download:
    """A file being downloaded: iterate over its bytes once, then `close`."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._response = response
        self.url = url
        self.total = response.content_length or 0
        """Its size where the server says it."""

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
            raise Unreachable(f'Get "{self.url}": {reason(exc)}') from exc

    def close(self) -> None:
        self._response.close()


class Registry:
    """Opens repositories. One for the daemon, on its one Client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def close(self) -> None:
        await self._client.close()

    def use(self, endpoints: Endpoints) -> None:
        """Ask these servers from now on. What is under way goes on with those it has."""
        self._client.endpoints = endpoints

    async def open(
        self, domain: str, path: str, reference: str, credentials: Credentials | None
    ) -> tuple[Repository, Manifest]:
        """The repository `path` of `domain` at the first endpoint that gives the manifest of `reference`."""
        endpoints = await self._client.endpoints.for_domain(domain)
        return await self._first(
            endpoints,
            lambda repository: repository.manifest(reference),
            path=path,
            credentials=credentials,
        )

    async def tags(
        self, domain: str, path: str, credentials: Credentials | None
    ) -> tuple[Repository, list[str]]:
        """Every tag of the repository (`docker pull --all-tags`)."""
        endpoints = await self._client.endpoints.for_domain(domain)
        return await self._first(
            endpoints, lambda repository: repository.tags(), path=path, credentials=credentials
        )

    async def login(self, server: str, credentials: Credentials) -> None:
        """Return when `server` (host[:port], URL, or empty for the Hub) accepts the credentials.

        Raises Unauthorized when it does not.
        """
        host = urlsplit(server).netloc if "://" in server else server.split("/")[0]
        domain = HUB_DOMAIN if host in ("", "index.docker.io", "registry-1.docker.io") else host
        endpoints = [e for e in await self._client.endpoints.for_domain(domain) if not e.is_mirror]
        for position, endpoint in enumerate(endpoints):
            try:
                return await self._login(endpoint, credentials)
            except NotConnected:
                if position == len(endpoints) - 1:
                    raise
        raise Internal(f"no endpoint for {server}")

    async def download(self, url: str) -> Download:
        """A file from anywhere, over http or https. Raises InvalidParameter for another scheme."""
        if "://" not in url:
            url = f"http://{url}"
        return Download(await self._client.get(url), url)

    async def _login(self, endpoint: Endpoint, credentials: Credentials) -> None:
        url = f"{endpoint.url}/v2/"
        challenge = await self._client.challenge_of(endpoint)
        if challenge is None:
            return
        if challenge.scheme == "bearer":
            token = await self._client.tokens.get(
                challenge, "", credentials, registry_url=endpoint.url, is_verified=endpoint.is_verified
            )
            authorization = f"Bearer {token}"
        else:
            authorization = credentials.basic()
        status, _ = await self._client.exchange(
            "GET",
            url,
            headers={},
            authorization=authorization,
            is_verified=endpoint.is_verified,
            limit=MAX_MANIFEST,
        )
        if status in (401, 403):
            # Docker's text.
            raise Unauthorized(f"login attempt to {url} failed with status: 401 Unauthorized")
        if status != 200:
            raise Internal(f"login attempt to {url} failed with status: {status}")

    async def _first(
        self,
        endpoints: list[Endpoint],
        ask: Callable[[Repository], Awaitable[T]],
        *,
        path: str,
        credentials: Credentials | None,
    ) -> tuple[Repository, T]:
        """The first endpoint's answer. Mirrors may fail in any way; TLS gives way to HTTP if that is allowed."""
        for position, endpoint in enumerate(endpoints):
            repository = Repository(self._client, endpoints[position:], path, credentials)
            try:
                return repository, await ask(repository)
            except WherryError as exc:
                is_last = position == len(endpoints) - 1
                if is_last or not (endpoint.is_mirror or isinstance(exc, NotConnected)):
                    raise
        raise Internal("no endpoint to ask")


class Repository:
    """One repository as one client sees it. `endpoints[0]` has it; the others are for when that one fails."""

    def __init__(
        self, client: Client, endpoints: list[Endpoint], path: str, credentials: Credentials | None
    ) -> None:
        self._client = client
        self._endpoints = endpoints
        self._path = path
        self._credentials = credentials
        self._scope = f"repository:{path}:pull"

    async def manifest(self, reference: str) -> Manifest:
        """The manifest or index that `reference`, a tag or a digest, names. A digest is checked.

        Raises InvalidParameter for one that is too large, wrong, or of a kind that is no image.
        """

        async def attempt() -> Manifest:
            path = f"/v2/{self._path}/manifests/{quote(reference, safe=':')}"
            async with self._client.open(
                "GET",
                self._endpoints[0],
                path,
                scope=self._scope,
                credentials=self._credentials,
                headers={"Accept": ACCEPT},
            ) as response:
                if response.content_length is not None and response.content_length > MAX_MANIFEST:
                    raise _too_large(reference)
                media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                try:
                    data = await read_body(response, MAX_MANIFEST)
                except Internal as exc:
                    raise _too_large(reference) from exc
                return _check_manifest(data, media_type, reference)

        return await _repeat(attempt)

    async def blob(
        self, digest: Digest, size: int, sink: Sink, progress: Callable[[int], None] | None = None
    ) -> None:
        """Write the blob's bytes from `sink.offset` to `size` into `sink`.

        `progress` is told how many bytes the sink holds. Raises InvalidParameter when there are more.
        """
        parse_digest(digest)
        for position, endpoint in enumerate(self._endpoints):
            try:
                return await self._blob(endpoint, digest, size, sink, progress)
            except (Unreachable, TryLater, NotFound):
                # A mirror that lost the blob; never from TLS to HTTP in the middle of an image.
                if not endpoint.is_mirror or position == len(self._endpoints) - 1:
                    raise
        raise Internal("no endpoint to ask")

    async def tags(self) -> list[str]:
        """Every tag, in the registry's order."""
        found: list[str] = []
        path = f"/v2/{self._path}/tags/list?" + urlencode({"n": 1000})
        for _ in range(MAX_TAG_PAGES):
            async with self._client.open(
                "GET", self._endpoints[0], path, scope=self._scope, credentials=self._credentials
            ) as response:
                try:
                    page = msgspec.json.decode(await read_body(response, MAX_MANIFEST), type=_Tags)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                    raise Internal(f"unreadable list of tags of {self._path}: {exc}") from exc
                found += page.tags or []
                if len(found) > MAX_TAGS or any(len(tag) > MAX_TAG_LENGTH for tag in page.tags or ()):
                    raise Internal(f"the list of tags of {self._path} is too long")
                link = response.links["next"].get("url") if "next" in response.links else None
            if link is None:
                return found
            # Only the path: the next page is the same server's.
            parts = urlsplit(urljoin("http://registry/", str(link)))
            prefix = urlsplit(self._endpoints[0].url).path
            path = parts.path.removeprefix(prefix) + (f"?{parts.query}" if parts.query else "")
        raise Internal(f"repository {self._path} has too many tags")

    async def _blob(
        self,
        endpoint: Endpoint,
        digest: Digest,
        size: int,
        sink: Sink,
        progress: Callable[[int], None] | None,
    ) -> None:
        async def attempt() -> None:
            start = sink.offset
            if start >= size:
                return  # a download that was broken off between its last byte and its check
            headers = {"Range": f"bytes={start}-"} if start else {}
            async with self._client.open(
                "GET",
                endpoint,
                f"/v2/{self._path}/blobs/{digest}",
                scope=self._scope,
                credentials=self._credentials,
                headers=headers,
            ) as response:
                await _drain(response, digest, size, sink, progress)

        await _repeat(attempt, measure=lambda: sink.offset)


async def _drain(
    response: aiohttp.ClientResponse,
    digest: Digest,
    size: int,
    sink: Sink,
    progress: Callable[[int], None] | None,
) -> None:
    # A server without ranges starts over: what we have already is skipped.
    begin = _range_start(response) if response.status == 206 else 0
    if begin > sink.offset:
        raise Internal(f"registry skipped bytes of blob {digest}")
    skip = sink.offset - begin
    left = size - sink.offset
    pending: list[bytes] = []
    held = 0

    async def flush() -> None:
        nonlocal held
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        held = 0
        if data:
            await sink.write(data)
            if progress is not None:
                progress(sink.offset)

    try:
        async for chunk in response.content.iter_any():
            if skip:
                dropped = min(skip, len(chunk))
                skip -= dropped
                chunk = chunk[dropped:]
            left -= len(chunk)
            if left < 0:
                raise InvalidParameter(f"blob {digest} is larger than its manifest says ({size} bytes)")
            pending.append(chunk)
            held += len(chunk)
            if held >= CHUNK:
                await flush()
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
        await flush()
        raise Unreachable(f'Get "{response.url}": {reason(exc)}') from exc
    await flush()
    if left > 0:
        raise Unreachable(f'Get "{response.url}": unexpected EOF')


def _range_start(response: aiohttp.ClientResponse) -> int:
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    first = rest.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        raise Internal(f"unreadable Content-Range from {response.url}")
    return int(first[:18])


async def _repeat(attempt: Callable[[], Awaitable[T]], *, measure: Callable[[], int] | None = None) -> T:
    """`attempt`'s result, tried again after failures that may pass. `measure` grows with progress."""
    failures = 0
    seen = measure() if measure else 0
    while True:
        try:
            return await attempt()
        except (Unreachable, TryLater) as exc:
            if measure is None and isinstance(exc, NotConnected):
                raise  # the first question to an endpoint: its neighbour is asked instead
            last = exc
            pause = exc.after_s if isinstance(exc, TryLater) else None
        now = measure() if measure else 0
        if now - seen >= MIN_PROGRESS:
            failures, seen = 0, now
        failures += 1
        if failures >= MAX_ATTEMPTS:
            raise last
        grown = FIRST_PAUSE_S * 2 ** (failures - 1)
        await asyncio.sleep(min(MAX_PAUSE_S, grown if pause is None else pause) * random.uniform(1.0, 1.2))


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Head(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""


def _check_manifest(data: bytes, media_type: str, reference: str) -> Manifest:
    digest = digest_of(data)
    if ":" in reference and digest != parse_digest(reference):
        raise InvalidParameter(f"manifest verification failed for digest {reference}")
    try:
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"unreadable manifest for {reference}: {exc}") from exc
    if head.schema_version == 1 or media_type in SCHEMA1:
        raise InvalidParameter(
            f"unsupported manifest for {reference}: Docker image format v1 and manifest version 2, schema 1 "
            "are obsolete; push the image again with a current tool"
        )
    if (
        head.media_type
        and media_type
        and head.media_type.lower() != media_type
        and media_type != "application/json"
    ):
        raise InvalidParameter(
            f"manifest of {reference} says it is {head.media_type!r}, the registry says {media_type!r}"
        )
    return Manifest(data, head.media_type or media_type, digest)


def _too_large(reference: str) -> InvalidParameter:
    return InvalidParameter(f"manifest of {reference} is larger than {MAX_MANIFEST} bytes")
