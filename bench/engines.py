"""The engines that are measured. Each is started for the measurement, with its defaults, on roots of its own.

An `Engine` can run a container by its own command line; a `Daemon` has Docker's API beside that. Which row measures
which of them is written in rows.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tests.docker import rootfs

from bench import room
from bench.api import Api

IMAGE = "busybox"
TARGET = "bench-target"
"""The container that is running in each engine, for exec."""

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START_S = 60.0


class Engine(Protocol):
    """What runs containers and has a name."""

    name: str

    def start(self) -> None:
        """Ready, with the image, when this returns."""
        ...

    def run(self, *flags: str) -> None:
        """Run `true` in a new container and remove it."""
        ...

    def exec(self) -> None:
        """Run `true` in the container that is running."""
        ...

    def remove(self) -> None: ...


class Missing(Exception):
    """An engine that this machine does not have, or that does not work on it, and why."""


def check_run(argv: Sequence[str], *, env: Mapping[str, str] | None = None, input: bytes = b"") -> None:
    """Run a command to its end. Its failure is the benchmark's: a fast failure must not count as a fast run."""
    done = subprocess.run(
        argv,
        input=input or None,
        stdin=None if input else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=env,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(argv)}: exit {done.returncode}: {done.stderr[-500:].decode(errors='replace')}"
        )


