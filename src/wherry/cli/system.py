"""`version`, `info` and `system dial-stdio`."""

from __future__ import annotations

import os
import sys
import time

from wherry.cli.flags import Command, Options
from wherry.cli.listing import SHORT_FORMAT_ROW
from wherry.cli.session import Exit, Session, describe
from wherry.client.answers import items, mapping
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.template.evaluate import Template

API_VERSION = "1.51"
"""The newest version of the API whose answers we read."""


def _arch() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}.get(machine, machine)


def client_version(server: dict[str, Any] | None) -> dict[str, Any]:
    """What we say about ourselves, in docker's fields."""
    from wherry import __version__

    api = API_VERSION
    if server is not None:
        api = min(API_VERSION, str(server.get("ApiVersion", API_VERSION)), key=_version_key)
    return {
        "Version": __version__,
        "ApiVersion": api,
        "DefaultAPIVersion": API_VERSION,
        "PythonVersion": sys.version.split()[0],
        "Os": "linux",
        "Arch": _arch(),
        "Context": "default",
    }


def _version_key(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))


def _version(session: Session, options: Options, arguments: list[str]) -> int:
    server: dict[str, Any] | None = None
    problem = ""
    try:
        server = session.client.get("/version")
        for component in items(server, "Components"):
            details = mapping(component, "Details")
            if "BuildTime" in details:
                details["BuildTime"] = _built(str(details["BuildTime"]))
    except WherryError as exc:
        problem = describe(exc)
    client = client_version(server)
    format_text = options.text("format")
    if format_text:
        session.out(_version_format(format_text, client, server))
    else:
        session.out(version_text(client, server))
    if problem:
        raise Exit(1, problem)
    return 0


def _version_format(format_text: str, client: dict[str, Any], server: dict[str, Any] | None) -> str:
    from wherry.cli.inspect import typed
    from wherry.cli.template.evaluate import Template
    from wherry.cli.template.nodes import TemplateError
    from wherry.cli.template.values import to_json

    both = {"Client": client, "Server": server}
    if format_text == "json":
        return to_json(typed(both)) + "\n"
    try:
        template = Template(format_text, name="version")
    except TemplateError as exc:
        raise Exit(64, f"template parsing error: {exc}") from None
    value = typed(both)
    _name(value, "system.versionInfo")
    return _render(template, value)


def _render(template: Template, value: Any) -> str:
    """A template's text; if it fails, what came before is printed too, as docker does."""
    from wherry.cli.template.nodes import TemplateError

    try:
        return template.render(value) + "\n"
    except TemplateError as exc:
        sys.stdout.write(f"{exc.partial}\n")
        raise Exit(1, str(exc)) from None


def _name(value: Any, type_name: str) -> None:
    value.type_name = type_name


def version_text(client: dict[str, Any], server: dict[str, Any] | None) -> str:
    """The usual output, in docker's layout."""
    api = client["ApiVersion"]
    if api != client["DefaultAPIVersion"]:
        api = f"{api} (downgraded from {client['DefaultAPIVersion']})"
    lines = [
        "Client:",
        f" Version:           {client['Version']}",
        f" API version:       {api}",
        f" Python version:    {client['PythonVersion']}",
        f" OS/Arch:           {client['Os']}/{client['Arch']}",
        f" Context:           {client['Context']}",
    ]
    if server is None:
        return "\n".join(lines) + "\n"
    platform = mapping(server, "Platform").get("Name", "")
    lines += ["", f"Server: {platform}" if platform else "Server:"]
    components = server.get("Components") or [
        {"Name": "Engine", "Version": server.get("Version", ""), "Details": server}
    ]
    for component in components:
        details = mapping(component, "Details")
        lines.append(f" {component['Name']}:")
        lines.append(f"  {'Version:':<17} {component.get('Version', '')}")
        if component["Name"] == "Engine":
            lines += _engine_lines(details)
        else:
            lines += [f"  {key + ':':<17} {details[key]}" for key in sorted(details)]
    return "\n".join(lines) + "\n"


def _engine_lines(details: dict[str, Any]) -> list[str]:
    rows = [
        (
            "API version",
            f"{details.get('ApiVersion', '')} (minimum version {details.get('MinAPIVersion', '')})",
        ),
        ("Go version", details.get("GoVersion", "")),
        ("Git commit", details.get("GitCommit", "")),
        ("Built", details.get("BuildTime", "")),
        ("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}"),
        ("Experimental", str(details.get("Experimental", "false")).lower()),
    ]
    return [f"  {name + ':':<17} {value}" for name, value in rows]


def _built(text: str) -> str:
    """A build time as docker shows it: Thu May  7 21:09:36 2026. Anything else stays as it is."""
    from wherry.cli.units import read_timestamp

    try:
        seconds = read_timestamp(text)[0]
    except ValueError:
        return text
    return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(seconds))


def _info(session: Session, options: Options, arguments: list[str]) -> int:
    from wherry.cli.info import info_text

    info: dict[str, Any] | None = None
    problem = ""
    try:
        info = session.client.get("/info")
    except WherryError as exc:
        problem = describe(exc)
    client: dict[str, Any] = {"Debug": False, **client_version(None), "Plugins": [], "Warnings": None}
    del client["ApiVersion"]
    format_text = options.text("format")
    if format_text:
        session.out(_info_format(format_text, info or {}, client, problem))
    else:
        text, warnings = info_text(client, info)
        session.out(text)
        session.err(warnings) if warnings else None
    if problem:
        raise Exit(1, problem)
    return 0


def _info_format(format_text: str, info: dict[str, Any], client: dict[str, Any], problem: str) -> str:
    from wherry.cli.inspect import typed
    from wherry.cli.template.evaluate import Template
    from wherry.cli.template.nodes import TemplateError
    from wherry.cli.template.values import to_json

    whole = {**info, "ClientInfo": client}
    if problem:
        whole["ServerErrors"] = [problem]
    if format_text == "json":
        return to_json(typed(whole)) + "\n"
    try:
        template = Template(format_text)
    except TemplateError as exc:
        raise Exit(64, f"template parsing error: {exc}") from None
    value = typed(whole)
    _name(value, "system.dockerInfo")
    return _render(template, value)


def _dial_stdio(session: Session, options: Options, arguments: list[str]) -> int:
    """Carry stdin to the engine's socket and its answers to stdout: the far end of an ssh:// host."""
    from wherry.cli.streams import Conversation

    connection = session.client.connect()
    Conversation(connection.sock, b"", stdin=0, tty=True, keys=None).pump()
    return 0


COMMANDS = {
    "version": Command(
        _version,
        rows=(SHORT_FORMAT_ROW,),
        examples="""
wherry version
wherry version -f '{{.Server.Version}}'
""",
    ),
    "info": Command(
        _info, rows=(SHORT_FORMAT_ROW,), examples="wherry info -f '{{.Driver}} {{.CgroupVersion}}'"
    ),
    "system dial-stdio": Command(_dial_stdio, arguments=""),
}
