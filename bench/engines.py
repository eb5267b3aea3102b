"""The engines that are measured, each started for the measurement with its defaults, on roots of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from tests.docker import rootfs
from tests.docker.engine import ROOT, Client

IMAGE = "busybox"


class Daemon(Client):
    """A daemon with Docker's API, and the processes that belong to it."""

    def __init__(self, name: str, argv: list[str], base: str) -> None:
        self.name = name
        self.data_root = f"{base}/{name}"
        self.exec_root = f"/run/wherry-bench-{os.getpid()}-{name}"
        super().__init__(f"{self.exec_root}/docker.sock")
        os.makedirs(self.data_root, exist_ok=True)
        os.makedirs(self.exec_root, exist_ok=True)
        with open(f"{self.exec_root}/daemon.json", "w") as file:
            file.write("{}")
        self.argv = [
            *argv,
            *("--data-root", self.data_root, "--exec-root", self.exec_root, "-H", self.host),
            *("--pidfile", f"{self.exec_root}/pid", "--config-file", f"{self.exec_root}/daemon.json"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src"}
        with open(f"{self.exec_root}/log", "ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.api("GET", "/_ping", timeout_s=5).expect(200)
                return
            except (OSError, AssertionError):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"{self.name} does not start: see {self.exec_root}/log") from None
                time.sleep(0.02)

    def stop(self) -> None:
        ids = self.docker("ps", "-aq").out.split()
        if ids:
            self.docker("rm", "-f", *ids)
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        self.stop()
        unmount_below(self.data_root, self.exec_root)
        shutil.rmtree(self.exec_root, ignore_errors=True)
        shutil.rmtree(self.data_root, ignore_errors=True)

    def import_busybox(self) -> None:
        self.docker("import", "--change", 'CMD ["sh"]', "-", IMAGE, input=rootfs.busybox_tar()).ok()

    def processes(self) -> list[int]:
        """Daemon, helpers and shims: what names our roots, and its children, but not what runs in containers."""
        host = os.readlink("/proc/self/ns/pid")
        parents: dict[int, int] = {}
        found: set[int] = set()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{name}/ns/pid") != host or int(name) == os.getpid():
                    continue
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    line = file.read().decode(errors="replace")
            except OSError:
                continue
            if fields[0] == "Z":
                continue
            parents[int(name)] = int(fields[1])
            if (self.exec_root in line or self.data_root in line) and not line.startswith("docker\0"):
                found.add(int(name))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def pss_kib(self) -> int:
        """Proportional set size of all of them: shared pages count in parts."""
        total = 0
        for pid in self.processes():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            except (OSError, StopIteration):
                continue
        return total

    def descriptors(self) -> int:
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                total += len(os.listdir(f"/proc/{pid}/fd"))
        return total


def wherry(base: str) -> Daemon:
    bridge = f"whb{os.getpid() % 10**6}"
    return Daemon(
        "wherry",
        [sys.executable, "-m", "wherry.daemon", "--bridge", bridge, "--bip", "198.19.201.1/24"],
        base,
    )


def dockerd(base: str) -> Daemon:
    """Debian's dockerd with a bridge of its own, since another one's docker0 may be there."""
    bridge = f"dkb{os.getpid() % 10**6}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", "198.19.202.1/24", "dev", bridge], check=True)
    subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
    return Daemon("dockerd", [shutil.which("dockerd") or "dockerd", "--bridge", bridge], base)


def unmount_below(*folders: str) -> None:
    with open("/proc/self/mounts") as file:
        points = [line.split()[1] for line in file]
    for point in points:
        if point.startswith(folders):
            subprocess.run(["umount", "-l", point], check=False)


def remove_bridges() -> None:
    for prefix in ("whb", "dkb"):
        name = f"{prefix}{os.getpid() % 10**6}"
        if os.path.exists(f"/sys/class/net/{name}"):
            subprocess.run(["ip", "link", "del", name], check=False)


@contextlib.contextmanager
def fresh_filesystem(size: str = "6G") -> Iterator[str]:
    """A new ext4 in a file. ext4 does not use an inode again for minutes after its deletion, and looks for others one by
    one, so whoever extracts after something was deleted pays for it: every round begins without a past."""
    folder = tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp")
    image, mount = f"{folder}/image", f"{folder}/mount"
    os.mkdir(mount)
    with open(image, "wb") as file:
        file.truncate(int(size[:-1]) << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=False)
        shutil.rmtree(folder, ignore_errors=True)


class Podman:
    """podman, which has no daemon: its own command, with storage of its own."""

    def __init__(self, base: str) -> None:
        self.root = f"{base}/podman"
        self.run_root = f"/run/wherry-bench-{os.getpid()}-podman"
        self.argv = ["podman", "--root", self.root, "--runroot", self.run_root, "--log-level", "error"]

    def run(self, *argv: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self.argv, *argv], input=input, capture_output=True, check=False)

    def runs(self) -> bool:
        """Run one container. The limits it sets by itself are more than every machine allows."""
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        runtime = ["--runtime", "runc"] if shutil.which("runc") else []
        return self.run(*runtime, "run", "--rm", "--network", "none", *limits, IMAGE, "true").returncode == 0

    def remove(self) -> None:
        self.run("rm", "-af")
        unmount_below(self.root, self.run_root)
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.run_root, ignore_errors=True)


class Runc:
    """An OCI runtime alone, on an unpacked root filesystem: the floor below every engine that uses it."""

    def __init__(self, base: str, command: str) -> None:
        self.bundle = f"{base}/{command}"
        self.argv = [command, "--root", f"/run/wherry-bench-{os.getpid()}-{command}"]
        os.makedirs(f"{self.bundle}/rootfs")
        subprocess.run(["tar", "-x", "-C", f"{self.bundle}/rootfs"], input=rootfs.busybox_tar(), check=True)
        subprocess.run([command, "spec"], cwd=self.bundle, check=True)
        with open(f"{self.bundle}/config.json") as file:
            config = json.load(file)
        config["process"].update(args=["true"], terminal=False)
        with open(f"{self.bundle}/config.json", "w") as file:
            json.dump(config, file)
        self.count = 0

    def run(self) -> subprocess.CompletedProcess[bytes]:
        self.count += 1
        argv = [*self.argv, "run", "-b", self.bundle, f"bench-{os.getpid()}-{self.count}"]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def remove(self) -> None:
        shutil.rmtree(self.bundle, ignore_errors=True)
        shutil.rmtree(self.argv[2], ignore_errors=True)
