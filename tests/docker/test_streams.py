"""Not a byte is lost: attach, exec and logs with many, with much, with slow readers and half-closed connections."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.docker.conftest import SCALE
from tests.docker.engine import Client, Engine, Hijacked

MUCH = max(1, int(300 * SCALE)) * 1_000_000
MANY = max(10, int(1000 * SCALE))


def pattern(size: int, seed: int = 1) -> Iterator[bytes]:
    """`size` bytes that repeat nowhere near a buffer's length, in pieces."""
    block = random.Random(seed).randbytes(1_000_003)
    while size > 0:
        yield block[:size]
        size -= len(block)


def digest_of(size: int, seed: int = 1) -> str:
    found = hashlib.sha256()
    for piece in pattern(size, seed):
        found.update(piece)
    return found.hexdigest()


def send_all(stream: Hijacked, size: int, seed: int = 1) -> None:
    for piece in pattern(size, seed):
        stream.send(piece)
    stream.half_close()


def digest_frames(stream: Hijacked, wanted: int = 1) -> tuple[str, int]:
    found, size = hashlib.sha256(), 0
    for number, payload in stream.frames():
        if number == wanted:
            found.update(payload)
            size += len(payload)
    return found.hexdigest(), size


def create(engine: Client, name: str, cmd: list[str], **more: object) -> None:
    engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": cmd, **more}, name=name).expect(201)


def start(engine: Client, name: str) -> None:
    engine.api("POST", f"/containers/{name}/start").expect(204)


def test_containers_that_live_a_millisecond_lose_nothing(engine: Engine, name: str) -> None:
    """Create, attach, wait and start as the CLI does, many times over: every byte and every exit code is there."""

    def one(number: int) -> str | None:
        text = f"{number}-" + "x" * (number % 500)
        body = {"Image": "busybox", "Cmd": ["sh", "-c", f"echo {text}; exit {number % 251}"]}
        body["HostConfig"] = {"AutoRemove": True, "NetworkMode": "none"}
        identity = (
            engine.api("POST", "/containers/create", body, name=f"{name}-{number}").expect(201).json["Id"]
        )
        with engine.hijack(f"/containers/{identity}/attach", stream=1, stdout=1, stderr=1) as stream:
            waiting = engine.stream("POST", f"/containers/{identity}/wait", condition="removed")
            engine.api("POST", f"/containers/{identity}/start").expect(204)
            out, err = stream.split()
        answer = waiting.read()
        if (out, err) != (text.encode() + b"\n", b""):
            return f"{number}: wrote {out!r} {err!r}"
        if f'"StatusCode":{number % 251}}}'.encode() not in answer.replace(b" ", b"").replace(
            b',"Error":null', b""
        ):
            return f"{number}: {answer!r}"
        return None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        wrong = [line for line in pool.map(one, range(MANY)) if line]
    assert not wrong, f"{len(wrong)} of {MANY}: {wrong[:5]}"


def test_much_through_attach_both_ways(engine: Engine, name: str) -> None:
    create(engine, name, ["cat"], OpenStdin=True, StdinOnce=True, HostConfig={"LogConfig": {"Type": "none"}})
    with engine.hijack(f"/containers/{name}/attach", stream=1, stdin=1, stdout=1, stderr=1) as stream:
        start(engine, name)
        sender = threading.Thread(target=send_all, args=(stream, MUCH))
        sender.start()
        assert digest_frames(stream) == (digest_of(MUCH), MUCH)
        sender.join()
    assert engine.api("POST", f"/containers/{name}/wait").json["StatusCode"] == 0


def test_much_through_exec_both_ways(engine: Engine, name: str) -> None:
    create(engine, name, ["sleep", "300"])
    start(engine, name)
    body = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    identity = engine.api("POST", f"/containers/{name}/exec", body).expect(201).json["Id"]
    with engine.hijack(f"/exec/{identity}/start", {"Detach": False, "Tty": False}) as stream:
        sender = threading.Thread(target=send_all, args=(stream, MUCH))
        sender.start()
        assert digest_frames(stream) == (digest_of(MUCH), MUCH)
        sender.join()
    state = engine.api("GET", f"/exec/{identity}/json").json
    assert (state["Running"], state["ExitCode"]) == (False, 0)


