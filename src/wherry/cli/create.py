"""From the options of `run` and `create` to the body of POST /containers/create.

Only what was asked for is sent, since an absent field and Docker's zero are the same to an engine.
"""

from __future__ import annotations

import os

from wherry.cli import networks
from wherry.cli.envfile import read_env_file
from wherry.cli.mounts import split_volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.flags import Options

HEALTH_FLAGS = (
    "health-cmd",
    "health-interval",
    "health-timeout",
    "health-start-period",
    "health-start-interval",
    "health-retries",
)
SHOWN_EMPTY = frozenset(
    "BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps BlkioDeviceWriteIOps BlkioWeightDevice Devices Dns "
    "DnsOptions DnsSearch Ulimits".split()
)
"""Lists that docker sends although they are empty: `inspect` shows them as they were sent."""
DEVICE_LETTERS = frozenset("rwm")


def create_body(
    options: Options, image: str, command: list[str], *, console: tuple[int, int] | None
) -> dict[str, Any]:
    """The request, from the command line. Raises ValueError with docker's text; OSError for a file
    named there.

    `console` is the terminal's (height, width), where there is one.
    """
    host = _host_config(options)
    if console is not None and options.on("tty"):
        host["ConsoleSize"] = list(console)
    exposed, bindings = _ports(options)
    if bindings:
        host["PortBindings"] = bindings
    binds, anonymous = split_volumes(options.many("volume"))
    if binds:
        host["Binds"] = binds
    body = _config(options, image, command)
    if exposed:
        body["ExposedPorts"] = {port: {} for port in exposed}
    body["Volumes"] = {path: {} for path in anonymous}
    mode, endpoints = _networks(options)
    host["NetworkMode"] = mode
    body["HostConfig"] = {
        key: value
        for key, value in host.items()
        if key in SHOWN_EMPTY or value not in (None, "", [], {}, 0, False)
    }
    if options.changed("init"):
        body["HostConfig"]["Init"] = options.on("init")
    paths, security = _security(options.many("security-opt"))
    if security:
        body["HostConfig"]["SecurityOpt"] = security
    if paths:
        body["HostConfig"].update(MaskedPaths=[], ReadonlyPaths=[])
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def attached(options: Options) -> tuple[bool, bool, bool]:
    """Which of stdin, stdout and stderr the command is attached to."""
    if options.has("detach") and options.on("detach"):
        return False, False, False
    chosen = options.many("attach")
    if chosen:
        return "stdin" in chosen, "stdout" in chosen, "stderr" in chosen
    return options.on("interactive"), True, True


def _config(options: Options, image: str, command: list[str]) -> dict[str, Any]:
    stdin, stdout, stderr = attached(options)
    environment: list[str] = []
    for path in options.many("env-file"):
        environment += read_env_file(path, lookup=True)
    environment += options.many("env")
    labels: dict[str, str] = {}
    for path in options.many("label-file"):
        for line in read_env_file(path, lookup=False):
            name, _, value = line.partition("=")
            labels[name] = value
    for text in options.many("label"):
        name, _, value = text.partition("=")
        labels[name] = value
    config: dict[str, Any] = {
        "Hostname": options.text("hostname"),
        "Domainname": options.text("domainname"),
        "User": options.text("user"),
        "AttachStdin": stdin,
        "AttachStdout": stdout,
        "AttachStderr": stderr,
        "Tty": options.on("tty"),
        "OpenStdin": options.on("interactive"),
        "StdinOnce": options.on("interactive") and stdin,
        "Env": environment,
        "Cmd": command,
        "Image": image,
        "WorkingDir": options.text("workdir"),
        "Labels": labels,
        "StopSignal": options.text("stop-signal"),
    }
    config = {key: value for key, value in config.items() if value not in ("", [], False, {})}
    config.setdefault("Labels", {})
    config["Image"] = image
    if options.changed("entrypoint"):
        config["Entrypoint"] = [options.text("entrypoint")]
    if options.changed("stop-timeout"):
        config["StopTimeout"] = options.number("stop-timeout")
    health = _health(options)
    if health:
        config["Healthcheck"] = health
    return config


