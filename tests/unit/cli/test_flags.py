"""The command line's grammar: docker's, which is pflag's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli.flags import BOOL, FILTER, INT, LIST, STRING, FlagError, parse, read_int

if TYPE_CHECKING:
    from wherry.cli.flags import Row

ROWS: tuple[Row, ...] = (
    ("all", "a", BOOL, ""),
    ("tty", "t", BOOL, ""),
    ("env", "e", LIST, ""),
    ("filter", "f", FILTER, ""),
    ("last", "n", INT, "", -1),
    ("name", "", STRING, ""),
    ("network", "", STRING, ""),
)


@pytest.mark.parametrize(
    "line", ["-at -eA=b", "-ate A=b", "--all --tty --env A=b", "--all=true -t=1 --env=A=b", "-a -t -e=A=b"]
)
def test_ways_of_saying_the_same(line: str) -> None:
    options, rest = parse(ROWS, [*line.split(), "x"])
    assert (options.on("all"), options.on("tty"), options.many("env"), rest) == (True, True, ["A=b"], ["x"])


def test_defaults_and_whether_a_flag_was_given() -> None:
    options, _ = parse(ROWS, ["--name", ""])
    assert options.number("last") == -1
    assert options.changed("name")
    assert not options.changed("last")
    assert options.many("env") == []


def test_flags_may_follow_arguments_unless_the_command_says_not() -> None:
    assert parse(ROWS, ["x", "-a", "y"])[1] == ["x", "y"]
    options, rest = parse(ROWS, ["-t", "x", "-a", "--", "y"], interspersed=False)
    assert rest == ["x", "-a", "--", "y"]
    assert not options.on("all")


def test_two_dashes_end_flags() -> None:
    options, rest = parse(ROWS, ["-a", "--", "-t", "--", "x"])
    assert rest == ["-t", "--", "x"]
    assert not options.on("tty")


def test_a_dash_alone_is_an_argument() -> None:
    assert parse(ROWS, ["-"])[1] == ["-"]


def test_an_older_name_still_works() -> None:
    assert parse(ROWS, ["--net", "host"])[0].text("network") == "host"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nope", "unknown flag: --nope"),
        ("-z", "unknown shorthand flag: 'z' in -z"),
        ("-az", "unknown shorthand flag: 'z' in -z"),
        ("--name", "flag needs an argument: --name"),
        ("-e", "flag needs an argument: 'e' in -e"),
        ("-ae", "flag needs an argument: 'e' in -e"),
        ("--=x", "bad flag syntax: --=x"),
        ("---x", "bad flag syntax: ---x"),
        (
            "--all=maybe",
            'invalid argument "maybe" for "-a, --all" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        (
            "-n abc",
            'invalid argument "abc" for "-n, --last" flag: strconv.ParseInt: parsing "abc": invalid syntax',
        ),
        ("-f x", 'invalid argument "x" for "-f, --filter" flag: bad format of filter (expected name=value)'),
    ],
)
def test_errors_are_dockers(line: str, message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(ROWS, line.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("-3", -3), ("+4", 4), ("0x1f", 31), ("017", 15), ("0o17", 15), ("0b11", 3)],
)
def test_integers_as_go_reads_them(text: str, value: int) -> None:
    assert read_int(text) == value


@pytest.mark.parametrize(
    "text", ["", "-", "1.5", "0x", " 1", "1e3", "٣", "9223372036854775808", "-9223372036854775809"]
)
def test_integers_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"strconv\.ParseInt"):
        read_int(text)


@given(st.lists(st.text(alphabet="-=aetfnx1 ", max_size=6), max_size=6))
def test_no_line_makes_anything_but_a_flag_error(arguments: list[str]) -> None:
    try:
        parse(ROWS, arguments)
    except FlagError:
        pass
