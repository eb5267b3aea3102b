"""wherryd's configuration: dockerd's flags and the keys of daemon.json, one table for both.

A directive may be given as a flag or in the file, not both; lists that may be repeated (`--label`, `-H`) likewise.
Texts are dockerd's, which administrators search for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import msgspec

import wherry
from wherry import plugins
from wherry.daemon.log import LEVELS
from wherry.engine.creation import is_address
from wherry.engine.log_setup import check_log
from wherry.engine.settings import EngineSettings, RuntimeSetting
from wherry.errors import InvalidParameter
from wherry.model.containers import LogConfig
from wherry.network.pools import PoolSetting, check_pool
from wherry.registry.resolve import parse_insecure, parse_mirror

DEFAULT_CONFIG = "/etc/wherry/daemon.json"
DEFAULT_HOST = "unix:///run/wherry/wherry.sock"


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon needs beyond the engine."""

    engine: EngineSettings
    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    pidfile: str = "/run/wherry/wherryd.pid"
    group: str = "docker"
    is_group_explicit: bool = False
    log_level: str = "info"
    log_format: str = "text"
    tls: bool | None = None  # None: not said
    tls_verify: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    min_api_version: str = "1.24"
    experimental: bool = False
    warnings: tuple[str, ...] = ()
    config_file: str = DEFAULT_CONFIG
    directives: dict[str, Any] = {}  # what flags and file say, by key


class Directive(msgspec.Struct, frozen=True):
    """One thing that can be set. `kind`: bool, str, int, size, list, map, runtimes or ulimits."""

    flag: str
    key: str
    kind: str
    help: str
    short: str = ""
    placeholder: str = ""


