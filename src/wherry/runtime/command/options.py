"""The command line of runc, read by a table: which options a command has and whether they take a value.

Options may be written --name value, --name=value and -n value; those of a command come before its arguments.
"""

from __future__ import annotations

from wherry.runtime.errors import StartFailed

# long name: (short name or "", takes a value)
Options = dict[str, tuple[str, bool]]


class Usage(StartFailed):
    """The command line is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__("invalid", message)


class Parsed:
    """Values by long name. An option given more than once keeps them all."""

    __slots__ = ("arguments", "values")

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.arguments: list[str] = []

    def flag(self, name: str) -> bool:
        return self.values.get(name, ["false"])[-1] != "false"

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, [default])[-1]

    def texts(self, name: str) -> list[str]:
        return self.values.get(name, [])

    def number(self, name: str, default: int = 0) -> int:
        text = self.text(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError as exc:
            raise Usage(f'invalid value "{text}" for flag -{name}: want a number') from exc


def parse(words: list[str], options: Options) -> Parsed:
    """Options up to the first other word or `--`; the rest are arguments."""
    short = {letter: name for name, (letter, _) in options.items() if letter}
    result = Parsed()
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            at += 1
            break
        if not word.startswith("-") or word == "-":
            break
        name, equals, value = word.lstrip("-").partition("=")
        name = short.get(name, name)
        if name not in options:
            raise Usage(f"flag provided but not defined: {word.partition('=')[0]}")
        at += 1
        if options[name][1]:
            if not equals:
                if at == len(words):
                    raise Usage(f"flag needs an argument: {word}")
                value = words[at]
                at += 1
        elif not equals:
            value = "true"
        elif value not in ("true", "false"):
            raise Usage(f'invalid boolean value "{value}" for -{name}')
        result.values.setdefault(name, []).append(value)
    result.arguments = words[at:]
    return result
