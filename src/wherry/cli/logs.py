"""`logs`: what a container's process has written."""

from __future__ import annotations

import time

from wherry.cli import units
from wherry.cli.flags import BOOL, STRING, Command, Options
from wherry.cli.session import Exit, Session
from wherry.client.api import segment


def _logs(session: Session, options: Options, arguments: list[str]) -> int:
    path = f"/containers/{segment(arguments[0])}"
    query = [("stdout", "1"), ("stderr", "1")]
    now = time.time()
    for flag in ("since", "until"):
        if options.text(flag):
            try:
                query.append((flag, units.since_argument(options.text(flag), now)))
            except ValueError as exc:
                raise Exit(1, f'invalid value for "{flag}": {exc}') from None
    query += [(flag, "1") for flag in ("details", "follow", "timestamps") if options.on(flag)]
    query.append(("tail", options.text("tail")))
    tty = session.client.get(f"{path}/json")["Config"].get("Tty")
    response = session.client.call("GET", f"{path}/logs", query)
    from wherry.cli.streams import Demultiplexer, write_all, write_stream

    if tty:
        for piece in response.pieces():
            write_all(1, piece)
        return 0
    frames = Demultiplexer(write_stream)
    for piece in response.pieces():
        frames.feed(piece)
    if not frames.is_between_frames:
        raise Exit(1, "unexpected EOF")
    return 0


_TIME = 'timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)'

COMMANDS = {
    "logs": Command(
        _logs,
        "[OPTIONS] CONTAINER",
        (1, 1),
        (
            ("details", "", BOOL, "Show extra details provided to logs"),
            ("follow", "f", BOOL, "Follow log output"),
            ("since", "", STRING, f"Show logs since {_TIME}"),
            ("tail", "n", STRING, "Number of lines to show from the end of the logs", "all"),
            ("timestamps", "t", BOOL, "Show timestamps"),
            ("until", "", STRING, f"Show logs before a {_TIME}"),
        ),
        examples="""
wherry logs -f --tail 20 web        the last lines, and then as they come
wherry logs --since 10m -t web
""",
    ),
}
