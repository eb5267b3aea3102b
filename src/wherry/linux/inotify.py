"""inotify(7) for one file."""

from __future__ import annotations

import ctypes
import os

from wherry.linux.libc import check, function

_IN_MODIFY = 0x2

_init = function("inotify_init1", ctypes.c_int)
_add_watch = function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def watch_modified(path: str) -> int:
    """A descriptor that becomes readable whenever the file at `path` is modified."""
    descriptor = check("inotify_init1", _init(os.O_CLOEXEC | os.O_NONBLOCK))
    try:
        check("inotify_add_watch", _add_watch(descriptor, os.fsencode(path), _IN_MODIFY), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
