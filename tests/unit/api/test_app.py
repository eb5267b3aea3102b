from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.unit.api.conftest import Server
from wherry.engine.logs import LogsOptions

HEADERS = {
    "Api-Version": "1.51",
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": "Docker/28.0.0-test (linux)",
}
NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.51"])
async def test_ping(server: Server, prefix: str) -> None:
    answer = await server.ask("GET", f"{prefix}/_ping")
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["Swarm"] == "inactive"
    assert answer.headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
    assert answer.headers["Pragma"] == "no-cache"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    head = await server.ask("HEAD", f"{prefix}/_ping")
    assert (head.status, head.headers["Content-Length"]) == (200, "0")


@pytest.mark.parametrize(
    "target", ["/_ping", "/info", "/nope", "/containers/none/json", "/v1.99/info", "/containers/json?limit=x"]
)
async def test_every_answer_says_who_we_are(server: Server, target: str) -> None:
    answer = await server.ask("GET", target)
    assert HEADERS.items() <= answer.headers.items()


async def test_unknown_paths_and_methods_are_not_found(server: Server) -> None:
    for method, target in [
        ("GET", "/nope"),
        ("GET", "/v1.41/nope"),
        ("GET", "/containers/json/"),
        ("PUT", "/info"),
        ("GET", "/containers/create"),
        ("POST", "/containers/x/nope"),
        ("GET", "/"),
        ("GET", "/v1.41"),
        ("GET", "/v1.41/"),
    ]:
        answer = await server.ask(method, target)
        assert (answer.status, answer.message) == (404, "page not found"), target


async def test_options_is_empty(server: Server) -> None:
    answer = await server.ask("OPTIONS", "/anything")
    assert (answer.status, answer.body) == (200, b"")


async def test_untidy_paths_are_redirected(server: Server) -> None:
    for target, clean in [("//info", "/info"), ("/containers/..%2fjson", "/json"), ("/a/./b", "/a/b")]:
        answer = await server.ask("GET", target)
        assert (answer.status, answer.headers["Location"]) == (301, clean)


async def test_version_refusals(server: Server) -> None:
    new = await server.ask("GET", "/v1.99/info")
    assert (new.status, new.message) == (
        400,
        "client version 1.99 is too new. Maximum supported API version is 1.51",
    )
    old = await server.ask("GET", "/v1.20/info")
    assert old.status == 400
    assert old.headers["Content-Type"].startswith("text/plain")
    assert old.body.startswith(b"client version 1.20 is too old.")
    assert old.body.endswith(b"\n")


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/swarm", 503, NOT_A_MANAGER),
        ("/nodes", 503, NOT_A_MANAGER),
        ("/services/x/logs?stdout=1", 503, NOT_A_MANAGER),
        ("/tasks/x", 503, NOT_A_MANAGER),
        ("/secrets", 503, NOT_A_MANAGER),
        ("/configs/x", 503, NOT_A_MANAGER),
        ("/plugins/x/json", 404, 'plugin "x" not found'),
        ("/volumes/x", 404, "get x: no such volume"),
        ("/containers/none/json", 404, "No such container: none"),
        ("/exec/none/json", 404, "No such exec instance: none"),
        ("/containers/none/logs", 400, "Bad parameters: you must choose at least one stream"),
        ("/containers/json?limit=abc", 400, 'strconv.Atoi: parsing "abc": invalid syntax'),
    ],
)
async def test_dockers_own_refusals(server: Server, path: str, status: int, message: str) -> None:
    answer = await server.ask("GET", path)
    assert (answer.status, answer.message) == (status, message)


async def test_what_tools_poll_for(server: Server) -> None:
    assert (await server.ask("GET", "/plugins")).json() == []
    assert (await server.ask("GET", "/volumes")).json() == {"Volumes": [], "Warnings": None}
    assert (await server.ask("GET", "/networks/")).json() == [{"Name": "bridge"}]
    assert (await server.ask("GET", "/version")).json()["ApiVersion"] == "1.51"


