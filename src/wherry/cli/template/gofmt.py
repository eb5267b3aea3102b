"""Go's fmt, as much of it as templates reach: %v and friends, and how plain values print."""

from __future__ import annotations

from wherry.cli.template.values import Missing, Record, Struct, nil_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_WIDTH = 100_000


def type_name(value: Any) -> str:
    """The Go type an error message would name."""
    if isinstance(value, (Record, Struct)):
        return value.type_name
    if value is None or isinstance(value, Missing):
        return "interface {}"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (list, tuple)):
        texts = all(isinstance(item, str) for item in value)  # pyright: ignore[reportUnknownVariableType]
        return "[]string" if texts else "[]interface {}"
    return "map[string]interface {}"


def sort_key(key: Any) -> tuple[int, Any]:
    """Keys of a map in the order Go prints them."""
    return (0, key) if isinstance(key, (int, float)) else (1, str(key))


def display(value: Any) -> str:
    """How `{{value}}` and %v print."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, Missing):
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(display(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Record):
        return "{" + " ".join(display(item) for item in value.plain().values()) + "}"
    if isinstance(value, Struct):
        fields = {**value, **{name: item for name, item in value.absent.items() if name not in value}}
        return "{" + " ".join(display(nil_of(k) if v is None else v) for k, v in fields.items()) + "}"
    if isinstance(value, dict):
        items: Any = sorted(value.items(), key=lambda item: sort_key(item[0]))  # pyright: ignore
        return "map[" + " ".join(f"{display(key)}:{display(item)}" for key, item in items) + "]"
    return str(value)


def _float(value: float) -> str:
    """The shortest form that reads back, with an exponent where Go's %v has one."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    exponent = int(f"{value:e}".rpartition("e")[2])
    if -4 <= exponent < 21:
        text = repr(value)
        if "e" in text:
            text = f"{value:.0f}"
        return text[:-2] if text.endswith(".0") else text
    mantissa, _, power = repr(value).partition("e")
    if not power:
        mantissa, _, power = f"{value:e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa.removesuffix('.0')}e{power[0]}{power[1:].zfill(2)}"


def sprint(*values: Any) -> str:
    """fmt.Sprint: a space between operands when neither is a string."""
    parts: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            parts.append(" ")
        parts.append(display(value))
    return "".join(parts)


def sprintln(*values: Any) -> str:
    """fmt.Sprintln."""
    return " ".join(display(value) for value in values) + "\n"


def quote(text: str) -> str:
    """strconv.Quote."""
    escapes = {
        '"': '\\"',
        "\\": "\\\\",
        "\n": "\\n",
        "\t": "\\t",
        "\r": "\\r",
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\v": "\\v",
    }
    out: list[str] = []
    for char in text:
        code = ord(char)
        if char in escapes:
            out.append(escapes[char])
        elif char.isprintable():
            out.append(char)
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def unquote(text: str) -> str:
    """The inside of a Go string constant. Raises ValueError."""
    if "\\" not in text:
        return text
    simple = {
        "n": "\n",
        "t": "\t",
        "r": "\r",
        "a": "\a",
        "b": "\b",
        "f": "\f",
        "v": "\v",
        "\\": "\\",
        '"': '"',
        "'": "'",
    }
    sizes = {"x": 2, "u": 4, "U": 8}
    out = bytearray()
    at = 0
    while at < len(text):
        char = text[at]
        if char != "\\":
            out += char.encode("utf-8", "surrogateescape")
            at += 1
            continue
        letter = text[at + 1 : at + 2]
        if letter in simple and letter:
            out += simple[letter].encode()
            at += 2
        elif letter in sizes and letter:
            digits = text[at + 2 : at + 2 + sizes[letter]]
            if len(digits) != sizes[letter] or not all(d in "0123456789abcdefABCDEF" for d in digits):
                raise ValueError("invalid syntax")
            code = int(digits, 16)
            if letter == "x":
                out.append(code)
            else:
                if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                    raise ValueError("invalid syntax")
                out += chr(code).encode()
            at += 2 + sizes[letter]
        elif letter and letter in "01234567":
            digits = text[at + 1 : at + 4]
            if len(digits) != 3 or not all(d in "01234567" for d in digits) or int(digits, 8) > 255:
                raise ValueError("invalid syntax")
            out.append(int(digits, 8))
            at += 4
        else:
            raise ValueError("invalid syntax")
    return out.decode("utf-8", "surrogateescape")


