"""wherry: a container engine in Python.

Start reading in ARCHITECTURE.md. To embed the engine: `from wherry import Engine` (loaded on first use, so that
importing a part never loads the whole).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.engine.embedded import Engine as Engine

__version__ = "0.1.0"
__all__ = ["Engine", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Engine":
        from wherry.engine.embedded import Engine

        return Engine
    raise AttributeError(f"module 'wherry' has no attribute {name!r}")
