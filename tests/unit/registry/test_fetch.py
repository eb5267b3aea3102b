"""The registry client against a registry that misbehaves (SECURITY S40-S42)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
from tests.fakes import registry as fake
from tests.fakes.registry import FakeRegistry

from wherry.errors import Internal, InvalidParameter, NotFound, Unauthorized
from wherry.oci.digest import Digest
from wherry.registry import client as client_module
from wherry.registry import fetch
from wherry.registry.auth import Credentials
from wherry.registry.client import Client
from wherry.registry.failures import Denied, NotConnected, TryLater, Unreachable
from wherry.registry.fetch import Registry, Repository
from wherry.registry.resolve import Endpoints

BLOB = bytes(range(256)) * 2000
USER = Credentials("user", "secret")


class Sink:
    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def offset(self) -> int:
        return len(self.data)

    async def write(self, data: bytes) -> None:
        self.data += data


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
async def fake_registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=[fake.tar_of({"f": b"1"})])
        registry.add_blob(BLOB)
        yield registry


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    registry = Registry(Client(Endpoints()))
    yield registry
    await registry.close()


async def open_repository(
    registry: Registry, fake_registry: FakeRegistry, credentials: Credentials | None = None
) -> Repository:
    repository, _ = await registry.open(fake_registry.address, "x", "1", credentials)
    return repository


async def fetch_blob(repository: Repository, blob: bytes = BLOB) -> bytes:
    sink = Sink()
    await repository.blob(Digest(fake.digest_of(blob)), len(blob), sink)
    return bytes(sink.data)


async def test_manifest_by_tag_and_by_digest(registry: Registry, fake_registry: FakeRegistry) -> None:
    repository, by_tag = await registry.open(fake_registry.address, "x", "1", None)
    by_digest = await repository.manifest(by_tag.digest)
    assert by_digest.data == by_tag.data == fake_registry.manifests["x", "1"][0]
    assert by_tag.media_type == fake.OCI_MANIFEST


async def test_missing_manifest_gives_the_registry_words(
    registry: Registry, fake_registry: FakeRegistry
) -> None:
    with pytest.raises(NotFound, match=r"^manifest unknown: manifest unknown$"):
        await registry.open(fake_registry.address, "x", "2", None)


async def test_wrong_bytes_for_a_digest_are_refused(registry: Registry, fake_registry: FakeRegistry) -> None:
    digest = "sha256:" + "1" * 64
    fake_registry.manifests["x", digest] = fake_registry.manifests["x", "1"]
    repository = await open_repository(registry, fake_registry)
    with pytest.raises(InvalidParameter, match="manifest verification failed"):
        await repository.manifest(digest)


@pytest.mark.parametrize("declared", [True, False])
async def test_large_manifest_is_not_read(
    registry: Registry, fake_registry: FakeRegistry, declared: bool
) -> None:
    sent = 0

    async def endless(request: fake.web.Request) -> fake.web.StreamResponse:
        nonlocal sent
        response = fake.web.StreamResponse(headers={"Content-Type": fake.OCI_MANIFEST})
        if declared:
            response.content_length = 30 << 20
        await response.prepare(request)
        for _ in range(30):
            await response.write(b" " * (1 << 20))
            sent += 1
        return response

    fake_registry.fault("/manifests/", endless)
    with pytest.raises(InvalidParameter, match="larger than 4194304 bytes"):
        await registry.open(fake_registry.address, "x", "1", None)
    assert sent < 15


@pytest.mark.parametrize(
    "data",
    [b"<html>", b"[" * 500_000, b'{"schemaVersion":' + b"9" * 5000 + b"}", b"\xff\xfe", b"", b"null", b'"x"'],
)
async def test_malformed_manifest_is_refused(
    registry: Registry, fake_registry: FakeRegistry, data: bytes
) -> None:
    fake_registry.add_manifest("x", "bad", data)
    with pytest.raises(InvalidParameter):
        await registry.open(fake_registry.address, "x", "bad", None)


async def test_schema_1_is_refused_with_its_name(registry: Registry, fake_registry: FakeRegistry) -> None:
    old = {"schemaVersion": 1, "name": "x", "tag": "1", "fsLayers": []}
    fake_registry.add_manifest(
        "x", "old", json.dumps(old).encode(), "application/vnd.docker.distribution.manifest.v1+prettyjws"
    )
    with pytest.raises(InvalidParameter, match="schema 1 are obsolete"):
        await registry.open(fake_registry.address, "x", "old", None)


async def test_content_type_and_media_type_must_agree(
    registry: Registry, fake_registry: FakeRegistry
) -> None:
    data, _ = fake_registry.manifests["x", "1"]
    fake_registry.add_manifest("x", "odd", data, fake.OCI_INDEX)
    with pytest.raises(InvalidParameter, match="the registry says"):
        await registry.open(fake_registry.address, "x", "odd", None)


async def test_cut_blob_is_resumed_by_range(registry: Registry, fake_registry: FakeRegistry) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.cut_after(100_000, BLOB), times=3)
    assert await fetch_blob(repository) == BLOB
    ranges = [headers.get("Range") for headers in fake_registry.asked("/blobs/")]
    assert ranges == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


async def test_cut_every_few_bytes_still_ends(registry: Registry, fake_registry: FakeRegistry) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.cut_after(40_000, BLOB))
    assert await fetch_blob(repository) == BLOB


async def test_server_without_ranges_starts_over(registry: Registry, fake_registry: FakeRegistry) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.cut_after(100_000, BLOB, ranges=False), times=1)
    fake_registry.fault("/blobs/", fake.body(BLOB))
    assert await fetch_blob(repository) == BLOB


@pytest.mark.parametrize("count", [0, 10])
async def test_no_progress_gives_up(registry: Registry, fake_registry: FakeRegistry, count: int) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.cut_after(count, BLOB))
    with pytest.raises(Unreachable):
        await fetch_blob(repository)
    assert len(fake_registry.asked("/blobs/")) == fetch.MAX_ATTEMPTS


async def test_blob_that_was_whole_already_is_not_asked_for(
    registry: Registry, fake_registry: FakeRegistry
) -> None:
    repository = await open_repository(registry, fake_registry)
    sink = Sink()
    sink.data += BLOB
    await repository.blob(Digest(fake.digest_of(BLOB)), len(BLOB), sink)
    assert fake_registry.asked("/blobs/") == []


@pytest.mark.parametrize("tags", [["x" * 129], ["a"] * 100_001])
async def test_endless_list_of_tags_is_refused(
    registry: Registry, fake_registry: FakeRegistry, tags: list[str]
) -> None:
    fake_registry.fault("/tags/list", fake.body(json.dumps({"tags": tags}).encode()))
    with pytest.raises(Internal, match="too long"):
        await registry.tags(fake_registry.address, "x", None)


async def test_more_bytes_than_declared_are_refused(registry: Registry, fake_registry: FakeRegistry) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.body(BLOB + b"x"))
    with pytest.raises(InvalidParameter, match="larger than its manifest says"):
        await fetch_blob(repository)


async def test_fewer_bytes_than_declared_are_refused(registry: Registry, fake_registry: FakeRegistry) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.body(BLOB[:-1]))
    with pytest.raises((Unreachable, Internal)):
        await fetch_blob(repository)


@pytest.mark.parametrize("code", [500, 502, 503, 429])
async def test_passing_failures_are_repeated(
    registry: Registry, fake_registry: FakeRegistry, code: int
) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.status(code), times=2)
    assert await fetch_blob(repository) == BLOB


async def test_manifest_requests_are_repeated_too(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.fault("/manifests/", fake.status(503), times=1)
    await open_repository(registry, fake_registry)


async def test_retry_after_is_honoured(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.fault(
        "/manifests/", fake.status(429, name="TOOMANYREQUESTS", message="slow", retry_after="1"), times=1
    )
    started = time.monotonic()
    await open_repository(registry, fake_registry)
    assert time.monotonic() - started >= 1


async def test_lasting_429_says_so(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.fault("/manifests/", fake.status(429, name="TOOMANYREQUESTS", message="slow down"))
    with pytest.raises(TryLater, match=r"^toomanyrequests: slow down$"):
        await registry.open(fake_registry.address, "x", "1", None)


async def test_stalled_blob_times_out(
    registry: Registry, fake_registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(fetch, "MAX_ATTEMPTS", 2)
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.stall(0, BLOB))
    with pytest.raises(Unreachable, match="no data for"):
        await fetch_blob(repository)


async def test_cancelling_drops_the_connection_at_once(
    registry: Registry, fake_registry: FakeRegistry
) -> None:
    repository = await open_repository(registry, fake_registry)
    begun, gone = asyncio.Event(), asyncio.Event()
    fake_registry.fault("/blobs/", fake.stall(100, BLOB, gone, begun))
    task = asyncio.ensure_future(fetch_blob(repository))
    await begun.wait()
    task.cancel()
    async with asyncio.timeout(1):
        await gone.wait()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_refused_connection_says_where(registry: Registry) -> None:
    with pytest.raises(NotConnected, match=r"dial tcp 127.0.0.1:1: connect: connection refused"):
        await registry.open("127.0.0.1:1", "x", "1", None)


async def test_basic_credentials(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.basic = "user:secret"
    with pytest.raises(Denied, match="no basic auth credentials"):
        await registry.open(fake_registry.address, "x", "1", None)
    repository = await open_repository(registry, fake_registry, USER)
    assert await fetch_blob(repository) == BLOB
    with pytest.raises(Denied):
        await registry.open(fake_registry.address, "x", "1", Credentials("user", "wrong"))


async def test_bearer_token_is_fetched_once_for_a_scope(
    registry: Registry, fake_registry: FakeRegistry
) -> None:
    fake_registry.bearer = "user:secret"
    repository = await open_repository(registry, fake_registry, USER)
    await fetch_blob(repository)
    assert fake_registry.tokens_given == 1
    (asked,) = [path for _, path, _ in fake_registry.requests if path.startswith("/token")]
    assert "scope=repository%3Ax%3Apull" in asked
    assert "service=fake" in asked


async def test_anonymous_token(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.bearer = ""
    await open_repository(registry, fake_registry)


async def test_wrong_password_at_the_token_server(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.bearer = "user:secret"
    with pytest.raises(Unauthorized, match="incorrect username or password"):
        await registry.open(fake_registry.address, "x", "1", Credentials("user", "wrong"))


async def test_expired_token_is_replaced(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.bearer = ""
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", expired_once(fake_registry), times=1)
    assert await fetch_blob(repository) == BLOB
    assert fake_registry.tokens_given == 2


def expired_once(registry: FakeRegistry) -> fake.Fault:
    async def answer(request: fake.web.Request) -> fake.web.StreamResponse:
        return fake.challenge(
            f'Bearer realm="http://{registry.address}/token",service="fake",error="invalid_token"'
        )

    return answer


async def test_dead_token_server_is_an_error(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.bearer = ""
    fake_registry.realm = "http://127.0.0.1:1/token"
    with pytest.raises(Unreachable):
        await registry.open(fake_registry.address, "x", "1", None)


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "ftp://x/", "nonsense", "http://u:p@127.0.0.1/"])
async def test_odd_token_servers_are_refused(
    registry: Registry, fake_registry: FakeRegistry, realm: str
) -> None:
    fake_registry.bearer = ""
    fake_registry.realm = realm
    with pytest.raises(Unauthorized):
        await registry.open(fake_registry.address, "x", "1", None)


async def test_endless_401_ends(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.fault("/manifests/", expired_once(fake_registry))
    with pytest.raises(Denied):
        await registry.open(fake_registry.address, "x", "1", None)
    assert len(fake_registry.asked("/manifests/")) == 2


async def test_redirect_loses_authorization(registry: Registry, fake_registry: FakeRegistry) -> None:
    """CVE-2020-15157: a blob elsewhere is fetched without the registry's credentials."""
    fake_registry.basic = "user:secret"
    async with FakeRegistry() as elsewhere:
        elsewhere.add_blob(BLOB)
        repository = await open_repository(registry, fake_registry, USER)
        fake_registry.fault(
            "/blobs/", fake.redirect(f"http://{elsewhere.address}/v2/y/blobs/{fake.digest_of(BLOB)}")
        )
        assert await fetch_blob(repository) == BLOB
        assert all("Authorization" not in headers for _, _, headers in elsewhere.requests)


