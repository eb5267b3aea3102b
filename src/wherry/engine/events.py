"""What happened, told to whoever listens. The last 256 events are kept for those who ask for the past."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping

from wherry.model.events import Actor, Event

REPLAY = 256
"""Events kept in memory, as many as Docker keeps."""
BACKLOG = 4096
"""Events a slow listener may lag behind before it is cut off: one bad reader must not hold the engine."""

Filters = Mapping[str, list[str]]


class Events:
    """The engine's one stream of events."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=REPLAY)
        self._listeners: set[asyncio.Queue[Event | None]] = set()

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def emit(self, kind: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        """Tell everybody. Never waits: a listener too far behind is dropped and its stream ends."""
        now_ns = time.time_ns()
        event = Event(
            type=kind,
            action=action,
            actor=Actor(id=actor_id, attributes=attributes),
            time=now_ns // 1_000_000_000,
            time_nano=now_ns,
        )
        if kind in ("container", "image"):  # Docker's older form of the same
            event.status = action
            event.id = actor_id
            if kind == "container":
                event.from_ = attributes.get("image", "")
        self._past.append(event)
        for queue in list(self._listeners):
            if queue.qsize() >= BACKLOG:
                self._listeners.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    def subscribe(
        self, *, since_ns: int | None, until_ns: int | None, filters: Filters
    ) -> AsyncGenerator[Event]:
        """Past events from `since_ns`, then those to come, until `until_ns` if given.

        Listening begins now, not with the first step: what happens in between is not missed.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        matches = event_filter(filters)
        past: list[Event] = []
        if since_ns is not None or until_ns is not None:
            end_ns = 2**63 if until_ns is None else until_ns
            past = [e for e in self._past if (since_ns or 0) <= e.time_nano <= end_ns and matches(e)]
        self._listeners.add(queue)
        stream = self._stream(queue, past, until_ns, matches)
        weakref.finalize(stream, self._listeners.discard, queue)  # a stream nobody ever took a step in
        return stream

    async def _stream(
        self,
        queue: asyncio.Queue[Event | None],
        past: list[Event],
        until_ns: int | None,
        matches: Callable[[Event], bool],
    ) -> AsyncGenerator[Event]:
        try:
            for event in past:
                yield event
            while True:
                left_s = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
                if left_s is not None and left_s <= 0:
                    return
                try:
                    async with asyncio.timeout(left_s):
                        event = await queue.get()
                except TimeoutError:
                    return
                if event is None:
                    return
                if matches(event):
                    yield event
        finally:
            self._listeners.discard(queue)


def event_filter(filters: Filters) -> Callable[[Event], bool]:
    """Docker's rules: keys are ANDed, values of a key ORed (labels ANDed); unknown keys match nothing wrong and are ignored."""

    def by_actor(kind: str, event: Event, wanted: list[str]) -> bool:
        """By ID or name, each as a beginning: Docker's "fuzzy" match."""
        if event.type != kind:
            return False
        names = [
            event.actor.id.removeprefix("sha256:"),
            event.actor.id,
            event.actor.attributes.get("name", ""),
        ]
        return any(name.startswith(value) for value in wanted for name in names if value)

    def by_label(event: Event, wanted: list[str]) -> bool:
        for label in wanted:
            key, has_value, value = label.partition("=")
            have = event.actor.attributes.get(key)
            if have is None or (has_value and have != value):
                return False
        return True

    def matches(event: Event) -> bool:
        for key, wanted in filters.items():
            if not wanted:
                continue
            if key == "type" and event.type not in wanted:
                return False
            if key in ("event", "action") and not any(
                event.action == value or event.action.startswith(value + ":") for value in wanted
            ):
                return False
            if key in ("container", "network", "volume", "daemon", "plugin"):
                if not by_actor(key, event, wanted):
                    return False
            elif key == "image":
                if not (
                    by_actor("image", event, wanted)
                    or (
                        event.type == "container"
                        and _is_image(event.actor.attributes.get("image", ""), wanted)
                    )
                ):
                    return False
            elif (key == "label" and not by_label(event, wanted)) or (
                key == "scope" and event.scope not in wanted
            ):
                return False
        return True

    return matches


def _is_image(name: str, wanted: list[str]) -> bool:
    """Whether a container's image is one of `wanted`, with or without its tag."""
    repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
    return name in wanted or repository in wanted
