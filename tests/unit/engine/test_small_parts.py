"""Times, names, events, /etc files, log details and the state table."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine.events import BACKLOG, REPLAY, Events
from wherry.engine.log_details import details_for, expand_tag, tag_for
from wherry.engine.names import check_name, suggest_name
from wherry.engine.times import ago, parse_timestamp, rfc3339
from wherry.errors import InvalidParameter
from wherry.model.events import Event


def test_rfc3339() -> None:
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339(1_795_558_125_654_587_577) == "2026-11-24T22:08:45.654587577Z"
    assert rfc3339(1_795_558_125_500_000_000) == "2026-11-24T22:08:45.5Z"
    assert rfc3339(1_795_558_125_000_000_000) == "2026-11-24T22:08:45Z"


@given(st.integers(min_value=10**9, max_value=4 * 10**18))
def test_a_time_reads_back(ns: int) -> None:
    seconds, fraction = divmod(ns, 10**9)
    assert parse_timestamp(f"{seconds}.{fraction:09d}") == ns


def test_timestamps() -> None:
    assert parse_timestamp("10m", now_ns=600 * 10**9) == 0
    assert parse_timestamp("1.5") == 1_500_000_000
    assert parse_timestamp("1970-01-01T00:00:10Z") == 10 * 10**9
    with pytest.raises(InvalidParameter, match="invalid timestamp 'what'"):
        parse_timestamp("what")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (200, "3 minutes"),
        (3600, "About an hour"), (7200, "2 hours"), (3 * 86400, "3 days"), (30 * 86400, "4 weeks"),
        (90 * 86400, "3 months"), (800 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_ago(seconds: float, text: str) -> None:
    assert ago(seconds) == text


def test_names() -> None:
    assert check_name("/web.1_a-b") == "web.1_a-b"
    for bad in ("a", "-ab", "a b", "", "ä1", "a/b", "ab\n"):
        with pytest.raises(InvalidParameter, match="only \\[a-zA-Z0-9\\]"):
            check_name(bad)
    for attempt in range(20):
        check_name(suggest_name(attempt))


def test_log_details() -> None:
    options = {"labels": "a,none", "env-regex": "^P", "tag": "{{.Name}}/{{ .ID }}"}
    found = details_for(options, labels={"a": "1", "b": "2"}, env=["PATH=/bin", "X=1"])
    assert found == {"a": "1", "PATH": "/bin"}
    fields = {"Name": "web", "ID": "abc"}
    assert (tag_for(options, "{{.ID}}", fields), tag_for({}, "{{.ID}}", fields)) == ("web/abc", "abc")
    for bad in ("{{.Nope}}", "{{if .Name}}x{{end}}"):
        with pytest.raises(InvalidParameter, match="invalid log tag"):
            expand_tag(bad, {"Name": "web"})


async def collect(events: Events, **filters: list[str]) -> list[str]:
    found: list[str] = []
    async for event in events.subscribe(since_ns=0, until_ns=2**62, filters=filters):
        found.append(event.action)
        if len(found) >= 9 or event.action == "last":
            break
    return found


async def test_events_are_filtered_as_docker_does() -> None:
    events = Events()
    events.emit("container", "start", "c1" * 32, {"name": "web", "image": "busybox:1", "a": "b"})
    events.emit("container", "exec_start: true", "c1" * 32, {"name": "web2", "image": "busybox:1"})
    events.emit("image", "pull", "busybox:1", {"name": "busybox"})
    events.emit("container", "die", "d2" * 32, {"name": "db", "image": "redis"})
    for kind in ("container", "image"):
        events.emit(kind, "last", "c1" * 32, {"name": "web", "image": "busybox:1", "a": "b"})
    assert await collect(events, container=["web"]) == ["start", "exec_start: true", "last"]
    assert await collect(events, container=["c1"], event=["exec_start", "last"]) == [
        "exec_start: true",
        "last",
    ]
    assert await collect(events, type=["image"]) == ["pull", "last"]
    assert await collect(events, image=["busybox"]) == ["start", "exec_start: true", "pull", "last"]
    assert await collect(events, label=["a=b"]) == ["start", "last"]


async def test_a_listener_that_does_not_read_is_cut_off_and_holds_nobody() -> None:
    events = Events()
    stream = events.subscribe(since_ns=None, until_ns=None, filters={})
    first: asyncio.Future[Event] = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    for number in range(BACKLOG + 10):
        events.emit("daemon", str(number), "", {})
    assert events.listeners == 0
    assert (await first).action == "0"
    rest = [event.action async for event in stream]
    assert len(rest) == BACKLOG - 1


async def test_the_past_is_kept_within_bounds() -> None:
    events = Events()
    for number in range(REPLAY + 5):
        events.emit("daemon", str(number), "", {})
    stream = events.subscribe(since_ns=0, until_ns=1, filters={})
    assert [event async for event in stream] == []  # nothing was before 1970
    stream = events.subscribe(since_ns=0, until_ns=2**61, filters={})
    assert (await anext(stream)).action == "5"
