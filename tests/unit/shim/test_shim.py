"""Containers under a launcher and shims: streams, exits, execs, and what happens when any of them is killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import signal
import socket
import time

import pytest
from tests.unit.shim.conftest import JSON_FILE, read_all, spec

from wherry.runtime.cgroups.driver import cgroup_for
from wherry.shim.client import Launcher, Shim, ShimError, ShimGone, bury, find_exit


def demux(data):
    streams = {1: b"", 2: b""}
    while data:
        length = int.from_bytes(data[4:8], "big")
        streams[data[0]] += data[8 : 8 + length]
        data = data[8 + length :]
    return streams[1], streams[2]


def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def until(condition, timeout=30):
    """For what nobody tells of: a process or a file that goes."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_container_s_output_and_exit_are_told(yard):
    run = await yard.create(["sh", "-c", "echo out; echo err >&2; exit 3"])
    client = run.attach(mux=True)
    await run.shim.start()
    out = await read_all(client)
    event = await run.event("exit")
    assert demux(out) == (b"out\n", b"err\n")
    assert (event["code"], event["signal"], event["oom_killed"], event["error"]) == (3, 0, False, "")
    assert abs(event["at_ns"] - time.time_ns()) < 5e9
    assert sorted((e["log"], e["stream"]) for e in run.log()) == [("err\n", "stderr"), ("out\n", "stdout")]
    assert run.record("exit.json") == {k: v for k, v in event.items() if k != "event"}
    await run.shim.release()
    await until(lambda: is_gone(run.shim_pid))
    assert not os.path.exists(f"/sys/fs/cgroup/memory{run.cgroup}")


async def test_signals_become_128_and_more(yard):
    run = await yard.run(["sleep", "100"])
    await run.shim.kill(signal.SIGKILL)
    event = await run.event("exit")
    assert (event["code"], event["signal"]) == (137, 9)


async def test_create_and_start_may_be_on_their_way_together(yard):
    run = await yard.spawn()
    run.write_config(spec(["true"]))
    created = run.shim.create(
        bundle=run.directory, cgroup=run.cgroup, rootfs={"type": "bind", "source": yard.rootfs}
    )
    started = run.shim.start()
    assert (await created)["pid"] == (await started)["pid"]
    assert (await run.event("exit"))["code"] == 0


@pytest.mark.parametrize(
    ("args", "kind", "code"), [(["nope"], "not-found", 127), (["/etc"], "permission", 126)]
)
async def test_a_command_that_cannot_run_is_told_by_kind(yard, args, kind, code):
    run = None
    with pytest.raises(ShimError) as caught:
        run = await yard.create(args)
        client = run.attach()
        await run.shim.start()
    assert caught.value.kind == kind
    if run is not None:  # made, and refused at its start
        assert await read_all(client) == b""
        state = await run.shim.state()
        assert (state["status"], state["exit"]["code"]) == ("stopped", code)
        await run.shim.release()
    else:
        run = yard.runs[-1]
        run.shim.close()
    await until(lambda: is_gone(run.shim_pid))


async def test_nothing_of_ours_is_open_or_ignored_in_the_container(yard):
    for args, expected in (
        (["ls", "/proc/self/fd"], ["0", "1", "2", "3"]),  # 3 is ls's own
        (["grep", "-E", "SigIgn|SigBlk", "/proc/self/status"], ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]),
    ):
        run = await yard.create(args)
        client = run.attach()
        await run.shim.start()
        assert (await read_all(client)).decode().split() == expected


async def test_requests_in_the_wrong_state_are_conflicts(yard):
    run = await yard.spawn()
    with pytest.raises(ShimError, match="is new") as caught:
        await run.shim.start()
    assert caught.value.kind == "conflict"
    run = await yard.run(["sleep", "100"])
    for request in (run.shim.start(), run.shim.resume(), run.shim.release()):
        with pytest.raises(ShimError) as caught:
            await request
        assert caught.value.kind == "conflict"
    with pytest.raises(ShimError) as caught:
        await run.shim.kill(15, exec_id="nobody")
    assert caught.value.kind == "not-found"
    with pytest.raises(ShimError) as caught:
        await run.shim.kill(1000)
    assert caught.value.kind == "invalid"
    await run.shim.kill(9)
    await run.event("exit")
    with pytest.raises(ShimError) as caught:
        await run.shim.kill(9)
    assert caught.value.kind == "conflict"


