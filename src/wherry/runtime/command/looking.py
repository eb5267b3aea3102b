"""The verbs that only look: state, list, ps, spec, features."""

from __future__ import annotations

import json
import os

from wherry.runtime import example
from wherry.runtime.command import state
from wherry.runtime.command.call import VERSION, Call, say
from wherry.runtime.errors import invalid


def state_of(call: Call) -> int:
    say(json.dumps(call.record().shown(), indent=2))
    return 0


def list_all(call: Call) -> int:
    records = state.load_all(call.root)
    if call.local.flag("quiet"):
        for record in records:
            say(record.id)
        return 0
    shown = [{**record.shown(), "owner": "root"} for record in records]
    if call.local.text("format", "table") == "json":
        say(json.dumps(shown, separators=(",", ":")))
        return 0
    rows = [["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]]
    rows += [
        [str(each[key]) for key in ("id", "pid", "status", "bundle", "created", "owner")] for each in shown
    ]
    widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(rows[0]))]
    for row in rows:
        say("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def processes(call: Call) -> int:
    record = call.record()
    pids = record.group().pids()
    if call.local.text("format", "table") == "json":
        say(json.dumps(pids))
        return 0
    rows = [["UID", "PID", "PPID", "CMD"]]
    for pid in pids:
        row = _process_row(pid)
        if row is not None:
            rows.append(row)
    for row in rows:
        say(f"{row[0]:<8} {row[1]:>7} {row[2]:>7} {row[3]}")
    return 0


def spec(call: Call) -> int:
    path = os.path.join(call.local.text("bundle", "."), "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(json.dumps(example.config(), indent="\t") + "\n")
    except FileExistsError as exc:
        raise invalid("File config.json exists. Remove it first") from exc
    return 0


def features(call: Call) -> int:
    say(json.dumps(example.features(VERSION), indent=4))
    return 0


def _process_row(pid: int) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            words = file.read().replace("\0", " ").rstrip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return [fields["Uid"].split("\t")[0], str(pid), fields["PPid"], words or f"[{fields['Name']}]"]
