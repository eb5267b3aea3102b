"""Containers made by another runtime's command line: runc, which stands for all of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket

import pytest
from tests.unit.shim.conftest import read_all, spec
from tests.unit.shim.test_shim import demux, is_gone, until

from wherry.shim.client import ShimError

pytestmark = pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc: apt install runc")


@pytest.fixture
def runc(yard):
    async def create(args, *, create=None, **options):
        return await yard.create(args, create={"runtime": ["runc"], **(create or {})}, **options)

    return create


def mounts():
    with open("/proc/self/mountinfo") as file:
        return file.read()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


async def test_output_exit_and_cleanup(runc, yard):
    before = mounts()
    run = await runc(["sh", "-c", "echo out; echo err >&2; hostname; exit 3"])
    client = run.attach(mux=True)
    assert mounts() == before
    await run.shim.start()
    assert demux(await read_all(client)) == (b"out\ntest\n", b"err\n")
    assert (await run.event("exit"))["code"] == 3
    await run.shim.release()
    assert not os.path.exists(f"{run.directory}/oci")
    assert not os.path.exists(f"/sys/fs/cgroup/memory{run.cgroup}")
    await until(lambda: is_gone(run.shim_pid))


async def test_the_shim_is_the_parent_and_nothing_of_runc_stays(runc):
    run = await runc(["sleep", "100"])
    pid = (await run.shim.start())["pid"]
    with open(f"/proc/{pid}/stat") as file:
        assert int(file.read().rpartition(")")[2].split()[1]) == run.shim_pid
    await until(lambda: children(run.shim_pid) == [str(pid)])  # the idle maker goes too
    assert (await run.shim.pids())["pids"] == [pid]
    await run.shim.kill(signal.SIGKILL)
    assert (await run.event("exit"))["code"] == 137


async def test_a_terminal_is_received_and_resized(runc):
    run = await runc(["sh", "-c", "read x; stty size"], terminal=True, create={"stdin": True})
    client = run.attach(stdin=True)
    await run.shim.start()
    await run.shim.resize(50, 20)
    await asyncio.get_running_loop().sock_sendall(client, b"\r")
    assert (await read_all(client)).endswith(b"20 50\r\n")


async def test_execs(runc):
    run = await runc(["sleep", "100"])
    await run.shim.start()
    for terminal in (False, True):
        ours, theirs = socket.socketpair()
        process = spec(["sh", "-c", "echo hi; exit 7"], terminal=terminal)["process"]
        await run.shim.exec(f"e{terminal}", process, theirs, stdout=True, stderr=True)
        theirs.close()
        ours.setblocking(False)
        assert (await read_all(ours)).strip() == b"hi"
        assert (await run.event("exec_exit"))["code"] == 7
    with pytest.raises(ShimError) as caught:
        await run.shim.exec("e3", spec(["nope"])["process"])
    assert caught.value.kind == "not-found"


async def test_pause_and_resume(runc):
    run = await runc(["sleep", "100"])
    await run.shim.start()
    await run.shim.pause()
    assert (await run.shim.state())["status"] == "paused"
    await run.shim.kill(9)
    assert (await run.event("exit"))["code"] == 137


@pytest.mark.parametrize(("args", "kind"), [(["nope"], "not-found"), (["/etc"], "permission")])
async def test_a_command_that_cannot_run_is_told_by_kind(runc, args, kind):
    with pytest.raises(ShimError) as caught:
        run = await runc(args)
        await run.shim.start()
    assert caught.value.kind == kind
    assert str(caught.value).startswith(("unable to start container process: exec:", "exec:"))


async def test_a_network_namespace_is_handed_over(runc, yard):
    pid = os.fork()
    if pid == 0:
        os.unshare(0x40000000) if hasattr(os, "unshare") else _unshare_network()
        signal.pause()
        os._exit(0)
    try:
        await until(lambda: os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        run = await runc(["readlink", "/proc/self/ns/net"], create={"netns": netns})
        client = run.attach()
        await run.shim.start()
        assert (await read_all(client)).decode().strip() == os.readlink(f"/proc/self/fd/{netns}")
        os.close(netns)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222


def _unshare_network():
    from wherry.linux.process import CLONE_NEWNET, unshare

    unshare(CLONE_NEWNET)


async def test_a_runtime_that_is_not_there_is_named(yard):
    with pytest.raises(ShimError, match="no-such-runtime"):
        await yard.create(["true"], create={"runtime": ["no-such-runtime"]})


async def test_wherry_s_own_runtime_is_one_too(yard):
    import sys

    command = [sys.executable, "-m", "wherry.runtime"]
    run = await yard.create(["sh", "-c", "echo hi; exit 2"], create={"runtime": command})
    client = run.attach()
    await run.shim.start()
    assert await read_all(client) == b"hi\n"
    assert (await run.event("exit"))["code"] == 2
