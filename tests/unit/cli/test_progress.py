"""Progress as docker draws it."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.cli.progress import Screen, bar


def draw(messages: list[dict[str, Any]], *, terminal: bool, width: int = 200) -> str:
    out: list[str] = []
    screen = Screen(out.append, terminal=terminal, width=lambda: width, clock=lambda: 100.0)
    for message in messages:
        screen.draw(message)
    return "".join(out)


PULL: list[dict[str, Any]] = [
    {"status": "Pulling from library/x", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbb"},
    {"status": "Downloading", "progressDetail": {"current": 50, "total": 100}, "id": "aaa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaa"},
    {"status": "Digest: sha256:00"},
]


def test_in_a_pipe_there_are_lines_and_no_bars() -> None:
    assert draw(PULL, terminal=False) == (
        "latest: Pulling from library/x\naaa: Pulling fs layer\nbbb: Pulling fs layer\naaa: Pull complete\n"
        "Digest: sha256:00\n"
    )


def test_on_a_terminal_each_id_keeps_its_line() -> None:
    bar_text = "[" + "=" * 25 + ">" + " " * 25 + "]      50B/100B"
    assert draw(PULL, terminal=True) == (
        "latest: Pulling from library/x\n"
        "\n\x1b[1A\x1b[2K\raaa: Pulling fs layer \r\x1b[1B"
        "\n\x1b[1A\x1b[2K\rbbb: Pulling fs layer \r\x1b[1B"
        f"\x1b[2A\x1b[2K\raaa: Downloading {bar_text}\r\x1b[2B"
        "\x1b[2A\x1b[2K\raaa: Pull complete \r\x1b[2B"
        "Digest: sha256:00\n"
    )


@pytest.mark.parametrize(
    ("detail", "width", "text"),
    [
        ({}, 200, ""),
        ({"current": 5}, 200, "      5B"),
        ({"current": 5, "units": "layers"}, 200, "5 layers"),
        ({"current": 1500, "total": 3000}, 80, "   1.5kB/3kB"),
        ({"current": 30, "total": 20}, 80, "     30B"),
        ({"current": 1, "total": 4, "units": "x"}, 80, "1/4 x"),
        ({"current": 10, "total": 20, "start": 90}, 80, "     10B/20B 10s"),
        ({"current": 20, "total": 20, "hidecounts": True}, 200, "[" + "=" * 50 + ">] "),
    ],
)
def test_bars(detail: dict[str, Any], width: int, text: str) -> None:
    assert bar(detail, width, 100.0) == text


def test_a_stream_of_text_is_passed_through() -> None:
    assert draw([{"stream": "Loaded image: x\n"}], terminal=True) == "Loaded image: x\n"
