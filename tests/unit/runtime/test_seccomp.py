"""The compiler against libseccomp: both programs are interpreted for every call and many arguments."""

from __future__ import annotations

import ctypes
import json
import os
import random
import struct

import pytest

from wherry.runtime.errors import StartFailed
from wherry.runtime.seccomp import compile_profile
from wherry.runtime.syscalls import ARCHITECTURES, numbers

AUDIT = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X32": 0x4000003E,  # libseccomp's own token; in the filter it is x86_64 with bit 30
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}
OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
KILL, ALLOW, LOG, TRAP = 0, 0x7FFF0000, 0x7FFC0000, 0x00030000
ERRNO = 0x00050000
ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_KILL": KILL,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
}
X32_BIT = 0x40000000


def interpret(program: bytes, number: int, audit: int, args: list[int]) -> int:
    """Run a seccomp filter on one call."""
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, audit, 0, *args)
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        operation, when_true, when_false, k = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif operation in (0x54, 0x5C):
            accumulator &= k
        elif operation == 0x05:
            at += k
        elif operation == 0x06:
            return k
        elif operation == 0x15:
            at += when_true if accumulator == k else when_false
        elif operation == 0x25:
            at += when_true if accumulator > k else when_false
        elif operation == 0x35:
            at += when_true if accumulator >= k else when_false
        else:
            raise AssertionError(f"instruction {operation:#x}")


class ArgCmp(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def libseccomp() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp2 is not installed")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(ArgCmp),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    return library


def action(name: str, number: int | None) -> int:
    if name == "SCMP_ACT_ERRNO":
        return ERRNO | (1 if number is None else number)
    return ACTIONS[name]


def reference(profile: dict) -> bytes:
    """What libseccomp makes of the profile, driven as runc drives it."""
    library = libseccomp()
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = library.seccomp_init(default)
    for name in profile.get("architectures", []):
        library.seccomp_arch_add(context, AUDIT[name])
    for entry in profile["syscalls"]:
        does = action(entry["action"], entry.get("errnoRet"))
        if does == default:
            continue
        for name in entry["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == -1:
                continue
            args = [
                ArgCmp(
                    a["index"], OPERATORS[a["op"].removeprefix("SCMP_CMP_")], a["value"], a.get("valueTwo", 0)
                )
                for a in entry.get("args", [])
            ]
            groups = [args]
            if len({a.arg for a in args}) < len(args):
                groups = [[a] for a in args]
            for group in groups:
                array = (ArgCmp * max(1, len(group)))(*group)
                library.seccomp_rule_add_array(context, does, number, len(group), array)
    exported = os.memfd_create("bpf")
    try:
        assert library.seccomp_export_bpf(context, exported) == 0
        return os.pread(exported, 1 << 20, 0)
    finally:
        os.close(exported)
        library.seccomp_release(context)


def interesting_arguments(profile: dict, chooser: random.Random) -> list[int]:
    values = [0, 1, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1]
    for entry in profile["syscalls"]:
        for condition in entry.get("args", []):
            for value in (condition["value"], condition.get("valueTwo", 0)):
                values += [value, max(0, value - 1), min((1 << 64) - 1, value + 1), value ^ (1 << 32)]
    return [chooser.choice(values) if chooser.random() < 0.9 else chooser.getrandbits(64) for _ in range(6)]


def assert_same(profile: dict, *, samples: int, chooser: random.Random, newest: int = 470) -> None:
    ours = compile_profile(profile, "SCMP_ARCH_X86_64", newer_is_enosys=False)
    theirs = reference(profile)
    with_arguments = {
        (arch, number + (X32_BIT if arch == "x32" else 0))
        for arch in ("x86_64", "i386", "x32")
        for entry in profile["syscalls"]
        if entry.get("args")
        for name in entry["names"]
        for number in [numbers(arch).get(name), numbers(arch).get("socketcall"), numbers(arch).get("ipc")]
        if number is not None
    }
    for arch, audit in (
        ("x86_64", 0xC000003E),
        ("i386", 0x40000003),
        ("x32", 0xC000003E),
        ("other", 0xC00000B7),
    ):
        base = X32_BIT if arch == "x32" else 0
        for number in [*range(base, base + newest), base + 999, 0xFFFFFFFF]:
            for _ in range(samples if (arch, number) in with_arguments else 1):
                args = interesting_arguments(profile, chooser)
                if arch == "i386":
                    args = [each & 0xFFFFFFFF for each in args]
                ours_says = interpret(ours, number, audit, args)
                theirs_says = interpret(theirs, number, audit, args)
                assert ours_says == theirs_says, (
                    arch,
                    number,
                    [hex(a) for a in args],
                    hex(ours_says),
                    hex(theirs_says),
                )


@pytest.fixture
def native() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("libseccomp resolves names for the machine it runs on: needs x86_64")


ALL = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
KNOWN_TO_LIBSECCOMP = 450


def known_names() -> list[str]:
    return sorted(
        name
        for name, number in numbers("x86_64").items()
        if number <= KNOWN_TO_LIBSECCOMP and number != 335 and number != 336
    )


def test_same_as_libseccomp_for_a_profile_like_dockers(native: None) -> None:
    names = [
        name for name in known_names() if name not in ("socket", "personality", "clone", "clone3", "keyctl")
    ]
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ALL,
        "syscalls": [
            {"names": [*names[:300], "socketcall", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_LT"}],
            },
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 39, "op": "SCMP_CMP_EQ"}],
            },
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_GT"}],
            },
            *(
                {
                    "names": ["personality"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
                }
                for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
            ),
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            },
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    }
    assert_same(profile, samples=300, chooser=random.Random(1))


