"""`ps`: containers in a table."""

from __future__ import annotations

import time

from wherry.cli import listing, units
from wherry.cli.flags import BOOL, FILTER, INT, Command, Options
from wherry.cli.listing import Fields, gather_filters, short_id, shorten
from wherry.cli.session import Session
from wherry.client.answers import items, mapping
from wherry.client.api import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
HEADERS = {
    "ID": "CONTAINER ID",
    "Names": "NAMES",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}
RAW = """container_id: {{.ID}}
image: {{.Image}}
command: {{.Command}}
created_at: {{.CreatedAt}}
state: {{- pad .State 1 0}}
status: {{- pad .Status 1 0}}
names: {{.Names}}
labels: {{- pad .Labels 1 0}}
ports: {{- pad .Ports 1 0}}
"""


def container_fields(found: dict[str, Any], now: float, *, trunc: bool) -> Fields:
    """What a listing shows of a container, from its entry in /containers/json."""
    labels: dict[str, str] = mapping(found, "Labels")

    def names() -> str:
        given = [name.removeprefix("/") for name in items(found, "Names")]
        return ",".join(name for name in given if not trunc or "/" not in name)

    def command() -> str:
        from wherry.cli.template.gofmt import quote

        text = str(found.get("Command", ""))
        return quote(shorten(text, 20) if trunc else text)

    def size() -> str:
        text = units.human_size(found.get("SizeRw") or 0, 3)
        root = found.get("SizeRootFs") or 0
        return f"{text} (virtual {units.human_size(root, 3)})" if root > 0 else text

    def mounts() -> str:
        given = [mount.get("Name") or mount.get("Source", "") for mount in items(found, "Mounts")]
        return ",".join(shorten(name, 15) if trunc else name for name in given)

    def networks() -> str:
        return ",".join(sorted(mapping(mapping(found, "NetworkSettings"), "Networks")))

    def platform() -> Any:
        return mapping(found, "ImageManifestDescriptor").get("platform")

    fields: dict[str, Callable[[], Any]] = {
        "ID": lambda: short_id(found["Id"]) if trunc else found["Id"],
        "Names": names,
        "Image": lambda: _image(found, trunc=trunc),
        "Command": command,
        "CreatedAt": lambda: units.format_local(found["Created"]),
        "RunningFor": lambda: units.human_duration(now - found["Created"]) + " ago",
        "Ports": lambda: show_ports(items(found, "Ports")),
        "State": lambda: found.get("State", ""),
        "Status": lambda: found.get("Status", ""),
        "Size": size,
        "Labels": lambda: ",".join(sorted(f"{key}={value}" for key, value in labels.items())),
        "Mounts": mounts,
        "LocalVolumes": lambda: str(sum(mount.get("Driver") == "local" for mount in items(found, "Mounts"))),
        "Networks": networks,
        "Platform": platform,
    }
    return Fields(fields, {"Label": lambda name: labels.get(name, "")})  # pyright: ignore


def _image(found: dict[str, Any], *, trunc: bool) -> str:
    image = str(found.get("Image", ""))
    if not image:
        return "<no image>"
    if not trunc:
        return image
    if short_id(found.get("ImageID", "")) == short_id(image):
        return short_id(image)
    if "@" not in image and "/" not in image:
        return image
    from wherry.cli.reference import parse_reference

    try:
        reference = parse_reference(image)
    except ValueError:
        return image
    return reference.familiar_name + (f":{reference.tag}" if reference.tag else "")


def _endpoint(address: str, port: int | str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def show_ports(ports: list[dict[str, Any]]) -> str:
    """Ports in docker's short form: neighbours published under their own number are joined into ranges."""
    ordered = sorted(
        ports,
        key=lambda p: (p.get("PrivatePort", 0), p.get("IP", ""), p.get("PublicPort", 0), p.get("Type", "")),
    )
    spans: dict[tuple[str, str], list[int]] = {}
    done: list[str] = []
    mapped: list[str] = []

    def close(key: tuple[str, str]) -> None:
        first, last = spans[key]
        text = str(first) if first == last else f"{first}-{last}"
        address, kind = key
        done.append(f"{_endpoint(address, text)}->{text}/{kind}" if address else f"{text}/{kind}")

    for port in ordered:
        private, address, kind = port.get("PrivatePort", 0), port.get("IP", ""), port.get("Type", "")
        if address and port.get("PublicPort") != private:
            mapped.append(f"{_endpoint(address, port.get('PublicPort', 0))}->{private}/{kind}")
            continue
        key = (address, kind)
        if key in spans and private == spans[key][1] + 1:
            spans[key][1] = private
            continue
        if key in spans:
            close(key)
        spans[key] = [private, private]
    for key in spans:
        close(key)
    return ", ".join(done + mapped)


def _asks_for_size(format_text: str) -> bool:
    """Whether a template shows sizes, which the engine has to measure: by name, or as part of the whole row."""
    return ".Size" in format_text or "json .}" in format_text.replace("json . ", "json .")


def _ps(session: Session, options: Options, arguments: list[str]) -> int:
    quiet, trunc = options.on("quiet"), not options.on("no-trunc")
    chosen = options.text("format")
    if quiet and chosen:
        session.err("WARNING: Ignoring custom format, because both --format and --quiet are set.\n")
    if not chosen and not quiet:
        from wherry.cli.config import load_config

        configured = load_config(session.environ).get("psFormat", "")
        chosen = configured if isinstance(configured, str) else ""
    size = options.on("size") or (not quiet and _asks_for_size(chosen))
    limit = 1 if options.on("latest") and options.number("last") == -1 else options.number("last")
    query = [(key, "1") for key, wanted in (("all", options.on("all")), ("size", size)) if wanted]
    if limit > 0:
        query.append(("limit", str(limit)))
    query += filters(gather_filters(options.many("filter")))
    found = session.client.get("/containers/json", query)
    if quiet:
        session.out("".join(f"{short_id(item['Id']) if trunc else item['Id']}\n" for item in found))
        return 0
    now = time.time()
    if chosen == "raw":
        chosen = RAW + ("size: {{.Size}}\n" if options.on("size") else "")
    listing.show(
        session,
        [container_fields(item, now, trunc=trunc) for item in found],
        chosen,
        columns=(*COLUMNS, "Size") if options.on("size") else COLUMNS,
        headers=HEADERS,
        type_name="*formatter.ContainerContext",
        parse_error="failed to parse template",
        run_error="failed to execute template",
    )
    return 0


COMMANDS = {
    "ps": Command(
        _ps,
        rows=(
            ("all", "a", BOOL, "Show all containers (default shows just running)"),
            ("filter", "f", FILTER, "Filter output based on conditions provided"),
            listing.FORMAT_ROW,
            ("last", "n", INT, "Show n last created containers (includes all states)", -1),
            ("latest", "l", BOOL, "Show the latest created container (includes all states)"),
            ("no-trunc", "", BOOL, "Don't truncate output"),
            ("quiet", "q", BOOL, "Only display container IDs"),
            ("size", "s", BOOL, "Display total file sizes"),
        ),
        examples="""
wherry ps                                    what is running
wherry ps -a -f status=exited                what has ended
wherry ps --format '{{.Names}}: {{.Status}}'
wherry ps --format 'table {{.Names}}\\t{{.Ports}}'
""",
    ),
}
