"""Execs that were announced: a process waits in the container, and is the one that runs."""

from __future__ import annotations

import os
import socket

import pytest
from tests.unit.shim.conftest import read_all, spec
from tests.unit.shim.test_shim import until

from wherry.shim.client import ShimError

LONG_S = 600.0


def children(run):
    with open(f"/proc/{run.shim_pid}/task/{run.shim_pid}/children") as file:
        return {int(number) for number in file.read().split()}


async def running(yard):
    """A container whose maker has gone."""
    run = await yard.run(["sleep", "1000"])
    first = (await run.shim.state())["pid"]
    await until(lambda: children(run) == {first}, timeout=30)
    return run


def descriptors(pid):
    return {int(number) for number in os.listdir(f"/proc/{pid}/fd")}


async def prepare(run, process, *, stdin=False, for_s=LONG_S):
    """The pid of the process that was cloned for it."""
    before = children(run)
    await run.shim.prepare(process, stdin=stdin, for_s=for_s)
    return max(children(run) - before, default=0)


async def execute(run, exec_id, process, **options):
    """Start an exec with a client: its pid, and what it wrote."""
    ours, theirs = socket.socketpair()
    started = await run.shim.exec(exec_id, process, theirs, stdout=True, stderr=True, **options)
    theirs.close()
    ours.setblocking(False)
    return started["pid"], await read_all(ours)


async def test_the_process_that_waited_is_the_one_that_runs(yard):
    run = await running(yard)
    before = descriptors(run.shim_pid)
    process = spec(["sh", "-c", "echo out; exit 3"])["process"]
    pid = await prepare(run, process)
    assert await execute(run, "e", process) == (pid, b"out\n")
    assert (await run.event("exec_exit"))["code"] == 3
    await until(lambda: descriptors(run.shim_pid) == before, timeout=30)


async def test_it_is_nobody_s_process_yet_and_holds_nothing_of_the_shim(yard):
    run = await running(yard)
    kept, other = socket.socketpair()
    await run.shim.keep({"kept": kept.fileno()})
    kept.close()
    pid = await prepare(run, spec(["true"])["process"])
    await until(lambda: len(descriptors(pid)) == 4)  # 0 to 2, and what it waits on
    assert pid not in (await run.shim.pids())["pids"]
    assert (await run.shim.state())["execs"] == []
    await run.shim.drop(["kept"])
    other.settimeout(20)
    assert other.recv(1) == b""


async def test_it_ends_when_it_is_not_wanted(yard):
    run = await running(yard)
    before = children(run), descriptors(run.shim_pid)
    for process in (spec(["true"])["process"], spec(["true"], terminal=True)["process"]):
        assert await prepare(run, process, stdin=True, for_s=0.01)
        await until(lambda: (children(run), descriptors(run.shim_pid)) == before, timeout=30)


async def test_another_exec_than_the_announced_one_is_started_afresh(yard):
    run = await running(yard)
    before = children(run)
    pid = await prepare(run, spec(["echo", "one"])["process"])
    assert await prepare(run, spec(["echo", "two"])["process"]) != pid
    started, out = await execute(run, "e", spec(["echo", "three"])["process"])
    assert out == b"three\n"
    assert started not in (0, pid)
    started, out = await execute(run, "f", spec(["echo", "two"])["process"], stdin=True)
    assert out == b"two\n"
    await run.event("exec_exit", exec_id="f")
    await run.shim.prepare(spec(["true"])["process"], stdin=False, for_s=0)
    await until(lambda: children(run) == before, timeout=30)


async def test_what_was_wrong_then_is_judged_anew(yard):
    run = await running(yard)
    before = children(run), descriptors(run.shim_pid)
    process = spec(["sh", "-c", "pwd"], cwd="/tmp/later")["process"]
    await prepare(run, process)
    with pytest.raises(ShimError) as caught:
        await run.shim.exec("e", process)
    assert "/tmp/later" in str(caught.value)
    await prepare(run, process)
    await execute(run, "mkdir", spec(["mkdir", "/tmp/later"])["process"])
    assert (await execute(run, "f", process))[1] == b"/tmp/later\n"
    await until(lambda: (children(run), descriptors(run.shim_pid)) == before, timeout=30)


async def test_a_terminal_gets_the_size_that_is_told_last(yard):
    run = await running(yard)
    process = spec(["stty", "size"], terminal=True)["process"]
    pid = await prepare(run, process, stdin=True)
    sized = {**process, "consoleSize": {"height": 33, "width": 77}}
    assert await execute(run, "e", sized, stdin=True) == (pid, b"33 77\r\n")


async def test_it_neither_outlives_the_container_nor_hinders_a_pause(yard):
    run = await running(yard)
    process = spec(["true"])["process"]
    first = await prepare(run, process)
    await run.shim.pause()
    await run.shim.resume()
    await until(lambda: first not in children(run))
    assert await prepare(run, process)
    await run.shim.kill(9)
    assert (await run.event("exit"))["code"] == 137
    await run.shim.release()
    await until(lambda: not os.path.exists(f"/proc/{run.shim_pid}"))
