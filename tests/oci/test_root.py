"""Mounts, devices, hidden paths, the root: what a container sees of the filesystem, and what it must not reach."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.conftest import Bundle


def add_mount(bundle: Bundle, destination: str, kind: str, source: str | Path, *options: str) -> None:
    bundle.config["mounts"].append(
        {"destination": destination, "type": kind, "source": str(source), "options": list(options)}
    )


def mount_table(text: str) -> dict[str, tuple[str, set[str]]]:
    """(type, options) by mount point, of /proc/self/mounts."""
    rows = (line.split() for line in text.splitlines())
    return {row[1]: (row[2], set(row[3].split(","))) for row in rows}


@pytest.fixture
def outside(bundle: Bundle) -> Path:
    """A directory of the host's with one file in it."""
    place = bundle.directory / "outside"
    place.mkdir()
    (place / "file").write_text("outside\n")
    return place


def test_the_mounts_of_the_default_config(bundle: Bundle) -> None:
    table = mount_table(bundle.output("cat", "/proc/self/mounts"))
    assert table["/proc"][0] == "proc"
    assert table["/dev"][0] == "tmpfs"
    assert {"nosuid", "mode=755", "size=65536k"} <= table["/dev"][1]
    assert "relatime" not in table["/dev"][1]  # strictatime
    assert {"nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"} <= table["/dev/pts"][1]
    assert {"nosuid", "noexec", "nodev"} <= table["/dev/shm"][1]
    assert table["/dev/mqueue"][0] == "mqueue"
    assert {"ro", "nosuid", "noexec", "nodev"} <= table["/sys"][1]
    assert {"ro", "nosuid", "noexec", "nodev"} <= table["/sys/fs/cgroup"][1]


def test_nothing_of_the_host_is_mounted(bundle: Bundle) -> None:
    for line in bundle.output("cat", "/proc/self/mountinfo").splitlines():
        assert line.split()[4].startswith("/")
        assert "shared:" not in line


def test_bind_read_write_and_read_only(bundle: Bundle, outside: Path) -> None:
    add_mount(bundle, "/rw", "bind", outside, "bind")
    add_mount(bundle, "/ro", "bind", outside, "bind", "ro")
    done = bundle.run("sh", "-c", "cat /rw/file; echo new > /rw/made; echo no > /ro/other", code=1)
    assert done.stdout == "outside\n"
    assert "Read-only file system" in done.stderr
    assert (outside / "made").read_text() == "new\n"
    assert not (outside / "other").exists()


def test_bind_of_a_file(bundle: Bundle, outside: Path) -> None:
    add_mount(bundle, "/etc/deep/name", "bind", outside / "file", "bind", "ro")
    assert bundle.output("cat", "/etc/deep/name") == "outside\n"


def test_bind_flags_add_up(bundle: Bundle, outside: Path) -> None:
    add_mount(bundle, "/b", "", outside, "rbind", "nosuid", "nodev", "noexec", "ro")
    table = mount_table(bundle.output("cat", "/proc/self/mounts"))
    assert {"ro", "nosuid", "nodev", "noexec"} <= table["/b"][1]


@pytest.fixture
def nested(outside: Path) -> Iterator[Path]:
    """A tmpfs mounted below a directory of the host's."""
    inner = outside / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "wherry-test", str(inner)], check=True)
    (inner / "below").write_text("below\n")
    yield outside
    subprocess.run(["umount", "-l", str(inner)], check=True)


def test_rbind_takes_what_is_mounted_below(bundle: Bundle, nested: Path) -> None:
    add_mount(bundle, "/r", "bind", nested, "rbind")
    add_mount(bundle, "/b", "bind", nested, "bind")
    assert bundle.output("sh", "-c", "cat /r/inner/below; ls /b/inner") == "below\n"


def test_recursive_read_only(bundle: Bundle, nested: Path) -> None:
    add_mount(bundle, "/top", "bind", nested, "rbind", "ro")
    add_mount(bundle, "/all", "bind", nested, "rbind", "rro")
    done = bundle.run("sh", "-c", "echo x > /top/inner/x && echo top; echo x > /all/inner/y || echo all")
    assert done.stdout == "top\nall\n"


