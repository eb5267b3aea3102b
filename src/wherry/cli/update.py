"""`update`: other limits for containers that exist already, running or not."""

from __future__ import annotations

from wherry.cli.create import restart_policy
from wherry.cli.flags import INT, STRING, UINT16, Command, Options
from wherry.cli.run_flags import BYTES, MEMORY_SWAP, NANO_CPUS
from wherry.cli.session import Exit, Session
from wherry.client.answers import items
from wherry.client.api import segment
from wherry.errors import WherryError

_FIELDS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}


def _update(session: Session, options: Options, arguments: list[str]) -> int:
    if not any(options.changed(flag) for flag in (*_FIELDS, "restart")):
        raise Exit(1, "you must provide one or more flags when using this command")  # docker's text
    try:
        policy = restart_policy(options.text("restart"))
    except ValueError as exc:
        raise Exit(1, str(exc)) from None
    body = {field: options.value(flag) for flag, field in _FIELDS.items() if options.value(flag)}
    body["RestartPolicy"] = policy
    warnings: list[str] = []
    code = 0
    for name in arguments:
        try:
            answer = session.client.post(f"/containers/{segment(name)}/update", value=body)
        except WherryError as exc:
            code = session.fail(exc)
        else:
            session.out(f"{name}\n")
            warnings += items(answer, "Warnings")
    session.out("".join(f"{warning}\n" for warning in warnings))
    return code


COMMANDS = {
    "update": Command(
        _update,
        "[OPTIONS] CONTAINER [CONTAINER...]",
        (1, None),
        (
            ("blkio-weight", "", UINT16, "Block IO (relative weight), between 10 and 1000, or 0 to disable"),
            ("cpu-period", "", INT, "Limit CPU CFS (Completely Fair Scheduler) period"),
            ("cpu-quota", "", INT, "Limit CPU CFS (Completely Fair Scheduler) quota"),
            ("cpu-rt-period", "", INT, "Limit the CPU real-time period in microseconds"),
            ("cpu-rt-runtime", "", INT, "Limit the CPU real-time runtime in microseconds"),
            ("cpu-shares", "c", INT, "CPU shares (relative weight)"),
            ("cpus", "", NANO_CPUS, "Number of CPUs"),
            ("cpuset-cpus", "", STRING, "CPUs in which to allow execution (0-3, 0,1)"),
            ("cpuset-mems", "", STRING, "MEMs in which to allow execution (0-3, 0,1)"),
            ("memory", "m", BYTES, "Memory limit"),
            ("memory-reservation", "", BYTES, "Memory soft limit"),
            (
                "memory-swap",
                "",
                MEMORY_SWAP,
                "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
            ),
            ("pids-limit", "", INT, "Tune container pids limit (set -1 for unlimited)"),
            ("restart", "", STRING, "Restart policy to apply when a container exits"),
        ),
        examples="""
wherry update -m 512m --memory-swap 1g web    while it runs
wherry update --cpus 1.5 web db
""",
    ),
}
