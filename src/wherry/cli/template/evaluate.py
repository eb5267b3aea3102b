"""Go's text/template, as much of it as `--format` needs: a parser into a small tree, and its evaluation.

    {{.Field.Sub}} {{index .Map "key"}} {{func arg | func}} {{printf "%-10s" .X}} {{$x := .Y}} {{/* note
    */}} {{if}} {{else if}} {{else}} {{range $k, $v := .List}} {{break}} {{continue}} {{with}}
    {{define}} {{template}} {{end}}

Values are Python's own: str, int, float, bool, None, list, and dict for a Go map, whose missing keys print
as `<no value>`. `Struct` is a dict that stands for a Go struct: it prints as `{a b}`, is always true, and a
field it has not is an error. `Record` is a row of a table whose fields are computed when asked for. Error
texts are Go's.
"""

from __future__ import annotations

from wherry.cli.template import gofmt
from wherry.cli.template.functions import ARITY, FUNCTIONS, PARAMETERS
from wherry.cli.template.nodes import (
    Break,
    Chain,
    Command,
    Constant,
    Continue,
    Define,
    Dot,
    Field,
    If,
    Nil,
    Pipe,
    Range,
    TemplateError,
    TemplateUse,
    Text,
    Variable,
    With,
    Word,
)
from wherry.cli.template.parser import parse_template
from wherry.cli.template.values import MISSING, Missing, Record, Struct, nil_of, struct_field, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

MAX_DEPTH = 200
MAX_OUTPUT = 256 * 1024 * 1024


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template. Raises TemplateError when it cannot be parsed, or a field cannot be had."""

    def __init__(
        self,
        text: str,
        *,
        name: str = "",
        functions: Mapping[str, Callable[..., Any]] | None = None,
        strict: bool = False,
    ) -> None:
        self._functions = {**FUNCTIONS, **(functions or {})}
        self._name = name
        self._strict = strict  # word a missing field as `inspect` does, which then looks at the bare JSON
        self._nodes, self._defined = parse_template(text, name, self._functions)
        self._text = text

    def render(self, value: Any) -> str:
        """The template's text for a value."""
        return _Run(self._name, self._text, self._functions, self._defined, strict=self._strict).run(
            self._nodes, value
        )


