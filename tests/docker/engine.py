"""The daemon under test, and the three ways in which tests talk to it: the docker CLI, HTTP, and raw connections.

`Engine` is wherryd, started by the test run on roots, a socket and a bridge of its own. With
WHERRY_TEST_HOST=unix:///… it is whatever listens there: the same suite run against a real dockerd proves that the
tests state Docker's behaviour and not only ours.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import pytest

TIMEOUT_S = 60.0
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCKER = shutil.which("docker") or "docker"
LAUNCHER_AND_SPARE = 3
"""Processes of a wherry without containers and without its daemon: the launcher, and a shim of two kept ready."""


@dataclasses.dataclass(frozen=True)
class Ran:
    """How one run of a command line ended."""

    argv: tuple[str, ...]
    code: int
    raw: bytes
    errors: bytes

    @property
    def out(self) -> str:
        return self.raw.decode(errors="replace")

    @property
    def err(self) -> str:
        return self.errors.decode(errors="replace")

    @property
    def line(self) -> str:
        """The output without its last newline."""
        return self.out.rstrip("\n")

    def ok(self) -> Ran:
        """This, after making sure that the command succeeded."""
        assert self.code == 0, (
            f"{' '.join(self.argv)}: exit {self.code}\n{self.out[-2000:]}{self.err[-2000:]}"
        )
        return self

    def failed(self, code: int, *texts: str) -> Ran:
        """This, after making sure that it ended with `code` and said `texts` on stderr."""
        assert self.code == code, f"{' '.join(self.argv)}: exit {self.code}, not {code}\n{self.out}{self.err}"
        for text in texts:
            assert text in self.err, f"{' '.join(self.argv)}: no {text!r} in {self.err!r}"
        return self


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer, its body read to the end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body as one JSON value a line: what pull, load and events send."""
        return [json.loads(line) for line in self.body.splitlines() if line.strip()]

    @property
    def message(self) -> str:
        return str(self.json["message"]) if self.body else ""

    def expect(self, status: int) -> Answer:
        assert self.status == status, f"status {self.status}, not {status}: {self.body[:2000]!r}"
        return self


