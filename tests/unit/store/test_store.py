from __future__ import annotations

import asyncio
import io
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.store.images import Sample, diff_id, layer
from wherry.errors import Internal, InvalidParameter, NotFound
from wherry.oci.digest import ChainID, chain_ids, digest_of
from wherry.oci.reference import parse_reference
from wherry.store.images import Image
from wherry.store.store import KEEP_UNUSED_S, LayerSource, NewTag, Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners and devices: needs root")

BASE = layer("base")
ONE = Sample(BASE, layer("one"))
TWO = Sample(BASE, layer("two"), note="two", created="2025-01-01T00:00:00Z")


@pytest.fixture
async def store(tmp_path: os.PathLike[str]) -> AsyncIterator[Store]:
    made = await Store.open(os.path.join(tmp_path, "data"), "overlay2")
    yield made
    await made.close()


async def commit(store: Store, sample: Sample, *tags: str, pulled: bool = False) -> Image:
    with store.lease() as lease:
        if pulled:
            for blob, packed in zip(sample.blobs, sample.packed, strict=True):
                async with store.ingest(blob.digest, blob.size, lease) as ingest:
                    if not ingest.is_done:
                        ingest.write(packed)
                        ingest.commit()
        manifest = sample.manifest if pulled else None
        return await store.commit_image(
            sample.config,
            sample.sources(pulled=pulled),
            lease,
            manifest=manifest,
            tags=[NewTag(parse_reference(tag), digest_of(manifest) if manifest else None) for tag in tags],
        )


async def test_an_image_is_found_in_every_way_docker_finds_it(store: Store) -> None:
    image = await commit(store, ONE, "busybox:1", "localhost:5000/x/y", pulled=True)
    digest = digest_of(ONE.manifest)
    hexadecimal = image.id[7:]
    for text in (
        image.id,
        hexadecimal,
        hexadecimal[:12],
        hexadecimal[:1],
        "sha256:" + hexadecimal[:10],
        "busybox:1",
        "docker.io/library/busybox:1",
        f"busybox@{digest}",
        f"busybox:whatever@{digest}",
        f"busybox:{hexadecimal[:12]}",
        "localhost:5000/x/y",
        "localhost:5000/x/y:latest",
    ):
        found = await store.images.find(text)
        assert found is not None, text
        assert found == image
    for text in ("busybox", "busybox:2", "f" * 64, "zz", f"other:{hexadecimal[:12]}", f"other@{digest}"):
        assert await store.images.find(text) is None
    with pytest.raises(NotFound, match=r"^No such image: busybox:latest$"):
        await store.images.get("busybox")
    with pytest.raises(NotFound, match=rf"^No such image: sha256:{'f' * 64}$"):
        await store.images.get("f" * 64)
    with pytest.raises(InvalidParameter, match="must be lowercase"):
        await store.images.get("Busybox")


async def test_a_prefix_of_two_ids_finds_none_and_a_name_goes_before_an_id(store: Store) -> None:
    samples = [Sample(BASE, note=str(n)) for n in range(40)]
    by_first: dict[str, list[Sample]] = {}
    for sample in samples:
        await commit(store, sample)
        by_first.setdefault(sample.id[7], []).append(sample)
    shared = next(found for found in by_first.values() if len(found) > 1)
    assert await store.images.find(shared[0].id[7]) is None
    assert await store.images.find(shared[0].id[7:39]) is not None
    named = shared[0].id[7:11]
    await store.images.tag(parse_reference(named), shared[1].id)
    found = await store.images.find(named)
    assert found is not None
    assert found.id == shared[1].id


async def test_what_an_image_is_made_of_is_recorded(store: Store) -> None:
    image = await commit(store, ONE, "x", pulled=True)
    diff_ids = [diff_id(tar) for tar in ONE.tars]
    assert image.chain_ids == chain_ids(diff_ids)
    assert [part.blob for part in image.layers] == ONE.blobs
    assert image.manifest == digest_of(ONE.manifest)
    assert image.size == 8
    assert image.created_ns == 1_704_164_645 * 10**9
    assert image.last_tagged_ns > 0
    assert await store.config_bytes(image.id) == ONE.config
    assert (await store.config(image.id)).config is not None
    assert store.blobs.read(digest_of(ONE.manifest)) == ONE.manifest
    assert await store.images.layer_sizes() == dict.fromkeys(image.chain_ids, 4)


async def test_tags_move_and_digests_stay(store: Store) -> None:
    one = await commit(store, ONE, "x", pulled=True)
    await commit(store, TWO)
    assert await store.images.tag(parse_reference("x"), TWO.id) == one.id
    assert await store.images.tag(parse_reference("x"), TWO.id) is None
    assert [r.familiar for r in await store.images.tags_of(TWO.id)] == ["x:latest"]
    assert await store.images.tags_of(one.id) == []
    assert [r.familiar for r in await store.images.digests_of(one.id)] == [f"x@{digest_of(ONE.manifest)}"]
    assert await store.images.resolve(parse_reference("x:latest")) == TWO.id
    assert await store.images.untag(parse_reference("x")) == TWO.id
    assert await store.images.untag(parse_reference("x")) is None
    with pytest.raises(NotFound):
        await store.images.tag(parse_reference("y"), digest_of(b"nothing"))
    assert [image.id for image in await store.images.all()] == [TWO.id, ONE.id]  # newest first