class _Run:
    def __init__(
        self,
        name: str,
        text: str,
        functions: Mapping[str, Callable[..., Any]],
        defined: dict[str, Any],
        *,
        strict: bool,
    ) -> None:
        self._name = name
        self._text = text
        self._functions = functions
        self._defined = defined
        self._strict = strict
        self._out: list[str] = []
        self._size = 0
        self._depth = 0

    def run(self, nodes: Sequence[Any], value: Any) -> str:
        try:
            self._walk(nodes, value, [("$", value)])
        except TemplateError as exc:
            exc.partial = "".join(self._out)
            raise
        return "".join(self._out)

    # -- statements

    def _walk(self, nodes: Sequence[Any], dot: Any, scope: list[tuple[str, Any]]) -> None:
        mark = len(scope)
        for node in nodes:
            if isinstance(node, Text):
                self._put(node.text)
            elif isinstance(node, Pipe):
                value = self._pipe(node, dot, scope)
                if not node.names:
                    self._put(gofmt.display(value))
            elif isinstance(node, (If, With)):
                self._branch(node, dot, scope)
            elif isinstance(node, Range):
                self._range(node, dot, scope)
            elif isinstance(node, Break):
                raise _Break
            elif isinstance(node, Continue):
                raise _Continue
            elif isinstance(node, TemplateUse):
                self._use(node, dot, scope)
            elif isinstance(node, Define):
                pass
        del scope[mark:]

    def _put(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_OUTPUT:
            raise TemplateError(f"template: {self._name}: output longer than {MAX_OUTPUT} characters")
        self._out.append(text)

    def _branch(self, node: Any, dot: Any, scope: list[tuple[str, Any]]) -> None:
        mark = len(scope)
        value = self._pipe(node.pipe, dot, scope)
        if truth(value):
            self._walk(node.body, value if isinstance(node, With) else dot, scope)
        else:
            self._walk(node.otherwise, dot, scope)
        del scope[mark:]

    def _range(self, node: Range, dot: Any, scope: list[tuple[str, Any]]) -> None:
        mark = len(scope)
        names, node.pipe.names = node.pipe.names, ()  # the range declares its variables itself
        try:
            value = self._pipe(node.pipe, dot, scope)
        finally:
            node.pipe.names = names
        if isinstance(value, dict) and not isinstance(value, Struct):
            items: list[tuple[Any, Any]] = sorted(value.items(), key=lambda item: gofmt.sort_key(item[0]))  # pyright: ignore
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, int) and not isinstance(value, bool):
            items = [(number, number) for number in range(value)]
        elif value is None or isinstance(value, Missing):
            items = []
        else:
            raise self._error(node.pipe, f"range can't iterate over {gofmt.display(value)}")
        for key, item in items:
            inner = len(scope)
            if len(names) == 1:
                self._bind(node.pipe, names[0], item, scope)
            elif len(names) == 2:
                self._bind(node.pipe, names[0], key, scope)
                self._bind(node.pipe, names[1], item, scope)
            try:
                self._walk(node.body, item, scope)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del scope[inner:]
        if not items:
            self._walk(node.otherwise, dot, scope)
        del scope[mark:]

    @staticmethod
    def _bind(pipe: Pipe, name: str, value: Any, scope: list[tuple[str, Any]]) -> None:
        if pipe.assigns:
            for index in range(len(scope) - 1, -1, -1):
                if scope[index][0] == name:
                    scope[index] = (name, value)
                    return
        scope.append((name, value))

    def _use(self, node: TemplateUse, dot: Any, scope: list[tuple[str, Any]]) -> None:
        if node.name not in self._defined:
            raise self._error(node, f'template "{node.name}" not defined')
        value = self._pipe(node.pipe, dot, scope) if node.pipe is not None else None
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(node, "exceeded maximum template depth (200)")
        self._walk(self._defined[node.name], value, [("$", value)])
        self._depth -= 1

    # -- expressions

    def _pipe(self, pipe: Pipe, dot: Any, scope: list[tuple[str, Any]]) -> Any:
        value: Any = _NOTHING
        for command in pipe.commands:
            value = self._command(command, dot, scope, value)
        for name in pipe.names:
            self._bind(pipe, name, value, scope)
        return value

    def _command(self, command: Command, dot: Any, scope: list[tuple[str, Any]], final: Any) -> Any:
        first = command.words[0]
        if isinstance(first, Word):
            return self._call(first, command, command.words[1:], dot, scope, final)
        extra = command.words[1:]
        if isinstance(first, (Field, Variable, Chain)):
            if extra or final is not _NOTHING:
                arguments = [self._value(word, dot, scope) for word in extra]
                if final is not _NOTHING:
                    arguments.append(final)
                return self._method(first, dot, scope, arguments)
            return self._value(first, dot, scope)
        if extra or final is not _NOTHING:
            raise self._error(first, f"can't give argument to non-function {first}")
        if isinstance(first, Nil):
            raise self._error(first, "nil is not a command")
        return self._value(first, dot, scope)

    def _value(self, word: Any, dot: Any, scope: list[tuple[str, Any]]) -> Any:
        if isinstance(word, Constant):
            return word.value
        if isinstance(word, Dot):
            return dot
        if isinstance(word, Nil):
            return None
        if isinstance(word, Variable):
            return self._fields(word, self._variable(word, scope), word.names)
        if isinstance(word, Chain):
            return self._fields(word, self._value(word.base, dot, scope), word.names)
        if isinstance(word, Field):
            return self._fields(word, dot, word.names)
        if isinstance(word, Pipe):
            return self._pipe(word, dot, scope)
        return self._call(word, word, (), dot, scope, _NOTHING)

    def _variable(self, word: Variable, scope: list[tuple[str, Any]]) -> Any:
        for name, value in reversed(scope):
            if name == word.name:
                return value
        raise self._error(word, f"undefined variable: {word.name}")

    def _fields(self, word: Any, value: Any, names: Sequence[str]) -> Any:
        for name in names:
            value = self._field(word, value, name)
        return value

    def _field(self, word: Any, value: Any, name: str) -> Any:
        if isinstance(value, Record):
            if name in value.fields:
                return value.fields[name]()
            if name in value.methods:
                raise self._error(word, f"wrong number of args for {name}: want 1 got 0")
            raise self._error(word, f"can't evaluate field {name} in type {value.type_name}")
        if isinstance(value, Struct):
            found = struct_field(value, name)
            if found is MISSING:
                if self._strict:
                    raise self._error(word, f'map has no entry for key "{name}"')
                raise self._error(word, f"can't evaluate field {name} in type {value.type_name}")
            return nil_of(name) if found is None else found
        if isinstance(value, dict):
            return value.get(name, MISSING)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if value is None or isinstance(value, Missing):
            raise self._error(word, f"nil data; no entry for key {name!r}".replace("'", '"'))
        kind = "interface {}" if self._strict else gofmt.type_name(value)
        raise self._error(word, f"can't evaluate field {name} in type {kind}")

    def _method(self, word: Any, dot: Any, scope: list[tuple[str, Any]], arguments: list[Any]) -> Any:
        if isinstance(word, Variable):
            base = self._variable(word, scope)
        elif isinstance(word, Chain):
            base = self._value(word.base, dot, scope)
        else:
            base = dot
        if not word.names:
            raise self._error(word, f"can't give argument to non-function {word}")
        base = self._fields(word, base, word.names[:-1])
        name = word.names[-1]
        if isinstance(base, Record) and name in base.methods:
            try:
                return base.methods[name](*arguments)
            except TypeError:
                raise self._error(
                    word, f"wrong number of args for {name}: want 1 got {len(arguments)}"
                ) from None
        self._field(word, base, name)
        raise self._error(word, f"{name} is not a method but has arguments")

    def _call(
        self,
        word: Word,
        whole: Any,
        arguments: Sequence[Any],
        dot: Any,
        scope: list[tuple[str, Any]],
        final: Any,
    ) -> Any:
        """A function's value. Errors of the call name the `whole` command, errors of counting the function."""
        name = word.name
        count = len(arguments) + (final is not _NOTHING)
        least, variadic = ARITY.get(name, (0, True))
        if count < least or (count > least and not variadic):
            wanted = f"at least {least}" if variadic else str(least)
            raise self._error(word, f"wrong number of args for {name}: want {wanted} got {count}")
        if name in ("and", "or"):
            return self._logic(word, arguments, dot, scope, final)
        values = [self._value(argument, dot, scope) for argument in arguments]
        if final is not _NOTHING:
            values.append(final)
        for index, kind in enumerate(PARAMETERS.get(name, ())):
            self._check_argument(kind, values[index], arguments[index] if index < len(arguments) else whole)
        try:
            return self._functions[name](*values)
        except (TypeError, ValueError, IndexError, OverflowError) as exc:
            raise self._error(whole, f"error calling {name}: {exc}") from None

    def _check_argument(self, kind: str, value: Any, node: Any) -> None:
        """Go knows the types of a function's parameters before it calls it."""
        if kind == "string":
            fits = isinstance(value, str)
        elif kind == "int":
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, (list, tuple)) or value is None
        if fits:
            return
        if not isinstance(node, Constant):
            raise self._error(node, f"wrong type for value; expected {kind}; got {gofmt.type_name(value)}")
        if kind in ("string", "int"):
            what = "integer" if kind == "int" else kind
            raise self._error(node, f"expected {what}; found {node}")
        raise self._error(node, f"can't handle {node} for arg of type {kind}")

    def _logic(
        self, word: Word, arguments: Sequence[Any], dot: Any, scope: list[tuple[str, Any]], final: Any
    ) -> Any:
        """`and` and `or` stop at the argument that decides."""
        value: Any = None
        for argument in arguments:
            value = self._value(argument, dot, scope)
            if truth(value) == (word.name == "or"):
                return value
        return value if final is _NOTHING else final

    def _error(self, node: Any, message: str) -> TemplateError:
        head = self._text[: node.position]
        column = node.position - (head.rfind("\n") + 1)
        line = head.count("\n") + 1
        shown = str(node)
        return TemplateError(
            f'template: {self._name}:{line}:{column}: executing "{self._name}" at <{shown}>: {message}'
        )


_NOTHING: Any = object()
