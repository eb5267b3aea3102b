"""The `process` object: user, capabilities, limits, directory, streams, terminal, and what cannot be started."""

from __future__ import annotations

import array
import json
import os
import resource
import signal
import socket
import subprocess

import pytest

from tests.oci.conftest import Bundle

DOCKERS = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL"
    " AUDIT_WRITE"
).split()


def status(bundle: Bundle, *extra: str) -> dict[str, str]:
    """/proc/self/status as a program in the container sees it."""
    text = bundle.output("cat", "/proc/self/status")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def capabilities(bundle: Bundle) -> dict[str, int]:
    return {
        name[3:].lower(): int(value, 16) for name, value in status(bundle).items() if name.startswith("Cap")
    }


def test_user_and_groups(bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}
    seen = status(bundle)
    assert seen["Uid"].split() == ["1000"] * 4
    assert seen["Gid"].split() == ["1001"] * 4
    assert set(seen["Groups"].split()) >= {"5", "6"}


def test_dockers_capabilities(bundle: Bundle) -> None:
    names = [f"CAP_{name}" for name in DOCKERS]
    bundle.process["capabilities"] = {"bounding": names, "effective": names, "permitted": names}
    expected = {"bnd": 0xA80425FB, "prm": 0xA80425FB, "eff": 0xA80425FB, "inh": 0, "amb": 0}
    assert capabilities(bundle) == expected


def test_capabilities_of_a_user_other_than_root(bundle: Bundle) -> None:
    names = [f"CAP_{name}" for name in DOCKERS]
    bundle.process["capabilities"] = {"bounding": names, "effective": names, "permitted": names}
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert capabilities(bundle) == {"bnd": 0xA80425FB, "prm": 0, "eff": 0, "inh": 0, "amb": 0}


def test_ambient_capabilities_reach_an_unprivileged_program(bundle: Bundle) -> None:
    names = ["CAP_NET_BIND_SERVICE"]
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    bundle.process["capabilities"] = {name: names for name in sets}
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert set(capabilities(bundle).values()) == {1 << 10}


def test_no_capabilities_at_all(bundle: Bundle) -> None:
    del bundle.process["capabilities"]
    assert set(capabilities(bundle).values()) == {0}


def test_all_capabilities_are_those_that_we_have(bundle: Bundle) -> None:
    from wherry.linux.capabilities import NAMES, bounding

    names = [*NAMES, "CAP_OF_THE_FUTURE"]
    bundle.process["capabilities"] = {"bounding": names, "effective": names, "permitted": names}
    assert capabilities(bundle)["eff"] == bounding()


@pytest.mark.parametrize("wanted", [False, True])
def test_no_new_privileges(bundle: Bundle, wanted: bool) -> None:
    bundle.process["noNewPrivileges"] = wanted
    assert status(bundle)["NoNewPrivs"] == str(int(wanted))


def test_signals_are_as_they_come(bundle: Bundle) -> None:
    seen = status(bundle)
    assert int(seen["SigBlk"], 16) == 0
    assert int(seen["SigIgn"], 16) == 0


def test_rlimits(bundle: Bundle) -> None:
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    lines = bundle.output("cat", "/proc/self/limits").splitlines()
    assert next(line for line in lines if line.startswith("Max open files")).split()[3:5] == ["100", "200"]
    assert next(line for line in lines if line.startswith("Max core")).split()[4:6] == ["0", "0"]


def test_an_rlimit_that_cannot_be_set_names_itself(bundle: Bundle) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.path.exists("/proc/self/status") and int(_own_caps(), 16) >> 24 & 1:
        pytest.skip("we may raise limits")
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": hard + 1, "hard": hard + 1}]
    message = bundle.refused()
    assert "error setting rlimit RLIMIT_NOFILE: operation not permitted" in message


def _own_caps() -> str:
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith("CapEff"))