def _health(options: Options) -> dict[str, Any]:
    given = [name for name in HEALTH_FLAGS if options.changed(name)]
    if options.on("no-healthcheck"):
        if given:
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    for name in given[:]:
        if name != "health-cmd" and options.number(name) < 0:
            raise ValueError(f"--{name} cannot be negative")
    if not given:
        return {}
    health: dict[str, Any] = {}
    if options.text("health-cmd"):
        health["Test"] = ["CMD-SHELL", options.text("health-cmd")]
    for name, key in zip(
        HEALTH_FLAGS[1:], ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"), strict=True
    ):
        if options.number(name):
            health[key] = options.number(name)
    return health


def _host_config(options: Options) -> dict[str, Any]:
    if not -1 <= options.number("memory-swappiness") <= 100:
        raise ValueError(
            f"invalid value: {options.number('memory-swappiness')}. Valid memory swappiness range is 0-100"
        )
    for flag, kind in (("pid", "PID"), ("uts", "UTS"), ("userns", "USER"), ("cgroupns", "CGROUP")):
        _check_mode(flag, kind, options.text(flag))
    add, drop = _capabilities(options.many("cap-add"), options.many("cap-drop"))
    devices, requests = _devices(options.many("device"))
    swappiness = options.number("memory-swappiness")
    host: dict[str, Any] = {
        "ContainerIDFile": options.text("cidfile"),
        "LogConfig": _log_config(options),
        "RestartPolicy": restart_policy(options.text("restart")),
        "AutoRemove": options.on("rm"),
        "VolumeDriver": options.text("volume-driver"),
        "VolumesFrom": options.many("volumes-from"),
        "Annotations": _mapping(options.many("annotation")),
        "CapAdd": add,
        "CapDrop": drop,
        "CgroupnsMode": options.text("cgroupns"),
        "Dns": options.many("dns"),
        "DnsOptions": options.many("dns-option"),
        "DnsSearch": ["" if name == "." else name for name in options.many("dns-search")],
        "ExtraHosts": options.many("add-host"),
        "GroupAdd": options.many("group-add"),
        "IpcMode": options.text("ipc"),
        "Links": options.many("link"),
        "OomScoreAdj": options.number("oom-score-adj"),
        "PidMode": options.text("pid"),
        "Privileged": options.on("privileged"),
        "PublishAllPorts": options.on("publish-all"),
        "ReadonlyRootfs": options.on("read-only"),
        "StorageOpt": _storage_options(options.many("storage-opt")),
        "Tmpfs": _mapping(options.many("tmpfs"), ":"),
        "UTSMode": options.text("uts"),
        "UsernsMode": options.text("userns"),
        "ShmSize": options.number("shm-size"),
        "Sysctls": _mapping(options.many("sysctl")),
        "Runtime": options.text("runtime"),
        "Isolation": options.text("isolation"),
        "CpuShares": options.number("cpu-shares"),
        "Memory": options.number("memory"),
        "NanoCpus": options.number("cpus"),
        "CgroupParent": options.text("cgroup-parent"),
        "BlkioWeight": options.number("blkio-weight"),
        "BlkioWeightDevice": options.many("blkio-weight-device"),
        "BlkioDeviceReadBps": options.many("device-read-bps"),
        "BlkioDeviceWriteBps": options.many("device-write-bps"),
        "BlkioDeviceReadIOps": options.many("device-read-iops"),
        "BlkioDeviceWriteIOps": options.many("device-write-iops"),
        "CpuPeriod": options.number("cpu-period"),
        "CpuQuota": options.number("cpu-quota"),
        "CpuRealtimePeriod": options.number("cpu-rt-period"),
        "CpuRealtimeRuntime": options.number("cpu-rt-runtime"),
        "CpusetCpus": options.text("cpuset-cpus"),
        "CpusetMems": options.text("cpuset-mems"),
        "Devices": devices,
        "DeviceCgroupRules": _device_rules(options.many("device-cgroup-rule")),
        "DeviceRequests": requests + options.many("gpus"),
        "KernelMemory": options.number("kernel-memory"),
        "MemoryReservation": options.number("memory-reservation"),
        "MemorySwap": options.number("memory-swap"),
        "OomKillDisable": options.on("oom-kill-disable"),
        "PidsLimit": options.number("pids-limit"),
        "Ulimits": _by_name(options.many("ulimit")),
        "Mounts": options.many("mount"),
    }
    if swappiness > 0:  # docker sends -1 for "not said", and cannot say 0 apart from it here
        host["MemorySwappiness"] = swappiness
    return host