class Daemon:
    """An engine with Docker's API on a socket of its own, driven by the docker CLI."""

    def __init__(self, name: str, command: Sequence[str], *, base: str = "") -> None:
        self.name = name
        self.data_root = f"{base or room.base_folder()}/{name}"
        self.exec_root = f"{room.run_folder}/{name}"
        self.socket = f"{self.exec_root}/docker.sock"
        self.api = Api(self.socket)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")},
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": "/nonexistent",
            "PYTHONPATH": f"{ROOT}/src",
        }
        self.cgroup = f"{room.cgroup_parent()}/{name}"
        self._argv = [
            *command,
            *("--data-root", self.data_root, "--exec-root", self.exec_root, "-H", f"unix://{self.socket}"),
            *("--pidfile", f"{self.exec_root}/pid", "--config-file", f"{self.exec_root}/daemon.json"),
            *("--cgroup-parent", self.cgroup),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.start_empty()
        self.docker("import", "--change", 'CMD ["sh"]', "-", IMAGE, input=rootfs.busybox_tar())

    def start_empty(self) -> None:
        os.makedirs(self.data_root, exist_ok=True)
        os.makedirs(self.exec_root, exist_ok=True)
        with open(f"{self.exec_root}/daemon.json", "w") as file:
            file.write("{}")
        with open(f"{self.exec_root}/log", "ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.api.call("GET", "/version")
                return
            except OSError:
                self.api.close()
                if time.monotonic() > deadline or self._process.poll() is not None:
                    with open(f"{self.exec_root}/log", errors="replace") as file:
                        raise Missing(f"{self.name} does not start: {file.read()[-600:]}") from None
                time.sleep(0.02)

    def docker(self, *argv: str, input: bytes = b"") -> None:
        check_run(["docker", *argv], env=self.environment, input=input)

    def run(self, *flags: str) -> None:
        self.docker("run", "--rm", *flags, IMAGE, "true")

    def exec(self) -> None:
        self.docker("exec", TARGET, "true")

    def remove(self) -> None:
        if self._process is None:
            return
        listed = subprocess.run(
            ["docker", "ps", "-aq"], env=self.environment, capture_output=True, text=True, check=False
        ).stdout.split()
        if listed:
            subprocess.run(
                ["docker", "rm", "-f", *listed], env=self.environment, capture_output=True, check=False
            )
        self.api.close()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._wait_for_helpers()
        room.unmount_below(self.data_root)
        room.unmount_below(self.exec_root)
        shutil.rmtree(self.exec_root, ignore_errors=True)

    def _wait_for_helpers(self) -> None:
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def processes(self) -> list[int]:
        """Daemon, helpers and shims: what names our roots, and its children, but nothing that runs in a container."""
        ours = os.readlink("/proc/self/ns/pid")
        roots = (self.exec_root.encode() + b"/", self.data_root.encode(), self.exec_root.encode() + b'"')
        parents: dict[int, int] = {}
        found: set[int] = set()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{name}/ns/pid") != ours:
                    continue
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    line = file.read()
            except OSError:
                continue
            if state == "Z":
                continue
            parents[int(name)] = int(parent)
            if any(root in line for root in roots):
                found.add(int(name))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)


def wherry(*, base: str = "") -> Daemon:
    return Daemon(
        "wherry",
        [sys.executable, "-m", "wherry.daemon", "--bridge", "wbench0", "--bip", "198.19.201.1/24"],
        base=base,
    )


def dockerd(*, base: str = "") -> Daemon:
    if shutil.which("dockerd") is None:
        raise Missing("dockerd is not installed (Debian: docker.io)")
    return Daemon(
        "dockerd",
        ["dockerd", "--bip", "198.19.202.1/24", "--exec-opt", "native.cgroupdriver=cgroupfs"],
        base=base,
    )


class Podman:
    """podman, which has no daemon: its own command, with storage of its own."""

    name = "podman"

    def __init__(self) -> None:
        if shutil.which("podman") is None:
            raise Missing("podman is not installed")
        self._root, self._run = f"{room.base_folder()}/podman", f"{room.run_folder}/podman"
        self._argv = [
            *("podman", "--root", self._root, "--runroot", self._run, "--tmpdir", f"{self._run}/tmp"),
            *("--cgroup-manager", "cgroupfs", "--log-level", "error", "--events-backend", "file"),
        ]
        self._parent = ("--cgroup-parent", f"{room.cgroup_parent()}/podman")

    def start(self) -> None:
        try:
            check_run([*self._argv, "import", "-", IMAGE], input=rootfs.busybox_tar())
            try:
                self.run()
            except RuntimeError:  # its default, crun, refuses hybrid cgroups
                self._argv += ["--runtime", "runc"]
                self.run()
            check_run([*self._argv, "run", "-d", *self._parent, "--name", TARGET, IMAGE, "sleep", "100000"])
        except RuntimeError as exc:
            raise Missing(str(exc)) from exc

    def run(self, *flags: str) -> None:
        check_run([*self._argv, "run", "--rm", *self._parent, *flags, IMAGE, "true"])

    def exec(self) -> None:
        check_run([*self._argv, "exec", TARGET, "true"])

    def remove(self) -> None:
        subprocess.run([*self._argv, "rm", "-af", "-t", "0"], capture_output=True, check=False)
        room.unmount_below(self._root)
        room.unmount_below(self._run)


class Runtime:
    """An OCI runtime alone, on an unpacked root filesystem: the floor below every engine that uses it."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        if shutil.which(command[0]) is None:
            raise Missing(f"{command[0]} is not installed")
        self._bundle = f"{room.base_folder()}/{name}-bundle"
        self._argv = [*command, "--root", f"{room.run_folder}/{name}-state"]
        self._environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src"}
        self._count = 0

    def start(self) -> None:
        os.makedirs(f"{self._bundle}/rootfs")
        check_run(["tar", "-x", "-C", f"{self._bundle}/rootfs"], input=rootfs.busybox_tar())
        with open(f"{self._bundle}/config.json", "w") as file:
            json.dump(bundle_config(f"{room.cgroup_parent()}/{self.name}"), file)
        try:
            self.run()
        except RuntimeError as exc:
            raise Missing(str(exc)) from exc

    def run(self, *flags: str) -> None:
        self._count += 1
        argv = [*self._argv, "run", "--bundle", self._bundle, f"bench-{self._count}"]
        check_run(argv, env=self._environment)

    def exec(self) -> None:
        raise NotImplementedError  # no row asks for it

    def remove(self) -> None:
        pass  # files alone, which go with the room


def bundle_config(cgroup: str) -> dict[str, object]:
    """What `runc spec` writes, without a terminal, and with a cgroup of ours: the same for every runtime."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    nodev = ["nosuid", "noexec", "nodev"]
    mounts: list[tuple[str, str, str, list[str]]] = [
        ("/proc", "proc", "proc", []),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/shm", "tmpfs", "shm", [*nodev, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", nodev),
        ("/sys", "sysfs", "sysfs", [*nodev, "ro"]),
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bench",
        "mounts": [
            {"destination": at, "type": kind, "source": source, "options": options}
            for at, kind, source, options in mounts
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


DAEMONS: dict[str, Callable[..., Daemon]] = {"wherry": wherry, "dockerd": dockerd}

MAKERS: dict[str, Callable[[], Engine]] = {
    **DAEMONS,
    "podman": Podman,
    "wherry-runtime": lambda: Runtime("wherry-runtime", [sys.executable, "-m", "wherry.runtime"]),
    "runc": lambda: Runtime("runc", ["runc"]),
    "crun": lambda: Runtime("crun", ["crun"]),
}
"""Engines by name, in the order of the table's columns."""
