"""glibc's allocator, told to give memory back: mallopt(3), malloc_trim(3).

A daemon that once unpacked an image in several threads would otherwise keep tens of megabytes for ever: each thread
has an arena of its own, and what is freed in the middle of one stays.
"""

from __future__ import annotations

from wherry.linux.libc import libc

_M_ARENA_MAX = -8


def keep_few_arenas(count: int = 1) -> None:
    """At most `count` arenas from here on. Call it before threads begin; without glibc nothing happens."""
    try:
        libc.mallopt(_M_ARENA_MAX, count)
    except AttributeError:
        pass  # musl has no arenas


def trim() -> None:
    """Give free memory back to the kernel. Takes a few milliseconds; without glibc nothing happens."""
    try:
        libc.malloc_trim(0)
    except AttributeError:
        pass
