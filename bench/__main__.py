"""`./dev bench [ROW ...] [-n N]`: measure wherry beside dockerd in one run, on this machine, with the same docker CLI.

Engines take turns within each row, so that whatever else the machine does falls on all of them. Rows: those of rows.py,
and `memory`, `images`, `loop`. Results go to bench/results/: samples.json (raw), table.md, chart.svg.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile

from tests.docker import rootfs
from tests.docker.registry import Registry

from bench import engines, report
from bench.engines import IMAGE, Daemon
from bench.rows import LIMITS_MS, ROWS, timed

OTHERS = ("memory", "images", "loop")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join((*ROWS, *OTHERS))}; all without any")
    parser.add_argument("-n", type=int, default=15, help="samples of each (default 15; images: 10 at most)")
    options = parser.parse_args()
    unknown = set(options.rows) - {*ROWS, *OTHERS}
    if unknown:
        parser.error(f"unknown row {sorted(unknown)[0]!r}")
    wanted = options.rows or [*ROWS, *OTHERS]
    base = tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp")
    daemons = [engines.wherry(base)]
    if shutil.which("dockerd"):
        daemons.append(engines.dockerd(base))
    rows: list[report.Row] = []
    try:
        for daemon in daemons:
            daemon.start()
            daemon.import_busybox()
            daemon.docker("run", "-d", "--name", "bench-target", IMAGE, "sleep", "100000").ok()
        fresh = {d.name: [d.pss_kib() / 1024] for d in daemons}
        rows += [measure(daemons, name, options.n) for name in ROWS if name in wanted]
        if "run-none" in wanted:
            beside(rows, base, options.n)
        if "loop" in wanted:
            rows += loop(daemons)
        if "memory" in wanted:
            rows += memory(daemons, fresh)
    finally:
        for daemon in daemons:
            daemon.remove()
        engines.remove_bridges()
        shutil.rmtree(base, ignore_errors=True)
    if "images" in wanted:
        rows += images(min(10, options.n))
    print(report.write(machine(), rows))
    return 0


def measure(daemons: list[Daemon], name: str, count: int) -> report.Row:
    action, label, target = ROWS[name]
    count = 10 if name == "twenty" else count
    samples: dict[str, list[float]] = {d.name: [] for d in daemons}
    for number in range(count + 2):
        for daemon in daemons if number % 2 else daemons[::-1]:
            took = timed(lambda daemon=daemon: action(daemon))
            if number >= 2:  # two rounds to warm up
                samples[daemon.name].append(took)
    say(label, samples)
    return {
        "name": name,
        "label": label,
        "unit": "ms",
        "samples": samples,
        "target": target,
        "limit": LIMITS_MS.get(name),
    }


def beside(rows: list[report.Row], base: str, count: int) -> None:
    """podman and bare runtimes, where they are installed: without a network, since podman's stays behind on the machine."""
    row = next(row for row in rows if row["name"] == "run-none")
    if shutil.which("podman"):
        podman = engines.Podman(base)
        try:
            if podman.run("import", "-", IMAGE, input=rootfs.busybox_tar()).returncode == 0 and podman.runs():
                row["samples"]["podman"] = [timed(podman.runs) for _ in range(count)]
        finally:
            podman.remove()
    for command in ("runc", "crun"):
        if shutil.which(command):
            runtime = engines.Runc(base, command)
            try:
                if runtime.run().returncode == 0:
                    row["samples"][command] = [timed(runtime.run) for _ in range(count)]
            finally:
                runtime.remove()


def memory(daemons: list[Daemon], fresh: dict[str, list[float]]) -> list[report.Row]:
    """Daemon and helpers: fresh (with one container), after all the rows above, and what each container adds."""
    after = {d.name: [d.pss_kib() / 1024] for d in daemons}
    each: dict[str, list[float]] = {}
    number = 20
    for daemon in daemons:
        before = daemon.pss_kib()
        for n in range(number):
            daemon.docker("run", "-d", "--name", f"bench-m{n}", IMAGE, "sleep", "100000").ok()
        each[daemon.name] = [(daemon.pss_kib() - before) / 1024 / number]
        daemon.docker("rm", "-f", *[f"bench-m{n}" for n in range(number)]).ok()
    unit = {"unit": "MiB", "target": 0.0}
    return [
        {"name": "pss", "label": "PSS of daemon and helpers, fresh", "samples": fresh, "limit": 60.0, **unit},
        {"name": "pss-after", "label": "… after the rows above", "samples": after, "limit": 60.0, **unit},
        {
            "name": "pss-each",
            "label": "… added by a running container",
            "samples": each,
            "limit": 2.0,
            **unit,
        },
    ]


