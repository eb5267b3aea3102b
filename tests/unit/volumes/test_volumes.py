"""The service: names, users, conflicts, and what it finds after a crash."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.unit.volumes.plugin import Plugin
from wherry.errors import Conflict, Internal, InvalidParameter, NotFound, Unavailable
from wherry.store.database import Database
from wherry.volumes.remote import Plugins
from wherry.volumes.volumes import ANONYMOUS, Volume, Volumes, doom_in, settle_in

ONE, TWO = "1" * 64, "2" * 64


class Engine:
    """One run of an engine over `root`; the next one finds what it left."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[tuple[str, str]] = []

    @asynccontextmanager
    async def run(self, *known: str, running: tuple[str, ...] = ()) -> AsyncIterator[Volumes]:
        database = await Database.open(str(self.root / "wherry.db"))

        def told(action: str, volume: Volume) -> None:
            self.told.append((action, volume.name))

        others = Plugins(sockets=str(self.root / "sockets"), specs=(), quick_s=1.0, long_s=1.0)
        try:
            volumes = await Volumes.open(database, str(self.root), told, others=others)
            await volumes.recover(known)
            await volumes.recover_others(lambda container_id: container_id in running)
            yield volumes
        finally:
            await database.close()

    def directories(self) -> list[str]:
        return sorted(os.listdir(self.root / "volumes"))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    plugin = Plugin(str(tmp_path / "sockets" / "nas.sock"), str(tmp_path / "nas"))
    yield plugin
    plugin.close()


async def test_a_volume_outlives_its_engine(engine: Engine) -> None:
    async with engine.run() as volumes:
        made = await volumes.create("data", labels={"a": "b"}, options={})
        Path(made.mountpoint, "kept").write_text("x")
    async with engine.run() as volumes:
        found = await volumes.get("data")
        assert (found.labels, found.options, found.driver, found.created_ns) == (
            {"a": "b"},
            {},
            "local",
            made.created_ns,
        )
        assert Path(found.mountpoint, "kept").read_text() == "x"
        await volumes.remove("data")
        with pytest.raises(NotFound, match="^get data: no such volume$"):
            await volumes.get("data")
    assert engine.told == [("create", "data"), ("destroy", "data")]
    assert engine.directories() == []


async def test_create_again_gives_the_same(engine: Engine) -> None:
    async with engine.run() as volumes:
        first = await volumes.create("data")
        assert await volumes.create("data") == first and await volumes.create("data", "local") == first
        assert engine.told == [("create", "data")]


async def test_conflicts(engine: Engine, plugin: Plugin) -> None:
    async with engine.run() as volumes:
        await volumes.create("data", options={"type": "tmpfs", "device": "tmpfs"})
        with pytest.raises(Conflict) as refused:
            await volumes.create("data", "nas")
        assert str(refused.value) == (
            "create data: driver 'local' already has volume 'data': volume name must be unique"
        )
        with pytest.raises(
            NotFound, match='create data: error looking up volume plugin nope: plugin "nope" not found'
        ):
            await volumes.create("data", "nope")
        with pytest.raises(
            Conflict, match="exists with other options .device=tmpfs, type=tmpfs. than asked for"
        ):
            await volumes.create("data", options={"type": "none", "device": "/srv", "o": "bind"})
        assert (await volumes.create("data", options={"device": "tmpfs", "type": "tmpfs"})).name == "data"
        with pytest.raises(InvalidParameter, match='^create x y: "x y" includes invalid characters'):
            await volumes.create("x y")
        with pytest.raises(InvalidParameter, match='^create bad: missing required option: "device"'):
            await volumes.create("bad", options={"type": "tmpfs"})
    assert engine.directories() == ["data"]


async def test_one_in_use_is_not_removed(engine: Engine) -> None:
    async with engine.run() as volumes:
        await volumes.create("data", user=ONE)
        volumes.use(["data"], TWO)
        for force in (False, True):
            with pytest.raises(Conflict) as refused:
                await volumes.remove("data", force=force)
            assert str(refused.value) == f"remove data: volume is in use - [{ONE}, {TWO}]"
        volumes.release(["data"], ONE)
        volumes.release(["data"], TWO)
        await volumes.remove("data")
        await volumes.remove("data", force=True)
        with pytest.raises(NotFound, match="get data: no such volume"):
            await volumes.remove("data")


async def test_many_at_once_make_one(engine: Engine) -> None:
    async with engine.run() as volumes:
        made = await asyncio.gather(*(volumes.create("data") for _ in range(20)))
        assert len({each.created_ns for each in made}) == 1
    assert engine.told == [("create", "data")]


async def test_the_anonymous_volume_of_a_container_that_was_never_recorded_goes(engine: Engine) -> None:
    async with engine.run() as volumes:
        lost = await volumes.create(user=ONE)
        kept = await volumes.create(user=TWO)
        assert len(lost.name) == 64 and lost.labels == {ANONYMOUS: ""}
        await volumes._database.run(lambda connection: settle_in(connection, TWO))  # pyright: ignore[reportPrivateUsage]
    async with engine.run(TWO) as volumes:
        assert [volume.name for volume in volumes.known()] == [kept.name]
    assert engine.directories() == [kept.name]


