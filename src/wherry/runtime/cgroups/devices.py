"""Which devices a container may make and open: rules of config.json for the v1 controller and as a v2 eBPF
program.

Rules are applied in order on top of "nothing is allowed"; those every container needs come last, as in runc,
except /dev/net/tun (10:200), which a container gets by asking.
"""

from __future__ import annotations

import struct

from wherry.runtime import values
from wherry.runtime.errors import invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# kind, major, minor (-1: any), access
Rule = tuple[str, int, int, str]

ALWAYS: tuple[Rule, ...] = (
    ("c", -1, -1, "m"),
    ("b", -1, -1, "m"),
    ("c", 1, 3, "rwm"),  # null
    ("c", 1, 5, "rwm"),  # zero
    ("c", 1, 7, "rwm"),  # full
    ("c", 1, 8, "rwm"),  # random
    ("c", 1, 9, "rwm"),  # urandom
    ("c", 5, 0, "rwm"),  # tty
    ("c", 5, 2, "rwm"),  # ptmx
    ("c", 136, -1, "rwm"),  # pts/N
)


def rules(devices: list[dict[str, Any]]) -> list[tuple[bool, Rule]]:
    """(allow, rule) for each entry of linux.resources.devices, checked, then what is always allowed."""
    result: list[tuple[bool, Rule]] = []
    for device in devices:
        kind = values.text(device, "type") or "a"
        if kind not in ("a", "b", "c", "u"):
            raise invalid(f"invalid device type {kind!r} in a cgroup rule: want a, b or c")
        access = values.text(device, "access") or "rwm"
        if not set(access) <= set("rwm"):
            raise invalid(f"invalid device access {access!r} in a cgroup rule: want letters of rwm")
        major, minor = values.number(device, "major"), values.number(device, "minor")
        rule = (
            "c" if kind == "u" else kind,
            -1 if major is None else major,
            -1 if minor is None else minor,
            access,
        )
        result.append((values.flag(device, "allow"), rule))
    result.extend((True, rule) for rule in ALWAYS)
    return result


def v1_lines(devices: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """("allow" | "deny", line) to write to devices.allow and devices.deny, in order."""
    lines: list[tuple[str, bytes]] = [("deny", b"a")]
    for allow, (kind, major, minor, access) in rules(devices):
        name = "allow" if allow else "deny"
        if kind == "a" and (major, minor) == (-1, -1):
            if allow:
                lines = []  # everything before is void
            else:
                lines = [("deny", b"a")]
                continue
        # The kernel ignores numbers and access after "a" and would allow everything: spell both kinds out.
        for one in ("b", "c") if kind == "a" and (major, minor, access) != (-1, -1, "rwm") else (kind,):
            text = (
                "a"
                if one == "a"
                else f"{one} {'*' if major < 0 else major}:{'*' if minor < 0 else minor} {access}"
            )
            lines.append((name, text.encode()))
    return lines


# struct bpf_cgroup_dev_ctx { u32 access_type (access << 16 | type); u32 major; u32 minor; }
_KIND = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}

_LDX_W, _ALU32_AND_K, _ALU32_RSH_K, _ALU32_MOV_X, _MOV_K, _EXIT = 0x61, 0x54, 0x74, 0xBC, 0xB7, 0x95
_JNE_K, _JNE_X = 0x55, 0x5D


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | destination, offset, value)


def program(devices: list[dict[str, Any]]) -> bytes:
    """The BPF_PROG_TYPE_CGROUP_DEVICE program for the rules: the last rule that matches decides, no match
    denies.

    Registers: r2 type, r3 access wanted, r4 major, r5 minor. A rule that denies matches when any of its
    accesses is wanted, one that allows when all that are wanted are its own; what several rules allow
    together, one access each, is not pieced together (nor does the kernel's v1 controller).
    """
    code = [
        _instruction(_LDX_W, 2, 1, 0),
        _instruction(_ALU32_AND_K, 2, 0, 0, 0xFFFF),
        _instruction(_LDX_W, 3, 1, 0),
        _instruction(_ALU32_RSH_K, 3, 0, 0, 16),
        _instruction(_LDX_W, 4, 1, 4),
        _instruction(_LDX_W, 5, 1, 8),
    ]
    for allow, (kind, major, minor, access) in reversed(rules(devices)):
        tests: list[tuple[int, int]] = []
        if kind != "a":
            tests.append((2, _KIND[kind]))
        if major >= 0:
            tests.append((4, major))
        if minor >= 0:
            tests.append((5, minor))
        mask = sum(_ACCESS[letter] for letter in access)
        body = [(_instruction(_JNE_K, register, 0, 0, value), True) for register, value in tests]
        if mask != 7:
            body.append((_instruction(_ALU32_MOV_X, 1, 3), False))
            body.append((_instruction(_ALU32_AND_K, 1, 0, 0, mask), False))
            if allow:
                body.append((_instruction(_JNE_X, 1, 3), True))  # something else is wanted as well
            else:
                body.append((_instruction(0x15, 1, 0, 0, 0), True))  # jeq 0: nothing denied is wanted
        body.append((_instruction(_MOV_K, 0, 0, 0, 1 if allow else 0), False))
        body.append((_instruction(_EXIT), False))
        for index, (instruction, jumps) in enumerate(body):
            if jumps:
                register, rest = instruction[:2], instruction[4:]
                instruction = register + struct.pack("=h", len(body) - index - 1) + rest
            code.append(instruction)
        if not tests and mask == 7:
            return b"".join(code)  # matches everything: what comes before is void, and dead code is refused
    code.append(_instruction(_MOV_K, 0, 0, 0, 0))
    code.append(_instruction(_EXIT))
    return b"".join(code)
