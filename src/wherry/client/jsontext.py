"""JSON text as Go writes it, read and written without the cost of importing `json`.

`json` imports `re`, which costs more than a whole `wherry ps`; the scanner itself is a C function that needs
neither. Where an interpreter has no `_json`, the standard module does the work.

Go's writer differs from Python's in ways that users see: `<`, `>` and `&` are escaped, other text is not,
there is no space after `:` and `,`, and a whole float has no `.0`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Scanner = Callable[[str, int], tuple[Any, int]]


class _Context:
    """What the C scanner asks its Python twin for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


def _make_scanner() -> Scanner:
    try:
        from _json import make_scanner
    except ImportError:  # not CPython
        from json.decoder import JSONDecoder

        decoder: Any = JSONDecoder(parse_constant=_Context.parse_constant)
        return decoder.scan_once
    scanner: Any = make_scanner
    return scanner(_Context)


_scan: Scanner | None = None


def loads(data: bytes | str) -> Any:
    """Read one JSON value. Raises ValueError for anything else, also for text nested too deep to read."""
    global _scan
    if _scan is None:
        _scan = _make_scanner()
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = text.strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError(
            "unexpected end of JSON input" if not text else f"invalid JSON: {text[:80]!r}"
        ) from None
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if end != len(text):
        raise ValueError(f"invalid character {text[end]!r} after top-level value")
    return value


def scan(text: str, start: int) -> tuple[Any, int]:
    """Read the JSON value that begins at `start`, and where it ends. Raises ValueError if it is not whole."""
    global _scan
    if _scan is None:
        _scan = _make_scanner()
    try:
        return _scan(text, start)
    except StopIteration:
        raise ValueError("unexpected end of JSON input") from None
    except RecursionError:
        raise ValueError("JSON nested too deep") from None


def quote(text: str) -> str:
    """A JSON string, escaped as Go escapes it."""
    try:
        from _json import encode_basestring
    except ImportError:
        from json.encoder import py_encode_basestring as encode_basestring
    quoted = encode_basestring(text)
    if "<" in quoted or ">" in quoted or "&" in quoted:
        quoted = quoted.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return quoted.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def dumps(value: Any) -> str:
    """Write a value as Go's json.Marshal does: compact, mappings in their own order."""
    parts: list[str] = []
    _write(value, parts.append)
    return "".join(parts)


def _write(value: Any, put: Callable[[str], None]) -> None:
    if value is None:
        put("null")
    elif value is True:
        put("true")
    elif value is False:
        put("false")
    elif isinstance(value, str):
        put(quote(value))
    elif isinstance(value, int):
        put(str(value))
    elif isinstance(value, float):
        put(str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value))
    elif isinstance(value, dict):
        put("{")
        separator = ""
        for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
            put(f"{separator}{quote(str(key))}:")  # pyright: ignore[reportUnknownArgumentType]
            _write(item, put)
            separator = ","
        put("}")
    elif isinstance(value, (list, tuple)):
        put("[")
        separator = ""
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            put(separator)
            _write(item, put)
            separator = ","
        put("]")
    else:
        raise TypeError(f"cannot write {type(value).__name__} as JSON")


def indent(text: str, step: str = "    ", prefix: str = "") -> str:
    """Lay valid JSON text out over lines as Go's json.Indent does, leaving every token as it was written.

    Working on the text keeps numbers, escapes and key order exactly as the engine sent them.
    """
    parts: list[str] = []
    put = parts.append
    depth = 0
    position = 0
    opened = False  # the last token was `{` or `[`: an empty pair stays on one line
    size = len(text)
    while position < size:
        char = text[position]
        if char in " \t\r\n":
            position += 1
            continue
        if char in "}]":
            depth -= 1
            if not opened:
                put("\n" + prefix + step * depth)
            opened = False
            put(char)
            position += 1
            continue
        if opened:
            put("\n" + prefix + step * depth)
            opened = False
        if char == '"':
            end = text.find('"', position + 1)
            while end > 0 and _is_escaped(text, end):
                end = text.find('"', end + 1)
            end = size if end < 0 else end + 1
            put(text[position:end])
            position = end
        elif char in "{[":
            put(char)
            depth += 1
            opened = True
            position += 1
        elif char == ",":
            put(",\n" + prefix + step * depth)
            position += 1
        elif char == ":":
            put(": ")
            position += 1
        else:
            put(char)
            position += 1
    return "".join(parts)


def _is_escaped(text: str, quote_at: int) -> bool:
    slashes = 0
    while text[quote_at - 1 - slashes] == "\\":
        slashes += 1
    return slashes % 2 == 1