async def test_hostile_frames_end_a_connection_and_nothing_else(yard):
    run = await yard.run(["sleep", "100"])
    for stream in (b"\xff" * 100, b"\0\0\0\2{}", b'\0\0\0\x0b{"op":[1,2]}', b'\0\0\0\x0c{"op":"exec"}'):
        with socket.socket(socket.AF_UNIX) as sock:
            fd = os.open(run.directory, os.O_PATH)
            sock.connect(f"/proc/self/fd/{fd}/shim.sock")
            os.close(fd)
            sock.sendall(stream)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(9999):
                pass
    assert (await run.shim.state())["status"] == "running"


async def test_a_terminal_has_the_size_it_is_given(yard):
    run = await yard.create(
        ["sh", "-c", "stty size; read x; stty size; tty"], terminal=True, create={"stdin": True}
    )
    client = run.attach(stdin=True)
    await run.shim.resize(100, 40)
    await run.shim.start()
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(client, 100) == b"40 100\r\n"
    await run.shim.resize(20, 10)
    await loop.sock_sendall(client, b"x\r")
    out = await read_all(client)
    assert out.endswith(b"10 20\r\n/dev/pts/0\r\n")


async def test_detach_keys_leave_the_container_running(yard):
    run = await yard.run(["cat"], terminal=True, create={"stdin": True, "stdin_once": True})
    client = run.attach(stdin=True)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"hi\r")
    out = b""
    while out.count(b"hi\r\n") < 2:  # the terminal's echo, and cat's
        out += await loop.sock_recv(client, 100)
    await loop.sock_sendall(client, b"\x10\x11")
    assert await read_all(client) == b""
    assert (await run.event("detach"))["exec_id"] is None
    assert (await run.shim.state())["status"] == "running"


async def test_pause_and_resume(yard):
    run = await yard.run(["sh", "-c", "while :; do echo tick; sleep 0.02; done"])
    await run.shim.pause()
    assert (await run.shim.state())["status"] == "paused"
    with pytest.raises(ShimError):
        await run.shim.exec("e", spec(["true"])["process"])
    length = len(run.log())
    await asyncio.sleep(0.2)
    assert len(run.log()) == length
    await run.shim.resume()
    await until(lambda: len(run.log()) > length)
    await run.shim.pause()
    await run.shim.kill(9)
    assert (await run.event("exit"))["code"] == 137


async def test_execs_have_streams_and_codes_of_their_own(yard):
    run = await yard.run(["sleep", "100"])
    ours, theirs = socket.socketpair()
    process = spec(["sh", "-c", "cat; echo err >&2; exit 7"])["process"]
    reply = run.shim.exec(
        "e1", process, theirs, stdin=True, stdout=True, stderr=True, mux=True, pending=b"in "
    )
    await reply
    theirs.close()
    ours.sendall(b"put")
    ours.shutdown(socket.SHUT_WR)
    ours.setblocking(False)
    assert demux(await read_all(ours)) == (b"in put", b"err\n")
    event = await run.event("exec_exit")
    assert (event["exec_id"], event["code"]) == ("e1", 7)
    assert len(await_pids := (await run.shim.pids())["pids"]) == 1, await_pids
    state = await run.shim.state()
    assert [(e["exec_id"], e["code"]) for e in state["execs"]] == [("e1", 7)]
    assert run.log() == []
    with pytest.raises(ShimError):
        await run.shim.exec("e1", process)


async def test_an_exec_that_cannot_run_leaves_its_client_to_the_daemon(yard):
    run = await yard.run(["sleep", "100"])
    ours, theirs = socket.socketpair()
    with pytest.raises(ShimError) as caught:
        await run.shim.exec("e", spec(["nope"])["process"], theirs, stdout=True)
    assert caught.value.kind == "not-found"
    theirs.sendall(b"told by the daemon")
    theirs.close()
    assert ours.recv(100) == b"told by the daemon"
    assert ours.recv(100) == b""


async def test_an_exec_with_a_terminal_is_resized_and_detached_by_name(yard):
    run = await yard.run(["sleep", "100"])
    ours, theirs = socket.socketpair()
    process = spec(["sh", "-c", "read x; stty size; sleep 100"], terminal=True)["process"]
    await run.shim.exec("t", process, theirs, stdin=True, stdout=True, stderr=True, detach_keys="ctrl-x,y")
    theirs.close()
    ours.setblocking(False)
    await run.shim.resize(33, 22, exec_id="t")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(ours, b"\r")
    out = b""
    while b"22 33" not in out:
        out += await loop.sock_recv(ours, 100)
    await loop.sock_sendall(ours, b"\x18y")
    await read_all(ours)
    assert (await run.event("detach"))["exec_id"] == "t"
    await run.shim.kill(signal.SIGTERM, exec_id="t")
    assert (await run.event("exec_exit"))["code"] == 143