DIRECTIVES = (
    Directive("add-runtime", "runtimes", "runtimes", "Register an additional OCI runtime, NAME=PATH", "", "runtime"),
    Directive("bip6", "bip6", "str", "IPv6 address of the default bridge, as fd00:17::1/64", "", "string"),
    Directive("bip", "bip", "str", "Address of the default bridge, as 172.20.0.1/16", "", "string"),
    Directive("bridge", "bridge", "str", 'Attach containers to this bridge; "none" for no default network', "b", "string"),
    Directive("cgroup-parent", "cgroup-parent", "str", "Parent cgroup of all containers", "", "string"),
    Directive("data-root", "data-root", "str", 'Where what lasts is kept (default "/var/lib/wherry")', "", "string"),
    Directive("debug", "debug", "bool", "Enable debug mode", "D"),
    Directive("default-address-pool", "default-address-pools", "pools", "Where networks get their subnets from: base=CIDR,size=N", "", "pool-options"),
    Directive("default-network-opt", "default-network-opts", "network-options", "Default options of new networks, DRIVER=KEY=VALUE", "", "mapmap"),
    Directive("default-publish-address", "default-publish-address", "str", "The same as --ip, by a name that says so", "", "ip"),
    Directive("default-runtime", "default-runtime", "str", 'OCI runtime of containers that ask for none (default "wherry")', "", "string"),
    Directive("default-shm-size", "default-shm-size", "size", "Size of /dev/shm (default 64MiB)", "", "bytes"),
    Directive("default-ulimit", "default-ulimits", "ulimits", "Default ulimits for containers, NAME=SOFT[:HARD]", "", "ulimit"),
    Directive("dns", "dns", "list", "DNS servers of containers", "", "list"),
    Directive("dns-opt", "dns-opts", "list", "DNS options of containers", "", "list"),
    Directive("dns-search", "dns-search", "list", "DNS search domains of containers", "", "list"),
    Directive("exec-root", "exec-root", "str", 'Where what vanishes at a reboot is kept (default "/run/wherry")', "", "string"),
    Directive("experimental", "experimental", "bool", "Enable experimental features"),
    Directive("fixed-cidr", "fixed-cidr", "str", "The part of the default bridge's subnet that containers get", "", "string"),
    Directive("fixed-cidr-v6", "fixed-cidr-v6", "str", "IPv6 subnet of the default bridge", "", "string"),
    Directive("firewall-accept", "firewall-accept", "bool", "Add one accept rule of ours where another firewall drops"),
    Directive("group", "group", "str", 'Group that may use the unix socket (default "docker")', "G", "string"),
    Directive("host", "hosts", "list", f"Socket to listen on (default {DEFAULT_HOST})", "H", "list"),
    Directive("host-gateway-ip", "host-gateway-ips", "list", "Addresses that host-gateway in --add-host means", "", "list"),
    Directive("icc", "icc", "bool", "Let containers on the default bridge reach each other (default true)"),
    Directive("ip-forward", "ip-forward", "bool", "Switch the host's forwarding on (default true)"),
    Directive("ip-masq", "ip-masq", "bool", "Masquerade what leaves the default bridge (default true)"),
    Directive("ip6tables", "ip6tables", "bool", "Make firewall rules for IPv6 (default true)"),
    Directive("iptables", "iptables", "bool", "Make firewall rules (default true)"),
    Directive("ipv6", "ipv6", "bool", "Give the default bridge IPv6"),
    Directive("init", "init", "bool", "Run an init inside every container"),
    Directive("init-path", "init-path", "str", "Path of that init", "", "string"),
    Directive("insecure-registry", "insecure-registries", "list", "Registries to use without verified TLS", "", "list"),
    Directive("ip", "ip", "str", "Where ports are published that name no address (default 0.0.0.0 and [::])", "", "ip"),
    Directive("label", "labels", "list", "Labels of the daemon, KEY=VALUE", "", "list"),
    Directive("live-restore", "live-restore", "bool", "Containers outlive the daemon (default true)"),
    Directive("log-driver", "log-driver", "str", 'Log driver of containers that ask for none (default "json-file")', "", "string"),
    Directive("log-format", "log-format", "str", 'Format of the daemon\'s own log, "text" or "json" (default "text")', "", "string"),
    Directive("log-level", "log-level", "str", 'Level of the daemon\'s own log (default "info")', "l", "string"),
    Directive("log-opt", "log-opts", "map", "Default log options, KEY=VALUE", "", "map"),
    Directive("max-concurrent-downloads", "max-concurrent-downloads", "int", "Layers pulled at once (default 3)", "", "int"),
    Directive("min-api-version", "min-api-version", "str", 'Oldest API version to serve (default "1.24")', "", "string"),
    Directive("mtu", "mtu", "int", "MTU of container networks (default 1500)", "", "int"),
    Directive("no-new-privileges", "no-new-privileges", "bool", "Set no-new-privileges for every container"),
    Directive("pidfile", "pidfile", "str", 'Path of the PID file (default "/run/wherry/wherryd.pid")', "p", "string"),
    Directive("registry-mirror", "registry-mirrors", "list", "Mirror to try first for docker.io", "", "list"),
    Directive("seccomp-profile", "seccomp-profile", "str", 'Seccomp profile: a file, "builtin" or "unconfined"', "", "string"),
    Directive("shutdown-timeout", "shutdown-timeout", "int", "Seconds for stopping containers without live restore (default 15)", "", "int"),
    Directive("storage-driver", "storage-driver", "str", "Storage driver, overlay2 or vfs (default: what works)", "s", "string"),
    Directive("tls", "tls", "bool", "Use TLS; implied by --tlsverify"),
    Directive("tlscacert", "tlscacert", "str", "Trust clients whose certificate this CA signed", "", "string"),
    Directive("tlscert", "tlscert", "str", "The server's certificate", "", "string"),
    Directive("tlskey", "tlskey", "str", "The server's key", "", "string"),
    Directive("tlsverify", "tlsverify", "bool", "Use TLS and verify the client"),
)  # fmt: skip
_BY_FLAG = {d.flag: d for d in DIRECTIVES}
_BY_SHORT = {d.short: d for d in DIRECTIVES if d.short}
_BY_KEY = {d.key: d for d in DIRECTIVES}