def sprintf(layout: Any, *values: Any) -> str:
    """fmt.Sprintf for %v %T %t %d %x %X %o %b %c %q %s %e %f %g %%, with flags, width and precision."""
    if not isinstance(layout, str):
        raise ValueError(f"wrong type for value; expected string; got {type_name(layout)}")
    out: list[str] = []
    at = 0
    used = 0
    while True:
        percent = layout.find("%", at)
        if percent < 0:
            out.append(layout[at:])
            break
        out.append(layout[at:percent])
        at = percent + 1
        flags = ""
        while at < len(layout) and layout[at] in "+-# 0":
            flags += layout[at]
            at += 1
        width, at, used = _number(layout, at, values, used)
        precision: int | None = None
        if layout[at : at + 1] == ".":
            precision, at, used = _number(layout, at + 1, values, used)
            precision = precision or 0
        if at >= len(layout):
            out.append("%!(NOVERB)")
            break
        verb = layout[at]
        at += 1
        if verb == "%":
            out.append("%")
        elif used >= len(values):
            out.append(f"%!{verb}(MISSING)")
        else:
            if width is not None and width < 0:
                flags, width = flags + "-", -width
            out.append(_padded(_verb(verb, values[used], flags, precision), flags, width, values[used]))
            used += 1
    if used < len(values):
        rest = ", ".join(f"{type_name(value)}={display(value)}" for value in values[used:])
        out.append(f"%!(EXTRA {rest})")
    return "".join(out)


def _number(layout: str, at: int, values: tuple[Any, ...], used: int) -> tuple[int | None, int, int]:
    if layout[at : at + 1] == "*":
        number = values[used] if used < len(values) else 0
        if not isinstance(number, int) or abs(number) > MAX_WIDTH:
            raise ValueError("%!(BADWIDTH)")
        return number, at + 1, used + 1
    start = at
    while at < len(layout) and "0" <= layout[at] <= "9":
        at += 1
    if at == start:
        return None, at, used
    if int(layout[start:at]) > MAX_WIDTH:
        raise ValueError("%!(BADWIDTH)")
    return int(layout[start:at]), at, used


def _padded(text: str, flags: str, width: int | None, value: Any) -> str:
    if width is None:
        return text
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and isinstance(value, (int, float)) and not isinstance(value, bool):
        sign = text[:1] if text[:1] in ("+", "-") else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def _verb(verb: str, value: Any, flags: str, precision: int | None) -> str:
    if verb == "v":
        return quote(value) if "#" in flags and isinstance(value, str) else display(value)
    if verb == "T":
        return type_name(value)
    if isinstance(value, bool):
        return display(value) if verb == "t" else f"%!{verb}(bool={display(value)})"
    if isinstance(value, int):
        return _int_verb(verb, value, flags)
    if isinstance(value, float):
        if verb in "efgEFG":
            text = f"{value:{'+' if '+' in flags else ''}.{6 if precision is None else precision}{verb}}"
            return display(value) if verb in "gG" and precision is None else text
        return f"%!{verb}(float64={display(value)})"
    if isinstance(value, str):
        if verb == "s":
            return value if precision is None else value[:precision]
        if verb == "q":
            return quote(value)
        if verb in "xX":
            text = value.encode("utf-8", "surrogateescape").hex()
            return text.upper() if verb == "X" else text
        return f"%!{verb}(string={value})"
    if isinstance(value, (list, tuple)) and verb in "sqdxX":
        return "[" + " ".join(_verb(verb, item, flags, precision) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    if verb == "s":
        return "%!s(<nil>)" if value is None else display(value)
    return f"%!{verb}({type_name(value)}={display(value)})" if value is not None else f"%!{verb}(<nil>)"


def _int_verb(verb: str, value: int, flags: str) -> str:
    sign = "+" if "+" in flags and value >= 0 else ""
    if verb == "d":
        return f"{sign}{value}"
    if verb in "xXob":
        prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}[verb] if "#" in flags else ""
        return f"{'-' if value < 0 else sign}{prefix}{abs(value):{verb}}"
    if verb == "U":
        return f"U+{value:04X}"
    if verb == "c":
        return chr(value) if 0 <= value < 0x110000 else "\ufffd"
    if verb == "q":
        return f"'{chr(value)}'" if 0 <= value < 0x110000 else "'\ufffd'"
    return f"%!{verb}(int={value})"


def escape_html(text: str) -> str:
    for char, entity in (
        ("&", "&amp;"),
        ("'", "&#39;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ('"', "&#34;"),
        ("\0", "\ufffd"),
    ):
        text = text.replace(char, entity)
    return text


def escape_query(text: str) -> str:
    from wherry.client.api import escape

    return "+".join(escape(part) for part in text.split(" "))


def escape_js(text: str) -> str:
    table = {
        "\\": "\\\\",
        "'": "\\'",
        '"': '\\"',
        "<": "\\u003C",
        ">": "\\u003E",
        "&": "\\u0026",
        "=": "\\u003D",
    }
    return "".join(table.get(c, c if c.isprintable() else f"\\u{ord(c):04X}") for c in text)
