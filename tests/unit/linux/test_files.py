"""Opening and making files below a root: nothing leads outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.linux import files


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    descriptor = os.open(tmp_path / "root", os.O_PATH)
    yield descriptor
    os.close(descriptor)


def real(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


@pytest.mark.parametrize("link", ["../outside", "../../outside", "/../outside", "/" + "../" * 20 + "outside"])
def test_symlinks_that_leave_end_inside(root: int, tmp_path: Path, link: str) -> None:
    (tmp_path / "root/link").symlink_to(link)
    with pytest.raises(FileNotFoundError):
        files.open_below(root, "/link/secret", os.O_RDONLY)
    made = files.make_directory(root, "/link/deep")
    assert real(made) == str(tmp_path / "root/outside/deep")
    os.close(made)
    assert os.listdir(tmp_path / "outside") == ["secret"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b/c", "a/b/c"),
        ("a//b/./c/", "a/b/c"),
        ("/a/../../b", "b"),
        ("/", ""),
        ("", ""),
        ("/new/../a", "a"),
        ("/relative/x", "target/x"),
        ("/absolute/x", "target/x"),
        ("/up/x", "x"),
        ("/chain/y", "target/y"),
    ],
)
def test_directories_are_made(root: int, tmp_path: Path, path: str, expected: str) -> None:
    for name, target in (
        ("relative", "target"),
        ("absolute", "/target"),
        ("up", ".."),
        ("chain", "relative"),
    ):
        (tmp_path / "root" / name).symlink_to(target)
    made = files.make_directory(root, path or "/")
    assert real(made) == str(tmp_path / "root" / expected).rstrip("/")
    os.close(made)


def test_a_symlink_loop(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/a").symlink_to("b")
    (tmp_path / "root/b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        files.make_directory(root, "/a/x")


def test_a_file_in_the_way(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/file").write_text("")
    with pytest.raises(NotADirectoryError):
        files.make_directory(root, "/file/x")


def test_files_are_made(root: int, tmp_path: Path) -> None:
    made = files.make_file(root, "/deep/er/file")
    assert real(made) == str(tmp_path / "root/deep/er/file")
    os.close(made)
    os.close(files.make_file(root, "/deep/er/file"))  # one that is there is taken


def test_a_dangling_symlink_as_file(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/link").symlink_to("/../../outside/made")
    made = files.make_file(root, "/link")
    assert real(made) == str(tmp_path / "root/outside/made")
    os.close(made)
    assert not (tmp_path / "outside/made").exists()


def test_magic_links_are_refused(root: int) -> None:
    proc = os.open("/proc", os.O_PATH)
    with pytest.raises(OSError, match="symbolic links"):
        files.open_below(proc, f"/{os.getpid()}/root/etc", os.O_PATH)
    os.close(proc)


def test_reading_text(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/file").write_text("x" * 100)
    os.mkfifo(tmp_path / "root/fifo")
    assert files.read_text(root, "/file", limit=10) == "x" * 10
    with pytest.raises(OSError, match="not a regular file"):
        files.read_text(root, "/fifo")  # and does not wait for a writer
