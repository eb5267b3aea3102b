"""`--change` of import and commit: Dockerfile instructions that alter an image's configuration.

The instructions are those Docker allows there: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL,
STOPSIGNAL, USER, VOLUME, WORKDIR. Variables are not substituted, since there is no build stage to take them from.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence

import msgspec

from wherry.engine.image_filters import parse_duration_ns
from wherry.errors import InvalidParameter
from wherry.oci.image import ContainerConfig, Healthcheck

DEFAULT_SHELL = ("/bin/sh", "-c")
_EMPTY = msgspec.Raw(b"{}")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/([a-zA-Z]+))?", re.ASCII)
_PROTOCOLS = ("tcp", "udp", "sctp")
_NO_TRIGGER = ("ONBUILD", "FROM", "MAINTAINER")


def apply_changes(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """`config` after each of `changes`. Raises InvalidParameter for the first that cannot be."""
    for change in changes:
        for line in _lines(change):
            word, _, rest = line.partition(" ")
            instruction = _INSTRUCTIONS.get(word.upper())
            if instruction is None:
                raise InvalidParameter(f"{word} is not a valid change command")  # Docker's text
            config = instruction(config, rest.strip())
    return config


def _lines(change: str) -> list[str]:
    """The instructions in `change`, a Dockerfile's text: comments out, continuations joined, tabs as spaces."""
    joined = re.sub(r"\\[ \t]*\n", "", change)
    lines = (re.sub(r"^(\S+)\s+", r"\1 ", line.strip()) for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _cmd(config: ContainerConfig, rest: str) -> ContainerConfig:
    return msgspec.structs.replace(config, cmd=_command(config, rest, "CMD"))


def _entrypoint(config: ContainerConfig, rest: str) -> ContainerConfig:
    return msgspec.structs.replace(config, entrypoint=_command(config, rest, "ENTRYPOINT"))


def _env(config: ContainerConfig, rest: str) -> ContainerConfig:
    env = list(config.env or ())
    for key, value in _pairs(rest, "ENV"):
        place = next((n for n, item in enumerate(env) if item.partition("=")[0] == key), None)
        if place is None:
            env.append(f"{key}={value}")
        else:
            env[place] = f"{key}={value}"
    return msgspec.structs.replace(config, env=env)


def _label(config: ContainerConfig, rest: str) -> ContainerConfig:
    return msgspec.structs.replace(config, labels=dict(config.labels or {}) | dict(_pairs(rest, "LABEL")))


def _expose(config: ContainerConfig, rest: str) -> ContainerConfig:
    ports = dict(config.exposed_ports or {})
    for word in _some_words(rest, "EXPOSE"):
        match = _PORT.fullmatch(word)
        low = int(match[1]) if match else 0
        high = int(match[2] or low) if match else 0
        protocol = (match[3] or "tcp").lower() if match else ""
        if not 0 < low <= high < 65536:
            raise InvalidParameter(f"invalid containerPort: {word}")  # Docker's text
        if protocol not in _PROTOCOLS:
            raise InvalidParameter(f"invalid proto: {protocol}")  # Docker's text
        ports |= {f"{port}/{protocol}": _EMPTY for port in range(low, high + 1)}
    return msgspec.structs.replace(config, exposed_ports=ports)


def _user(config: ContainerConfig, rest: str) -> ContainerConfig:
    return msgspec.structs.replace(config, user=_exactly_one(rest, "USER"))


def _volume(config: ContainerConfig, rest: str) -> ContainerConfig:
    paths = _json_list(rest)
    if paths is None:
        paths = _some_words(rest, "VOLUME")
    if not paths or not all(path.strip() for path in paths):
        raise InvalidParameter("VOLUME specified can not be an empty string")  # Docker's text
    return msgspec.structs.replace(config, volumes=dict(config.volumes or {}) | dict.fromkeys(paths, _EMPTY))


def _workdir(config: ContainerConfig, rest: str) -> ContainerConfig:
    path = posixpath.join("/", config.working_dir, _exactly_one(rest, "WORKDIR"))
    return msgspec.structs.replace(config, working_dir=posixpath.normpath(path))


def _stop_signal(config: ContainerConfig, rest: str) -> ContainerConfig:
    signal = _exactly_one(rest, "STOPSIGNAL")
    if not re.fullmatch(r"\d{1,2}|(?:SIG)?[A-Z][A-Z0-9+-]*", signal, re.ASCII | re.IGNORECASE):
        raise InvalidParameter(f"invalid signal: {signal}")
    return msgspec.structs.replace(config, stop_signal=signal)


def _shell(config: ContainerConfig, rest: str) -> ContainerConfig:
    shell = _json_list(rest)
    if not shell:
        raise InvalidParameter("SHELL requires the arguments to be in JSON form")  # Docker's text
    return msgspec.structs.replace(config, shell=shell)


def _on_build(config: ContainerConfig, rest: str) -> ContainerConfig:
    trigger = rest.partition(" ")[0].upper()
    if not trigger:
        raise InvalidParameter("ONBUILD requires at least one argument")
    if trigger in _NO_TRIGGER:
        raise InvalidParameter(f"{trigger} isn't allowed as an ONBUILD trigger")
    return msgspec.structs.replace(config, on_build=[*(config.on_build or ()), rest])


def _healthcheck(config: ContainerConfig, rest: str) -> ContainerConfig:
    options: dict[str, str] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", rest):
        options[match[1]] = match[2]
        rest = rest[match.end() :]
    kind, _, command = rest.partition(" ")
    if kind.upper() == "NONE":
        if command.strip() or options:
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")  # Docker's text
        return msgspec.structs.replace(config, healthcheck=Healthcheck(test=["NONE"]))
    if kind.upper() != "CMD" or not command.strip():
        raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')  # Docker's text
    listed = _json_list(command.strip())
    test = ["CMD-SHELL", command.strip()] if listed is None else ["CMD", *listed]
    times = {
        name: parse_duration_ns(options.pop(name.replace("_", "-")))
        for name in ("interval", "timeout", "start_period", "start_interval")
        if name.replace("_", "-") in options
    }
    retries = options.pop("retries", "0")
    if options:
        raise InvalidParameter(f"Unknown flag: {next(iter(options))}")
    if not retries.isdigit() or len(retries) > 9:
        raise InvalidParameter(f"--retries must be a number, not {retries!r}")
    check = Healthcheck(test=test, retries=int(retries), **times)
    return msgspec.structs.replace(config, healthcheck=check)


_INSTRUCTIONS: dict[str, Callable[[ContainerConfig, str], ContainerConfig]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _command(config: ContainerConfig, rest: str, name: str) -> list[str]:
    """The exec form `["a", "b"]` as it is; the shell form behind the shell."""
    listed = _json_list(rest)
    if listed is not None:
        return listed
    if not rest:
        raise InvalidParameter(f"{name} requires at least one argument")
    return [*(config.shell or DEFAULT_SHELL), rest]


def _json_list(text: str) -> list[str] | None:
    """A JSON array of strings, or None when it is not that: then Docker takes the text as it is."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"), type=list[str])
    except (msgspec.DecodeError, RecursionError):
        return None


def _pairs(rest: str, name: str) -> list[tuple[str, str]]:
    """`a=b c="d e"`, or the old form `a b c`: one pair, the value to the end of the line."""
    words = _words(rest)
    if not words:
        raise InvalidParameter(f"{name} requires at least one argument")  # Docker's text
    if "=" not in words[0]:
        key, _, value = rest.partition(" ")
        if not value.strip():
            raise InvalidParameter(f"{name} must have two arguments")  # Docker's text
        return [(_unquote(key), _unquote(value.strip()))]
    pairs: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            # Docker's text.
            raise InvalidParameter(
                f"Syntax error - can't find = in {word!r}. Must be of the form: name=value"
            )
        if not key:
            raise InvalidParameter(f"{name} names can not be blank")  # Docker's text
        pairs.append((_unquote(key), _unquote(value)))
    return pairs


def _some_words(rest: str, name: str) -> list[str]:
    words = [_unquote(word) for word in _words(rest)]
    if not words:
        raise InvalidParameter(f"{name} requires at least one argument")
    return words


def _exactly_one(rest: str, name: str) -> str:
    value = _unquote(rest)
    if not value:
        raise InvalidParameter(f"{name} requires exactly one argument")
    return value


def _words(text: str) -> list[str]:
    """Split at spaces outside quotes; quotes and backslashes stay for `_unquote`."""
    return re.findall(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*'|["'\\])+""", text)


def _unquote(text: str) -> str:
    """The word without its quotes; backslashes make the next character plain, but not inside single quotes."""

    def plain(match: re.Match[str]) -> str:
        if match[1] is not None:
            return re.sub(r'\\(["\\$])', r"\1", match[1])
        return match[2] if match[2] is not None else match[3]

    return re.sub(r""""((?:[^"\\]|\\.)*)"|'([^']*)'|\\(.)""", plain, text)
