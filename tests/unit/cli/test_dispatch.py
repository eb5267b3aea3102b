"""From a command line to output and exit code, with a server of canned answers in the engine's place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

import wherry
from tests.unit.client.servers import Request, Server, json_answer
from wherry.cli import autostart, commands
from wherry.cli.completion import complete
from wherry.cli.dispatch import run
from wherry.cli.session import Session
from wherry.client.address import parse_address
from wherry.client.api import Client
from wherry.errors import Unavailable

HERE: dict[str, str] = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}


def call(
    capsys: pytest.CaptureFixture[str], *arguments: str, host: str = "unix:///nonexistent"
) -> tuple[int, str, str]:
    code = run(arguments, {**HERE, "WHERRY_HOST": host})
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def every_command() -> list[tuple[str, str]]:
    names = [(leaf, leaf) for leaf in commands.LEAVES if " " not in leaf and leaf != "__complete"]
    for group, (_, members) in commands.GROUPS.items():
        names += [(f"{group} {member}", leaf) for member, leaf in members.items()]
    return names


@pytest.mark.parametrize(("name", "leaf"), every_command())
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], name: str, leaf: str) -> None:
    code, out, err = call(capsys, *name.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage:  wherry {name}")
    if leaf not in ("system dial-stdio",):
        assert "\nExamples:\n  " in out
    assert max(len(line) for line in out.partition("Examples:")[0].splitlines()) <= 90


def test_no_command_has_a_flag_twice() -> None:
    for leaf in commands.LEAVES:
        rows = commands.load(leaf).rows
        names = [row[0] for row in rows]
        letters = [row[1] for row in rows if row[1]]
        assert len(set(names)) == len(names), leaf
        assert len(set(letters)) == len(letters), leaf


def test_no_command_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("--help",), ("help",), ("-h",)):
        code, out, _ = call(capsys, *arguments)
        assert code == 0
        assert "Common Commands:\n  run         Create and run" in out


def test_management_commands_list_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "container")
    assert code == 0
    assert "  ls          List containers\n" in out
    assert "  ps " not in out
    assert "remove" not in out.replace("Remove", "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == (0, f"Wherry version {wherry.__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("nope", 1, "wherry: unknown command: wherry nope\n\nRun 'wherry --help' for more information\n"),
        (
            "image nope",
            1,
            "wherry: unknown command: wherry image nope\n\nUsage:  wherry image\n\n"
            "Run 'wherry image --help' for more information\n",
        ),
        (
            "--nope",
            125,
            "unknown flag: --nope\n\nUsage:  wherry [OPTIONS] COMMAND [ARG...]\n\n"
            "Run 'wherry --help' for more information\n",
        ),
        (
            "ps --nope",
            125,
            "unknown flag: --nope\n\nUsage:  wherry ps [OPTIONS]\n\n"
            "Run 'wherry ps --help' for more information\n",
        ),
        (
            "ps x",
            1,
            "wherry: 'wherry ps' accepts no arguments\n\nUsage:  wherry ps [OPTIONS]\n\n"
            "Run 'wherry ps --help' for more information\n",
        ),
        (
            "run",
            1,
            "wherry: 'wherry run' requires at least 1 argument\n\n"
            "Usage:  wherry run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nSee 'wherry run --help' for more information\n",
        ),
        (
            "container rename x",
            1,
            "wherry: 'wherry container rename' requires 2 arguments\n\n"
            "Usage:  wherry container rename CONTAINER NEW_NAME\n\n"
            "Run 'wherry container rename --help' for more information\n",
        ),
        (
            "ps",
            1,
            "Cannot connect to the wherry daemon at unix:///nonexistent. Is the wherry daemon running?\n",
        ),
        (
            "-H bogus://x ps",
            1,
            "Failed to initialize: unable to resolve docker endpoint: invalid bind address format: bogus://x\n",
        ),
        ("inspect ''", 1, "invalid name or ID: value is empty\n"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], line: str, code: int, error: str) -> None:
    import shlex

    got, _, err = call(capsys, *shlex.split(line))
    assert (got, err) == (code, error)


def test_an_answer_of_an_unexpected_shape_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    path = os.path.join(str(tmp_path), "s")
    for body in ("5", "[5]", '[{"no":"id"}]', "null"):
        with Server(path, lambda _request, body=body: json_answer(body)):
            code, _, err = call(capsys, "ps", host=f"unix://{path}")
        assert code == 1
        assert err.count("\n") == 1
        assert err.startswith("wherry: unexpected ")


def test_one_failure_of_several_spoils_the_exit_code_and_not_the_rest(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    def answer(request: Request) -> list[bytes]:
        if "/b/" in request.target:
            return json_answer('{"message":"No such container: b"}', "404 Not Found")
        return [b"HTTP/1.1 204 No Content\r\n\r\n"]

    path = os.path.join(str(tmp_path), "s")
    with Server(path, answer):
        code, out, err = call(capsys, "stop", "a", "b", "c", host=f"unix://{path}")
    assert (code, out, err) == (1, "a\nc\n", "Error response from daemon: No such container: b\n")


FAKE_DAEMON = """
import socket, sys, time
print("starting", flush=True)
time.sleep(0.2)
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(5)
while True:
    c, _ = s.accept()
    c.recv(1000)
    c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK")
    c.close()
    if len(sys.argv) > 2:
        break
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an engine")
def test_an_engine_is_started_on_first_use(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.path.join(str(tmp_path), "run", "s")
    monkeypatch.setattr(autostart, "DEFAULT_SOCKET", path)
    monkeypatch.setattr(autostart, "LOG_DIRECTORIES", (str(tmp_path),))
    monkeypatch.setattr(
        autostart, "daemon_command", lambda: [sys.executable, "-c", FAKE_DAEMON, path, "once"]
    )
    client = Client(parse_address(f"unix://{path}"))
    autostart.ensure_daemon(client)
    with open(os.path.join(str(tmp_path), "wherryd.log")) as log:
        assert log.read() == "starting\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an engine")
