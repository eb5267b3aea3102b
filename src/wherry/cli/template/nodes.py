"""What a template is parsed into."""

from __future__ import annotations

from wherry.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class TemplateError(InvalidParameter):
    """A template that cannot be parsed or evaluated; the text is Go's. `partial` is what it printed before."""

    partial = ""


class Node:
    """A piece of a template; `position` is where it begins in the text, `str()` how Go would print it."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position


class Text(Node):
    __slots__ = ("text",)

    def __init__(self, position: int, text: str) -> None:
        super().__init__(position)
        self.text = text


class Constant(Node):
    __slots__ = ("shown", "value")

    def __init__(self, position: int, value: Any, shown: str) -> None:
        super().__init__(position)
        self.value = value
        self.shown = shown

    def __str__(self) -> str:
        return self.shown


class Dot(Node):
    __slots__ = ()

    def __str__(self) -> str:
        return "."


class Nil(Node):
    __slots__ = ()

    def __str__(self) -> str:
        return "nil"


class Word(Node):
    """A function's name."""

    __slots__ = ("name",)

    def __init__(self, position: int, name: str) -> None:
        super().__init__(position)
        self.name = name

    def __str__(self) -> str:
        return self.name


class Field(Node):
    __slots__ = ("names",)

    def __init__(self, position: int, names: tuple[str, ...]) -> None:
        super().__init__(position)
        self.names = names

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


class Variable(Field):
    __slots__ = ("name",)

    def __init__(self, position: int, name: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(position, names)
        self.name = name

    def __str__(self) -> str:
        return self.name + super().__str__()


class Chain(Field):
    """Fields of the value of a pipeline in parentheses."""

    __slots__ = ("base",)

    def __init__(self, position: int, base: Any, names: tuple[str, ...]) -> None:
        super().__init__(position, names)
        self.base = base

    def __str__(self) -> str:
        return f"({self.base}){super().__str__()}"


class Command(Node):
    __slots__ = ("words",)

    def __init__(self, position: int, words: list[Any]) -> None:
        super().__init__(position)
        self.words = words

    def __str__(self) -> str:
        return " ".join(f"({word})" if isinstance(word, Pipe) else str(word) for word in self.words)


class Pipe(Node):
    __slots__ = ("assigns", "commands", "names")

    def __init__(
        self, position: int, commands: list[Command], names: tuple[str, ...], *, assigns: bool
    ) -> None:
        super().__init__(position)
        self.commands = commands
        self.names = names
        self.assigns = assigns  # `=`, to a variable that exists

    def __str__(self) -> str:
        declared = f"{', '.join(self.names)} {'=' if self.assigns else ':='} " if self.names else ""
        return declared + " | ".join(str(command) for command in self.commands)


class Branch(Node):
    __slots__ = ("body", "otherwise", "pipe")

    def __init__(self, position: int, pipe: Pipe, body: list[Any], otherwise: list[Any]) -> None:
        super().__init__(position)
        self.pipe = pipe
        self.body = body
        self.otherwise = otherwise


class If(Branch):
    __slots__ = ()


class Range(Branch):
    __slots__ = ()


class With(Branch):
    __slots__ = ()


class Break(Node):
    __slots__ = ()


class Continue(Node):
    __slots__ = ()


class Define(Node):
    __slots__ = ()


class TemplateUse(Node):
    __slots__ = ("name", "pipe")

    def __init__(self, position: int, name: str, pipe: Pipe | None) -> None:
        super().__init__(position)
        self.name = name
        self.pipe = pipe

    def __str__(self) -> str:
        return f'{{{{template "{self.name}"}}}}'
