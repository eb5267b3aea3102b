"""Command-line flags as data, and their parser, with the grammar and the error texts of docker's CLI (pflag).

A command's flags are rows: long name, shorthand or "", kind, help text, and the default where it is not the
kind's zero. `-abc` is three switches, `-eA=b`, `-e A=b`, `-e=A=b` and `--env=A=b` are the same thing, `--`
ends flags, and a command that is not interspersed takes everything after its first argument as it is.
"""

from __future__ import annotations

from wherry.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    Row: TypeAlias = tuple[str, str, "Kind", str] | tuple[str, str, "Kind", str, Any]


class FlagError(InvalidParameter):
    """The command line cannot be read (exit code 125, with the command's usage)."""


class Kind:
    """What a flag takes: how its value is shown in help, read from text, and whether it may come more
    than once.

    `read` raises ValueError with the reason. A switch needs no value.
    """

    __slots__ = ("is_list", "is_switch", "placeholder", "read", "zero")

    def __init__(
        self,
        placeholder: str,
        read: Callable[[str], Any],
        zero: Any = None,
        *,
        is_list: bool = False,
        is_switch: bool = False,
    ) -> None:
        self.placeholder = placeholder
        self.read = read
        self.zero = zero
        self.is_list = is_list
        self.is_switch = is_switch