async def test_challenge_behind_a_redirect_is_not_answered(
    registry: Registry, fake_registry: FakeRegistry
) -> None:
    fake_registry.basic = "user:secret"
    async with FakeRegistry(basic="user:secret") as elsewhere:
        repository = await open_repository(registry, fake_registry, USER)
        fake_registry.fault("/blobs/", fake.redirect(f"http://{elsewhere.address}/v2/y/blobs/x"))
        with pytest.raises(Denied):
            await fetch_blob(repository)
        assert all("Authorization" not in headers for _, _, headers in elsewhere.requests)


async def test_redirect_loop_ends(registry: Registry, fake_registry: FakeRegistry) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.redirect(f"http://{fake_registry.address}/v2/x/blobs/again"))
    with pytest.raises(Internal, match="stopped after 10 redirects"):
        await fetch_blob(repository)


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "unix:///run/x.sock", "http://u:p@127.0.0.1/", "http://[/", "http://a:b/"],
)
async def test_redirects_lead_to_http_only(
    registry: Registry, fake_registry: FakeRegistry, target: str
) -> None:
    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", fake.redirect(target))
    with pytest.raises(Internal, match=r"refusing to follow a redirect|malformed"):
        await fetch_blob(repository)


async def test_compressed_transfer_is_not_unpacked(registry: Registry, fake_registry: FakeRegistry) -> None:
    """A digest is that of the bytes as sent, whatever Content-Encoding claims."""

    async def answer(request: fake.web.Request) -> fake.web.StreamResponse:
        return fake.web.Response(body=BLOB, headers={"Content-Encoding": "gzip"})

    repository = await open_repository(registry, fake_registry)
    fake_registry.fault("/blobs/", answer)
    assert await fetch_blob(repository) == BLOB
    assert "Accept-Encoding" not in fake_registry.asked("/blobs/")[0]


