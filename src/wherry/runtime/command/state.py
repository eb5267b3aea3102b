"""What the stand-alone command remembers of a container between its calls: ROOT/ID/state.json.

The directory is made before anything else and removed after everything else, so its existence is the claim on
the name. Beside it lies `start.sock`, on which the first process waits until `start` connects; it is removed
on success.
"""

from __future__ import annotations

import json
import os
import string
import time

from wherry.runtime import values
from wherry.runtime.cgroups.driver import cgroup_for
from wherry.runtime.errors import StartFailed, invalid
from wherry.runtime.lifecycle import Container, Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cgroups.driver import Cgroup

GATE = "start.sock"
_FILE = "state.json"
_ALLOWED = frozenset(string.ascii_letters + string.digits + "_+-.")
_MAX_ID = 1024


class NoContainer(StartFailed):
    """There is no container of this name."""

    def __init__(self) -> None:
        super().__init__("not-found", "container does not exist")


class Record:
    """One container as it was written down. `status` is what the kernel says about it now."""

    __slots__ = (
        "bundle",
        "cgroup",
        "config",
        "created",
        "directory",
        "id",
        "namespaces",
        "pid",
        "start_time",
    )

    def __init__(self, directory: str, value: dict[str, Any]) -> None:
        self.directory = directory
        self.id: str = value["id"]
        self.bundle: str = value["bundle"]
        self.created: str = value["created"]
        self.cgroup: str = value["cgroup"]
        self.pid: int = value["pid"]
        self.start_time: int = value["start_time"]
        self.namespaces: int = value["namespaces"]
        self.config: dict[str, Any] = value["config"]

    def group(self) -> Cgroup:
        return cgroup_for(self.cgroup)

    def is_alive(self) -> bool:
        """Whether the first process lives: the same one, not another with its number, nor a zombie."""
        found = process_start(self.pid) if self.pid > 0 else None
        return found == self.start_time and found is not None

    def status(self) -> str:
        if not self.is_alive():
            return "stopped"
        if self.group().is_frozen():
            return "paused"
        return "created" if os.path.exists(f"{self.directory}/{GATE}") else "running"

    def container(self) -> Container:
        """The container, to act on; its process must be alive."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError as exc:  # ESRCH; EINVAL for none at all
            raise StartFailed("invalid", "container not running") from exc
        if not self.is_alive():
            os.close(pidfd)
            raise StartFailed("invalid", "container not running")
        group = self.group()
        group.open()
        return Container(
            self.id,
            Process(self.pid, pidfd, -1),
            group,
            control=None,
            namespaces=self.namespaces,
            seccomp=None,
        )

    def shown(self) -> dict[str, Any]:
        """The specification's state object, with what runc adds to it."""
        status = self.status()
        root = values.text(values.child(self.config, "root"), "path")
        result: dict[str, Any] = {
            "ociVersion": self.config.get("ociVersion") or "1.0.2",
            "id": self.id,
            "pid": 0 if status == "stopped" else self.pid,
            "status": status,
            "bundle": self.bundle,
            "rootfs": os.path.normpath(os.path.join(self.bundle, root)),
            "created": self.created,
        }
        if self.config.get("annotations"):
            result["annotations"] = self.config["annotations"]
        result["owner"] = ""
        return result

    def remove(self) -> None:
        remove_directory(self.directory)


def check_id(container_id: str) -> str:
    """A name that is safe as a file name; runc's alphabet."""
    if (
        container_id in ("", ".", "..")
        or len(container_id) > _MAX_ID
        or not _ALLOWED.issuperset(container_id)
    ):
        raise invalid("invalid container ID format")
    return container_id


def claim(root: str, container_id: str) -> str:
    """Make the container's directory, which must not exist yet."""
    directory = os.path.join(root, check_id(container_id))
    os.makedirs(root, 0o711, exist_ok=True)
    try:
        os.mkdir(directory, 0o711)
    except FileExistsError as exc:
        raise invalid("container with given ID already exists") from exc
    return directory


def save(
    directory: str,
    container_id: str,
    config: dict[str, Any],
    *,
    bundle: str,
    cgroup: str,
    namespaces: int = 0,
    pid: int = 0,
) -> Record:
    """Write the record, whole or not at all. Without a pid: before anything is made, so that `delete --force` finds
    what a killed `create` left in the cgroup."""
    now = time.time_ns()
    value: dict[str, Any] = {
        "id": container_id,
        "bundle": bundle,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z",
        "cgroup": cgroup,
        "pid": pid,
        "start_time": (process_start(pid) or 0) if pid else 0,
        "namespaces": namespaces,
        "config": config,
    }
    write_file(f"{directory}/{_FILE}", json.dumps(value))
    return Record(directory, value)


def load(root: str, container_id: str) -> Record:
    directory = os.path.join(root, check_id(container_id))
    try:
        with open(f"{directory}/{_FILE}", encoding="utf-8") as file:
            return Record(directory, json.load(file))
    except FileNotFoundError as exc:
        raise NoContainer from exc


def load_all(root: str) -> list[Record]:
    """Every container; one that is being made or removed just now is left out."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    found: list[Record] = []
    for name in names:
        try:
            found.append(load(root, name))
        except StartFailed:
            continue
    return found


def remove_directory(directory: str) -> None:
    """Give up the claim on the name. There are only files in it."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except FileNotFoundError:
        pass


def write_file(path: str, text: str) -> None:
    """Replace the file in one step."""
    temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.rename(temporary, path)


def process_start(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
