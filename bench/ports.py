"""Throughput from this host into a container by a published port, with Debian's iperf3 on both ends.

The image is made of the host's own iperf3 and the libraries it is linked with. A sample is the time that a gigabyte
takes at the rate that the receiver counted, so that less is better, as in every other row.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import time

from bench.engines import Daemon
from bench.rows import Goal, Row

IMAGE, SERVER, PORT = "bench-iperf3", "bench-iperf3-server", 5201
SECONDS = 2
ROUNDS = 5
WAYS = (("port-loopback", "127.0.0.1"), ("port-address", ""), ("port-ipv6", "::1"))


def rows(daemons: list[Daemon], rounds: int, deadline: float) -> list[Row]:
    """By 127.0.0.1, by another address of this host, and by [::1], to a container with IPv4 only."""
    image = image_tar()
    samples: dict[str, dict[str, list[float]]] = {name: {} for name, _ in WAYS}
    for daemon in daemons:
        daemon.docker("import", "-", IMAGE, input=image)
    for number in range(1 + min(rounds, ROUNDS)):
        if number > 1 and time.monotonic() > deadline:
            break
        for daemon in daemons if number % 2 else daemons[::-1]:
            daemon.docker(
                "run", "-d", "--name", SERVER, "-p", f"{PORT}:{PORT}", IMAGE, "iperf3", "-s", "-p", str(PORT)
            )
            try:
                for name, address in WAYS:
                    sample = ms_per_gb(address or _gateway(daemon))
                    if number:  # the first round is a warm-up
                        samples[name].setdefault(daemon.name, []).append(sample)
            finally:
                daemon.docker("rm", "-f", SERVER)
    return [
        Row(
            name,
            f"1 GB into a container by its port at {address or 'an address of the host'} (iperf3)",
            "ms",
            samples[name],
            Goal(ratio=1),
        )
        for name, address in WAYS
    ]


def ms_per_gb(address: str) -> float:
    argv = ["iperf3", "-c", address, "-p", str(PORT), "-t", str(SECONDS), "-J"]
    for attempt in range(50):  # the server is just starting
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
        result = json.loads(done.stdout or "{}")
        if done.returncode == 0:
            return 8e12 / float(result["end"]["sum_received"]["bits_per_second"])
        time.sleep(0.02 * (attempt + 1))
    raise RuntimeError(f"iperf3 to {address}: {result.get('error')}")


def image_tar() -> bytes:
    """A root filesystem with iperf3 and what it is linked with."""
    program = shutil.which("iperf3")
    if program is None:
        raise RuntimeError("iperf3 is not installed (Debian: iperf3)")
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(folder)
        for path in [program, *re.findall(r"(/\S+) \(0x", linked)]:
            tar.add(path, path.lstrip("/"))
    return buffer.getvalue()


def _gateway(daemon: Daemon) -> str:
    return str(daemon.api.call("GET", f"/containers/{SERVER}/json")["NetworkSettings"]["Gateway"])
