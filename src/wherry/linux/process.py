"""What a process can do to itself and its children: namespaces, clone3(2), prctl(2), keyrings."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from wherry.linux.libc import NUMBERS, check, function, system_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_FS = 0x00000200
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_PIDFD = 0x1000
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_SET_CHILD_SUBREAPER = 36

_CLOSE_RANGE_CLOEXEC = 4
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_SETPERM = 5
_KEYCTL_DESCRIBE = 6
_KEY_SEARCH_BY_USER = 0x00080000
_SECCOMP_SET_MODE_FILTER = 1

_int, _ulong, _text = ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p
_unshare = function("unshare", _int)
_setns = function("setns", _int, _int)
_signal = function("signal", _int, ctypes.c_void_p, result=ctypes.c_void_p)
_IGNORED = [number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]
"""By Python, or by whoever started us; nobody here ignores any later."""
_prctl = function("prctl", _int, _ulong, _ulong, _ulong, _ulong)
_setdomainname = function("setdomainname", _text, ctypes.c_size_t)
_close_range = system_call("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_getcwd = system_call("getcwd", _text, ctypes.c_size_t)
_join_keyring = system_call("keyctl", _ulong, _text)
_set_key_permission = system_call("keyctl", _ulong, _ulong, _ulong)
_describe_key = system_call("keyctl", _ulong, _ulong, _text, ctypes.c_size_t)
_seccomp = system_call("seccomp", ctypes.c_uint, ctypes.c_uint, _text)

# clone3 is called with the interpreter's lock held (PyDLL), between the calls that os.fork makes around
# fork(2).
_python = ctypes.pythonapi
_clone3 = ctypes.PyDLL(None, use_errno=True).syscall
_clone3.argtypes = (ctypes.c_long, _text, ctypes.c_size_t)
_clone3.restype = ctypes.c_long


def ended_children() -> Iterator[tuple[int, int]]:
    """Pid and wait status of every child that has ended, each collected as it is given. waitpid(2)."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def clone(flags: int = 0, *, cgroup: int = -1) -> tuple[int, int]:
    """fork(2) with namespaces: (pid, pidfd) in the parent, (0, -1) in the child.

    The child is born in the cgroup v2 whose directory is `cgroup`, which costs nothing, unlike moving there
    (a move waits for an RCU grace period). The caller must have one thread only.
    """
    pidfd = ctypes.c_int(-1)
    if cgroup >= 0:
        flags |= _CLONE_INTO_CGROUP
    arguments = struct.pack(
        "=11Q",
        flags | _CLONE_PIDFD,
        ctypes.addressof(pidfd),
        0,
        0,
        _SIGCHLD,
        0,
        0,
        0,
        0,
        0,
        max(cgroup, 0),
    )
    _python.PyOS_BeforeFork()
    pid = _clone3(NUMBERS["clone3"], arguments, len(arguments))
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0, -1
    number = ctypes.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone3: {os.strerror(number)}")
    return pid, pidfd.value


def unshare(flags: int) -> None:
    check("unshare", _unshare(flags))


def setns(descriptor: int, flags: int = 0) -> None:
    """Join the namespace behind the descriptor; with a pidfd, all those of that process named by `flags`."""
    check("setns", _setns(descriptor, flags))


def prctl(option: int, value: int = 0, extra: int = 0) -> int:
    return check("prctl", _prctl(option, value, extra, 0, 0))


def set_domain_name(name: str) -> None:
    data = name.encode()
    check("setdomainname", _setdomainname(data, len(data)), name)


def close_on_exec_from(first: int) -> None:
    """Every descriptor from `first` up is closed by the next execve."""
    check("close_range", _close_range(first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC))


def working_directory() -> bytes:
    """getcwd(2) as the kernel says it: b"(unreachable)…" when it lies outside of the root."""
    buffer = ctypes.create_string_buffer(4097)
    check("getcwd", _getcwd(buffer, len(buffer)))
    return buffer.value


def reset_signals() -> None:
    """Default dispositions after the next execve, which resets all but what is ignored, and an empty mask.

    By the C library, not by the signal module, which makes an enum of every number.
    """
    for number in _IGNORED:
        _signal(number, None)  # SIG_DFL
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def join_session_keyring(name: str, *, searchable: bool) -> None:
    """Have the session keyring `name`, made when there is none; `searchable` lets the same user's processes
    find it.
    """
    ring = check("keyctl", _join_keyring(_KEYCTL_JOIN_SESSION_KEYRING, name.encode()), name)
    if not searchable:
        return
    buffer = ctypes.create_string_buffer(512)
    check("keyctl", _describe_key(_KEYCTL_DESCRIBE, ring, buffer, len(buffer)), name)
    permissions = int(buffer.value.split(b";")[3], 16)  # type;uid;gid;perm;description
    check("keyctl", _set_key_permission(_KEYCTL_SETPERM, ring, permissions | _KEY_SEARCH_BY_USER), name)


def install_seccomp(program: bytes, flags: int = 0) -> None:
    """Filter this process's system calls by `program`, an array of struct sock_filter, from now on."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    check("seccomp", _seccomp(_SECCOMP_SET_MODE_FILTER, flags, header))