MEANINGLESS: Mapping[str, str] = {
    "userland-proxy": "there is no proxy process",
    "containerd": "the engine manages containers itself",
    "features": "there are no such switches",
    "builder": "there is no builder yet",
    "exec-opts": "the cgroup driver is cgroupfs",
    "storage-opts": "the storage drivers take no options",
    "max-concurrent-uploads": "there is no push yet",
    "max-download-attempts": "retries are bounded by time",
    "raw-logs": "logs are plain already",
}
"""Keys of dockerd's that are taken, and change nothing: said once at start."""


class Help(Exception):
    """The command line asks for text and nothing else."""


class Parsed(msgspec.Struct):
    flags: dict[str, Any]
    config_file: str
    is_config_explicit: bool
    validate: bool


def load(argv: list[str]) -> tuple[DaemonSettings, bool]:
    """The settings of a command line and its configuration file; whether `--validate` was asked for.

    Raises InvalidParameter, with the text dockerd would print; Help for --help and --version.
    """
    parsed = parse_flags(argv)
    path = parsed.config_file
    if os.path.exists(path) or parsed.is_config_explicit:
        try:
            values, warnings = read_config(path, parsed.flags)
        except InvalidParameter as exc:
            raise InvalidParameter(f"unable to configure the Docker daemon with file {path}: {exc}") from exc
    else:
        values, warnings = {}, ()
    settings = _settings({**values, **parsed.flags}, warnings)
    return msgspec.structs.replace(settings, config_file=path), parsed.validate


def parse_flags(argv: list[str]) -> Parsed:
    """`--flag VALUE`, `--flag=VALUE`, `-fVALUE`, as dockerd reads them."""
    flags: dict[str, Any] = {}
    config_file, explicit, validate = DEFAULT_CONFIG, False, False
    words = list(argv)
    while words:
        word = words.pop(0)
        name, has_value, value = word.partition("=")
        if name in ("--help", "-h"):
            raise Help(usage())
        if name in ("--version", "-v"):
            raise Help(f"Docker version {wherry.__version__}, build wherry")
        if name == "--validate":
            validate = value != "false"
            continue
        if name == "--config-file":
            config_file = value if has_value else _next(words, name)
            explicit = True
            continue
        directive = _BY_FLAG.get(name.removeprefix("--")) if name.startswith("--") else None
        if directive is None and re.fullmatch(r"-[A-Za-z].*", word) and not word.startswith("--"):
            directive = _BY_SHORT.get(word[1])
            if directive and len(word) > 2:
                has_value, value = "=", word[2:].removeprefix("=")
        if directive is None:
            if name.startswith("--") and name[2:] in MEANINGLESS:
                if (
                    not has_value
                    and words
                    and not words[0].startswith("-")
                    and name[2:] in ("exec-opts", "containerd")
                ):
                    words.pop(0)
                continue
            if word.startswith("-"):
                kind = (
                    "unknown flag: " + name
                    if word.startswith("--")
                    else f"unknown shorthand flag: {word[1:2]!r} in {word}"
                )
                raise InvalidParameter(f"{kind}\nSee 'wherryd --help'.")
            raise InvalidParameter(f"unknown command: wherryd {word}\nSee 'wherryd --help'.")
        if directive.kind == "bool":
            flags[directive.key] = _parse_bool(value, name) if has_value else True
            continue
        text = value if has_value else _next(words, name)
        _add(flags, directive, text)
    return Parsed(flags, config_file, explicit, validate)


def _next(words: list[str], name: str) -> str:
    if not words:
        raise InvalidParameter(f"flag needs an argument: {name}\nSee 'wherryd --help'.")
    return words.pop(0)


def _parse_bool(text: str, name: str) -> bool:
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise InvalidParameter(
        f'invalid argument "{text}" for "{name}" flag: strconv.ParseBool: parsing "{text}": invalid syntax'
    )