# Bodies


async def test_create(server: Server) -> None:
    answer = await server.ask(
        "POST",
        "/containers/create?name=web&platform=linux/amd64",
        {"Image": "x", "hostconfig": {"PRIVILEGED": True}},
    )
    assert answer.status == 201
    assert answer.json()["Warnings"] == []
    ((_, body, name, platform),) = server.engine.noted("create")
    assert (body.image, body.host_config.privileged, name, platform) == ("x", True, "web", "linux/amd64")
    again = await server.ask("POST", "/containers/create?name=web", {"Image": "x"})
    assert again.status == 409


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x", {"Content-Type": "text/plain"}, 400),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 400),
        (b"{}", {"Content-Type": ""}, 400),
        (b'{"Image":"x"}', {"Content-Type": "Application/JSON; charset=utf-8"}, 201),
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"null", {}, 400),
        (b"{}", {}, 400),
        (b'{"HostConfig":{}}', {}, 400),
        (b'{"Image":3}', {}, 400),
        (b'{"Image":"x"} x', {}, 400),
        (b'{"Image":""}', {}, 201),
        (b'{"image":""}', {}, 201),
        (b'{"Image":"x","Cmd":"ls","Shell":"sh","Entrypoint":"e"}', {}, 201),
        (b'{"Image":"x","Env":"A=b"}', {}, 400),
        (b"[" * 200_000, {}, 400),
        (b'{"Image":"x","StopTimeout":' + b"9" * 5000 + b"}", {}, 400),
        (b'{"Image":"x","HostConfig":{"Memory":NaN}}', {}, 400),
        (b'{"Image":"\xff"}', {}, 400),
        (b'{"Image":"\\ud800"}', {}, 400),
        (b'{"Image":"x","Labels":{"a":"' + b"b" * 8_000_000 + b'"}}', {}, 413),
        (
            b'{"Image":"x","Labels":{' + b",".join(b'"l%d":""' % n for n in range(50_000)) + b"}}",
            {},
            201,
        ),
    ],
)
async def test_bodies_of_create(server: Server, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = await server.ask("POST", "/containers/create", body, headers)
    assert answer.status == status, answer.body[:200]
    if status != 201:
        assert 0 < len(answer.message) < 600
        assert not server.engine.noted("create")
    assert (await server.ask("GET", "/_ping")).status == 200


async def test_the_wrong_content_type_is_named(server: Server) -> None:
    answer = await server.ask("POST", "/containers/create", b"x", {"Content-Type": "text/plain"})
    assert answer.message == "unsupported Content-Type header (text/plain): must be 'application/json'"


async def test_a_command_may_be_one_string(server: Server) -> None:
    await server.ask("POST", "/containers/create", {"Image": "x", "Cmd": "ls"})
    assert server.engine.noted("create")[0][1].cmd == ["ls"]


async def test_texts_that_dockers_api_adds(server: Server) -> None:
    for target, status, message in [
        ("/containers/none/kill", 404, "cannot kill container: none: No such container: none"),
        ("/containers/none/rename", 400, "Neither old nor new names may be empty"),
        ("/containers/none/resize?h=what&w=1", 400, 'invalid resize height "what": invalid syntax'),
        ("/containers/none/resize?h=1", 400, 'invalid resize width "": invalid syntax'),
        ("/containers/none/resize?h=1&w=70000", 400, 'invalid resize width "70000": value out of range'),
        ("/containers/prune?filters=what", 400, "invalid filter"),
    ]:
        answer = await server.ask("POST", target)
        assert (answer.status, answer.message) == (status, message)


async def test_start_takes_no_body_to_speak_of(server: Server) -> None:
    server.engine.containers.add("web")
    refused = await server.ask("POST", "/containers/web/start", {"Binds": ["/:/host"]})
    assert refused.status == 400
    assert "starting container with non-empty request body" in refused.message
    assert (await server.ask("POST", "/containers/web/start", {})).status == 204
    again = await server.ask("POST", "/containers/web/start")
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    ("version", "expected"), [("v1.51", (7, "HUP")), ("v1.41", (7, None)), ("v1.42", (7, "HUP"))]
)
async def test_stop_knows_a_signal_since_1_42(server: Server, version: str, expected: Any) -> None:
    server.engine.containers.add("web")
    assert (await server.ask("POST", f"/{version}/containers/web/stop?t=7&signal=HUP")).status == 204
    assert server.engine.noted("stop") == [("stop", *expected)]