def test_environment_and_home(bundle: Bundle) -> None:
    bundle.process["env"] = ["PATH=/bin", "A=1", "A=2", "EMPTY="]
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    seen = set(bundle.output("env").split())
    assert {"A=2", "EMPTY=", "HOME=/home/user", "PATH=/bin"} <= seen


def test_missing_directory_is_made(bundle: Bundle) -> None:
    bundle.process["cwd"] = "/not/there/yet"
    assert bundle.output("pwd") == "/not/there/yet\n"


def test_directory_through_a_symlink_stays_inside(bundle: Bundle) -> None:
    (bundle.rootfs / "link").symlink_to("/../../outside")
    bundle.process["cwd"] = "/link/x"
    assert bundle.output("pwd") == "/outside/x\n"
    assert (bundle.rootfs / "outside/x").is_dir()


def test_umask(bundle: Bundle) -> None:
    bundle.process["user"]["umask"] = 0o77
    assert bundle.output("sh", "-c", "umask") == "0077\n"


def test_umask_by_default(bundle: Bundle) -> None:
    assert bundle.output("sh", "-c", "umask") == "0022\n"


def test_oom_score(bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = 500
    assert bundle.output("cat", "/proc/self/oom_score_adj") == "500\n"


def test_only_three_descriptors(bundle: Bundle) -> None:
    # The fourth is the directory that ls reads.
    assert len(bundle.output("ls", "/proc/self/fd").split()) == 4
    pid = bundle.start("sleep", "1000")
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert len(bundle.exec("ls", "/proc/self/fd").stdout.split()) == 4
    bundle.end(pid)


def test_preserved_descriptors(bundle: Bundle) -> None:
    bundle.process["args"] = ["ls", "/proc/self/fd"]
    bundle.write()
    opened = ("sh", "-c", 'exec "$@" 3</dev/null 4</dev/null 5</dev/null', "sh")
    done = bundle.call("run", "--preserve-fds", "2", bundle.id, prefix=opened)
    assert len(done.stdout.split()) == 3 + 2 + 1


def test_session_and_process_group(bundle: Bundle) -> None:
    assert bundle.output("sh", "-c", "cut -d' ' -f5,6 /proc/1/stat") == "1 1\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nosuch"], r"exec: \"nosuch\": executable file not found in $PATH"),
        (["/nosuch"], r"exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        (["/etc"], r"exec: \"/etc\": permission denied"),
        (["/plain"], r"exec: \"/plain\": permission denied"),
        (["plain/x/y"], r"exec: \"plain/x/y\": stat plain/x/y: not a directory"),
        ([""], r"exec: \"\": executable file not found in $PATH"),
    ],
)
def test_what_cannot_be_executed(bundle: Bundle, args: list[str], message: str) -> None:
    assert "unable to start container process: " + message in bundle.refused(*args)
    pid = bundle.start("sleep", "1000")
    assert "unable to start container process: " + message in bundle.exec(*args, code=255).stderr
    bundle.end(pid)


def test_a_file_that_is_no_program(bundle: Bundle) -> None:
    (bundle.rootfs / "plain").chmod(0o755)
    assert "exec /plain: exec format error" in bundle.refused("/plain")


@pytest.mark.parametrize(
    ("cwd", "message"),
    [
        ("/plain", r"chdir to cwd (\"/plain\") set in config.json failed: not a directory"),
        ("relative", "cwd must be an absolute path"),
        ("", "cwd property must not be empty"),
    ],
)
def test_bad_directory(bundle: Bundle, cwd: str, message: str) -> None:
    bundle.process["cwd"] = cwd
    assert message in bundle.refused()


@pytest.mark.parametrize("number", range(3, 14))
def test_leaked_directory_as_cwd(bundle: Bundle, number: int) -> None:
    """CVE-2024-21626."""
    bundle.process["cwd"] = f"/proc/self/fd/{number}"
    done = bundle.run("ls", "../../../../..", code=None)
    assert done.returncode == 1
    assert "home" not in done.stdout


