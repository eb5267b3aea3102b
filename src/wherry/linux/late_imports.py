"""For processes that load everything at their start: the package's files may be replaced under them later, or be those
of a container that they look into.
"""

from __future__ import annotations

import sys


class _Refusal:
    """A finder, first on sys.meta_path, that finds nothing."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        raise ImportError(f"{name} is imported too late: this process loads everything at its start")


def refuse() -> None:
    """What is not loaded by now stays out."""
    sys.meta_path.insert(0, _Refusal)