def _add(flags: dict[str, Any], directive: Directive, text: str) -> None:
    key, kind, name = directive.key, directive.kind, f"--{directive.flag}"
    if kind == "list":
        flags.setdefault(key, []).append(text)
    elif kind == "int":
        if not text.lstrip("-").isdigit():
            raise InvalidParameter(f'invalid argument "{text}" for "{name}" flag: not a number')
        flags[key] = int(text)
    elif kind == "size":
        flags[key] = parse_size(text)
    elif kind == "pools":
        flags.setdefault(key, []).append(_parse_pool(text))
    elif kind in ("map", "runtimes", "ulimits", "network-options"):
        item, separator, value = text.partition("=")
        if not separator or not item:
            raise InvalidParameter(f'invalid argument "{text}" for "{name}" flag: expected NAME=VALUE')
        if kind == "runtimes":
            flags.setdefault(key, {})[item] = {"path": value}
        elif kind == "ulimits":
            soft, _, hard = value.partition(":")
            if not soft.lstrip("-").isdigit() or (hard and not hard.lstrip("-").isdigit()):
                raise InvalidParameter(f"invalid ulimit argument: {text}")
            flags.setdefault(key, {})[item] = {"Name": item, "Soft": int(soft), "Hard": int(hard or soft)}
        elif kind == "network-options":
            option, equals, value = value.partition("=")
            if not equals:
                raise InvalidParameter(
                    f'invalid argument "{text}" for "{name}" flag: expected DRIVER=KEY=VALUE'
                )
            flags.setdefault(key, {}).setdefault(item, {})[option] = value
        else:
            flags.setdefault(key, {})[item] = value
    else:
        flags[key] = text


def _parse_pool(text: str) -> dict[str, Any]:
    """`base=172.30.0.0/16,size=24` as the file has it. Docker's texts."""
    pool: dict[str, Any] = {}
    for field in text.split(","):
        key, equals, value = field.partition("=")
        if not equals:
            raise InvalidParameter(f"invalid field '{field}' must be a key=value pair")
        if key == "base":
            pool["base"] = value
        elif key == "size" and value.isdigit() and len(value) < 4:
            pool["size"] = int(value)
        elif key == "size":
            raise InvalidParameter(f"invalid size value: {value}")
        else:
            raise InvalidParameter(f"unexpected key '{key}' in '{field}'")
    return pool


def parse_size(text: str) -> int:
    """`64m`, `1GiB`, `1048576`: binary units, as Docker reads memory sizes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", text.strip().lower())
    if match is None:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** (" kmgtp".index(match[2]) if match[2] else 0))


# The file


def read_config(path: str, flags: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The file's directives, checked against the table and against the flags given beside it."""
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError as exc:
        raise InvalidParameter(f"open {path}: {(exc.strerror or '').lower()}") from exc
    values = decode_config(data)
    if isinstance(values.get("host-gateway-ip"), str):  # as Docker before 28.1 had it: one
        values["host-gateway-ips"] = [values.pop("host-gateway-ip")]
    unknown = [key for key in values if key not in _BY_KEY and key not in MEANINGLESS]
    if unknown:
        raise InvalidParameter(
            f"the following directives don't match any configuration option: {', '.join(sorted(unknown))}"
        )
    both = [
        f"{key}: (from flag: {_show(flags[key])}, from file: {_show(value)})"
        for key, value in values.items()
        if key in flags
    ]
    if both:
        raise InvalidParameter(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(sorted(both))
        )
    for key, value in values.items():
        if key in _BY_KEY:
            _check_kind(key, _BY_KEY[key].kind, value)
            if _BY_KEY[key].kind == "size" and isinstance(value, str):
                values[key] = parse_size(value)
    warnings = tuple(
        f"{path}: {key!r} changes nothing: {MEANINGLESS[key]}" for key in values if key in MEANINGLESS
    )
    return {key: value for key, value in values.items() if key in _BY_KEY}, warnings


