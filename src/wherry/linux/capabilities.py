"""Capabilities, capabilities(7), as sets of bits."""

from __future__ import annotations

import ctypes
import struct

from wherry.linux.libc import check, function
from wherry.linux.process import PR_CAP_AMBIENT, PR_CAPBSET_DROP, prctl

NAMES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}
SYS_ADMIN = 1 << NUMBERS["CAP_SYS_ADMIN"]

_VERSION_3 = 0x20080522
_PR_CAPBSET_READ = 23
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4
_LAST = len(NAMES)

_capget = function("capget", ctypes.c_char_p, ctypes.c_char_p)
_capset = function("capset", ctypes.c_char_p, ctypes.c_char_p)


def bits(names: list[str]) -> int:
    """The set of `names`; a name that this table does not know is left out, as newer engines may send it."""
    result = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is not None:
            result |= 1 << number
    return result


def own() -> tuple[int, int, int]:
    """Our own effective, permitted and inheritable set."""
    header = struct.pack("=Ii", _VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    check("capget", _capget(header, data))
    low_e, low_p, low_i, high_e, high_p, high_i = struct.unpack("=6I", data.raw)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32


def set_own(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2)."""
    low = 0xFFFFFFFF
    data = struct.pack(
        "=6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    check("capset", _capset(struct.pack("=Ii", _VERSION_3, 0), data))


def limit_bounding(keep: int, have: int) -> None:
    """Drop everything but `keep` from the bounding set, which is `have` now."""
    drop = have & ~keep
    number = 0
    while drop >> number:
        if drop >> number & 1:
            prctl(PR_CAPBSET_DROP, number)
        number += 1


def limits() -> tuple[int, int]:
    """Our own permitted and bounding set; asked of the kernel once, since nothing we do changes them."""
    global _limits
    if _limits is None:
        _limits = own()[1], bounding()
    return _limits


_limits: tuple[int, int] | None = None


def bounding() -> int:
    """Our own bounding set, capabilities of a newer kernel that have no name here included."""
    result = 0
    for number in range(64):
        try:
            if prctl(_PR_CAPBSET_READ, number):
                result |= 1 << number
        except OSError:
            break
    return result


def set_ambient(keep: int) -> None:
    """Make the ambient set `keep`, which must be permitted and inheritable already."""
    prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    if not keep:
        return
    for number in range(_LAST):
        if keep >> number & 1:
            prctl(PR_CAP_AMBIENT, _AMBIENT_RAISE, number)
