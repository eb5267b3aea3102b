"""The library half, as a shim uses it: create, start, exec, signal, pause, destroy in one process. Also run in a
virtual machine with cgroup v2 (tests/vm).
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.oci.conftest import Bundle
from wherry.linux import process
from wherry.runtime import lifecycle, rehearsal
from wherry.runtime.cgroups.driver import is_unified
from wherry.runtime.lifecycle import Container, StartFailed

Make = Callable[..., Container]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def make(bundle: Bundle) -> Iterator[Make]:
    """Containers of the bundle's config, destroyed and checked for leaks at the end."""
    made: list[Container] = []
    before = len(descriptors())
    streams = os.open("/dev/null", os.O_RDWR)

    def create(*args: str, **options: Any) -> Container:
        bundle.process["args"] = list(args)
        values: dict[str, Any] = {
            "container_id": bundle.id,
            "rootfs": None,
            "stdio": (streams, streams, streams),
            "netns": None,
            "seccomp": None,
            "cgroup": bundle.linux["cgroupsPath"],
            "bundle": str(bundle.directory),
        }
        container = lifecycle.create(bundle.config, **{**values, **options})
        made.append(container)
        return container

    yield create
    for container in made:
        container.signal(signal.SIGKILL)
        try:
            os.waitpid(container.init.pid, 0)
        except ChildProcessError:
            pass  # the test did it
        container.destroy()
        container.destroy()  # may be called again
    os.close(streams)
    assert len(descriptors()) == before
    bundle.assert_nothing_left()


def ended(container: Container) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(container.init.pid, 0)[1])


def output(make: Make, *args: str, **options: Any) -> str:
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    container = make(*args, stdio=(null, write, write), **options)
    container.start()
    os.close(write)
    os.close(null)
    with open(read) as stream:
        text = stream.read()
    ended(container)
    return text


def exec_output(container: Container, bundle: Bundle, *args: str) -> str:
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    made = container.exec({**bundle.process, "args": list(args)}, stdio=(null, write, write))
    os.close(write)
    os.close(null)
    with open(read) as stream:
        text = stream.read()
    os.waitpid(made.pid, 0)
    made.close()
    return text


def test_create_start_end(make: Make) -> None:
    container = make("sh", "-c", "exit 3")
    assert container.pids() == [container.init.pid]
    assert container.init.console == -1
    container.start()
    assert ended(container) == 3


def test_start_is_once(make: Make) -> None:
    container = make("sleep", "1000")
    container.start()
    with pytest.raises(StartFailed, match="not in the created state"):
        container.start()