@pytest.mark.parametrize(("option", "seen"), [("rslave", True), ("rprivate", False), ("rshared", True)])
def test_propagation_from_the_host(bundle: Bundle, outside: Path, option: str, seen: bool) -> None:
    subprocess.run(["mount", "--bind", str(outside), str(outside)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(outside)], check=True)
        (outside / "later").mkdir()
        add_mount(bundle, "/m", "bind", outside, "rbind", option)
        pid = bundle.start("sleep", "1000")
        subprocess.run(["mount", "-t", "tmpfs", "wherry-test", str(outside / "later")], check=True)
        (outside / "later/thing").write_text("")
        assert bundle.exec("ls", "/m/later").stdout == ("thing\n" if seen else "")
        bundle.end(pid)
    finally:
        subprocess.run(["umount", "-l", str(outside / "later")], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", str(outside)], check=True)


def test_propagation_to_the_host(bundle: Bundle, outside: Path) -> None:
    subprocess.run(["mount", "--bind", str(outside), str(outside)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(outside)], check=True)
        for name in ("slave", "shared"):
            (outside / name).mkdir()
        add_mount(bundle, "/slave", "bind", outside / "slave", "rbind", "rslave")
        add_mount(bundle, "/shared", "bind", outside / "shared", "rbind", "rshared")
        names = ["CAP_SYS_ADMIN"]
        bundle.process["capabilities"] = {key: names for key in ("bounding", "effective", "permitted")}
        pid = bundle.start("sleep", "1000")
        script = "mkdir /slave/d /shared/d; mount -t tmpfs x /slave/d && mount -t tmpfs x /shared/d"
        bundle.exec("sh", "-c", script)
        mounted = Path("/proc/self/mounts").read_text()
        assert f"{outside}/shared/d " in mounted
        assert f"{outside}/slave/d " not in mounted
        bundle.end(pid)
    finally:
        subprocess.run(["umount", "-l", str(outside / "shared/d")], check=False)
        subprocess.run(["umount", "-l", str(outside)], check=True)


def test_nothing_propagates_to_the_host_by_default(bundle: Bundle, outside: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    add_mount(bundle, "/t", "tmpfs", "tmpfs")
    add_mount(bundle, "/b", "bind", outside, "rbind")
    pid = bundle.start("sleep", "1000")
    assert Path("/proc/self/mountinfo").read_text() == before
    bundle.end(pid)


def test_tmpfs_options(bundle: Bundle) -> None:
    add_mount(bundle, "/scratch", "tmpfs", "tmpfs", "size=64k", "mode=1700", "noexec", "uid=7")
    out = bundle.output("sh", "-c", "stat -c '%a %u' /scratch; grep /scratch /proc/self/mounts")
    assert out.startswith("1700 7\n")
    assert "size=64k" in out
    assert "noexec" in out


def test_tmpfs_over_a_directory_keeps_its_mode(bundle: Bundle) -> None:
    (bundle.rootfs / "kept").mkdir(mode=0o710)
    (bundle.rootfs / "kept").chmod(0o710)
    add_mount(bundle, "/kept", "tmpfs", "tmpfs")
    add_mount(bundle, "/fresh", "tmpfs", "tmpfs")
    assert bundle.output("stat", "-c", "%a", "/kept", "/fresh") == "710\n1777\n"


def test_tmpfs_copies_up(bundle: Bundle) -> None:
    place = bundle.rootfs / "data"
    (place / "sub").mkdir(parents=True)
    (place / "sub/file").write_text("kept\n")
    (place / "link").symlink_to("/etc/passwd")
    os.chown(place / "sub", 5, 6)
    add_mount(bundle, "/data", "tmpfs", "tmpfs", "tmpcopyup")
    script = "cat /data/sub/file; readlink /data/link; stat -c %u:%g /data/sub; echo x > /data/new"
    assert bundle.output("sh", "-c", script) == "kept\n/etc/passwd\n5:6\n"
    assert not (place / "new").exists()


def test_mounts_are_made_in_order(bundle: Bundle, outside: Path) -> None:
    add_mount(bundle, "/a", "tmpfs", "tmpfs")
    add_mount(bundle, "/a/b", "bind", outside, "bind")
    add_mount(bundle, "/a/b/inner", "tmpfs", "tmpfs", "size=4k")
    script = "cat /a/b/file; grep -c ' /a' /proc/self/mounts"
    assert bundle.output("sh", "-c", script) == "outside\n3\n"


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("/link/x", "/link/x"),
        ("/link/../../../x", "/x"),
        ("/dangling/x", "/nowhere/x"),
        ("/loop/x/../y", "/y"),
    ],
)
def test_targets_stay_inside(bundle: Bundle, outside: Path, target: str, seen: str) -> None:
    canary = bundle.directory / "canary"
    canary.mkdir()
    depth = "/.." * 20
    (bundle.rootfs / "link").symlink_to(f"{depth}{canary}")
    (bundle.rootfs / "dangling").symlink_to(f"..{depth}/nowhere")
    (bundle.rootfs / "loop").symlink_to(".")
    add_mount(bundle, target, "bind", outside, "bind")
    assert bundle.output("cat", f"{seen}/file") == "outside\n"
    assert list(canary.iterdir()) == []


