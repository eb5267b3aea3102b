"""The life of containers through the docker CLI: what survives, what is passed on, in which order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from tests.docker import rootfs
from tests.docker.engine import Engine

TRAP = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"


def run(engine: Engine, name: str, *argv: str, options: tuple[str, ...] = ()) -> str:
    return engine.docker("run", "-d", "--name", name, *options, "busybox", *argv).ok().line


def ready(engine: Engine, name: str, text: bytes = b"ready\n") -> None:
    """Come back once the container has written `text`."""
    with engine.popen("logs", "-f", name, stderr=subprocess.DEVNULL) as logs:
        assert logs.stdout is not None
        seen = b""
        while text not in seen:
            line = logs.stdout.readline()
            assert line, f"{name} ended before it said {text!r}: {seen!r}"
            seen += line
        logs.kill()


def state(engine: Engine, name: str) -> dict[str, object]:
    return json.loads(engine.docker("inspect", "-f", "{{json .State}}", name).ok().out)


def test_two_containers_of_one_image_have_their_own_writable_layers(engine: Engine, name: str) -> None:
    run(engine, name, "sh", "-c", "echo one >/file; sleep 300")
    assert engine.docker("run", "--rm", "busybox", "ls", "/file").code == 1
    engine.docker("run", "--name", f"{name}-2", "busybox", "sh", "-c", "echo two >/file").ok()
    assert engine.docker("exec", name, "cat", "/file").ok().line == "one"


def test_the_writable_layer_outlives_stop_and_restart(engine: Engine, name: str) -> None:
    run(engine, name, "sh", "-c", "echo x >>/count; wc -l </count; sleep 300")
    engine.docker("restart", "-t", "0", name).ok()
    engine.docker("stop", "-t", "0", name).ok()
    engine.docker("start", name).ok()
    ready(engine, name, b"3\n")
    assert engine.docker("logs", name).ok().out == "1\n2\n3\n"
    assert engine.docker("inspect", "-f", "{{.RestartCount}}", name).ok().line == "0"


def test_stop_asks_first_and_the_container_says_how_it_ends(engine: Engine, name: str) -> None:
    run(engine, name, "sh", "-c", TRAP)
    ready(engine, name)
    engine.docker("stop", name).ok()
    assert engine.docker("logs", name).ok().out == "ready\nbye\n"
    assert state(engine, name)["ExitCode"] == 7


def test_stop_kills_after_the_time_given(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300")  # PID 1 without a handler: SIGTERM does nothing to it
    started = time.monotonic()
    engine.docker("stop", "-t", "1", name).ok()
    assert 0.9 < time.monotonic() - started < 5
    assert state(engine, name)["ExitCode"] == 137


def test_stop_signal_and_timeout_of_the_container_are_used(engine: Engine, name: str) -> None:
    command = "trap 'exit 3' USR1; echo ready; while :; do sleep 0.05; done"
    run(engine, name, "sh", "-c", command, options=("--stop-signal", "USR1"))
    ready(engine, name)
    engine.docker("stop", name).ok()
    assert state(engine, name)["ExitCode"] == 3
    run(engine, f"{name}-2", "sleep", "300", options=("--stop-timeout", "0"))
    started = time.monotonic()
    engine.docker("stop", f"{name}-2").ok()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("signal_name", "code"), [("KILL", 137), ("9", 137), ("SIGUSR1", 5), ("10", 5)])
def test_kill_sends_any_signal(engine: Engine, name: str, signal_name: str, code: int) -> None:
    run(engine, name, "sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done")
    ready(engine, name)
    engine.docker("kill", "-s", signal_name, name).ok()
    assert engine.docker("wait", name).ok().line == str(code)


def test_a_container_ends_with_its_first_process(engine: Engine, name: str) -> None:
    pid_file = engine.docker("run", "--name", name, "busybox", "sh", "-c", "sleep 300 & echo $!; exit 4")
    assert pid_file.code == 4
    assert state(engine, name)["Status"] == "exited"


def test_pause_stops_every_process(engine: Engine, name: str) -> None:
    run(engine, name, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/n; sleep 0.01; done")
    engine.docker("pause", name).ok()
    pid = int(str(state(engine, name)["Pid"]))
    first = open(f"/proc/{pid}/root/n").read()
    time.sleep(0.1)  # the one sleep: nothing is to happen while it lasts
    assert open(f"/proc/{pid}/root/n").read() == first
    assert state(engine, name)["Status"] == "paused"
    engine.docker("unpause", name).ok()
    assert state(engine, name)["Status"] == "running"


def test_wait_answers_everyone_when_the_container_ends(engine: Engine, name: str) -> None:
    run(engine, name, "sh", "-c", TRAP)
    ready(engine, name)
    waiters = [engine.popen("wait", name) for _ in range(5)]
    for waiter in waiters:
        assert waiter.poll() is None
    engine.docker("stop", name).ok()
    assert [w.communicate(timeout=20)[0] for w in waiters] == [b"7\n"] * 5


def test_rm_option_removes_the_container_before_run_returns(engine: Engine, name: str) -> None:
    for n in range(5):
        engine.docker("run", "--rm", "--name", f"{name}-{n}", "busybox", "true").ok()
        assert engine.docker("inspect", f"{name}-{n}").code == 1


def test_rm_option_with_detach_removes_the_container_when_it_ends(engine: Engine, name: str) -> None:
    run(engine, name, "cat", options=("--rm", "-i"))
    gone = engine.stream("POST", f"/containers/{name}/wait")  # its head comes once the wait is known
    engine.docker("stop", "-t", "0", name).ok()
    assert json.loads(gone.read())["StatusCode"] == 137
    events = engine.docker("events", "--since", "0", "--until", f"{time.time() + 1:.3f}", "--filter", f"container={name}",
                           "--filter", "event=destroy", "--format", "{{.Action}}", timeout_s=20)  # fmt: skip
    assert events.out == "destroy\n"


def test_force_removes_a_running_container(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300")
    pid = int(str(state(engine, name)["Pid"]))
    engine.docker("rm", "-f", name).ok()
    assert not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().split()[2] == "Z"


def test_prefix_of_an_id_names_a_container(engine: Engine, name: str) -> None:
    full = run(engine, name, "sleep", "300")
    for text in (full, full[:12], full[:6], name, f"/{name}"):
        assert engine.docker("inspect", "-f", "{{.Id}}", text).ok().line == full


def test_env_file_and_environment_of_the_client(engine: Engine, name: str, tmp_path: object) -> None:
    path = f"{tmp_path}/env"
    with open(path, "w") as file:
        file.write("# comment\nA=1\nFROM_CLIENT\nNOT_THERE\n")
    line = (
        engine.docker("run", "--rm", "--env-file", path, "busybox", "env", env={"FROM_CLIENT": "yes"})
        .ok()
        .out
    )
    assert "A=1\n" in line and "FROM_CLIENT=yes\n" in line and "NOT_THERE" not in line


def test_cidfile_holds_the_id(engine: Engine, name: str, tmp_path: object) -> None:
    run(engine, name, "true", options=("--cidfile", f"{tmp_path}/cid"))
    full = engine.docker("inspect", "-f", "{{.Id}}", name).ok().line
    assert open(f"{tmp_path}/cid").read() == full


def test_bind_mounts(engine: Engine, name: str, tmp_path: object) -> None:
    with open(f"{tmp_path}/file", "w") as file:
        file.write("from the host\n")
    script = "cat /b/file; echo more >>/b/file; (echo x >/ro/new) 2>&1; ls /missing"
    options = [
        "-v",
        f"{tmp_path}:/b",
        "-v",
        f"{tmp_path}:/ro:ro",
        "-v",
        f"{tmp_path}/made-by-docker:/missing",
    ]
    out = engine.docker("run", "--rm", *options, "busybox", "sh", "-c", script).ok().out
    assert out.startswith("from the host\n") and "Read-only file system" in out
    assert open(f"{tmp_path}/file").read() == "from the host\nmore\n"
    assert os.path.isdir(f"{tmp_path}/made-by-docker")


def test_bind_of_a_single_file_and_propagation(engine: Engine, name: str, tmp_path: object) -> None:
    with open(f"{tmp_path}/one", "w") as file:
        file.write("1")
    mount = f"type=bind,source={tmp_path}/one,target=/etc/one,readonly"
    assert engine.docker("run", "--rm", "--mount", mount, "busybox", "cat", "/etc/one").ok().out == "1"


@pytest.mark.parametrize(
    ("mode", "seen"), [("rslave", True), ("rshared", True), ("rprivate", False), ("", False)]
)
def test_mounts_made_later_on_the_host_come_through_when_asked(
    engine: Engine, name: str, tmp_path: object, mode: str, seen: bool
) -> None:
    shared = f"{tmp_path}/shared"
    os.makedirs(f"{shared}/sub")
    subprocess.run(["mount", "--bind", shared, shared], check=True)
    try:
        subprocess.run(["mount", "--make-shared", shared], check=True)
        option = f"{shared}:/b" + (f":{mode}" if mode else "")
        run(engine, name, "sleep", "300", options=("-v", option))
        subprocess.run(["mount", "-t", "tmpfs", "none", f"{shared}/sub"], check=True)
        mounts = engine.docker("exec", name, "cat", "/proc/mounts").ok().out
        assert ("/b/sub" in mounts) is seen
        subprocess.run(["umount", f"{shared}/sub"], check=True)
    finally:
        engine.docker("rm", "-f", name)
        subprocess.run(["umount", "-R", shared], check=True)


def test_a_bind_does_not_keep_the_hosts_mount_busy(engine: Engine, name: str, tmp_path: object) -> None:
    """What is mounted on the host and was not given to the container can be unmounted while the container runs."""
    os.makedirs(f"{tmp_path}/m")
    subprocess.run(["mount", "-t", "tmpfs", "none", f"{tmp_path}/m"], check=True)
    run(engine, name, "sleep", "300")
    assert subprocess.run(["umount", f"{tmp_path}/m"], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts", "net", "cgroup"])
def test_host_namespaces_are_joined_only_when_asked(engine: Engine, name: str, kind: str) -> None:
    option = {"net": "--network=host", "cgroup": "--cgroupns=host"}.get(kind, f"--{kind}=host")
    here = os.readlink(f"/proc/self/ns/{kind}")
    read = ["busybox", "readlink", f"/proc/self/ns/{kind}"]
    assert engine.docker("run", "--rm", option, *read).ok().line == here
    assert (
        engine.docker("run", "--rm", *(["--cgroupns=private"] if kind == "cgroup" else []), *read).ok().line
        != here
    )


@pytest.mark.parametrize("kind", ["pid", "ipc", "net"])
def test_namespaces_of_another_container_are_joined(engine: Engine, name: str, kind: str) -> None:
    run(engine, name, "sleep", "300", options=("--ipc", "shareable"))
    pid = state(engine, name)["Pid"]
    option = f"--network=container:{name}" if kind == "net" else f"--{kind}=container:{name}"
    theirs = engine.docker("run", "--rm", option, "busybox", "readlink", f"/proc/self/ns/{kind}").ok().line
    assert theirs == os.readlink(f"/proc/{pid}/ns/{kind}")


def test_network_of_a_stopped_container_is_refused(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox").ok()
    failed = engine.docker("run", "--rm", f"--network=container:{name}", "busybox", "true")
    failed.failed(125, "cannot join network")


def test_every_namespace_is_the_containers_own(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300")
    pid = state(engine, name)["Pid"]
    for kind in ("pid", "net", "mnt", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind


def test_only_the_three_streams_are_open_in_the_container(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300", options=("-i",))
    pid = state(engine, name)["Pid"]
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    engine.docker("exec", "-d", name, "sleep", "301").ok()
    execs = [
        p for p in children_of_container(int(str(pid))) if b"301" in open(f"/proc/{p}/cmdline", "rb").read()
    ]
    assert execs and all(sorted(os.listdir(f"/proc/{p}/fd")) == ["0", "1", "2"] for p in execs)


def children_of_container(pid: int) -> list[int]:
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                found.append(int(entry))
        except OSError:
            continue
    return found


def test_memory_limit_kills_and_says_so(engine: Engine, name: str) -> None:
    hungry = "a=x; while :; do a=$a$a; done"
    ran = engine.docker(
        "run", "--name", name, "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", hungry
    )
    assert ran.code == 137
    assert state(engine, name)["OOMKilled"] is True


def forwarding_is_dropped() -> bool:
    """Another engine on this machine drops what passes the bridge, unless it has let it in itself."""
    listed = subprocess.run(
        ["nft", "list", "chain", "ip", "filter", "FORWARD"], capture_output=True, check=False
    )
    return b"policy drop" in listed.stdout


def test_the_host_and_other_containers_reach_a_container(engine: Engine, name: str) -> None:
    run(engine, name, "nc", "-ll", "-p", "80", "-e", "/bin/echo", "hello")
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}"
    address, gateway = engine.docker("inspect", "-f", form, name).ok().line.split()
    with connected(address, 80) as sock:
        assert sock.recv(100) == b"hello\n"
    with socket.create_server((gateway, 0)) as server:
        port = server.getsockname()[1]
        script = f"echo from inside | nc -w 5 {gateway} {port}"
        with engine.popen("run", "--rm", "busybox", "sh", "-c", script) as client:
            server.settimeout(20)
            with server.accept()[0] as sock:
                assert sock.makefile().readline() == "from inside\n"
            client.communicate(timeout=20)
    if not forwarding_is_dropped():
        script = f"nc -w 5 {address} 80"
        assert engine.docker("run", "--rm", "busybox", "sh", "-c", script).ok().line == "hello"


def connected(address: str, port: int, timeout_s: float = 10.0) -> socket.socket:
    """A connection to a server that may still be starting."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection((address, port), timeout=2)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_addresses_are_given_back(engine: Engine, name: str) -> None:
    show = ["busybox", "sh", "-c", "ip -o -4 addr show eth0 | awk '{print $4}'"]
    seen = {engine.docker("run", "--rm", *show).ok().line for _ in range(5)}
    bound = engine.docker(
        "network", "inspect", "bridge", "-f", "{{range .IPAM.Config}}{{.Subnet}}{{end}}"
    ).line
    assert all(seen), seen
    if bound:  # this engine has network inspect
        assert all(one.rpartition("/")[2] == bound.rpartition("/")[2] for one in seen)


