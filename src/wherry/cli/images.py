"""`images`, `history`, `tag` and `rmi`."""

from __future__ import annotations

import time

from wherry.cli import listing, units
from wherry.cli.flags import BOOL, FILTER, STRING, Command, Options
from wherry.cli.listing import Fields, gather_filters, short_id, shorten
from wherry.cli.reference import parse_reference
from wherry.cli.session import Exit, Session
from wherry.client.answers import items
from wherry.client.api import ApiError, filters, segment
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NONE = "<none>"
IMAGE_HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
}
HISTORY_HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def image_names(image: dict[str, Any], *, digests: bool) -> Iterator[tuple[str, str, str]]:
    """(repository, tag, digest) for each line that an image takes in a listing."""
    tags: dict[str, list[str]] = {}
    for text in items(image, "RepoTags"):
        name, _, tag = text.rpartition(":")
        if text != "<none>:<none>":
            tags.setdefault(_familiar(name), []).append(tag)
    by_digest: dict[str, list[str]] = {}
    for text in items(image, "RepoDigests"):
        name, _, digest = text.partition("@")
        if text != "<none>@<none>":
            by_digest.setdefault(_familiar(name), []).append(digest)
    if not tags and not by_digest:
        yield NONE, NONE, NONE
    for name, given in tags.items():
        known = by_digest.pop(name, [])
        for tag in given:
            for digest in (known if digests else []) or [NONE]:
                yield name, tag, digest
    for name, known in by_digest.items():
        for digest in known if digests else [NONE]:
            yield name, NONE, digest


def _familiar(name: str) -> str:
    return name.removeprefix("docker.io/").removeprefix("library/") if name.startswith("docker.io/") else name


def image_fields(image: dict[str, Any], names: tuple[str, str, str], now: float, *, trunc: bool) -> Fields:
    """What a listing shows of an image under one of its names."""
    repository, tag, digest = names
    size = image.get("Size") or 0

    def count(key: str) -> str:
        return "N/A" if image.get(key, -1) in (-1, None) else str(image[key])

    def bytes_of(key: str) -> str:
        return "N/A" if image.get(key, -1) in (-1, None) else units.human_size(image[key])

    def unique() -> str:
        shared = image.get("SharedSize", -1)
        return "N/A" if shared in (-1, None) else units.human_size(size - shared)

    return Fields(
        {
            "ID": lambda: short_id(image["Id"]) if trunc else image["Id"],
            "Repository": lambda: repository,
            "Tag": lambda: tag,
            "Digest": lambda: digest,
            "CreatedSince": lambda: since(now, image.get("Created") or 0),
            "CreatedAt": lambda: units.format_local(image.get("Created") or 0),
            "Size": lambda: units.human_size(size, 3),
            "Containers": lambda: count("Containers"),
            "VirtualSize": lambda: units.human_size(size),
            "SharedSize": lambda: bytes_of("SharedSize"),
            "UniqueSize": unique,
        }
    )


def since(now: float, created: int) -> str:
    return "N/A" if created <= 0 else units.human_duration(now - created) + " ago"


def _images(session: Session, options: Options, arguments: list[str]) -> int:
    chosen = gather_filters(options.many("filter"))
    if arguments:
        chosen.setdefault("reference", []).append(arguments[0])
    query = [("all", "1")] if options.on("all") else []
    query += filters(chosen)
    found = session.client.get("/images/json", query)
    trunc = not options.on("no-trunc")
    format_text = options.text("format")
    if options.on("quiet"):
        if format_text:
            session.err("WARNING: Ignoring custom format, because both --format and --quiet are set.\n")
        lines = [image["Id"] for image in found for _ in image_names(image, digests=False)]
        session.out("".join(f"{short_id(line) if trunc else line}\n" for line in lines))
        return 0
    if not format_text:
        from wherry.cli.config import load_config

        configured = load_config(session.environ).get("imagesFormat", "")
        format_text = configured if isinstance(configured, str) else ""
    is_table = format_text.startswith("table") or not format_text
    digests = (is_table and options.on("digests")) or "{{.Digest}}" in format_text
    now = time.time()
    columns = ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size")
    listing.show(
        session,
        [
            image_fields(image, names, now, trunc=trunc)
            for image in found
            for names in image_names(image, digests=digests)
        ],
        format_text,
        columns=[column for column in columns if column != "Digest" or options.on("digests")],
        headers=IMAGE_HEADERS,
        type_name="*formatter.imageContext",
    )
    return 0


