"""What every storage driver promises (store/snapshots/driver.py), tried on each."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.errors import Internal, InvalidParameter, NotFound, Unavailable
from wherry.linux import mounts
from wherry.oci.digest import ChainID, DiffID, chain_ids
from wherry.runtime.rootfs import assemble
from wherry.store.snapshots.driver import SnapshotDriver
from wherry.store.snapshots.overlay2 import Overlay2
from wherry.store.snapshots.vfs import Vfs

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="layers have owners, devices and mounts: needs root"
)

Layer = tuple[bytes, DiffID]


@pytest.fixture(params=[Overlay2, Vfs], ids=["overlay2", "vfs"])
def driver(request: pytest.FixtureRequest, tmp_path: os.PathLike[str]) -> SnapshotDriver:
    made = request.param(os.path.join(tmp_path, "store"))
    made.probe()
    made.recover()
    return made


def tar_of(*members: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo) -> Layer:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue(), DiffID("sha256:" + hashlib.sha256(out.getvalue()).hexdigest())


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mtime = 1_000_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def folder(name: str, **fields: object) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE, **fields)


def commit(driver: SnapshotDriver, *layers: Layer) -> list[ChainID]:
    chains = chain_ids([diff_id for _, diff_id in layers])
    parent = None
    for chain, (data, diff_id) in zip(chains, layers, strict=True):
        driver.commit_layer(chain, parent, diff_id, io.BytesIO(data))
        parent = chain
    return chains


class View:
    """A container's root filesystem, mounted where nobody else sees it."""

    def __init__(self, driver: SnapshotDriver, chains: list[ChainID], key: str = "c1") -> None:
        driver.prepare(key, chains)
        self.root = assemble(dict(driver.rootfs(key)), {}, "")  # detached: nothing shows on the host
        self.path = f"/proc/self/fd/{self.root}"

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.root)

    def tree(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for at, directories, files in os.walk(self.path):
            for name in directories + files:
                path = os.path.join(at, name)
                status = os.lstat(path)
                content: object = None
                if stat.S_ISREG(status.st_mode):
                    with open(path, "rb") as file:
                        content = file.read()
                elif stat.S_ISLNK(status.st_mode):
                    content = os.readlink(path)
                elif not stat.S_ISDIR(status.st_mode):
                    content = status.st_rdev
                found[os.path.relpath(path, self.path)] = (
                    oct(status.st_mode),
                    status.st_uid,
                    status.st_gid,
                    status.st_mtime_ns,
                    content,
                )
        return found

    def names(self) -> set[str]:
        return set(self.tree())


BASE = (
    folder("./", mode=0o755),
    folder("bin"),
    (entry("bin/true", mode=0o4755, uid=0), b"#!\n"),
    folder("home/user", uid=1000, gid=1000, mode=0o700),
    (entry("home/user/.profile", uid=1000, gid=1001), b"x" * 3_000_000),
    entry("link", tarfile.SYMTYPE, linkname="/etc/passwd", uid=5),
    entry("bin/false", tarfile.LNKTYPE, linkname="bin/true"),
    entry("pipe", tarfile.FIFOTYPE, mode=0o620),
    entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    entry("disk", tarfile.BLKTYPE, devmajor=7, devminor=0, mode=0o660, gid=6),
    folder("etc", mtime=5),
    (entry("etc/passwd"), b"root"),
)


def test_a_layer_has_owners_modes_times_links_and_devices(driver: SnapshotDriver) -> None:
    with View(driver, commit(driver, tar_of(*BASE))) as view:
        tree = view.tree()
        assert tree["bin/true"][:3] == ("0o104755", 0, 0)
        assert tree["home"][:4] == ("0o40755", 0, 0, 0)  # implied
        assert tree["home/user"][:4] == ("0o40700", 1000, 1000, 10**18)
        assert tree["home/user/.profile"][1:] == (1000, 1001, 10**18, b"x" * 3_000_000)
        assert tree["link"] == ("0o120777", 5, 0, 10**18, "/etc/passwd")
        assert tree["pipe"][0] == "0o10620"
        assert tree["null"][0] == "0o20666"
        assert tree["null"][4] == os.makedev(1, 3)
        assert tree["disk"][:3] == ("0o60660", 0, 6)
        assert tree["etc"][3] == 5 * 10**9  # set after what is in it
        a, b = os.stat(f"{view.path}/bin/true"), os.stat(f"{view.path}/bin/false")
        assert a.st_ino == b.st_ino
        assert a.st_nlink == 2


def test_a_layer_is_exported_byte_for_byte(driver: SnapshotDriver) -> None:
    layers = tar_of(*BASE), tar_of(folder("etc"), (entry("etc/new"), b"1"), entry("etc/.wh.passwd"))
    chains = commit(driver, *layers)
    for chain, (data, _) in zip(chains, layers, strict=True):
        out = io.BytesIO()
        driver.export_layer(chain, out)
        assert out.getvalue() == data


def test_a_whiteout_hides_what_lies_below_and_shows_nothing_itself(driver: SnapshotDriver) -> None:
    chains = commit(
        driver,
        tar_of(folder("d"), (entry("d/a"), b"1"), (entry("d/b"), b"2"), folder("e"), (entry("e/f"), b"3")),
        tar_of(entry("d/.wh.a"), entry(".wh.e"), entry("d/.wh.never"), entry(".wh.neither")),
    )
    with View(driver, chains) as view:
        assert view.names() == {"d", "d/b"}


def test_an_opaque_directory_hides_what_it_had(driver: SnapshotDriver) -> None:
    chains = commit(
        driver,
        tar_of(folder("d"), (entry("d/a"), b"1"), folder("d/sub"), (entry("d/sub/x"), b"1")),
        tar_of(folder("d", mode=0o700), (entry("d/new"), b"2"), entry("d/.wh..wh..opq")),
    )
    with View(driver, chains) as view:
        assert view.names() == {"d", "d/new"}
        assert view.tree()["d"][0] == "0o40700"


def test_an_opaque_root_hides_everything_below(driver: SnapshotDriver) -> None:
    chains = commit(
        driver,
        tar_of(folder("d"), (entry("d/a"), b"1"), (entry("f"), b"")),
        tar_of(entry(".wh..wh..opq"), folder("d"), (entry("d/b"), b"")),
    )
    with View(driver, chains) as view:
        assert view.names() == {"d", "d/b"}


@pytest.mark.parametrize("first", [True, False], ids=["whiteout first", "whiteout last"])
def test_a_whiteout_speaks_of_lower_layers_only(driver: SnapshotDriver, first: bool) -> None:
    there = [folder("d"), (entry("d/new"), b"2"), (entry("f"), b"2")]
    hides = [entry(".wh.d"), entry(".wh.f")]
    chains = commit(
        driver,
        tar_of(folder("d"), (entry("d/old"), b"1"), (entry("f"), b"1")),
        tar_of(*(hides + there if first else there + hides)),
    )
    with View(driver, chains) as view:
        assert view.names() == {"d", "d/new", "f"}
        assert view.tree()["f"][4] == b"2"


def test_a_member_of_a_whited_out_directory_makes_it_anew(driver: SnapshotDriver) -> None:
    chains = commit(
        driver,
        tar_of(folder("d"), (entry("d/old"), b"1")),
        tar_of(entry(".wh.d"), (entry("d/new"), b"2")),
    )
    with View(driver, chains) as view:
        assert view.names() == {"d", "d/new"}


def test_a_file_takes_the_place_of_a_directory_and_the_other_way_round(driver: SnapshotDriver) -> None:
    chains = commit(
        driver,
        tar_of(
            folder("d"), (entry("d/a"), b"1"), (entry("f"), b"1"), entry("l", tarfile.SYMTYPE, linkname="d")
        ),
        tar_of(
            (entry("d"), b"now a file"), folder("f"), (entry("f/x"), b""), folder("l"), (entry("l/y"), b"")
        ),
    )
    with View(driver, chains) as view:
        assert view.names() == {"d", "f", "f/x", "l", "l/y"}
        assert view.tree()["d"][4] == b"now a file"


def test_an_implied_directory_looks_as_it_did_below(driver: SnapshotDriver) -> None:
    chains = commit(
        driver,
        tar_of(folder("srv", uid=7, gid=8, mode=0o2750), folder("srv/www", uid=9, mode=0o1777)),
        tar_of((entry("srv/www/index"), b"1")),
    )
    with View(driver, chains) as view:
        tree = view.tree()
        assert tree["srv"][:4] == ("0o42750", 7, 8, 10**18)
        assert tree["srv/www"][:3] == ("0o41777", 9, 0)


def test_the_last_of_entries_with_one_name_wins_and_the_export_is_still_exact(driver: SnapshotDriver) -> None:
    layer = tar_of(
        (entry("a"), b"first"),
        (entry("a"), b"second"),
        entry("keep", tarfile.LNKTYPE, linkname="a"),
        (entry("a"), b"third and last"),
        folder("d"),
        (entry("d/x"), b"in d"),
        (entry("d/x"), b"in d again"),
        (entry("d"), b"d is a file now"),
        folder("d"),
        (entry("d/x"), b"in the second d"),
        entry("d", tarfile.SYMTYPE, linkname="a"),
    )
    chains = commit(driver, layer)
    with View(driver, chains) as view:
        tree = view.tree()
        assert {name: row[4] for name, row in tree.items()} == {
            "a": b"third and last",
            "keep": b"second",
            "d": "a",
        }
    out = io.BytesIO()
    driver.export_layer(chains[0], out)
    assert out.getvalue() == layer[0]


def test_names_are_followed_through_the_layers_own_symlinks(driver: SnapshotDriver) -> None:
    layer = tar_of(
        folder("usr/lib"),
        entry("lib", tarfile.SYMTYPE, linkname="usr/lib"),
        entry("abs", tarfile.SYMTYPE, linkname="/usr/lib"),
        entry("up", tarfile.SYMTYPE, linkname="../../../../usr"),
        (entry("lib/a"), b"1"),
        (entry("abs/b"), b"2"),
        (entry("up/lib/c"), b"3"),
        entry("abs/link", tarfile.LNKTYPE, linkname="lib/a"),
    )
    chains = commit(driver, layer)
    with View(driver, chains) as view:
        assert {"usr/lib/a", "usr/lib/b", "usr/lib/c", "usr/lib/link"} <= view.names()
    out = io.BytesIO()
    driver.export_layer(chains[0], out)
    assert out.getvalue() == layer[0]


def test_what_lies_in_a_set_gid_directory_has_the_owner_the_archive_says(driver: SnapshotDriver) -> None:
    chains = commit(
        driver,
        tar_of(
            folder("g", mode=0o2775, gid=7),
            (entry("g/file"), b"1"),
            folder("g/dir"),
            (entry("g/implied/file"), b""),
            entry("g/soft", tarfile.SYMTYPE, linkname="x"),
            entry("g/fifo", tarfile.FIFOTYPE),
        ),
    )
    with View(driver, chains) as view:
        tree = view.tree()
    assert {name: row[2] for name, row in tree.items() if row[2]} == {"g": 7}
    assert tree["g/dir"][0] == tree["g/implied"][0] == "0o40755"


def test_xattrs_are_kept_but_not_those_that_speak_to_overlayfs(driver: SnapshotDriver) -> None:
    capability = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)
    info = entry("ping", uid=1, mode=0o755)
    info.pax_headers = {
        "SCHILY.xattr.user.note": "hello",
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
    }
    d = folder("d")
    d.pax_headers = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y"}
    below = tar_of(folder("d"), (entry("d/below"), b""))
    chains = commit(driver, below, tar_of((info, b""), d))
    with View(driver, chains) as view:
        assert os.getxattr(f"{view.path}/ping", "user.note") == b"hello"
        assert os.getxattr(f"{view.path}/ping", "security.capability") == capability
        assert os.listxattr(f"{view.path}/d") == []
        assert "d/below" in view.names()