def loop(daemons: list[Daemon], number: int = 200) -> list[report.Row]:
    """What grows over many runs: descriptors, memory, cgroups, mounts, interfaces."""
    rows = []
    grown: dict[str, dict[str, list[float]]] = {}
    for daemon in daemons:
        before = counts(daemon)
        for _ in range(number):
            ROWS["run"][0](daemon)
        after = counts(daemon)
        grown[daemon.name] = {key: [after[key] - before[key]] for key in before}
    for key in ("descriptors", "cgroups", "mounts", "interfaces", "PSS, MiB"):
        samples = {name: found[key] for name, found in grown.items()}
        rows.append(
            {
                "name": f"loop-{key}",
                "label": f"growth over {number} runs: {key}",
                "unit": "",
                "samples": samples,
            }
        )
    return rows


def counts(daemon: Daemon) -> dict[str, float]:
    # Once to fill what is kept ready for the next run, as at any other moment.
    ROWS["run"][0](daemon)
    with open("/proc/self/mounts") as file:
        mounts = file.read().count("\n")
    return {
        "descriptors": daemon.descriptors(),
        "cgroups": sum(1 for _ in os.walk("/sys/fs/cgroup")),
        "mounts": mounts,
        "interfaces": len(os.listdir("/sys/class/net")),
        "PSS, MiB": daemon.pss_kib() / 1024,
    }


def images(count: int) -> list[report.Row]:
    """Load and pull of a Debian image of some 300 MB, each time on a new filesystem with a new daemon."""
    layers = debian_layers()
    config = rootfs.image_config(layers)
    folder = tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp")
    with open(f"{folder}/image.tar", "wb") as file:
        file.write(rootfs.docker_archive(config, layers, "bench/loaded:1"))
    registry = Registry("wherry-bench")
    other = rootfs.image_config(layers, Labels={"pulled": "yes"})
    registry.put_image("bench/pulled", "1", layers, config=other)
    size = f"{sum(map(len, layers)) / 1e6:.0f} MB"
    samples: dict[str, dict[str, list[float]]] = {"load": {}, "pull": {}}
    makers = [engines.wherry, *([engines.dockerd] if shutil.which("dockerd") else [])]
    try:
        for number in range(count):
            for action in ("load", "pull"):
                for make in makers if number % 2 else makers[::-1]:
                    with engines.fresh_filesystem() as base:
                        daemon = make(base)
                        daemon.start()
                        try:
                            if action == "load":
                                argv = ("load", "-q", "-i", f"{folder}/image.tar")
                            else:
                                argv = ("pull", "-q", f"{registry.address}/bench/pulled:1")
                            took = timed(lambda d=daemon, a=argv: d.docker(*a, timeout_s=300).ok())
                            samples[action].setdefault(daemon.name, []).append(took)
                        finally:
                            daemon.remove()
                            engines.remove_bridges()
    finally:
        registry.stop()
        shutil.rmtree(folder, ignore_errors=True)
    for action, found in samples.items():
        say(action, found)
    return [
        {
            "name": "load",
            "label": f"docker load ({size})",
            "unit": "ms",
            "samples": samples["load"],
            "target": 1.0,
        },
        {
            "name": "pull",
            "label": f"docker pull ({size})",
            "unit": "ms",
            "samples": samples["pull"],
            "target": 1.0,
        },
    ]


def debian_layers(size: int = 300_000_000) -> list[bytes]:
    """Debian as one layer, and on top of it a copy of enough of its files to make `size` bytes of both."""
    with open(rootfs.debian_tar(), "rb") as file:
        below = file.read()
    above = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(below)) as old, tarfile.open(fileobj=above, mode="w") as new:
        for member in old:
            if member.isreg() and above.tell() < size - len(below):
                content = old.extractfile(member)
                member.name = f"copy/{member.name.removeprefix('./')}"
                new.addfile(member, content)
    return [below, above.getvalue()]


def say(label: str, samples: dict[str, list[float]]) -> None:
    found = ", ".join(f"{name} {report.show(report.median(values))} ms" for name, values in samples.items())
    print(f"{label}: {found}", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    def first(*argv: str) -> str:
        if shutil.which(argv[0]) is None:
            return "not installed"
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).strip().splitlines()[0]

    with open("/proc/loadavg") as file:
        load = " ".join(file.read().split()[:3])
    return {
        "machine": f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}",
        "load average at the end": load,
        "docker CLI": first("docker", "--version"),
        "dockerd": first("dockerd", "--version"),
        "podman": first("podman", "--version"),
        "runc": first("runc", "--version"),
    }


if __name__ == "__main__":
    sys.exit(main())
