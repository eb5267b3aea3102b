"""`network graph`: networks, the containers on them, addresses and ports, as text or as a picture (SVG).

Asked of the engine are two lists, of networks and of running containers. The picture has networks on the left and
containers on the right, each line between them one place with its address; containers stand as near as possible to
their networks, so that few lines cross.
"""

from __future__ import annotations

from wherry.cli.flags import BOOL, STRING, Command, Options
from wherry.cli.network import natural
from wherry.cli.session import Exit, Session
from wherry.client.answers import items, mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NO_NETWORK = "(no container)"


class Place:
    """One container on one network."""

    __slots__ = ("addresses", "container", "network")

    def __init__(self, network: str, container: Node, addresses: list[str]) -> None:
        self.network = network
        self.container = container
        self.addresses = addresses


class Node:
    """A network or a container: a title, lines below it, and what it is."""

    __slots__ = ("kind", "lines", "ports", "title")

    def __init__(self, title: str, kind: str, lines: list[str], ports: list[str] | None = None) -> None:
        self.title = title
        self.kind = kind
        self.lines = lines
        self.ports = ports or []


class Graph:
    """What is to be shown, in the order in which the text shows it."""

    __slots__ = ("containers", "networks", "places")

    def __init__(self, networks: list[Node], containers: list[Node], places: list[Place]) -> None:
        self.networks = networks
        self.containers = containers
        self.places = places

    def on(self, network: Node) -> list[Place]:
        return [place for place in self.places if place.network == network.title]


def read_graph(
    networks: list[dict[str, Any]], containers: list[dict[str, Any]], *, only: list[str], used: bool
) -> Graph:
    """The graph of the engine's two lists. `only`: these networks, by name or ID; `used`: those with containers."""
    wanted = [
        n for n in networks if not only or n["Name"] in only or any(n["Id"].startswith(i) for i in only)
    ]
    for name in only:
        if not any(name == n["Name"] or n["Id"].startswith(name) for n in wanted):
            raise Exit(1, f"Error response from daemon: network {name} not found")
    names = {network["Name"] for network in wanted}
    places: list[Place] = []
    nodes: list[Node] = []
    for item in sorted(containers, key=lambda c: natural(_name(c))):
        node = Node(_name(item), "container", [item.get("Image", "")], _ports(item))
        mine = mapping(mapping(item, "NetworkSettings"), "Networks")
        found = [Place(name, node, _addresses(mapping(mine, name))) for name in mine if name in names]
        if found:
            nodes.append(node)
            places += found
    taken = {place.network for place in places}
    shown = [
        Node(network["Name"], network.get("Driver", ""), _network_lines(network))
        for network in sorted(wanted, key=lambda n: natural(n["Name"]))
        if network["Name"] in taken or not used
    ]
    return Graph(shown, nodes, places)


def _name(container: dict[str, Any]) -> str:
    names: list[str] = items(container, "Names")
    return names[0].removeprefix("/") if names else str(container["Id"])[:12]


def _addresses(place: dict[str, Any]) -> list[str]:
    return [place[key] for key in ("IPAddress", "GlobalIPv6Address") if place.get(key)]


def _ports(container: dict[str, Any]) -> list[str]:
    """Published ports as `8080→80/tcp`, with the host's address unless it is any."""
    found: list[str] = []
    for port in items(container, "Ports"):
        if not port.get("PublicPort"):
            continue
        host = port.get("IP") or ""
        where = "" if host in ("", "0.0.0.0", "::") else f"[{host}]:" if ":" in host else f"{host}:"
        text = f"{where}{port['PublicPort']}→{port['PrivatePort']}/{port.get('Type', 'tcp')}"
        if text not in found:
            found.append(text)
    return sorted(found, key=natural)


def _network_lines(network: dict[str, Any]) -> list[str]:
    configs = items(mapping(network, "IPAM"), "Config")
    lines: list[str] = [config["Subnet"] for config in configs if config.get("Subnet")]
    words: list[str] = [
        word for key, word in (("Internal", "internal"), ("ConfigOnly", "template")) if network.get(key)
    ]
    parent = mapping(network, "Options").get("parent")
    if parent:
        words.append(f"on {parent}")
    return lines + words


# Text