async def test_the_anonymous_volume_of_a_container_that_was_removed_with_it_goes(engine: Engine) -> None:
    async with engine.run() as volumes:
        gone = await volumes.create(user=ONE)
        await volumes.create("data", user=ONE)
        await volumes._database.run(lambda connection: settle_in(connection, ONE))  # pyright: ignore[reportPrivateUsage]
        volumes.settled(ONE)
        await volumes._database.run(lambda connection: doom_in(connection, [gone.name], ONE))  # pyright: ignore[reportPrivateUsage]
    async with engine.run() as volumes:
        assert [volume.name for volume in volumes.known()] == ["data"]


async def test_a_creation_that_fails_leaves_nothing(engine: Engine) -> None:
    async with engine.run() as volumes:
        lost = await volumes.create(user=ONE)
        await volumes.create("named", user=ONE)
        await volumes.discard(ONE)
        assert [volume.name for volume in volumes.known()] == ["named"] and volumes.users("named") == []
        assert lost.name not in engine.directories()


async def test_a_removal_broken_off_is_finished(engine: Engine) -> None:
    async with engine.run() as volumes:
        made = await volumes.create("data")
        await volumes._set_pending(["data"], "removing")  # pyright: ignore[reportPrivateUsage]
        os.rename(os.path.dirname(made.mountpoint), engine.root / "volumes" / ".gone-1")
    async with engine.run() as volumes:
        assert volumes.known() == []
    assert engine.directories() == []


async def test_a_creation_broken_off_is_finished(engine: Engine) -> None:
    async with engine.run() as volumes:
        made = await volumes.create("data")
        os.rmdir(made.mountpoint)
    async with engine.run() as volumes:
        assert os.path.isdir((await volumes.get("data")).mountpoint)


async def test_a_directory_that_somebody_put_there_becomes_a_volume(engine: Engine) -> None:
    (engine.root / "volumes" / "restored" / "_data").mkdir(parents=True)
    async with engine.run() as volumes:
        assert (await volumes.get("restored")).driver == "local"
    async with engine.run() as volumes:
        assert [volume.name for volume in volumes.known()] == ["restored"]


async def test_volumes_of_a_plugin(engine: Engine, plugin: Plugin) -> None:
    plugin.options["theirs"] = {}
    async with engine.run() as volumes:
        made = await volumes.create("data", "nas", options={"size": "1g"}, user=ONE)
        assert (made.driver, made.scope) == ("nas", "global")
        found, warnings = await volumes.list()
        assert [(v.name, v.driver, v.options) for v in found] == [
            ("data", "nas", {"size": "1g"}),
            ("theirs", "nas", None),
        ]
        assert warnings == []
        assert (await volumes.get("data")).status == {"Health": "good"}
        assert (await volumes.create("theirs", user=ONE)).driver == "nas"
        data = await volumes.mount("data", ONE, "/d")
        assert data.path == str(engine.root / "nas" / "data") and len(plugin.mounted["data"]) == 1
        await volumes.unmount("data", ONE, "/d")
        assert plugin.mounted["data"] == set()
        plugin.silent.update(("VolumeDriver.List", "VolumeDriver.Get"))
        found, warnings = await volumes.list()
        assert [volume.name for volume in found] == ["data", "theirs"]
        assert len(warnings) == 1 and warnings[0].startswith("list nas: VolumeDriver.List: volume plugin nas")
        asked = plugin.count("VolumeDriver.List")
        assert "was silent when last asked" in (await volumes.list())[1][0]
        assert (await volumes.create("new")).driver == "local" and plugin.count("VolumeDriver.List") == asked
        with pytest.raises(
            Unavailable, match='get data: error while checking if volume "data" exists in driver "nas"'
        ):
            await volumes.get("data")


async def test_what_a_plugin_mounted_for_a_container_that_ended_is_unmounted(
    engine: Engine, plugin: Plugin
) -> None:
    async with engine.run() as volumes:
        await volumes.create("data", "nas", user=ONE)
        await volumes.mount("data", ONE, "/d")
        await volumes.mount("data", TWO, "/d")
    async with engine.run(ONE, TWO, running=(TWO,)):
        assert len(plugin.mounted["data"]) == 1
    async with engine.run(ONE, TWO):
        assert plugin.mounted["data"] == set()


async def test_a_mount_that_fails_is_unmounted_again(engine: Engine, plugin: Plugin) -> None:
    async with engine.run() as volumes:
        await volumes.create("data", "nas", user=ONE)
        plugin.answers["VolumeDriver.Mount"] = (200, b'{"Err": "disk on fire"}')
        with pytest.raises(Internal, match="error while mounting volume '': disk on fire"):
            await volumes.mount("data", ONE, "/d")
        assert plugin.count("VolumeDriver.Unmount") == 1


async def test_a_plugin_that_cannot_remove(engine: Engine, plugin: Plugin) -> None:
    async with engine.run() as volumes:
        await volumes.create("data", "nas")
        plugin.answers["VolumeDriver.Remove"] = (200, b'{"Err": "busy"}')
        with pytest.raises(Internal, match="^remove data: busy$"):
            await volumes.remove("data")
        assert [volume.name for volume in volumes.known()] == ["data"]
        await volumes.remove("data", force=True)
        assert volumes.known() == []


async def test_a_thousand_are_listed(engine: Engine) -> None:
    async with engine.run() as volumes:
        for number in range(1000):
            await volumes._insert(Volume(name=f"v{number}", driver="local"), durable=False)  # pyright: ignore[reportPrivateUsage]
        found, _ = await volumes.list()
        assert len(found) == 1000