def _by_name(limits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One of each name, the last one given, in alphabetical order."""
    table = {limit["Name"]: limit for limit in limits}
    return [table[name] for name in sorted(table)]


def _check_mode(flag: str, kind: str, value: str) -> None:
    allowed = {
        "pid": ("", "host"),
        "uts": ("", "host"),
        "userns": ("", "host"),
        "cgroupns": ("", "host", "private"),
    }
    if value in allowed[flag] or (flag == "pid" and value.startswith("container:") and len(value) > 10):
        return
    raise ValueError(f"--{flag}: invalid {kind} mode")


def _mapping(texts: list[str], mark: str = "=") -> dict[str, str]:
    table: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition(mark)
        table[name] = value
    return table


def _log_config(options: Options) -> dict[str, Any]:
    driver = options.text("log-driver")
    if driver == "none" and options.many("log-opt"):
        raise ValueError("invalid logging opts for driver none")
    config: dict[str, Any] = {}
    if driver:
        config["Type"] = driver
    if options.many("log-opt"):
        config["Config"] = _mapping(options.many("log-opt"))
    return config


def _storage_options(texts: list[str]) -> dict[str, str]:
    if not all("=" in text for text in texts):
        raise ValueError("invalid storage option")
    return _mapping(texts)


def restart_policy(text: str) -> dict[str, Any]:
    if not text or text == "no":
        return {}
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    policy: dict[str, Any] = {"Name": name}
    if colon:
        try:
            policy["MaximumRetryCount"] = int(count)
        except ValueError:
            raise ValueError(
                "invalid restart policy format: maximum retry count must be an integer"
            ) from None
    return policy


def _capability(text: str) -> str:
    name = text.strip().upper()
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def _capabilities(add: list[str], drop: list[str]) -> tuple[list[str], list[str]]:
    adding = {_capability(text) for text in add}
    dropping = {_capability(text) for text in drop}
    if "ALL" in adding:
        adding = {"ALL"}
    if "ALL" in dropping:
        dropping = {"ALL"}
    return sorted(adding), sorted(dropping - (adding - {"ALL"}))


def _devices(texts: list[str]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    devices: list[dict[str, str]] = []
    names: list[str] = []
    for text in texts:
        if not text.startswith("/") and "=" in text and "/" in text.partition("=")[0]:
            names.append(text)  # a name of the Container Device Interface: vendor.com/class=device
            continue
        parts = text.split(":")
        if len(parts) > 3 or not parts[0]:
            raise ValueError(f"bad format for path: {text}")
        source, target, letters = parts[0], parts[0], "rwm"
        if len(parts) == 2 and _are_permissions(parts[1]):
            letters = parts[1]
        elif len(parts) >= 2:
            target = parts[1]
        if len(parts) == 3:
            letters = parts[2]
        if not _are_permissions(letters):
            raise ValueError(f"bad mode specified: {letters}")
        if not target.startswith("/"):
            raise ValueError(f"{target} is not an absolute path")
        devices.append({"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": letters})
    requests: list[dict[str, Any]] = []
    if names:
        requests.append({"Driver": "cdi", "DeviceIDs": names})
    return devices, requests


def _are_permissions(text: str) -> bool:
    return bool(text) and set(text) <= DEVICE_LETTERS and len(set(text)) == len(text)


def _device_rules(rules: list[str]) -> list[str]:
    for rule in rules:
        parts = rule.split(" ")
        numbers = parts[1].split(":") if len(parts) == 3 else []
        if (
            len(numbers) != 2
            or parts[0] not in ("a", "b", "c")
            or not all(number == "*" or number.isdigit() for number in numbers)
            or not 1 <= len(parts[2]) <= 3
            or not set(parts[2]) <= DEVICE_LETTERS
        ):
            raise ValueError(f"invalid device cgroup format '{rule}'")
    return rules


def _security(texts: list[str]) -> tuple[bool, list[str]]:
    """Whether system paths stay unmasked, and the options; a seccomp profile's file is sent, not its name."""
    bare = False
    options: list[str] = []
    for text in texts:
        if text == "systempaths=unconfined":
            bare = True
            continue
        name, equals, value = text.partition("=")
        if not equals and text != "no-new-privileges":
            name, equals, value = text.partition(":")
            if not equals:
                raise ValueError(f"invalid --security-opt: {text!r}".replace("'", '"'))
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            from wherry.client import jsontext

            try:
                with open(value, encoding="utf-8") as file:
                    profile = jsontext.dumps(jsontext.loads(file.read()))
            except OSError as exc:
                raise ValueError(
                    f"opening seccomp profile ({value}) failed: open {value}: "
                    f"{os.strerror(exc.errno or 0).lower()}"
                ) from None
            except ValueError as exc:
                raise ValueError(f"compacting json for seccomp profile ({value}) failed: {exc}") from None
            text = f"seccomp={profile}"
        options.append(text)
    return bare, options


def _ports(options: Options) -> tuple[list[str], dict[str, list[dict[str, str]]]]:
    exposed: dict[str, None] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in options.many("publish"):
        for port, address, host in networks.read_publish(text):
            exposed[port] = None
            bindings.setdefault(port, []).append({"HostIp": address, "HostPort": host})
    for text in options.many("expose"):
        for port in networks.read_expose(text):
            exposed[port] = None
    return list(exposed), bindings


def _networks(options: Options) -> tuple[str, dict[str, Any]]:
    """The network mode, and the endpoints that say more than a name."""
    chosen = options.many("network") or [networks.read_network("default")]
    endpoints: dict[str, Any] = {}
    for index, network in enumerate(chosen):
        name = network["name"]
        if not name:
            raise ValueError("no name set for network")
        endpoint: dict[str, Any] = {}
        if index == 0:
            _join_flags(options, network)
        if network["aliases"]:
            if not networks.is_user_defined(name):
                raise ValueError("network-scoped aliases are only supported for user-defined networks")
            endpoint["Aliases"] = network["aliases"]
        addresses = {
            "IPv4Address": network["ip"],
            "IPv6Address": network["ip6"],
            "LinkLocalIPs": network["link_local"],
        }
        addresses = {key: value for key, value in addresses.items() if value}
        if addresses:
            endpoint["IPAMConfig"] = addresses
        if network["mac"]:
            endpoint["MacAddress"] = network["mac"]
        if network["driver_opts"]:
            endpoint["DriverOpts"] = network["driver_opts"]
        if network["priority"]:
            endpoint["GwPriority"] = network["priority"]
        if index == 0 and networks.is_user_defined(name) and options.many("link"):
            endpoint["Links"] = options.many("link")
        if name in endpoints:
            raise ValueError(f"network {name!r} is specified multiple times".replace("'", '"'))
        if endpoint or networks.is_user_defined(name):
            endpoints[name] = endpoint
    if len({networks.is_user_defined(network["name"]) for network in chosen}) > 1:
        raise ValueError(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    return chosen[0]["name"], endpoints


def _join_flags(options: Options, network: dict[str, Any]) -> None:
    """`--ip` and its like say something about the first network."""
    for flag, key in (("ip", "ip"), ("ip6", "ip6"), ("mac-address", "mac")):
        if options.text(flag):
            if network[key]:
                raise ValueError(f"conflicting options: cannot specify both --{flag} and per-network {flag}")
            network[key] = options.text(flag)
    mac = network["mac"]
    if mac:
        pairs = mac.replace("-", ":").split(":")
        if len(pairs) not in (6, 8, 20) or not all(
            len(p) == 2 and set(p.lower()) <= set("0123456789abcdef") for p in pairs
        ):
            raise ValueError(f"{mac} is not a valid mac address")
    network["aliases"] = network["aliases"] + options.many("network-alias")
    network["link_local"] = network["link_local"] + options.many("link-local-ip")
