"""What is done for a container whose shim died without a word: kill what it left, and record the end."""

from __future__ import annotations

from wherry.runtime.cgroups.driver import cgroup_for
from wherry.shim import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KILLED = 137


def bury(directory: str, reason: str) -> dict[str, Any]:
    """The exit record of the container in `directory`, made here unless its shim wrote one.

    Afterwards none of its processes lives and its cgroup is gone. Blocks until they are. May be called by
    launcher and daemon at once: both do the same.
    """
    shim = records.find(directory, records.SHIM) or {}
    if shim.get("cgroup"):
        cgroup = cgroup_for(shim["cgroup"])
        cgroup.kill()
        cgroup.remove()
    record = records.find(directory, records.EXIT)
    if record is None:
        record = records.exit_record(KILLED, signal=9, error=reason)
        records.write(directory, records.EXIT, record)
    return record
