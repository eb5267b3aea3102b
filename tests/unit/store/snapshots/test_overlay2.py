from __future__ import annotations

import os

import pytest

from wherry.errors import Unsupported
from wherry.linux import mounts
from wherry.store.snapshots.overlay2 import Overlay2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays: needs root")


@pytest.fixture
def root(tmp_path: os.PathLike[str]) -> str:
    return os.path.join(tmp_path, "overlay2")


def test_a_probe_leaves_nothing(root: str) -> None:
    Overlay2(root).probe()
    assert os.listdir(root) == []


def test_an_overlay_cannot_hold_an_upper_directory(root: str) -> None:
    for name in ("lower", "upper", "work"):
        os.makedirs(os.path.join(root, name))
    options = [(f"{name}dir", os.path.join(root, name)) for name in ("lower", "upper", "work")]
    overlay = mounts.new_filesystem("overlay", [(key, value) for key, value in options])
    try:
        with pytest.raises(Unsupported, match='lies on overlayfs.*"vfs"'):
            Overlay2(f"/proc/self/fd/{overlay}/store").probe()
    finally:
        os.close(overlay)


def test_the_status_has_dockers_keys(root: str) -> None:
    memory = mounts.new_filesystem("tmpfs", [("size", "1m")])
    try:
        driver = Overlay2(f"/proc/self/fd/{memory}/store")
        driver.probe()
        assert driver.status() == [
            ("Backing Filesystem", "tmpfs"),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        ]
    finally:
        os.close(memory)


def test_a_rootfs_does_not_depend_on_the_kernels_defaults(root: str) -> None:
    driver = Overlay2(root)
    driver.recover()
    driver.prepare("c1", [])
    rootfs = driver.rootfs("c1")
    assert rootfs["options"] == ["index=off", "redirect_dir=off", "metacopy=off"]
    assert os.listdir(rootfs["lower"][0]) == []
    assert rootfs["upper"] == os.path.join(root, "containers", "c1", "upper")