def test_another_digest_is_refused_and_leaves_nothing(driver: SnapshotDriver) -> None:
    data, _ = tar_of(*BASE)
    wrong = DiffID("sha256:" + "0" * 64)
    with pytest.raises(InvalidParameter, match="does not match its diffID"):
        driver.commit_layer(ChainID(wrong), None, wrong, io.BytesIO(data))
    assert driver.layers() == []
    assert left_over(driver) == []


def test_giving_up_leaves_nothing(driver: SnapshotDriver) -> None:
    data, diff_id = tar_of(*BASE)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Unavailable):
        driver.commit_layer(ChainID(diff_id), None, diff_id, io.BytesIO(data), stop=stop)
    assert left_over(driver) == []


def test_a_full_disk_is_said_and_leaves_nothing(driver: SnapshotDriver) -> None:
    small = mounts.new_filesystem("tmpfs", [("size", "2m")])
    try:
        on_small = type(driver)(f"/proc/self/fd/{small}/store")  # type: ignore[call-arg]
        on_small.recover()
        data, diff_id = tar_of((entry("a"), os.urandom(3 << 20)))
        with pytest.raises(Internal, match="'a': no space left on device"):
            on_small.commit_layer(ChainID(diff_id), None, diff_id, io.BytesIO(data))
        assert left_over(on_small) == []
        [chain] = commit(on_small, tar_of((entry("b"), b"fits")))
        assert on_small.layer_size(chain) == 4
    finally:
        os.close(small)


