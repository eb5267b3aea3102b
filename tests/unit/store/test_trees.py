from __future__ import annotations

import os
import resource
import stat

import pytest

from wherry.store.trees import OPAQUE, LayerStack, copy_tree, remove_tree, tree_size

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts and owners: needs root")


@pytest.fixture
def root(tmp_path: os.PathLike[str]) -> str:
    return os.fspath(tmp_path)


def layer(
    root: str, name: str, *paths: str, hidden: tuple[str, ...] = (), opaque: tuple[str, ...] = ()
) -> str:
    tree = os.path.join(root, name)
    os.mkdir(tree)
    for path in paths:
        full = os.path.join(tree, path)
        if path.endswith("/"):
            os.makedirs(full, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w") as file:
                file.write(name)
    for path in hidden:
        os.makedirs(os.path.dirname(os.path.join(tree, path)), exist_ok=True)
        os.mknod(os.path.join(tree, path), stat.S_IFCHR, 0)
    for path in opaque:
        os.setxattr(os.path.join(tree, path), OPAQUE, b"y")
    return tree


def test_a_stack_shows_what_overlayfs_would(root: str) -> None:
    low = layer(root, "low", "d/a", "d/b", "e/f/g", "x", "l/inside")
    middle = layer(root, "middle", "d/c", "e/f/", hidden=("d/a",), opaque=("e/f",))
    top = layer(root, "top", "d/", "x", hidden=("d/c",))
    os.symlink("d", os.path.join(top, "l"))
    stack = LayerStack([top, middle, low])
    assert stack.find(b"d/b") is not None
    for path in (b"d/a", b"d/c", b"e/f/g", b"nothing", b"x/y", b"l/inside", b"l/b"):
        assert stack.find(path) is None, path
    found = stack.find(b"x")
    assert found is not None
    assert found.st_size == len("top")
    link = stack.find(b"l")
    assert link is not None
    assert stat.S_ISLNK(link.st_mode)
    assert stack.find(b"") is not None
    assert stack.names() == {b"d", b"e", b"x", b"l"}
    assert stack.names(b"d") == {b"b"}
    assert stack.names(b"e/f") == set()
    assert stack.names(b"l") == stack.names(b"nothing") == set()
    assert LayerStack([]).find(b"a") is None


def test_a_size_counts_each_file_once_and_no_directories(root: str) -> None:
    tree = layer(root, "abc", "a", "d/b")
    os.link(os.path.join(tree, "a"), os.path.join(tree, "d/hard"))
    os.symlink("12345", os.path.join(tree, "s"))
    assert tree_size(tree) == 3 + 3 + 5
    assert tree_size(os.path.join(root, "nothing")) == 0


def test_removing_does_not_follow_symlinks(root: str) -> None:
    outside = layer(root, "outside", "precious")
    tree = layer(root, "tree", "a", "d/b/c")
    os.symlink(outside, os.path.join(tree, "d/out"))
    remove_tree(tree)
    remove_tree(tree)
    assert not os.path.exists(tree)
    assert os.listdir(outside) == ["precious"]


def test_a_copy_is_the_same(root: str) -> None:
    tree = layer(root, "tree", "a", "d/b", "d/e/")
    os.link(os.path.join(tree, "a"), os.path.join(tree, "d/hard"))
    os.symlink("/nowhere", os.path.join(tree, "s"))
    os.mkfifo(os.path.join(tree, "fifo"))
    os.mknod(os.path.join(tree, "null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with open(os.path.join(tree, "sparse"), "wb") as file:
        file.truncate(5_000_000)
    os.setxattr(os.path.join(tree, "a"), "user.note", b"x")
    os.chown(os.path.join(tree, "d/b"), 5, 6)
    os.chmod(os.path.join(tree, "d/b"), 0o4755)
    os.utime(os.path.join(tree, "d"), ns=(1, 2_000_000_003))
    copy = os.path.join(root, "copy")
    copy_tree(tree, copy)
    assert described(copy) == described(tree)
    assert os.stat(os.path.join(copy, "a")).st_nlink == 2
    assert os.getxattr(os.path.join(copy, "a"), "user.note") == b"x"


def described(tree: str) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for at, directories, files in os.walk(tree):
        for name in [*directories, *files, "."]:
            path = os.path.join(at, name)
            s = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(s.st_mode) else None
            if stat.S_ISREG(s.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            size = s.st_size if content is not None else 0
            found[os.path.relpath(path, tree)] = (
                s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_rdev, size, content,
            )  # fmt: skip
    return found


def test_a_stack_of_five_hundred_layers_takes_few_descriptors(root: str) -> None:
    trees = [layer(root, f"{n}", "d/e/f") for n in range(500)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = max(int(number) for number in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 50, before[1]))
    try:
        stack = LayerStack(trees)
        assert stack.find(b"d/e/f") is not None
        assert stack.find(b"d/e/nothing") is None
        assert stack.names(b"d/e") == {b"f"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