def test_symlink_loop_as_target(bundle: Bundle, outside: Path) -> None:
    (bundle.rootfs / "a").symlink_to("b")
    (bundle.rootfs / "b").symlink_to("a")
    add_mount(bundle, "/a/x", "bind", outside, "bind")
    assert "too many levels of symbolic links" in bundle.refused()


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("/proc", "is not of type proc"),
        ("/proc/self/exe", "cannot be mounted because it is inside /proc"),
        ("/proc/sys/kernel/core_pattern", "cannot be mounted because it is inside /proc"),
        ("/a/../proc/self", "cannot be mounted because it is inside /proc"),
        ("/", "is not allowed"),
        ("/a/..", "is not allowed"),
    ],
)
def test_destinations_that_are_refused(bundle: Bundle, outside: Path, destination: str, message: str) -> None:
    add_mount(bundle, destination, "bind", outside, "bind")
    assert message in bundle.refused()


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_as_symlinks_are_refused(bundle: Bundle, name: str) -> None:
    """CVE-2019-19921, CVE-2023-27561."""
    (bundle.rootfs / name).rmdir()
    (bundle.rootfs / "elsewhere").mkdir()
    (bundle.rootfs / name).symlink_to("elsewhere")
    assert "must be mounted on ordinary directory" in bundle.refused()


def test_dev_as_a_symlink_to_the_host(bundle: Bundle) -> None:
    canary = bundle.directory / "canary"
    canary.mkdir()
    (bundle.rootfs / "dev").rmdir()
    (bundle.rootfs / "dev").symlink_to("/.." * 20 + str(canary))
    assert bundle.output("echo", "fine") == "fine\n"
    assert list(canary.iterdir()) == []


def test_a_source_that_is_missing(bundle: Bundle) -> None:
    add_mount(bundle, "/x", "bind", "/no/such/place", "bind")
    message = bundle.refused()
    assert r"error mounting \"/no/such/place\" to rootfs at \"/x\"" in message
    assert "no such file or directory" in message


def test_a_directory_on_a_file(bundle: Bundle, outside: Path) -> None:
    add_mount(bundle, "/plain", "bind", outside, "bind")
    assert "not a directory" in bundle.refused()


def test_an_option_that_the_filesystem_refuses(bundle: Bundle) -> None:
    add_mount(bundle, "/x", "tmpfs", "tmpfs", "size=much")
    message = bundle.refused()
    assert "tmpfs" in message
    assert "size" in message


def test_a_relative_source_starts_at_the_bundle(bundle: Bundle, outside: Path) -> None:
    add_mount(bundle, "/x", "bind", "outside", "bind")
    assert bundle.output("cat", "/x/file") == "outside\n"


def test_default_devices(bundle: Bundle) -> None:
    names = set(bundle.output("ls", "/dev").split())
    expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert names == set(expected.split())
    out = bundle.output("sh", "-c", "echo x > /dev/null; head -c 3 /dev/zero | wc -c; readlink /dev/ptmx")
    assert out == "3\npts/ptmx\n"