async def test_a_shared_layer_is_unpacked_once_and_goes_with_its_last_image(store: Store) -> None:
    one = await commit(store, ONE, "one")
    two = await commit(store, TWO, "two")
    assert TWO.opened[-1:] == [1]
    assert store.driver.has_layer(one.chain_ids[0])
    removed = await store.remove_image(one.id)
    assert [r.familiar for r in removed.untagged] == ["one:latest"]
    assert removed.layers == (one.chain_ids[1],)
    assert store.driver.layers() and set(store.driver.layers()) == set(two.chain_ids)
    removed = await store.remove_image(two.id)
    assert removed.layers == (two.chain_ids[1], two.chain_ids[0])
    assert store.driver.layers() == []
    assert list(store.blobs.list()) == []
    assert await store.images.layer_sizes() == {}
    with pytest.raises(NotFound):
        await store.remove_image(two.id)


async def test_what_a_lease_holds_outlives_a_removal_until_it_is_closed(store: Store) -> None:
    image = await commit(store, ONE, pulled=True)
    with store.lease() as lease:
        await lease.hold(image.chain_ids[0], ONE.blobs[0].digest)
        removed = await store.remove_image(image.id)
        assert removed.layers == (image.chain_ids[1],)
        assert await store.has_layer(image.chain_ids[0], lease)
        assert store.blobs.has(ONE.blobs[0].digest)
        assert not store.blobs.has(ONE.blobs[1].digest)
    await settle(store)
    assert store.driver.layers() == []
    assert list(store.blobs.list()) == []