def test_much_through_the_log(engine: Engine, name: str) -> None:
    """base64 text, since a log line of json-file holds text and not any byte."""
    size = MUCH // 4
    script = f"head -c {size} /dev/urandom | base64 | tee /tmp/copy; sha256sum </tmp/copy >&2"
    create(engine, name, ["sh", "-c", script])
    with engine.hijack(f"/containers/{name}/attach", stream=1, stdout=1, stderr=1) as stream:
        start(engine, name)
        live, text = hashlib.sha256(), b""
        for number, payload in stream.frames():
            if number == 1:
                live.update(payload)
            else:
                text += payload
    wanted = text.split()[0].decode()
    assert live.hexdigest() == wanted
    response = engine.stream("GET", f"/containers/{name}/logs", stdout=1)
    logged = hashlib.sha256()
    while header := response.read(8):
        logged.update(response.read(struct.unpack(">I", header[4:])[0]))
    assert logged.hexdigest() == wanted


def test_a_slow_reader_stops_only_itself(engine: Engine, name: str) -> None:
    size = 20_000_000
    create(
        engine,
        name,
        ["sh", "-c", f"head -c {size} /dev/zero; echo done >&2"],
        HostConfig={"LogConfig": {"Type": "none"}},
    )
    with engine.hijack(f"/containers/{name}/attach", stream=1, stdout=1, stderr=1) as slow:
        start(engine, name)
        slow.read(100)
        started = time.monotonic()
        for _ in range(5):  # the engine still answers, and other containers run
            engine.api("GET", "/containers/json").expect(200)
            assert (
                engine.docker("run", "--rm", "--network", "none", "busybox", "echo", "ok").ok().line == "ok"
            )
        assert time.monotonic() - started < 20
        rest = slow.read_all()
    assert len(rest) > size


def test_a_reader_that_vanishes_does_not_hold_up_the_container(engine: Engine, name: str) -> None:
    create(engine, name, ["sh", "-c", "head -c 5000000 /dev/zero; exit 3"])
    with engine.hijack(f"/containers/{name}/attach", stream=1, stdout=1) as stream:
        start(engine, name)
        stream.read(10)
    assert engine.api("POST", f"/containers/{name}/wait").json["StatusCode"] == 3


def test_half_close_ends_stdin_and_not_the_stream(engine: Engine, name: str) -> None:
    create(
        engine, name, ["sh", "-c", "cat; echo after; echo err >&2; exit 3"], OpenStdin=True, StdinOnce=True
    )
    with engine.hijack(f"/containers/{name}/attach", stream=1, stdin=1, stdout=1, stderr=1) as stream:
        start(engine, name)
        stream.send(b"some text\n")
        stream.half_close()
        assert stream.split() == (b"some text\nafter\n", b"err\n")


def test_stdin_of_a_detached_container_stays_open_between_clients(engine: Engine, name: str) -> None:
    create(engine, name, ["sh", "-c", "while read line; do echo got $line; done; echo end"], OpenStdin=True)
    start(engine, name)
    for text in (b"one", b"two"):
        with engine.hijack(f"/containers/{name}/attach", stream=1, stdin=1, stdout=1) as stream:
            stream.send(text + b"\n")
            assert b"got " + text + b"\n" in next(stream.frames())[1]
    assert engine.api("GET", f"/containers/{name}/json").json["State"]["Running"] is True


def test_stdin_once_closes_with_its_client(engine: Engine, name: str) -> None:
    create(engine, name, ["sh", "-c", "cat; exit 5"], OpenStdin=True, StdinOnce=True)
    with engine.hijack(f"/containers/{name}/attach", stream=1, stdin=1, stdout=1) as stream:
        start(engine, name)
        stream.send(b"text")
        assert next(stream.frames()) == (1, b"text")
    assert engine.api("POST", f"/containers/{name}/wait").json["StatusCode"] == 5


def test_every_attached_client_sees_everything(engine: Engine, name: str) -> None:
    create(engine, name, ["sh", "-c", "cat; echo end"], OpenStdin=True, StdinOnce=True)
    path = f"/containers/{name}/attach"
    with (
        engine.hijack(path, stream=1, stdout=1, stderr=1) as one,
        engine.hijack(path, stream=1, stdout=1) as two,
        engine.hijack(path, stream=1, stdin=1) as typist,
    ):
        start(engine, name)
        typist.send(b"typed\n")
        typist.half_close()
        assert one.split()[0] == two.split()[0] == b"typed\nend\n"


def test_bytes_sent_with_the_request_are_stdin(wherry: Engine, name: str) -> None:
    """A client that does not wait for the 101: what follows the request in the same packet is for the container.

    dockerd loses them."""
    create(wherry, name, ["cat"], OpenStdin=True, StdinOnce=True)
    head = f"POST /containers/{name}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(wherry.socket_path)
        sock.sendall(head.encode() + b"early bytes\n")
        start(wherry, name)
        sock.shutdown(socket.SHUT_WR)
        data = b""
        while more := sock.recv(65536):
            data += more
    assert data.startswith(b"HTTP/1.1 101 UPGRADED\r\n") and data.endswith(
        b"\x01\0\0\0\0\0\0\x0cearly bytes\n"
    )


