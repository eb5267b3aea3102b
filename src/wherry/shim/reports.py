"""What launcher and shims tell the administrator: on stderr, where the daemon's own messages go."""

from __future__ import annotations

import os


def report(message: str) -> None:
    """Write one line. Nobody may be listening any more."""
    try:
        os.write(2, f"wherry shim: {message}\n".encode(errors="replace"))
    except OSError:
        pass


def whereabouts(exc: BaseException) -> str:
    """An exception and the line it comes from. (The module traceback would be a late import.)"""
    place, trace = "", exc.__traceback__
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(exc).__name__}: {exc}{place}"