def left_over(driver: SnapshotDriver) -> list[str]:
    root = driver._directories.root  # type: ignore[attr-defined]
    return [name for folder in ("layers", "containers") for name in os.listdir(os.path.join(root, folder))]


def test_a_layer_that_is_there_is_not_read_again(driver: SnapshotDriver) -> None:
    data, diff_id = tar_of((entry("a"), b"12345"), entry("l", tarfile.SYMTYPE, linkname="abc"))
    assert driver.commit_layer(ChainID(diff_id), None, diff_id, io.BytesIO(data)) == 8
    unread = io.BytesIO(data)
    assert driver.commit_layer(ChainID(diff_id), None, diff_id, unread) == 8
    assert unread.tell() == 0
    assert driver.has_layer(ChainID(diff_id))
    assert driver.layers() == [ChainID(diff_id)]
    assert driver.layer_size(ChainID(diff_id)) == 8


def test_an_empty_layer_is_a_layer(driver: SnapshotDriver) -> None:
    for data in (b"", bytes(512), bytes(1024), bytes(10240)):
        diff_id = DiffID("sha256:" + hashlib.sha256(data).hexdigest())
        assert driver.commit_layer(ChainID(diff_id), None, diff_id, io.BytesIO(data)) == 0
        out = io.BytesIO()
        driver.export_layer(ChainID(diff_id), out)
        assert out.getvalue() == data


