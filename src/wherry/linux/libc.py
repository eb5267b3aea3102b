"""The C library by ctypes, and the system calls it has no function for.

Every wrapper in this package goes through `check`: a result below zero becomes OSError with the call's name
in its text. The handle is made with use_errno, so that nothing between the call and the check can overwrite
errno.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)

# x86_64 and the asm-generic table (aarch64, riscv64). Calls numbered 424 and up are the same everywhere.
_OWN_NUMBERS: dict[str, tuple[int, int]] = {
    "getcwd": (79, 17),
    "pivot_root": (155, 41),
    "keyctl": (250, 219),
    "seccomp": (317, 277),
    "bpf": (321, 280),
}
_COLUMN = 0 if os.uname().machine == "x86_64" else 1
NUMBERS: dict[str, int] = {
    **{name: numbers[_COLUMN] for name, numbers in _OWN_NUMBERS.items()},
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
}


def check(call: str, result: int, subject: str | None = None) -> int:
    """Give `result` back, or raise OSError naming the call and its subject (a path, an option) when it is <
    0.
    """
    if result >= 0:
        return result
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}", subject)


def function(name: str, *types: type, result: type = ctypes.c_int) -> Callable[..., int]:
    """A function of the C library with its argument types declared once, which also makes calls quicker."""
    found = getattr(libc, name)
    found.argtypes = types
    found.restype = result
    return found


def system_call(name: str, *types: type) -> Callable[..., int]:
    """The system call `name` as a function of its own: a private handle on syscall(2) with `types` declared.

    The number goes first and is filled in here; a shared handle would share its argument types too.
    """
    number = NUMBERS[name]
    prototype = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, *types, use_errno=True)
    call = prototype(("syscall", libc))

    def bound(*arguments: object) -> int:
        return call(number, *arguments)

    return bound