async def test_parameters_reach_the_engine(server: Server) -> None:
    server.engine.containers.add("web")
    await server.ask("DELETE", "/containers/web?v=1&force=true&link=0")
    assert server.engine.noted("remove") == [("remove", True, True, False)]
    filters = quote('{"status":["exited"]}')
    await server.ask("GET", f"/containers/json?all=1&limit=5&size=0&filters={filters}")
    assert server.engine.noted("list") == [("list", True, 5, False, {"status": ["exited"]})]
    server.engine.containers.add("web")
    await server.ask("POST", "/containers/web/resize?h=10&w=20")
    assert server.engine.noted("resize") == [("resize", 10, 20)]
    await server.ask("GET", "/containers/web/logs?stdout=1&tail=3&since=1.5&timestamps=1")
    assert server.engine.noted("logs") == [
        ("logs", LogsOptions(stdout=True, timestamps=True, since_ns=1_500_000_000, tail=3))
    ]


@pytest.mark.parametrize("query", ["", "h=1", "h=1&w=x", "h=-1&w=1", "h=1&w=70000"])
async def test_bad_sizes_are_refused(server: Server, query: str) -> None:
    server.engine.containers.add("web")
    assert (await server.ask("POST", f"/containers/web/resize?{query}")).status == 400


async def test_older_clients_get_older_shapes(server: Server) -> None:
    server.engine.containers.add("web")
    new = (await server.ask("GET", "/containers/json")).json()[0]
    old = (await server.ask("GET", "/v1.45/containers/json")).json()[0]
    assert new["HostConfig"] == {"NetworkMode": "", "Annotations": {"a": "b"}}
    assert old["HostConfig"] == {"NetworkMode": ""}
    assert (await server.ask("GET", "/v1.43/images/json")).json()[0]["VirtualSize"] == 3
    assert "VirtualSize" not in (await server.ask("GET", "/v1.44/images/x/json")).json()


async def test_image_names_may_hold_slashes(server: Server) -> None:
    digest = "sha256:" + "a" * 64
    for name in ("busybox", "a/b/c:tag", f"localhost:5000/x@{digest}", "a/json", "json"):
        answer = await server.ask("GET", f"/images/{quote(name, safe='/:@')}/json")
        assert answer.json()["Id"] == name
        answer = await server.ask("GET", f"/images/{quote(name, safe='')}/json")
        assert answer.json()["Id"] == name
    await server.ask("POST", "/images/a/b/tag?repo=c/d&tag=e")
    assert server.engine.noted("tag") == [("tag", "a/b", "c/d", "e")]


@pytest.mark.parametrize(
    "header",
    [
        "eyJ1c2VybmFtZSI6Ij8_Pz4-PiJ9",  # url-safe alphabet
        "eyJ1c2VybmFtZSI6Ij8/Pz4+PiJ9",
        "eyJ1c2VybmFtZSI6Ij8_Pz4-Pn4ifQ==",
        "eyJ1c2VybmFtZSI6Ij8_Pz4-Pn4ifQ",
    ],
)
async def test_credentials_in_every_alphabet(server: Server, header: str) -> None:
    await server.ask("POST", "/images/create?fromImage=x&tag=y", headers={"X-Registry-Auth": header})
    ((_, name, tag, _, auth),) = server.engine.noted("pull")
    assert (name, tag, auth.username[:6]) == ("x", "y", "???>>>")


