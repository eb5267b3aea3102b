"""Events as the Docker Engine API spells them."""

from __future__ import annotations

from msgspec import UNSET, UnsetType, field

from wherry.model.wire import Wire


class Actor(Wire):
    id: str = field(name="ID")
    attributes: dict[str, str]


class Event(Wire, kw_only=True):
    """Something that happened. The lower-case fields are Docker's older form, still read by clients below 1.52."""

    status: str | UnsetType = field(name="status", default=UNSET)
    id: str | UnsetType = field(name="id", default=UNSET)
    from_: str | UnsetType = field(name="from", default=UNSET)
    type: str
    action: str
    actor: Actor
    scope: str = field(name="scope", default="local")
    time: int = field(name="time")
    time_nano: int = field(name="timeNano")