def test_exec_body_is_not_stdin(engine: Engine, name: str) -> None:
    create(engine, name, ["sleep", "300"])
    start(engine, name)
    body = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}
    identity = engine.api("POST", f"/containers/{name}/exec", body).expect(201).json["Id"]
    with engine.hijack(f"/exec/{identity}/start", {"Detach": False}) as stream:
        stream.send(b"only this")
        stream.half_close()
        assert stream.split() == (b"only this", b"")


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize("tty", [True, False])
def test_both_ways_to_hijack(engine: Engine, name: str, tty: bool, upgrade: bool) -> None:
    create(engine, name, ["sh", "-c", "echo hello"], Tty=tty)
    with engine.hijack(f"/containers/{name}/attach", upgrade=upgrade, stream=1, stdout=1, stderr=1) as stream:
        kind = "raw" if tty or not upgrade else "multiplexed"
        assert stream.status_line == ("HTTP/1.1 101 UPGRADED" if upgrade else "HTTP/1.1 200 OK")
        assert stream.headers["content-type"] == f"application/vnd.docker.{kind}-stream"
        assert "content-length" not in stream.headers and "transfer-encoding" not in stream.headers
        assert stream.headers.get("upgrade") == ("tcp" if upgrade else None)
        start(engine, name)
        assert stream.read_all() == (b"hello\r\n" if tty else b"\x01\0\0\0\0\0\0\x06hello\n")


def test_attach_replays_the_log_when_asked(engine: Engine, name: str) -> None:
    create(engine, name, ["sh", "-c", "echo one; echo two >&2"])
    start(engine, name)
    engine.api("POST", f"/containers/{name}/wait").expect(200)
    with engine.hijack(f"/containers/{name}/attach", logs=1, stdout=1, stderr=1) as stream:
        assert stream.split() == (b"one\n", b"two\n")
    with engine.hijack(f"/containers/{name}/attach", stdout=1) as stream:
        assert stream.read_all() == b""


def test_attach_over_a_websocket(engine: Engine, name: str) -> None:
    create(engine, name, ["sh", "-c", "read line; echo got $line"], OpenStdin=True, StdinOnce=True)
    with WebSocket(
        engine.socket_path, f"/containers/{name}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"
    ) as socket_:
        start(engine, name)
        socket_.send(b"hello\n")
        assert socket_.read_to_end() == b"got hello\n"


class WebSocket:
    """Just enough of RFC 6455 for a client."""

    def __init__(self, socket_path: str, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(socket_path)
        self.sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: d\r\nOrigin: http://d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.file = self.sock.makefile("rb")
        assert b" 101 " in self.file.readline()
        head = {}
        while (line := self.file.readline().strip()) != b"":
            key, _, value = line.partition(b":")
            head[key.lower()] = value.strip()
        assert head[b"sec-websocket-accept"] == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

    def send(self, data: bytes) -> None:
        mask = b"mask"
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
        self.sock.sendall(bytes([0x82, 0x80 | len(data)]) + mask + masked)

    def read_to_end(self) -> bytes:
        data = b""
        while head := self.file.read(2):
            size = head[1] & 0x7F
            if size == 126:
                size = struct.unpack(">H", self.file.read(2))[0]
            payload = self.file.read(size)
            if head[0] & 0x0F == 8:
                break
            data += payload
        return data

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()


# -- while the daemon dies -----------------------------------------------------------------------------------------


def test_attach_and_exec_go_on_while_the_daemon_is_killed(wherry: Engine, name: str) -> None:
    """Half the bytes before the daemon's death, half after it, through the same connections."""
    size = max(1, int(50 * SCALE)) * 1_000_000
    create(wherry, name, ["cat"], OpenStdin=True, StdinOnce=True, HostConfig={"LogConfig": {"Type": "none"}})
    with wherry.hijack(f"/containers/{name}/attach", stream=1, stdin=1, stdout=1, stderr=1) as attached:
        start(wherry, name)
        body = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}
        identity = wherry.api("POST", f"/containers/{name}/exec", body).expect(201).json["Id"]
        with wherry.hijack(f"/exec/{identity}/start", {"Detach": False}) as execed:
            found: dict[str, tuple[str, int]] = {}

            def read(label: str, stream: Hijacked) -> None:
                found[label] = digest_frames(stream)

            readers = [
                threading.Thread(target=read, args=("attach", attached)),
                threading.Thread(target=read, args=("exec", execed)),
            ]
            for reader in readers:
                reader.start()
            killed = threading.Event()
            for count, piece in enumerate(pattern(size)):
                attached.send(piece)
                execed.send(piece)
                if not killed.is_set() and count * 1_000_003 >= size // 2:
                    wherry.kill()
                    killed.set()
            assert killed.is_set()
            execed.half_close()
            readers[1].join(60)  # first: it would be killed with the container
            attached.half_close()
            readers[0].join(60)
    wherry.start()
    assert found == {"attach": (digest_of(size), size), "exec": (digest_of(size), size)}
    assert wherry.api("POST", f"/containers/{name}/wait").json["StatusCode"] == 0


