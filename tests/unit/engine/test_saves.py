"""`docker save`: archives that load everywhere, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import pytest

from tests.fakes.registry import digest_of, tar_of
from tests.unit.engine.image_fixtures import Bench, docker_archive, image_id_of
from wherry.errors import InvalidParameter, NotFound

LAYERS = [tar_of({"a": b"1"}), tar_of({"b": b"2" * 700_000})]
ONE = docker_archive("one:1", layers=LAYERS)
ONE_ID = image_id_of(ONE)


def members(archive: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid) == (0, 0, 0)
            file = tar.extractfile(info)
            found[info.name] = file.read() if file is not None else b""
    return found


async def test_both_formats_at_once(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.images.tag("one:1", "two", "x")
    found = members(await bench.save("one:1", "two:x"))
    for name, data in found.items():
        if name.startswith("blobs/sha256/") and data:
            assert hashlib.sha256(data).hexdigest() == name.removeprefix("blobs/sha256/")
    (item,) = json.loads(found["manifest.json"])
    assert item["RepoTags"] == ["one:1", "two:x"]
    assert item["Config"] == f"blobs/sha256/{ONE_ID[7:]}"
    assert [found[layer] for layer in item["Layers"]] == LAYERS
    index = json.loads(found["index.json"])
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
    assert names == ["docker.io/library/one:1", "docker.io/library/two:x"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]] == [
        "1",
        "x",
    ]
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads(found["repositories"]) == {
        "one": {"1": digest_of(LAYERS[1])[7:]},
        "two": {"x": digest_of(LAYERS[1])[7:]},
    }
    assert bench.events[-1][0] == "save"


async def test_same_bytes_every_time(bench: Bench) -> None:
    await bench.load(ONE)
    assert await bench.save("one:1") == await bench.save("one:1")


async def test_round_trip_keeps_ids_and_names(bench: Bench) -> None:
    await bench.load(ONE)
    archive = await bench.save("one:1")
    await bench.images.remove("one:1")
    assert await bench.is_empty()
    await bench.load(archive)
    assert (await bench.images.inspect("one:1")).id == ONE_ID


async def test_repository_means_all_its_tags_and_an_id_none(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.images.tag("one:1", "one", "2")
    (item,) = json.loads(members(await bench.save("one"))["manifest.json"])
    assert item["RepoTags"] == ["one:1", "one:2"]
    found = members(await bench.save(ONE_ID[7:19]))
    assert json.loads(found["manifest.json"])[0]["RepoTags"] is None
    assert "repositories" not in found


async def test_shared_layers_are_written_once(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.load(docker_archive("two:1", layers=LAYERS[:1]))
    archive = await bench.save("one:1", "two:1")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    assert len(json.loads(members(archive)["manifest.json"])) == 2


async def test_wrong_names_are_told_before_the_first_byte(bench: Bench) -> None:
    await bench.load(ONE)
    with pytest.raises(NotFound, match=r"^No such image: nope$"):
        await bench.save("one:1", "nope")
    with pytest.raises(InvalidParameter):
        await bench.save("UPPER")
    with pytest.raises(InvalidParameter):
        await bench.save()


async def test_closing_early_lets_go(bench: Bench) -> None:
    await bench.load(ONE)
    pieces = bench.images.save(["one:1"])
    await anext(pieces)
    await pieces.aclose()
    await bench.images.remove("one:1")
    assert await bench.is_empty()
