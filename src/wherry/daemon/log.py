"""The daemon's own log: lines in dockerd's form on stderr, or JSON; with the journal's priorities under systemd.

A record's `fields` (by `extra={"fields": {...}}`) follow the message by name. Secrets are masked
where such fields are made (`model.masking`), users and passwords in URLs here, wherever they come from.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time

from wherry.model.masking import masked_url

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
"""dockerd's names of levels."""

_NAMES = {logging.CRITICAL: "fatal"}
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_BARE = re.compile(r"[A-Za-z0-9\-._/@^+]+")


def set_up(*, level: str, form: str) -> None:
    """Write what is of `level` (of LEVELS) or above to stderr, as `text` or `json`."""
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormatter(formatter) if is_journal(sys.stderr.fileno()) else formatter)
    # Of libraries only warnings: what they say at debug may hold what must not be in a log.
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    set_level(level)


def set_level(level: str) -> None:
    logging.getLogger("wherry").setLevel(LEVELS[level])


def is_journal(descriptor: int) -> bool:
    """Whether `descriptor` is the stream to the journal that systemd gave us: systemd.exec(5), $JOURNAL_STREAM."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class TextFormatter(logging.Formatter):
    """dockerd's form: `time="…" level=info msg="…" name=value`. A traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs = {"level": _level(record), "msg": masked_url(record.getMessage()), **_fields(record)}
        text = f'time="{stamp}.{int(record.msecs):03d}Z" ' + " ".join(
            f"{name}={_quoted(str(value))}" for name, value in pairs.items()
        )
        return f"{text}\n{masked_url(self.formatException(record.exc_info))}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a traceback is its `error`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            **_fields(record),
            "level": _level(record),
            "msg": masked_url(record.getMessage()),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
        }
        if record.exc_info:
            fields["error"] = masked_url(self.formatException(record.exc_info))
        return json.dumps(fields, default=str)


class JournalFormatter(logging.Formatter):
    """What `inner` makes, each line with its priority: sd-daemon(3)."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        mark = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(mark + line for line in self._inner.format(record).splitlines())


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, record.levelname.lower())


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return {
        name: masked_url(str(value)) if isinstance(value, str) else value for name, value in fields.items()
    }


def _quoted(text: str) -> str:
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
