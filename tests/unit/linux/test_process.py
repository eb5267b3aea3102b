"""clone3 from Python, signals, the working directory as the kernel says it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wherry.linux import executable, process


def test_clone_is_a_fork(tmp_path: object) -> None:
    pid, pidfd = process.clone()
    if pid == 0:
        os._exit(7)
    assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status == 7  # type: ignore[union-attr]
    os.close(pidfd)


def test_clone_into_a_pid_namespace() -> None:
    if os.geteuid():
        pytest.skip("needs root")
    pid, pidfd = process.clone(process.CLONE_NEWPID)
    if pid == 0:
        os._exit(os.getpid())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    os.close(pidfd)


def test_clone_that_fails() -> None:
    with pytest.raises(OSError, match="clone3"):
        process.clone(
            process.CLONE_NEWUSER | process.CLONE_NEWNS | 0x200
        )  # CLONE_FS with a new mount namespace


def test_the_working_directory() -> None:
    assert process.working_directory() == os.getcwdb()


def test_signals_are_reset() -> None:
    """What a process was started with (here SIGUSR1 and SIGUSR2 ignored) and what Python ignores by itself."""
    program = (
        "import signal; from wherry.linux import process\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); process.reset_signals()\n"
        "print([int(line.split()[1], 16) for line in open('/proc/self/status') if line[:6] in ('SigIgn', 'SigBlk')])"
    )
    shell = 'trap "" USR1 USR2; exec "$0" -c "$1"'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert done.stdout == "[0, 0]\n"  # execve resets the caught ones


def test_the_tests_run_unprotected() -> None:
    assert not executable.is_protected()