async def test_execs_end_with_their_container(yard):
    run = await yard.run(["sleep", "100"])
    await run.shim.exec("e", spec(["sleep", "200"])["process"])
    await run.shim.kill(9)
    assert (await run.event("exit"))["code"] == 137
    assert (await run.event("exec_exit"))["code"] == 137


async def test_processes_left_over_without_a_pid_namespace_are_killed(yard):
    config = spec(["sh", "-c", "sleep 300 & echo $!"], namespaces=("mount", "ipc", "uts", "network"))
    config["mounts"] = config["mounts"][1:]
    run = await yard.create([], config=config)
    client = run.attach()
    await run.shim.start()
    out = await read_all(client)
    await run.event("exit")
    await until(lambda: is_gone(int(out)))


async def test_descriptors_are_handed_over_by_name(yard):
    run = await yard.run(["sleep", "100"])
    netns = await run.shim.descriptor("netns")
    assert os.readlink(f"/proc/self/fd/{netns}").startswith("net:[")
    rootfs = await run.shim.descriptor("rootfs")
    assert "bin" in os.listdir(f"/proc/self/fd/{rootfs}")
    log = await run.shim.descriptor("log")
    assert os.readlink(f"/proc/self/fd/{log}").endswith("/log")
    for fd in (netns, rootfs, log):
        os.close(fd)
    with pytest.raises(ShimError) as caught:
        await run.shim.descriptor("nothing")
    assert caught.value.kind == "not-found"


async def test_descriptors_are_kept_for_the_next_daemon_until_the_end(yard):
    pipes = [os.pipe() for _ in range(2)]
    run = await yard.run(["sleep", "100"])
    await run.shim.keep({"a": pipes[0][1], "b": pipes[1][1]})
    for _, writer in pipes:
        os.close(writer)
    kept = await run.shim.descriptors("b", "a", "netns")
    for fd, text in zip(kept, (b"b", b"a"), strict=False):
        os.write(fd, text)
    assert [os.read(reader, 10) for reader, _ in pipes] == [b"a", b"b"]
    for fd in kept:
        os.close(fd)
    with pytest.raises(ShimError) as caught:
        await run.shim.descriptors("a", "c")
    assert caught.value.kind == "not-found"
    await run.shim.kill(9)
    await run.event("exit")
    for reader, _ in pipes:
        assert os.read(reader, 10) == b""  # nobody has the other end any more
        os.close(reader)


async def test_300_mb_both_ways_through_attach(yard):
    run = await yard.run(["cat"], create={"stdin": True, "stdin_once": True}, log=False)
    client = run.attach(stdin=True)
    loop = asyncio.get_running_loop()
    block = os.urandom(1 << 20)
    sent, got, count = hashlib.sha256(), hashlib.sha256(), 0

    async def feed():
        for number in range(300):
            piece = block[number:] + block[:number]
            sent.update(piece)
            await loop.sock_sendall(client, piece)
        client.shutdown(socket.SHUT_WR)

    async with asyncio.timeout(60):
        feeding = asyncio.create_task(feed())
        while data := await loop.sock_recv(client, 1 << 20):
            got.update(data)
            count += len(data)
        await feeding
    client.close()
    assert count == 300 << 20
    assert got.digest() == sent.digest()
    assert (await run.event("exit"))["code"] == 0


async def test_output_and_log_are_the_same_bytes(yard):
    run = await yard.create(["sh", "-c", "seq 1 200000"])
    client = run.attach()
    await run.shim.start()
    out = await read_all(client)
    await run.event("exit")
    assert out == b"".join(b"%d\n" % n for n in range(1, 200001))
    assert "".join(entry["log"] for entry in run.log()).encode() == out


# Waiting clients


async def wait_client(run, condition):
    ours, theirs = socket.socketpair()
    await run.shim.wait(theirs, condition)
    theirs.close()
    ours.setblocking(False)
    return ours


