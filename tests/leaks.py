"""Run a command, and fail when it leaves something behind on the machine.

    python tests/leaks.py COMMAND [ARGUMENT ...]

What is compared, before and after: mounts of this mount namespace, network interfaces, cgroups, nftables
tables and chains, named network namespaces, and files in /tmp, /var/tmp, /run and /dev/shm that are ours by name.
Processes are not guessed at: this process makes itself the subreaper, so every orphan of the command becomes
its child, and whatever is still there at the end is a leak.

With WHERRY_LEAKS=own only what carries the mark of this run counts ($WHERRY_TEST_MARK, which the suite puts in the
names of all it makes): for machines on which somebody else is making containers meanwhile.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 10.0
"""How long the last processes and kernel objects may take to go once the command has ended."""

KEPT = ("wherry-test-cache", "wherry-runtime")
"""What may stay: the tests' own cache, and the stand-alone runtime's default root, empty, as /run/runc is."""
OURS = re.compile(r"wherry|wht[0-9a-f]{4}")

State = dict[str, set[str]]


def snapshot() -> State:
    """Everything that a container engine could leave behind, by kind."""
    return {
        "mount": mounts(),
        "interface": set(os.listdir("/sys/class/net")),
        "cgroup": cgroups(),
        "nft": rules(),
        "netns": set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set(),
        "file": {
            os.path.join(folder, name)
            for folder in ("/tmp", "/var/tmp", "/run", "/dev/shm")
            for name in os.listdir(folder)
            if OURS.search(name) and name not in KEPT
        },
    }


def mounts() -> set[str]:
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    # Mount point, filesystem, source and options; not the ids, which are used again.
    return {" ".join([f[4], *f[f.index("-") + 1 :]]) for f in lines}


def cgroups() -> set[str]:
    """All but the parent of every container's cgroup, which is made once and stays, as Docker's does."""
    return {
        folder
        for folder, _, _ in os.walk("/sys/fs/cgroup")
        if (OURS.search(folder) or re.search(r"[0-9a-f]{64}", folder)) and not folder.endswith("/wherry")
    }


def rules() -> set[str]:
    if os.path.exists("/usr/sbin/nft"):
        listed = subprocess.run(["/usr/sbin/nft", "-j", "list", "ruleset"], capture_output=True, check=False)
        if listed.returncode == 0:
            return {
                f"{kind} {item.get('family')} {item.get('table', '')} {item.get('name')}"
                for entry in json.loads(listed.stdout)["nftables"]
                for kind, item in entry.items()
                if kind in ("table", "chain", "map", "set")
            }
    return set()


def descendants() -> dict[int, str]:
    """Every process below this one: pid → command line."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found: dict[int, str] = {}
    wave = {os.getpid()}
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave}
        for pid in wave:
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    found[pid] = file.read().replace(b"\0", b" ").decode(errors="replace").strip() or "?"
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def reap() -> None:
    """Collect orphans that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def leaked(before: State, mark: str) -> list[str]:
    own = os.environ.get("WHERRY_LEAKS") == "own"
    after = snapshot()
    return [f"process {pid}: {line[:150]}" for pid, line in descendants().items()] + [
        f"{kind} {name}"
        for kind in after
        for name in sorted(after[kind] - before[kind])
        if not own or mark in name
    ]


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    mark = os.environ.setdefault("WHERRY_TEST_MARK", f"wht{secrets.token_hex(2)}")
    before = snapshot()
    command = subprocess.Popen(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too, and ends in its own way
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    code = command.wait()
    deadline = time.monotonic() + GRACE_S
    while True:
        reap()
        left = leaked(before, mark)
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for line in left:
        print(f"left behind: {line}", file=sys.stderr)
    if left:
        for pid in descendants():
            os.kill(pid, signal.SIGKILL)
        print(f"{len(left)} things left behind: this fails the run", file=sys.stderr)
        return code or 1
    print("nothing left behind", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
