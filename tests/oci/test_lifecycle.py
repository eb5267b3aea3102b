"""create, start, state, kill, delete, run, exec, list: the command line and what the specification says of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest

from tests.oci.conftest import Bundle


def test_created_running_stopped_deleted(bundle: Bundle) -> None:
    bundle.config["annotations"] = {"org.example.key": "value"}
    pid = bundle.create("sleep", "1000")
    created = bundle.shown()
    assert created["status"] == "created"
    assert created["id"] == bundle.id
    assert created["bundle"] == str(bundle.directory)
    assert created["annotations"] == {"org.example.key": "value"}
    assert os.readlink(f"/proc/{pid}/exe") != "/bin/busybox"

    bundle.call("start", bundle.id)
    assert bundle.shown()["status"] == "running"
    assert os.readlink(f"/proc/{pid}/exe") == "/bin/busybox"

    bundle.call("kill", bundle.id, "KILL")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    stopped = bundle.shown()
    assert (stopped["status"], stopped["pid"]) == ("stopped", 0)

    bundle.call("delete", bundle.id)
    bundle.assert_nothing_left()
    assert "container does not exist" in bundle.call("state", bundle.id, code=1).stderr


def test_start_waits_until_the_program_is_executed(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        assert file.read() == b"sleep\x001000\x00"
    bundle.end(pid)


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_run_gives_the_exit_code(bundle: Bundle, code: int) -> None:
    bundle.run("sh", "-c", f"exit {code}", code=code)


def test_run_gives_128_and_the_signal(bundle: Bundle) -> None:
    # PID 1 is immune to its own signals: a child of it is not.
    bundle.linux["namespaces"] = [each for each in bundle.linux["namespaces"] if each["type"] != "pid"]
    bundle.run("sh", "-c", "kill -TERM $$", code=128 + signal.SIGTERM)


def test_run_removes_everything(bundle: Bundle) -> None:
    bundle.run("true")
    bundle.assert_nothing_left()


def test_run_detached_stays(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    bundle.write()
    bundle.call("run", "--detach", bundle.id)
    state = bundle.shown()
    assert state["status"] == "running"
    bundle.end(state["pid"])


def test_pid_file(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    bundle.write()
    bundle.call("create", "--pid-file", "pid", bundle.id)
    pid = int((bundle.directory / "pid").read_text())
    assert bundle.shown()["pid"] == pid
    bundle.end(pid)


def test_a_name_is_taken_once(bundle: Bundle) -> None:
    pid = bundle.create("sleep", "1000")
    message = bundle.call("create", bundle.id, code=1).stderr
    assert "container with given ID already exists" in message
    assert bundle.shown()["status"] == "created"
    bundle.end(pid)


def test_start_only_once(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    assert "cannot start an already running container" in bundle.call("start", bundle.id, code=1).stderr
    bundle.end(pid)
    assert "cannot start a container that has stopped" in bundle.call("start", bundle.id, code=1).stderr


def test_delete_refuses_a_running_one_unless_forced(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    message = bundle.call("delete", bundle.id, code=1).stderr
    assert f"cannot delete container {bundle.id} that is not stopped: running" in message
    bundle.call("delete", "--force", bundle.id)
    os.waitpid(pid, 0)
    bundle.assert_nothing_left()


def test_delete_of_a_created_one(bundle: Bundle) -> None:
    pid = bundle.create("sleep", "1000")
    bundle.call("delete", bundle.id)
    os.waitpid(pid, 0)
    bundle.assert_nothing_left()


def test_delete_forced_without_a_container_is_no_error(bundle: Bundle) -> None:
    bundle.call("delete", "--force", "nobody")
    assert "container does not exist" in bundle.call("delete", "nobody", code=1).stderr


def test_kill_all_reaches_every_process_without_a_pid_namespace(bundle: Bundle) -> None:
    bundle.linux["namespaces"] = [each for each in bundle.linux["namespaces"] if each["type"] != "pid"]
    pid = bundle.start("sh", "-c", "sleep 1000 & sleep 1000 & wait")
    while len(json.loads(bundle.call("ps", "-f", "json", bundle.id).stdout)) < 3:
        pass
    bundle.call("kill", "--all", bundle.id, "KILL")
    os.waitpid(pid, 0)
    bundle.call("delete", bundle.id)


def test_kill_of_a_stopped_one(bundle: Bundle) -> None:
    bundle.end(bundle.start("sleep", "1000"))
    assert "container not running" in bundle.call("kill", bundle.id, "TERM", code=1).stderr


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("SIGUSR1", 10), ("2", 2), ("sighup", 1)])
def test_signals_by_name_and_number(bundle: Bundle, text: str, number: int) -> None:
    bundle.linux["namespaces"] = [each for each in bundle.linux["namespaces"] if each["type"] != "pid"]
    pid = bundle.start("sleep", "1000")
    bundle.call("kill", bundle.id, text)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number


def test_unknown_signal(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    assert r"unknown signal \"FOO\"" in bundle.call("kill", bundle.id, "FOO", code=1).stderr
    bundle.end(pid)


def test_exec_in_the_container(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    seen = bundle.exec("sh", "-c", "hostname; readlink /proc/1/exe; ls /proc/self/fd | wc -l").stdout.split()
    assert seen[:2] == ["wherry", "/bin/busybox"]
    bundle.exec("sh", "-c", "exit 7", code=7)
    options = ("--env", "A=b", "--cwd", "/tmp", "--user", "1000:1000")
    out = bundle.exec("sh", "-c", "echo $A; pwd; id -u", options=options).stdout
    assert out.split() == ["b", "/tmp", "1000"]
    bundle.end(pid)


def test_exec_is_in_the_same_cgroup_and_namespaces(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    done = bundle.exec("sh", "-c", "cat /proc/self/cgroup; for n in /proc/self/ns/*; do readlink $n; done")
    with open(f"/proc/{pid}/cgroup") as file:
        theirs = {line.split(":")[1] for line in file}
    assert len(theirs) == len(
        [line for line in done.stdout.splitlines() if line.count(":") >= 2 and "[" not in line]
    )
    for name in ("pid", "net", "ipc", "uts", "mnt", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") in done.stdout
    bundle.end(pid)


def test_exec_from_a_process_file(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    value = {"args": ["sh", "-c", "echo $X $(pwd)"], "cwd": "/tmp", "env": ["PATH=/bin", "X=y"]}
    (bundle.directory / "process.json").write_text(json.dumps(value))
    done = bundle.call("exec", "--process", "process.json", bundle.id)
    assert done.stdout == "y /tmp\n"
    bundle.end(pid)


def test_exec_in_a_stopped_one(bundle: Bundle) -> None:
    bundle.end(bundle.start("sleep", "1000"))
    assert "cannot exec in a stopped container" in bundle.exec("true", code=255).stderr


def test_pause_and_resume(bundle: Bundle) -> None:
    pid = bundle.start("sh", "-c", "while :; do sleep 0.01; done")
    bundle.call("pause", bundle.id)
    assert bundle.shown()["status"] == "paused"
    assert "cannot exec in a paused container" in bundle.exec("true", code=255).stderr
    bundle.call("resume", bundle.id)
    assert bundle.shown()["status"] == "running"
    bundle.end(pid)


def test_delete_forced_of_a_paused_one(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    bundle.call("pause", bundle.id)
    bundle.call("delete", "--force", bundle.id)
    os.waitpid(pid, 0)
    bundle.assert_nothing_left()


def test_list(make_bundle: Callable[[], Bundle]) -> None:
    first, second = make_bundle(), make_bundle()
    second.state = first.state
    pids = [first.start("sleep", "1000"), second.create("sleep", "1000")]
    assert first.call("list", "--quiet").stdout.split() == sorted([first.id, second.id])
    shown = {each["id"]: each["status"] for each in json.loads(first.call("list", "-f", "json").stdout)}
    assert shown == {first.id: "running", second.id: "created"}
    assert first.call("list").stdout.splitlines()[0].split() == [
        "ID",
        "PID",
        "STATUS",
        "BUNDLE",
        "CREATED",
        "OWNER",
    ]
    for pid in pids:
        first.end(pid)


def test_spec_runs_as_it_is(bundle: Bundle) -> None:
    bundle.call("spec")
    assert "File config.json exists" in bundle.call("spec", code=1).stderr
    config = json.loads((bundle.directory / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["echo", "hello"]
    config["linux"]["cgroupsPath"] = bundle.linux["cgroupsPath"]
    (bundle.directory / "config.json").write_text(json.dumps(config))
    assert bundle.call("run", bundle.id).stdout == "hello\n"


def test_features(bundle: Bundle) -> None:
    value = json.loads(bundle.call("features").stdout)
    assert "createRuntime" in value["hooks"]
    assert value["linux"]["seccomp"]["enabled"]


def test_errors_go_to_the_log_as_json(bundle: Bundle) -> None:
    done = bundle.call("--log", "log", "--log-format", "json", "state", "nobody", code=1)
    assert done.stderr == "container does not exist\n"
    entry = json.loads((bundle.directory / "log").read_text())
    assert (entry["level"], entry["msg"]) == ("error", "container does not exist")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("create",), 1, r"\"create\" requires exactly 1 argument(s)"),
        (("create", "a/b"), 1, "invalid container ID format"),
        (("create", ".."), 1, "invalid container ID format"),
        (("create", "--bundle", "/nosuch", "x"), 1, "chdir /nosuch: no such file or directory"),
        (("create", "--nosuch", "x"), 1, "flag provided but not defined: --nosuch"),
        (("frobnicate",), 3, "No help topic for 'frobnicate'"),
        (("start", "nobody"), 1, "container does not exist"),
    ],
)
def test_wrong_use(bundle: Bundle, words: tuple[str, ...], code: int, message: str) -> None:
    bundle.write()
    done = bundle.call(*words, code=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_create_leaves_what_delete_finds(bundle: Bundle) -> None:
    # The record is there before the process is: as if `create` had died between the two.
    pid = bundle.create("sleep", "1000")
    path = bundle.state / bundle.id / "state.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "pid": 0, "start_time": 0}))
    assert bundle.shown()["status"] == "stopped"
    bundle.call("delete", "--force", bundle.id)
    os.waitpid(pid, 0)
    bundle.assert_nothing_left()
