"""`stats`: what containers use, as one table that is drawn anew, or once.

One thread a container reads its stream; the main thread draws what they have read last. docker's arithmetic.
"""

from __future__ import annotations

import threading
import time

from wherry.cli import listing, units
from wherry.cli.flags import BOOL, Command, Options
from wherry.cli.listing import Fields, short_id
from wherry.cli.session import Session
from wherry.client.answers import items, mapping
from wherry.client.api import decode, filters, messages, segment
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REDRAW_S = 0.5
COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
HEADERS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}


def stats_fields(container: str, found: dict[str, Any] | None, *, trunc: bool) -> Fields:
    """What the table shows of one reading; None: there is none yet, or no more."""
    stats = found or {}

    def shown(text: Callable[[], str], unknown: str = "--") -> Callable[[], str]:
        return text if found is not None else lambda: unknown

    def memory() -> str:
        return f"{units.bytes_size(memory_used(stats))} / {units.bytes_size(memory_limit())}"

    def memory_limit() -> int:
        return mapping(stats, "memory_stats").get("limit", 0)

    def memory_share() -> str:
        limit = memory_limit()
        return f"{memory_used(stats) / limit * 100 if limit else 0:.2f}%"

    def network() -> str:
        interfaces = mapping(stats, "networks").values()
        return _pair(sum(i["rx_bytes"] for i in interfaces), sum(i["tx_bytes"] for i in interfaces))

    def block() -> str:
        entries = items(mapping(stats, "blkio_stats"), "io_service_bytes_recursive")
        return _pair(*(sum(e["value"] for e in entries if e["op"][:1].lower() == op) for op in "rw"))

    container_id = stats.get("id", "")
    fields: dict[str, Callable[[], Any]] = {
        "Container": lambda: container,
        "ID": lambda: (short_id(container_id) if trunc else container_id) or container,
        "Name": lambda: stats.get("name", "").removeprefix("/") or "--",
        "CPUPerc": shown(lambda: f"{cpu_percent(stats):.2f}%"),
        "MemUsage": shown(memory, "-- / --"),
        "MemPerc": shown(memory_share),
        "NetIO": shown(network),
        "BlockIO": shown(block),
        "PIDs": shown(lambda: str(mapping(stats, "pids_stats").get("current", 0))),
    }
    return Fields(fields)


def _pair(first: float, second: float) -> str:
    return f"{units.human_size(first, 3)} / {units.human_size(second, 3)}"


def cpu_percent(stats: dict[str, Any]) -> float:
    """Of one processor, between this reading and the one before it."""
    now, before = mapping(stats, "cpu_stats"), mapping(stats, "precpu_stats")
    used = mapping(now, "cpu_usage").get("total_usage", 0) - mapping(before, "cpu_usage").get(
        "total_usage", 0
    )
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus", 0) or len(items(mapping(now, "cpu_usage"), "percpu_usage"))
    return used / passed * cpus * 100 if used > 0 and passed > 0 else 0.0


def memory_used(stats: dict[str, Any]) -> int:
    """Without the part of the page cache that is given back first."""
    memory = mapping(stats, "memory_stats")
    usage, counters = memory.get("usage", 0), mapping(memory, "stats")
    inactive = counters.get("total_inactive_file", counters.get("inactive_file", 0))
    return usage - inactive if inactive < usage else usage


class _Display:
    """The rows of a table that is drawn again and again. Shared by the threads; `lock` guards `rows`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lock = threading.Lock()
        self.rows: dict[str, dict[str, Any] | None] = {}

    def follow(self, container: str) -> None:
        """Begin to show it."""
        with self.lock:
            if container in self.rows:
                return
            self.rows[container] = None
        threading.Thread(target=self._read, args=(container,), daemon=True).start()

    def drop(self, container: str) -> None:
        with self.lock:
            self.rows.pop(container, None)

    def _read(self, container: str) -> None:
        client = self.session.another_client()
        try:
            path = f"/containers/{segment(container)}/stats"
            for stats in messages(client.call("GET", path, (("stream", "1"),))):
                with self.lock:
                    if container not in self.rows:
                        return
                    self.rows[container] = stats
        except (WherryError, OSError):
            pass  # the engine, or the container, is gone: so is the row
        finally:
            client.close()
            self.drop(container)

    def follow_events(self, show_all: bool) -> None:
        """Show containers that come, drop those that go."""
        client = self.session.another_client()
        try:
            response = client.call("GET", "/events", tuple(filters({"type": ["container"]})))
            for event in messages(response):
                container = short_id(mapping(event, "Actor").get("ID", ""))
                if event.get("Action") == ("create" if show_all else "start"):
                    self.follow(container)
                elif event.get("Action") == ("destroy" if show_all else "die"):
                    self.drop(container)
        except (WherryError, OSError):
            pass
        finally:
            client.close()


def _stats(session: Session, options: Options, arguments: list[str]) -> int:
    names = arguments
    if not names:
        query = (("all", "1"),) if options.on("all") else ()
        names = [short_id(found["Id"]) for found in session.client.get("/containers/json", query)]
    if options.on("no-stream"):
        return _once(session, options, names)
    for name in arguments:
        session.client.get(f"/containers/{segment(name)}/json")  # one that is not there is told of at once
    display = _Display(session)
    if not arguments:
        events = threading.Thread(target=display.follow_events, args=(options.on("all"),), daemon=True)
        events.start()
    for name in names:
        display.follow(name)
    while True:
        time.sleep(REDRAW_S)
        with display.lock:
            rows = list(display.rows.items())
        if arguments and not rows:
            return 0
        session.out("\033[H")
        _show(session, options, rows, end="\033[K")
        session.out("\033[J")
        session.flush()


def _once(session: Session, options: Options, names: list[str]) -> int:
    paths = [f"/containers/{segment(name)}/stats" for name in names]
    rows: list[tuple[str, dict[str, Any] | None]] = []
    for name, answer in zip(names, session.client.call_each("GET", paths, (("stream", "0"),)), strict=True):
        if isinstance(answer, WherryError):
            raise answer
        rows.append((name, decode(answer.read())))
    _show(session, options, rows)
    return 0


def _show(
    session: Session, options: Options, rows: list[tuple[str, dict[str, Any] | None]], *, end: str = ""
) -> None:
    trunc = not options.on("no-trunc")
    listing.show(
        session,
        [stats_fields(name, stats, trunc=trunc) for name, stats in rows],
        options.text("format"),
        columns=COLUMNS,
        headers=HEADERS,
        type_name="*container.statsContext",
        line_end=end,
    )


COMMANDS = {
    "stats": Command(
        _stats,
        "[OPTIONS] [CONTAINER...]",
        (0, None),
        (
            ("all", "a", BOOL, "Show all containers (default shows just running)"),
            listing.FORMAT_ROW,
            ("no-stream", "", BOOL, "Disable streaming stats and only pull the first result"),
            ("no-trunc", "", BOOL, "Do not truncate output"),
        ),
        examples="""
wherry stats                                                  everything that runs, drawn anew twice a second
wherry stats --no-stream web db
wherry stats --no-stream --format '{{.Name}}: {{.CPUPerc}}'
""",
    ),
}
