"""What is told of a writable layer, in both forms: an overlay's upper directory, and a full copy."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
from pathlib import Path

import pytest

from wherry.store.changes import changes, pack_changes
from wherry.store.layers import absorb_layer
from wherry.store.trees import OPAQUE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes whiteouts")


def told(tree: Path, *lower: Path, is_full: bool = False) -> list[str]:
    opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (tree, *lower)]
    try:
        return [
            f"{'CAD'[change.kind]} {change.path.decode()}"
            for change in changes(opened[0], opened[1:], is_full=is_full)
        ]
    finally:
        for descriptor in opened:
            os.close(descriptor)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "image"
    for path in ("etc/passwd", "bin/ls", "var/log/old", "root/x"):
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        (image / path).write_text(path)
    return image


def whiteout(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, 0)


def test_an_overlays_upper_directory(tmp_path: Path, image: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc" / "new").write_text("x")
    whiteout(upper / "bin" / "ls")
    whiteout(upper / "bin" / "never-there")
    (upper / "a" / "b").mkdir(parents=True)
    (upper / "root").mkdir(mode=0o700)
    (upper / "var").mkdir()
    os.setxattr(upper / "var", OPAQUE, b"y")
    (upper / "var" / "q").write_text("x")
    assert told(upper, image) == [
        "A /a", "A /a/b", "C /bin", "D /bin/ls", "C /etc", "A /etc/new", "C /root", "C /var", "A /var/q", "D /var/log",
    ]  # fmt: skip


def test_what_is_the_same_is_not_told(tmp_path: Path, image: Path) -> None:
    """Copied up and put back: only a directory's time differs."""
    upper = tmp_path / "upper"
    shutil.copytree(image, upper)
    (upper / "etc" / "t").write_text("")
    (upper / "etc" / "t").unlink()
    assert told(upper, image) == []
    os.utime(upper / "etc" / "passwd", ns=(0, 0))
    assert told(upper, image) == ["C /etc", "C /etc/passwd"]


def test_mount_points_that_every_container_has_are_not_told(tmp_path: Path, image: Path) -> None:
    upper = tmp_path / "upper"
    for path in ("dev/shm", "dev/pts", "proc", "sys", "etc"):
        (upper / path).mkdir(parents=True)
    for path in ("etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv", "dev/console"):
        (upper / path).write_text("")
    (upper / "etc" / "mtab").symlink_to("/proc/mounts")
    assert told(upper, image) == []
    (upper / "dev" / "mine").write_text("")
    assert told(upper, image) == ["C /dev", "A /dev/mine"]


def test_lower_layers_hide_each_other(tmp_path: Path, image: Path) -> None:
    middle, upper = tmp_path / "middle", tmp_path / "upper"
    whiteout(middle / "bin" / "ls")
    (middle / "var").mkdir()
    os.setxattr(middle / "var", OPAQUE, b"y")
    (upper / "bin").mkdir(parents=True)
    (upper / "bin" / "ls").write_text("a new one")
    whiteout(upper / "var" / "log")
    assert told(upper, middle, image) == ["C /bin", "A /bin/ls"]


def test_a_change_of_kind(tmp_path: Path, image: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "etc" / "passwd").mkdir(parents=True)
    (upper / "etc" / "passwd" / "in").write_text("")
    (upper / "var").write_text("a file now")
    assert told(upper, image) == ["C /etc", "C /etc/passwd", "A /etc/passwd/in", "C /var"]


def test_a_full_copy(tmp_path: Path, image: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(image, tree)
    shutil.rmtree(tree / "var" / "log")
    (tree / "bin" / "ls").unlink()
    (tree / "etc" / "passwd").write_text("longer than it was before")
    (tree / "new").write_text("")
    assert told(tree, image, is_full=True) == [
        "C /bin", "D /bin/ls", "C /etc", "C /etc/passwd", "A /new", "C /var", "D /var/log"
    ]  # fmt: skip


def test_the_layer_made_of_changes_is_the_same_again(tmp_path: Path, image: Path) -> None:
    """Packed, unpacked on the same image: the same changes, with hard links, capabilities and modes."""
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc" / "one").write_text("x" * 100_000)
    os.link(upper / "etc" / "one", upper / "etc" / "two")
    os.chmod(upper / "etc" / "one", 0o4755)
    os.setxattr(
        upper / "etc" / "one",
        "security.capability",
        bytes.fromhex("0100000200040000000000000000000000000000"),
    )
    whiteout(upper / "bin" / "ls")
    (upper / "var").mkdir()
    os.setxattr(upper / "var", OPAQUE, b"y")
    opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (upper, image)]
    ours, theirs = socket.socketpair()

    def pack() -> None:
        pack_changes(opened[0], opened[1:], theirs.fileno(), is_full=False)
        theirs.close()

    packing = threading.Thread(target=pack)
    packing.start()
    layer = tmp_path / "layer"
    layer.mkdir()
    with ours.makefile("rb") as tar:
        absorb_layer(tar, str(layer), [str(image)])
    packing.join()
    ours.close()
    for descriptor in opened:
        os.close(descriptor)
    assert told(layer / "fs", image) == told(upper, image)
    one = layer / "fs" / "etc" / "one"
    assert os.path.samefile(one, layer / "fs" / "etc" / "two")
    assert one.stat().st_mode & 0o7777 == 0o4755
    assert os.getxattr(one, "security.capability").startswith(b"\x01\0\0\x02")
