"""A cgroup directory and those below it, the same for both versions."""

from __future__ import annotations

import errno
import os
import time

ROOT = "/sys/fs/cgroup"
_REMOVE_TIMEOUT_S = 5.0


def make(directory: str) -> bool:
    """Make `directory`, its parents too; False when it was there already."""
    try:
        os.mkdir(directory, 0o755)
    except FileNotFoundError:
        make(os.path.dirname(directory))
        return make(directory)
    except FileExistsError:
        return False
    return True


def read(directory: str, name: str) -> str:
    descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while data := os.read(descriptor, 65536):
            parts.append(data)
        return b"".join(parts).decode()
    finally:
        os.close(descriptor)


def write(directory: str, name: str, value: str) -> None:
    """Write one value; the error of a refused one names file and value."""
    path = f"{directory}/{name}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    except OSError as exc:
        raise OSError(exc.errno, f"failed to write {value!r}: {os.strerror(exc.errno or 0)}", path) from exc
    finally:
        os.close(descriptor)


def below(directory: str) -> list[str]:
    """The directories below `directory`, deepest first, and `directory` itself last; [] when it is gone."""
    try:
        with os.scandir(directory) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    found = [inner for child in children for inner in below(child)]
    found.append(directory)
    return found


def pids(directory: str) -> list[int]:
    """Every process in `directory` and below."""
    found: list[int] = []
    for place in below(directory):
        try:
            found.extend(int(line) for line in read(place, "cgroup.procs").split())
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):  # gone meanwhile; threaded
                raise
    return found


def remove(directory: str) -> None:
    """Remove `directory` and those below; waits a little for processes that are dying."""
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    pause_s = 0.0005
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() > deadline:
                raise
        for place in below(directory):
            try:
                os.rmdir(place)
            except OSError:
                pass  # tried again, until the deadline
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
