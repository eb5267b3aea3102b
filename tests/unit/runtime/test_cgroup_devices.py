"""Device rules: the lines for v1, and the v2 program interpreted over every rule."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.runtime.cgroups.devices import ALWAYS, program, rules, v1_lines
from wherry.runtime.errors import StartFailed

DENY_ALL = {"allow": False, "access": "rwm"}
MKNOD, READ, WRITE = 1, 2, 4


def decide(code: bytes, kind: str, major: int, minor: int, access: int) -> bool:
    """Run the eBPF program as the kernel would."""
    context = struct.pack("=III", access << 16 | {"b": 1, "c": 2}[kind], major, minor)
    instructions = list(struct.iter_unpack("=BBhi", code))
    registers = [0] * 11
    at = 0
    while True:
        operation, both, offset, value = instructions[at]
        destination, source = both & 15, both >> 4
        value &= 0xFFFFFFFF
        at += 1
        if operation == 0x61:
            registers[destination] = struct.unpack_from("=I", context, offset)[0]
        elif operation == 0x54:
            registers[destination] &= value
        elif operation == 0x74:
            registers[destination] >>= value
        elif operation == 0xBC:
            registers[destination] = registers[source]
        elif operation == 0xB7:
            registers[destination] = value
        elif operation == 0x55:
            at += offset if registers[destination] != value else 0
        elif operation == 0x5D:
            at += offset if registers[destination] != registers[source] else 0
        elif operation == 0x15:
            at += offset if registers[destination] == value else 0
        elif operation == 0x95:
            return bool(registers[0])
        else:
            raise AssertionError(hex(operation))


def expected(devices: list[dict[str, Any]], kind: str, major: int, minor: int, access: int) -> bool:
    """The last rule that matches decides."""
    letters = {"m": MKNOD, "r": READ, "w": WRITE}
    for allow, (rule_kind, rule_major, rule_minor, rule_access) in reversed(rules(devices)):
        mask = sum(letters[letter] for letter in rule_access)
        matches = access & mask == access if allow else bool(access & mask)
        if rule_kind in ("a", kind) and rule_major in (-1, major) and rule_minor in (-1, minor) and matches:
            return allow
    return False


device = st.fixed_dictionaries(
    {"allow": st.booleans(), "access": st.sampled_from(["r", "w", "m", "rw", "rm", "rwm"])},
    optional={
        "type": st.sampled_from(["a", "b", "c"]),
        "major": st.integers(0, 3),
        "minor": st.integers(0, 3),
    },
)


@given(
    st.lists(device, max_size=6),
    st.sampled_from("bc"),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(1, 7),
)
def test_the_program_decides_by_the_last_rule(
    devices: list[dict[str, Any]], kind: str, major: int, minor: int, access: int
) -> None:
    assert decide(program(devices), kind, major, minor, access) == expected(
        devices, kind, major, minor, access
    )


@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "allowed"),
    [
        ("c", 1, 3, READ | WRITE, True),  # null
        ("c", 1, 3, READ | WRITE | MKNOD, True),
        ("c", 136, 77, READ | WRITE, True),  # pts
        ("c", 1, 1, READ, False),  # mem
        ("c", 1, 1, MKNOD, True),
        ("b", 8, 0, READ, False),
        ("b", 8, 0, MKNOD, True),
        ("c", 10, 200, READ | WRITE, False),  # tun: runc allows it
    ],
)
def test_what_every_container_may(kind: str, major: int, minor: int, access: int, allowed: bool) -> None:
    assert decide(program([DENY_ALL]), kind, major, minor, access) is allowed


def test_everything() -> None:
    code = program([DENY_ALL, {"allow": True, "access": "rwm"}])
    assert decide(code, "b", 8, 0, READ | WRITE)
    assert decide(code, "c", 1, 1, WRITE)


def test_v1_starts_from_nothing() -> None:
    lines = v1_lines([DENY_ALL, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}])
    assert lines[0] == ("deny", b"a")
    assert lines[1] == ("allow", b"c 10:229 rw")
    assert lines[2] == ("allow", b"c *:* m")
    assert len(lines) == 2 + len(ALWAYS)


def test_v1_allows_everything_by_one_letter() -> None:
    assert v1_lines([DENY_ALL, {"allow": True, "access": "rwm"}])[0] == ("allow", b"a")


def test_v1_spells_out_both_kinds() -> None:
    """The kernel reads no further than "a", and would allow everything."""
    lines = v1_lines([{"allow": True, "type": "a", "major": 5, "access": "r"}])
    assert lines[1:3] == [("allow", b"b 5:* r"), ("allow", b"c 5:* r")]


@pytest.mark.parametrize("wrong", [{"type": "x"}, {"access": "rwx"}, {"major": "1"}, {"allow": 1}])
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StartFailed):
        rules([wrong])
