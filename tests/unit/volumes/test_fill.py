"""First use: what is copied, what is not, and what a death in between leaves."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from wherry.volumes import fill

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives files away")


@pytest.fixture(autouse=True)
def _umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


class Pair:
    def __init__(self, base: Path) -> None:
        self.source, self.volume = base / "source", base / "volume"
        self.source.mkdir()
        self.volume.mkdir()

    def fill(self) -> bool:
        return self._do(fill.fill, self.source)

    def finish(self) -> None:
        self._do(fill.finish)

    def _do(self, action: object, *others: Path) -> bool:
        opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.volume, *others)]
        try:
            return bool(action(*opened))  # type: ignore[operator]
        finally:
            for descriptor in opened:
                os.close(descriptor)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_owners_modes_times_attributes_and_links(pair: Pair) -> None:
    source, volume = pair.source, pair.volume
    (source / "d").mkdir()
    (source / "d" / "f").write_bytes(b"hello")
    os.chown(source / "d" / "f", 7, 8)
    os.chmod(source / "d" / "f", 0o4750)
    os.utime(source / "d" / "f", ns=(1, 2_000_000_001))
    os.setxattr(source / "d" / "f", "user.colour", b"blue")
    os.link(source / "d" / "f", source / "second")
    os.symlink("/etc/passwd", source / "link")
    os.chown(source / "link", 9, 9, follow_symlinks=False)
    os.mkfifo(source / "fifo", 0o622)
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(source / "socket"))
    os.chmod(source / "d", 0o1777)
    os.chown(source, 5, 6)
    os.chmod(source, 0o2711)
    assert pair.fill()
    found = (volume / "d" / "f").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777, found.st_mtime_ns) == (
        7,
        8,
        0o4750,
        2_000_000_001,
    )
    assert (volume / "d" / "f").read_bytes() == b"hello"
    assert os.getxattr(volume / "d" / "f", "user.colour") == b"blue"
    assert (volume / "second").stat().st_ino == found.st_ino
    assert os.readlink(volume / "link") == "/etc/passwd" and (volume / "link").lstat().st_uid == 9
    assert (
        stat.S_ISFIFO((volume / "fifo").stat().st_mode) and (volume / "fifo").stat().st_mode & 0o777 == 0o622
    )
    assert (volume / "null").stat().st_rdev == os.makedev(1, 3)
    assert (volume / "d").stat().st_mode & 0o7777 == 0o1777
    top = volume.stat()
    assert (top.st_uid, top.st_gid, top.st_mode & 0o7777) == (5, 6, 0o2711)
    assert sorted(os.listdir(volume)) == ["d", "fifo", "link", "null", "second"]


def test_a_volume_that_holds_something_stays_as_it_is(pair: Pair) -> None:
    (pair.source / "image").write_text("x")
    (pair.volume / "mine").write_text("y")
    assert not pair.fill()
    assert os.listdir(pair.volume) == ["mine"]


def test_a_copy_broken_off_is_begun_anew(pair: Pair) -> None:
    (pair.source / "one").write_text("1")
    (pair.source / "two").write_text("2")
    half = pair.volume / ".wherry-fill"
    half.mkdir()
    (half / "one").write_text("half of it")
    assert pair.fill()
    assert sorted(os.listdir(pair.volume)) == ["one", "two"] and (pair.volume / "one").read_text() == "1"


def test_a_copy_that_was_complete_is_finished(pair: Pair) -> None:
    done = pair.volume / ".wherry-filled"
    done.mkdir()
    os.chown(done, 5, 6)
    (done / "two").write_text("2")
    (pair.volume / "one").write_text("moved already")
    pair.finish()
    assert sorted(os.listdir(pair.volume)) == ["one", "two"] and pair.volume.stat().st_uid == 5
    assert not pair.fill()


def test_a_copy_that_fails_leaves_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    (pair.source / "one").write_text("1")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(OSError, match="No space left"):
        pair.fill()
    assert os.listdir(pair.volume) == []


@pytest.mark.parametrize("name", [".wherry-fill", ".wherry-filled"])
def test_symlinks_that_a_container_left_are_not_followed(pair: Pair, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    os.symlink(outside, pair.volume / name)
    (pair.source / "one").write_text("1")
    pair.fill()
    pair.finish()
    assert os.listdir(outside) == ["kept"] and (outside / "kept").read_text() == "x"


def test_nothing_is_nested_without_end(pair: Pair) -> None:
    at = os.open(pair.source, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    with pytest.raises(OSError, match="nested more than 300"):
        pair.fill()
    assert os.listdir(pair.volume) == []
