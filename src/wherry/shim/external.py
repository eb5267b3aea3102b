"""An external OCI runtime (runc, crun) in the place of ours, by its command line."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ExternalContainer:
    """See runtimes.Container."""

    def __init__(self, runtime: list[str], spec: dict[str, Any], **fields: Any) -> None:
        raise NotImplementedError