@pytest.mark.parametrize("header", ["", "e30=", "!!!", "bm90IGpzb24="])
async def test_unreadable_credentials_are_none(server: Server, header: str) -> None:
    answer = await server.ask("POST", "/images/create?fromImage=x", headers={"X-Registry-Auth": header})
    assert answer.status == 200


# Hostile paths

HOSTILE = [
    "..%2f..%2fetc",
    "%2e%2e",
    "..",
    "%00",
    "a%00b",
    "%c0%ae%c0%ae",
    "%ff",
    "%ed%a0%80",
    "%",
    "%zz",
    "a" * 60_000,
    "${jndi:x}",
    "{{.Id}}",
    "%0d%0aX:%20y",
    "*",
    "%20",
    "-rf",
]
ENDPOINTS = [
    ("GET", "/containers/{}/json"),
    ("GET", "/containers/{}/top"),
    ("GET", "/containers/{}/logs?stdout=1"),
    ("GET", "/containers/{}/attach/ws"),
    ("POST", "/containers/{}/start"),
    ("POST", "/containers/{}/stop"),
    ("POST", "/containers/{}/kill"),
    ("POST", "/containers/{}/attach"),
    ("POST", "/containers/{}/wait"),
    ("POST", "/containers/{}/rename?name=x"),
    ("POST", "/containers/{}/resize?h=1&w=1"),
    ("DELETE", "/containers/{}"),
    ("POST", "/exec/{}/start"),
    ("GET", "/exec/{}/json"),
    ("GET", "/networks/{}"),
]


@pytest.mark.parametrize("ref", HOSTILE)
async def test_hostile_ids_are_refused(server: Server, ref: str) -> None:
    for method, template in ENDPOINTS:
        answer = await server.ask(method, template.format(ref))
        assert 300 <= answer.status < 500, (template, answer)
        assert "\n" not in answer.headers.get("Location", "")


@pytest.mark.parametrize("query", ["name=%ff", "name=%00", "&".join(f"a{n}=1" for n in range(2000))])
async def test_hostile_queries_are_refused(server: Server, query: str) -> None:
    answer = await server.ask("POST", f"/containers/create?{query}", {"Image": "x"})
    assert answer.status == 400


async def test_a_bug_is_a_short_500(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(server.engine.system, "version", broken)
    answer = await server.ask("GET", "/version")
    assert answer.status == 500
    assert "KeyError" in answer.message
    assert b"Traceback" not in answer.body
    assert b"secret" not in answer.body


async def test_a_full_disk_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full() -> None:
        raise OSError(28, "No space left on device", "/var/lib/x")

    monkeypatch.setattr(server.engine.system, "version", full)
    answer = await server.ask("GET", "/version")
    assert (answer.status, answer.message) == (500, "no space left on device: /var/lib/x")


async def test_answers_are_json_lines(server: Server) -> None:
    answer = await server.ask("GET", "/info")
    assert answer.body.endswith(b"}\n")
    json.loads(answer.body)


async def test_http_10_works(server: Server) -> None:
    client = await server.connect()
    client.send(b"GET /_ping HTTP/1.0\r\n\r\n")
    assert (await client.rest()).endswith(b"\r\n\r\nOK")
    client = await server.connect()
    client.send(b"GET /containers/json HTTP/1.0\r\n\r\n")
    assert (await client.rest()).endswith(b"\r\n\r\n[]\n")


async def test_absolute_targets_work(server: Server) -> None:
    assert (await server.ask("GET", "http://docker/_ping")).body == b"OK"


async def test_import_takes_a_stream_or_a_url(server: Server) -> None:
    await server.ask("POST", "/images/create?fromSrc=-&repo=a&tag=b&message=m&changes=C1&changes=C2", b"tar")
    await server.ask("POST", "/images/create?fromSrc=http://x/y.tar")
    assert server.engine.noted("import") == [
        ("import", b"tar", "a", "b", "m", ["C1", "C2"]),
        ("import", "http://x/y.tar", "", "", "", []),
    ]
    assert (await server.ask("POST", "/images/create")).status == 400
