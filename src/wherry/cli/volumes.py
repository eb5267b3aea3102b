"""`volume create|ls|rm|prune`, and `mount add|rm` for a container that exists. (`volume inspect` is in inspect.py.)"""

from __future__ import annotations

import os

from wherry.cli import listing, units
from wherry.cli.flags import BOOL, FILTER, LIST, STRING, Command, Options
from wherry.cli.listing import Fields, gather_filters
from wherry.cli.mounts import read_mount
from wherry.cli.prune import confirm
from wherry.cli.session import Exit, Session
from wherry.client.answers import items, mapping
from wherry.client.api import filters, segment
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Group": "GROUP",
    "Availability": "AVAILABILITY",
    "Status": "STATUS",
}
ANONYMOUS = (
    "WARNING! This will remove anonymous local volumes not used by at least one container.\n"
    "Are you sure you want to continue?"
)
ALL = (
    "WARNING! This will remove all local volumes not used by at least one container.\n"
    "Are you sure you want to continue?"
)


def volume_fields(volume: dict[str, Any]) -> Fields:
    """What a listing shows of a volume, from its entry in /volumes or /system/df."""
    labels: dict[str, str] = mapping(volume, "Labels")
    usage: dict[str, Any] = mapping(volume, "UsageData")
    size = usage.get("Size", -1)
    return Fields(
        {
            "Driver": lambda: volume.get("Driver", ""),
            "Name": lambda: volume.get("Name", ""),
            "Scope": lambda: volume.get("Scope", ""),
            "Mountpoint": lambda: volume.get("Mountpoint", ""),
            "Labels": lambda: ",".join(sorted(f"{key}={value}" for key, value in labels.items())),
            "Links": lambda: str(usage["RefCount"]) if "RefCount" in usage else "N/A",
            "Size": lambda: "N/A" if size < 0 else units.human_size(size),
            "Group": lambda: "N/A",
            "Availability": lambda: "N/A",
            "Status": lambda: "N/A",
        },
        {"Label": lambda name: labels.get(name, "")},  # pyright: ignore
    )


