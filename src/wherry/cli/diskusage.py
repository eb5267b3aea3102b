"""`system df`: what takes how much room."""

from __future__ import annotations

import time

from wherry.cli import listing, units
from wherry.cli.flags import BOOL, Command, Options
from wherry.cli.images import image_fields, image_names
from wherry.cli.listing import Fields
from wherry.cli.ps import container_fields
from wherry.cli.session import Session
from wherry.cli.volumes import volume_fields
from wherry.client.answers import items, mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
ACTIVE_STATES = ("running", "paused", "restarting")


def _row(kind: str, total: int, active: int, size: int, reclaimable: str) -> Fields:
    return Fields(
        {
            "Type": lambda: kind,
            "TotalCount": lambda: str(total),
            "Active": lambda: str(active),
            "Size": lambda: units.human_size(size),
            "Reclaimable": lambda: reclaimable,
        }
    )


def _share(part: int, whole: int) -> str:
    text = units.human_size(part)
    return f"{text} ({part * 100 // whole}%)" if whole > 0 else text


def summary(usage: dict[str, Any]) -> list[Fields]:
    """The four rows of the short form, from the answer of /system/df."""
    images = items(usage, "Images")
    containers = items(usage, "Containers")
    volumes = items(usage, "Volumes")
    cache = items(usage, "BuildCache")
    layers = usage.get("LayersSize") or 0
    used = sum(
        (image.get("Size") or 0) - max(image.get("SharedSize") or 0, 0)
        for image in images
        if (image.get("Containers") or 0) > 0
        and image.get("Size", -1) != -1
        and image.get("SharedSize", -1) != -1
    )
    written = sum(item.get("SizeRw") or 0 for item in containers)
    idle = sum(item.get("SizeRw") or 0 for item in containers if item.get("State") not in ACTIVE_STATES)
    running = sum(item.get("State") in ACTIVE_STATES for item in containers)
    kept = [mapping(volume, "UsageData") for volume in volumes]
    room = sum(max(data.get("Size", 0), 0) for data in kept)
    unused = sum(max(data.get("Size", 0), 0) for data in kept if data.get("RefCount") == 0)
    built = sum(item.get("Size") or 0 for item in cache if not item.get("Shared"))
    in_use = sum(item.get("Size") or 0 for item in cache if item.get("InUse") and not item.get("Shared"))
    return [
        _row(
            "Images",
            len(images),
            sum((image.get("Containers") or 0) > 0 for image in images),
            layers,
            _share(layers - used, layers),
        ),
        _row("Containers", len(containers), running, written, _share(idle, written)),
        _row(
            "Local Volumes",
            len(volumes),
            sum((data.get("RefCount") or 0) > 0 for data in kept),
            room,
            _share(unused, room),
        ),
        _row(
            "Build Cache",
            len(cache),
            sum(bool(item.get("InUse")) for item in cache),
            built,
            units.human_size(built - in_use),
        ),
    ]


def _df(session: Session, options: Options, arguments: list[str]) -> int:
    usage = session.client.get("/system/df")
    if options.on("verbose") and not options.text("format"):
        _verbose(session, usage)
        return 0
    listing.show(
        session,
        summary(usage),
        options.text("format"),
        columns=("Type", "TotalCount", "Active", "Size", "Reclaimable"),
        headers=HEADERS,
        type_name="*formatter.diskUsageImagesContext",
    )
    return 0


def _verbose(session: Session, usage: dict[str, Any]) -> None:
    now = time.time()
    session.out("Images space usage:\n\n")
    rows: list[Fields] = []
    for image in items(usage, "Images"):
        names = next(iter(image_names(image, digests=False)))
        rows.append(image_fields(image, names, now, trunc=True))
    listing.show(
        session,
        rows,
        "",
        type_name="",
        columns=("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"),
        headers={
            "Repository": "REPOSITORY",
            "Tag": "TAG",
            "ID": "IMAGE ID",
            "CreatedSince": "CREATED",
            "Size": "SIZE",
            "SharedSize": "SHARED SIZE",
            "UniqueSize": "UNIQUE SIZE",
            "Containers": "CONTAINERS",
        },
    )
    session.out("\nContainers space usage:\n\n")
    rows = []
    for item in items(usage, "Containers"):
        fields = container_fields(item, now, trunc=True)
        size = units.human_size(item.get("SizeRw") or 0, 3)
        rows.append(Fields({**fields.fields, "Size": lambda size=size: size}))
    listing.show(
        session,
        rows,
        "",
        type_name="",
        columns=("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"),
        headers={
            "ID": "CONTAINER ID",
            "Image": "IMAGE",
            "Command": "COMMAND",
            "LocalVolumes": "LOCAL VOLUMES",
            "Size": "SIZE",
            "RunningFor": "CREATED",
            "Status": "STATUS",
            "Names": "NAMES",
        },
    )
    session.out("\nLocal Volumes space usage:\n\n")
    rows = [volume_fields(volume) for volume in items(usage, "Volumes")]
    listing.show(
        session,
        rows,
        "",
        type_name="",
        columns=("Name", "Links", "Size"),
        headers={"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"},
    )
    cache = items(usage, "BuildCache")
    total = sum(item.get("Size") or 0 for item in cache if not item.get("Shared"))
    session.out(f"\nBuild cache usage: {units.human_size(total)}\n\n")
    names = ("CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED")
    listing.show(session, [], "", type_name="", columns=names, headers={name: name for name in names})


COMMANDS = {
    "system df": Command(
        _df,
        rows=(listing.FORMAT_ROW, ("verbose", "v", BOOL, "Show detailed information on space usage")),
        examples="wherry system df -v",
    ),
}
