"""The D-Bus wire format, and what a systemd cgroup path means."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.runtime.cgroups import dbus, systemd
from wherry.runtime.errors import StartFailed


@pytest.mark.parametrize(
    ("signature", "parts"),
    [
        ("", []),
        ("ssa(sv)a(sa(sv))", ["s", "s", "a(sv)", "a(sa(sv))"]),
        ("uoss", ["u", "o", "s", "s"]),
        ("aau", ["aau"]),
    ],
)
def test_signatures(signature: str, parts: list[str]) -> None:
    assert dbus.split(signature) == parts


def test_the_specification_s_alignment() -> None:
    # A string is a length, its bytes and a zero; a struct starts at a multiple of eight.
    assert dbus.marshal("su", ["foo", 1]) == b"\x03\0\0\0foo\0\x01\0\0\0"
    assert dbus.marshal("a(yt)", [[(1, 2)]]) == b"\x10\0\0\0" + bytes(4) + b"\x01" + bytes(
        7
    ) + b"\x02" + bytes(7)
    # Not the padding before its first element counts as an array's length, only what follows.
    assert dbus.marshal("at", [[]]) == bytes(8)


values = st.fixed_dictionaries(
    {
        "y": st.integers(0, 255),
        "b": st.integers(0, 1),
        "u": st.integers(0, 2**32 - 1),
        "t": st.integers(0, 2**64 - 1),
        "s": st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])),
        "au": st.lists(st.integers(0, 2**32 - 1)),
        "a(su)": st.lists(st.tuples(st.text("abc"), st.integers(0, 9)).map(list)),
        "as": st.lists(st.text("abc")),
    }
)


@given(values, st.permutations(["y", "b", "u", "t", "s", "au", "a(su)", "as"]))
def test_what_is_written_is_read_back(given_values: dict[str, Any], order: list[str]) -> None:
    data = [given_values[each] for each in order]
    assert dbus.unmarshal("".join(order), dbus.marshal("".join(order), data)) == data


def test_variants() -> None:
    assert dbus.unmarshal("a(sv)", dbus.marshal("a(sv)", [[("A", ("au", [1, 2])), ("B", ("s", "x"))]])) == [
        [["A", [1, 2]], ["B", "x"]]
    ]


def test_a_peer_that_refuses(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen(1)

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(b"REJECTED EXTERNAL\r\n")
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(dbus.BusError, match="REJECTED"):
            dbus.Connection(str(tmp_path / "bus"))
        thread.join()


def test_a_call_and_a_signal_before_its_answer(tmp_path: Path) -> None:
    def message(kind: int, serial: int, fields: list[Any], signature: str, body: list[Any]) -> bytes:
        data = dbus.marshal(signature, body)
        header = [*fields, (8, ("g", signature))]
        head = bytes([ord("l"), kind, 0, 1]) + len(data).to_bytes(4, "little") + serial.to_bytes(4, "little")
        # The array lies four bytes behind a multiple of eight.
        array = dbus.marshal("tua(yv)", [0, 0, header])[12:]
        return head + array + bytes(-(len(head) + len(array)) % 8) + data

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen(1)
        asked: list[bytes] = []

        def answer() -> None:
            connection, _ = listener.accept()
            asked.append(connection.recv(1000))
            connection.sendall(b"OK 0123\r\n")
            heard = b""
            while b"two" not in heard:
                heard += connection.recv(1000)
            asked.append(heard)
            connection.sendall(
                message(4, 1, [(3, ("s", "JobRemoved"))], "uoss", [7, "/job/1", "x.scope", "done"])
            )
            connection.sendall(message(2, 2, [(5, ("u", 1))], "o", ["/job/1"]))
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        connection = dbus.Connection(str(tmp_path / "bus"))
        assert connection.call("/x", "a.b", "Do", "ss", ["one", "two"]) == ["/job/1"]
        assert connection.wait_signal("JobRemoved") == [7, "/job/1", "x.scope", "done"]
        with pytest.raises(dbus.BusError, match="closed"):
            connection.wait_signal("Another")
        connection.close()
        thread.join()
    assert asked[0].startswith(b"\0AUTH EXTERNAL ")
    assert asked[1].startswith(b"BEGIN\r\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("system.slice:libpod:abc", ("system.slice", "libpod-abc.scope")),
        (":x:abc", ("system.slice", "x-abc.scope")),
        ("a-b.slice::abc", ("a-b.slice", "abc.scope")),
    ],
)
def test_paths(text: str, expected: tuple[str, str]) -> None:
    assert systemd.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "/a/b", "a:b", "a:b:c:d", "a.slice:b:", "a.slice:b:x.slice", "a.slice:../b:c"]
)
def test_paths_that_are_refused(text: str) -> None:
    with pytest.raises(StartFailed):
        systemd.parse(text)


@pytest.mark.parametrize(
    ("name", "path"),
    [("a.slice", "/a.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"), ("-.slice", "")],
)
def test_slices(name: str, path: str) -> None:
    assert systemd.slice_path(name) == path


@pytest.mark.parametrize("name", ["a", "a--b.slice", "-a.slice", "a/b.slice", ".slice"])
def test_slices_that_are_refused(name: str) -> None:
    with pytest.raises(StartFailed):
        systemd.slice_path(name)


def test_limits_in_units_of_systemd() -> None:
    resources = {
        "memory": {"limit": 100, "swap": 300, "reservation": 50},
        "cpu": {"shares": 1024, "quota": 50000},
        "pids": {"limit": -1},
    }
    assert systemd.limits(resources) == [
        ("MemoryMax", ("t", 100)),
        ("MemorySwapMax", ("t", 200)),
        ("MemoryLow", ("t", 50)),
        ("CPUWeight", ("t", 39)),
        ("CPUQuotaPeriodUSec", ("t", 100000)),
        ("CPUQuotaPerSecUSec", ("t", 500000)),
        ("TasksMax", ("t", 2**64 - 1)),
    ]
