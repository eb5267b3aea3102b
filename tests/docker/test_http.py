"""The API as HTTP: headers, versions, flushing, and input that is wrong in every way we could think of."""

from __future__ import annotations

import json
import random
import socket
import string
import threading
import time

import pytest

from tests.docker.engine import Engine


def raw(engine: Engine, data: bytes, timeout_s: float = 10.0) -> bytes:
    """What comes back for these very bytes, until the engine closes or `timeout_s` of silence."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout_s)
        sock.connect(engine.socket_path)
        answer = b""
        try:
            sock.sendall(data)
            while more := sock.recv(65536):
                answer += more
        except (TimeoutError, ConnectionError):
            pass
        return answer


def test_headers_of_every_answer(engine: Engine) -> None:
    for method, path in (
        ("GET", "/_ping"),
        ("GET", "/version"),
        ("GET", "/containers/x/json"),
    ):
        headers = {k.lower(): v for k, v in engine.api(method, path).headers.items()}
        assert headers["api-version"] == "1.51" and headers["ostype"] == "linux", path
        assert headers["docker-experimental"] in ("true", "false") and headers["server"].startswith(
            "Docker/"
        ), path


def test_ping(engine: Engine) -> None:
    for method in ("GET", "HEAD"):
        answer = engine.api(method, "/_ping").expect(200)
        headers = {k.lower(): v for k, v in answer.headers.items()}
        assert (
            headers["cache-control"] == "no-cache, no-store, must-revalidate"
            and headers["pragma"] == "no-cache"
        )
        assert headers["swarm"] == "inactive" and headers["builder-version"]
        assert answer.body == (b"OK" if method == "GET" else b"")
    assert engine.api("HEAD", "/_ping").headers["Content-Length"] == "0"


@pytest.mark.parametrize("version", ["1.24", "1.30", "1.40", "1.41", "1.44", "1.47", "1.50", "1.51"])
def test_every_version_from_the_oldest_to_the_newest(engine: Engine, version: str) -> None:
    for path in ("_ping", "version", "info", "containers/json", "images/json", "events?since=0&until=1"):
        engine.api("GET", f"/v{version}/{path}").expect(200)
    engine.docker("ps", env={"DOCKER_API_VERSION": version}).ok()
    assert (
        engine.docker("run", "--rm", "busybox", "echo", "ok", env={"DOCKER_API_VERSION": version}).ok().out
        == "ok\n"
    )


def test_a_few_requests_on_one_connection(engine: Engine) -> None:
    request = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    assert (
        raw(engine, request * 3 + b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").count(
            b"\r\nOK"
        )
        == 4
    )


RAW: dict[str, bytes] = {
    "no-http": b"hello\r\n\r\n",
    "empty-line": b"\r\n\r\n",
    "bad-version": b"GET / HTTP/9.9\r\n\r\n",
    "long-path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: d\r\n\r\n",
    "long-header": b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
    "many-headers": b"GET /_ping HTTP/1.1\r\nHost: d\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(60_000)) + b"\r\n",
    "negative-length": b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: -5\r\n\r\n",
    "huge-length": b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    "two-lengths": b"POST /auth HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
    "length-and-chunked": b"POST /auth HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad-chunk": b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,
    "nul": b"GET /containers/a\0b/json HTTP/1.1\r\nHost: d\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("what", RAW)
def test_bytes_that_are_no_request(engine: Engine, what: str) -> None:
    answer = raw(engine, RAW[what], timeout_s=3)
    assert answer == b"" or answer.split()[1:2] in ([b"301"], [b"400"], [b"404"], [b"413"], [b"414"], [b"431"], [b"505"], [b"500"]) or answer.startswith(b"\0\0"), answer[:300]  # fmt: skip
    assert b"Traceback" not in answer
    engine.api("GET", "/_ping").expect(200)


def test_a_body_that_does_not_come_holds_nobody_up(engine: Engine) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(engine.socket_path)
        sock.sendall(
            b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        for _ in range(20):
            engine.api("GET", "/_ping").expect(200)


BODIES: dict[str, object] = {
    "list": [], "string": "x", "number": 5, "null": None,
    "deep": json.loads("[" * 60 + "]" * 60),
    "image-null": {"Image": None}, "cmd-number": {"Image": "busybox", "Cmd": 5}, "cmd-mixed": {"Image": "busybox", "Cmd": ["a", 1]},
    "env-object": {"Image": "busybox", "Env": {"A": "b"}}, "labels-list": {"Image": "busybox", "Labels": ["a"]},
    "hostconfig-list": {"Image": "busybox", "HostConfig": []},
    "binds-string": {"Image": "busybox", "HostConfig": {"Binds": "/a:/b"}},
    "memory-float": {"Image": "busybox", "HostConfig": {"Memory": 1.5}},
    "memory-huge": {"Image": "busybox", "HostConfig": {"Memory": 2**70}},
    "memory-negative": {"Image": "busybox", "HostConfig": {"Memory": -2}},
    "ulimit-bad": {"Image": "busybox", "HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": "x"}]}},
    "mount-type-number": {"Image": "busybox", "HostConfig": {"Mounts": [{"Type": 5}]}},
    "restart-bad": {"Image": "busybox", "HostConfig": {"RestartPolicy": {"Name": "on-failed"}}},
    "restart-negative": {"Image": "busybox", "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}}},
    "ipc-bad": {"Image": "busybox", "HostConfig": {"IpcMode": "what"}},
    "pid-bad": {"Image": "busybox", "HostConfig": {"PidMode": "what"}},
    "uts-bad": {"Image": "busybox", "HostConfig": {"UTSMode": "what"}},
    "cgroupns-bad": {"Image": "busybox", "HostConfig": {"CgroupnsMode": "what"}},
    "cap-bad": {"Image": "busybox", "HostConfig": {"CapAdd": ["NOT_A_CAP"]}},
    "bind-relative": {"Image": "busybox", "HostConfig": {"Binds": ["a/b:/c"]}},
    "bind-empty": {"Image": "busybox", "HostConfig": {"Binds": [""]}},
    "bind-colons": {"Image": "busybox", "HostConfig": {"Binds": ["/a:/b:ro:x:y"]}},
    "bind-target-relative": {"Image": "busybox", "HostConfig": {"Binds": ["/a:b"]}},
    "bind-missing-source": {"Image": "busybox", "HostConfig": {"Mounts": [{"Type": "bind", "Source": "/no/such/dir", "Target": "/x"}]}},
    "image-bad": {"Image": "UPPER"}, "image-spaces": {"Image": "a b"}, "image-long": {"Image": "a" * 5000},
    "stop-signal-bad": {"Image": "busybox", "StopSignal": "NOPE"},
    "log-driver-bad": {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": "nope"}}},
    "runtime-bad": {"Image": "busybox", "HostConfig": {"Runtime": "nope"}},
    "two-volumes-one-place": {"Image": "busybox", "HostConfig": {"Binds": ["/tmp:/a", "/var:/a"]}},
    "auto-remove-restart": {"Image": "busybox", "HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}},
    "oom-score": {"Image": "busybox", "HostConfig": {"OomScoreAdj": 5000}},
    "sysctl-of-the-host": {"Image": "busybox", "HostConfig": {"Sysctls": {"kernel.panic": "1"}}},
    "env-without-name": {"Image": "busybox", "Env": ["=x"]},
    "user-unknown": {"Image": "busybox", "User": "nobody-here"},
    "device-missing": {"Image": "busybox", "HostConfig": {"Devices": [{"PathOnHost": "/dev/nope", "PathInContainer": "/dev/x"}]}},
}  # fmt: skip


@pytest.mark.parametrize("flaw", BODIES)
def test_a_bad_body_is_refused_and_leaves_no_container(engine: Engine, name: str, flaw: str) -> None:
    """With 400 or 404 at create, or in words at start; never with a traceback, never half-made."""
    before = engine.docker("ps", "-aq").ok().out
    answer = engine.api("POST", "/containers/create", json.dumps(BODIES[flaw]).encode(), name=name,
                        headers={"Content-Type": "application/json"})  # fmt: skip
    if answer.status == 201:
        start = engine.api("POST", f"/containers/{name}/start")
        assert start.status in (400, 404, 500), f"{flaw} was taken, and started"
        answer = start
        engine.api("DELETE", f"/containers/{name}").expect(204)
    assert answer.status in (400, 404, 409, 500), answer.body
    assert answer.message and "Traceback" not in answer.message, answer.body
    assert engine.docker("ps", "-aq").ok().out == before


def test_random_bodies_never_break_the_engine(engine: Engine, name: str) -> None:
    rng = random.Random(7)

    def value(depth: int) -> object:
        kind = rng.randrange(8 if depth < 3 else 5)
        if kind == 0:
            return rng.choice([None, True, False])
        if kind == 1:
            return rng.choice([0, -1, 1, 2**31, 2**63, 2**64, 1.5, 1e300])
        if kind in (2, 3, 4):
            return "".join(rng.choice(string.printable) for _ in range(rng.randrange(8)))
        if kind == 5:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        keys = [
            "Memory",
            "Binds",
            "Name",
            "Type",
            "Cmd",
            "Env",
            "Mounts",
            "Target",
            "Source",
            "Ulimits",
            "x",
            "Devices",
            "LogConfig",
        ]
        return {rng.choice(keys): value(depth + 1) for _ in range(rng.randrange(4))}

    fields = ["Cmd", "Env", "Entrypoint", "User", "Labels", "WorkingDir", "HostConfig", "Volumes", "ExposedPorts", "StopSignal",
              "StopTimeout", "Tty", "NetworkingConfig", "Healthcheck", "OnBuild", "Shell", "Hostname", "Domainname"]  # fmt: skip
    for number in range(150):
        body = {"Image": "busybox", **{rng.choice(fields): value(0) for _ in range(3)}}
        answer = engine.api("POST", "/containers/create", body, name=f"{name}-{number}")
        assert answer.status in (201, 400, 404, 409) or (answer.status == 500 and answer.message), (
            body,
            answer.body,
        )
        assert b"Traceback" not in answer.body, (body, answer.body)
    engine.api("GET", "/_ping").expect(200)


PATHS = ["/containers/%2e%2e/json", "/containers/..%2f..%2fetc/json", "/containers/a%00b/json", "/containers/%ff%fe/json",
         "/images/%2e%2e%2fx/json", "/images/a%20b/json", "/exec/../json", "/containers//json", "/v1.51//containers/json",
         "/containers/" + "a" * 3000 + "/json", "/images/" + "a/" * 1000 + "json", "/containers/json?filters=%7B%22id%22%3A%5B1%5D%7D",
         "/containers/json?filters=%7B%22name%22%3A%5B%22%28%22%5D%7D", "/events?filters=%5B%5D&until=1", "/containers/json?limit=99999999999999999999",
         "/images/json?filters=%7B%22reference%22%3A%5B%22%5B%22%5D%7D"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_odd_paths(engine: Engine, path: str) -> None:
    answer = engine.api("GET", path)
    assert answer.status in (200, 301, 400, 404, 405, 500)
    assert b"Traceback" not in answer.body


# -- streams that are flushed --------------------------------------------------------------------------------------


def test_events_answer_at_once_and_show_the_past(engine: Engine, name: str) -> None:
    started = time.time()
    engine.docker("run", "--name", name, "busybox", "true").ok()
    filters = json.dumps({"container": [name], "type": ["container"]})
    response = engine.stream("GET", "/events", filters=filters, since=f"{started:.9f}")
    assert response.status == 200
    seen = []
    while not seen or seen[-1]["Action"] != "die":
        seen.append(json.loads(response.readline()))
    response.close()
    first = seen[0]
    assert first["Action"] == first["status"] == "create" and first["id"] == first["Actor"]["ID"]
    assert (
        first["from"] == "busybox"
        and first["scope"] == "local"
        and first["time"] == first["timeNano"] // 10**9
    )
    assert first["Actor"]["Attributes"]["name"] == name


def test_events_headers_come_before_any_event(engine: Engine) -> None:
    response = engine.stream("GET", "/events", filters=json.dumps({"container": ["nobody"]}))
    assert response.status == 200
    response.close()


def test_wait_sends_its_headers_at_once(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", "sh", "-c", "exit 3").ok()
    response = engine.stream("POST", f"/containers/{name}/wait", condition="next-exit")
    assert response.status == 200
    engine.api("POST", f"/containers/{name}/start").expect(204)
    assert json.loads(response.read())["StatusCode"] == 3


def test_wait_for_what_is_over_answers_and_next_exit_waits(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "exit 3")
    assert engine.api("POST", f"/containers/{name}/wait").json["StatusCode"] == 3
    response = engine.stream("POST", f"/containers/{name}/wait", condition="next-exit")
    engine.api("POST", f"/containers/{name}/start").expect(204)
    assert json.loads(response.read())["StatusCode"] == 3


def test_wait_for_removal(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "exit 3")
    response = engine.stream("POST", f"/containers/{name}/wait", condition="removed")
    assert response.status == 200
    engine.api("DELETE", f"/containers/{name}").expect(204)
    assert json.loads(response.read())["StatusCode"] == 3


def test_follow_shows_lines_as_they_come(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "-i", "--name", name, "busybox", "cat").ok()
    response = engine.stream("GET", f"/containers/{name}/logs", stdout=1, follow=1)
    assert response.status == 200
    with engine.hijack(f"/containers/{name}/attach", stream=1, stdin=1) as stream:
        for text in (b"one\n", b"two\n"):
            stream.send(text)
            assert response.read(8 + len(text))[8:] == text
    response.close()


def test_a_stop_goes_on_without_its_client(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(engine.socket_path)
        sock.sendall(
            f"POST /containers/{name}/stop?t=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode()
        )
        time.sleep(0.3)  # it is under way; there is no event to wait for
    response = engine.stream("POST", f"/containers/{name}/wait")
    assert json.loads(response.read())["StatusCode"] == 137


def test_many_idle_streams_cost_the_others_nothing(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    open_ones = [engine.stream("GET", "/events") for _ in range(100)]
    open_ones += [engine.stream("GET", f"/containers/{name}/logs", stdout=1, follow=1) for _ in range(50)]
    open_ones += [engine.stream("POST", f"/containers/{name}/wait") for _ in range(50)]
    started = time.monotonic()
    engine.docker("run", "--rm", "busybox", "true").ok()
    assert time.monotonic() - started < 10
    for response in open_ones:
        response.close()


def test_a_removal_under_way_is_not_begun_again(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    statuses: list[int] = []

    def remove() -> None:
        statuses.append(engine.api("DELETE", f"/containers/{name}", force=1).status)

    threads = [threading.Thread(target=remove) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(204) >= 1 and set(statuses) <= {204, 404, 409}


def test_keys_of_a_body_match_without_regard_to_case(engine: Engine, name: str) -> None:
    body = {"iMaGe": "busybox", "cmd": ["true"], "hostconfig": {"autoremove": True}, "NoSuchField": {"a": 1}}
    engine.api("POST", "/containers/create", body, name=name).expect(201)
    assert engine.api("GET", f"/containers/{name}/json").json["HostConfig"]["AutoRemove"] is True


def test_the_cli_reaches_the_engine_through_dial_stdio(engine: Engine) -> None:
    """What `ssh://` contexts run on the far side."""
    client = engine.popen("system", "dial-stdio")
    out, _ = client.communicate(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n", timeout=20)
    assert out.endswith(b"OK")