def _pairs(texts: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def _create(session: Session, options: Options, arguments: list[str]) -> int:
    name = options.text("name")
    if arguments:
        if name:
            raise Exit(
                1,
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
            )
        name = arguments[0]
    made = session.client.post(
        "/volumes/create",
        value={
            "Name": name,
            "Driver": options.text("driver"),
            "DriverOpts": _pairs(options.many("opt")) or None,
            "Labels": _pairs(options.many("label")) or None,
        },
    )
    session.out(f"{made['Name']}\n")
    return 0


def _ls(session: Session, options: Options, arguments: list[str]) -> int:
    answer = session.client.get("/volumes", filters(gather_filters(options.many("filter"))))
    found = sorted(items(answer, "Volumes"), key=lambda volume: natural_key(str(volume.get("Name", ""))))
    for warning in items(answer, "Warnings"):
        session.err(f"WARNING: {warning}\n")
    chosen = options.text("format")
    if options.on("quiet"):
        if not chosen or chosen == "table":
            session.out("".join(f"{volume['Name']}\n" for volume in found))
            return 0
        if chosen == "raw":
            chosen = "name: {{.Name}}"
    elif not chosen:
        from wherry.cli.config import load_config

        configured = load_config(session.environ).get("volumesFormat", "")
        chosen = configured if isinstance(configured, str) else ""
    if chosen == "raw":
        chosen = "name: {{.Name}}\\ndriver: {{.Driver}}\\n"
    listing.show(
        session,
        [volume_fields(volume) for volume in found],
        chosen,
        columns=("Driver", "Name"),
        headers=HEADERS,
        type_name="*formatter.volumeContext",
    )
    return 0


def natural_key(text: str) -> list[tuple[int, str]]:
    """Order in which `v2` comes before `v10`."""
    key: list[tuple[int, str]] = []
    digits = ""
    for letter in text:
        if letter.isascii() and letter.isdigit():
            digits += letter
            continue
        if digits:
            key.append((0, digits.lstrip("0").rjust(64, "0")))
            digits = ""
        key.append((1, letter))
    if digits:
        key.append((0, digits.lstrip("0").rjust(64, "0")))
    return key


def _rm(session: Session, options: Options, arguments: list[str]) -> int:
    query = (("force", "1"),) if options.on("force") else ()
    code = 0
    for name in arguments:
        try:
            session.client.delete(f"/volumes/{segment(name)}", query)
        except WherryError as exc:
            code = session.fail(exc)
        else:
            session.out(f"{name}\n")
    return code


def _prune(session: Session, options: Options, arguments: list[str]) -> int:
    chosen = gather_filters(options.many("filter"))
    if options.on("all"):
        if "all" in chosen:
            raise Exit(1, "conflicting options: cannot specify both --all and --filter all=1")
        chosen["all"] = ["true"]
    if not options.on("force"):
        confirm(session, ALL if options.on("all") else ANONYMOUS)
    answer = session.client.post("/volumes/prune", filters(chosen))
    deleted = items(answer, "VolumesDeleted")
    if deleted:
        session.out("Deleted Volumes:\n" + "".join(f"{name}\n" for name in deleted) + "\n")
    session.out(f"Total reclaimed space: {units.human_size(answer.get('SpaceReclaimed') or 0)}\n")
    return 0


def read_source(text: str) -> dict[str, Any]:
    """`SOURCE:TARGET[:ro]`, or the long form of --mount, as the API's Mount object. Raises ValueError."""
    if "=" in text.partition(":")[0]:
        return read_mount(text)
    source, colon, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not colon or not source or not target:
        raise ValueError(f"invalid mount {text!r}: use SOURCE:TARGET or SOURCE:TARGET:ro")
    if mode not in ("", "ro", "rw"):
        raise ValueError(f"invalid mode {mode!r} in {text!r}: use ro or rw")
    if source.startswith("."):
        source = os.path.abspath(source)
    mount = {"Type": "bind" if source.startswith("/") else "volume", "Source": source, "Target": target}
    return {**mount, "ReadOnly": True} if mode == "ro" else mount


def _mount_add(session: Session, options: Options, arguments: list[str]) -> int:
    container, *sources = arguments
    try:
        mounts = [read_source(text) for text in sources]
    except ValueError as exc:
        raise Exit(125, str(exc)) from None
    for mount in mounts:
        made = session.client.post(f"/containers/{segment(container)}/mounts", value=mount)
        session.out(f"{made['Destination']}\n")
    return 0


def _mount_rm(session: Session, options: Options, arguments: list[str]) -> int:
    container, *targets = arguments
    code = 0
    for text in targets:
        target = text.partition(":")[2].partition(":")[0] or text  # SOURCE:TARGET is as good as TARGET
        query = [("target", target), *((("force", "1"),) if options.on("force") else ())]
        try:
            session.client.delete(f"/containers/{segment(container)}/mounts", query)
        except WherryError as exc:
            code = session.fail(exc)
        else:
            session.out(f"{target}\n")
    return code


COMMANDS = {
    "volume create": Command(
        _create,
        "[OPTIONS] [VOLUME]",
        (0, 1),
        (
            ("driver", "d", STRING, "Specify volume driver name", "local"),
            ("label", "", LIST, "Set metadata for a volume"),
            ("name", "", STRING, ""),
            ("opt", "o", LIST, "Set driver specific options"),
        ),
        examples="""
wherry volume create data
wherry volume create -o type=tmpfs -o device=tmpfs -o o=size=100m scratch
wherry volume create -o type=none -o device=/srv/www -o o=bind www
""",
    ),
    "volume ls": Command(
        _ls,
        rows=(
            ("filter", "f", FILTER, 'Provide filter values (e.g. "dangling=true")'),
            listing.FORMAT_ROW,
            ("quiet", "q", BOOL, "Only display volume names"),
        ),
        examples="""
wherry volume ls -f dangling=true            what no container uses
wherry volume ls --format '{{.Name}}: {{.Mountpoint}}'
""",
    ),
    "volume rm": Command(
        _rm,
        "[OPTIONS] VOLUME [VOLUME...]",
        (1, None),
        (("force", "f", BOOL, "Force the removal of one or more volumes"),),
        examples="wherry volume rm data",
    ),
    "volume prune": Command(
        _prune,
        rows=(
            ("all", "a", BOOL, "Remove all unused volumes, not just anonymous ones"),
            ("filter", "", FILTER, 'Provide filter values (e.g. "label=<label>")'),
            ("force", "f", BOOL, "Do not prompt for confirmation"),
        ),
        examples="wherry volume prune -f --filter label=scratch",
    ),
    "mount add": Command(
        _mount_add,
        "CONTAINER SOURCE:TARGET[:ro] [SOURCE:TARGET[:ro]...]",
        (2, None),
        examples="""
wherry mount add web /srv/new:/data
wherry mount add web assets:/var/www:ro
wherry mount add web type=volume,src=assets,dst=/js,volume-subpath=js
""",
    ),
    "mount rm": Command(
        _mount_rm,
        "[OPTIONS] CONTAINER TARGET [TARGET...]",
        (2, None),
        (("force", "f", BOOL, "Take it off though the container uses it"),),
        examples="wherry mount rm web /data",
    ),
}
