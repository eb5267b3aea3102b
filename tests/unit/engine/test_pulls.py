"""Pulling from a registry that behaves and from one that does not (SECURITY S40-S42)."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import time
from typing import Any

import pytest

from tests.fakes import registry as fake
from tests.fakes.registry import FakeRegistry, config_of, digest_of, tar_of
from tests.unit.engine.image_fixtures import Bench
from wherry.errors import Forbidden, InvalidParameter, NotFound, WherryError
from wherry.model.images import AuthConfig
from wherry.oci.digest import Digest
from wherry.registry import fetch
from wherry.registry.failures import Denied

LAYERS = [tar_of({"a": b"1" * 1000}), tar_of({"b": b"2" * 1000}), tar_of({"c": os.urandom(300_000)})]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.001)


def said(messages: list[dict[str, Any]], layer: str) -> list[str]:
    return [message["status"] for message in messages if message.get("id") == layer[7:19]]


async def test_messages_are_dockers(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        digest = registry.add_image("lib/x", "1", layers=LAYERS)
        name = f"{registry.address}/lib/x"
        messages = await bench.pull(name, "1")
        assert messages[0] == {"status": "Pulling from lib/x", "id": "1"}
        assert messages[-2:] == [
            {"status": f"Digest: {digest}"},
            {"status": f"Status: Downloaded newer image for {name}:1"},
        ]
        layer = json.loads(registry.manifests["lib/x", "1"][0])["layers"][0]["digest"]
        order = said(messages, layer)
        assert order[0] == "Pulling fs layer"
        for status in ("Verifying Checksum", "Download complete", "Extracting"):
            assert status in order
        assert order[-1] == "Pull complete"
        extracting = next(m for m in messages if m["status"] == "Extracting")
        assert extracting["progressDetail"]["total"] > 0
        assert extracting["progress"].startswith("[")
        assert bench.events == [("pull", f"{name}:1", name)]
        again = await bench.pull(f"{name}:1")
        assert [message["status"] for message in again] == [
            "Pulling from lib/x",
            f"Digest: {digest}",
            f"Status: Image is up to date for {name}:1",
        ]
        image = await bench.images.inspect(f"{name}:1")
        assert image.repo_digests == [f"{name}@{digest}"]


async def test_known_layers_already_exist(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=LAYERS[:1])
        registry.add_image("x", "2", layers=LAYERS)
        await bench.pull(f"{registry.address}/x", "1")
        messages = await bench.pull(f"{registry.address}/x", "2")
        first = json.loads(registry.manifests["x", "1"][0])["layers"][0]["digest"]
        assert said(messages, first) == ["Already exists"]
        assert len(registry.asked(first)) == 1


@pytest.mark.parametrize(
    ("media_type", "compress"),
    [
        (fake.OCI_LAYER, bytes),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress),
        (fake.OCI_LAYER + "+zstd", None),
    ],
)
async def test_layer_compressions(bench: Bench, media_type: str, compress: Any) -> None:
    if compress is None:
        from backports import zstd

        compress = zstd.compress
    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=LAYERS, media_type=media_type, compress=compress)
        await bench.pull(f"{registry.address}/x", "1")
        assert len((await bench.images.resolve(f"{registry.address}/x:1")).chain_ids) == 3


async def test_platform_of_an_index(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        digests = {
            f"linux/{arch}": registry.add_image(
                "x", arch, layers=LAYERS[:1], config=config_of(LAYERS[:1], architecture=arch)
            )
            for arch in ("amd64", "arm64")
        }
        index = registry.add_index("x", "1", digests)
        messages = await bench.pull(f"{registry.address}/x", "1")
        assert {"status": f"Digest: {index}"} in messages
        assert (await bench.images.inspect(f"{registry.address}/x:1")).architecture == "amd64"
        await bench.pull(f"{registry.address}/x", "1", platform="linux/arm64")
        assert (await bench.images.inspect(f"{registry.address}/x:1")).architecture == "arm64"
        with pytest.raises(
            NotFound, match="no matching manifest for linux/s390x in the manifest list entries"
        ):
            await bench.pull(f"{registry.address}/x", "1", platform="linux/s390x")


async def test_pull_by_digest(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        digest = registry.add_image("x", "1", layers=LAYERS[:1])
        name = f"{registry.address}/x"
        messages = await bench.pull(name, digest)
        assert messages[0]["id"] == digest
        assert messages[-1] == {"status": f"Status: Downloaded newer image for {name}@{digest}"}
        (row,) = await bench.images.list()
        assert (row.repo_tags, row.repo_digests) == ([], [f"{name}@{digest}"])
        assert (await bench.images.resolve(f"{name}@{digest}")).id == row.id


async def test_all_tags(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        for tag in ("1", "2"):
            registry.add_image("x", tag, layers=LAYERS[: int(tag)])
        messages = await bench.pull(f"{registry.address}/x")
        assert await bench.names() == [[f"{registry.address}/x:1"], [f"{registry.address}/x:2"]]
        assert messages[-1] == {"status": f"Status: Downloaded newer image for {registry.address}/x"}


async def test_what_is_known_at_once_is_raised(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        name = f"{registry.address}/x"
        with pytest.raises(NotFound) as caught:
            await bench.pull(name, "nope")
        assert str(caught.value) == f"manifest for {name}:nope not found: manifest unknown: manifest unknown"
        registry.fault(
            "/manifests/",
            fake.status(403, name="DENIED", message="requested access to the resource is denied"),
        )
        with pytest.raises(NotFound) as caught:
            await bench.pull(name, "1")
        assert str(caught.value) == (
            f"pull access denied for {name}, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied"
        )
    with pytest.raises(Forbidden, match="'scratch' is a reserved name"):
        await bench.pull("scratch", "latest")
    for name, tag in (("UPPER", "1"), ("", "1"), ("a", "b@d"), ("a", "sha256:zz")):
        with pytest.raises(InvalidParameter):
            await bench.pull(name, tag)


async def test_credentials_of_the_request_are_used(bench: Bench) -> None:
    async with FakeRegistry(bearer="user:secret") as registry:
        registry.add_image("x", "1", layers=LAYERS[:1])
        with pytest.raises(Denied, match="incorrect username or password|unauthorized"):
            await bench.pull(f"{registry.address}/x", "1")
        await bench.pull(f"{registry.address}/x", "1", auth=AuthConfig(username="user", password="secret"))
        await bench.pull(f"{registry.address}/x", "1", auth=AuthConfig(registrytoken="token-mine"))
    assert b"secret" not in on_disk(bench)


def on_disk(bench: Bench) -> bytes:
    """Every byte below the store (S43)."""
    root = os.path.dirname(os.path.dirname(bench.store.blobs.path(Digest("sha256:" + "0" * 64))))
    found = bytearray()
    for directory, _, names in os.walk(os.path.dirname(os.path.dirname(root))):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                found += file.read()
    return bytes(found)


# Hostile registries


def spoil_blob(registry: FakeRegistry) -> None:
    layer = json.loads(registry.manifests["x", "1"][0])["layers"][0]["digest"]
    blob = bytearray(registry.blobs[layer])
    blob[20] ^= 1
    registry.blobs[layer] = bytes(blob)


def short_blob(registry: FakeRegistry) -> None:
    layer = json.loads(registry.manifests["x", "1"][0])["layers"][0]["digest"]
    registry.blobs[layer] = registry.blobs[layer][:-5]


def long_blob(registry: FakeRegistry) -> None:
    layer = json.loads(registry.manifests["x", "1"][0])["layers"][0]["digest"]
    registry.blobs[layer] += b"xxxxx"


def missing_blob(registry: FakeRegistry) -> None:
    del registry.blobs[json.loads(registry.manifests["x", "1"][0])["layers"][0]["digest"]]


def spoil_config(registry: FakeRegistry) -> None:
    config = json.loads(registry.manifests["x", "1"][0])["config"]["digest"]
    registry.blobs[config] = registry.blobs[config].replace(b"/x", b"/y")


def other_diff_ids(registry: FakeRegistry) -> None:
    registry.add_image("x", "1", layers=LAYERS[:1], config=config_of([b"other"]))


def fewer_diff_ids(registry: FakeRegistry) -> None:
    registry.add_image("x", "1", layers=LAYERS[:1], config=config_of([]))


def change(registry: FakeRegistry, **fields: Any) -> None:
    manifest = json.loads(registry.manifests["x", "1"][0])
    registry.add_manifest("x", "1", manifest | fields)


def change_layer(registry: FakeRegistry, **fields: Any) -> None:
    manifest = json.loads(registry.manifests["x", "1"][0])
    manifest["layers"][0] |= fields
    registry.add_manifest("x", "1", manifest)


def self_index(registry: FakeRegistry) -> None:
    entry = {"mediaType": fake.OCI_INDEX, "digest": "sha256:" + "0" * 64, "size": 1}
    data = json.dumps({"schemaVersion": 2, "mediaType": fake.OCI_INDEX, "manifests": [entry]}).encode()
    entry |= {"digest": digest_of(data), "size": len(data)}
    registry.add_manifest("x", "1", {"schemaVersion": 2, "mediaType": fake.OCI_INDEX, "manifests": [entry]})
    registry.manifests["x", digest_of(data)] = (data, fake.OCI_INDEX)


def deep_index(registry: FakeRegistry) -> None:
    data, kind = registry.manifests["x", "1"]
    for _ in range(10):
        entry = {"mediaType": kind, "digest": digest_of(data), "size": len(data)}
        entry["platform"] = {"os": "linux", "architecture": "amd64"}
        document = {"schemaVersion": 2, "mediaType": fake.OCI_INDEX, "manifests": [entry]}
        registry.add_manifest("x", "1", document)
        data, kind = registry.manifests["x", "1"]


def both_kinds(registry: FakeRegistry) -> None:
    """CVE-2021-41190."""
    data, kind = registry.manifests["x", "1"]
    change(registry, manifests=[{"mediaType": kind, "digest": digest_of(data), "size": len(data)}])


HOSTILE = {
    "wrong blob": (spoil_blob, "filesystem layer verification failed for digest sha256:"),
    "short blob": (short_blob, ""),
    "long blob": (long_blob, "larger than its manifest says"),
    "missing blob": (missing_blob, "blob unknown"),
    "wrong config": (spoil_config, "verification failed"),
    "other diffIDs": (other_diff_ids, ""),
    "fewer diffIDs": (fewer_diff_ids, "layers from manifest don't match image configuration"),
    "manifest and index in one": (both_kinds, ""),
    "index type, manifest inside": (lambda r: change(r, mediaType=fake.OCI_INDEX), ""),
    "negative size": (lambda r: change_layer(r, size=-1), ""),
    "huge size": (lambda r: change_layer(r, size=1 << 62), ""),
    "size a float": (lambda r: change_layer(r, size=1e300), ""),
    "md5 digest": (lambda r: change_layer(r, digest="md5:" + "0" * 32), ""),
    "digest with a path": (lambda r: change_layer(r, digest="sha256:../../../../etc/passwd"), ""),
    "foreign media type": (
        lambda r: change_layer(r, mediaType="text/html"),
        "unsupported media type text/html",
    ),
    "helm chart": (
        lambda r: change(
            r,
            config={
                "mediaType": "application/vnd.cncf.helm.config.v1+json",
                "digest": "sha256:" + "0" * 64,
                "size": 2,
            },
        ),
        "unsupported media type application/vnd.cncf.helm",
    ),
    "windows": (
        lambda r: r.add_image("x", "1", layers=LAYERS[:1], config=config_of(LAYERS[:1], os="windows")),
        'image operating system "windows" cannot be used on this platform',
    ),
    "10k layers": (
        lambda r: change(r, layers=json.loads(r.manifests["x", "1"][0])["layers"] * 10_000),
        "",
    ),
    "index of itself": (self_index, ""),
    "deep indexes": (deep_index, "nests indexes"),
    "layer is no tar": (
        lambda r: r.add_image("x", "1", layers=[b"x" * 5000]),
        "",
    ),
    "layer is broken gzip": (
        lambda r: r.add_image("x", "1", layers=LAYERS[:1], compress=lambda data: gzip.compress(data)[:-20]),
        "",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_image_is_refused_and_leaves_nothing(bench: Bench, name: str) -> None:
    spoil, text = HOSTILE[name]
    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=LAYERS[:1])
        spoil(registry)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        with pytest.raises(WherryError, match=text):
            await bench.pull(f"{registry.address}/x", "1")
        assert time.monotonic() - started < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
        assert all("/etc" not in path for _, path, _ in registry.requests)
    assert await bench.is_empty()


async def test_foreign_layer_urls_are_never_asked(bench: Bench) -> None:
    """CVE-2020-15157: a manifest names another server, and credentials would follow."""
    async with FakeRegistry() as registry, FakeRegistry() as elsewhere:
        registry.add_image("x", "1", layers=LAYERS[:1])
        change_layer(registry, urls=[f"http://{elsewhere.address}/blob"])
        await bench.pull(f"{registry.address}/x", "1")
        assert elsewhere.requests == []


async def test_cut_download_goes_on_at_the_next_pull(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=LAYERS[2:])
        layer = json.loads(registry.manifests["x", "1"][0])["layers"][0]["digest"]
        registry.fault("/blobs/" + layer, fake.cut_after(100_000, registry.blobs[layer]), times=1)
        registry.fault(
            "/blobs/" + layer, fake.cut_after(0, registry.blobs[layer]), times=fetch.MAX_ATTEMPTS - 1
        )
        with pytest.raises(WherryError):
            await bench.pull(f"{registry.address}/x", "1")
        registry.requests.clear()
        await bench.pull(f"{registry.address}/x", "1")
        assert [headers.get("Range") for headers in registry.asked(layer)] == ["bytes=100000-"]


async def test_blob_damaged_on_disk_is_fetched_again(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=LAYERS)
        await bench.pull(f"{registry.address}/x", "1")
        layer = json.loads(registry.manifests["x", "1"][0])["layers"][2]["digest"]
        await bench.images.remove(f"{registry.address}/x:1")
        with open(bench.store.blobs.path(Digest(layer)), "wb") as file:
            file.write(b"rot")
        messages = await bench.pull(f"{registry.address}/x", "1")
        assert messages[-1]["status"].startswith("Status: Downloaded newer image")
        assert len(registry.asked(layer)) == 2


async def test_closing_the_iterator_drops_the_connection(bench: Bench) -> None:
    gone, begun = asyncio.Event(), asyncio.Event()
    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=LAYERS[2:])
        layer = json.loads(registry.manifests["x", "1"][0])["layers"][0]["digest"]
        registry.fault("/blobs/" + layer, fake.stall(1000, registry.blobs[layer], gone, begun))
        messages = bench.images.pull(f"{registry.address}/x", "1")
        await anext(messages)
        await begun.wait()
        async with asyncio.timeout(1):
            await messages.aclose()
            await gone.wait()


async def test_two_pulls_share_a_download_and_one_may_go(bench: Bench) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=LAYERS[2:])
        layer = json.loads(registry.manifests["x", "1"][0])["layers"][0]["digest"]
        blob = registry.blobs[layer]

        async def slow(request: fake.web.Request) -> fake.web.StreamResponse:
            response = fake.web.StreamResponse()
            response.content_length = len(blob)
            await response.prepare(request)
            await response.write(blob[:1000])
            begun.set()
            await go_on.wait()
            await response.write(blob[1000:])
            return response

        registry.fault("/blobs/" + layer, slow, times=1)
        first = bench.images.pull(f"{registry.address}/x", "1")
        await anext(first)
        await begun.wait()
        second = bench.images.pull(f"{registry.address}/x", "1")
        messages = [await anext(second), await anext(second)]
        async with asyncio.timeout(5):
            await first.aclose()
        go_on.set()
        messages += [message async for message in second]
        assert messages[-1]["status"].startswith("Status: Downloaded newer image")
        assert len(registry.asked(layer)) == 1


async def test_many_pulls_of_one_image_at_once(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        registry.add_image("x", "1", layers=LAYERS)
        results = await asyncio.gather(*(bench.pull(f"{registry.address}/x", "1") for _ in range(6)))
        assert all(messages[-1]["status"].startswith("Status: ") for messages in results)
        assert len(registry.asked("/blobs/")) <= 3 + 6  # each layer once; the config is small


async def test_hub_names_through_a_mirror(tmp_path: Any) -> None:
    async with FakeRegistry() as registry:
        registry.add_image("library/x", "latest", layers=LAYERS[:1])
        bench = await Bench.open(str(tmp_path), mirrors=[f"http://{registry.address}"])
        try:
            messages = await bench.pull("x", "latest")
            assert messages[0] == {"status": "Pulling from library/x", "id": "latest"}
            assert messages[-1] == {"status": "Status: Downloaded newer image for x:latest"}
            assert await bench.names() == [["x:latest"]]
        finally:
            await bench.close()