def test_a_changed_layer_is_not_exported_as_if_it_were_whole(driver: SnapshotDriver) -> None:
    [chain] = commit(driver, tar_of((entry("a"), b"12345")))
    tree = driver._tree(chain)  # type: ignore[attr-defined]
    with open(f"{tree}/a", "wb") as file:
        file.write(b"54321")
    with pytest.raises(Internal, match="changed on disk"):
        driver.export_layer(chain, io.BytesIO())
    os.unlink(f"{tree}/a")
    with pytest.raises(Internal):
        driver.export_layer(chain, io.BytesIO())


def test_layers_are_removed_and_removing_twice_is_nothing(driver: SnapshotDriver) -> None:
    [chain] = commit(driver, tar_of(*BASE))
    driver.remove_layer(chain)
    driver.remove_layer(chain)
    assert not driver.has_layer(chain)
    assert left_over(driver) == []
    with pytest.raises(NotFound):
        driver.layer_size(chain)


def test_containers_do_not_see_each_others_changes(driver: SnapshotDriver) -> None:
    chains = commit(driver, tar_of(*BASE))
    with View(driver, chains, "one") as one, View(driver, chains, "two") as two:
        with open(f"{one.path}/etc/passwd", "w") as file:
            file.write("changed")
        os.unlink(f"{one.path}/link")
        with open(f"{two.path}/etc/passwd") as file:
            assert file.read() == "root"
        assert "link" in two.names()
        assert "link" not in one.names()
    assert sorted(driver.active()) == ["one", "two"]
    assert driver.usage("one") >= len("changed")
    for key in ("one", "two"):
        driver.remove(key)
        driver.remove(key)
    assert driver.active() == []
    assert left_over(driver) == [chains[0].removeprefix("sha256:")]


