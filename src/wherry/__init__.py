"""wherry: a container engine in Python.

Start reading in ARCHITECTURE.md. To embed the engine: `from wherry import Engine`, or `AsyncEngine` for asyncio (loaded
on first use, so that importing a part never loads the whole).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.engine.blocking import Engine as Engine
    from wherry.engine.embedded import AsyncEngine as AsyncEngine

__version__ = "0.1.0"
__all__ = ["AsyncEngine", "Engine", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Engine":
        from wherry.engine.blocking import Engine

        return Engine
    if name == "AsyncEngine":
        from wherry.engine.embedded import AsyncEngine

        return AsyncEngine
    raise AttributeError(f"module 'wherry' has no attribute {name!r}")
