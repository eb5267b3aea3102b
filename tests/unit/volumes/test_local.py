"""The driver `local`: Docker's options, names and texts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.errors import Internal, InvalidParameter, Unavailable
from wherry.linux import mounts
from wherry.volumes import local
from wherry.volumes.local import Local, check_options, split_options


@pytest.fixture
async def driver(tmp_path: Path) -> Local:
    driver = Local(str(tmp_path / "volumes"))
    await driver.recover()
    return driver


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"foo": "bar"}, 'invalid option: "foo"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "tmpfs"}, 'missing required option: "type"'),
        ({"o": "bind"}, 'missing required option: "device"'),
        ({"o": "bind", "device": "/x"}, 'missing required option: "type"'),
        ({"size": "1g"}, "quota size requested but no quota support"),
        ({"size": "x"}, "invalid size: 'x'"),
        ({"size": "-1"}, "invalid size: '-1'"),
    ],
)
def test_options_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        check_options(options)


@pytest.mark.parametrize(
    "options",
    [{}, {"size": "0"}, {"type": "tmpfs", "device": "tmpfs"}, {"type": "none", "device": "/", "o": "bind"}],
)
def test_options_taken(options: dict[str, str]) -> None:
    check_options(options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "volume name is too short, names should be at least two alphanumeric characters"),
        ("../x", "includes invalid characters for a local volume name"),
        ("a/b", "includes invalid characters"),
        (".gone-x", "includes invalid characters"),
        ("", "includes invalid characters"),
        ("a\n", "includes invalid characters"),
        ("é" * 3, "includes invalid characters"),
        ("a" * 256, "at most 255 fit"),
    ],
)
def test_names_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        Local("/nonexistent").check(name, {})


async def test_modes_are_dockers(driver: Local, tmp_path: Path) -> None:
    await driver.create("data", {})
    assert [
        oct((tmp_path / "volumes" / each).stat().st_mode & 0o777) for each in (".", "data", "data/_data")
    ] == [
        "0o701",
        "0o701",
        "0o755",
    ]


async def test_what_a_crash_left_renamed_is_deleted(driver: Local, tmp_path: Path) -> None:
    (tmp_path / "volumes" / ".gone-0123" / "_data").mkdir(parents=True)
    await driver.recover()
    assert os.listdir(tmp_path / "volumes") == []


async def test_a_bind_needs_its_directory(driver: Local, tmp_path: Path) -> None:
    options = {"type": "none", "device": f"{tmp_path}/nope", "o": "bind"}
    await driver.create("data", options)
    with pytest.raises(Internal) as refused:
        await driver.mount("data", options, "1")
    where = f"{tmp_path}/volumes/data/_data"
    assert str(refused.value) == (
        f"failed to mount local volume: mount {tmp_path}/nope:{where}, flags: 0x1000: no such file or directory"
    )
    data = await driver.mount("data", {"type": "none", "device": str(tmp_path), "o": "bind,ro"}, "1")
    assert (data.path, data.options) == (str(tmp_path), ("bind", "ro"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts")
async def test_a_filesystem_is_tried_first(driver: Local) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,ro,noexec"}
    data = await driver.mount("data", options, "1")
    assert (data.filesystem, data.device, data.is_fresh) == ("tmpfs", "tmpfs", True)
    descriptor = local.open_filesystem(data)
    assert os.fstatvfs(descriptor).f_blocks * os.fstatvfs(descriptor).f_frsize == 1 << 20
    os.close(descriptor)
    for kind, o, text in (
        ("nosuchfs", "", "data/_data: no such device"),
        ("tmpfs", "size=banana", "data/_data, data: size=banana: invalid argument"),
        ("nosuchfs", "password=secret,ro", "flags: 0x1, data: password=\\*{8}: no such device"),
    ):
        with pytest.raises(Internal, match=text) as refused:
            await driver.mount("data", {"type": kind, "device": "x", "o": o}, "1")
        assert "secret" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts")
async def test_nfs_says_what_is_wrong_in_bounded_time(driver: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a client in the kernel: nobody answers at the address. Without one: it knows no such filesystem."""
    monkeypatch.setattr(local, "MOUNT_TIMEOUT_S", 3.0)
    options = {"type": "nfs", "device": ":/srv", "o": "addr=127.0.0.1,soft,timeo=1,retrans=0"}
    with pytest.raises((Internal, Unavailable), match="failed to mount local volume"):
        await driver.mount("data", options, "1")
    with pytest.raises(
        Internal, match="error resolving passed in network volume address: lookup no.such.invalid"
    ):
        await driver.mount("data", {**options, "o": "addr=no.such.invalid"}, "1")


def test_mount_words() -> None:
    attributes, data = split_options(["ro", "nosuid", "size=1m", "uid=5", "rw", "nolock"])
    assert attributes == mounts.ATTR_RDONLY | mounts.ATTR_NOSUID
    assert data == [("size", "1m"), ("uid", "5"), ("nolock", None)]


async def test_volumes_that_docker_made_are_found(driver: Local, tmp_path: Path) -> None:
    for name, text in (
        ("plain", ""),
        ("scratch", '{"MountType":"tmpfs","MountOpts":"size=1m","MountDevice":"tmpfs"}'),
    ):
        (tmp_path / "volumes" / name / "_data").mkdir(parents=True)
        if text:
            (tmp_path / "volumes" / name / "opts.json").write_text(text)
    (tmp_path / "volumes" / "no-data").mkdir()
    (tmp_path / "volumes" / "metadata.db").write_bytes(b"")
    found = {each.name: each.options for each in await driver.list()}
    assert found == {"plain": None, "scratch": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}
