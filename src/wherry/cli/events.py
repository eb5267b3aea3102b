"""`events`: what happens, as it happens."""

from __future__ import annotations

import sys
import time

from wherry.cli import units
from wherry.cli.flags import FILTER, STRING, Command, Options
from wherry.cli.listing import SHORT_FORMAT_HELP, gather_filters
from wherry.cli.session import Exit, Session
from wherry.client.answers import mapping
from wherry.client.api import filters, messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def event_line(event: dict[str, Any]) -> str:
    """One event as docker prints it: time, type, action, id, and the attributes in alphabetical order."""
    nano = event.get("timeNano") or 0
    seconds = nano // 1_000_000_000 if nano else event.get("time") or 0
    line = f"{units.rfc3339_local(seconds, nano % 1_000_000_000)} " if seconds else ""
    actor = mapping(event, "Actor")
    line += f"{event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    attributes = mapping(actor, "Attributes")
    if attributes:
        line += f" ({', '.join(f'{key}={attributes[key]}' for key in sorted(attributes))})"
    return line + "\n"


def _printer(format_text: str) -> Callable[[dict[str, Any]], str]:
    if not format_text:
        return event_line
    from wherry.cli.inspect import typed
    from wherry.cli.template.evaluate import Template
    from wherry.cli.template.nodes import TemplateError
    from wherry.cli.template.values import Struct, to_json

    if format_text == "json":
        return lambda event: to_json(typed(event)) + "\n"
    try:
        template = Template(format_text)
    except TemplateError as exc:
        raise Exit(64, f"Error parsing format: {exc}") from None

    def show(event: dict[str, Any]) -> str:
        actor = Struct(mapping(event, "Actor"))
        actor.setdefault("ID", "")
        actor.setdefault("Attributes", {})
        names = {
            "status": "Status",
            "id": "ID",
            "from": "From",
            "scope": "Scope",
            "time": "Time",
            "timeNano": "TimeNano",
        }
        fields = Struct(
            {"Status": "", "ID": "", "From": "", "Type": "", "Action": "", "Actor": actor, "Scope": ""}
        )
        fields.update({names.get(key, key): value for key, value in event.items() if key != "Actor"})
        try:
            return template.render(fields) + "\n"
        except TemplateError as exc:
            raise Exit(1, str(exc)) from None

    return show


def _events(session: Session, options: Options, arguments: list[str]) -> int:
    now = time.time()
    query: list[tuple[str, str]] = list(filters(gather_filters(options.many("filter"))))
    for flag in ("since", "until"):
        if options.text(flag):
            try:
                query.append((flag, units.since_argument(options.text(flag), now)))
            except ValueError as exc:
                raise Exit(1, str(exc)) from None
    show = _printer(options.text("format"))
    response = session.client.call("GET", "/events", query)
    for event in messages(response):
        sys.stdout.write(show(event))
        sys.stdout.flush()
    return 0


COMMANDS = {
    "events": Command(
        _events,
        rows=(
            ("filter", "f", FILTER, "Filter output based on conditions provided"),
            ("format", "", STRING, SHORT_FORMAT_HELP),
            ("since", "", STRING, "Show all events created since timestamp"),
            ("until", "", STRING, "Stream events until this timestamp"),
        ),
        examples="""
wherry events -f type=container -f event=die
wherry events --since 10m --until 0s      the last ten minutes
wherry events --format '{{.Action}} {{.Actor.Attributes.name}}'
""",
    ),
}