def test_what_is_given_is_a_child_in_its_own_pid_namespace(make: Make) -> None:
    container = make("sleep", "1000")
    with open(f"/proc/{container.init.pid}/status") as status:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    assert fields["PPid"] == str(os.getpid())
    assert fields["NSpid"].split()[-1] == "1"
    assert os.readlink("/proc/self/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


def test_overlay_root(make: Make, bundle: Bundle, tmp_path: Path) -> None:
    upper, work, second = (tmp_path / name for name in ("upper", "work", "second"))
    for place in (upper, work, second):
        place.mkdir()
    (second / "top").write_text("from the top\n")
    (second / "plain").write_text("covered\n")
    rootfs = {
        "type": "overlay",
        "lower": [str(second), str(bundle.rootfs)],
        "upper": str(upper),
        "work": str(work),
        "options": [],
    }
    text = output(make, "sh", "-c", "cat /top /plain; echo new > /written; rm /top", rootfs=rootfs)
    assert text == "from the top\ncovered\n"
    assert (upper / "written").read_text() == "new\n"
    assert not (bundle.rootfs / "written").exists()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_layer_names_with_odd_characters(make: Make, bundle: Bundle, tmp_path: Path) -> None:
    odd = tmp_path / "a:b,c\\d=e"
    odd.mkdir()
    (odd / "odd").write_text("odd\n")
    places = [tmp_path / name for name in ("up:per,x", "wo:rk,x")]
    for place in places:
        place.mkdir()
    rootfs = {
        "type": "overlay",
        "lower": [str(odd), str(bundle.rootfs)],
        "upper": str(places[0]),
        "work": str(places[1]),
        "options": [],
    }
    assert output(make, "cat", "/odd", rootfs=rootfs) == "odd\n"


def test_bind_root(make: Make, bundle: Bundle) -> None:
    rootfs = {"type": "bind", "source": str(bundle.rootfs)}
    assert output(make, "cat", "/plain", rootfs=rootfs) == "not a program\n"


def test_the_bare_root_is_without_the_mounts(make: Make) -> None:
    container = make("sleep", "1000")
    for name, expected in ((".", "plain"), ("proc", None)):
        place = os.open(name, os.O_RDONLY, dir_fd=container.rootfs)
        assert (expected in os.listdir(place)) if expected else os.listdir(place) == []
        os.close(place)


def test_network_namespace_by_descriptor(make: Make) -> None:
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    process.unshare(process.CLONE_NEWNET)
    given = os.open("/proc/self/ns/net", os.O_RDONLY)
    process.setns(own)
    try:
        container = make("sleep", "1000", netns=given)
        assert os.fstat(container.netns).st_ino == os.fstat(given).st_ino
    finally:
        os.close(own)
        os.close(given)


def test_network_of_a_new_container(make: Make) -> None:
    container = make("sleep", "1000")
    assert os.fstat(container.netns).st_ino == os.stat(f"/proc/{container.init.pid}/ns/net").st_ino


def test_exec(make: Make, bundle: Bundle) -> None:
    container = make("sleep", "1000")
    container.start()
    text = exec_output(container, bundle, "sh", "-c", "echo $$ $(hostname); ls /proc/self/fd | wc -l")
    first, second = text.splitlines()
    assert first.split()[1] == "wherry"
    assert first.split()[0] != "1"
    assert int(second) == 4
    assert container.pids() == [container.init.pid]


def test_exec_is_our_child_and_in_the_cgroup(make: Make, bundle: Bundle) -> None:
    container = make("sleep", "1000")
    container.start()
    made = container.exec({**bundle.process, "args": ["sleep", "1000"]}, stdio=None)
    assert sorted(container.pids()) == sorted([container.init.pid, made.pid])
    signal.pidfd_send_signal(made.pidfd, signal.SIGKILL)
    assert os.waitpid(made.pid, 0)[0] == made.pid
    made.close()


def test_exec_with_a_terminal(make: Make, bundle: Bundle) -> None:
    container = make("sleep", "1000")
    container.start()
    size = {"height": 20, "width": 30}
    value = {**bundle.process, "args": ["stty", "size"], "terminal": True, "consoleSize": size}
    made = container.exec(value, stdio=None)
    assert os.read(made.console, 100).split() == [b"20", b"30"]
    os.waitpid(made.pid, 0)
    made.close()


def test_terminal(make: Make, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    container = make("sh", "-c", "read x; echo got $x", stdio=None)
    container.start()
    os.write(container.init.console, b"word\n")
    assert ended(container) == 0
    assert b"got word" in os.read(container.init.console, 100)


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        (["nosuch"], "not-found", 'exec: "nosuch": executable file not found in $PATH'),
        (["/nosuch"], "not-found", 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        (["/etc"], "permission", 'exec: "/etc": permission denied'),
        (["/plain"], "permission", 'exec: "/plain": permission denied'),
    ],
)
def test_kinds_of_failure(make: Make, bundle: Bundle, args: list[str], kind: str, message: str) -> None:
    with pytest.raises(StartFailed) as caught:
        make(*args)
    assert (caught.value.kind, caught.value.message) == (
        kind,
        f"unable to start container process: {message}",
    )
    bundle.assert_nothing_left()
    container = make("sleep", "1000")
    container.start()
    with pytest.raises(StartFailed) as caught:
        container.exec({**bundle.process, "args": args}, stdio=None)
    assert (caught.value.kind, caught.value.message) == (
        kind,
        f"unable to start container process: {message}",
    )
    assert container.pids() == [container.init.pid]


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [("user", [], "1000 1000"), ("user:root", [], "1000 0"), ("7:8", [], "7 8"), ("", ["user"], "0 0")],
)
def test_user_names_of_the_container(
    make: Make, bundle: Bundle, user: str, groups: list[str], expected: str
) -> None:
    bundle.process["user"] = {"uid": 0, "gid": 0, "username": user, "groupnames": groups}
    assert output(make, "sh", "-c", "echo $(id -u) $(id -g)") == f"{expected}\n"


