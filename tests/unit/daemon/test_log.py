"""The daemon's own log: forms, levels, priorities."""

from __future__ import annotations

import json
import logging
import os

import pytest

from wherry.daemon.log import JournalFormatter, JsonFormatter, TextFormatter, is_journal


def record(level: int, message: str, *, fields: dict[str, object] | None = None) -> logging.LogRecord:
    made = logging.LogRecord("wherry.x", level, "f.py", 1, message, (), None)
    made.created, made.msecs = 1_795_580_809.25, 250.0
    if fields is not None:
        vars(made)["fields"] = fields
    return made


def failure() -> logging.LogRecord:
    try:
        raise ValueError("broken")
    except ValueError as exc:
        return logging.LogRecord(
            "wherry.x", logging.ERROR, "f.py", 1, "it failed", (), (ValueError, exc, exc.__traceback__)
        )


def test_text_is_dockerds() -> None:
    made = record(
        logging.WARNING, 'a "quoted"\nword', fields={"module": "api", "request-url": "/v1.41/x?y=1"}
    )
    assert TextFormatter().format(made) == (
        r'time="2026-11-25T04:26:49.250Z" level=warning msg="a \"quoted\"\nword" module=api request-url="/v1.41/x?y=1"'
    )
    assert (
        TextFormatter().format(record(logging.CRITICAL, "serving...")).endswith("level=fatal msg=serving...")
    )


def test_passwords_in_urls_stay_out() -> None:
    made = record(logging.ERROR, "Get http://me:pw@host/x: refused", fields={"error": "ftp://a:pw@b"})
    for formatter in (TextFormatter(), JsonFormatter()):
        assert "pw" not in formatter.format(made) and "http://*****@host/x" in formatter.format(made)


def test_json_is_one_object_a_line() -> None:
    text = JsonFormatter().format(record(logging.INFO, "hello\n", fields={"status": 404}))
    assert "\n" not in text
    assert json.loads(text) == {
        "level": "info",
        "msg": "hello\n",
        "status": 404,
        "time": "2026-11-25T04:26:49.250Z",
    }
    shown = json.loads(JsonFormatter().format(failure()))
    assert shown["msg"] == "it failed" and "ValueError: broken" in shown["error"]


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_the_journal_gets_priorities(level: int, priority: int) -> None:
    assert JournalFormatter(TextFormatter()).format(record(level, "x")).startswith(f"<{priority}>time=")


def test_each_line_of_a_traceback_has_its_priority() -> None:
    lines = JournalFormatter(TextFormatter()).format(failure()).split("\n")
    assert len(lines) > 2 and all(line.startswith("<3>") for line in lines)


def test_the_journal_is_known_by_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    try:
        found = os.fstat(write)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert is_journal(write)
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        assert not is_journal(write)
    finally:
        os.close(read)
        os.close(write)
