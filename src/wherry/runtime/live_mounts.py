"""Add a mount to a container that runs already, or take one off.

A child steps into the container's mount namespace and attaches there what it opened before, in the host's. It is not
dumpable, executes nothing, and opens nothing inside but the target, by descriptor from the container's root. The
container may hold it up (a target on a FUSE filesystem of its own, say): it is given `TIMEOUT_MS`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket

from wherry.linux import files, process
from wherry.linux import mounts as linux_mounts
from wherry.runtime import mounts
from wherry.runtime.errors import INTERNAL, StartFailed, go_text, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TIMEOUT_MS = 10_000
_UMOUNT_NOFOLLOW = 8
_EXACTLY = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_SYMLINKS


def attach(pidfd: int, entry: dict[str, Any]) -> None:
    """Mount one entry of config.json's `mounts` in the container of which `pidfd` is a process.

    Raises StartFailed, and then nothing is mounted.
    """
    mount = mounts.parse(entry)
    what = f"cannot mount {mount.source} at {mount.destination}"

    def open_outside() -> None:
        mounts.open_source(mount, "/")
        if mount.kind != "bind":
            mounts.make_detached(mount)

    _within(pidfd, what, open_outside, lambda root: mounts.attach(root, mount))


def detach(pidfd: int, target: str, *, lazily: bool) -> None:
    """Take off what is mounted at `target`. Raises StartFailed; "is in use" unless `lazily`."""
    flags = _UMOUNT_NOFOLLOW | (linux_mounts.MNT_DETACH if lazily else 0)
    names = -1

    def outside() -> None:
        nonlocal names
        names = os.open(
            "/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        )  # the container's may be any

    def inside(root: int) -> None:
        place = files.open_below(root, target, os.O_PATH)
        resolved = os.readlink(str(place), dir_fd=names)  # seen from the container's root, which is ours now
        os.close(place)  # or the mount would be in use by us
        parent, name = os.path.split(resolved)
        if not name:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        os.fchdir(files.open_below(root, parent, os.O_PATH | os.O_DIRECTORY, resolve=_EXACTLY))
        linux_mounts.unmount(name, flags)

    _within(pidfd, f"cannot unmount {target}", outside, inside)


def _within(pidfd: int, what: str, outside: Callable[[], None], inside: Callable[[int], None]) -> None:
    """Run `outside`, then `inside` with the container's root, in a child. The caller must have one thread only."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            signal.set_wakeup_fd(-1)
            theirs.send(_outcome(pidfd, outside, inside))
        finally:
            os._exit(0)
    theirs.close()
    try:
        waiter = select.poll()
        waiter.register(ours, select.POLLIN)
        if not waiter.poll(TIMEOUT_MS):
            os.kill(child, signal.SIGKILL)  # reaped when the kernel lets it go
            raise StartFailed(INTERNAL, f"{what}: not done within {TIMEOUT_MS // 1000} s")
        answer = ours.recv(4096)
        os.waitpid(child, 0)
    finally:
        ours.close()
    number, _, text = answer.decode("utf-8", "replace").partition(" ")
    if number == "0":
        return
    if number == str(errno.EBUSY):
        raise invalid(f"{what}: it is in use by the container")
    raise invalid(f"{what}: {text or 'the helper died'}")


def _outcome(pidfd: int, outside: Callable[[], None], inside: Callable[[int], None]) -> bytes:
    """The errno (0: done) and a text."""
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        os.umask(0)
        outside()
        process.setns(pidfd, process.CLONE_NEWNS)
        inside(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except StartFailed as exc:
        return f"{errno.EINVAL} {exc.message}"[:4000].encode()
    except OSError as exc:
        return f"{exc.errno or errno.EIO} {go_text(exc)}"[:4000].encode()
    except Exception as exc:
        return f"{errno.EIO} {type(exc).__name__}: {exc}"[:4000].encode()
    return b"0 "