async def test_without_a_daemon_the_shim_answers_who_waits(yard):
    run = await yard.run(["sh", "-c", "sleep 0.3; exit 5"])
    clients = [await wait_client(run, condition) for condition in ("not-running", "next-exit")]
    run.shim.close()
    for client in clients:
        assert await read_all(client) == b'11\r\n{"StatusCode":5}\n\r\n0\r\n\r\n'.replace(b"11\r", b"11\r")
    await until(lambda: is_gone(run.shim_pid))
    assert find_exit(run.directory).code == 5


async def test_who_waits_for_the_removal_is_handed_to_the_next_daemon(yard):
    run = await yard.run(["sh", "-c", "sleep 0.2; exit 5"])
    client = await wait_client(run, "removed")
    run.shim.close()
    await until(lambda: find_exit(run.directory) is not None)
    await asyncio.sleep(0.1)
    shim = Shim.connect(run.name, run.directory, on_event=run.on_event, on_lost=run.lost.set)
    state = await shim.state()
    assert (state["status"], state["exit"]["code"]) == ("stopped", 5)
    ((condition, waiter),) = await shim.waiters()
    assert condition == "removed"
    await shim.release()
    waiter.sendall(b"gone")
    waiter.close()
    assert await read_all(client) == b"gone"
    await until(lambda: is_gone(run.shim_pid))


async def test_with_a_daemon_the_shim_stays_silent_to_who_waits(yard):
    run = await yard.run(["true"])
    try:
        client = await wait_client(run, "next-exit")
    except ShimError:
        pytest.fail("a stopped container's shim takes waiters until it is released")
    await run.event("exit")
    await run.shim.release()
    assert await read_all(client) == b""


async def test_a_shim_whose_waiters_all_hang_up_goes(yard):
    run = await yard.run(["sh", "-c", "sleep 0.2"])
    client = await wait_client(run, "removed")
    run.shim.close()
    await until(lambda: find_exit(run.directory) is not None)
    assert not is_gone(run.shim_pid)
    client.close()
    await until(lambda: is_gone(run.shim_pid))


# Death


async def test_streams_go_on_when_the_daemon_is_killed(yard):
    """A process of its own holds the only control connection, and is killed in the middle."""
    run = await yard.create(["sh", "-c", "cat; exit 9"], create={"stdin": True, "stdin_once": True})
    client = run.attach(stdin=True)
    await run.shim.start()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"before ")
    daemon = os.fork()
    if daemon == 0:
        signal.pause()
        os._exit(0)
    run.shim.close()  # the child has the last copy
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)  # noqa: ASYNC222
    await loop.sock_sendall(client, b"after")
    shim = Shim.connect(run.name, run.directory, on_event=run.on_event, on_lost=run.lost.set)
    state = await shim.state()
    assert state["status"] == "running"
    client.shutdown(socket.SHUT_WR)
    assert await read_all(client) == b"before after"
    assert (await run.event("exit"))["code"] == 9
    await shim.release()


async def test_exits_while_there_is_no_daemon_are_on_record(yard):
    run = await yard.run(["sh", "-c", "sleep 0.3; exit 4"])
    await run.shim.exec("e", spec(["sh", "-c", "exit 6"])["process"])
    run.shim.close()
    await until(lambda: is_gone(run.shim_pid))
    assert find_exit(run.directory).code == 4
    with pytest.raises(ShimGone):
        Shim.connect(run.name, run.directory, on_event=run.on_event, on_lost=run.lost.set)


async def test_a_killed_shim_is_buried_by_the_launcher(yard):
    run = await yard.run(["sh", "-c", "sleep 200 & sleep 300"])
    pids = (await run.shim.pids())["pids"]
    os.kill(run.shim_pid, signal.SIGKILL)
    await asyncio.wait_for(run.lost.wait(), 5)
    await until(lambda: find_exit(run.directory) is not None)
    found = find_exit(run.directory)
    assert (found.code, found.error) == (137, "its shim was killed by signal 9")
    await until(lambda: all(is_gone(pid) for pid in pids))
    await until(lambda: not os.path.exists(f"/sys/fs/cgroup/memory{run.cgroup}"))
    assert (await bury(run.directory, "other reason")).error == "its shim was killed by signal 9"


async def test_without_a_launcher_the_daemon_buries(yard):
    run = await yard.run(["sleep", "300"])
    pids = (await run.shim.pids())["pids"]
    os.kill(yard.launcher.pid, signal.SIGKILL)
    await asyncio.wait_for(yard.launcher_lost.wait(), 5)
    os.kill(run.shim_pid, signal.SIGKILL)
    await asyncio.wait_for(run.lost.wait(), 5)
    found = await bury(run.directory, "its shim is gone")
    assert (found.code, found.error) == (137, "its shim is gone")
    assert all(is_gone(pid) for pid in pids)