def decode_config(data: bytes) -> dict[str, Any]:
    """The object in `data`; what is wrong in Go's words, and where, if it is none."""
    if not data.strip():
        return {}
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidParameter(f"the file is not UTF-8: byte {exc.start} is invalid") from exc
    try:
        values: Any = json.loads(text)
    except json.JSONDecodeError as exc:
        raise InvalidParameter(_go_words(text, exc)) from exc
    except RecursionError as exc:
        raise InvalidParameter("the file is nested too deep") from exc
    if not isinstance(values, dict):
        kind = "array" if isinstance(values, list) else "string" if isinstance(values, str) else "number"
        kind = "bool" if isinstance(values, bool) else kind
        raise InvalidParameter(
            f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
        )
    return values  # type: ignore[reportUnknownVariableType]


def _go_words(text: str, error: json.JSONDecodeError) -> str:
    """A JSON error as Go's encoding/json says it, with the line and a caret under the place."""
    position, message = error.pos, error.msg
    if message.startswith("Illegal trailing comma"):
        position += 1 + len(text[position + 1 :]) - len(text[position + 1 :].lstrip())
        message = "Expecting property name"
    while position < len(text) and text[position].isspace():
        position += 1
    if position >= len(text):
        return "unexpected end of JSON input"
    character = text[position]
    where = {
        "Expecting property name": "looking for beginning of object key string",
        "Expecting value": "looking for beginning of value",
        "Expecting ':'": "after object key",
        "Extra data": "after top-level value",
        "Invalid control character": "in string literal",
        "Invalid \\escape": "in string escape code",
    }
    what = next((words for start, words in where.items() if message.startswith(start)), "")
    if message.startswith("Expecting ','"):
        what = "after array element" if _inside_array(text[:position]) else "after object key:value pair"
    line_start = text.rfind("\n", 0, position) + 1
    line = text[line_start:].partition("\n")[0]
    number = text.count("\n", 0, position) + 1
    column = position - line_start + 1
    caret = " " * (column - 1) + "^"
    return (
        f"invalid character '{character}' {what}".rstrip()
        + f" (line {number}, column {column})\n  {line}\n  {caret}"
    )


def _inside_array(before: str) -> bool:
    depth: list[str] = []
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', before):
        if token in "[{":
            depth.append(token)
        elif token in "]}" and depth:
            depth.pop()
    return bool(depth) and depth[-1] == "["


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{' '.join(map(str, value))}]" if isinstance(value, list) else str(value)  # type: ignore[reportUnknownArgumentType]


_KINDS: dict[str, tuple[type, str]] = {
    "bool": (bool, "a boolean"),
    "str": (str, "a string"),
    "int": (int, "a number"),
    "list": (list, "a list of strings"),
    "map": (dict, "an object of strings"),
    "runtimes": (dict, "an object of runtimes"),
    "ulimits": (dict, "an object of ulimits"),
    "pools": (list, "a list of objects with base and size"),
    "network-options": (dict, "an object of options by driver"),
}


def _check_kind(key: str, kind: str, value: Any) -> None:
    if kind == "size":
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            return
        raise InvalidParameter(f"{key}: expected a size such as 64MiB, got {value!r}")
    wanted, name = _KINDS[kind]
    fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    items: list[Any] = []
    if fits and kind == "list":
        items = cast("list[Any]", value)
    elif fits and kind == "map":
        items = list(cast("dict[str, Any]", value).values())
    if not fits or not all(isinstance(item, str) for item in items):
        raise InvalidParameter(f"{key}: expected {name}, got {value!r}")


# Both together


