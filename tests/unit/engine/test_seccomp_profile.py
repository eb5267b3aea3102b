"""The built-in profile in force: compiled, installed in a process, and tried with real system calls."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.engine.confinement import CAPABILITIES, capabilities_for, seccomp_for
from wherry.runtime.seccomp import compile_profile
from wherry.runtime.syscalls import numbers

FROM_FILTER = 99  # an errno that no kernel path gives: so that a refusal is the filter's own
EPERM, ENOSYS, EINVAL = 1, 38, 22

CONFINED = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
program = open(sys.argv[1], "rb").read()
calls = json.loads(sys.argv[2])
class Filter(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("code", ctypes.c_char_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Filter(len(program) // 8, program)), 0, 0) == 0  # PR_SET_SECCOMP
answers = []
for number, arguments in calls:
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    answers.append(0 if result >= 0 else ctypes.get_errno())
print(json.dumps(answers))
if len(sys.argv) > 3:
    import os
    os.execvp(sys.argv[3], sys.argv[3:])
"""

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers below are x86_64's")


def try_calls(
    tmp_path: Path, calls: list[tuple[str, list[int]]], capabilities: list[str], *, then: tuple[str, ...] = ()
) -> tuple[list[int], subprocess.CompletedProcess[str]]:
    """Each call's errno (0: it succeeded) in a process under the filter for `capabilities`."""
    resolved = seccomp_for(None, capabilities, arch="x86_64", kernel=platform.release())
    assert resolved is not None
    resolved["defaultErrnoRet"] = FROM_FILTER
    program = tmp_path / "filter.bpf"
    program.write_bytes(compile_profile(resolved))
    by_name = numbers("x86_64")
    numbered = [(by_name[name], arguments) for name, arguments in calls]
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(program), json.dumps(numbered), *then],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    first, _, _ = done.stdout.partition("\n")
    return json.loads(first), done


DEFAULTS = capabilities_for([], [], privileged=False, bounding=CAPABILITIES)
ALL = list(CAPABILITIES)

REFUSED: list[tuple[str, list[int]]] = [
    ("io_uring_setup", [1, 0]),
    ("io_uring_enter", [-1, 0, 0, 0, 0, 0]),
    ("io_uring_register", [-1, 0, 0, 0]),
    ("userfaultfd", [0]),
    ("keyctl", [0, 0, 0, 0, 0]),
    ("add_key", [0, 0, 0, 0, 0]),
    ("request_key", [0, 0, 0, 0]),
    ("kexec_load", [0, 0, 0, 0]),
    ("kexec_file_load", [-1, -1, 0, 0, 0]),
    ("swapon", [0, 0]),
    ("pivot_root", [0, 0]),
    ("move_pages", [0, 0, 0, 0, 0, 0]),
    ("migrate_pages", [0, 0, 0, 0]),
    ("socket", [40, 1, 0]),  # AF_VSOCK
    ("socket", [38, 5, 0]),  # AF_ALG
    ("mount", [0, 0, 0, 0, 0]),
    ("umount2", [0, 0]),
    ("open_tree", [-1, 0, 0]),
    ("move_mount", [-1, 0, -1, 0, 0]),
    ("fsopen", [0, 0]),
    ("mount_setattr", [-1, 0, 0, 0, 0]),
    ("unshare", [0]),
    ("setns", [-1, 0]),
    ("bpf", [0, 0, 0]),
    ("perf_event_open", [0, 0, -1, -1, 0]),
    ("open_by_handle_at", [-1, 0, 0]),
    ("pidfd_getfd", [-1, 0, 0]),
    ("kcmp", [0, 0, 0, 0, 0]),
    ("init_module", [0, 0, 0]),
    ("finit_module", [-1, 0, 0]),
    ("delete_module", [0, 0]),
    ("reboot", [0, 0, 0, 0]),
    ("acct", [0]),
    ("iopl", [3]),
    ("ioperm", [0, 1, 1]),
    ("settimeofday", [0, 0]),
    ("clock_settime", [0, 0]),
    ("syslog", [10, 0, 0]),
    ("quotactl", [0, 0, 0, 0]),
    ("quotactl_fd", [-1, 0, 0, 0]),
    ("set_mempolicy", [0, 0, 0]),
    ("set_mempolicy_home_node", [0, 0, 0, 0]),
    ("lookup_dcookie", [0, 0, 0]),
    ("vhangup", []),
    ("sethostname", [0, 0]),
    ("personality", [0x0400000]),  # ADDR_NO_RANDOMIZE
    ("clone", [0x10000000 | 17, 0, 0, 0, 0]),  # CLONE_NEWUSER
    ("clone", [0x40000000 | 17, 0, 0, 0, 0]),  # CLONE_NEWNET
    ("clone", [0x02000000 | 17, 0, 0, 0, 0]),  # CLONE_NEWCGROUP
    ("fanotify_init", [0, 0]),
]