def test_a_container_needs_no_layers_at_all(driver: SnapshotDriver) -> None:
    with View(driver, []) as view:
        assert view.names() == set()
        with open(f"{view.path}/new", "w") as file:
            file.write("x")
        assert view.names() == {"new"}


def test_the_root_directory_has_the_mode_asked_for(driver: SnapshotDriver) -> None:
    driver.prepare("moded", commit(driver, tar_of(*BASE)), root_mode=0o750)
    with View(driver, [], "moded") as view:
        assert stat.S_IMODE(os.stat(view.path).st_mode) == 0o750


def test_preparing_again_keeps_what_is_there(driver: SnapshotDriver) -> None:
    with View(driver, []) as view, open(f"{view.path}/new", "w"):
        pass
    with View(driver, []) as view:
        assert view.names() == {"new"}


def test_what_was_never_prepared_is_not_found(driver: SnapshotDriver) -> None:
    with pytest.raises(NotFound):
        driver.rootfs("nobody")


@pytest.mark.parametrize("key", ["", "..", "a/b", "/etc", "tmp-x", ".hidden", "x" * 200, "nul\0"])
def test_a_key_cannot_be_a_path(driver: SnapshotDriver, key: str) -> None:
    for call in (lambda: driver.prepare(key, []), lambda: driver.remove(key), lambda: driver.rootfs(key)):
        with pytest.raises(InvalidParameter):
            call()


def test_recovery_deletes_what_was_half_made(driver: SnapshotDriver) -> None:
    [chain] = commit(driver, tar_of(*BASE))
    root = driver._directories.root  # type: ignore[attr-defined]
    for place in ("layers/tmp-x/fs/deep/er", "containers/tmp-y/upper/a"):
        os.makedirs(os.path.join(root, place))
    driver.recover()
    assert left_over(driver) == [chain.removeprefix("sha256:")]
    assert driver.has_layer(chain)


def test_a_tree_nested_without_end_can_be_measured_and_removed(driver: SnapshotDriver) -> None:
    with View(driver, []) as view:
        at = os.open(view.path, os.O_PATH)
        for _ in range(2000):
            os.mkdir("d" * 100, dir_fd=at)
            inner = os.open("d" * 100, os.O_PATH, dir_fd=at)
            os.close(at)
            at = inner
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.close(at)
    driver.usage("c1")
    driver.remove("c1")
    assert left_over(driver) == []


def test_what_a_container_made_immutable_can_be_removed(driver: SnapshotDriver) -> None:
    with View(driver, []) as view:
        os.makedirs(f"{view.path}/d/e")
        with open(f"{view.path}/d/f", "w"):
            pass
        for path in ("d/f", "d/e", "d"):
            done = subprocess.run(["chattr", "+i", f"{view.path}/{path}"], check=False, pass_fds=[view.root])
            if done.returncode:
                pytest.skip("this filesystem has no immutable files")
    driver.remove("c1")
    assert left_over(driver) == []


def test_a_container_needs_its_layers(driver: SnapshotDriver) -> None:
    with pytest.raises(NotFound):
        driver.prepare("c1", [ChainID("sha256:" + "0" * 64)])
    assert left_over(driver) == []


def test_a_layer_cannot_go_while_a_container_stands_on_it(driver: SnapshotDriver) -> None:
    chains = commit(driver, tar_of((entry("a"), b"1")), tar_of((entry("b"), b"2")))
    driver.prepare("c1", chains)
    again = type(driver)(driver._directories.root)  # type: ignore[call-arg, attr-defined]
    for one in (driver, again):
        if driver.name == "overlay2":
            assert [one.remove_layer(chain) for chain in chains] == [False, False]
    with View(again, chains) as view:
        assert view.names() == {"a", "b"}
    driver.remove("c1")
    assert [driver.remove_layer(chain) for chain in reversed(chains)] == [True, True]
    assert left_over(driver) == []


