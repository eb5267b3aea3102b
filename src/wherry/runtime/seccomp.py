"""Compile linux.seccomp of config.json to a classic BPF program, seccomp(2).

What the program means is what runc makes of the same object with libseccomp, which is our second opinion in
the tests:

- An entry with conditions matches when all of them hold; entries for one call are alternatives, the first
  that matches decides. Two conditions on the same argument make each condition of the entry an alternative of
  its own.
- An entry without conditions settles its call whatever else is said about it. One with the default action
  says nothing.
- Names that an architecture does not have are passed over.
- A call of an architecture that is not listed kills the thread.
- Calls newer than the newest one named anywhere in the profile fail with ENOSYS, not with the default action,
  so that a C library falls back to the older call (runc does the same).
- Only the lower half of an argument is looked at where registers have 32 bits (libseccomp counts x32 among
  these).

Calls are found by a binary search over ranges with the same answer: some eight comparisons for Docker's
profile.
"""

from __future__ import annotations

import os
import struct

from wherry.runtime import values
from wherry.runtime.errors import invalid
from wherry.runtime.syscalls import numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Condition = tuple[int, str, int, int]  # argument, operator, value, second value
    Alternatives = list[tuple[list[Condition], int]]  # conditions and the action when all hold
    Ranges = list[tuple[int, int | Alternatives]]  # the answer from a number on

_AUDIT = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
_NAMES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "i386",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}
_MACHINES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "armv7l": "SCMP_ARCH_ARM"}
_X32_BIT = 0x40000000
_NARROW = frozenset(("i386", "x32", "arm"))

_KILL_THREAD = 0x00000000
_ALLOW = 0x7FFF0000
_LOG = 0x7FFC0000
_ERRNO = 0x00050000
_ACTIONS = {
    "SCMP_ACT_KILL": _KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": _KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": _ALLOW,
    "SCMP_ACT_LOG": _LOG,
}
_TAKES_NUMBER = frozenset(("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"))
_EPERM, _ENOSYS = 1, 38
_OPERATORS = frozenset(f"SCMP_CMP_{each}" for each in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

# i386 reaches these by a number in socketcall's and ipc's first argument too; what they point to cannot be
# filtered.
_SOCKETCALL = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown"
    " setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
).split()
_IPC = {
    "semop": 1,
    "semget": 2,
    "semctl": 3,
    "semtimedop": 4,
    "msgsnd": 11,
    "msgrcv": 12,
    "msgget": 13,
    "msgctl": 14,
    "shmat": 21,
    "shmdt": 22,
    "shmget": 23,
    "shmctl": 24,
}

# struct seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }
_NR, _ARCH, _ARGS = 0, 4, 16
_LD, _AND, _JA, _JEQ, _JGT, _JGE, _RET = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
_MAX_INSTRUCTIONS = 4096
_MAX_LIST = 10000

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k


def compile_profile(
    seccomp: dict[str, Any], arch: str | None = None, *, newer_is_enosys: bool = True
) -> bytes:
    """The filter for a resolved linux.seccomp object, as an array of struct sock_filter.

    `arch` (SCMP_ARCH_…) stands for this machine's. Raises StartFailed("invalid") for what cannot be compiled.
    """
    default = _action(seccomp.get("defaultAction"), seccomp.get("defaultErrnoRet"))
    native = arch or _MACHINES.get(os.uname().machine)
    if native not in _NAMES:
        raise invalid(f"seccomp filters are not supported on {arch or os.uname().machine}")
    architectures = [native]
    for name in values.texts(seccomp, "architectures"):
        if not name.startswith("SCMP_ARCH_"):
            raise invalid(f"invalid seccomp architecture {name!r}")
        # Others (MIPS, S390X, …) cannot make a call on a machine of ours.
        if name in _NAMES and name not in architectures:
            architectures.append(name)
    entries = [_entry(each, default) for each in values.children(seccomp, "syscalls")]
    stub = newer_is_enosys and default not in (_ALLOW, _LOG, _ERRNO | _ENOSYS)
    plain = {_NAMES[name]: _section(_NAMES[name], entries, default, stub=stub) for name in architectures}
    program = _program(plain, default)
    if len(program) > _MAX_INSTRUCTIONS:
        raise invalid(
            f"seccomp profile needs {len(program)} instructions: the kernel takes {_MAX_INSTRUCTIONS}"
        )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _action(name: Any, number: Any) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise invalid("seccomp action SCMP_ACT_NOTIFY is not supported")
    value = _ACTIONS.get(name) if isinstance(name, str) else None
    if value is None:
        raise invalid(f"invalid seccomp action {name!r}")
    if name not in _TAKES_NUMBER:
        return value
    number = _EPERM if number is None else number
    if not isinstance(number, int) or not 0 <= number <= 0xFFFF:
        raise invalid(f"invalid seccomp errnoRet {number!r}")
    return value | number


