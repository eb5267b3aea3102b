from __future__ import annotations

import asyncio
import hashlib
import json

from tests.fakes.engine import frame
from tests.unit.api.conftest import Server, eventually


async def test_progress_is_json_lines(server: Server) -> None:
    answer = await server.ask("POST", "/images/create?fromImage=x&tag=y")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.body == b'{"status":"Pulling","id":"y"}\r\n{"status":"Done"}\r\n'


async def test_an_error_before_the_first_message_is_a_status(server: Server) -> None:
    answer = await server.ask("POST", "/images/create?fromImage=missing")
    assert (answer.status, answer.message) == (404, "pull access denied for missing")


async def test_a_later_error_is_the_last_message(server: Server) -> None:
    answer = await server.ask("POST", "/images/create?fromImage=breaks")
    assert answer.status == 200
    last = json.loads(answer.body.splitlines()[-1])
    assert last == {"errorDetail": {"message": "digest does not match"}, "error": "digest does not match"}


async def test_a_later_bug_shows_no_traceback(server: Server) -> None:
    answer = await server.ask("POST", "/images/create?fromImage=bug")
    assert b"Traceback" not in answer.body
    assert b"surprise" not in answer.body
    assert "KeyError" in json.loads(answer.body.splitlines()[-1])["error"]


async def test_a_pull_ends_when_its_client_leaves(server: Server) -> None:
    client = await server.connect()
    client.send(b"POST /images/create?fromImage=endless HTTP/1.1\r\nHost: d\r\n\r\n")
    await client.head()
    await client.chunk()
    await client.close()
    await server.engine.until_noted("pull closed")
    await eventually(lambda: not server.app.connections)


async def test_the_connection_serves_on_after_a_stream(server: Server) -> None:
    client = await server.connect()
    for _ in range(3):
        client.send(b"POST /images/create?fromImage=x HTTP/1.1\r\nHost: d\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_events_flush_their_head_at_once(server: Server) -> None:
    client = await server.connect()
    client.send(b"GET /events?since=1.5 HTTP/1.1\r\nHost: d\r\n\r\n")
    status, headers = await client.head()
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert server.engine.noted("events") == [("events", 1_500_000_000, None, {})]
    server.engine.events.emit("container", "start")
    line = await client.chunk()
    assert line.endswith(b"}\n")
    assert json.loads(line)["Action"] == "start"
    await client.close()
    await server.engine.until_noted("events closed")


async def test_events_end_for_a_client_that_only_half_closes(server: Server) -> None:
    """Go's server takes that for a client that left; so a pipe that ends, ends the stream."""
    client = await server.connect()
    client.send(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
    await client.head()
    client.end()
    await server.engine.until_noted("events closed")


async def test_image_create_events_are_news_to_old_clients(server: Server) -> None:
    client = await server.connect()
    client.send(b"GET /v1.45/events HTTP/1.1\r\nHost: d\r\n\r\n")
    await client.head()
    server.engine.events.emit("image", "create")
    server.engine.events.emit("image", "tag")
    assert json.loads(await client.chunk())["Action"] == "tag"
    await client.close()
    await server.engine.until_noted("events closed")


async def test_many_idle_streams_leave_nothing(server: Server) -> None:
    clients = [await server.connect() for _ in range(50)]
    for client in clients:
        client.send(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
        await client.head()
    assert len(server.engine.events.queues) == 50
    for client in clients:
        await client.close()
    await eventually(lambda: not server.engine.events.queues and not server.app.connections)


async def test_logs(server: Server) -> None:
    server.engine.containers.add("web")
    answer = await server.ask("GET", "/containers/web/logs?stdout=1")
    assert answer.body == frame(1, b"one\n") + frame(1, b"two\n")
    assert answer.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
    old = await server.ask("GET", "/v1.41/containers/web/logs?stdout=1")
    assert old.headers["Content-Type"] == "application/vnd.docker.raw-stream"


async def test_logs_that_fail_on_the_way_say_so(server: Server) -> None:
    server.engine.containers.add("broken")
    answer = await server.ask("GET", "/containers/broken/logs?stdout=1")
    assert answer.body == frame(1, b"one\n") + frame(3, b"Error grabbing logs: log is broken\n")


async def test_followed_logs_end_when_the_client_leaves(server: Server) -> None:
    server.engine.containers.add("web")
    client = await server.connect()
    client.send(b"GET /containers/web/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n")
    await client.head()
    assert await client.chunk() == frame(1, b"one\n")
    await client.close()
    await server.engine.until_noted("logs closed")


async def test_uploads_are_streamed(server: Server) -> None:
    client = await server.connect()
    client.send(b"POST /images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n")
    digest = hashlib.sha256()
    part = bytes(range(256)) * 1024
    for _ in range(100):
        client.send(b"%x\r\n%s\r\n" % (len(part), part))
        digest.update(part)
        await client.writer.drain()
    client.send(b"0\r\n\r\n")
    answer = await client.answer()
    assert answer.json()["stream"] == f"{100 * len(part)} {digest.hexdigest()}"


async def test_save(server: Server) -> None:
    answer = await server.ask("GET", "/images/get?names=a&names=b")
    assert (answer.body, answer.headers["Content-Type"]) == (b"tar of a,b", "application/x-tar")
    assert (await server.ask("GET", "/images/c/d/get")).body == b"tar of c/d"
    assert (await server.ask("GET", "/images/missing/get")).status == 404
    assert (await server.ask("GET", "/images/get")).status == 400


async def test_wait_flushes_its_head_and_is_answered_later(server: Server) -> None:
    web = server.engine.containers.add("web")
    client = await server.connect()
    client.send(b"POST /containers/web/wait?condition=next-exit HTTP/1.1\r\nHost: d\r\n\r\n")
    status, headers = await client.head()
    assert status == 200
    assert headers["Transfer-Encoding"] == "chunked"
    assert headers["Content-Type"] == "application/json"
    assert headers["Api-Version"] == "1.51"
    web.exit.set_result(3)
    assert json.loads(await client.chunk()) == {"StatusCode": 3}
    assert await client.rest() == b"0\r\n\r\n"


async def test_wait_refuses_what_is_no_condition(server: Server) -> None:
    server.engine.containers.add("web")
    answer = await server.ask("POST", "/containers/web/wait?condition=foo")
    assert (answer.status, answer.message) == (400, 'invalid condition: "foo"')
    assert (await server.ask("POST", "/containers/none/wait")).status == 404


async def test_wait_for_old_clients_is_an_ordinary_answer(server: Server) -> None:
    web = server.engine.containers.add("web")
    web.exit.set_result(3)
    answer = await server.ask("POST", "/v1.29/containers/web/wait?condition=removed")
    assert answer.json() == {"StatusCode": 3}
    assert server.engine.noted("wait") == [("wait", "not-running")]


async def test_a_slow_reader_holds_back_its_stream_only(server: Server) -> None:
    client = await server.connect()
    client.send(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
    await client.head()
    for _ in range(20_000):
        server.engine.events.emit("container", "start")
    async with asyncio.timeout(2):
        assert (await server.ask("GET", "/_ping")).status == 200
    await client.close()
    await server.engine.until_noted("events closed")
