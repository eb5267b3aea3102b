"""`--mount`, `-v` and `--tmpfs`: from their text to the API's values."""

from __future__ import annotations

import os

from wherry.cli import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BIND_KEYS = ("bind-propagation", "bind-nonrecursive", "bind-recursive")
TRUE = ("1", "t", "true")
FALSE = ("0", "f", "false")


def split_csv(text: str) -> list[str]:
    """Fields between commas; one in double quotes may hold commas, and a quote written twice. ValueError."""
    if '"' not in text:
        return text.split(",")
    fields: list[str] = []
    position = 0
    while True:
        if text[position : position + 1] == '"':
            position += 1
            field = ""
            while True:
                end = text.find('"', position)
                if end < 0:
                    raise ValueError('parse error: extraneous or missing " in quoted-field')
                field += text[position:end]
                position = end + 1
                if text[position : position + 1] != '"':
                    break
                field += '"'
                position += 1
            fields.append(field)
            if position < len(text) and text[position] != ",":
                raise ValueError('parse error: extraneous or missing " in quoted-field')
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field = text[position:end]
            if '"' in field:
                raise ValueError('parse error: bare " in non-quoted-field')
            fields.append(field)
            position = end
        if position >= len(text):
            return fields
        position += 1


def _read_switch(key: str, value: str, has_value: bool) -> bool:
    if not has_value or value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise ValueError(f"invalid value for {key}: {value}")


def read_mount(text: str) -> dict[str, Any]:
    """One `--mount`, as the API's Mount object. Raises ValueError with docker's text."""
    mount: dict[str, Any] = {"Type": "volume"}
    bind: dict[str, Any] = {}
    volume: dict[str, Any] = {}
    tmpfs: dict[str, Any] = {}
    image: dict[str, Any] = {}
    if not text:
        raise ValueError("value is empty")
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals:
            if key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"):
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
        elif not value and key not in ("readonly", "ro"):
            raise ValueError(f"invalid value for '{key}': value is empty")
        if key == "type":
            mount["Type"] = value.lower()
        elif key in ("source", "src"):
            mount["Source"] = (
                os.path.abspath(value) if value == "." or value.startswith(("./", "../")) else value
            )
        elif key in ("target", "dst", "destination"):
            mount["Target"] = value
        elif key in ("readonly", "ro"):
            if _read_switch(key, value, bool(equals)):
                mount["ReadOnly"] = True
        elif key == "consistency":
            mount["Consistency"] = value.lower()
        elif key == "bind-propagation":
            bind["Propagation"] = value.lower()
        elif key == "bind-create-src":
            bind["CreateMountpoint"] = _read_switch(key, value, bool(equals))
        elif key == "bind-nonrecursive":
            bind["NonRecursive"] = _read_switch(key, value, bool(equals))
        elif key == "bind-recursive":
            _read_recursive(value, bind)
        elif key == "volume-nocopy":
            volume["NoCopy"] = _read_switch(key, value, bool(equals))
        elif key == "volume-subpath":
            volume["Subpath"] = value
        elif key == "volume-label":
            name, _, label = value.partition("=")
            volume.setdefault("Labels", {})[name] = label
        elif key == "volume-driver":
            volume.setdefault("DriverConfig", {})["Name"] = value
        elif key == "volume-opt":
            name, _, option = value.partition("=")
            volume.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = option
        elif key == "image-subpath":
            image["Subpath"] = value
        elif key == "tmpfs-size":
            try:
                tmpfs["SizeBytes"] = units.read_bytes(value)
            except ValueError:
                raise ValueError(f"invalid value for {key}: {value}") from None
        elif key == "tmpfs-mode":
            try:
                tmpfs["Mode"] = int(value, 8)
            except ValueError:
                raise ValueError(f"invalid value for {key}: {value}") from None
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    _check_mount(mount, {"bind": bind, "volume": volume, "tmpfs": tmpfs, "image": image})
    return mount


def _read_recursive(value: str, bind: dict[str, Any]) -> None:
    if value == "disabled":
        bind["NonRecursive"] = True
    elif value == "writable":
        bind["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        bind["ReadOnlyForceRecursive"] = True
    elif value != "enabled":
        raise ValueError(
            f"invalid value for bind-recursive: {value}: "
            'must be one of "enabled", "disabled", "writable" or "readonly"'
        )


def _check_mount(mount: dict[str, Any], options: dict[str, dict[str, Any]]) -> None:
    kind = mount["Type"]
    if not mount.get("Target"):
        raise ValueError("target is required")
    for name, given in options.items():
        if given and name != kind:
            raise ValueError(f"cannot mix '{name}-*' options with mount type '{kind}'")
        if given:
            mount[f"{name.capitalize()}Options"] = given
    bind = options["bind"]
    if bind.get("ReadOnlyNonRecursive") and not mount.get("ReadOnly"):
        raise ValueError(
            "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction"
        )
    if bind.get("ReadOnlyForceRecursive"):
        if not mount.get("ReadOnly"):
            raise ValueError(
                "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction"
            )
        if bind.get("Propagation") != "rprivate":
            raise ValueError(
                "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' "
                "to be specified in conjunction"
            )


def split_volumes(volumes: list[str]) -> tuple[list[str], list[str]]:
    """`-v` values as (binds, anonymous volumes). A source that begins with a dot is made absolute here, since
    only the client knows its own directory."""
    binds: list[str] = []
    anonymous: list[str] = []
    for text in volumes:
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous.append(text)
        elif source.startswith("."):
            binds.append(f"{os.path.abspath(source)}:{rest}")
        else:
            binds.append(text)
    return binds, anonymous
