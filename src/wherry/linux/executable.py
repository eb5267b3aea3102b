"""Running from an executable that nobody can write to (CVE-2019-5736).

A process in a container can execute /proc/self/exe, which is *our* executable until its execve is done, and then has
the host's interpreter open through /proc/PID/exe. When that file was executed from a read-only mount that belongs to
no namespace, the descriptor cannot be reopened for writing by anybody, whatever capabilities it has. Unlike a copy in
a sealed memfd, this shares the page cache with every other interpreter.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from wherry.linux import mounts

_ST_RDONLY = 1
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def is_protected() -> bool:
    """Whether /proc/self/exe cannot be written through: it lies on a read-only mount, or is a sealed memfd."""
    descriptor = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstatvfs(descriptor).f_flag & _ST_RDONLY:
            return True
        try:
            return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except OSError:
            return False
    finally:
        os.close(descriptor)


def protect() -> None:
    """Return when this process is protected; else execute it again, with the same arguments, so that it is."""
    if is_protected():
        return
    path = os.readlink("/proc/self/exe")
    try:
        descriptor = mounts.clone_tree(path)
        mounts.change_mount(descriptor, add=mounts.ATTR_RDONLY, propagation=mounts.MS_PRIVATE)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
            raise
        descriptor = _sealed_copy(path)
    # argv[0] stays what it was: the interpreter finds its library and virtual environment by it.
    os.execve(descriptor, sys.orig_argv, os.environ)


def _sealed_copy(path: str) -> int:
    copy = os.memfd_create("executable", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(path, "rb", buffering=0) as source:
        size = os.fstat(source.fileno()).st_size
        while size > 0:
            size -= os.sendfile(copy, source.fileno(), None, size)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    return copy