def started(wherry: Engine, name: str) -> None:
    """Returns once the client of `docker run` has been told that its container started: before that, a daemon that
    dies leaves it without an answer to its `start`, and no engine can help that."""
    argv = ("--since", "0", "--filter", f"container={name}", "--filter", "event=start")
    with wherry.popen("events", *argv, "--format", "{{.Action}}") as events:
        assert events.stdout is not None
        assert events.stdout.readline() == b"start\n"
        events.kill()


def test_docker_run_does_not_notice_the_daemons_death(wherry: Engine, name: str) -> None:
    with wherry.popen(
        "run", "-i", "--name", name, "busybox", "sh", "-c", "echo ready; cat; exit 7"
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        started(wherry, name)
        wherry.kill()
        client.stdin.write(b"while it was dead\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"while it was dead\n"
        client.stdin.close()
        assert client.stdout.read() == b""
        assert client.wait(20) == 7
    wherry.start()
    assert wherry.docker("logs", name).ok().out == "ready\nwhile it was dead\n"
    assert wherry.docker("wait", name).ok().line == "7"


def test_docker_run_rm_survives_a_restart_of_the_daemon(wherry: Engine, name: str) -> None:
    with wherry.popen(
        "run", "--rm", "-i", "--name", name, "busybox", "sh", "-c", "echo ready; cat; exit 8"
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        started(wherry, name)
        wherry.restart()
        out, _ = client.communicate(b"x", timeout=30)
        assert (out, client.returncode) == (b"x", 8)
    wherry.docker("inspect", name).failed(1)


def test_logs_have_no_gap_over_the_daemons_death(wherry: Engine, name: str) -> None:
    script = (
        "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo line $i; usleep 2000; done; echo total $i; exit 9"
    )
    wherry.docker("run", "-d", "--name", name, "busybox", "sh", "-c", script).ok()
    for _ in range(3):
        wherry.restart()
    # The container ends as soon as the file is there, and takes the exec with it: its code may be SIGKILL's.
    assert wherry.docker("exec", name, "touch", "/stop").code in (0, 137)
    assert wherry.docker("wait", name).ok().line == "9"
    lines = wherry.docker("logs", name).ok().out.splitlines()
    total = int(lines.pop().split()[1])
    assert lines == [f"line {n}" for n in range(1, total + 1)] and total > 50


def test_clients_wait_while_there_is_no_daemon(wherry: Engine, name: str) -> None:
    wherry.docker("create", "--name", name, "busybox").ok()  # the launcher runs, and holds the socket
    wherry.kill()
    client = wherry.popen("version", "--format", "{{.Server.Os}}")
    time.sleep(0.2)
    assert client.poll() is None
    wherry.start()
    assert client.communicate(timeout=20)[0] == b"linux\n"


def test_exit_codes_of_containers_that_end_meanwhile_are_known(wherry: Engine, name: str) -> None:
    for code in (0, 3, 9):
        wherry.docker(
            "run",
            "-d",
            "--name",
            f"{name}-{code}",
            "busybox",
            "sh",
            "-c",
            f"while [ ! -e /x/{name} ]; do usleep 10000; done; exit {code}",
            "-v",
        ).ok()
    pids = {
        code: int(wherry.docker("inspect", "-f", "{{.State.Pid}}", f"{name}-{code}").ok().line)
        for code in (0, 3, 9)
    }
    wherry.kill()
    for pid in pids.values():
        with open(f"/proc/{pid}/stat"):
            pass
        path = f"/proc/{pid}/root/x"
        os.makedirs(path)
        open(f"{path}/{name}", "w").close()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    wherry.start()
    for code in pids:
        state = wherry.api("GET", f"/containers/{name}-{code}/json").json["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", code)
        assert state["FinishedAt"] > state["StartedAt"]


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