@pytest.mark.parametrize("seed", range(12))
def test_same_as_libseccomp_for_random_profiles(native: None, seed: int) -> None:
    chooser = random.Random(seed)
    names = known_names()
    values = [0, 1, 2, 38, 0x7E020000, 0xFFFFFFFF, 1 << 32, (1 << 63) + 5, (1 << 64) - 1]
    does = chooser.choice(["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_KILL_PROCESS"])
    entries = []
    free = names.copy()
    chooser.shuffle(free)
    for _ in range(chooser.randrange(1, 12)):
        chosen = [free.pop() for _ in range(chooser.randrange(1, 20))]
        conditions = []
        for index in chooser.sample(range(6), chooser.choice([0, 0, 1, 1, 2, 3])):
            op = chooser.choice(list(OPERATORS))
            second = chooser.choice(values)
            value = chooser.choice(values)
            if op == "MASKED_EQ":
                second &= value  # a datum outside of the mask never matches, and libseccomp masks it away
            conditions.append({"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{op}"})
        entries.append({"names": chosen, "action": does, "args": conditions})
    profile = {
        "defaultAction": chooser.choice(["SCMP_ACT_ERRNO", "SCMP_ACT_KILL"]),
        "architectures": ALL[: chooser.randrange(1, 4)],
        "syscalls": entries,
    }
    assert_same(profile, samples=60, chooser=chooser)


def test_tables_agree_with_libseccomp() -> None:
    library = libseccomp()
    tokens = dict(
        zip(ARCHITECTURES, (0xC000003E, 0x40000003, 0x4000003E, 0xC00000B7, 0x40000028), strict=True)
    )
    unknown = 0
    for architecture, token in tokens.items():
        for name, number in numbers(architecture).items():
            theirs = library.seccomp_syscall_resolve_name_arch(token, name.encode())
            if theirs == -1 or theirs < 0:
                unknown += 1
                continue
            assert theirs == number + (X32_BIT if architecture == "x32" else 0), (architecture, name)
    assert unknown < 120  # newer calls only


def test_newer_calls_than_any_named_are_enosys() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ALL,
        "syscalls": [{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}],
    }
    program = compile_profile(profile, "SCMP_ARCH_X86_64")
    for base, audit in ((0, 0xC000003E), (X32_BIT, 0xC000003E), (0, 0x40000003)):
        assert interpret(program, base + 436, audit, [0] * 6) == ERRNO | 1
        assert interpret(program, base + 437, audit, [0] * 6) == ALLOW
        assert interpret(program, base + 438, audit, [0] * 6) == ERRNO | 38
        assert interpret(program, base + 9999, audit, [0] * 6) == ERRNO | 38


def test_an_allowing_default_stays_for_newer_calls() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}],
    }
    program = compile_profile(profile, "SCMP_ARCH_X86_64")
    assert interpret(program, 165, 0xC000003E, [0] * 6) == ERRNO | 1
    assert interpret(program, 9999, 0xC000003E, [0] * 6) == ALLOW


def test_other_architectures_are_killed() -> None:
    program = compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}, "SCMP_ARCH_X86_64")
    assert interpret(program, 0, 0x40000003, [0] * 6) == KILL
    assert interpret(program, X32_BIT, 0xC000003E, [0] * 6) == KILL
    assert interpret(program, 0, 0xC000003E, [0] * 6) == ALLOW


def test_a_profile_without_rules_for_every_architecture() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ALL, "syscalls": []}
    program = compile_profile(profile, "SCMP_ARCH_X86_64")
    for number, audit in ((5, 0xC000003E), (X32_BIT + 5, 0xC000003E), (5, 0x40000003)):
        assert interpret(program, number, audit, [0] * 6) == ALLOW
    assert interpret(program, 5, 0xC00000B7, [0] * 6) == KILL


def test_jumps_that_are_too_far_for_one_instruction() -> None:
    """Thousands of instructions: every call with conditions of its own."""
    table = numbers("x86_64")
    entries = [
        {
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "args": [
                {"index": index, "value": number << 20 | index, "op": "SCMP_CMP_EQ"} for index in (0, 1)
            ],
        }
        for name, number in table.items()
    ]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries}
    program = compile_profile(profile, "SCMP_ARCH_X86_64", newer_is_enosys=False)
    assert len(program) // 8 > 2000
    for number in table.values():
        args = [number << 20, number << 20 | 1, 0, 0, 0, 0]
        assert interpret(program, number, 0xC000003E, args) == ALLOW
        assert interpret(program, number, 0xC000003E, [args[0], 0, 0, 0, 0, 0]) == ERRNO | 1


def test_aarch64_with_arm() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_ARM"],
        "syscalls": [{"names": ["set_tls", "write"], "action": "SCMP_ACT_ALLOW"}],
    }
    program = compile_profile(profile, "SCMP_ARCH_AARCH64")
    assert interpret(program, 0xF0005, 0x40000028, [0] * 6) == ALLOW
    assert interpret(program, 64, 0xC00000B7, [0] * 6) == ALLOW
    assert interpret(program, 63, 0xC00000B7, [0] * 6) == ERRNO | 1


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        {"defaultAction": 7},
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000},
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["PDP11"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_ERRNO"}]},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}
            ],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
    ],
    ids=json.dumps,
)
def test_nonsense_is_refused(wrong: dict) -> None:
    with pytest.raises(StartFailed) as caught:
        compile_profile(wrong, "SCMP_ARCH_X86_64")
    assert caught.value.kind == "invalid"
