"""Kills a process at every point between two changes of a store, and looks what the next one finds.

Run by test_crashes.py as a program of its own: single-threaded until it forks, so that each trial is a cheap fork.
    crashes.py ROOT DRIVER    prints one JSON object: points passed, and what was wrong after each
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sys
import traceback
from collections import Counter

from tests.unit.store.images import Sample, layer
from wherry.linux import killpoint
from wherry.oci.digest import Digest, digest_of
from wherry.oci.reference import parse_reference
from wherry.store.store import NewTag, Store

ONE = Sample(layer("base", b"b" * 5000), layer("one"))
TWO = Sample(layer("base", b"b" * 5000), layer("two"), note="two")


async def pull(store: Store, sample: Sample, tag: str) -> None:
    with store.lease() as lease:
        for blob, packed in zip(sample.blobs, sample.packed, strict=True):
            async with store.ingest(blob.digest, blob.size, lease) as ingest:
                if not ingest.is_done:
                    ingest.write(packed[ingest.offset :])
                    ingest.commit()
        await store.commit_image(
            sample.config,
            sample.sources(pulled=True),
            lease,
            manifest=sample.manifest,
            tags=[NewTag(parse_reference(tag), digest_of(sample.manifest))],
        )


async def work(root: str, driver: str, answered: int) -> None:
    """One life of a store. What was done is said on the descriptor `answered`, as to a client."""

    def answer(what: str) -> None:
        os.write(answered, what.encode() + b"\n")

    store = await Store.open(root, driver)
    await pull(store, ONE, "one")
    answer(f"+image {ONE.id}")
    await pull(store, TWO, "two")
    answer(f"+image {TWO.id}")
    image = await store.images.get("one")
    store.driver.prepare("container", image.chain_ids)
    await store.images.untag(parse_reference("one"))
    await store.remove_image(ONE.id)
    answer(f"-image {ONE.id}")
    store.driver.remove("container")
    await store.collect()
    await store.close()


async def look(root: str, driver: str, answers: list[str]) -> list[str]:
    """What is wrong with the store that a dead process left."""
    wrong: list[str] = []
    store = await Store.open(root, driver)
    for directory, _, names in os.walk(root):
        wrong += [f"left {directory}/{name}" for name in names if name.startswith("tmp-")]
        if os.path.basename(directory).startswith("tmp-"):
            wrong.append(f"left {directory}")
    images = await store.images.all()
    needed = {chain_id for image in images for chain_id in image.chain_ids}
    for key in store.driver.active():
        needed |= set(store.driver.layers_below(key))
        store.driver.rootfs(key)
    if set(store.driver.layers()) != needed:
        wrong.append(f"layers {store.driver.layers()} are there, {needed} are needed")
    for image in images:
        await store.config(image.id)
        for part in image.layers:
            await store.export_layer(part.chain_id, io.BytesIO())
            if part.blob is not None and not store.blobs.has(part.blob.digest):
                wrong.append(f"blob {part.blob.digest} is gone")
        if image.manifest is None or not store.blobs.has(image.manifest):
            wrong.append(f"manifest of {image.id} is gone")
    for digest, _ in store.blobs.list():
        if digest_of(store.blobs.read(digest)) != digest:
            wrong.append(f"blob {digest} is damaged")
    there = {image.id for image in images}
    said: dict[Digest, bool] = {}
    for line in answers:
        said[Digest(line.split()[1])] = line.startswith("+")
    wrong += [f"{image_id} was promised" for image_id, kept in said.items() if kept and image_id not in there
              and not (image_id == ONE.id and len(said) == 2)]  # fmt: skip
    wrong += [f"{image_id} is back" for image_id, kept in said.items() if not kept and image_id in there]
    if ONE.id in said and ONE.id not in there:  # it was removed, not broken off: nothing of it may stay
        shared = {blob.digest for blob in TWO.blobs}
        wrong += [
            f"blob {b.digest} stays"
            for b in ONE.blobs
            if b.digest not in shared and store.blobs.has(b.digest)
        ]
        wrong += [f"config {ONE.id} stays"] if store.blobs.has(ONE.id) else []
    # And it goes on working: everything can be done again, and then nothing is left.
    await pull(store, ONE, "one")
    await pull(store, TWO, "two")
    store.driver.remove("container")
    await store.remove_image(ONE.id)
    await store.remove_image(TWO.id)
    await store.collect()
    if store.driver.layers() or list(store.blobs.list()) or store.driver.active():
        wrong.append("something cannot be removed")
    await store.close()
    return wrong


def in_child(run: object) -> tuple[int, bytes]:
    """The wait status of a forked child, and what it wrote to the descriptor it was given."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            run(writing)  # type: ignore[operator]
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(writing)
    said = b""
    while data := os.read(reading, 65536):
        said += data
    os.close(reading)
    return os.waitpid(child, 0)[1], said


def main(root: str, driver: str) -> None:
    passed = os.path.join(root, "passed")
    os.makedirs(root)

    def listing(answered: int) -> None:
        killpoint._list, killpoint._is_on = passed, True  # type: ignore[attr-defined]
        asyncio.run(work(os.path.join(root, "data"), driver, answered))

    status, _ = in_child(listing)
    assert status == 0, "the work itself fails"
    with open(passed) as file:
        points = file.read().split()
    seen: Counter[str] = Counter()
    found: dict[str, list[str]] = {}
    for name in points:
        seen[name] += 1
        count = seen[name]
        data = os.path.join(root, "data")
        shutil.rmtree(data, ignore_errors=True)

        def dying(answered: int, name: str = name, count: int = count, data: str = data) -> None:
            killpoint._name, killpoint._left, killpoint._is_on = name, count, True  # type: ignore[attr-defined]
            asyncio.run(work(data, driver, answered))

        status, said = in_child(dying)
        answers = said.decode().split("\n")[:-1]

        def looking(answered: int, data: str = data, answers: list[str] = answers) -> None:
            wrong = asyncio.run(look(data, driver, answers))
            os.write(answered, json.dumps(wrong).encode())

        if os.WTERMSIG(status) != signal.SIGKILL:
            found[f"{name}:{count}"] = ["was not hit"]
            continue
        status, said = in_child(looking)
        found[f"{name}:{count}"] = json.loads(said) if status == 0 else ["the next store fails"]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
