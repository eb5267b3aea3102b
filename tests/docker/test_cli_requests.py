"""What `wherry` sends is what the real docker CLI sends: both are run against a server that writes requests down.

No engine is needed. Bodies are compared without their empty values, which an engine takes for absent.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

import wherry
from tests.docker.engine import Terminal
from tests.unit.client.servers import Request, Server, json_answer

ID = "c" * 64
ORDERED = ("run", "exec", "logs", "start")
"""Where the order of requests is part of the matter; docker asks about several containers in any order."""


def answer(request: Request) -> list[bytes]:
    """Enough of an engine for a command to go on to its next request."""
    path = urlsplit(request.target).path
    if path.endswith("/_ping"):
        return [b"HTTP/1.1 200 OK\r\nApi-Version: 1.50\r\nOstype: linux\r\nContent-Length: 0\r\n\r\n"]
    if path.endswith("/containers/create"):
        return json_answer(f'{{"Id":"{ID}","Warnings":[]}}', "201 Created")
    if path.endswith("/exec"):
        return json_answer('{"Id":"eee"}', "201 Created")
    if path.endswith("/json") and "/containers/" in path and not path.endswith("/containers/json"):
        return json_answer(
            f'{{"Id":"{ID}","Config":{{"Tty":false}},"State":{{"Running":true}},"HostConfig":{{}}}}'
        )
    if path.endswith(("/containers/json", "/images/json")):
        return json_answer("[]")
    return json_answer('{"message":"that is all"}', "500 Internal Server Error")


def requests_of(
    tmp_path: object, command: list[str], variable: str, line: str
) -> list[tuple[str, str, Any, Any]]:
    path = os.path.join(str(tmp_path), variable)
    environ = {**os.environ, variable: f"unix://{path}", "GIVEN": "value", "HOME": str(tmp_path)}
    environ.pop("DOCKER_API_VERSION", None)
    environ["PYTHONPATH"] = os.path.dirname(os.path.dirname(wherry.__file__))
    with Server(path, answer) as server:
        subprocess.run(
            [*command, *shlex.split(line)],
            env=environ,
            cwd=str(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        seen = [
            (request.method, *plain_target(request.target), plain_body(request.body))
            for request in server.requests
            if not request.target.endswith("/_ping")
        ]
    return seen if line.startswith(ORDERED) else sorted(seen, key=repr)


def plain_target(target: str) -> tuple[str, list[tuple[str, str]]]:
    parts = urlsplit(target)
    query = sorted(parse_qsl(parts.query))
    # `since` and `until` are counted from the moment the command runs
    query = [(key, value[:-2] if key in ("since", "until") else value) for key, value in query]
    return re.sub(r"^/v[0-9.]+/", "/", parts.path), query


def plain_body(body: bytes) -> Any:
    try:
        value = json.loads(body)
    except ValueError:
        return body
    return without_empty(value)


def without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        cleaned = {key: without_empty(item) for key, item in value.items()}
        if cleaned.get("MemorySwappiness") == -1:
            del cleaned["MemorySwappiness"]  # docker's way to say nothing
        cleaned.pop("Detach", None)  # sent with an exec as well as with its start, to no effect
        if isinstance(cleaned.get("Env"), list):
            cleaned["Env"] = sorted(cleaned["Env"])  # docker keeps those in a map, too
        if "Binds" in cleaned:
            cleaned["Binds"] = sorted(cleaned["Binds"] or ())  # docker keeps them in a map
        if cleaned.get("Name") == "no":
            del cleaned["Name"]
        return {
            key: item for key, item in cleaned.items() if item not in (None, "", 0, False, [], {}, [0, 0])
        }
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    return value


CREATE = [
    "busybox",
    "busybox sh -c 'a b'",
    "-it --name x busybox",
    "-a stdin -a STDOUT busybox",
    "-v /a:/b:ro -v vol:/c -v /anon -v ./x:/y -v ../x:/z -v /x:/y:ro,z busybox",
    "--tmpfs /t:size=1m --tmpfs /u busybox",
    "--mount type=bind,src=/x,dst=/y,readonly busybox",
    "--mount type=bind,source=./x,target=/y,ro=true,bind-propagation=rslave,bind-recursive=disabled busybox",
    "--mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770 busybox",
    "--mount type=volume,src=v,dst=/v,volume-nocopy,volume-opt=a=b,volume-label=c=d,volume-driver=x busybox",
    "--mount src=v,dst=/v busybox",
    '--mount \'"type=volume","src=a,b",dst=/v\' busybox',
    "-p 80:8080 -p 127.0.0.1::53/udp -P --expose 90-92 --expose 5/udp busybox",
    "-p 8000-8010:80 busybox",
    "-p 8000-8001:90-91 -p [::1]:5:6/tcp -p 7 busybox",
    "-p published=8080,target=80,protocol=udp busybox",
    "-e A=b -e GIVEN -e ABSENT busybox",
    "-l x=y -l z -l a.b=c=d busybox",
    "--ulimit nofile=5:6 --ulimit core=-1 busybox",
    "-m 64m --memory-swap -1 --memory-reservation 1g --cpus 1.5 --cpu-shares 5 --cpuset-cpus 0,1 busybox",
    "--cpu-period 1000 --cpu-quota 500 --cpuset-mems 0 --pids-limit 5 --memory-swappiness 5 busybox",
    "--restart on-failure:3 busybox",
    "--restart always busybox",
    "--restart unless-stopped busybox",
    "--device /dev/null --device /dev/zero:/dev/foo:r --device /dev/full:rw busybox",
    "--device-cgroup-rule 'c 1:3 mr' --device-write-bps /dev/sda:1mb --device-read-iops /dev/sda:5 busybox",
    "--blkio-weight 10 --blkio-weight-device /dev/sda:100 busybox",
    "--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=5 busybox",
    "--security-opt seccomp=unconfined --security-opt no-new-privileges --security-opt label=disable busybox",
    "--security-opt systempaths=unconfined busybox",
    "--network none --stop-timeout 5 --stop-signal INT --init busybox",
    "--health-cmd 'x y' --health-interval 5s --health-retries 3 --health-timeout 1m busybox",
    "--no-healthcheck busybox",
    "--log-opt a=b --log-driver json-file busybox",
    "--entrypoint foo busybox a",
    "--entrypoint '' busybox",
    "--shm-size 64m --annotation a=b --annotation c busybox",
    "-u 1:2 --userns host --cgroupns private --pid host --ipc host --uts host --group-add 5 busybox",
    "--pid container:abc --ipc shareable busybox",
    "--dns 1.1.1.1 --dns-search x --dns-option y --add-host a:1.2.3.4 --add-host b=::1 busybox",
    "--oom-kill-disable --oom-score-adj 5 --storage-opt size=5 --volumes-from c1:ro --cgroup-parent /x busybox",
    "--cap-add net_admin --cap-add CAP_SYS_ADMIN --cap-drop all --privileged --read-only busybox",
    "--cap-add ALL --cap-drop mknod --runtime runc busybox",
    "-h host --domainname dom -w /w busybox",
    "--network foo --network-alias q --ip 10.0.0.2 --link a:b --mac-address 02:42:00:00:00:01 busybox",
    "--network name=foo,alias=x,ip=1.2.3.4,driver-opt=a=b --network bar busybox",
    "--network host --platform linux/amd64 busybox",
    "--network container:abc busybox",
    "--gpus all busybox",
    "--gpus 2 busybox",
    "--gpus '\"device=0,1\"' busybox",
    "--rm --volume-driver x --cpu-rt-period 5 --cpu-rt-runtime 6 --isolation default busybox",
    "--link-local-ip 169.254.1.1 --network foo --ip6 2001:db8::1 busybox",
    "localhost:5000/a/b:c x",
]
LINES = [
    *(f"create {line}" for line in CREATE),
    "ps",
    "ps -aq -n 4 -f name=x -f name=y -f status=running",
    "ps -l",
    "ps -s",
    "container ls --no-trunc",
    "images",
    "images foo",
    "images -a -f dangling=true --digests",
    "rmi -f x --no-prune",
    "rmi a/b:c",
    "history x",
    "tag a b:c",
    "tag a:1 localhost:5000/b",
    "pull x",
    "pull -a x",
    "pull localhost:5000/a/b:c",
    f"pull x@sha256:{'ab' * 32} --platform linux/arm64",
    "save x y -o out",
    "load -q -i given",
    "import given a:b -m hi -c 'CMD x' -c 'ENV a=b'",
    "import http://x/y a",
    "stats --no-stream a",
    "update -m 100m --memory-swap -1 --memory-reservation 50m --pids-limit 7 a b",
    "update --cpus 1.5 --cpuset-cpus 0 --cpuset-mems 0 --cpu-shares 5 --restart on-failure:3 a",
    "update --cpu-period 1000 --cpu-quota 2000 --cpu-rt-period 1 --cpu-rt-runtime 2 --blkio-weight 10 a",
    "stop -t 5 a b",
    "stop a",
    "stop -s INT --time 3 a",
    "kill a",
    "kill -s HUP a",
    "restart -t -1 a",
    "rm -f -v a",
    "rm -l a/b",
    "rename a b",
    "top a aux -x",
    "wait a",
    "logs a",
    "logs -f --tail 5 -t --since 2026-01-01T00:00:00Z a",
    "logs --details --until 2026-01-01 a",
    "exec a b",
    "exec -d -e a=b -w /x -u y --privileged a b c",
    "exec -i a b",
    "events --since 2026-01-01T00:00:00Z --until 2026-01-02T00:00:00Z -f type=container -f label=x",
    "info",
    "version",
    "image prune -f",
    "image prune -af --filter until=5h",
    "container prune -f --filter label=x",
    "system df",
    "inspect --type container -s a",
    "image inspect a/b:c",
    "port a",
    "diff a",
    "pause a",
    "unpause a",
    "start a",
    "commit -m hi -a me -c 'CMD x' -p=false a b",
    "export a -o out",
    "run -d busybox x",
    "run -a stdout busybox",
    "run --detach-keys ctrl-a busybox",
]


@pytest.mark.parametrize("line", LINES)
def test_requests_are_dockers(tmp_path: object, line: str) -> None:
    with open(os.path.join(str(tmp_path), "given"), "wb") as file:
        file.write(b"bytes")
    docker = requests_of(tmp_path, ["docker"], "DOCKER_HOST", line)
    ours = requests_of(tmp_path, [sys.executable, "-m", "wherry.cli"], "WHERRY_HOST", line)
    # Two that docker sends and wherry does without: the look at the container before an exec, and the answer to a
    # wait that `run -d` never reads.
    if line.startswith("exec"):
        docker = [request for request in docker if request[0] != "GET"]
    if line.startswith("run -d"):
        docker = [request for request in docker if not request[1].endswith("/wait")]
    for requests in (docker, ours):
        for request in requests:
            body: Any = request[3]
            if (
                isinstance(body, dict)
                and "NetworkingConfig" in body
                and set(body["NetworkingConfig"].get("EndpointsConfig", {})) <= {"default"}
            ):
                del body["NetworkingConfig"]  # an endpoint of the usual network about which nothing is said
    assert ours == docker


PROGRESS = [
    {"status": "Pulling from library/x", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    {"status": "Waiting", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    {"status": "Downloading", "progressDetail": {"current": 511, "total": 1_000_000}, "progress": "[>  ]", "id": "aaaaaaaaaaaa"},
    {"status": "Downloading", "progressDetail": {"current": 999_999, "total": 1_000_000}, "id": "aaaaaaaaaaaa"},
    {"status": "Downloading", "progressDetail": {"current": 5000}, "id": "bbbbbbbbbbbb"},
    {"status": "Verifying Checksum", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Extracting", "progressDetail": {"current": 3, "units": "s"}, "id": "aaaaaaaaaaaa"},
    {"status": "Extracting", "progressDetail": {"current": 7, "total": 5}, "id": "bbbbbbbbbbbb"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Digest: sha256:00"},
    {"status": "Already exists", "progressDetail": {}, "id": "cccccccccccc"},
    {"stream": "a stream\n"},
    {"aux": {"ID": "x"}},
    {"status": "Status: Downloaded newer image for x:latest"},
]  # fmt: skip


def progress_answer(request: Request) -> list[bytes]:
    if "/images/create" not in request.target:
        return answer(request)
    body = "".join(json.dumps(message) + "\r\n" for message in PROGRESS)
    if "broken" in request.target:
        body += '{"errorDetail":{"message":"it broke"},"error":"it broke"}\r\n'
    return json_answer(body)


@pytest.mark.parametrize("columns", [60, 100, 180])
@pytest.mark.parametrize("image", ["x", "broken", "-q x"])
def test_progress_is_drawn_as_docker_draws_it(tmp_path: object, image: str, columns: int) -> None:
    drawn: list[tuple[int, bytes]] = []
    for command, variable in (
        (["docker"], "DOCKER_HOST"),
        ([sys.executable, "-m", "wherry.cli"], "WHERRY_HOST"),
    ):
        path = os.path.join(str(tmp_path), variable)
        environ = {**os.environ, variable: f"unix://{path}", "HOME": str(tmp_path), "TERM": "xterm"}
        environ["PYTHONPATH"] = os.path.dirname(os.path.dirname(wherry.__file__))
        with Server(path, progress_answer):
            screen = Terminal([*command, "pull", *image.split()], environ, 40, columns)
            code = screen.wait()
        drawn.append((code, screen.text))
    assert drawn[1] == drawn[0]