def _entry(entry: dict[str, Any], default: int) -> tuple[list[str], int, list[list[Condition]]]:
    """(names, action, alternatives) of a `syscalls` entry; no alternatives for one that only repeats the
    default.
    """
    action = _action(entry.get("action"), entry.get("errnoRet"))
    names = values.texts(entry, "names") or [values.text(entry, "name")]
    if "" in names or len(names) > _MAX_LIST:
        raise invalid("seccomp rule without names of system calls")
    conditions = [_condition(each) for each in values.children(entry, "args")]
    if action == default:
        return names, action, []
    indexes = [condition[0] for condition in conditions]
    if len(set(indexes)) < len(indexes):
        return names, action, [[condition] for condition in conditions]
    return names, action, [conditions]


def _condition(entry: dict[str, Any]) -> Condition:
    index, operator = values.number(entry, "index") or 0, values.text(entry, "op")
    value, second = values.number(entry, "value") or 0, values.number(entry, "valueTwo") or 0
    if not 0 <= index <= 5:
        raise invalid(f"invalid seccomp argument index {index!r}: want 0 to 5")
    if operator not in _OPERATORS:
        raise invalid(f"invalid seccomp operator {operator!r}")
    for number in (value, second):
        if not 0 <= number < 1 << 64:
            raise invalid(f"invalid seccomp argument value {number!r}")
    return index, operator, value, second


def _section(
    architecture: str,
    entries: list[tuple[list[str], int, list[list[Condition]]]],
    default: int,
    *,
    stub: bool,
) -> Ranges:
    """What is answered, from which number (x32: without its bit) on, for one architecture."""
    table = numbers(architecture)
    settled: dict[int, int] = {}
    conditional: dict[int, Alternatives] = {}
    last = -1
    for names, action, alternatives in entries:
        for name in names:
            if name in table:
                last = max(last, table[name])
            for number, extra in _ways(architecture, name, table):
                for conditions in alternatives:
                    if extra is not None:
                        # The multiplexer's first argument says which call is meant; the rest is left as it
                        # was said, as by libseccomp.
                        conditions = [extra, *(each for each in conditions if each[0] != 0)]
                    _add(number, conditions, action, settled, conditional)
    answers: dict[int, int | Alternatives] = {**conditional, **settled}
    ranges: list[tuple[int, int | Alternatives]] = [(0, default)]
    following = 0
    for number in sorted(answers):
        if number > following and ranges[-1][1] != default:
            ranges.append((following, default))
        answer = answers[number]
        if answer != ranges[-1][1]:
            if ranges[-1][0] == number:
                ranges.pop()
            if not ranges or answer != ranges[-1][1]:
                ranges.append((number, answer))
        following = number + 1
    if ranges[-1][1] != default:
        ranges.append((following, default))
    if stub and last >= 0:
        ranges = [each for each in ranges if each[0] <= last] + [(last + 1, _ERRNO | _ENOSYS)]
    return ranges


def _ways(architecture: str, name: str, table: dict[str, int]) -> list[tuple[int, Condition | None]]:
    """The numbers by which a call is reached, with the condition that a multiplexed one adds."""
    ways: list[tuple[int, Condition | None]] = []
    if name in table:
        ways.append((table[name], None))
    if architecture == "i386":
        if name in _SOCKETCALL:
            ways.append((table["socketcall"], (0, "SCMP_CMP_EQ", _SOCKETCALL.index(name) + 1, 0)))
        elif name in _IPC:
            ways.append((table["ipc"], (0, "SCMP_CMP_EQ", _IPC[name], 0)))
    return ways


def _add(
    number: int,
    conditions: list[Condition],
    action: int,
    settled: dict[int, int],
    conditional: dict[int, Alternatives],
) -> None:
    if not conditions:
        settled.setdefault(number, action)
        return
    alternatives = conditional.setdefault(number, [])
    if (conditions, action) not in alternatives:
        alternatives.append((conditions, action))