def test_an_extra_device(bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        {"path": "/dev/made/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 3, "gid": 4}
    ]
    script = "stat -c '%a %u %g %t %T' /dev/made/zero; head -c 2 /dev/made/zero | wc -c"
    assert bundle.output("sh", "-c", script) == "644 3 4 1 5\n2\n"


def test_a_device_that_is_not_allowed_cannot_be_opened(bundle: Bundle) -> None:
    bundle.linux["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
    assert "Operation not permitted" in bundle.run("sh", "-c", ": < /dev/fuse", code=None).stderr


def test_a_device_that_is_allowed(bundle: Bundle) -> None:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    bundle.linux["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
    bundle.linux["resources"]["devices"].append(
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"}
    )
    script = "(: < /dev/fuse) && echo read; (: > /dev/fuse) || echo no"
    assert bundle.output("sh", "-c", script) == "read\nno\n"


def test_masked_paths(bundle: Bundle) -> None:
    (bundle.rootfs / "secret").mkdir()
    (bundle.rootfs / "secret/file").write_text("x")
    (bundle.rootfs / "other").mkdir()
    (bundle.rootfs / "other/file").write_text("x")
    bundle.linux["maskedPaths"] = ["/secret", "/other", "/plain", "/proc/keys", "/nosuch", "/plain/x"]
    script = "ls /secret /other | grep file; cat /plain /proc/keys; echo x > /secret/new || echo refused"
    assert bundle.output("sh", "-c", script) == "refused\n"


def test_read_only_paths(bundle: Bundle) -> None:
    bundle.linux["readonlyPaths"] = ["/proc/sys", "/etc", "/nosuch"]
    bundle.process["capabilities"] = {
        key: ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"] for key in ("bounding", "effective", "permitted")
    }
    script = (
        "echo 1 > /proc/sys/net/ipv4/ip_forward || echo proc; echo 1 > /etc/new || echo etc; echo 1 > /new"
    )
    assert bundle.output("sh", "-c", script) == "proc\netc\n"


def test_a_false_null_device_masks_nothing(bundle: Bundle, outside: Path) -> None:
    """CVE-2025-31133: the container's /dev is somebody's directory in which null is a symlink."""
    (outside / "null").symlink_to("file")
    bundle.config["mounts"] = [
        each for each in bundle.config["mounts"] if not each["destination"].startswith("/dev")
    ]
    add_mount(bundle, "/dev", "bind", outside, "bind")
    bundle.linux["maskedPaths"] = ["/plain"]
    message = bundle.refused()
    assert "/dev/null" in message
    assert (outside / "file").read_text() == "outside\n"


def test_read_only_root(bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    script = "echo x > /x || echo root; echo x > /dev/shm/x && echo shm"
    assert bundle.output("sh", "-c", script) == "root\nshm\n"


@pytest.mark.parametrize(
    "inside", ["mount --bind /bin /mnt", "umount /proc/keys", "mount -o remount,rw /proc/sys"]
)
def test_mounts_cannot_be_changed_without_the_capability(bundle: Bundle, inside: str) -> None:
    bundle.run("sh", "-c", inside, code=1)


def test_the_old_root_is_out_of_reach(bundle: Bundle) -> None:
    names = ["CAP_SYS_CHROOT", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]
    bundle.process["capabilities"] = {key: names for key in ("bounding", "effective", "permitted")}
    assert "plain" in bundle.output("sh", "-c", "cd /; ls ../../../..").split()
    assert len(bundle.output("cat", "/proc/1/mountinfo").splitlines()) < 40


def test_without_pivot(bundle: Bundle) -> None:
    bundle.process["args"] = ["ls", "/"]
    bundle.write()
    assert "plain" in bundle.call("run", "--no-pivot", bundle.id).stdout.split()


def test_a_missing_root(bundle: Bundle) -> None:
    bundle.config["root"]["path"] = "nowhere"
    assert "no such file or directory" in bundle.refused()
