"""Real containers without a daemon: a launcher of our own, our runtime, a root filesystem of busybox."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess

import pytest
from tests.conftest import MARK

from wherry.runtime.cgroups.driver import cgroup_for
from wherry.shim.client import Launcher

JSON_FILE = "wherry.logs.json_file:JsonFile"


@pytest.fixture(scope="session")
def busybox(tmp_path_factory):
    """A root filesystem with busybox in it."""
    if os.getuid() != 0:
        pytest.skip("containers need root")
    binary = shutil.which("busybox")
    if binary is None:
        pytest.skip("needs busybox: apt install busybox-static")
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
        (root / name).mkdir()
    shutil.copy(binary, root / "bin/busybox")
    names = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    return str(root)


def spec(args, *, terminal=False, namespaces=("pid", "mount", "ipc", "uts", "network", "cgroup"), **process):
    """A config.json as small as can be."""
    capabilities = ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]
    return {
        "ociVersion": "1.1.0",
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
            **process,
        },
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {"namespaces": [{"type": kind} for kind in namespaces], "resources": {}},
    }


class Run:
    """One container being run: its shim, and what it told."""

    def __init__(self, yard, name):
        self.yard = yard
        self.name = name
        self.directory = f"{yard.exec_root}/containers/{name}"
        self.cgroup = f"/{MARK}/{name}"
        self.shim = None
        self.shim_pid = 0
        self.events = []
        self._changed = asyncio.Event()
        self.lost = asyncio.Event()

    def on_event(self, event):
        self.events.append(event)
        self._changed.set()

    async def event(self, kind, timeout=20, **fields):
        """The next event of that kind."""
        async with asyncio.timeout(timeout):
            while True:
                for event in self.events:
                    if event["event"] == kind and all(event[name] == value for name, value in fields.items()):
                        self.events.remove(event)
                        return event
                self._changed.clear()
                await self._changed.wait()

    def attach(self, **options):
        """Attach to it; our end of the connection."""
        ours, theirs = socket.socketpair()
        options = {"stdin": False, "stdout": True, "stderr": True, "mux": False, **options}
        self.shim.attach(theirs, **options).add_done_callback(lambda done: done.exception())
        theirs.close()
        ours.setblocking(False)
        return ours

    def write_config(self, config):
        with open(f"{self.directory}/config.json", "w") as file:
            json.dump(config, file)

    def log(self):
        with open(f"{self.directory}/log", "rb") as file:
            return [json.loads(line) for line in file]

    def record(self, name):
        with open(f"{self.directory}/{name}") as file:
            return json.load(file)


class Yard:
    """An exec root with a launcher, and the containers run there."""

    def __init__(self, exec_root, rootfs):
        self.exec_root = exec_root
        self.rootfs = rootfs
        self.launcher = None
        self.launchers = []
        self.runs = []
        self.launcher_lost = asyncio.Event()
        self._numbers = itertools.count()

    async def open(self, **options):
        self.launcher = await Launcher.open(self.exec_root, on_lost=self.launcher_lost.set, **options)
        self.launchers.append(self.launcher.pid)
        return self.launcher

    async def spawn(self, name=None):
        """A shim and nothing in it yet."""
        run = Run(self, name or f"c{next(self._numbers)}")
        os.makedirs(run.directory, exist_ok=True)
        run.shim, spawned = self.launcher.spawn(
            run.name, run.directory, on_event=run.on_event, on_lost=run.lost.set
        )
        run.shim_pid = (await spawned)[0]["pid"]
        self.runs.append(run)
        return run

    async def create(self, args, *, name=None, log=True, config=None, create=None, **options):
        """A container up to "created"."""
        run = await self.spawn(name)
        run.write_config(config or spec(args, **options))
        request = {
            "bundle": run.directory,
            "cgroup": run.cgroup,
            "rootfs": {"type": "bind", "source": self.rootfs},
            "log": {"driver": JSON_FILE, "path": f"{run.directory}/log", "options": {}} if log else None,
        }
        await run.shim.create(**request | (create or {}))
        return run

    async def run(self, args, **options):
        run = await self.create(args, **options)
        await run.shim.start()
        return run

    def close(self):
        for pid in [*(run.shim_pid for run in self.runs), *self.launchers]:
            if "wherry" in cmdline(pid):
                os.kill(pid, signal.SIGKILL)
        for run in self.runs:
            group = cgroup_for(run.cgroup)
            group.kill()
            group.remove()
        group = cgroup_for(f"/{MARK}")
        # runc makes one in the hybrid layout's unified hierarchy too.
        for place in {*group.directories().values(), f"/sys/fs/cgroup/unified/{MARK}"}:
            try:
                os.rmdir(place)
            except OSError:
                pass


def cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


@pytest.fixture
async def yard(tmp_path, busybox):
    # The path is long on purpose: sockets must not mind.
    place = tmp_path / ("exec-root-" + "x" * 60)
    place.mkdir()
    yard = Yard(str(place), busybox)
    await yard.open()
    yield yard
    yard.close()


async def read_all(sock, timeout=30):
    """What comes, to the end."""
    loop = asyncio.get_running_loop()
    found = []
    async with asyncio.timeout(timeout):
        while data := await loop.sock_recv(sock, 1 << 20):
            found.append(data)
    sock.close()
    return b"".join(found)
