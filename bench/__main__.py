"""`./dev bench`: measure wherry beside dockerd, podman and bare OCI runtimes, in one run on this machine.

Results go to bench/results/ (samples.json, table.md, chart.svg, chart.png), those of a partial run to
bench/results/partial/.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator

from bench import engines, images, memory, names, ports, report, room
from bench.engines import TARGET, Daemon, Engine, Missing
from bench.rows import TIMINGS, Row

OTHERS = ("names", "memory", "growth", "ports", "images")


def main() -> int:
    options = parse(sys.argv[1:])
    if not room.is_inside():
        if os.geteuid() != 0:
            print("bench needs root: it runs container engines", file=sys.stderr)
            return 1
        return room.run_inside(sys.argv[1:])
    room.settle_in()
    return run(options)


def parse(argv: list[str]) -> argparse.Namespace:
    known = [*(timing.name for timing in TIMINGS), *OTHERS]
    parser = argparse.ArgumentParser(
        prog="./dev bench", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument(
        "--only", action="append", choices=known, metavar="ROW", help=f"of {', '.join(known)}; repeat"
    )
    parser.add_argument(
        "--engines", default=",".join(engines.MAKERS), help="of these, by comma (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="samples of each row (default 15)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, 40 runs in the loop, no images")
    parser.add_argument("--minutes", type=float, default=7.5, help="cut rows short after this (default 7.5)")
    parser.add_argument("--output", help="folder for the results")
    options = parser.parse_args(argv)
    unknown = set(options.engines.split(",")) - set(engines.MAKERS)
    if unknown:
        parser.error(f"unknown engine {sorted(unknown)[0]!r}: there are {', '.join(engines.MAKERS)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    """Everything, inside the room."""
    wanted: list[str] = options.only or [
        name for name in (*(t.name for t in TIMINGS), *OTHERS) if not (options.quick and name == "images")
    ]
    rounds = 3 if options.quick else options.rounds
    deadline = time.monotonic() + options.minutes * 60
    facts, rows = machine(), list[Row]()

    failures: list[str] = []

    def measure(what: str, make: Callable[[], Row | list[Row]]) -> None:
        """Add rows. What fails is said and left out: the rest is worth having all the same."""
        try:
            made = make()
        except (RuntimeError, OSError, AssertionError) as exc:
            failures.append(what)
            say(f"{what} failed: {exc}")
            return
        for row in made if isinstance(made, list) else [made]:
            rows.append(row)
            found = ", ".join(f"{name} {report.show(row.median(name) or 0)}" for name in row.samples)
            say(f"{row.label}: {found} {row.unit}")

    with started(needed(options.engines.split(","), wanted)) as running:
        daemons = [engine for engine in running.values() if isinstance(engine, Daemon)]
        if "memory" in wanted:
            measure("memory", lambda: memory.at_rest("pss-idle", "PSS of engine and helpers, idle", daemons))
        for daemon in daemons:
            daemon.docker("run", "-d", "--name", TARGET, engines.IMAGE, "sleep", "100000")
        for timing in TIMINGS:
            if timing.name in wanted and set(timing.on) & set(running):
                count = min(rounds, 10) if timing.name == "twenty" else rounds
                measure(timing.name, lambda t=timing, n=count: t.measure(running, n, deadline))
        for daemon in daemons:
            daemon.docker("rm", "-f", TARGET)
        if "names" in wanted:
            measure("names", lambda: names.rows(daemons, rounds))
        if "ports" in wanted:
            measure("ports", lambda: ports.rows(daemons, rounds, deadline))
        if "growth" in wanted:
            measure("growth", lambda: memory.growth(daemons, 40 if options.quick else 200))
        if "memory" in wanted:
            measure("memory", lambda: memory.at_rest("pss-used", "… after the rows above", daemons))
            measure("memory", lambda: memory.per_container(daemons))
    if "images" in wanted:
        chosen = {name: make for name, make in engines.DAEMONS.items() if name in options.engines.split(",")}
        measure("images", lambda: images.rows(chosen, min(rounds, 10), deadline))
    facts["load average"] += f" at the start, {load_average()} at the end"
    is_whole = (
        not options.only and not options.quick and len(options.engines.split(",")) == len(engines.MAKERS)
    )
    folder = options.output or (report.RESULTS if is_whole else f"{report.RESULTS}/partial")
    print(report.write(folder, facts, rows))
    if failures:
        say(f"failed and left out: {', '.join(dict.fromkeys(failures))}")
    return 1 if failures else 0


def needed(names: list[str], wanted: list[str]) -> list[str]:
    """Those of the engines that a wanted row measures."""
    used = {name for timing in TIMINGS if timing.name in wanted for name in timing.on}
    if {"names", "memory", "growth", "ports"} & set(wanted):
        used |= set(engines.DAEMONS)
    return [name for name in names if name in used]


@contextlib.contextmanager
def started(names: list[str]) -> Generator[dict[str, Engine]]:
    """The engines that this machine has, started; all removed afterwards."""
    running: dict[str, Engine] = {}
    with contextlib.ExitStack() as undo:
        for name in names:
            try:
                engine = engines.MAKERS[name]()
                undo.callback(engine.remove)
                engine.start()
            except Missing as exc:
                say(f"{name} is left out: {exc}")
                continue
            running[name] = engine
        yield running


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{os.cpu_count()} × {processor()}, Linux {platform.release()}",
        "load average": load_average(),
        "wherry": f"{revision()}, Python {platform.python_version()}",
    }
    for name in ("dockerd", "docker", "podman", "runc", "crun"):
        if shutil.which(name):
            facts["docker CLI" if name == "docker" else name] = first_line(name, "--version")
    return facts


def processor() -> str:
    with open("/proc/cpuinfo") as file:
        found = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return found[0] if found else platform.machine()


def revision() -> str:
    return first_line("git", "-C", engines.ROOT, "log", "-1", "--format=%h of %cs") or "no git"


def load_average() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def first_line(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