def as_text(graph: Graph) -> str:
    """A tree: each network, and below it the containers on it."""
    lines: list[str] = []
    for network in graph.networks:
        lines.append("  ".join([network.title, f"({network.kind})", *network.lines]))
        places = graph.on(network)
        width = max((len(place.container.title) for place in places), default=0)
        for place in places:
            branch = "└─" if place is places[-1] else "├─"
            cells = [
                place.container.title.ljust(width),
                ", ".join(place.addresses),
                " ".join(place.container.ports),
            ]
            lines.append(f"{branch} {'  '.join(cell for cell in cells if cell.strip())}".rstrip())
        if not places:
            lines.append(f"└─ {NO_NETWORK}")
    return "\n".join(lines) + "\n"


# Picture: all lengths in CSS pixels

WIDTH_NETWORK, WIDTH_CONTAINER, BEND = 250, 250, 170
MARGIN, GAP, TITLE, LINE, PADDING = 28, 18, 20, 17, 12
COLOURS = ("#2563eb", "#0d9488", "#b45309", "#7c3aed", "#be123c", "#4d7c0f", "#0369a1", "#a21caf")
"""One for each network in turn: lines that cross can be told apart."""
UNUSED_COLOUR, CONTAINER_COLOUR, PORT_COLOUR = "#94a3b8", "#475569", "#15803d"
LETTER = 6.4
"""Width of a letter of a label, on the generous side."""
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


class Box:
    __slots__ = ("colour", "height", "node", "top", "x")

    def __init__(self, node: Node, x: int, colour: str) -> None:
        self.node = node
        self.x = x
        self.colour = colour
        self.top = 0.0
        self.height = 2 * PADDING + TITLE + LINE * (len(node.lines) + bool(node.ports))

    @property
    def middle(self) -> float:
        return self.top + self.height / 2


def as_svg(graph: Graph) -> str:
    """The picture, one SVG document."""
    longest = max((len(_label(place)) for place in graph.places), default=0)
    between = BEND + int(LETTER * longest) + 20
    used = [node for node in graph.networks if graph.on(node)]
    unused = [node for node in graph.networks if not graph.on(node)]
    left = [Box(node, MARGIN, COLOURS[number % len(COLOURS)]) for number, node in enumerate(used)]
    left += [Box(node, MARGIN, UNUSED_COLOUR) for node in unused]
    right = [Box(node, MARGIN + WIDTH_NETWORK + between, CONTAINER_COLOUR) for node in graph.containers]
    by_title = {box.node.title: box for box in left}
    _stack(left)
    homes = {
        id(box): [by_title[p.network].middle for p in graph.places if p.container is box.node]
        for box in right
    }
    right.sort(key=lambda box: (sum(homes[id(box)]) / max(len(homes[id(box)]), 1), natural(box.node.title)))
    _stack(right)
    _centre(left, right)
    height = max([box.top + box.height for box in (*left, *right)], default=60) + MARGIN
    width = 2 * MARGIN + WIDTH_NETWORK + between + WIDTH_CONTAINER
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" '
        f'viewBox="0 0 {width} {height:.0f}" font-family="{FONT}" font-size="13">',
        "<title>Networks and containers</title>",
        f'<rect width="{width}" height="{height:.0f}" fill="#f8fafc"/>',
    ]
    labels: list[str] = []
    for line, label in _edges(graph, by_title, right):
        parts.append(line)
        labels.append(label)
    parts += [_box(box, WIDTH_NETWORK, badge=box.node.kind) for box in left]
    parts += [_box(box, WIDTH_CONTAINER) for box in right]
    return "\n".join([*parts, *labels, "</svg>"]) + "\n"


def _stack(boxes: list[Box]) -> None:
    top = float(MARGIN)
    for box in boxes:
        box.top = top
        top += box.height + GAP


def _centre(left: list[Box], right: list[Box]) -> None:
    """The shorter column beside the middle of the longer one."""
    ends = [boxes[-1].top + boxes[-1].height if boxes else 0.0 for boxes in (left, right)]
    for boxes, end in zip((left, right), ends, strict=True):
        for box in boxes:
            box.top += (max(ends) - end) / 2