def test_an_unknown_user_name(make: Make, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 0, "gid": 0, "username": "nobody-here"}
    with pytest.raises(
        StartFailed, match="unable to find user nobody-here: no matching entries in passwd file"
    ):
        make("true")


def test_exec_in_an_ended_container(make: Make, bundle: Bundle) -> None:
    container = make("true")
    container.start()
    ended(container)
    with pytest.raises(StartFailed, match="not running"):
        container.exec({**bundle.process, "args": ["true"]}, stdio=None)


def test_start_of_one_that_was_killed(make: Make) -> None:
    container = make("sleep", "1000")
    container.signal(signal.SIGKILL)
    ended(container)
    container.start()  # what matters is that it ends; the exit status says the rest


def test_an_exec_format_error_comes_from_start(make: Make, bundle: Bundle) -> None:
    (bundle.rootfs / "plain").chmod(0o755)
    container = make("/plain")
    with pytest.raises(StartFailed) as caught:
        container.start()
    assert (caught.value.kind, caught.value.message) == ("permission", "exec /plain: exec format error")


def test_pause_and_resume(make: Make) -> None:
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    container = make("sh", "-c", "while :; do echo x; sleep 0.01; done", stdio=(null, write, write))
    os.close(write)
    os.close(null)
    container.start()
    os.read(read, 100)
    container.pause()
    os.set_blocking(read, False)
    try:
        while os.read(read, 4096):
            pass
    except BlockingIOError:
        pass
    assert select.select([read], [], [], 0.2)[0] == []
    container.resume()
    assert select.select([read], [], [], 30)[0] == [read]
    os.close(read)


def test_destroy_kills_what_is_left(make: Make, bundle: Bundle) -> None:
    namespaces = [each for each in bundle.linux["namespaces"] if each["type"] != "pid"]
    bundle.linux["namespaces"] = namespaces
    container = make("sh", "-c", "sleep 1000 & sleep 1000 & exit 0")
    container.start()
    assert ended(container) == 0
    left = container.pids()
    assert len(left) == 2
    container.destroy()
    for pid in left:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_signal_to_everything(make: Make, bundle: Bundle) -> None:
    namespaces = [each for each in bundle.linux["namespaces"] if each["type"] != "pid"]
    bundle.linux["namespaces"] = namespaces
    container = make("sh", "-c", "sleep 1000 & wait")
    container.start()
    while len(container.pids()) < 2:
        pass
    container.signal(signal.SIGTERM, everything=True)
    assert ended(container) == -signal.SIGTERM


