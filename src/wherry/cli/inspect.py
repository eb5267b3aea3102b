"""`inspect`, for containers and images: the engine's own JSON, or a template's view of it."""

from __future__ import annotations

from wherry.cli.flags import BOOL, STRING, Command, Options
from wherry.cli.listing import SHORT_FORMAT_ROW
from wherry.cli.session import Exit, Session, describe
from wherry.client.api import ApiError, segment
from wherry.client.jsontext import indent
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TYPES = ("config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume")
FETCHED = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}
"""The kinds this engine has, in the order in which a bare name is looked for."""


_IPAM_CONFIG: tuple[tuple[str, Any], ...] = (
    ("Subnet", ""),
    ("IPRange", ""),
    ("Gateway", ""),
    ("AuxiliaryAddresses", {}),
)
"""The fields of a subnet, which the JSON leaves out where they are empty and a template shows."""


def _fetch(session: Session, kind: str, name: str, *, size: bool) -> str:
    query = (("size", "1"),) if size and kind == "container" else ()
    path = FETCHED[kind].format(segment(name))
    return session.client.call("GET", path, query).read().decode("utf-8", "surrogateescape")


def _find(session: Session, name: str, *, size: bool) -> str:
    for kind in FETCHED:
        try:
            return _fetch(session, kind, name, size=size)
        except ApiError as exc:
            if exc.status not in (404, 501):
                raise
    raise WherryError(f"Error: No such object: {name}")


def _show(session: Session, format_text: str, names: list[str], fetch: Callable[[str], str]) -> int:
    """Print what is found, then say what was not."""
    found: list[str] = []
    problems: list[str] = []
    for name in names:
        try:
            found.append(fetch(name))
        except ApiError as exc:
            problems.append(describe(exc))
        except WherryError as exc:
            problems.append(str(exc))
    whole = f"[{','.join(text.strip() for text in found)}]"
    if not format_text:
        session.out(indent(whole) + "\n")
    elif format_text == "json":
        session.out(whole.replace("\n", "") + "\n")
    else:
        _show_template(session, format_text, found)
    if problems:
        raise Exit(1, "\n".join(problems))
    return 0


def _show_template(session: Session, format_text: str, found: list[str]) -> None:
    from wherry.cli.template.evaluate import Template
    from wherry.cli.template.nodes import TemplateError
    from wherry.client.jsontext import loads

    try:
        template = Template(format_text, strict=True)
    except TemplateError as exc:
        raise Exit(64, f"template parsing error: {exc}") from None
    if not found:
        session.out("\n")
    for text in found:
        try:
            value = typed(loads(text))
            value.absent = {"SizeRw": None, "SizeRootFs": None}
            session.out(template.render(value) + "\n")
        except TemplateError as exc:
            session.out("\n")
            raise Exit(1, f"template parsing error: {exc}") from None


def typed(value: Any, key: str = "", parent: str = "") -> Any:
    """JSON as the Go values it stands for, where templates can tell: structs and maps."""
    from wherry.cli.template.values import MAPS, Struct

    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [typed(item, key, parent) for item in items]
    if not isinstance(value, dict):
        return value
    table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    if key == "Config" and parent == "IPAM":
        table = {name: table.get(name, empty) for name, empty in _IPAM_CONFIG}
    is_map = key in MAPS or (key == "Config" and parent == "LogConfig")
    made: Any = {} if is_map else Struct()
    for name, item in table.items():
        made[name] = typed(item, "" if is_map else name, key)
    if is_map:
        return made
    if key == "State":
        made.absent = {"Health": None}
    return made


def inspect_kind(kind: str) -> Callable[[Session, Options, list[str]], int]:
    """The command that inspects things of one kind."""

    def run(session: Session, options: Options, arguments: list[str]) -> int:
        size = options.has("size") and options.on("size")
        return _show(
            session, options.text("format"), arguments, lambda name: _fetch(session, kind, name, size=size)
        )

    return run


def _inspect(session: Session, options: Options, arguments: list[str]) -> int:
    kind = options.text("type")
    size = options.on("size")
    if options.changed("type"):
        if kind not in TYPES:
            listed = ", ".join(f'"{name}"' for name in TYPES)
            raise Exit(1, f'unknown type: "{kind}": must be one of {listed}')
        if kind not in FETCHED:
            raise Exit(1, f'type "{kind}" is not supported by this engine')
        return _show(
            session, options.text("format"), arguments, lambda name: _fetch(session, kind, name, size=size)
        )
    return _show(session, options.text("format"), arguments, lambda name: _find(session, name, size=size))


_SIZE_ROW = ("size", "s", BOOL, "Display total file sizes if the type is container")

COMMANDS = {
    "inspect": Command(
        _inspect,
        "[OPTIONS] NAME|ID [NAME|ID...]",
        (1, None),
        (SHORT_FORMAT_ROW, _SIZE_ROW, ("type", "", STRING, "Only inspect objects of the given type")),
        examples="""
wherry inspect web
wherry inspect -f '{{.State.Pid}}' web
wherry inspect -f '{{range .Config.Env}}{{println .}}{{end}}' web
wherry inspect -f '{{json .NetworkSettings.Networks}}' web
""",
    ),
    "container inspect": Command(
        inspect_kind("container"),
        "[OPTIONS] CONTAINER [CONTAINER...]",
        (1, None),
        (SHORT_FORMAT_ROW, ("size", "s", BOOL, "Display total file sizes")),
        examples="wherry container inspect -f '{{.State.Status}}' web",
    ),
    "volume inspect": Command(
        inspect_kind("volume"),
        "[OPTIONS] VOLUME [VOLUME...]",
        (1, None),
        (SHORT_FORMAT_ROW,),
        examples="wherry volume inspect -f '{{.Mountpoint}}' data",
    ),
    "image inspect": Command(
        inspect_kind("image"),
        "[OPTIONS] IMAGE [IMAGE...]",
        (1, None),
        (SHORT_FORMAT_ROW,),
        examples="wherry image inspect -f '{{.Os}}/{{.Architecture}}' busybox",
    ),
}