def _settings(values: dict[str, Any], warnings: tuple[str, ...]) -> DaemonSettings:
    """Typed settings of checked values. What contradicts itself is refused here."""
    directives = dict(values)
    level = values.get("log-level", "info").lower()
    if level not in LEVELS:
        raise InvalidParameter(f"invalid logging level: {level}")  # dockerd's text
    if values.get("log-format", "text") not in ("text", "json"):
        raise InvalidParameter(f"invalid log format: {values['log-format']}")
    for label in values.get("labels", ()):
        if "=" not in label:
            raise InvalidParameter(f"bad attribute format: {label}")
    _check_labels(values.get("labels", ()))
    if values.get("max-concurrent-downloads", 0) < 0:
        raise InvalidParameter(f"invalid max concurrent downloads: {values['max-concurrent-downloads']}")
    if values.get("shutdown-timeout", 0) < -1:
        raise InvalidParameter(f"invalid shutdown timeout: {values['shutdown-timeout']}")
    for host in values.get("hosts", ()):
        if not re.match(r"(unix|tcp|fd)://", host):
            raise InvalidParameter(f"invalid bind address format: {host}: use unix://, tcp:// or fd://")
    for mirror in values.get("registry-mirrors", ()):
        parse_mirror(mirror)
    for registry in values.get("insecure-registries", ()):
        parse_insecure(registry)
    for address in (*values.get("dns", ()), *values.get("host-gateway-ips", ())):
        if not is_address(address):
            raise InvalidParameter(f"IP address is not correctly formatted: {address}")
    if "log-driver" in values or "log-opts" in values:
        driver = values.get("log-driver", EngineSettings().log_driver)
        try:
            check_log(LogConfig(type=driver, config=values.get("log-opts", {})))
        except InvalidParameter as exc:
            raise InvalidParameter(f"failed to set log opts: {exc}") from exc  # Docker's text
    if values.get("storage-driver"):
        plugins.driver_path(plugins.SNAPSHOTS, values["storage-driver"])
    if "default-publish-address" in values:
        given = values["default-publish-address"]
        if values.setdefault("ip", given) != given:
            raise InvalidParameter(
                f"ip ({values['ip']}) and default-publish-address ({given}) mean the same: give one of them"
            )
    engine_fields: dict[str, str | Callable[[Any], Any]] = {
        "data-root": "data_root", "exec-root": "exec_root", "storage-driver": "storage_driver",
        "default-runtime": "default_runtime", "log-driver": "log_driver", "log-opts": "log_opts", "bridge": "bridge",
        "bip": "bip", "mtu": "mtu", "firewall-accept": "firewall_accept", "ip": "publish_address", "cgroup-parent": "cgroup_parent",
        "default-shm-size": "default_shm_size", "seccomp-profile": "seccomp_profile",
        "no-new-privileges": "no_new_privileges", "max-concurrent-downloads": "max_concurrent_downloads",
        "bip6": "bip6", "fixed-cidr": "fixed_cidr", "fixed-cidr-v6": "fixed_cidr_v6", "ipv6": "ipv6", "icc": "icc",
        "ip-masq": "ip_masq", "ip-forward": "ip_forward", "iptables": "iptables", "ip6tables": "ip6tables",
        "init": "init", "init-path": "init_path", "debug": "debug",
        "live-restore": "live_restore", "shutdown-timeout": "shutdown_timeout",
    }  # fmt: skip
    engine: dict[str, Any] = {
        str(field): values[key] for key, field in engine_fields.items() if key in values
    }
    for key, field in (
        ("registry-mirrors", "registry_mirrors"), ("insecure-registries", "insecure_registries"),
        ("labels", "labels"), ("dns", "dns"), ("dns-search", "dns_search"), ("dns-opts", "dns_options"),
        ("host-gateway-ips", "host_gateway_ips"),
    ):  # fmt: skip
        if key in values:
            engine[field] = tuple(values[key])
    engine["default_address_pools"] = _pools(values.get("default-address-pools", []))
    engine["default_network_opts"] = _network_options(values.get("default-network-opts", {}))
    engine["runtimes"] = _runtimes(values.get("runtimes", {}))
    engine["default_ulimits"] = _ulimits(values.get("default-ulimits", {}))
    for field in ("data_root", "exec_root"):
        if field in engine:
            engine[field] = os.path.abspath(engine[field])
    default = engine.get("default_runtime", "wherry")
    if default != "wherry" and default not in engine["runtimes"]:
        raise InvalidParameter(f"specified default runtime '{default}' does not exist")
    exec_root = engine.get("exec_root", "/run/wherry")
    return DaemonSettings(
        engine=EngineSettings(**engine),
        hosts=tuple(values.get("hosts") or (f"unix://{exec_root}/wherry.sock",)),
        pidfile=values.get("pidfile", os.path.join(exec_root, "wherryd.pid")),
        group=values.get("group", "docker"),
        is_group_explicit="group" in values,
        log_level="debug" if values.get("debug") else level,
        log_format=values.get("log-format", "text"),
        tls=values.get("tls"),
        tls_verify=values.get("tlsverify", False),
        tls_ca=values.get("tlscacert", ""),
        tls_cert=values.get("tlscert", ""),
        tls_key=values.get("tlskey", ""),
        min_api_version=values.get("min-api-version", "1.24"),
        experimental=values.get("experimental", False),
        warnings=warnings,
        directives=directives,
    )


