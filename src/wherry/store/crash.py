"""A named point between two changes of state, for tests that kill the process there. Nothing happens otherwise."""

from __future__ import annotations

from collections.abc import Callable

on_point: Callable[[str], None] | None = None
"""Set by crash tests only: called with the point's name."""


def point(name: str) -> None:
    """Here a crash would leave something half-made, which recovery must clean."""
    if on_point is not None:
        on_point(name)
