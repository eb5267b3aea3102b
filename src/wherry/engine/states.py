"""The states of a container and the steps between them: one table, which `ContainerState.become` obeys and
docs/containers.md shows.

Docker's status `dead`, of a container that could not be removed whole, is never taken here: a removal that fails
leaves it `exited`, and what a crash leaves of one is removed at the next start.
"""

from __future__ import annotations

from typing import Literal

Status = Literal["created", "running", "paused", "restarting", "exited", "removing", "dead"]

STEPS: dict[tuple[Status, Status], str] = {
    ("created", "running"): "start",
    ("running", "paused"): "pause",
    ("paused", "running"): "unpause",
    ("running", "exited"): "exit, stop, kill",
    ("paused", "exited"): "stop, kill",
    ("running", "restarting"): "exit, and the policy starts it again",
    ("paused", "restarting"): "its process is killed by others",
    ("restarting", "running"): "the delay is over",
    ("restarting", "exited"): "stop, kill, or the start fails",
    ("exited", "running"): "start",
    ("exited", "restarting"): "a daemon starts, and the policy wants it",
    ("created", "removing"): "rm",
    ("exited", "removing"): "rm, --rm",
    ("removing", "exited"): "the removal fails",
}
"""What leads from one status to the next."""


def may_follow(before: Status, after: Status) -> bool:
    return (before, after) in STEPS


def drawing() -> str:
    """The table as a Mermaid diagram: what docs/containers.md has."""
    lines = ["stateDiagram-v2", "    [*] --> created: create"]
    lines += [f"    {before} --> {after}: {cause}" for (before, after), cause in STEPS.items()]
    return "\n".join([*lines, "    removing --> [*]"])