def _check_labels(labels: Iterable[str]) -> None:
    """One value for each key. dockerd's text."""
    seen: dict[str, str] = {}
    for label in labels:
        key, _, value = label.partition("=")
        if seen.setdefault(key, value) != value:
            raise InvalidParameter(f"conflict labels for {key}={value} and {key}={seen[key]}")


def _runtimes(given: dict[str, Any]) -> dict[str, RuntimeSetting]:
    """The runtimes named, and runc and crun where they are installed."""
    found: dict[str, RuntimeSetting] = {}
    for name in ("runc", "crun"):
        for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
            path = os.path.join(directory, name)
            if os.access(path, os.X_OK):
                found[name] = RuntimeSetting(path)
                break
    for name, value in given.items():
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        path = fields.get("path")
        if not isinstance(path, str) or not path:
            raise InvalidParameter(f"runtimes: {name}: expected an object with a path")
        if name == "wherry":
            raise InvalidParameter("runtime name 'wherry' is reserved")
        args: list[Any] = fields.get("runtimeArgs") or []
        found[name] = RuntimeSetting(path, tuple(str(arg) for arg in args))
    return found


def _pools(given: list[Any]) -> tuple[tuple[str, int], ...]:
    pools: list[tuple[str, int]] = []
    for item in given:
        fields = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        base, size = fields.get("base"), fields.get("size")
        if not isinstance(base, str) or not isinstance(size, int) or isinstance(size, bool):
            raise InvalidParameter(f"default-address-pools: expected a base and a size, got {item!r}")
        check_pool(PoolSetting(base, size))
        pools.append((base, size))
    return tuple(pools)


def _network_options(given: dict[str, Any]) -> dict[str, dict[str, str]]:
    for driver, options in given.items():
        fields = cast("dict[str, Any]", options) if isinstance(options, dict) else {"": None}
        if not all(isinstance(value, str) for value in fields.values()):
            raise InvalidParameter(f"default-network-opts: {driver}: expected an object of strings")
    return given


def _ulimits(given: dict[str, Any]) -> dict[str, tuple[int, int]]:
    limits: dict[str, tuple[int, int]] = {}
    for name, value in given.items():
        try:
            limits[name] = (int(value["Soft"]), int(value["Hard"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise InvalidParameter(f"default-ulimits: {name}: expected Name, Soft and Hard") from exc
    return limits


def usage() -> str:
    lines = [
        "Usage:  wherryd [OPTIONS]",
        "",
        "A self-sufficient runtime for containers. Docker's clients work on its socket:",
        "",
        "    wherryd -H unix:///run/wherry/wherry.sock &",
        "    DOCKER_HOST=unix:///run/wherry/wherry.sock docker run --rm busybox echo hello",
        "",
        "Options:",
    ]
    rows = [
        (
            f"{'-' + d.short + ', ' if d.short else '    '}--{d.flag} {d.placeholder}".rstrip(),
            d.help,
        )
        for d in DIRECTIVES
    ]
    rows += [
        ("    --config-file string", f'Daemon configuration file (default "{DEFAULT_CONFIG}")'),
        ("-h, --help", "Print usage"),
        ("    --validate", "Validate the configuration and exit"),
        ("-v, --version", "Print version information and quit"),
    ]
    rows.sort(key=lambda row: row[0].lstrip("- ").split("--")[-1])
    width = max(len(left) for left, _ in rows) + 3
    return "\n".join([*lines, *(f"  {left:<{width}}{right}" for left, right in rows)])