class _Writer:
    """A program written from its end to its start, so that every jump goes to what is there already.

    Targets are indexes into the reversed program. Returns are shared where a jump reaches them (conditional
    ones reach 255 instructions).
    """

    __slots__ = ("code", "default", "narrow", "returns")

    def __init__(self, default: int, *, narrow: bool = False) -> None:
        self.code: list[Instruction] = []
        self.default = default
        self.narrow = narrow
        self.returns: dict[int, int] = {}

    def emit(self, code: int, k: int) -> int:
        self.code.append((code, 0, 0, k))
        return len(self.code) - 1

    def answer(self, action: int) -> int:
        """Where `action` is returned."""
        found = self.returns.get(action)
        if found is None or len(self.code) - found > _REACH - 2:
            found = self.returns[action] = self.emit(_RET, action)
        return found

    def branch(self, code: int, k: int, when_true: int, when_false: int) -> int:
        """Compare the accumulator with `k`, and go on at one of the two."""
        if len(self.code) - when_true > _REACH:
            when_true = self.emit(_JA, len(self.code) - when_true - 1)
        if len(self.code) - when_false > _REACH:
            when_false = self.emit(_JA, len(self.code) - when_false - 1)
        at = len(self.code)
        self.code.append((code, at - when_true - 1, at - when_false - 1, k))
        return at

    def fall_through_to(self, target: int) -> None:
        """What is written next goes on at `target` when it does not jump."""
        if target != len(self.code) - 1:
            self.emit(_JA, len(self.code) - target - 1)

    def search(self, ranges: list[tuple[int, int | Alternatives]]) -> int:
        """A binary search for the range that the accumulator lies in."""
        if len(ranges) == 1:
            answer = ranges[0][1]
            return self.answer(answer) if isinstance(answer, int) else self.alternatives(answer)
        middle = len(ranges) // 2
        high = self.search(ranges[middle:])
        low = self.search(ranges[:middle])
        return self.branch(_JGE, ranges[middle][0], high, low)

    def alternatives(self, alternatives: Alternatives) -> int:
        """The action of the first alternative whose conditions all hold, else the default."""
        following = self.answer(self.default)
        for conditions, action in reversed(alternatives):
            matched = self.answer(action)
            for condition in reversed(conditions):
                matched = self.test(condition, matched, following)
            following = matched
        return following

    def test(self, condition: Condition, holds: int, fails: int) -> int:
        """Go on at `holds` or `fails`: one comparison of 64 bits, or of the lower 32 where there are no more."""
        index, operator, value, second = condition
        operator = operator.removeprefix("SCMP_CMP_")
        mask = None
        if operator == "MASKED_EQ":
            mask, value, operator = value, second, "EQ"
        code, must_hold = _COMPARISONS[operator]
        low, high = value & 0xFFFFFFFF, value >> 32
        place = _ARGS + 8 * index
        self.branch(code, low, *((holds, fails) if must_hold else (fails, holds)))
        at = self.load(place, None if mask is None else mask & 0xFFFFFFFF)
        if self.narrow:
            return at
        if operator == "EQ":
            self.branch(_JEQ, high, at, fails)
        elif operator == "NE":
            self.branch(_JEQ, high, at, holds)
        else:
            greater, less = (holds, fails) if operator in ("GT", "GE") else (fails, holds)
            self.branch(_JGT, high, greater, self.branch(_JEQ, high, at, less))
        return self.load(place + 4, None if mask is None else mask >> 32)

    def load(self, place: int, mask: int | None) -> int:
        if mask is not None:
            self.emit(_AND, mask)
        return self.emit(_LD, place)


# (code, whether the comparison must hold) for the lower half, the upper halves being equal
_COMPARISONS = {
    "EQ": (_JEQ, True),
    "NE": (_JEQ, False),
    "GT": (_JGT, True),
    "LE": (_JGT, False),
    "GE": (_JGE, True),
    "LT": (_JGE, False),
}
_REACH = 255


def _program(sections: dict[str, Ranges], default: int) -> list[Instruction]:
    """Choose the section by the architecture the call was made with; the native one, which comes first,
    quickest.
    """
    writer = _Writer(default)
    following = writer.answer(_KILL_THREAD)
    for architecture, ranges in reversed(sections.items()):
        if architecture == "x32":
            continue  # told from x86_64 by a bit of the number
        if architecture == "x86_64":
            start = _split_x32(writer, ranges, sections.get("x32"))
        else:
            writer.narrow = architecture in _NARROW
            start = writer.search(ranges)
        writer.fall_through_to(start)
        start = writer.emit(_LD, _NR)
        following = writer.branch(_JEQ, _AUDIT[architecture], start, following)
    writer.emit(_LD, _ARCH)
    return writer.code[::-1]


def _split_x32(writer: _Writer, ranges: Ranges, x32: Ranges | None) -> int:
    """Calls with bit 30 are x32's, save -1, by which a tracer skips a call."""
    if x32 is None:
        other = writer.answer(_KILL_THREAD)
    else:
        writer.narrow = True
        writer.fall_through_to(writer.search(x32))
        other = writer.emit(_AND, 0xFFFFFFFF ^ _X32_BIT)
    other = writer.branch(_JEQ, 0xFFFFFFFF, writer.answer(writer.default), other)
    writer.narrow = False
    start = writer.search(ranges)
    return writer.branch(_JGE, _X32_BIT, other, start)
