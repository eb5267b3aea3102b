"""The values that templates see, beside Python's own: structs, maps, rows of a listing, and nothing in three ways."""

from __future__ import annotations

from wherry.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Struct(dict["str", "Any"]):
    """A Go struct, decoded from JSON. `type_name` is what error messages call it."""

    type_name = "struct"
    absent: Mapping[str, Any] = {}
    """Fields that the engine leaves out when they are nil, which templates can still ask for."""


class Record:
    """One row of a listing: named fields, each computed when asked for, and methods that take arguments."""

    def __init__(
        self,
        type_name: str,
        fields: Mapping[str, Callable[[], Any]],
        methods: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.type_name = type_name
        self.fields = fields
        self.methods = methods or {}

    def plain(self) -> dict[str, Any]:
        """Every field, in the order that docker prints JSON."""
        return {name: self.fields[name]() for name in sorted(self.fields)}


class Missing:
    """What a map gives for a key it has not."""

    def __repr__(self) -> str:
        return "<no value>"


MISSING = Missing()


def struct_field(value: Mapping[str, Any], name: str) -> Any:
    """A Go field by its name or its JSON spelling: `ID` is found where the document has `Id`."""
    if name in value:
        return value[name]
    lower = name.lower()
    for key in value:
        if key.lower() == lower:
            return value[key]
    if isinstance(value, Struct):
        return value.absent.get(name, MISSING)
    return MISSING


class NilList(list["Any"]):
    """A Go slice that is nil: it prints as `[]`, and in JSON as null."""


NIL_LIST = NilList()
MAPS = frozenset(
    "Annotations Attributes Data DriverOpts ExposedPorts Labels Networks Options PortBindings Ports StorageOpt "
    "AuxiliaryAddresses Containers Sysctls Tmpfs Volumes Details Runtimes IndexConfigs".split()
)
"""Fields that are maps in Docker's types; every other object is a struct, and prints as one."""
POINTERS = frozenset(
    "Health Healthcheck IPAMConfig ImageManifestDescriptor Init MemorySwappiness OomKillDisable PidsLimit Server "
    "SizeRootFs SizeRw StopTimeout Swarm UsageData".split()
)
"""Fields that are pointers there: null is `<nil>`, where elsewhere it is an empty list."""


def nil_of(name: str) -> Any:
    """What null stands for in a field: no map, no value, or most often no list."""
    if name in MAPS:
        return {}
    return None if name in POINTERS else NIL_LIST


def truth(value: Any) -> bool:
    """What `if` takes for true: not empty, not zero, not nil; structs always."""
    if isinstance(value, (Struct, Record)):
        return True
    if isinstance(value, Missing):
        return False
    return bool(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.plain()
    if isinstance(value, (Missing, NilList)):
        return None
    return value


def to_json(value: Any) -> str:
    """The template function `json`, and `--format json`: structs in their own order, maps by key."""
    return jsontext.dumps(_sorted(_plain(value)))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        names = table if isinstance(value, Struct) else sorted(table)
        return {name: _sorted(table[name]) for name in names}
    if isinstance(value, list):
        return [_sorted(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
