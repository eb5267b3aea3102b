"""Which function answers which path."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from aiohttp import web

from wherry.api.call import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """`path` may hold `{name}`, which takes one segment, and `{name:path}`, which takes slashes too."""

    method: str
    path: str
    handler: Handler


class Routes:
    """Routes by method and first segment, so that a request is compared with a handful of patterns at most."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[tuple[str, str], Handler] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Handler]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._fixed[route.method, route.path] = route.handler
                continue
            key = route.method, _first_segment(route.path)
            self._patterns.setdefault(key, []).append((_compile(route.path), route.handler))

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
        """The handler for a decoded path, and what its braces stand for; None if there is none."""
        handler = self._fixed.get((method, path))
        if handler is not None:
            return handler, {}
        for pattern, handler in self._patterns.get((method, _first_segment(path)), ()):
            match = pattern.fullmatch(path)
            if match is not None:
                return handler, match.groupdict()
        return None


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]


def _compile(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)(:path)?\}", path)
    text = re.escape(parts[0])
    for name, takes_slashes, after in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        text += f"(?P<{name}>{'.+' if takes_slashes else '[^/]+'})" + re.escape(after)
    return re.compile(text, re.DOTALL)
