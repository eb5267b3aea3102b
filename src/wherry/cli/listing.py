"""Listings: rows of named fields as a table, as JSON, or through a `--format` template.

The usual table is written from its columns' names; the template engine is loaded only for a format of the
user's.
"""

from __future__ import annotations

from wherry.cli.flags import STRING
from wherry.cli.session import Exit, Session
from wherry.cli.table import tabulate, tabulate_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Protocol

    class Row(Protocol):
        """What a listing shows of one thing: fields by name."""

        fields: Mapping[str, Callable[[], Any]]


FORMAT_HELP = """Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Templates are Go's: https://docs.docker.com/go/formatting/"""
SHORT_FORMAT_HELP = """Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Templates are Go's: https://docs.docker.com/go/formatting/"""
FORMAT_ROW = ("format", "", STRING, FORMAT_HELP)
SHORT_FORMAT_ROW = ("format", "f", STRING, SHORT_FORMAT_HELP)
ELLIPSIS = "…"


class Fields:
    """A row: its fields, computed when asked for, and methods that take arguments (for templates)."""

    __slots__ = ("fields", "methods")

    def __init__(
        self, fields: Mapping[str, Callable[[], Any]], methods: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        self.fields = fields
        self.methods = methods or {}


def show(
    session: Session,
    rows: Iterable[Fields],
    format_text: str,
    *,
    columns: Sequence[str],
    headers: Mapping[str, str],
    type_name: str,
    parse_error: str = "template parsing error",
    run_error: str = "template parsing error",
    line_end: str = "",
) -> None:
    """Print rows. `columns` are the usual table's fields, `headers` how each field is headed. `line_end` is printed
    before each newline."""

    def out(text: str) -> None:
        session.out(text.replace("\n", f"{line_end}\n") if line_end else text)

    if format_text in ("", "table"):
        lines = [[headers[column] for column in columns]]
        lines += [[_cell(row.fields[column]()) for column in columns] for row in rows]
        out(tabulate(lines))
        return
    from wherry.cli.template.evaluate import Template
    from wherry.cli.template.nodes import TemplateError
    from wherry.cli.template.values import Record, to_json

    if format_text == "json":
        for row in rows:
            out(to_json(Record(type_name, row.fields).plain()) + "\n")
        return
    is_table = format_text.startswith("table")
    text = format_text[5:] if is_table else format_text
    text = text.strip(" ").replace("\\t", "\t").replace("\\n", "\n")
    try:
        template = Template(text)
    except TemplateError as exc:
        raise Exit(1, f"{parse_error}: {exc}") from None
    try:
        lines_text = [template.render(Record(type_name, row.fields, row.methods)) + "\n" for row in rows]
        if not is_table:
            out("".join(lines_text))
            return
        head = Template(text, functions=HEADER_FUNCTIONS).render(_header_record(headers))
    except TemplateError as exc:
        raise Exit(1, f"{run_error}: {exc}") from None
    out(tabulate_text(head + "\n" + "".join(lines_text)))


def _header_record(headers: Mapping[str, str]) -> Any:
    from wherry.cli.template.values import MISSING, Record

    class Headers(dict[str, "Callable[[], Any]"]):
        def __contains__(self, key: object) -> bool:
            return True

        def __missing__(self, key: str) -> Callable[[], Any]:
            return lambda: MISSING

    fields = Headers({name: (lambda text=text: text) for name, text in headers.items()})
    return Record("formatter.SubHeaderContext", fields, {"Label": _label_header})


def _label_header(name: str) -> str:
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def _same(value: Any, *_more: Any) -> Any:
    return value


HEADER_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("json", "title", "lower", "upper", "truncate", "split"), _same),
    "join": lambda value, *_more: value,  # pyright: ignore
    "pad": lambda text, before, after: " " * before + text + " " * after,  # pyright: ignore
}


def _cell(value: Any) -> str:
    return "<nil>" if value is None else str(value)


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last an ellipsis where something was cut off."""
    if len(text) <= length:
        return text
    return text[: length - 1] + ELLIPSIS if length > 1 else text[:length]


def short_id(text: str) -> str:
    """Twelve digits of an id, without its algorithm."""
    return (text.partition(":")[2] if ":" in text else text)[:12]


def gather_filters(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """`-f` values by name."""
    table: dict[str, list[str]] = {}
    for key, value in pairs:
        table.setdefault(key, []).append(value)
    return table