def _read_bool(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def read_int(text: str, bits: int = 64, signed: bool = True) -> int:
    """An integer as Go's strconv reads it with base 0: 12, 0x1f, 0o17, 017, 0b1."""
    name = "ParseInt" if signed else "ParseUint"
    body = text[1:] if signed and text[:1] in "+-" else text
    try:
        if not body or not body[0].isdigit() or not body.isascii():
            raise ValueError
        number = int(body, 8) if len(body) > 1 and body[0] == "0" and body.isdigit() else int(body, 0)
    except ValueError:
        raise ValueError(f'strconv.{name}: parsing "{text}": invalid syntax') from None
    if text[:1] == "-":
        number = -number
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    if not low <= number < high:
        raise ValueError(f'strconv.{name}: parsing "{text}": value out of range')
    return number


def _read_uint16(text: str) -> int:
    return read_int(text, 16, signed=False)


def _read_filter(text: str) -> tuple[str, str]:
    if "=" not in text:
        raise ValueError("bad format of filter (expected name=value)")
    key, _, value = text.partition("=")
    return key.strip().lower(), value.strip()


BOOL = Kind("", _read_bool, False, is_switch=True)
STRING = Kind("string", str, "")
INT = Kind("int", read_int, 0)
UINT16 = Kind("uint16", _read_uint16, 0)
LIST = Kind("list", str, is_list=True)
FILTER = Kind("filter", _read_filter, is_list=True)
HELP_ROW: Row = ("help", "", BOOL, "Print usage")


class Options:
    """The values of one command line. Asking for a flag the command has not is a bug: KeyError."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._values: dict[str, Any] = {}
        self._changed: set[str] = set()
        for row in rows:
            kind = row[2]
            self._values[row[0]] = [] if kind.is_list else (row[4] if len(row) > 4 else kind.zero)

    def set(self, name: str, value: Any, *, is_list: bool) -> None:
        """Take one value from the command line."""
        if is_list:
            self._values[name].append(value)
        else:
            self._values[name] = value
        self._changed.add(name)

    def changed(self, name: str) -> bool:
        """Whether the flag was given."""
        return name in self._changed

    def has(self, name: str) -> bool:
        """Whether the command has such a flag at all."""
        return name in self._values

    def on(self, name: str) -> bool:
        return bool(self._values[name])

    def text(self, name: str) -> str:
        return str(self._values[name])

    def number(self, name: str) -> int:
        return int(self._values[name])

    def many(self, name: str) -> list[Any]:
        """The values of a flag that may be repeated, in the order given."""
        return self._values[name]

    def value(self, name: str) -> Any:
        return self._values[name]


def parse(
    rows: Sequence[Row], arguments: Sequence[str], *, interspersed: bool = True
) -> tuple[Options, list[str]]:
    """Split arguments into options and positional ones. Raises FlagError; `--help` and `-h` set `help`."""
    options = Options((*rows, HELP_ROW))
    positional: list[str] = []
    waiting = list(arguments)
    waiting.reverse()
    while waiting:
        argument = waiting.pop()
        if argument == "--":
            positional += reversed(waiting)
            break
        if len(argument) < 2 or argument[0] != "-":
            positional.append(argument)
            if not interspersed:
                positional += reversed(waiting)
                break
        elif argument[1] == "-":
            _take_long(rows, argument, waiting, options)
        else:
            _take_short(rows, argument, waiting, options)
    return options, positional


def _take_long(rows: Sequence[Row], argument: str, waiting: list[str], options: Options) -> None:
    name, equals, text = argument[2:].partition("=")
    if not name or name[0] == "-":
        raise FlagError(f"bad flag syntax: {argument}")
    row = find_long(rows, name)
    if row is None:
        raise FlagError(f"unknown flag: --{name}")
    if not equals:
        if row[2].is_switch:
            text = "true"
        elif waiting:
            text = waiting.pop()
        else:
            raise FlagError(f"flag needs an argument: --{name}")
    _set(row, text, options)


def _take_short(rows: Sequence[Row], argument: str, waiting: list[str], options: Options) -> None:
    letters = argument[1:]
    while letters:
        letter, rest = letters[0], letters[1:]
        row = next((row for row in rows if row[1] == letter), None)
        if row is None:
            if letter == "h":
                options.set("help", True, is_list=False)
                return
            raise FlagError(f"unknown shorthand flag: '{letter}' in -{letters}")
        if rest[:1] == "=":
            _set(row, rest[1:], options)
            return
        if row[2].is_switch:
            _set(row, "true", options)
            letters = rest
            continue
        if rest:
            _set(row, rest, options)
        elif waiting:
            _set(row, waiting.pop(), options)
        else:
            raise FlagError(f"flag needs an argument: '{letter}' in -{letters}")
        return


ALIASES = {"net": "network", "net-alias": "network-alias", "dns-opt": "dns-option", "time": "timeout"}
"""Older names that docker still takes, without showing them."""


def find_long(rows: Sequence[Row], name: str) -> Row | None:
    """The row of a long flag, by its name or an older one."""
    if name == "help":
        return HELP_ROW
    for row in rows:
        if row[0] == name:
            return row
    known = ALIASES.get(name)
    return find_long(rows, known) if known else None


def _set(row: Row, text: str, options: Options) -> None:
    kind = row[2]
    try:
        value = kind.read(text)
    except ValueError as exc:
        shown = f"-{row[1]}, --{row[0]}" if row[1] else f"--{row[0]}"
        raise FlagError(f'invalid argument "{text}" for "{shown}" flag: {exc}') from None
    options.set(row[0], value, is_list=kind.is_list)


class Command:
    """One command: how it is called, what it takes, what does it.

    `arguments` is the usage after the command's name; `count` the least and the most positional
    arguments (None: any number). `run` gets the session, the options and the arguments, and gives the
    exit code.
    """

    __slots__ = ("arguments", "count", "examples", "interspersed", "rows", "run", "text")

    def __init__(
        self,
        run: Callable[[Any, Options, list[str]], int],
        arguments: str = "[OPTIONS]",
        count: tuple[int, int | None] = (0, 0),
        rows: Sequence[Row] = (),
        *,
        interspersed: bool = True,
        examples: str = "",
        text: str = "",
    ) -> None:
        self.run = run
        self.arguments = arguments
        self.count = count
        self.rows = rows
        self.interspersed = interspersed
        self.examples = examples
        self.text = text