async def test_tags(registry: Registry, fake_registry: FakeRegistry) -> None:
    fake_registry.add_image("x", "2", layers=[])
    _, tags = await registry.tags(fake_registry.address, "x", None)
    assert tags == ["1", "2"]


async def test_login(registry: Registry, fake_registry: FakeRegistry) -> None:
    for kind in ("basic", "bearer"):
        fake_registry.basic = fake_registry.bearer = None
        setattr(fake_registry, kind, "user:secret")
        await registry.login(fake_registry.address, USER)
        with pytest.raises(Unauthorized):
            await registry.login(fake_registry.address, Credentials("user", "wrong"))


async def test_mirror_comes_first_and_may_fail(fake_registry: FakeRegistry) -> None:
    """The Hub's mirror gets no credentials, and what it does not have is asked of the next one."""
    async with FakeRegistry() as second:
        second.add_image("library/y", "1", layers=[])
        mirrors = [f"http://{fake_registry.address}", f"http://{second.address}"]
        registry = Registry(Client(Endpoints(mirrors=mirrors)))
        try:
            _, manifest = await registry.open("docker.io", "library/y", "1", USER)
        finally:
            await registry.close()
        assert manifest.data == second.manifests["library/y", "1"][0]
        assert fake_registry.asked("/library/y/")
        for headers in (*fake_registry.asked("/"), *second.asked("/")):
            assert "Authorization" not in headers


async def test_next_link_stays_with_the_registry(registry: Registry, fake_registry: FakeRegistry) -> None:
    async def first(request: fake.web.Request) -> fake.web.StreamResponse:
        return fake.web.json_response(
            {"tags": ["a"]}, headers={"Link": '<http://evil.example/v2/x/tags/list?last=a>; rel="next"'}
        )

    fake_registry.fault("/tags/list", first, times=1)
    _, tags = await registry.tags(fake_registry.address, "x", None)
    assert tags == ["a", "1"]
    assert [path for _, path, _ in fake_registry.requests][-1].endswith("/v2/x/tags/list?last=a")