def test_dangerous_calls_are_refused(tmp_path: Path) -> None:
    answers, _ = try_calls(tmp_path, REFUSED, DEFAULTS)
    wrong = [
        (call, answer) for call, answer in zip(REFUSED, answers, strict=True) if answer != FROM_FILTER
    ]
    assert wrong == []


def test_ordinary_calls_pass(tmp_path: Path) -> None:
    calls: list[tuple[str, list[int]]] = [
        ("getpid", []),
        ("socket", [1, 1, 0]),  # AF_UNIX
        ("socket", [2, 1, 0]),  # AF_INET
        ("socket", [16, 3, 0]),  # AF_NETLINK
        ("personality", [0xFFFFFFFF]),
        ("memfd_create", [0, 0]),
        ("chroot", [0]),
        ("ptrace", [0xFFFF, 0, 0, 0]),
        ("landlock_create_ruleset", [0, 0, 1]),
    ]
    answers, _ = try_calls(tmp_path, calls, DEFAULTS)
    assert FROM_FILTER not in answers


def test_clone3_is_unknown_so_that_libc_falls_back(tmp_path: Path) -> None:
    answers, _ = try_calls(tmp_path, [("clone3", [0, 0])], DEFAULTS)
    assert answers == [ENOSYS]
    answers, _ = try_calls(tmp_path, [("clone3", [0, 0])], ALL)
    assert answers == [EINVAL]


def test_a_capability_brings_its_calls(tmp_path: Path) -> None:
    calls: list[tuple[str, list[int]]] = [("unshare", [0]), ("bpf", [9999, 0, 0]), ("reboot", [0, 0, 0, 0])]
    answers, _ = try_calls(tmp_path, calls, [*DEFAULTS, "CAP_BPF"])
    assert [answer == FROM_FILTER for answer in answers] == [True, False, True]
    answers, _ = try_calls(tmp_path, calls, [*DEFAULTS, "CAP_SYS_ADMIN"])
    assert [answer == FROM_FILTER for answer in answers] == [False, False, True]


def test_even_every_capability_does_not_bring_these(tmp_path: Path) -> None:
    calls: list[tuple[str, list[int]]] = [
        ("io_uring_setup", [1, 0]),
        ("userfaultfd", [0]),
        ("keyctl", [0, 0, 0, 0, 0]),
        ("kexec_load", [0, 0, 0, 0]),
        ("socket", [38, 5, 0]),
        ("socket", [40, 1, 0]),
    ]
    answers, _ = try_calls(tmp_path, calls, ALL)
    assert answers == [FROM_FILTER] * len(calls)


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "ls / >/dev/null && echo $((6*7)) && sleep 0.01 && id -u >/dev/null"),
        (
            sys.executable,
            "-c",
            "import threading, subprocess, socket, asyncio, sqlite3, multiprocessing as m\n"
            "t = threading.Thread(target=print, args=(42,)); t.start(); t.join()\n"
            "subprocess.run(['true'], check=True)\n"
            "asyncio.run(asyncio.sleep(0))\n"
            "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n"
            "p = m.get_context('fork').Process(target=int); p.start(); p.join(); assert p.exitcode == 0\n",
        ),
    ],
    ids=["shell", "python"],
)
def test_ordinary_programs_work(tmp_path: Path, command: tuple[str, ...]) -> None:
    _, done = try_calls(tmp_path, [], DEFAULTS, then=command)
    assert done.stdout.splitlines()[1] == "42"