def test_out_of_memory_is_told(make: Make, bundle: Bundle) -> None:
    bundle.linux["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    tmpfs = {"destination": "/big", "type": "tmpfs", "source": "tmpfs", "options": ["size=100m"]}
    bundle.config["mounts"].append(tmpfs)
    container = make("dd", "if=/dev/zero", "of=/big/x", "bs=1M", "count=64")
    events = container.cgroup.open_oom_events()
    assert container.cgroup.oom_kill_count() == 0
    container.start()
    assert ended(container) == -signal.SIGKILL
    assert select.select([events], [], [], 5)[0] == [events]
    assert container.cgroup.oom_kill_count() >= 1
    os.close(events)


def test_no_out_of_memory_event_without_one(make: Make) -> None:
    container = make("true")
    events = container.cgroup.open_oom_events()
    container.start()
    ended(container)
    assert container.cgroup.oom_kill_count() == 0
    os.close(events)


def test_update(make: Make) -> None:
    container = make("sleep", "1000")
    container.cgroup.update({"pids": {"limit": 11}, "memory": {"limit": 64 << 20}})
    places = container.cgroup.directories()
    name, place = ("memory.max", places[""]) if is_unified() else ("memory.limit_in_bytes", places["memory"])
    assert Path(place, name).read_text().strip() == str(64 << 20)


def test_devices_are_limited(make: Make, bundle: Bundle) -> None:
    names = ["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYSLOG", "CAP_SYS_ADMIN"]
    bundle.process["capabilities"] = {key: names for key in ("bounding", "effective", "permitted")}
    bundle.linux["resources"]["devices"] += [
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
        {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "w"},
    ]
    script = """
        mknod /kmsg c 1 11 && : < /kmsg && echo kmsg-read
        (: > /kmsg) 2>/dev/null || echo kmsg-not-written
        mknod /mem c 1 1 && echo mem-made
        (: < /mem) 2>/dev/null || echo mem-not-read
        mknod /disk b 259 0 && echo disk-made
        (: < /disk) 2>/dev/null || echo disk-not-read
        echo x > /dev/null && head -c 1 /dev/urandom | wc -c
    """
    expected = "kmsg-read kmsg-not-written mem-made mem-not-read disk-made disk-not-read 1".split()
    assert output(make, "sh", "-c", script).split() == expected


def test_every_device_when_all_are_allowed(make: Make, bundle: Bundle) -> None:
    names = ["CAP_MKNOD", "CAP_SYSLOG", "CAP_SYS_ADMIN"]
    bundle.process["capabilities"] = {key: names for key in ("bounding", "effective", "permitted")}
    bundle.linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    assert output(make, "sh", "-c", "mknod /kmsg c 1 11; : < /kmsg && echo read") == "read\n"


def test_a_cgroup_that_cannot_be_limited_leaves_nothing(make: Make, bundle: Bundle) -> None:
    before = descriptors()
    bundle.linux["resources"]["cpu"] = {"cpus": "99999"}
    with pytest.raises(StartFailed, match="99999"):
        make("true")
    assert descriptors() == before
    bundle.assert_nothing_left()


def test_many_mounts(make: Make, bundle: Bundle) -> None:
    """More descriptors than one message carries."""
    for number in range(300):
        entry = {"destination": f"/m/{number}", "type": "bind", "source": "/etc", "options": ["bind", "ro"]}
        bundle.config["mounts"].append(entry)
    assert int(output(make, "sh", "-c", "grep -c ' /m/' /proc/self/mounts")) == 300


def test_rehearsing_leaves_nothing_and_changes_nothing(make: Make) -> None:
    before = descriptors(), Path("/proc/self/mountinfo").read_text(), os.getcwd(), process.working_directory()
    rehearsal.rehearse()
    after = descriptors(), Path("/proc/self/mountinfo").read_text(), os.getcwd(), process.working_directory()
    assert after == before
    assert output(make, "echo", "and it works") == "and it works\n"


def test_one_after_another_leaks_nothing(make: Make, bundle: Bundle) -> None:
    before = descriptors()
    for _ in range(10):
        container = make("true")
        container.start()
        ended(container)
        container.destroy()
        bundle.assert_nothing_left()
    assert descriptors() == before


def test_forty_layers(make: Make, bundle: Bundle, tmp_path: Path) -> None:
    lower: list[str] = []
    for number in range(40):
        layer = tmp_path / f"a-rather-long-name-of-a-layer-as-digests-are-{number:064d}"
        layer.mkdir()
        (layer / f"file{number}").write_text("")
        lower.append(str(layer))
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    rootfs = {
        "type": "overlay",
        "lower": [*lower, str(bundle.rootfs)],
        "upper": str(tmp_path / "upper"),
        "work": str(tmp_path / "work"),
    }
    assert output(make, "sh", "-c", "ls / | grep -c ^file", rootfs=rootfs) == "40\n"


def test_the_cgroup_of_another_container_is_refused_and_spared(make: Make, bundle: Bundle) -> None:
    container = make("sleep", "1000")
    container.start()
    with pytest.raises(StartFailed, match="cgroup is in use"):
        make("true", container_id=bundle.id + "-other")
    assert container.pids() == [container.init.pid]
