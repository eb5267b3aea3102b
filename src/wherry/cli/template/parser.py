"""Parses Go templates into nodes. The grammar and the error texts are text/template/parse's."""

from __future__ import annotations

from wherry.cli.template.gofmt import unquote
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

SPACES = " \t\r\n"
MAX_NESTING = 100


class _Token:
    __slots__ = ("kind", "position", "text", "value")

    def __init__(self, kind: str, text: str, position: int, value: Any = None) -> None:
        self.kind = kind
        self.text = text
        self.position = position
        self.value = value


def parse_template(
    text: str, name: str, functions: Mapping[str, Any]
) -> tuple[list[Any], dict[str, list[Any]]]:
    """The template's nodes, and those of the templates it defines. Raises TemplateError."""
    parser = _Parser(text, name, functions)
    nodes, _ = parser.block(("end of template",))
    return nodes, parser.defined


KEYWORDS = ("if", "range", "with", "else", "end", "define", "template", "block", "break", "continue")


class _Parser:
    def __init__(self, text: str, name: str, functions: Mapping[str, Any]) -> None:
        self._source = text
        self._name = name
        self._functions = functions
        self._at = 0
        self._tokens: list[_Token] = []
        self._index = 0
        self._variables = ["$"]
        self._loops = 0
        self._nesting = 0
        self.defined: dict[str, list[Any]] = {}
        self._trim_next = False

    def _fail(self, message: str, position: int | None = None) -> NoReturn:
        line = self._source[: self._at if position is None else position].count("\n") + 1
        raise TemplateError(f"template: {self._name}:{line}: {message}")

    # -- text and actions

    def block(self, ends: tuple[str, ...]) -> tuple[list[Any], _Token | None]:
        """Nodes up to one of the keywords in `ends`, whose token is given too."""
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            self._fail("max expression depth exceeded")
        nodes: list[Any] = []
        while True:
            start = self._at
            opening = self._source.find("{{", start)
            text = self._source[start:] if opening < 0 else self._source[start:opening]
            if self._trim_next:
                text = text.lstrip(SPACES)
            if (
                opening >= 0
                and self._source[opening + 2 : opening + 3] == "-"
                and self._source[opening + 3 : opening + 4] in tuple(SPACES)
            ):
                text = text.rstrip(SPACES)
            if text:
                nodes.append(Text(start, text))
            if opening < 0:
                self._at = len(self._source)
                if "end of template" not in ends:
                    self._fail("unexpected EOF")
                self._nesting -= 1
                return nodes, None
            if not self._read_action(opening):
                continue  # a comment
            token = self._peek()
            if token.kind == "word" and token.text in ("end", "else"):
                if token.text not in ends:
                    self._fail(f"unexpected {{{{{token.text}}}}}", token.position)
                self._index += 1
                self._nesting -= 1
                return nodes, token
            node = self._statement()
            if node is not None:
                nodes.append(node)

    def _statement(self) -> Any:
        token = self._peek()
        if token.kind == "word" and token.text in KEYWORDS:
            self._index += 1
            word = token.text
            if word in ("if", "with"):
                return self._conditional(token)
            if word == "range":
                return self._range(token)
            if word in ("break", "continue"):
                if not self._loops:
                    self._fail(f"{{{{{word}}}}} outside {{{{range}}}}", token.position)
                self._expect_end(word)
                return Break(token.position) if word == "break" else Continue(token.position)
            if word in ("define", "block"):
                return self._define(token)
            return self._use(token)
        return self._pipeline("command", ("end",))

    def _conditional(self, token: _Token) -> Any:
        mark = len(self._variables)
        pipe = self._pipeline(token.text, ("end",))
        body, ended = self.block(("end", "else"))
        otherwise = self._after_else(ended, token.text)
        del self._variables[mark:]
        kind = If if token.text == "if" else With
        return kind(token.position, pipe, body, otherwise)

    def _after_else(self, ended: _Token | None, word: str) -> list[Any]:
        if ended is None or ended.text == "end":
            self._expect_end("end")
            return []
        following = self._peek()
        if following.kind == "word" and following.text == word and word in ("if", "with"):
            self._index += 1
            return [self._conditional(following)]  # its `end` is ours
        self._expect_end("else")
        otherwise, _ = self.block(("end",))
        self._expect_end("end")
        return otherwise

    def _range(self, token: _Token) -> Range:
        mark = len(self._variables)
        pipe = self._pipeline("range", ("end",), most=2)
        self._loops += 1
        body, ended = self.block(("end", "else"))
        self._loops -= 1
        otherwise = self._after_else(ended, "range")
        del self._variables[mark:]
        return Range(token.position, pipe, body, otherwise)

    def _define(self, token: _Token) -> Any:
        name = self._template_name(token.text)
        pipe = self._pipeline("block", ("end",)) if token.text == "block" else None
        if pipe is None:
            self._expect_end("define clause")
        variables, self._variables = self._variables, ["$"]
        body, _ = self.block(("end",))
        self._expect_end("end")
        self._variables = variables
        self.defined[name] = body
        return Define(token.position) if pipe is None else TemplateUse(token.position, name, pipe)

    def _use(self, token: _Token) -> TemplateUse:
        token = self._peek()
        name = self._template_name("template clause")
        pipe = None
        if self._peek().kind != "close":
            pipe = self._pipeline("template clause", ("end",))
        return TemplateUse(token.position, name, pipe)

    def _template_name(self, context: str) -> str:
        token = self._next()
        if token.kind != "string":
            self._fail(f"unexpected {_shown(token)} in {context}", token.position)
        return str(token.value)

    # -- pipelines

    def _pipeline(self, context: str, closers: tuple[str, ...], most: int = 1) -> Pipe:
        position = self._peek().position
        names: tuple[str, ...] = ()
        assigns = False
        mark = self._index
        if self._peek().kind == "variable" and "." not in self._peek().text:
            found = [self._next().text]
            if most == 2 and self._peek().kind == ",":
                self._index += 1
                token = self._next()
                if token.kind != "variable":
                    self._fail("range can only initialize variables", token.position)
                found.append(token.text)
            if self._peek().kind in (":=", "="):
                assigns = self._next().kind == "="
                names = tuple(found)
                for name in names:
                    if assigns and name not in self._variables:
                        self._fail(f'undefined variable "{name}"', position)
            else:
                self._index = mark
        commands: list[Command] = []
        while True:
            token = self._peek()
            if token.kind == "close" or (token.kind == ")" and "paren" in closers):
                self._index += 1
                if not commands:
                    self._fail(f"missing value for {context}", token.position)
                if token.kind == "close" and "paren" in closers:
                    self._fail("unclosed left paren", token.position)
                break
            if token.kind in (")", "|", ",", ":=", "=") or not self._starts_operand(token):
                self._fail(f"unexpected {_shown(token)} in {context}", token.position)
            commands.append(self._command(context))
        for command in commands[1:]:
            if isinstance(command.words[0], (Constant, Dot, Nil)):
                self._fail(
                    f"non executable command in pipeline stage {commands.index(command) + 1}",
                    command.position,
                )
        if names and not assigns:
            self._variables += names
        return Pipe(position, commands, names, assigns=assigns)

    @staticmethod
    def _starts_operand(token: _Token) -> bool:
        return token.kind in ("word", "field", "variable", "dot", "string", "number", "char", "(")

    def _command(self, context: str) -> Command:
        position = self._peek().position
        words: list[Any] = []
        while True:
            words.append(self._operand())
            token = self._peek()
            if token.kind == "|":
                self._index += 1
                if not self._starts_operand(self._peek()):
                    self._fail(f"missing value for {context}", token.position)
                break
            if token.kind in ("close", ")"):
                break
            if not self._starts_operand(token) or (token.kind == "dot" and token.value):
                self._fail(f"unexpected {_shown(token)} in operand", token.position)
        return Command(position, words)

    def _operand(self) -> Any:
        token = self._next()
        node: Any
        if token.kind == "word":
            node = self._named(token)
        elif token.kind == "field":
            node = Field(token.position, (token.text[1:],))
        elif token.kind == "variable":
            if token.text not in self._variables:
                self._fail(f'undefined variable "{token.text}"', token.position)
            node = Variable(token.position, token.text)
        elif token.kind == "dot":
            node = Dot(token.position)
        elif token.kind in ("string", "number", "char"):
            node = Constant(token.position, token.value, token.text)
        elif token.kind == "(":
            self._nesting += 1
            if self._nesting > MAX_NESTING:
                self._fail("max expression depth exceeded", token.position)
            node = self._pipeline("parenthesized pipeline", ("paren",))
            self._nesting -= 1
        else:
            self._fail(f"unexpected {_shown(token)} in operand", token.position)
        names: list[str] = []
        position = self._peek().position
        while self._peek().kind == "field" and self._peek().value:  # no space before it: part of this operand
            names.append(self._next().text[1:])
        if not names:
            return node
        if isinstance(node, Variable):
            return Variable(position, node.name, tuple(names))
        if isinstance(node, Field):
            return Field(position, node.names + tuple(names))
        if isinstance(node, (Constant, Nil, Dot)):
            self._fail(f"unexpected . after term {str(node)!r}".replace("'", '"'), position)
        return Chain(position, node, tuple(names))

    def _named(self, token: _Token) -> Any:
        if token.text in ("true", "false"):
            return Constant(token.position, token.text == "true", token.text)
        if token.text == "nil":
            return Nil(token.position)
        if token.text in KEYWORDS:
            self._fail(f"unexpected <{token.text}> in operand", token.position)
        if token.text not in self._functions:
            self._fail(f'function "{token.text}" not defined', token.position)
        return Word(token.position, token.text)

    # -- tokens

    def _peek(self) -> _Token:
        return self._tokens[self._index]

    def _next(self) -> _Token:
        token = self._tokens[self._index]
        if token.kind != "close":
            self._index += 1
        return token

    def _expect_end(self, context: str) -> None:
        token = self._peek()
        if token.kind != "close":
            self._fail(f"unexpected {_shown(token)} in {context}", token.position)

    def _read_action(self, opening: int) -> bool:
        """Split the action at `opening` into tokens. False for a comment, which leaves nothing behind."""
        source = self._source
        at = opening + 2
        if source[at : at + 1] == "-" and source[at + 1 : at + 2] in tuple(SPACES):
            at += 1
        start = at
        while start < len(source) and source[start] in SPACES and start > opening + 2:
            start += 1
        if source.startswith("/*", start):
            end = source.find("*/", start)
            if end < 0:
                self._fail("unclosed comment", opening)
            end += 2
            self._trim_next = False
            if source[end : end + 1] in tuple(SPACES) and source.startswith("-}}", end + 1):
                self._trim_next = True
                end += 2
            if not source.startswith("}}", end):
                self._fail("comment ends before closing delimiter", opening)
            self._at = end + 2
            return False
        self._tokens, self._index = [], 0
        parens = 0
        while True:
            spaced = at
            while at < len(source) and source[at] in SPACES:
                at += 1
            after_space = at > spaced
            if after_space and source.startswith("-}}", at):
                self._trim_next = True
                at += 3
                break
            if source.startswith("}}", at):
                self._trim_next = False
                at += 2
                break
            if at >= len(source):
                self._at = opening
                self._fail("unclosed action", opening)
            token, at = self._read_token(at, after_space=after_space)
            parens += (token.kind == "(") - (token.kind == ")")
            if parens < 0:
                self._fail("unexpected right paren", token.position)
            self._tokens.append(token)
        if parens:
            self._fail("unclosed left paren", opening)
        self._tokens.append(_Token("close", "}}", at - 2))
        self._at = at
        return True

    def _read_token(self, at: int, *, after_space: bool) -> tuple[_Token, int]:
        source = self._source
        char = source[at]
        if char in '"`':
            return self._read_string(at)
        if char == "'":
            return self._read_char(at)
        if char == ".":
            end = _word_end(source, at + 1)
            if end > at + 1 and not source[at + 1].isdigit():
                joined = not after_space and bool(self._tokens) and self._tokens[-1].kind != "("
                return _Token("field", source[at:end], at, joined), end
            if end == at + 1:
                return _Token("dot", ".", at, bool(self._tokens) and not after_space), end
        if char == "$":
            end = _word_end(source, at + 1)
            return _Token("variable", source[at:end], at), end
        if char.isdigit() or (char in "+-." and source[at + 1 : at + 2].isdigit()):
            return self._read_number(at)
        if char.isalpha() or char == "_":
            end = _word_end(source, at)
            return _Token("word", source[at:end], at), end
        if source.startswith(":=", at):
            return _Token(":=", ":=", at), at + 2
        if char in "|(),=":
            return _Token(char, char, at), at + 1
        if char.isascii() and char.isprintable():
            return _Token("other", char, at), at + 1
        return self._fail(f"unrecognized character in action: U+{ord(char):04X} '{char}'", at)

    def _read_string(self, at: int) -> tuple[_Token, int]:
        source = self._source
        if source[at] == "`":
            end = source.find("`", at + 1)
            if end < 0:
                self._fail("unterminated raw quoted string", at)
            return _Token("string", source[at : end + 1], at, source[at + 1 : end]), end + 1
        end = at + 1
        while end < len(source) and source[end] != '"':
            if source[end] == "\n":
                self._fail("unterminated quoted string", at)
            end += 2 if source[end] == "\\" else 1
        if end >= len(source):
            self._fail("unterminated quoted string", at)
        text = source[at : end + 1]
        return _Token("string", text, at, self._unquote(text, at)), end + 1

    def _unquote(self, text: str, at: int) -> str:
        try:
            return unquote(text[1:-1])
        except ValueError:
            self._fail("invalid syntax", at)

    def _read_char(self, at: int) -> tuple[_Token, int]:
        end = at + 1
        while end < len(self._source) and self._source[end] != "'":
            end += 2 if self._source[end] == "\\" else 1
        if end >= len(self._source):
            self._fail("unterminated character constant", at)
        value = self._unquote(self._source[at : end + 1], at)
        if len(value) != 1:
            self._fail(f"malformed character constant: {self._source[at : end + 1]}", at)
        return _Token("char", self._source[at : end + 1], at, ord(value)), end + 1

    def _read_number(self, at: int) -> tuple[_Token, int]:
        source = self._source
        end = at + 1
        while end < len(source) and (
            source[end].isalnum()
            or source[end] in "._"
            or (
                source[end] in "+-"
                and source[end - 1] in "eEpP"
                and not source[at:end].lower().startswith(("0x", "-0x"))
            )
        ):
            end += 1
        text = source[at:end]
        try:
            value: int | float = int(text, 0) if not _is_old_octal(text) else int(text, 8)
        except ValueError:
            try:
                value = float(text)
            except ValueError:
                self._fail(f"bad number syntax: {text!r}".replace("'", '"'), at)
            if value.is_integer() and abs(value) < 1e15 and "." not in text:
                value = int(value)
        return _Token("number", text, at, value), end


def _is_old_octal(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits.isdigit()


def _word_end(text: str, at: int) -> int:
    while at < len(text) and (text[at].isalnum() or text[at] == "_"):
        at += 1
    return at


def _shown(token: _Token) -> str:
    if token.kind == "close":
        return '"}}"' if token.text == "}}" else token.text
    if token.kind == "dot" or (token.kind == "word" and token.text in KEYWORDS):
        return f"<{token.text}>"
    return f'"{token.text}"' if token.kind != "string" else token.text.join(('"', '"'))