def test_path_is_that_of_the_process(bundle: Bundle) -> None:
    (bundle.rootfs / "own").mkdir()
    (bundle.rootfs / "own/tool").symlink_to("/bin/busybox")
    bundle.process["env"] = ["PATH=/nowhere:/own"]
    # busybox goes by its name: "tool" is none of its own, and it says so.
    assert "applet not found" in bundle.run("tool", code=127).stderr


def receive_console(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    with connection:
        _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
        descriptors = array.array("i")
        descriptors.frombytes(ancillary[0][2])
        return descriptors[0]


def read_all(master: int) -> str:
    parts: list[bytes] = []
    try:
        while data := os.read(master, 4096):
            parts.append(data)
    except OSError:
        pass  # EIO: the last holder is gone
    return b"".join(parts).decode()


def test_terminal(bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 33, "width": 77}
    bundle.process["args"] = [
        "sh",
        "-c",
        "tty; stty size; ls /dev/pts; echo x > /dev/console; test -t 2 && echo yes",
    ]
    bundle.write()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bundle.directory / "console"))
        listener.listen(1)
        bundle.call("create", "--console-socket", "console", bundle.id)
        master = receive_console(listener)
    pid = bundle.shown()["pid"]
    bundle.call("start", bundle.id)
    said = read_all(master).split()
    os.close(master)
    os.waitpid(pid, 0)
    assert said == ["/dev/pts/0", "33", "77", "0", "ptmx", "x", "yes"]


def test_terminal_of_an_exec(bundle: Bundle) -> None:
    pid = bundle.start("sleep", "1000")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bundle.directory / "console"))
        listener.listen(1)
        words = (
            "exec",
            "--tty",
            "--detach",
            "--console-socket",
            "console",
            "--pid-file",
            "pid",
            bundle.id,
            "tty",
        )
        bundle.call(*words)
        master = receive_console(listener)
    assert read_all(master).split() == ["/dev/pts/0"]
    os.close(master)
    os.waitpid(int((bundle.directory / "pid").read_text()), 0)
    bundle.end(pid)


def test_a_terminal_needs_somebody_to_take_it(bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    bundle.process["args"] = ["true"]
    bundle.write()
    message = bundle.call("create", bundle.id, code=1).stderr
    assert "cannot allocate tty if runc will detach without setting console socket" in message


def test_run_in_the_foreground_with_a_terminal(bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    assert bundle.output("sh", "-c", "tty; echo done") == "/dev/pts/0\ndone\n"


def test_streams_are_passed_through(bundle: Bundle) -> None:
    done = bundle.run("sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_killed_by_a_signal_that_we_got(bundle: Bundle) -> None:
    """`run` in the foreground passes signals on."""
    import sys
    import time

    bundle.process["args"] = ["sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"]
    bundle.write()
    running = subprocess.Popen(
        [sys.executable, "-m", "wherry.runtime", "--root", str(bundle.state), "run", bundle.id],
        cwd=bundle.directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 30
    while running.poll() is None and time.monotonic() < deadline:
        running.send_signal(signal.SIGTERM)  # again: the first may come before the handler is there
        try:
            running.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    assert running.returncode == 9


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("args", []),
        ("args", "sh"),
        ("args", [1]),
        ("args", ["a\0b"]),
        ("cwd", 5),
        ("env", {"A": "b"}),
        ("user", {"uid": -1}),
        ("user", {"uid": "root"}),
        ("terminal", "yes"),
        ("rlimits", [{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}]),
        ("capabilities", ["CAP_CHOWN"]),
        ("oomScoreAdj", "much"),
    ],
    ids=json.dumps,
)
def test_nonsense_is_refused(bundle: Bundle, key: str, value: object) -> None:
    bundle.process.setdefault("args", ["true"])
    bundle.process[key] = value
    if key != "args":
        message = bundle.refused()
    else:
        bundle.write()
        message = bundle.call("run", bundle.id, code=1).stderr
        bundle.assert_nothing_left()
    assert "Traceback" not in message
    assert "runc run failed" in message
