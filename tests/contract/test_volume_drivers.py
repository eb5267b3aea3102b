"""What every volume driver promises (volumes/driver.py), tried on `local` and on a plugin over a real socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.volumes.plugin import Plugin
from wherry import plugins
from wherry.errors import Internal, InvalidParameter, NotFound, Unavailable
from wherry.volumes.driver import VolumeDriver
from wherry.volumes.remote import Plugins

MOUNT_ID = "a" * 64


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    plugin = Plugin(str(tmp_path / "sockets" / "nas.sock"), str(tmp_path / "nas"))
    yield plugin
    plugin.close()


def installed(tmp_path: Path, *, quick_s: float = 5.0, long_s: float = 5.0) -> Plugins:
    return Plugins(
        sockets=str(tmp_path / "sockets"),
        specs=(str(tmp_path / "etc"), str(tmp_path / "lib")),
        quick_s=quick_s,
        long_s=long_s,
    )


@pytest.fixture(params=["local", "remote"])
async def driver(request: pytest.FixtureRequest, tmp_path: Path, plugin: Plugin) -> VolumeDriver:
    if request.param == "remote":
        return await installed(tmp_path).find("nas")
    made: VolumeDriver = plugins.load_driver(plugins.VOLUMES, "local")(str(tmp_path / "volumes"))
    await made.recover()
    return made


async def test_its_name_and_scope(driver: VolumeDriver) -> None:
    assert (driver.name, driver.scope) in (("local", "local"), ("nas", "global"))


async def test_create_find_list_remove(driver: VolumeDriver) -> None:
    assert await driver.find("data") is None and await driver.list() == []
    driver.check("data", {})
    await driver.create("data", {})
    found = await driver.find("data")
    assert found is not None and found.name == "data" and os.path.isdir(found.mountpoint)
    assert [each.name for each in await driver.list()] == ["data"]
    await driver.remove("data")
    assert await driver.find("data") is None and await driver.list() == []
    assert not os.path.exists(found.mountpoint)


async def test_create_again_keeps_the_data(driver: VolumeDriver) -> None:
    await driver.create("data", {})
    data = await driver.mount("data", {}, MOUNT_ID)
    Path(data.path, "kept").write_text("x")
    await driver.create("data", {})
    assert Path(data.path, "kept").read_text() == "x"
    await driver.unmount("data", MOUNT_ID)


async def test_remove_again_is_no_error(driver: VolumeDriver) -> None:
    await driver.create("data", {})
    await driver.remove("data")
    await driver.remove("data")


async def test_volumes_are_apart(driver: VolumeDriver) -> None:
    for name in ("one", "two"):
        await driver.create(name, {})
        data = await driver.mount(name, {}, MOUNT_ID)
        Path(data.path, "who").write_text(name)
    data = await driver.mount("one", {}, "b" * 64)
    assert Path(data.path, "who").read_text() == "one" and data.path.startswith("/")


async def test_recover_keeps_what_is_there(driver: VolumeDriver) -> None:
    await driver.create("data", {})
    await driver.recover()
    assert await driver.find("data") is not None


# A plugin that misbehaves


async def remote(tmp_path: Path, *, quick_s: float = 5.0, long_s: float = 5.0) -> VolumeDriver:
    return await installed(tmp_path, quick_s=quick_s, long_s=long_s).find("nas")


async def test_the_options_and_the_mount_id_arrive(tmp_path: Path, plugin: Plugin) -> None:
    driver = await remote(tmp_path)
    await driver.create("data", {"size": "1g"})
    assert plugin.options["data"] == {"size": "1g"}
    await driver.mount("data", {}, MOUNT_ID)
    assert plugin.mounted["data"] == {MOUNT_ID}
    await driver.unmount("data", MOUNT_ID)
    assert plugin.mounted["data"] == set()
    found = await driver.find("data")
    assert found is not None and found.status == {"Health": "good"} and found.created_ns == 1767323045 * 10**9


@pytest.mark.parametrize(
    "method", ["VolumeDriver.Create", "VolumeDriver.Mount", "VolumeDriver.List", "VolumeDriver.Get"]
)
async def test_a_plugin_that_hangs_costs_a_bounded_time(tmp_path: Path, plugin: Plugin, method: str) -> None:
    driver = await remote(tmp_path, quick_s=0.3, long_s=0.4)
    if method == "VolumeDriver.Mount":
        await driver.create("data", {})
    plugin.silent.add(method)
    calls = {
        "VolumeDriver.Create": lambda: driver.create("data", {}),
        "VolumeDriver.Mount": lambda: driver.mount("data", {}, MOUNT_ID),
        "VolumeDriver.List": lambda: driver.list(),
        "VolumeDriver.Get": lambda: driver.find("data"),
    }
    with pytest.raises(
        Unavailable, match=f"{method}: volume plugin nas at unix://.* did not answer within 0.[34] s"
    ):
        async with asyncio.timeout(20):
            await calls[method]()


async def test_a_plugin_that_hangs_from_the_beginning(tmp_path: Path, plugin: Plugin) -> None:
    plugin.silent.add("Plugin.Activate")
    with pytest.raises(Unavailable, match="Plugin.Activate: .* did not answer within"):
        await remote(tmp_path, quick_s=0.2)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((200, b'{"Err": "disk on fire"}'), "disk on fire"),
        ((500, b'{"Err": "disk on fire"}'), "VolumeDriver.Mount: disk on fire"),
        ((500, b"plain words"), "VolumeDriver.Mount: plain words"),
        ((404, b""), "VolumeDriver.Mount: status 404"),
        ((200, b"no json"), "the plugin's answer cannot be read"),
        ((200, b'{"Mountpoint": 5}'), "the plugin's answer cannot be read"),
        ((200, b'{"Mountpoint": "relative/path"}'), "which is no absolute path"),
        ((200, b'{"Mountpoint": ""}'), "which is no absolute path"),
        ((200, b"[" * 100000), "the plugin's answer cannot be read"),
        ((200, b" " * (17 << 20)), "is longer than"),
    ],
)
async def test_what_a_plugin_says_is_not_believed(
    tmp_path: Path, plugin: Plugin, answer: tuple[int, bytes], text: str
) -> None:
    driver = await remote(tmp_path)
    await driver.create("data", {})
    plugin.answers["VolumeDriver.Mount"] = answer
    with pytest.raises(Internal, match=text):
        await driver.mount("data", {}, MOUNT_ID)


async def test_a_plugin_that_died(tmp_path: Path, plugin: Plugin) -> None:
    driver = await remote(tmp_path)
    plugin.close()
    with pytest.raises(
        Unavailable, match="VolumeDriver.List: volume plugin nas at unix://.* cannot be reached"
    ):
        await driver.list()
    with pytest.raises(NotFound, match='error looking up volume plugin nas: plugin "nas" not found'):
        await remote(tmp_path)


async def test_what_is_no_volume_plugin(tmp_path: Path) -> None:
    other = Plugin(str(tmp_path / "sockets" / "net.sock"), str(tmp_path / "x"), implements=("NetworkDriver",))
    try:
        with pytest.raises(InvalidParameter, match="does not implement the requested driver"):
            await installed(tmp_path).find("net")
    finally:
        other.close()


async def test_plugins_by_specification(tmp_path: Path) -> None:
    """NAME.spec holds an address, NAME.json too; NAME/NAME.sock is as good as NAME.sock."""
    away = Plugin(str(tmp_path / "elsewhere" / "p.sock"), str(tmp_path / "x"))
    inner = Plugin(str(tmp_path / "sockets" / "deep" / "deep.sock"), str(tmp_path / "y"))
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "plain.spec").write_text(f"unix://{away.socket_path}\n")
    (etc / "full.json").write_text('{"Name": "full", "Addr": "unix://%s"}' % away.socket_path)
    (etc / "wrong.spec").write_text("gopher://nowhere")
    (etc / "broken.json").write_text("{")
    found = installed(tmp_path)
    try:
        for name in ("plain", "full", "deep"):
            driver = await found.find(name)
            await driver.create("v" + name, {})
        assert set(away.options) == {"vplain", "vfull"} and set(inner.options) == {"vdeep"}
        with pytest.raises(
            InvalidParameter, match="wrong.spec: unknown protocol in address 'gopher://nowhere'"
        ):
            await found.find("wrong")
        with pytest.raises(InvalidParameter, match="broken.json"):
            await found.find("broken")
        for name in ("", "..", "a/b", "nope"):
            with pytest.raises(NotFound):
                await found.find(name)
        assert found.names() == ["broken", "deep", "full", "plain", "wrong"]
    finally:
        away.close()
        inner.close()


async def test_a_plugin_is_asked_what_it_is_once(tmp_path: Path, plugin: Plugin) -> None:
    found = installed(tmp_path)
    assert await found.find("nas") is await found.find("nas")
    assert plugin.count("Plugin.Activate") == 1
