"""Loading archives, also hostile ones (SECURITY S26-S28)."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import resource
import tarfile
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.registry import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    config_of,
    digest_of,
    tar_of,
)
from tests.unit.engine.image_fixtures import Bench, archive_of, chunks_of, docker_archive, image_id_of
from wherry.engine.archives import find_images
from wherry.engine.members import Members, normalised
from wherry.engine.spool import Spool
from wherry.errors import InvalidParameter, WherryError

LAYER = tar_of({"hello": b"world"})
BIG_LAYER = tar_of({"big": os.urandom(3 << 20)})


def oci_archive(layers: list[bytes], *, name: str | None = None, architecture: str = "amd64") -> bytes:
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    descriptor = oci_image(files, layers, architecture)
    if name:
        descriptor["annotations"] = {"io.containerd.image.name": name}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode()
    return archive_of(files)


def blob(files: dict[str, bytes], data: bytes, media_type: str) -> dict[str, object]:
    files["blobs/" + digest_of(data).replace(":", "/")] = data
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def oci_image(files: dict[str, bytes], layers: list[bytes], architecture: str) -> dict[str, object]:
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": blob(files, config_of(layers, architecture=architecture), OCI_CONFIG),
        "layers": [blob(files, gzip.compress(layer), OCI_LAYER_GZIP) for layer in layers],
    }
    return blob(files, json.dumps(manifest).encode(), OCI_MANIFEST)


def streams(messages: list[dict[str, object]]) -> list[object]:
    return [message["stream"] for message in messages if "stream" in message]


@pytest.mark.parametrize("layer", [LAYER, BIG_LAYER], ids=["in memory", "spooled"])
async def test_docker_archive(bench: Bench, layer: bytes) -> None:
    archive = docker_archive("x:1", "y:2", layers=[layer])
    messages = await bench.load(archive)
    assert streams(messages) == ["Loaded image: x:1\n", "Loaded image: y:2\n"]
    assert messages[0]["status"] == "Loading layer"
    assert messages[0]["id"] == digest_of(layer)[7:19]
    image_id = image_id_of(archive)
    assert ("load", image_id, image_id) in bench.events
    assert (await bench.images.resolve("y:2")).id == image_id


async def test_quiet_and_known_layers_show_no_progress(bench: Bench) -> None:
    archive = docker_archive("x:1")
    assert await bench.load(archive, quiet=True) == [{"stream": "Loaded image: x:1\n"}]
    assert await bench.load(archive) == [{"stream": "Loaded image: x:1\n"}]


async def test_image_without_names_is_told_by_id(bench: Bench) -> None:
    archive = docker_archive()
    assert streams(await bench.load(archive)) == [f"Loaded image ID: {image_id_of(archive)}\n"]


async def test_name_that_moves_is_told(bench: Bench) -> None:
    first = docker_archive("x:1")
    await bench.load(first)
    messages = await bench.load(docker_archive("x:1", layers=[BIG_LAYER]), quiet=True)
    assert streams(messages) == [
        f"The image x:1 already exists, renaming the old one with ID {image_id_of(first)} to empty string\n",
        "Loaded image: x:1\n",
    ]


@pytest.mark.parametrize("compress", [gzip.compress, __import__("bz2").compress, __import__("lzma").compress])
async def test_compressed_archive(bench: Bench, compress) -> None:  # type: ignore[no-untyped-def]
    assert streams(await bench.load(compress(docker_archive("x:1"))))


async def test_layer_behind_a_link_in_the_archive(bench: Bench) -> None:
    """`docker save` before 25 writes a layer that occurs twice as a symlink."""
    config = config_of([LAYER])
    item = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["b/layer.tar"]}
    archive = archive_of(
        {"a/layer.tar": LAYER, "c.json": config, "manifest.json": json.dumps([item]).encode()},
        {"b/layer.tar": "../a/layer.tar"},
    )
    assert streams(await bench.load(archive)) == ["Loaded image: x:1\n"]


async def test_oci_layout(bench: Bench) -> None:
    messages = await bench.load(oci_archive([LAYER, BIG_LAYER], name="docker.io/library/x:1"))
    assert streams(messages) == ["Loaded image: x:1\n"]
    assert len((await bench.images.resolve("x:1")).chain_ids) == 2


async def test_oci_index_gives_the_wanted_platform(bench: Bench) -> None:
    files: dict[str, bytes] = {"oci-layout": b"{}"}
    entries: list[dict[str, object]] = []
    for architecture in ("amd64", "s390x"):
        entry = oci_image(files, [LAYER], architecture)
        entries.append(entry | {"platform": {"os": "linux", "architecture": architecture}})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    top = blob(files, json.dumps(index).encode(), OCI_INDEX)
    top["annotations"] = {"io.containerd.image.name": "docker.io/library/x:1"}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    await bench.load(archive_of(files))
    assert (await bench.images.inspect("x:1")).architecture == "amd64"
    await bench.load(archive_of(files), platforms=["linux/s390x"])
    assert (await bench.images.inspect("x:1")).architecture == "s390x"
    with pytest.raises(InvalidParameter, match=r"no matching manifest for linux/arm64"):
        await bench.load(archive_of(files), platforms=["linux/arm64"])


def legacy_archive(layers: dict[str, bytes], *, parents: dict[str, str]) -> bytes:
    """What `docker save` wrote before 1.10."""
    files: dict[str, bytes] = {}
    for layer_id, layer in layers.items():
        files[f"{layer_id}/VERSION"] = b"1.0"
        description = {
            "id": layer_id,
            "created": "2015-01-01T00:00:00Z",
            "container_config": {"Cmd": ["/bin/sh", "-c", f"make {layer_id[0]}"]},
            "config": {"Cmd": ["/x"]},
            "architecture": "amd64",
            "os": "linux",
        }
        if layer_id in parents:
            description["parent"] = parents[layer_id]
        files[f"{layer_id}/json"] = json.dumps(description).encode()
        files[f"{layer_id}/layer.tar"] = layer
    files["repositories"] = json.dumps({"old": {"1": list(layers)[-1], "2": list(layers)[-1]}}).encode()
    return archive_of(files)


async def test_legacy_archive(bench: Bench) -> None:
    bottom, top = "a" * 64, "b" * 64
    archive = legacy_archive({bottom: LAYER, top: BIG_LAYER}, parents={top: bottom})
    assert streams(await bench.load(archive)) == ["Loaded image: old:1\n", "Loaded image: old:2\n"]
    image = await bench.images.inspect("old:1")
    assert image.root_fs.layers == [digest_of(LAYER), digest_of(BIG_LAYER)]
    assert image.config.cmd == ["/x"]
    assert [step.created_by for step in await bench.images.history("old:1")] == [
        "/bin/sh -c make b",
        "/bin/sh -c make a",
    ]


def hostile(**change: object) -> bytes:
    """An archive with one thing wrong with manifest.json."""
    item = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["layer.tar"]} | change
    return archive_of(
        {"c.json": config_of([LAYER]), "layer.tar": LAYER, "manifest.json": json.dumps([item]).encode()},
        {"abs": "/etc/passwd", "up": "../../../etc/passwd", "loop": "loop"},
    )


HOSTILE = {
    "config above": hostile(Config="../../etc/passwd"),
    "config absolute": hostile(Config="/etc/passwd"),
    "layer above": hostile(Layers=["../../../etc/passwd"]),
    "layer absolute": hostile(Layers=["/etc/passwd"]),
    "config by absolute link": hostile(Config="abs"),
    "config by link above": hostile(Config="up"),
    "layer by absolute link": hostile(Layers=["abs"]),
    "link loop": hostile(Layers=["loop"]),
    "missing layer": hostile(Layers=["nope"]),
    "too few layers": hostile(Layers=[]),
    "too many layers": hostile(Layers=["layer.tar", "layer.tar"]),
    "10k layers": hostile(Layers=["layer.tar"] * 10_000),
    "layer is the config": hostile(Layers=["c.json"]),
    "bad tag": hostile(RepoTags=["UPPER:1"]),
    "tag with a digest": hostile(RepoTags=["x@sha256:" + "0" * 64]),
    "name without a tag": hostile(RepoTags=["x"]),
    "wrong types": hostile(Layers={"a": 1}),
    "deep JSON": archive_of({"manifest.json": b"[" * 200_000}),
    "bad UTF-8": archive_of({"manifest.json": b'[{"Config":"\xff\xfe"}]'}),
    "huge manifest": archive_of({"manifest.json": b" " * (5 << 20)}),
    "no manifest": archive_of({"x": b""}),
    "empty": b"",
    "only zeros": bytes(10240),
    "not a tar": b"garbage" * 1000,
    "cut off": docker_archive("x:1", layers=[BIG_LAYER])[: 1 << 20],
    "windows": docker_archive("x:1", os="windows"),
    "config is a list": archive_of(
        {"c": b"[]", "manifest.json": b'[{"Config":"c","RepoTags":null,"Layers":[]}]'}
    ),
    "cut gzip": gzip.compress(docker_archive("x:1"))[:-100],
    "legacy id above": archive_of({"repositories": b'{"x":{"1":"../../../etc"}}'}),
    "legacy parent loop": legacy_archive({"a" * 64: LAYER}, parents={"a" * 64: "a" * 64}),
    "legacy parent missing": legacy_archive({"a" * 64: LAYER}, parents={"a" * 64: "b" * 64}),
    "oci: wrong digest": oci_archive([LAYER]).replace(b'"amd64"', b'"arm64"'),
    "oci: index is a manifest": archive_of({"index.json": b'{"schemaVersion":2,"config":{},"layers":[]}'}),
    "oci: self": archive_of(
        {
            "index.json": b'{"schemaVersion":2,"manifests":[{"mediaType":"%s","digest":"sha256:%s","size":1}]}'
            % (OCI_INDEX.encode(), b"0" * 64)
        }
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_archive_is_refused_and_leaves_nothing(bench: Bench, name: str) -> None:
    with pytest.raises(WherryError):
        await bench.load(HOSTILE[name])
    assert await bench.is_empty()


async def test_members_that_lead_out_are_ignored(bench: Bench) -> None:
    """Nothing is written under a name of the archive's: such a member is merely of no use."""
    with tarfile.open(fileobj=io.BytesIO(docker_archive("x:1"))) as tar:
        files = {info.name: file.read() for info in tar if (file := tar.extractfile(info))}
    above = {"../../../../tmp/wherry-escaped": b"x", "/tmp/wherry-escaped": b"x"}
    assert streams(await bench.load(archive_of(above | files))) == ["Loaded image: x:1\n"]
    assert not os.path.exists("/tmp/wherry-escaped")