async def test_a_collection_waits_for_one_that_was_postponed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The postponed one had looked while a container still stood on the layers, and so would leave them."""
    image = await commit(store, ONE)
    store.driver.prepare("container", image.chain_ids)
    active, has_looked, may_go_on = store.driver.active, threading.Event(), threading.Event()

    def looked() -> list[str]:
        found = active()
        has_looked.set()
        may_go_on.wait(10)
        return found

    monkeypatch.setattr(store.driver, "active", looked)
    with store.lease() as lease:
        await lease.hold(image.id, *image.chain_ids)
        await store.remove_image(image.id)
    await asyncio.to_thread(has_looked.wait, 10)
    store.driver.remove("container")
    collecting = asyncio.ensure_future(store.collect())
    await asyncio.sleep(0.05)
    may_go_on.set()
    await collecting
    assert store.driver.layers() == []


async def settle(store: Store) -> None:
    while store._tasks:  # type: ignore[attr-defined]
        await asyncio.wait(store._tasks)  # type: ignore[attr-defined]


async def test_an_image_committed_while_another_of_the_same_layers_goes_is_whole(store: Store) -> None:
    for round_ in range(10):
        one = await commit(store, ONE)
        other = Sample(*ONE.tars, note=f"other {round_}")
        async with asyncio.TaskGroup() as group:
            group.create_task(store.remove_image(one.id))
            committed = group.create_task(commit(store, other))
        await settle(store)
        for chain_id in committed.result().chain_ids:
            assert store.driver.has_layer(chain_id)
        await store.export_layer(committed.result().chain_ids[-1], io.BytesIO())
        await store.remove_image(other.id)
        await settle(store)
        assert store.driver.layers() == []


async def test_a_containers_layers_stay_without_their_image(store: Store) -> None:
    image = await commit(store, ONE)
    store.driver.prepare("container", image.chain_ids)
    assert (await store.remove_image(image.id)).layers == ()
    assert await store.collect() == 0
    assert set(store.driver.layers()) == set(image.chain_ids)
    store.driver.remove("container")
    assert await store.collect() == 8
    assert store.driver.layers() == []


@pytest.mark.parametrize("wrong", ["fewer", "other", "manifest", "index", "garbage", "layer"])
async def test_parts_that_do_not_fit_each_other_are_refused_and_leave_nothing(
    store: Store, wrong: str
) -> None:
    config, sources, manifest = ONE.config, ONE.sources(), ONE.manifest
    if wrong == "fewer":
        sources = sources[:1]
    elif wrong == "other":
        sources = TWO.sources()
    elif wrong == "manifest":
        manifest = TWO.manifest
    elif wrong == "index":
        manifest = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    elif wrong == "garbage":
        config = b"{"
    else:
        sources[1] = LayerSource(lambda: io.BytesIO(b"no tar at all" * 100))
    with store.lease() as lease, pytest.raises(InvalidParameter):
        await store.commit_image(config, sources, lease, manifest=manifest)
    assert await store.images.all() == []
    await store.collect()
    assert store.driver.layers() == []
    assert list(store.blobs.list()) == []


async def test_a_cancelled_commit_stops_and_leaves_nothing(store: Store) -> None:
    reached = threading.Event()

    class Endless(io.RawIOBase):
        """A tar with one file that never ends."""

        def __init__(self) -> None:
            self._head = layer("x", b"x" * 600)[:512].replace(b"00000001130", b"77777777777")

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            head, self._head = self._head, b""
            if head:
                fixed = bytearray(head)
                fixed[148:156] = b" " * 8
                fixed[148:156] = b"%06o\0 " % sum(fixed)
                buffer[:512] = fixed
                return 512
            reached.set()
            time.sleep(0.001)
            return len(buffer)

    with store.lease() as lease:
        task = asyncio.create_task(
            store.commit_image(ONE.config, [LayerSource(lambda: Endless()), *ONE.sources()[1:]], lease)  # type: ignore
        )
        await asyncio.to_thread(reached.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert os.listdir(os.path.join(store.data_root, "overlay2", "layers")) == []


async def test_the_same_layer_asked_for_twice_at_once_is_unpacked_once(store: Store) -> None:
    sample = Sample(layer("slow", os.urandom(2_000_000)))
    await asyncio.gather(*(commit(store, sample) for _ in range(5)))
    assert sample.opened == [0]


async def test_a_start_drops_layers_without_a_row_and_old_blobs_without_an_image(store: Store) -> None:
    image = await commit(store, ONE, "kept", pulled=True)
    orphan = layer("orphan")
    store.driver.commit_layer(ChainID(diff_id(orphan)), None, diff_id(orphan), io.BytesIO(orphan))
    young, old = store.blobs.put(b"young"), store.blobs.put(b"old")
    os.utime(store.blobs.path(old), (time.time() - KEEP_UNUSED_S - 60,) * 2)
    os.makedirs(os.path.join(store.data_root, "overlay2", "layers", "tmp-1", "fs"))
    again = await Store.open(store.data_root, "overlay2", database=store.database)
    assert set(again.driver.layers()) == set(image.chain_ids)
    assert again.blobs.has(young)
    assert not again.blobs.has(old)
    assert await again.images.get("kept") == image
    assert await again.config_bytes(image.id) == ONE.config
    assert await again.collect() == len("young")


async def test_each_storage_driver_has_images_of_its_own(store: Store) -> None:
    await commit(store, ONE, "x", pulled=True)
    other = await Store.open(store.data_root, "vfs", database=store.database)
    assert await other.images.all() == []
    await commit(other, TWO, "x", pulled=True)
    await other.remove_image(TWO.id)
    back = await Store.open(store.data_root, "overlay2", database=store.database)
    assert (await back.images.get("x")).id == ONE.id
    assert await back.config_bytes(ONE.id) == ONE.config


async def test_the_layouts_index_lists_images_that_are_whole(store: Store) -> None:
    await commit(store, ONE, "x:1", "x:2", pulled=True)
    await commit(store, TWO, "y")
    listed = index_of(store)
    assert [entry["digest"] for entry in listed] == [digest_of(ONE.manifest)] * 2
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in listed] == ["1", "2"]
    await store.remove_image(ONE.id)
    assert index_of(store) == []


def index_of(store: Store) -> list[dict[str, Any]]:
    with open(os.path.join(store.data_root, "content", "index.json")) as file:
        return json.load(file)["manifests"]


async def test_an_index_that_cannot_be_written_does_not_keep_an_image_from_going(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(store, ONE, "x", pulled=True)

    def full(manifests: object) -> None:
        raise Internal("cannot write index.json: no space left on device")

    monkeypatch.setattr(store.blobs, "write_index", full)
    await store.remove_image(ONE.id)
    assert await store.images.all() == []


async def test_a_manifest_found_later_is_added(store: Store) -> None:
    assert (await commit(store, ONE)).manifest is None
    image = await commit(store, ONE, "x", pulled=True)
    assert image.manifest == digest_of(ONE.manifest)
    assert image.layers[0].blob == ONE.blobs[0]
    assert (await commit(store, ONE)).manifest == digest_of(ONE.manifest)


async def test_an_unknown_driver_is_refused(tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(InvalidParameter, match="unknown driver 'zfs'"):
        await Store.open(os.path.join(tmp_path, "data"), "zfs")


async def test_ingests_of_one_digest_wait_for_each_other_without_threads(store: Store) -> None:
    sample = ONE
    blob, packed = sample.blobs[0], sample.packed[0]

    async def fetch() -> bool:
        with store.lease() as lease:
            async with store.ingest(blob.digest, blob.size, lease) as ingest:
                was_done = ingest.is_done
                if not was_done:
                    await asyncio.sleep(0.01)
                    await asyncio.to_thread(ingest.write, packed)
                    await asyncio.to_thread(ingest.commit)
                return was_done

    results = await asyncio.gather(*(fetch() for _ in range(60)))
    assert sorted(results) == [False] + [True] * 59