@pytest.mark.parametrize("tail", ["0", "1", "3", "all"])
def test_logs_tail(engine: Engine, name: str, tail: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; done").ok()
    lines = engine.docker("logs", "--tail", tail, name).ok().out.split()
    assert lines == {"0": [], "1": ["5"], "3": ["3", "4", "5"], "all": ["1", "2", "3", "4", "5"]}[tail]


def test_logs_keep_streams_times_and_unfinished_lines(engine: Engine, name: str) -> None:
    script = "echo out; echo err >&2; printf unfinished"
    engine.docker("run", "--name", name, "busybox", "sh", "-c", script).ok()
    logs = engine.docker("logs", name).ok()
    assert (logs.out, logs.err) == ("out\nunfinished", "err\n")
    stamped = engine.docker("logs", "-t", name).ok().out.splitlines()
    assert all(
        line[:4].isdigit() and line[10] == "T" and line.split(" ")[0].endswith("Z") for line in stamped
    )
    detail = engine.docker("logs", "--details", "-t", name).ok().out
    assert "out" in detail


def test_logs_since_and_until(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "echo early; usleep 200000; echo late").ok()
    stamps = [line.split(" ")[0] for line in engine.docker("logs", "-t", name).ok().out.splitlines()]
    assert engine.docker("logs", "--since", stamps[1], name).ok().out == "late\n"
    assert engine.docker("logs", "--until", stamps[0], name).ok().out == "early\n"


def test_logs_follow_goes_on_over_a_restart_and_ends_with_the_container(engine: Engine, name: str) -> None:
    run(engine, name, "sh", "-c", "echo up; trap 'echo down; exit' TERM; while :; do sleep 0.05; done")
    ready(engine, name, b"up\n")
    with engine.popen("logs", "-f", name) as logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == b"up\n"
        engine.docker("stop", name).ok()
        assert logs.communicate(timeout=20)[0] == b"down\n"


def test_a_log_driver_of_none_keeps_nothing(engine: Engine, name: str) -> None:
    ran = engine.docker("run", "--name", name, "--log-driver", "none", "busybox", "echo", "seen").ok()
    assert ran.out == "seen\n"
    engine.docker("logs", name).failed(1, "configured logging driver does not support reading")


def test_signals_reach_the_container_through_the_client(engine: Engine, name: str) -> None:
    with engine.popen("run", "--rm", "--name", name, "busybox", "sh", "-c", TRAP) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGTERM)
        out, _ = client.communicate(timeout=20)
        assert (out, client.returncode) == (b"bye\n", 7)


