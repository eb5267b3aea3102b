"""Help texts in docker's layout: usage, aliases, options in two columns, worked examples."""

from __future__ import annotations

import os

from wherry.cli.commands import COMMON, GROUPS, HIDDEN, LEAVES, names_of
from wherry.cli.session import PROGRAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from wherry.cli.flags import Command, Row


def width() -> int:
    """The terminal's width, 80 where there is none."""
    try:
        return os.get_terminal_size(0).columns or 80
    except OSError:
        return 80


def command_help(path: str, leaf: str, command: Command) -> str:
    """The help of one command, called by the name `path`."""
    full = f"{PROGRAM} {path}"
    parts = [f"Usage:  {full} {command.arguments}\n\n{command.text or LEAVES[leaf][1]}\n"]
    names = names_of(leaf)
    if len(names) > 1:
        parts.append("Aliases:\n  " + ", ".join(f"{PROGRAM} {name}" for name in names) + "\n")
    shown = [row for row in command.rows if row[3]]
    if shown:
        parts.append("Options:\n" + flag_usages(shown, width() - 1))
    if command.examples:
        lines = command.examples.strip("\n").split("\n")
        parts.append("Examples:\n" + "".join(f"  {line}\n" if line else "\n" for line in lines))
    return "\n".join(parts)


def program_help() -> str:
    """What `wherry` alone prints."""
    from wherry.cli.dispatch import GLOBAL_ROWS

    rest = [name for name in LEAVES if " " not in name and name not in COMMON and name not in HIDDEN]
    groups = {name: short for name, (short, _) in GROUPS.items()}
    leaves = {name: text for name, (_, text) in LEAVES.items()}
    return (
        f"Usage:  {PROGRAM} [OPTIONS] COMMAND\n\nA container engine in Python that takes Docker's place\n\n"
        f"Common Commands:\n{_listing(COMMON, leaves)}\n"
        f"Management Commands:\n{_listing(sorted(groups), groups)}\n"
        f"Commands:\n{_listing(sorted(rest), leaves)}\n"
        f"Global Options:\n{flag_usages(GLOBAL_ROWS, width() - 1)}\n"
        f"Run '{PROGRAM} COMMAND --help' for more information on a command.\n\n"
        f"Examples:\n"
        f"  {PROGRAM} run --rm busybox echo hello     run a command in a new container, then remove it\n"
        f"  {PROGRAM} run -d --name web nginx         keep a container running in the background\n"
        f"  {PROGRAM} ps                              see what is running\n"
        f"  {PROGRAM} exec -it web sh                 look inside\n"
    )


def group_help(name: str) -> str:
    """What a management command alone prints."""
    short, members = GROUPS[name]
    texts = {
        member: LEAVES[leaf][1]
        for member, leaf in members.items()
        if member not in HIDDEN and (member != "ps" or name != "container")
    }
    return (
        f"Usage:  {PROGRAM} {name} COMMAND\n\n{short}\n\nCommands:\n{_listing(sorted(texts), texts)}\n"
        f"Run '{PROGRAM} {name} COMMAND --help' for more information on a command.\n"
    )


def _listing(names: Iterable[str], texts: dict[str, str]) -> str:
    return "".join(f"  {name:<11} {texts[name]}\n" for name in names)


def flag_usages(rows: Sequence[Row], columns: int) -> str:
    """The options of a command, in docker's two columns, wrapped to `columns`."""
    heads: list[tuple[str, str]] = []
    for row in sorted(rows, key=lambda row: row[0]):
        head = f"  -{row[1]}, --{row[0]}" if row[1] else f"      --{row[0]}"
        if row[2].placeholder:
            head += f" {row[2].placeholder}"
        heads.append((head, row[3] + _default(row)))
    indent = max(len(head) for head, _ in heads) + 3
    return "".join(f"{head:<{indent}}{_wrap(indent, columns, text)}\n" for head, text in heads)


def _default(row: Row) -> str:
    if len(row) < 5:
        return ""
    default: Any = row[4]
    if default in ("", False, 0, None):
        return ""
    if default is True:
        return " (default true)"
    return (
        f' (default "{default}")'
        if isinstance(default, str) and row[2].placeholder == "string"
        else f" (default {default})"
    )


def _wrap(indent: int, columns: int, text: str) -> str:
    room = columns - indent
    start = ""
    if room < 24:  # too narrow beside the flags: begin on the next line
        indent = 16
        room = columns - indent
        start = "\n" + " " * indent
    pad = "\n" + " " * indent
    if room < 24:
        return start + text.replace("\n", pad)
    slop = 5  # a short last word may hang over rather than stand alone
    lines: list[str] = []
    while text:
        line, text = _cut(room - slop, slop, text)
        lines.append(line.replace("\n", pad))
    return start + pad.join(lines)


def _cut(limit: int, slop: int, text: str) -> tuple[str, str]:
    if limit + slop > len(text):
        return text, ""
    head = text[:limit]
    at = max(head.rfind(" "), head.rfind("\t"), head.rfind("\n"))
    if at <= 0:
        return text, ""
    newline = head.rfind("\n")
    if 0 < newline < at:
        at = newline
    return text[:at], text[at + 1 :]