async def test_containers_go_on_without_their_launcher(yard):
    run = await yard.create(["cat"], create={"stdin": True, "stdin_once": True})
    client = run.attach(stdin=True)
    await run.shim.start()
    os.kill(yard.launcher.pid, signal.SIGKILL)
    await asyncio.wait_for(yard.launcher_lost.wait(), 5)
    await asyncio.get_running_loop().sock_sendall(client, b"still")
    client.shutdown(socket.SHUT_WR)
    assert await read_all(client) == b"still"
    assert (await run.event("exit"))["code"] == 0
    await run.shim.release()
    old = yard.launcher.pid
    await yard.open()
    assert yard.launcher.pid != old
    other = await yard.run(["true"])
    assert (await other.event("exit"))["code"] == 0


async def test_a_shim_with_nothing_in_it_goes_with_its_daemon(yard):
    run = await yard.spawn()
    run.shim.close()
    await until(lambda: is_gone(run.shim_pid))


# The launcher


async def test_the_next_daemon_finds_launcher_and_listening_sockets(yard):
    listener = socket.create_server(("127.0.0.1", 0))
    await yard.launcher.hold("tcp", listener)
    address = listener.getsockname()
    listener.close()
    yard.launcher.close()
    queued = socket.create_connection(address)  # no daemon: it waits in the queue
    again = await Launcher.open(yard.exec_root)
    assert again.pid == yard.launcher.pid
    found = (await again.take())["tcp"]
    connection, _ = found.accept()
    queued.sendall(b"hello")
    assert connection.recv(10) == b"hello"
    for sock in (connection, queued, found):
        sock.close()
    await again.drop("tcp")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_a_launcher_of_other_code_is_replaced_and_goes_with_its_last_shim(yard, monkeypatch):
    run = await yard.run(["sleep", "100"])
    listener = socket.create_server(("127.0.0.1", 0))
    await yard.launcher.hold("tcp", listener)
    monkeypatch.setattr("wherry.shim.client.code_version", lambda: "another")
    old = yard.launcher
    # The new one says our true version: only what is found must match.
    new = await yard.open()
    assert new.pid != old.pid
    assert list(await new.take()) == ["tcp"]
    with pytest.raises(ShimError, match="another one has taken its place"):
        await old.spawn("x", run.directory, on_event=lambda _: None, on_lost=lambda: None)[1]
    assert not is_gone(old.pid)
    await run.shim.kill(9)
    await run.event("exit")
    await run.shim.release()
    await until(lambda: is_gone(old.pid))
    assert not is_gone(new.pid)


async def test_stop_ends_an_idle_launcher(yard):
    await yard.launcher.stop()
    await until(lambda: is_gone(yard.launcher.pid))


async def test_the_interpreter_is_a_sealed_copy(yard):
    run = await yard.run(["sleep", "100"])
    for pid in (yard.launcher.pid, run.shim_pid):
        assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:wherry-shim")
        with pytest.raises(OSError):
            os.open(f"/proc/{pid}/exe", os.O_WRONLY | os.O_APPEND)


async def test_what_was_not_loaded_stays_out(yard):
    run = await yard.spawn()
    run.write_config({})
    with pytest.raises(ShimError, match="was not loaded"):
        await run.shim.create(
            bundle=run.directory,
            cgroup=run.cgroup,
            rootfs=None,
            log={"driver": "antigravity:x", "path": "/tmp/x"},
        )


async def test_a_maker_that_is_killed_leaves_nothing(yard):
    run = await yard.create(["sleep", "100"])
    with open(f"/proc/{run.shim_pid}/task/{run.shim_pid}/children") as file:
        (maker,) = file.read().split()
    os.kill(int(maker), signal.SIGKILL)
    with pytest.raises(ShimError, match="maker is gone"):
        await run.shim.start()
    assert not os.path.exists(f"/sys/fs/cgroup/memory{run.cgroup}")
    assert (await run.shim.state())["exit"]["code"] == 128
    await run.shim.release()


async def test_a_log_that_is_refused_makes_no_container(yard):
    with pytest.raises(ShimError, match="max-size"):
        log = {"driver": JSON_FILE, "path": "/dev/null", "options": {"max-size": "0"}}
        await yard.create(["true"], create={"log": log})
    assert not os.path.exists(f"/sys/fs/cgroup/memory{yard.runs[-1].cgroup}")


