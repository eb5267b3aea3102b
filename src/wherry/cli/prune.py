"""`container prune` and `image prune`: remove what nothing uses."""

from __future__ import annotations

import sys

from wherry.cli import units
from wherry.cli.flags import BOOL, FILTER, Command, Options
from wherry.cli.listing import gather_filters
from wherry.cli.session import Exit, Session
from wherry.client.answers import items
from wherry.client.api import filters

CONTAINERS = "WARNING! This will remove all stopped containers.\nAre you sure you want to continue?"
DANGLING = "WARNING! This will remove all dangling images.\nAre you sure you want to continue?"
UNUSED = (
    "WARNING! This will remove all images without at least one container associated to them.\n"
    "Are you sure you want to continue?"
)


def confirm(session: Session, message: str) -> None:
    """Ask on the terminal. Exit, without an error, unless the answer is yes."""
    session.out(f"{message} [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Exit(0)  # declined, which is no failure


def _containers(session: Session, options: Options, arguments: list[str]) -> int:
    if not options.on("force"):
        confirm(session, CONTAINERS)
    answer = session.client.post("/containers/prune", filters(gather_filters(options.many("filter"))))
    deleted = items(answer, "ContainersDeleted")
    if deleted:
        session.out("Deleted Containers:\n" + "".join(f"{name}\n" for name in deleted) + "\n")
    session.out(f"Total reclaimed space: {units.human_size(answer.get('SpaceReclaimed') or 0)}\n")
    return 0


def _images(session: Session, options: Options, arguments: list[str]) -> int:
    unused = options.on("all")
    if not options.on("force"):
        confirm(session, UNUSED if unused else DANGLING)
    chosen = gather_filters(options.many("filter"))
    chosen["dangling"] = ["false" if unused else "true"]
    answer = session.client.post("/images/prune", filters(chosen))
    deleted = items(answer, "ImagesDeleted")
    if deleted:
        lines = [
            f"untagged: {item['Untagged']}\n"
            if item.get("Untagged")
            else f"deleted: {item.get('Deleted', '')}\n"
            for item in deleted
        ]
        session.out("Deleted Images:\n" + "".join(lines) + "\n")
    session.out(f"Total reclaimed space: {units.human_size(answer.get('SpaceReclaimed') or 0)}\n")
    return 0


_FORCE_ROW = ("force", "f", BOOL, "Do not prompt for confirmation")
_FILTER_ROW = ("filter", "", FILTER, 'Provide filter values (e.g. "until=<timestamp>")')

COMMANDS = {
    "container prune": Command(
        _containers, rows=(_FILTER_ROW, _FORCE_ROW), examples="wherry container prune -f --filter until=24h"
    ),
    "image prune": Command(
        _images,
        rows=(
            ("all", "a", BOOL, "Remove all unused images, not just dangling ones"),
            _FILTER_ROW,
            _FORCE_ROW,
        ),
        examples="wherry image prune -a",
    ),
}
