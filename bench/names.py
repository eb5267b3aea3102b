"""The name service: how long one query takes, and how many a second it answers when many are asked at once.

Both are asked from within a container's network namespace, about another container, by a program of the host's: what
starts it and what its C library would do is not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import cast

from bench.engines import IMAGE, Daemon
from bench.rows import Goal, Row

NETWORK = "bench-names"
ASKER, ASKED = "bench-asker", "bench-asked"
IN_ROW, AT_ONCE, QUERIES = 500, 32, 5000

_PROGRAM = """
import json, socket, statistics, sys, time
name, in_row, at_once, queries = sys.argv[1].encode(), *map(int, sys.argv[2:])
tail = b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + bytes([len(name)]) + name + b"\\0\\0\\1\\0\\1"
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.connect(("127.0.0.11", 53))

def ask(number):
    sock.send(number.to_bytes(2, "big") + tail)

def check():
    answer = sock.recv(512)
    assert answer[3] & 15 == 0 and answer[7] == 1, answer

times = []
for number in range(in_row):
    started = time.perf_counter()
    ask(number)
    check()
    times.append(time.perf_counter() - started)
started = time.perf_counter()
for number in range(at_once):
    ask(number)
for number in range(queries):
    check()
    if number < queries - at_once:
        ask(number & 65535)
print(json.dumps([statistics.median(times) * 1e6, (time.perf_counter() - started) * 1000]))
"""


def rows(daemons: list[Daemon], rounds: int) -> list[Row]:
    """Engines take turns; a sample is the median of IN_ROW queries, and the time that QUERIES take."""
    single: dict[str, list[float]] = {daemon.name: [] for daemon in daemons}
    many: dict[str, list[float]] = {daemon.name: [] for daemon in daemons}
    pids: dict[str, int] = {}
    try:
        for daemon in daemons:
            daemon.docker("network", "create", NETWORK)
            for name in (ASKER, ASKED):
                daemon.docker("run", "-d", "--name", name, "--network", NETWORK, IMAGE, "sleep", "100000")
            pids[daemon.name] = daemon.api.call("GET", f"/containers/{ASKER}/json")["State"]["Pid"]
        for number in range(rounds):
            for daemon in daemons if number % 2 else daemons[::-1]:
                one, all_ = _ask(pids[daemon.name])
                single[daemon.name].append(one)
                many[daemon.name].append(all_)
    finally:
        for daemon in daemons:
            daemon.docker("rm", "-f", ASKER, ASKED)
            daemon.docker("network", "rm", NETWORK)
    return [
        Row("names-one", "a container's name asked of 127.0.0.11", "µs", single, Goal(limit=1000)),
        Row("names-many", f"{QUERIES} of them, {AT_ONCE} at once", "ms", many, Goal(limit=QUERIES / 5)),
    ]


def _ask(pid: int) -> tuple[float, float]:
    arguments = [ASKED, str(IN_ROW), str(AT_ONCE), str(QUERIES)]
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", _PROGRAM, *arguments],
        capture_output=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"names are not answered: {done.stderr[-500:].decode(errors='replace')}")
    one, all_ = cast("list[float]", json.loads(done.stdout))
    return one, all_