async def test_clients_cannot_use_up_the_descriptors(yard):
    run = await yard.run(["cat"], create={"stdin": True})
    resource.prlimit(run.shim_pid, resource.RLIMIT_NOFILE, (100, 100))
    clients = [run.attach() for _ in range(36)]
    assert (await run.shim.state())["status"] == "running"
    extra, theirs = socket.socketpair()
    with pytest.raises(ShimError, match="too many clients"):
        await run.shim.attach(theirs, stdin=False, stdout=True, stderr=True, mux=False)
    with pytest.raises(ShimError, match="too many clients"):
        await run.shim.exec("e", spec(["true"])["process"])
    for sock in (*clients, extra, theirs):
        sock.close()
    await run.shim.kill(9)
    assert (await run.event("exit"))["code"] == 137


async def test_an_exit_that_cannot_be_written_is_told_nevertheless(yard):
    run = await yard.run(["sleep", "100"])
    os.rename(run.directory, f"{run.directory}-moved")
    await run.shim.kill(9)
    assert (await run.event("exit"))["code"] == 137
    os.rename(f"{run.directory}-moved", run.directory)


async def test_a_shim_killed_at_any_moment_of_a_start_leaves_nothing(yard):
    """From the fork to the running container, in steps of half a millisecond."""
    loop = asyncio.get_running_loop()
    stages = set()
    for step in range(50):
        run = await yard.spawn()
        run.write_config(spec(["sleep", "300"]))
        request = {"bundle": run.directory, "cgroup": run.cgroup}
        created = run.shim.create(**request, rootfs={"type": "bind", "source": yard.rootfs})
        started = run.shim.start()
        killed = loop.create_future()
        loop.call_later(
            step * 0.0005,
            lambda pid=run.shim_pid, k=killed: (os.kill(pid, signal.SIGKILL), k.set_result(None)),
        )
        await killed
        await asyncio.wait_for(run.lost.wait(), 5)
        stages.add(sum(future.done() and future.exception() is None for future in (created, started)))
        await until(lambda run=run: find_exit(run.directory) is not None)
        await bury(run.directory, "by the daemon too")
        places = cgroup_for(run.cgroup).directories().values()
        await until(lambda places=places: not any(os.path.exists(place) for place in places))

    def children() -> int:
        with open(f"/proc/{yard.launcher.pid}/task/{yard.launcher.pid}/children") as file:
            return len(file.read().split())

    await until(lambda: children() <= 1)  # the spare it keeps ready
    assert {0, 2} <= stages


# Many


async def test_1000_quick_containers_lose_no_byte_and_no_code(yard):
    lock = asyncio.Semaphore(4)

    async def one(number):
        async with lock:
            run = await yard.create(
                ["sh", "-c", f"echo out {number}; echo err {number} >&2; exit {number % 256}"]
            )
            client = run.attach(mux=True)
            await run.shim.start()
            out, err = demux(await read_all(client))
            assert (out, err) == (b"out %d\n" % number, b"err %d\n" % number)
            assert (await run.event("exit"))["code"] == number % 256
            assert len(run.log()) == 2
            await run.shim.release()

    async with asyncio.TaskGroup() as group:
        for number in range(1000):
            group.create_task(one(number))
    await until(lambda: all(is_gone(run.shim_pid) for run in yard.runs))
    fds = os.listdir(f"/proc/{yard.launcher.pid}/fd")
    assert len(fds) < 20


async def test_1000_quick_execs_lose_no_byte_and_no_code(yard):
    run = await yard.run(["sleep", "1000"])
    before = len(os.listdir(f"/proc/{run.shim_pid}/fd"))
    lock = asyncio.Semaphore(4)

    async def one(number):
        async with lock:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            process = spec(["sh", "-c", f"echo {number}; exit {number % 256}"])["process"]
            await run.shim.exec(f"e{number}", process, theirs, stdout=True, stderr=True)
            theirs.close()
            assert await read_all(ours) == b"%d\n" % number
            assert (await run.event("exec_exit", exec_id=f"e{number}"))["code"] == number % 256

    async with asyncio.TaskGroup() as group:
        for number in range(1000):
            group.create_task(one(number))
    await until(lambda: len(os.listdir(f"/proc/{run.shim_pid}/fd")) == before)
    assert len((await run.shim.state())["execs"]) == 1000