async def test_gzip_bomb_is_streamed(bench: Bench) -> None:
    """1 GiB of zeros in 1 MiB: memory does not grow with it (S28)."""
    info = tarfile.TarInfo("zeros")
    info.size = 1 << 30
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 24))
        file.write(bytes(1024))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidParameter, match=r"neither manifest.json nor index.json"):
        await bench.load(out.getvalue())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


async def test_client_that_breaks_off_is_the_reason_told(bench: Bench) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield docker_archive("x:1")[:1000]
        raise ConnectionResetError("client went away")

    with pytest.raises(ConnectionResetError):
        [message async for message in bench.images.load(broken())]
    assert await bench.is_empty()


async def test_closing_the_iterator_ends_the_load(bench: Bench) -> None:
    entered = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        entered.set()
        await asyncio.Event().wait()
        yield b""

    messages = bench.images.load(endless())
    first = asyncio.ensure_future(anext(messages))
    await entered.wait()
    first.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await first
    await messages.aclose()
    assert time.monotonic() - started < 1


@given(st.binary(max_size=600))
@settings(suppress_health_check=list(HealthCheck), max_examples=200)
def test_any_path_stays_inside(name: bytes) -> None:
    path = normalised(name)
    assert path is None or not (path == ".." or path.startswith(("/", "../")))


@given(st.binary(max_size=3000))
@settings(suppress_health_check=list(HealthCheck), max_examples=200, deadline=None)
def test_any_bytes_are_an_archive_or_refused(data: bytes) -> None:
    spool = Spool("/tmp")
    try:
        find_images(Members.read(spool, io.BytesIO(data)))
    except WherryError:
        pass
    finally:
        spool.close()


async def test_chunks_of_any_size(bench: Bench) -> None:
    archive = docker_archive("x:1")
    messages = [message async for message in bench.images.load(chunks_of(archive, 777))]
    assert streams(messages) == ["Loaded image: x:1\n"]