def test_sig_proxy_can_be_turned_off(engine: Engine, name: str) -> None:
    with engine.popen("run", "--sig-proxy=false", "--name", name, "busybox", "sh", "-c", TRAP) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGUSR1)  # would end the container, if it were passed on
        engine.docker("exec", name, "true").ok()
        client.kill()
    assert state(engine, name)["Status"] == "running"


def test_start_attached_gives_output_and_code(engine: Engine, name: str) -> None:
    engine.docker("create", "-i", "--name", name, "busybox", "sh", "-c", "cat; exit 9").ok()
    ran = engine.docker("start", "-ai", name, input="typed\n")
    assert (ran.out, ran.code) == ("typed\n", 9)


def test_exec_sees_the_containers_world(engine: Engine, name: str) -> None:
    run(
        engine,
        name,
        "sleep",
        "300",
        options=("-e", "A=1", "--hostname", "box", "-w", "/tmp", "--cap-drop", "CHOWN"),
    )
    script = "echo $A $PWD; hostname; cat /proc/1/cmdline | tr '\\0' ' '; echo; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status"
    lines = engine.docker("exec", name, "sh", "-c", script).ok().out.splitlines()
    assert lines == ["1 /tmp", "box", "sleep 300 ", "CapEff:\t00000000a80425fa", "Seccomp:\t2"]


