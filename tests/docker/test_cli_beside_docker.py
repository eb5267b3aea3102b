"""wherry's own command line: the same words, flags, texts and exit codes as docker's, on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.docker import acts, record, rootfs, test_recorded
from tests.docker.engine import ROOT, Client, Engine
from tests.docker.registry import Registry

DIFFERENCES: list[tuple[str, str]] = [
    *test_recorded.DIFFERENCES,
    (r"cli-without-engine-work: (run|rm|exec act1|stop|logs|what|container what|create|tag busybox|rmi|inspect|pull|run --rm -e busybox|run --nosuchflag busybox): err", "usage texts are our own"),
]  # fmt: skip


@pytest.mark.parametrize("act", acts.ACTS)
def test_says_what_docker_says(cli: Client, registry: Registry, act: str) -> None:
    record.fill(registry)
    player = acts.Player(cli, registry=registry.address, inputs=record.inputs())
    with open(os.path.join(record.FOLDER, f"{act}.json")) as file:
        recorded = json.load(file)["steps"]
    found: list[str] = []
    for wanted, got in zip(recorded, player.act(act), strict=True):
        if wanted["step"].split()[0] in acts.METHODS:
            continue
        for key in ("code", "out", "err"):
            got[key] = as_docker(got[key])
        for where, text in test_recorded.differences(wanted, got):
            label = f"{act}: {wanted['step']}: {where}"
            if not any(re.search(pattern, label) for pattern, _ in DIFFERENCES):
                found.append(f"{label}\n    docker: {text[0]}\n    ours:   {text[1]}")
    if found:
        pytest.fail(f"{len(found)} differences\n" + "\n".join(found), pytrace=False)


def as_docker(value: object) -> object:
    """What our command says of itself, as docker's would."""
    return (
        re.sub(r"\bwherry(?=: |:? '| [a-z]+ (\[|--help))", "docker", value)
        if isinstance(value, str)
        else value
    )


def test_starts_quickly_because_it_imports_little() -> None:
    script = "import sys, wherry.cli.__main__; print(len(sys.modules), *[m for m in ('asyncio', 'aiohttp', 'msgspec', 'rich', 'click', 'ssl') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    count, *heavy = done.stdout.split()
    assert int(count) < 200 and not heavy, done.stdout


def test_run_with_a_terminal(wherry: Engine, cli: Client, name: str) -> None:
    screen = cli.terminal("run", "-it", "--rm", "--name", name, "busybox", rows=33, cols=77)
    screen.send(b"while [ \"$(stty size)\" != '33 77' ]; do sleep 0.02; done; echo si''ze; tty\n")
    screen.until(b"size\r\n/dev/pts/0\r\n")
    screen.resize(44, 88)
    screen.send(b"while [ \"$(stty size)\" != '44 88' ]; do sleep 0.02; done; echo ag''ain\n")
    screen.until(b"again\r\n")
    screen.send(b"exit 6\n")
    assert screen.wait() == 6


def test_detach_attach_and_exec_on_a_terminal(wherry: Engine, cli: Client, name: str) -> None:
    screen = cli.terminal("run", "-it", "--name", name, "busybox")
    screen.send(b"echo on''e\n")
    screen.until(b"one\r\n")
    screen.send(b"\x10\x11")
    assert screen.wait() == 0
    screen = cli.terminal("exec", "-it", name, "sh")
    screen.send(b"tty; exit 4\n")
    screen.until(b"/dev/pts/")
    assert screen.wait() == 4
    screen = cli.terminal("attach", name)
    screen.send(b"exit 5\n")
    assert screen.wait() == 5


def test_pull_draws_bars_on_a_terminal_and_lines_in_a_pipe(
    wherry: Engine, cli: Client, registry: Registry, name: str, clean: None
) -> None:
    registry.put_image(name, "latest", [rootfs.busybox_tar(), rootfs.tar([("x", os.urandom(200_000))])])
    reference = f"{registry.address}/{name}"
    screen = cli.terminal("pull", reference)
    assert screen.wait() == 0
    assert b"Pull complete" in screen.text and b"\x1b[" in screen.text
    wherry.docker("rmi", reference).ok()
    out = cli.docker("pull", reference).ok().out
    assert "\x1b" not in out and out.endswith(
        f"Status: Downloaded newer image for {reference}:latest\n{reference}:latest\n"
    )


def test_trace_shows_where_the_time_went(wherry: Engine, cli: Client) -> None:
    ran = cli.docker("run", "--rm", "--trace", "busybox", "echo", "hello").ok()
    text = ran.out + ran.err
    assert "hello\n" in ran.out and re.search(r"\d+\.\d+ ms|\d+ ms", text), text


def test_large_input_and_output(wherry: Engine, cli: Client) -> None:
    data = os.urandom(20_000_000)
    ran = cli.docker("run", "--rm", "-i", "busybox", "cat", input=data).ok()
    assert ran.raw == data


def test_signals_are_passed_on(wherry: Engine, cli: Client, name: str) -> None:
    script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    with cli.popen("run", "--rm", "--name", name, "busybox", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.terminate()
        assert client.communicate(timeout=20)[0] == b"bye\n"
        assert client.returncode == 7


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(cli: Client, shell: str) -> None:
    assert "wherry" in cli.docker("completion", shell).ok().out


def test_no_daemon_at_a_named_address(tmp_path: object) -> None:
    client = Client(f"{tmp_path}/no.sock", [sys.executable, "-m", "wherry.cli"])
    client.docker("ps").failed(1, f"Cannot connect to the wherry daemon at unix://{tmp_path}/no.sock")


def test_the_first_use_starts_the_engine(tmp_path: object) -> None:
    """At its default place, in namespaces of the test's own, so that nothing of the machine's is touched."""
    if os.environ.get("WHERRY_TEST_HOST"):
        pytest.skip("about wherry itself")
    with open(f"{tmp_path}/busybox.tar", "wb") as file:
        file.write(rootfs.busybox_tar())
    python = f"{sys.executable} -m wherry.cli"
    script = f"""set -e
        mount -t tmpfs none /run; mount -t tmpfs none /var/lib; mount -t tmpfs none /var/log; ip link set lo up
        {python} import - busybox <{tmp_path}/busybox.tar >/dev/null
        {python} run --rm busybox echo it runs
        {python} run --rm --network none busybox sh -c 'echo $$'"""
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            script,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "it runs\n1\n"), done.stderr