def test_containers_made_while_layers_go_are_whole_or_refused(driver: SnapshotDriver) -> None:
    layers = [tar_of((entry("a"), b"1")), tar_of((entry("b"), b"2"))]
    chains = chain_ids([diff_id for _, diff_id in layers])

    def remove() -> None:
        for chain in reversed(chains):
            driver.remove_layer(chain)

    for n in range(30):
        commit(driver, *layers)
        thread = threading.Thread(target=remove)
        thread.start()
        try:
            driver.prepare(f"c{n}", chains)
        except NotFound:
            thread.join()
            continue
        thread.join()
        with View(driver, chains, f"c{n}") as view:
            assert view.names() == {"a", "b"}
        driver.remove(f"c{n}")


def test_preparing_again_mends_what_a_power_cut_took(driver: SnapshotDriver) -> None:
    chains = commit(driver, tar_of((entry("a"), b"1")))
    with View(driver, chains) as view, open(f"{view.path}/new", "w"):
        pass
    if driver.name == "overlay2":
        with open(os.path.join(driver._directories.container_path("c1"), "lower"), "w"):  # type: ignore[attr-defined]
            pass
        driver = type(driver)(driver._directories.root)  # type: ignore[call-arg, attr-defined]
        with pytest.raises(NotFound):
            driver.rootfs("c1")
    with View(driver, chains) as view:
        assert view.names() == {"a", "new"}