def test_exec_privileged(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300")
    lines = engine.docker("exec", "--privileged", name, "grep", "CapEff", "/proc/self/status").ok().line
    assert int(lines.split()[1], 16) > 0x1F_FFFF_FFFF


def test_exec_ends_alone_and_its_code_comes_through(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300")
    for code in (0, 1, 42, 255):
        assert engine.docker("exec", name, "sh", "-c", f"exit {code}").code == code
    assert engine.docker("exec", name, "sh", "-c", "kill -9 $$").code == 137
    assert state(engine, name)["Status"] == "running"


def test_many_execs_at_once(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300")
    clients = [engine.popen("exec", name, "sh", "-c", f"echo {n}; exit {n}") for n in range(20)]
    results = [(c.communicate(timeout=60)[0], c.returncode) for c in clients]
    assert results == [(b"%d\n" % n, n) for n in range(20)]


def test_execs_end_with_the_container(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300")
    with engine.popen("exec", name, "sh", "-c", "echo ready; sleep 300") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        engine.docker("kill", name).ok()
        client.communicate(timeout=20)
        assert client.returncode == 137


def test_top_shows_processes_with_host_pids(engine: Engine, name: str) -> None:
    run(engine, name, "sh", "-c", "sleep 301 & sleep 302")
    out = engine.docker("top", name).ok().out
    assert "sleep 301" in out and "sleep 302" in out and str(state(engine, name)["Pid"]) in out
    assert engine.docker("top", name, "-o", "pid,args").ok().out.split("\n")[0].split() == ["PID", "COMMAND"]


def test_events_come_as_they_happen(engine: Engine, name: str) -> None:
    with engine.popen("events", "--filter", f"container={name}", "--format", "{{.Action}}") as events:
        assert events.stdout is not None
        # The stream has no greeting: make events until the first is seen, then the ones that count.
        seen: list[bytes] = []
        reader = threading.Thread(target=lambda: seen.extend(iter(events.stdout.readline, b"")))  # type: ignore[union-attr]
        reader.start()
        deadline = time.monotonic() + 20
        while not seen and time.monotonic() < deadline:
            engine.docker("run", "--rm", "--name", name, "busybox", "true").ok()
        while seen.count(b"destroy\n") < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        events.terminate()
        reader.join()
    order = [e for e in seen if e in (b"create\n", b"start\n", b"die\n", b"destroy\n")]
    last = order[-4:]
    assert last == [b"create\n", b"start\n", b"die\n", b"destroy\n"]


def test_names_are_free_again_after_rename_and_rm(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "300")
    engine.docker("rename", name, f"{name}-new").ok()
    run(engine, name, "sleep", "300")
    engine.docker("rm", "-f", name, f"{name}-new").ok()
    run(engine, f"{name}-new", "true")


def test_one_name_is_given_once_however_many_ask(engine: Engine, name: str) -> None:
    clients = [engine.popen("create", "--name", name, "busybox") for _ in range(10)]
    codes = sorted(c.wait(60) for c in clients)
    for client in clients:
        client.communicate()
    assert codes == [0] + [1] * 9


def test_twenty_containers_at_once(engine: Engine, name: str) -> None:
    clients = [
        engine.popen("run", "--name", f"{name}-{n}", "busybox", "sh", "-c", f"echo {n}; exit {n}")
        for n in range(20)
    ]
    assert [(c.communicate(timeout=90)[0], c.returncode) for c in clients] == [
        (b"%d\n" % n, n) for n in range(20)
    ]


def test_forty_running_containers(engine: Engine, name: str) -> None:
    clients = [
        engine.popen("run", "-d", "--name", f"{name}-{n}", "busybox", "sleep", "300") for n in range(40)
    ]
    for client in clients:
        client.communicate(timeout=100)
        assert client.returncode == 0
    listed = engine.docker("ps", "--filter", f"name={name}", "--format", "{{.Names}}").ok().out.split()
    assert sorted(listed) == sorted(f"{name}-{n}" for n in range(40))
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}"
    places = engine.docker("inspect", "-f", form, *listed).ok().out.splitlines()
    assert len({line.split()[0] for line in places}) == len({line.split()[1] for line in places}) == 40
    engine.docker("rm", "-f", *listed).ok()


def test_image_defaults_are_used_and_overridden(engine: Engine, name: str, clean: None) -> None:
    layer = rootfs.busybox_tar()
    config = rootfs.image_config(
        [layer],
        Env=["PATH=/bin", "A=image", "B=image"],
        Entrypoint=["/bin/sh", "-c"],
        Cmd=["echo $A $B; id -u; pwd"],
        User="guest",
        WorkingDir="/tmp",
        Labels={"from": "image", "both": "image"},
        StopSignal="SIGINT",
    )
    engine.docker("load", input=rootfs.docker_archive(config, [layer], f"{name}:1")).ok()
    assert engine.docker("run", "--rm", f"{name}:1").ok().out == "image image\n405\n/tmp\n"
    assert (
        engine.docker("run", "--rm", "-e", "B=mine", "-u", "0", "-w", "/", f"{name}:1").ok().out
        == "image mine\n0\n/\n"
    )
    assert engine.docker("run", "--rm", f"{name}:1", "echo other").ok().out == "other\n"
    assert engine.docker("run", "--rm", "--entrypoint", "echo", f"{name}:1", "x").ok().out == "x\n"
    engine.docker("create", "--name", name, "-l", "both=mine", f"{name}:1").ok()
    shown = engine.docker("inspect", "-f", "{{json .Config.Labels}} {{.Config.StopSignal}}", name).ok().line
    assert shown == '{"both":"mine","from":"image"} SIGINT'


def test_restart_policy_no_stays_down(engine: Engine, name: str) -> None:
    engine.docker("run", "--restart", "no", "--name", name, "busybox", "false").failed(1)
    assert state(engine, name)["Status"] == "exited"
    assert engine.docker("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", name).ok().line == "no"
