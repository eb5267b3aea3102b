"""What listings show of containers, images and events."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.cli.events import event_line
from wherry.cli.images import image_names
from wherry.cli.inspect import typed
from wherry.cli.listing import shorten
from wherry.cli.ps import container_fields, show_ports
from wherry.cli.template.evaluate import Template
from wherry.cli.trace import trace_lines


def port(private: int, public: int = 0, ip: str = "", kind: str = "tcp") -> dict[str, Any]:
    return {"PrivatePort": private, "Type": kind, **({"PublicPort": public, "IP": ip} if public else {})}


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([], ""),
        ([port(80)], "80/tcp"),
        ([port(81), port(80), port(82), port(90)], "80-82/tcp, 90/tcp"),
        ([port(80, 8080, "0.0.0.0"), port(80, 8080, "::")], "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
        ([port(80, 80, "0.0.0.0"), port(81, 81, "0.0.0.0")], "0.0.0.0:80-81->80-81/tcp"),
        ([port(53, kind="udp"), port(53)], "53/tcp, 53/udp"),
    ],
)
def test_ports(ports: list[dict[str, Any]], text: str) -> None:
    assert show_ports(ports) == text


def test_a_container_without_anything_is_shown() -> None:
    fields = container_fields({"Id": "a" * 64, "Created": 0}, 60.0, trunc=True).fields
    shown = {name: field() for name, field in fields.items()}
    assert (shown["ID"], shown["Image"], shown["Names"], shown["Command"]) == (
        "a" * 12,
        "<no image>",
        "",
        '""',
    )
    assert (shown["RunningFor"], shown["Size"]) == ("About a minute ago", "0B")


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("busybox", "busybox"),
        ("a/b:1", "a/b:1"),
        ("sha256:" + "ab" * 32, "abababababab"),
        ("busybox@sha256:" + "cd" * 32, "busybox"),
        ("busybox:1@sha256:" + "cd" * 32, "busybox:1"),
    ],
)
def test_the_image_of_a_container(image: str, text: str) -> None:
    found = {"Id": "c", "Created": 0, "Image": image, "ImageID": "sha256:" + "ab" * 32}
    assert container_fields(found, 0, trunc=True).fields["Image"]() == text
    assert container_fields(found, 0, trunc=False).fields["Image"]() == image


def test_long_text_is_cut_with_an_ellipsis() -> None:
    assert shorten("x" * 21, 20) == "x" * 19 + "…"
    assert shorten("x" * 20, 20) == "x" * 20


@pytest.mark.parametrize(
    ("tags", "digests", "lines"),
    [
        ([], [], [("<none>", "<none>", "<none>")]),
        (["<none>:<none>"], ["<none>@<none>"], [("<none>", "<none>", "<none>")]),
        (
            ["a:1", "a:2", "h:5000/b:3"],
            [],
            [("a", "1", "<none>"), ("a", "2", "<none>"), ("h:5000/b", "3", "<none>")],
        ),
        (["a:1"], ["a@sha256:0"], [("a", "1", "sha256:0")]),
        ([], ["a@sha256:0"], [("a", "<none>", "sha256:0")]),
    ],
)
def test_one_line_for_each_name_of_an_image(
    tags: list[str], digests: list[str], lines: list[tuple[str, str, str]]
) -> None:
    assert list(image_names({"RepoTags": tags, "RepoDigests": digests}, digests=True)) == lines


def test_an_event_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    event = {
        "Type": "container",
        "Action": "die",
        "timeNano": 1795559205721686776,
        "Actor": {"ID": "abc", "Attributes": {"name": "n", "exitCode": "3"}},
    }
    assert event_line(event) == "2026-11-24T22:26:45.721686776Z container die abc (exitCode=3, name=n)\n"


def test_inspected_objects_are_structs_and_maps_where_go_has_them() -> None:
    value = typed(
        {
            "Id": "x",
            "State": {"Pid": 3},
            "Config": {"Labels": {"b": "2", "a": "1"}, "Entrypoint": None, "Env": ["A=1"]},
            "HostConfig": {
                "LogConfig": {"Type": "t", "Config": {}},
                "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8"}]},
            },
        }
    )
    text = "{{.ID}} {{.State}} {{.Config}} {{.HostConfig.LogConfig}} {{.HostConfig.PortBindings}} {{.State.Health}}"
    assert (
        Template(text).render(value)
        == "x {3 <nil>} {map[a:1 b:2] [] [A=1]} {t map[]} map[80/tcp:[{ 8}]] <nil>"
    )
    assert (
        Template("{{json .Config}}").render(value)
        == '{"Labels":{"a":"1","b":"2"},"Entrypoint":null,"Env":["A=1"]}'
    )


def test_a_trace_is_a_table_with_bars() -> None:
    assert trace_lines([("a", 1.0), ("b", 4.0)], colour=False) == (
        "STEP      AT        TOOK\n"
        "a         1.00 ms   1.00 ms   ██████████\n"
        "b         4.00 ms   3.00 ms             ██████████████████████████████\n"
    )