HOSTILE: dict[str, Callable[[], Layer]] = {
    "dotdot": lambda: tar_of((entry("../escaped"), b"x")),
    "dotdot inside": lambda: tar_of((entry("a/../../escaped"), b"x")),
    "whiteout of nothing": lambda: tar_of(entry(".wh.")),
    "whiteout of dot": lambda: tar_of(entry(".wh..")),
    "whiteout of dotdot": lambda: tar_of(entry("a/.wh...")),
    "root as a file": lambda: tar_of((entry("./"), b"x")),
    "root as a symlink": lambda: tar_of(entry(".", tarfile.SYMTYPE, linkname="/etc")),
    "hard link out": lambda: tar_of(entry("a", tarfile.LNKTYPE, linkname="../../../../../../../etc/passwd")),
    "hard link to the host": lambda: tar_of(entry("a", tarfile.LNKTYPE, linkname="/etc/passwd")),
    "hard link through a symlink": lambda: tar_of(
        entry("s", tarfile.SYMTYPE, linkname="/etc"), entry("a", tarfile.LNKTYPE, linkname="s/passwd")
    ),
    "hard link to a directory": lambda: tar_of(folder("d"), entry("a", tarfile.LNKTYPE, linkname="d")),
    "hard link into a lower layer": lambda: tar_of(entry("a", tarfile.LNKTYPE, linkname="below")),
    "long name": lambda: tar_of((entry("x" * 300), b"")),
    "long path": lambda: tar_of((entry("d/" * 2500 + "x"), b"")),
    "deep path": lambda: tar_of((entry("d/" * 400 + "x"), b"")),
    "empty symlink": lambda: tar_of(entry("a", tarfile.SYMTYPE, linkname="")),
    "file below a file": lambda: tar_of((entry("a"), b"x"), (entry("a/b"), b"x")),
    "dangling symlink as parent": lambda: tar_of(
        entry("a", tarfile.SYMTYPE, linkname="nowhere"), (entry("a/b"), b"x")
    ),
    "symlink loop as parent": lambda: tar_of(entry("a", tarfile.SYMTYPE, linkname="a"), (entry("a/b"), b"x")),
    "whiteout with a member": lambda: tar_of((entry(".wh.d/x"), b"x")),
    "hard link to a whiteout": lambda: tar_of(
        folder("d"),
        entry("n", tarfile.CHRTYPE, devmajor=0, devminor=0),
        entry("a", tarfile.LNKTYPE, linkname="n"),
    ),
    "absurd device": lambda: tar_of(entry("a", tarfile.CHRTYPE, devmajor=0o777777, devminor=0)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_layer_is_refused_and_leaves_nothing(driver: SnapshotDriver, name: str) -> None:
    data, diff_id = HOSTILE[name]()
    with pytest.raises(InvalidParameter):
        driver.commit_layer(ChainID(diff_id), None, diff_id, io.BytesIO(data))
    assert left_over(driver) == []


@pytest.mark.parametrize("target", ["/", "/tmp", "../../../../../../tmp", "."])
def test_symlinks_lead_nowhere_outside(
    driver: SnapshotDriver, target: str, tmp_path: os.PathLike[str]
) -> None:
    name = f"escaped-{os.getpid()}"
    layer = tar_of(
        folder("tmp"),
        entry("s", tarfile.SYMTYPE, linkname=target),
        (entry(f"s/{name}"), b"x"),
        entry("t", tarfile.SYMTYPE, linkname="s"),
        (entry(f"t/{name}2/deep"), b"x"),
        entry(f"s/.wh.{name}-whiteout"),
        entry("s/.wh..wh..opq"),
    )
    commit(driver, layer)
    for outside in ("/", "/tmp", os.fspath(tmp_path)):
        assert not [found for found in os.listdir(outside) if found.startswith(name)]


def test_what_aufs_kept_for_itself_is_passed_over(driver: SnapshotDriver) -> None:
    layer = tar_of((entry(".wh..wh.plnk/12.34"), b"x"), entry(".wh..wh.aufs"), (entry("a"), b""))
    chains = commit(driver, layer)
    with View(driver, chains) as view:
        assert view.names() == {"a"}
    out = io.BytesIO()
    driver.export_layer(chains[0], out)
    assert out.getvalue() == layer[0]


def test_graph_data_has_dockers_keys(driver: SnapshotDriver) -> None:
    driver.prepare("c1", commit(driver, tar_of(*BASE)))
    wanted = {"LowerDir", "MergedDir", "UpperDir", "WorkDir"} if driver.name == "overlay2" else set()
    assert set(driver.graph_data("c1")) == wanted


def test_a_driver_says_what_a_container_stands_on(driver: SnapshotDriver) -> None:
    chains = commit(driver, tar_of((entry("a"), b"1")), tar_of((entry("b"), b"2")))
    driver.prepare("c1", chains)
    assert driver.layers_below("c1") == (chains if driver.name == "overlay2" else [])


names = st.sampled_from(["a", "b", "a/a", "a/b", "a/b/c", "b/c", "l/x", "l", "./", "d/e/f/g"])
hides = st.sampled_from(
    [".wh.a", ".wh.b", "a/.wh.a", "a/.wh.b", "a/b/.wh.c", "b/.wh..wh..opq", ".wh..wh..opq", ".wh.l"]
)
members = st.one_of(
    st.builds(
        lambda name, data: (entry(name), data), names, st.sampled_from([b"", b"1", b"22", b"x" * 1500])
    ),
    st.builds(lambda name, mode: folder(name, mode=mode), names, st.sampled_from([0o755, 0o700])),
    st.builds(
        lambda name, to: entry(name, tarfile.SYMTYPE, linkname=to),
        names,
        st.sampled_from(["a", "/a/b", "..", "b"]),
    ),
    st.builds(lambda name, to: entry(name, tarfile.LNKTYPE, linkname=to), names, names),
    st.builds(entry, hides),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(members, max_size=7).map(lambda found: tar_of(*found)), min_size=1, max_size=3))
def test_all_drivers_show_the_same_of_any_layers_and_give_them_back(layers: list[Layer]) -> None:
    chains = chain_ids([diff_id for _, diff_id in layers])
    with tempfile.TemporaryDirectory() as directory:
        trees: list[object] = []
        for kind in (Overlay2, Vfs):
            driver = kind(os.path.join(directory, kind.name))
            driver.recover()
            try:
                commit(driver, *layers)
            except InvalidParameter:
                trees.append("refused")
                continue
            for chain, (data, _) in zip(chains, layers, strict=True):
                out = io.BytesIO()
                driver.export_layer(chain, out)
                assert out.getvalue() == data
            with View(driver, chains) as view:
                trees.append(view.tree())
        assert trees[0] == trees[1]