def _edges(graph: Graph, networks: dict[str, Box], containers: list[Box]) -> list[tuple[str, str]]:
    """Each place as a curve and a label near its container. Ends are spread over the sides of the boxes."""
    order = {id(box.node): number for number, box in enumerate(containers)}
    boxes = {id(box.node): box for box in containers}
    places = sorted(graph.places, key=lambda p: (order[id(p.container)], networks[p.network].top))
    outs: dict[str, list[Place]] = {}
    ins: dict[int, list[Place]] = {}
    for place in places:
        outs.setdefault(place.network, []).append(place)
        ins.setdefault(id(place.container), []).append(place)
    drawn: list[tuple[str, str]] = []
    for place in places:
        network, container = networks[place.network], boxes[id(place.container)]
        x1, x2 = network.x + WIDTH_NETWORK, container.x
        y1 = _spread(network, outs[place.network].index(place), len(outs[place.network]))
        y2 = _spread(container, ins[id(place.container)].index(place), len(ins[id(place.container)]))
        colour, straight = network.colour, x1 + BEND
        line = (
            f'<path d="M{x1} {y1:.1f} C{x1 + BEND / 2:.0f} {y1:.1f} {x1 + BEND / 2:.0f} {y2:.1f} {straight} {y2:.1f} '
            f'L{x2} {y2:.1f}" '
            f'fill="none" stroke="{colour}" stroke-width="1.6" stroke-opacity="0.75"/>'
            f'<circle cx="{x1}" cy="{y1:.1f}" r="3.2" fill="{colour}"/>'
            f'<circle cx="{x2}" cy="{y2:.1f}" r="3.2" fill="{colour}"/>'
        )
        text = _label(place)
        label = (
            f'<text x="{x2 - 9}" y="{y2 - 5:.1f}" text-anchor="end" font-size="11" fill="{colour}" '
            f'stroke="#f8fafc" stroke-width="3" paint-order="stroke">{_escape(text)}</text>'
            if text
            else ""
        )
        drawn.append((line, label))
    return drawn


def _label(place: Place) -> str:
    return " · ".join(place.addresses)


def _spread(box: Box, number: int, count: int) -> float:
    return box.top + box.height * (number + 1) / (count + 1)


def _box(box: Box, width: int, *, badge: str = "") -> str:
    x, y, colour = box.x, box.top, box.colour
    parts = [
        f'<rect x="{x}" y="{y:.1f}" width="{width}" height="{box.height}" rx="9" fill="#ffffff" '
        f'stroke="{colour}" stroke-width="1.4"/>',
        f'<rect x="{x}" y="{y + 9:.1f}" width="5" height="{box.height - 18}" rx="2" fill="{colour}"/>',
        f'<text x="{x + 18}" y="{y + PADDING + 13:.1f}" font-weight="600" font-size="14" fill="#0f172a">'
        f"{_escape(_fit(box.node.title, 24 if badge else 30))}</text>",
    ]
    if badge:
        parts.append(
            f'<text x="{x + width - 14}" y="{y + PADDING + 13:.1f}" text-anchor="end" font-size="11" '
            f'fill="{colour}">{_escape(badge)}</text>'
        )
    at = y + PADDING + 13 + TITLE
    for text in box.node.lines:
        parts.append(f'<text x="{x + 18}" y="{at:.1f}" fill="#475569">{_escape(_fit(text, 32))}</text>')
        at += LINE
    if box.node.ports:
        shown = _fit("  ".join(box.node.ports), 34)
        parts.append(f'<text x="{x + 18}" y="{at:.1f}" fill="{PORT_COLOUR}">{_escape(shown)}</text>')
    return "".join(parts)


def _fit(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _escape(text: str) -> str:
    for plain, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(plain, written)
    return "".join(c for c in text if c >= " ")


def _graph(session: Session, options: Options, arguments: list[str]) -> int:
    networks = session.client.get("/networks")
    containers = session.client.get("/containers/json")
    graph = read_graph(networks, containers, only=arguments, used=options.on("used"))
    path = options.text("svg")
    if not path:
        session.out(as_text(graph))
        return 0
    picture = as_svg(graph)
    if path == "-":
        session.out(picture)
        return 0
    with open(path, "w", encoding="utf-8") as file:
        file.write(picture)
    return 0


COMMANDS = {
    "network graph": Command(
        _graph,
        "[OPTIONS] [NETWORK...]",
        (0, None),
        (
            ("svg", "o", STRING, 'Write a picture (SVG) to this file; "-" for the standard output'),
            ("used", "u", BOOL, "Leave networks without containers out"),
        ),
        examples="""
wherry network graph
wherry network graph --used -o networks.svg
""",
    ),
}