def test_an_engine_that_fails_to_start_is_quoted(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.path.join(str(tmp_path), "run", "s")
    monkeypatch.setattr(autostart, "DEFAULT_SOCKET", path)
    monkeypatch.setattr(autostart, "LOG_DIRECTORIES", (str(tmp_path),))
    script = "import sys; print('no room'); sys.exit(3)"
    monkeypatch.setattr(autostart, "daemon_command", lambda: [sys.executable, "-c", script])
    with pytest.raises(
        Unavailable, match=r"ended with code 3 while starting; the end of .*wherryd\.log:\nno room$"
    ):
        autostart.ensure_daemon(Client(parse_address(f"unix://{path}")))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an engine")
def test_an_engine_that_was_killed_is_started_again(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its launcher still holds the socket, and takes clients into a queue that nobody reads."""
    path, pidfile = os.path.join(str(tmp_path), "s"), os.path.join(str(tmp_path), "pid")
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    with open(pidfile, "w") as file:
        file.write(ended.stdout)
    monkeypatch.setattr(autostart, "DEFAULT_SOCKET", path)
    monkeypatch.setattr(autostart, "PIDFILE", pidfile)
    monkeypatch.setattr(autostart, "PATIENCE_S", 0.1)
    monkeypatch.setattr(autostart, "LOG_DIRECTORIES", (str(tmp_path),))
    script = "import os, sys; os.unlink(sys.argv[1])\n" + FAKE_DAEMON
    monkeypatch.setattr(autostart, "daemon_command", lambda: [sys.executable, "-c", script, path, "once"])
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(path)
        held.listen(5)
        autostart.ensure_daemon(Client(parse_address(f"unix://{path}")))
    with open(os.path.join(str(tmp_path), "wherryd.log")) as log:
        assert log.read() == "starting\n"


def test_an_engine_elsewhere_is_never_started() -> None:
    assert Session({}).is_default_host
    assert not Session({"DOCKER_HOST": "unix:///x"}).is_default_host
    assert not Session({"WHERRY_HOST": "unix:///x"}).is_default_host
    assert not Session({}, host="unix:///x").is_default_host


def candidates(*words: str, host: str = "unix:///nonexistent") -> list[str]:
    return [value for value, _ in complete(Session(HERE, host=host), words)[1]]


def test_completion_of_commands_and_flags() -> None:
    assert candidates("ru") == ["run"]
    assert candidates("container", "re") == ["rename", "restart"] or "rename" in candidates("container", "re")
    assert candidates("-D", "imag") == ["image", "images"]
    assert candidates("run", "--cap-") == ["--cap-add", "--cap-drop"]
    assert candidates("run", "--cap-add", "NET_") == [
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
    ]
    assert candidates("run", "--network=h") == ["--network=host"]
    assert candidates("run", "-it", "--rm", "--pull", "") == ["always", "missing", "never"]
    assert candidates("completion", "") == ["bash", "fish", "zsh"]
    assert candidates("nope", "") == []


def test_completion_offers_files_where_they_are_meant() -> None:
    session = Session(HERE, host="unix:///nonexistent")
    assert complete(session, ["load", "-i", ""]) == (True, [])
    assert complete(session, ["run", "busybox", ""]) == (True, [])
    assert complete(session, ["import", ""]) == (True, [])
    assert complete(session, ["stop", ""]) == (False, [])


def test_completion_of_names(tmp_path: object) -> None:
    def answer(request: Request) -> list[bytes]:
        if request.target.startswith("/containers"):
            return json_answer(
                '[{"Names":["/web"],"State":"running","Image":"i","Status":"Up"},'
                '{"Names":["/old"],"State":"exited","Image":"i","Status":"Exited"}]'
            )
        if request.target.startswith("/networks"):
            return json_answer('[{"Name":"back","Driver":"bridge"}]')
        if request.target.startswith("/volumes"):
            return json_answer('{"Volumes":[{"Name":"data"}],"Warnings":null}')
        return json_answer('[{"RepoTags":["busybox:1","<none>:<none>"]},{"RepoTags":null}]')

    path = os.path.join(str(tmp_path), "s")
    with Server(path, answer):
        host = f"unix://{path}"
        assert candidates("stop", "", host=host) == ["web"]
        assert candidates("start", "", host=host) == ["old"]
        assert candidates("rm", "w", host=host) == ["web"]
        assert candidates("run", "-d", "b", host=host) == ["busybox:1"]
        assert candidates("inspect", "", host=host) == ["back", "busybox:1", "data", "old", "web"]
        assert candidates("volume", "rm", "", host=host) == ["data"]
        assert candidates("mount", "add", "", host=host) == ["old", "web"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_the_shells_own_language(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    import shutil

    _, script, _ = call(capsys, "completion", shell)
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=20)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_missing_standard_stream_is_no_trouble(closed: str) -> None:
    environ = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(wherry.__file__))}
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m wherry.cli --version {closed}"],
        env=environ, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (done.stdout == "") == (" >&-" in f" {closed}")


HEAVY = {
    "json",
    "re",
    "socket",
    "enum",
    "typing",
    "subprocess",
    "threading",
    "datetime",
    "urllib",
    "asyncio",
    "msgspec",
}


@pytest.mark.parametrize(
    "line",
    [
        "--version",
        "ps",
        "images",
        "version",
        "run busybox",
        "exec a b",
        "logs a",
        "stop a",
        "inspect a",
        "run --help",
    ],
)
def test_a_command_imports_next_to_nothing(line: str) -> None:
    program = (
        "import sys\n"
        "from wherry.cli.dispatch import run\n"
        f"run({line.split()!r}, {{'WHERRY_HOST': 'unix:///nonexistent', 'HOME': '/nonexistent'}})\n"
        "sys.stdout.flush()\n"
        "print('\\n@', *sorted(name for name in sys.modules if '.' not in name))\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(wherry.__file__))}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    loaded = set(done.stdout.rpartition("@")[2].split())
    assert "wherry" in loaded
    assert not loaded & HEAVY
