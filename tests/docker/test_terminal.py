"""Terminals: the real CLI on a pseudo-terminal of the test."""

from __future__ import annotations

import json

from tests.docker.engine import Engine


def test_a_terminal_is_there_and_has_the_clients_size(engine: Engine, name: str) -> None:
    screen = engine.terminal("run", "-it", "--rm", "--name", name, "busybox", rows=33, cols=77)
    screen.send(b"tty; test -t 0 -a -t 1 -a -t 2 && echo all-three\n")
    screen.until(b"/dev/pts/0\r\n")
    screen.until(b"all-three\r\n")
    screen.send(b"while [ \"$(stty size)\" != '33 77' ]; do sleep 0.02; done; echo fi''rst\n")
    screen.until(b"first\r\n")
    screen.send(b"while [ \"$(stty size)\" != '50 120' ]; do sleep 0.02; done; echo sec''ond\n")
    screen.resize_until(50, 120, b"second\r\n")
    screen.send(b"exit 6\n")
    assert screen.wait() == 6


def test_interrupt_reaches_the_foreground_program(engine: Engine, name: str) -> None:
    screen = engine.terminal("run", "-it", "--rm", "--name", name, "busybox")
    screen.send(b"trap 'echo caught' INT; echo re''ady\n")
    screen.until(b"ready\r\n")
    screen.send(b"\x03")
    screen.until(b"caught")
    screen.send(b"exit\n")
    assert screen.wait() == 0


def test_detach_and_attach_again(engine: Engine, name: str) -> None:
    screen = engine.terminal("run", "-it", "--name", name, "busybox")
    screen.send(b"echo on''e\n")
    screen.until(b"one\r\n")
    screen.send(b"\x10\x11")
    assert screen.wait() == 0
    assert engine.docker("inspect", "-f", "{{.State.Status}}", name).ok().line == "running"
    screen = engine.terminal("attach", name)
    screen.send(b"echo tw''o\n")
    screen.until(b"two\r\n")
    screen.send(b"exit 5\n")
    assert screen.wait() == 5


def test_other_detach_keys(engine: Engine, name: str) -> None:
    screen = engine.terminal("run", "-it", "--detach-keys", "ctrl-a,x", "--name", name, "busybox")
    screen.send(b"echo on''e\n")
    screen.until(b"one\r\n")
    screen.send(b"\x10\x11echo still\n")
    screen.until(b"still\r\n")
    screen.send(b"\x01x")
    assert screen.wait() == 0


def test_exec_on_a_terminal(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    screen = engine.terminal("exec", "-it", name, "sh", rows=22, cols=66)
    screen.send(b"while [ \"$(stty size)\" != '22 66' ]; do sleep 0.02; done; echo si''ze; tty\n")
    screen.until(b"size\r\n/dev/pts/")
    screen.send(b"ps | grep -c [s]h; exit 4\n")
    assert screen.wait() == 4
    assert engine.docker("inspect", "-f", "{{.State.Status}}", name).ok().line == "running"


def test_exec_detaches_too(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    screen = engine.terminal("exec", "-it", name, "sh")
    screen.send(b"echo he''re\n")
    screen.until(b"here\r\n")
    screen.send(b"\x10\x11")
    screen.wait()
    assert "sh" in engine.docker("top", name, "-o", "pid,comm").ok().out


def test_a_terminal_without_a_client_keeps_running(engine: Engine, name: str) -> None:
    engine.docker("run", "-dit", "--name", name, "busybox").ok()
    screen = engine.terminal("attach", name)
    screen.send(b"echo he''re\n")
    screen.until(b"here\r\n")
    screen.send(b"\x10\x11")
    screen.wait()
    logs = engine.docker("logs", name).ok()
    assert "here\r\n" in logs.out and logs.err == ""


def test_stderr_is_on_the_terminal(engine: Engine, name: str) -> None:
    screen = engine.terminal(
        "run", "-t", "--rm", "--name", name, "busybox", "sh", "-c", "echo out; echo err >&2"
    )
    screen.until(b"out\r")
    screen.until(b"err\r")
    assert screen.wait() == 0


def test_api_detach_keys_are_understood_by_the_daemon(engine: Engine, name: str) -> None:
    body = {"Image": "busybox", "Tty": True, "OpenStdin": True, "Cmd": ["sh"]}
    engine.api("POST", "/containers/create", body, name=name).expect(201)
    with engine.hijack(f"/containers/{name}/attach", stream=1, stdin=1, stdout=1, stderr=1) as stream:
        engine.api("POST", f"/containers/{name}/start").expect(204)
        stream.send(b"echo he''re\n")
        stream.read_until(b"here\r\n")
        stream.send(b"\x10")
        stream.send(b"\x11")
        stream.read_all()
    assert engine.api("GET", f"/containers/{name}/json").json["State"]["Running"] is True
    with engine.hijack(
        f"/containers/{name}/attach", stream=1, stdin=1, stdout=1, detachKeys="ctrl-a,d"
    ) as stream:
        stream.send(b"\x01d")
        stream.read_all()
    assert json.loads(engine.docker("inspect", "-f", "{{.State.Running}}", name).ok().out) is True