def _history(session: Session, options: Options, arguments: list[str]) -> int:
    query = ()
    if options.text("platform"):
        query = (("platform", _platform_json(options.text("platform"))),)
    found = session.client.get(f"/images/{segment(arguments[0])}/history", query)
    trunc, human = not options.on("no-trunc"), options.on("human")
    if options.on("quiet"):
        session.out("".join(f"{short_id(layer['Id']) if trunc else layer['Id']}\n" for layer in found))
        return 0
    now = time.time()
    listing.show(
        session,
        [_history_fields(layer, now, trunc=trunc, human=human) for layer in found],
        options.text("format"),
        columns=("ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment"),
        headers=HISTORY_HEADERS,
        type_name="*formatter.historyContext",
    )
    return 0


def _platform_json(text: str) -> str:
    from wherry.client.jsontext import dumps

    names = ("os", "architecture", "variant")
    return dumps(dict(zip(names, text.split("/"), strict=False)))


def _history_fields(layer: dict[str, Any], now: float, *, trunc: bool, human: bool) -> Fields:
    created_by = str(layer.get("CreatedBy", "")).replace("\t", " ")
    created = layer.get("Created") or 0
    return Fields(
        {
            "ID": lambda: short_id(layer["Id"]) if trunc else layer["Id"],
            "CreatedSince": lambda: since(now, created) if human else units.rfc3339_local(created),
            "CreatedAt": lambda: "" if created <= 0 else units.rfc3339_local(created),
            "CreatedBy": lambda: shorten(created_by, 45) if trunc else created_by,
            "Size": lambda: units.human_size(layer["Size"], 3) if human else str(layer["Size"]),
            "Comment": lambda: layer.get("Comment", ""),
        }
    )


def _tag(session: Session, options: Options, arguments: list[str]) -> int:
    source, target = arguments
    try:
        reference = parse_reference(target)
    except ValueError as exc:
        message = f'Error parsing reference: "{target}" is not a valid repository/tag: {exc}'
        raise Exit(1, message) from None
    if reference.digest:
        raise Exit(1, "refusing to create a tag with a digest reference")
    session.client.post(
        f"/images/{segment(source)}/tag", (("repo", reference.name), ("tag", reference.tag or "latest"))
    )
    return 0


def _rmi(session: Session, options: Options, arguments: list[str]) -> int:
    query = [(key, "1") for flag, key in (("force", "force"), ("no-prune", "noprune")) if options.on(flag)]
    code = 0
    for name in arguments:
        try:
            removed = session.client.delete(f"/images/{segment(name)}", query)
        except WherryError as exc:
            session.fail(exc)
            if not (options.on("force") and isinstance(exc, ApiError) and exc.status == 404):
                code = 1
            continue
        for item in removed or ():
            if item.get("Deleted"):
                session.out(f"Deleted: {item['Deleted']}\n")
            else:
                session.out(f"Untagged: {item.get('Untagged', '')}\n")
    return code


COMMANDS = {
    "images": Command(
        _images,
        "[OPTIONS] [REPOSITORY[:TAG]]",
        (0, 1),
        (
            ("all", "a", BOOL, "Show all images (default hides intermediate images)"),
            ("digests", "", BOOL, "Show digests"),
            ("filter", "f", FILTER, "Filter output based on conditions provided"),
            listing.FORMAT_ROW,
            ("no-trunc", "", BOOL, "Don't truncate output"),
            ("quiet", "q", BOOL, "Only show image IDs"),
        ),
        examples="""
wherry images
wherry images -f dangling=true -q           ids of images without a name
wherry images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
""",
    ),
    "history": Command(
        _history,
        "[OPTIONS] IMAGE",
        (1, 1),
        (
            listing.FORMAT_ROW,
            ("human", "H", BOOL, "Print sizes and dates in human readable format", True),
            ("no-trunc", "", BOOL, "Don't truncate output"),
            ("platform", "", STRING, "Show history for the given platform (os[/arch[/variant]])"),
            ("quiet", "q", BOOL, "Only show image IDs"),
        ),
        examples="wherry history --no-trunc busybox",
    ),
    "tag": Command(
        _tag,
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        (2, 2),
        interspersed=False,
        examples="wherry tag busybox localhost:5000/tools/busybox:1",
    ),
    "rmi": Command(
        _rmi,
        "[OPTIONS] IMAGE [IMAGE...]",
        (1, None),
        (
            ("force", "f", BOOL, "Force removal of the image"),
            ("no-prune", "", BOOL, "Do not delete untagged parents"),
        ),
        examples="""
wherry rmi busybox:old
wherry rmi $(wherry images -q -f dangling=true)
""",
    ),
}