class Running(subprocess.Popen[bytes]):
    """A command under way. A test that fails beside it does not wait for its end."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Client:
    """A docker CLI and an HTTP client pointed at one unix socket."""

    def __init__(self, socket_path: str, command: Sequence[str] = (DOCKER,)) -> None:
        self.socket_path = socket_path
        self.host = f"unix://{socket_path}"
        self.command = tuple(command)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
        return {**kept, "DOCKER_HOST": self.host, "DOCKER_CONFIG": "/nonexistent", **(extra or {})}

    def docker(
        self,
        *argv: str,
        input: bytes | str = b"",
        timeout_s: float = TIMEOUT_S,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Ran:
        """Run one docker command to its end. Nothing is raised for a failing one: see Ran.ok."""
        done = subprocess.run(
            [*self.command, *argv],
            input=input.encode() if isinstance(input, str) else input,
            capture_output=True,
            timeout=timeout_s,
            env=self.environment(env),
            cwd=cwd,
            check=False,
        )
        return Ran(argv, done.returncode, done.stdout, done.stderr)

    def popen(self, *argv: str, **options: Any) -> Running:
        """Start one docker command with pipes for its three streams."""
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        return Running([*self.command, *argv], env=self.environment(), **options)

    def terminal(self, *argv: str, rows: int = 24, cols: int = 80) -> Terminal:
        """Start one docker command on a terminal of its own."""
        return Terminal([*self.command, *argv], self.environment({"TERM": "xterm"}), rows, cols)

    def api(
        self,
        method: str,
        path: str,
        /,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        **query: object,
    ) -> Answer:
        """One request. `body` is sent as it is when it is bytes, else as JSON; `query` values that are no text, too."""
        connection = UnixConnection(self.socket_path, timeout_s)
        try:
            connection.request(method, with_query(path, query), *encoded(body, headers))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def stream(
        self, method: str, path: str, body: object = None, /, **query: object
    ) -> http.client.HTTPResponse:
        """One request whose body is read by the test, as it comes."""
        connection = UnixConnection(self.socket_path, TIMEOUT_S)
        connection.request(method, with_query(path, query), *encoded(body, None))
        return connection.getresponse()

    def hijack(self, path: str, body: object = None, *, upgrade: bool = True, **query: object) -> Hijacked:
        """Turn a request into a raw connection, as attach and exec do."""
        return Hijacked(self.socket_path, with_query(path, query), body, upgrade=upgrade)


def with_query(path: str, query: Mapping[str, object]) -> str:
    plain = {k: v if isinstance(v, str) else json.dumps(v) for k, v in query.items()}
    return path + ("?" + urlencode(plain, quote_via=quote) if plain else "")


def encoded(body: object, headers: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
    sent = dict(headers or {})
    if body is None or isinstance(body, bytes):
        return body, sent
    sent.setdefault("Content-Type", "application/json")
    return json.dumps(body).encode(), sent


class Hijacked:
    """A connection after its hijack: raw bytes both ways."""

    def __init__(self, socket_path: str, path: str, body: object, *, upgrade: bool) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(socket_path)
        payload, headers = encoded(body, None)
        if upgrade:
            headers.update({"Upgrade": "tcp", "Connection": "Upgrade"})
        headers["Content-Length"] = str(len(payload or b""))
        head = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        self.sock.sendall(f"POST {path} HTTP/1.1\r\nHost: docker\r\n{head}\r\n".encode() + (payload or b""))
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                break
            self.buffer += data
        raw_head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *rest = raw_head.decode(errors="replace").split("\r\n")
        self.status_line = first
        self.status = int(first.split()[1]) if first else 0
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or what there is before the end."""
        parts = [self.buffer[:size]]
        self.buffer = self.buffer[size:]
        have = len(parts[0])
        while have < size:
            data = self.sock.recv(min(1 << 20, size - have))
            if not data:
                break
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def read_all(self) -> bytes:
        return self.read(1 << 60)

    def read_until(self, text: bytes) -> bytes:
        """Bytes up to and including `text`."""
        while text not in self.buffer:
            data = self.sock.recv(65536)
            assert data, f"the stream ended before {text!r}: {self.buffer[-500:]!r}"
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(text)
        return head + text

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """The 8-byte framed stream, frame by frame: (1 for stdout or 2 for stderr, payload)."""
        while True:
            header = self.read(8)
            if not header:
                return
            assert len(header) == 8 and header[1:4] == b"\0\0\0", f"bad frame header {header!r}"
            size = struct.unpack(">I", header[4:])[0]
            payload = self.read(size)
            assert len(payload) == size, f"frame cut short: {len(payload)} of {size} bytes"
            yield header[0], payload

    def split(self) -> tuple[bytes, bytes]:
        """stdout and stderr, read to the end."""
        both: dict[int, list[bytes]] = {1: [], 2: []}
        for stream, payload in self.frames():
            both[stream].append(payload)
        return b"".join(both[1]), b"".join(both[2])

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Hijacked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Terminal:
    """A command that runs on a pseudo-terminal, and what it has written so far."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], rows: int, cols: int) -> None:
        self.text = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # The parent sets the size before it lets go of the first read; the CLI asks for it only after create.
            os.execvpe(argv[0], list(argv), dict(env))
        self.resize(rows, cols)

    def resize(self, rows: int, cols: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def until(self, text: bytes, timeout_s: float = 20.0) -> bytes:
        """Read until `text` has come; what was read up to there is given back and forgotten."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {text!r} within {timeout_s:g} s: {self.text[-500:]!r}"
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # EIO: the other side is gone
                data = b""
            assert data, f"the terminal closed before {text!r}: {self.text[-500:]!r}"
            self.text += data
        head, _, self.text = self.text.partition(text)
        return head + text

    def resize_until(self, rows: int, cols: int, text: bytes) -> None:
        """Give the terminal another size until the program has seen it: a client that is just starting may miss one."""
        for _ in range(40):
            self.resize(rows, cols)
            ready, _, _ = select.select([self.fd], [], [], 0.5)
            if ready:
                self.text += os.read(self.fd, 65536)
            if text in self.text:
                return
        pytest.fail(f"no {text!r} after many changes of size: {self.text[-500:]!r}")

    def wait(self, timeout_s: float = 20.0) -> int:
        """The exit code, after reading all that is left."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
                data = os.read(self.fd, 65536) if ready else None
            except OSError:
                data = b""
            if data is None:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                pytest.fail(f"the command did not end within {timeout_s:g} s: {self.text[-500:]!r}")
            if not data:
                break
            self.text += data
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Engine(Client):
    """A daemon, and a client of it. `start`, `stop` and `kill` are for wherryd alone."""

    def __init__(self, host: str) -> None:
        super().__init__(host.removeprefix("unix://"))
        self.is_wherry = False

    def start(self, **_: object) -> None:
        pytest.skip("this engine was started by somebody else")

    stop = kill = restart = start


KEPT = 3
"""Processes that stay when a daemon goes: the launcher, and the shim and maker that it keeps ready."""


class Wherry(Engine):
    """wherryd with everything of its own: roots, socket, bridge and addresses."""

    def __init__(self, name: str, subnet: str, *flags: str, config: object = None) -> None:
        self.name = name
        self.data_root = f"/var/tmp/{name}"
        self.exec_root = f"/run/{name}"
        super().__init__(f"unix://{self.exec_root}/docker.sock")
        self.is_wherry = True
        self.log_path = f"{self.data_root}/daemon.log"
        self.bridge = name[:15]
        os.makedirs(self.data_root, exist_ok=True)
        os.makedirs(self.exec_root, exist_ok=True)
        with open(f"{self.data_root}/daemon.json", "w") as file:
            json.dump(config if config is not None else {}, file)
        self.argv = [
            *(sys.executable, "-m", "wherry.daemon"),
            *("--data-root", self.data_root, "--exec-root", self.exec_root),
            *("--pidfile", f"{self.exec_root}/docker.pid", "-H", self.host),
            *("--config-file", f"{self.data_root}/daemon.json"),
            *("--bridge", self.bridge, "--bip", subnet),
            *flags,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, env: Mapping[str, str] | None = None, wait: bool = True) -> None:
        """Start the daemon, and come back when it answers."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": f"{ROOT}/src", **(env or {})},
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"wherryd ended with {self.process.returncode}: {self.log_tail()}")
            try:
                if self.api("GET", "/_ping", timeout_s=5.0).status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            assert time.monotonic() < deadline, f"wherryd does not answer: {self.log_tail()}"
            time.sleep(0.02)

    def log_tail(self) -> str:
        with open(self.log_path, errors="replace") as file:
            return file.read()[-3000:]

    def kill(self) -> None:
        """SIGKILL, the way a daemon really dies."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self, **options: Any) -> None:
        self.kill()
        self.start(**options)

    def stop_process(self) -> None:
        """SIGTERM to the daemon alone, as a service manager does at an upgrade."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)

    def crash_everything(self, *, wipe: bool = True) -> None:
        """What a power cut does: every process of this engine is gone at once, and so is what was in /run."""
        self.kill()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 10
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.01)
        if not wipe:
            return
        shutil.rmtree(self.exec_root)
        os.makedirs(self.exec_root)

    def processes(self) -> list[int]:
        """The launcher, the shims and all that runs in the containers."""
        ours = [self.exec_root, self.data_root]
        parents: dict[int, int] = {}
        found: set[int] = set()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    line = file.read().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] == "Z":
                continue
            parents[int(name)] = int(fields[1])
            if any(path in line for path in ours) and int(name) != os.getpid():
                found.add(int(name))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def bridges(self) -> list[str]:
        """Those of its networks: its firewall table lists them."""
        found = [self.bridge]
        table = ["inet", f"wherry-{self.bridge}"]
        listed = subprocess.run(
            ["nft", "-j", "list", "set", *table, "bridges"], capture_output=True, check=False
        )
        if listed.returncode == 0:
            for item in json.loads(listed.stdout)["nftables"]:
                found += item.get("set", {}).get("elem", [])
        return sorted(set(found))

    def stop(self) -> None:
        """End daemon and containers, and give back what they hold."""
        if self.process is not None and self.process.poll() is None:
            ids = self.docker("ps", "-aq").out.split()
            if ids:
                self.docker("rm", "-f", *ids)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def remove(self) -> None:
        """Stop, and take away what a stopped daemon keeps for the next one: launcher, bridge, firewall table, roots.

        Whatever else it made it has to have given back itself; tests/leaks.py looks.
        """
        self.stop()
        deadline = time.monotonic() + 10
        while len(left := self.processes()) > LAUNCHER_AND_SPARE and time.monotonic() < deadline:
            time.sleep(0.02)
        described = [describe(pid) for pid in left]
        for pid in left:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 5
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.02)
        for bridge in self.bridges():
            if os.path.exists(f"/sys/class/net/{bridge}"):
                subprocess.run(["ip", "link", "del", bridge], check=False)
        subprocess.run(
            ["nft", "delete", "table", "inet", f"wherry-{self.bridge}"], capture_output=True, check=False
        )
        shutil.rmtree(self.data_root, ignore_errors=True)
        shutil.rmtree(self.exec_root, ignore_errors=True)
        assert len(left) <= LAUNCHER_AND_SPARE, f"beside the launcher there were left: {described}"


def describe(pid: int) -> str:
    """A process, for a person to recognise."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read().replace(b"\0", b" ").decode(errors="replace")
        with open(f"/proc/{pid}/stat") as file:
            parent = file.read().rpartition(")")[2].split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid} (gone)"
    return f"{pid} (of {parent}): {line[:60]} … {line[-60:]}"
