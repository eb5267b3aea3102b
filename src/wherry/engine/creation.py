"""What a container will be, decided from the request, the image and the engine's settings. No I/O.

`plan_container` refuses what Docker refuses, with its texts, and fills in what Docker fills in, so that `inspect`
shows a client the values it expects.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from wherry.engine import confinement
from wherry.engine.etc_files import HOST_GATEWAY
from wherry.engine.mounts import MountsOf, mounts_for
from wherry.engine.propagation import with_data_root
from wherry.engine.records import ContainerRecord
from wherry.engine.settings import BUILT_IN_RUNTIME, EngineSettings
from wherry.errors import InvalidParameter
from wherry.model.containers import (
    ContainerConfig,
    ContainerCreate,
    EndpointIPAMConfig,
    EndpointSettings,
    HealthConfig,
    HostConfig,
    LogConfig,
    Resources,
    RestartPolicy,
)
from wherry.network.driver import EndpointRequest, NetworkConfig
from wherry.network.ports import PortSpec, parse_port, specs_for
from wherry.network.requests import check_request

MINIMUM_MEMORY = 6 << 20
MAX_HOSTNAME = 64  # sethostname(2)
_RESTART_POLICIES = ("no", "always", "unless-stopped", "on-failure")
_CPU_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
MAX_ENVIRONMENT = 2 << 20
"""Bytes of environment and arguments together: what execve takes under the usual stack limit."""


class ImageDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What an image brings to a container: the part of its config that `plan_container` reads."""

    id: str
    chain_ids: tuple[str, ...]
    user: str = ""
    exposed_ports: Mapping[str, dict[str, object]] = {}
    env: Sequence[str] = ()
    entrypoint: Sequence[str] | None = None
    cmd: Sequence[str] | None = None
    volumes: Mapping[str, dict[str, object]] = {}
    working_dir: str = ""
    labels: Mapping[str, str] = {}
    stop_signal: str = ""
    shell: Sequence[str] = ()
    healthcheck: HealthConfig | None = None
    on_build: Sequence[str] | None = None


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision needs to know of this machine."""

    cpus: int
    cgroup_version: int
    hostname: str
    bounding: frozenset[str]
    snapshot_driver: str


def plan_container(
    body: ContainerCreate,
    image: ImageDefaults | None,
    *,
    container_id: str,
    name: str,
    created_ns: int,
    settings: EngineSettings,
    facts: HostFacts,
    mounts_of: MountsOf | None = None,
) -> ContainerRecord:
    """The record of the container that `body` asks for. Raises InvalidParameter with Docker's text."""
    host = body.host_config or HostConfig()
    config = _merge_config(body, image)
    _check_config(config)
    entrypoint = list(config.entrypoint) if isinstance(config.entrypoint, list) else []
    command = [*entrypoint, *(config.cmd or ())]
    if not command:
        raise InvalidParameter("no command specified")
    if config.hostname and host.uts_mode == "host":
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    _check_host(host, facts)
    _check_network_mode(body, host)
    _check_health(config)
    check_resources(host, facts)
    mounts = with_data_root(mounts_for(host, config.volumes or (), mounts_of=mounts_of), settings.data_root)
    _fill_host(host, settings, facts)
    confinement.capabilities_for(
        host.cap_add or [], host.cap_drop or [], privileged=host.privileged, bounding=facts.bounding
    )
    if not config.hostname:
        config.hostname = facts.hostname if host.network_mode == "host" else container_id[:12]
        if host.uts_mode == "host":
            config.hostname = facts.hostname
    asked = (body.networking_config and body.networking_config.endpoints_config) or {}
    given = {host.network_mode if name == "default" else name: asked[name] for name in asked}
    endpoints = {host.network_mode: given.get(host.network_mode, EndpointSettings()), **given}
    return ContainerRecord(
        id=container_id,
        name=name,
        created_ns=created_ns,
        image_id=image.id if image else "",
        image_reference=body.image,
        chain_ids=image.chain_ids if image else (),
        config=config,
        host=host,
        endpoints=endpoints,
        mounts=mounts,
        snapshot_driver=facts.snapshot_driver,
        path=command[0],
        args=tuple(command[1:]),
    )


def endpoint_requests(record: ContainerRecord) -> list[EndpointRequest]:
    """What the container asks of each of its networks, in the order of `record.endpoints`."""
    return [endpoint_request(name, asked) for name, asked in record.endpoints.items()]


def port_specs(record: ContainerRecord) -> list[PortSpec]:
    """The ports that the container is to have on the host. None where it has no network of its own."""
    host, exposed = record.host, record.config.exposed_ports
    if host.network_mode == "host" or host.network_mode.startswith("container:"):
        return []
    return _port_specs(host, () if isinstance(exposed, UnsetType) else exposed)


def _port_specs(host: HostConfig, exposed: Iterable[str]) -> list[PortSpec]:
    bindings = {
        port: [(binding.host_ip, binding.host_port) for binding in asked or ()]
        for port, asked in (host.port_bindings or {}).items()
    }
    return specs_for(bindings, exposed, publish_all=host.publish_all_ports)


def endpoint_request(network: str, asked: EndpointSettings) -> EndpointRequest:
    addresses = asked.ipam_config or EndpointIPAMConfig()
    return EndpointRequest(
        network=network,
        address=addresses.ipv4_address or "",
        address6=addresses.ipv6_address or "",
        mac=asked.mac_address,
        interface=(asked.driver_opts or {}).get("com.docker.network.endpoint.ifname", ""),
        link_local=tuple(addresses.link_local_ips or ()),
        priority=asked.gw_priority,
        aliases=tuple(asked.aliases or ()),
    )


def check_endpoints(
    endpoints: Mapping[str, EndpointSettings],
    find_network: Callable[[str], NetworkConfig | None],
    *,
    is_new: bool = False,
) -> None:
    """Refuse what a network cannot give, with Docker's texts; `is_new`: as it says it when a container is made."""
    for name, asked in endpoints.items():
        network = find_network(name)
        try:
            check_request(
                network.name if network is not None else name, endpoint_request(name, asked), network
            )
        except InvalidParameter as exc:
            if not is_new:
                raise
            raise InvalidParameter(f"invalid config for network {name}: {exc}") from exc


def check_combination(host: HostConfig, endpoints: Mapping[str, EndpointSettings]) -> None:
    """Networks that cannot be together on one container. Docker's texts."""
    if len(endpoints) < 2:
        return
    if host.network_mode.startswith("container:") or "host" in endpoints:
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be connected to any other"
            " network"
        )
    if "none" in endpoints:
        raise InvalidParameter(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )


def _check_network_mode(config: ContainerConfig, host: HostConfig) -> None:
    """Options that mean nothing in a namespace that is not the container's own. Docker's texts."""
    mode = host.network_mode
    if mode == "host" and host.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links. This would result in undefined"
            " behavior"
        )
    if not mode.startswith("container:"):
        return
    if not mode.removeprefix("container:"):
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
    conflicts = {
        "hostname and the network mode": config.hostname,
        "container type network can't be used with links. This would result in undefined behavior": host.links,
        "dns and the network mode": host.dns,
        "custom host-to-IP mapping and the network mode": host.extra_hosts,
        "port publishing and the container type network mode": host.port_bindings or host.publish_all_ports,
        "port exposing and the container type network mode": config.exposed_ports,
    }
    for text, is_given in conflicts.items():
        if is_given:
            raise InvalidParameter(f"conflicting options: {text}")


def _merge_config(body: ContainerCreate, image: ImageDefaults | None) -> ContainerConfig:
    """The request's config, completed by the image's as Docker completes it."""
    fields = {f: getattr(body, f) for f in ContainerConfig.__struct_fields__}
    config = ContainerConfig(**fields)
    if isinstance(config.entrypoint, str):
        config.entrypoint = [config.entrypoint]
    if isinstance(config.cmd, str):
        config.cmd = [config.cmd]
    if image:
        config.user = config.user or image.user
        if image.exposed_ports:
            config.exposed_ports = {**image.exposed_ports, **(config.exposed_ports or {})}
        config.env = _merge_env(image.env, config.env or [])
        if not config.entrypoint:
            if not config.cmd:
                config.cmd = list(image.cmd) if image.cmd else config.cmd
            if config.entrypoint is None:
                config.entrypoint = list(image.entrypoint) if image.entrypoint else None
        if image.volumes:
            config.volumes = {**image.volumes, **(config.volumes or {})}
        config.working_dir = config.working_dir or image.working_dir
        config.labels = {**image.labels, **(config.labels or {})}
        if config.stop_signal is UNSET and image.stop_signal:
            config.stop_signal = image.stop_signal
        if config.shell is UNSET and image.shell:
            config.shell = list(image.shell)
        if config.healthcheck is UNSET and image.healthcheck:
            config.healthcheck = image.healthcheck
        if config.on_build is None and image.on_build:
            config.on_build = list(image.on_build)
    if config.entrypoint == [""]:  # `--entrypoint ""` takes the image's away
        config.entrypoint = None
    if config.labels is None:
        config.labels = {}
    return config


def _merge_env(image_env: Sequence[str], env: list[str]) -> list[str]:
    names = {entry.partition("=")[0] for entry in env}
    return [entry for entry in image_env if entry.partition("=")[0] not in names] + env


def _check_config(config: ContainerConfig) -> None:
    if config.working_dir:
        if not config.working_dir.startswith("/"):
            raise InvalidParameter(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
            )
        config.working_dir = "/" + os.path.normpath(config.working_dir).lstrip("/")
    for entry in config.env or ():
        if entry.startswith("=") or not entry:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    for text in (
        *(config.env or ()),
        *(config.cmd or ()),
        *(config.entrypoint or ()),
        config.user,
        config.working_dir,
    ):
        if "\0" in text:
            raise InvalidParameter(f"invalid value {text!r}: it holds a NUL byte")
    total = sum(
        len(text.encode("utf-8", "surrogatepass")) for text in (*(config.env or ()), *(config.cmd or ()))
    )
    if total > MAX_ENVIRONMENT:
        raise InvalidParameter(f"environment and command take {total} bytes: at most {MAX_ENVIRONMENT} fit")
    for name in (config.hostname, config.domainname):
        if len(name.encode("utf-8", "surrogatepass")) > MAX_HOSTNAME or "\0" in name or "\n" in name:
            raise InvalidParameter(f"invalid hostname {name!r}: at most {MAX_HOSTNAME} bytes on one line fit")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if not isinstance(config.stop_timeout, UnsetType) and config.stop_timeout < -1:
        raise InvalidParameter(f"invalid stop timeout {config.stop_timeout}: use -1 (wait for ever) or more")
    if not isinstance(config.exposed_ports, UnsetType):
        for port in config.exposed_ports:
            parse_port(port)


def _check_health(config: ContainerConfig) -> None:
    check = config.healthcheck
    if isinstance(check, UnsetType):
        return
    for name, value in (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ):
        if value and value < 1_000_000:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


def parse_signal(text: str) -> int:
    """A signal's number from `9`, `KILL`, `SIGKILL` or `RTMIN+3`."""
    if text.isdigit():
        number = int(text)
        if 1 <= number <= 64:
            return number
        if number == 0:
            raise InvalidParameter(f"invalid signal: {text}")
        raise InvalidParameter(f"the linux daemon does not support signal {number}")
    name = text.upper().removeprefix("SIG")
    realtime = re.fullmatch(r"RTMIN(?:\+(\d+))?|RTMAX(?:-(\d+))?", name)
    if realtime:
        up, down = realtime.groups()
        number = 34 + int(up or 0) if name.startswith("RTMIN") else 64 - int(down or 0)
        if 34 <= number <= 64:
            return number
    found = getattr(signal, f"SIG{name}", None)
    if name.startswith("_") or not isinstance(found, signal.Signals):
        raise InvalidParameter(f"invalid signal: {text}")
    return int(found)


def _check_host(host: HostConfig, facts: HostFacts) -> None:
    check_restart_policy(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    _port_specs(host, ())
    if host.network_mode.startswith("container:") and (host.port_bindings or host.publish_all_ports):
        raise InvalidParameter("conflicting options: port publishing and the container type network mode")
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    _check_mode("PID", host.pid_mode, ("", "host"))
    _check_mode("IPC", host.ipc_mode, ("", "host", "none", "private", "shareable"))
    _check_mode("UTS", host.uts_mode, ("", "host"), joins=False)
    _check_mode("cgroup namespace", host.cgroupns_mode, ("", "host", "private"), joins=False)
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"invalid user namespace mode: {host.userns_mode}")
    if host.storage_opt:
        raise InvalidParameter(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
        )
    _check_names(host)
    if host.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation ({host.isolation}): linux only supports 'default'")
    if host.cgroup_parent and ".." in host.cgroup_parent.split("/"):
        raise InvalidParameter(f"invalid cgroup parent {host.cgroup_parent!r}: it must not hold '..'")


def _check_names(host: HostConfig) -> None:
    """What goes into /etc/hosts and /etc/resolv.conf."""
    for extra in host.extra_hosts or ():
        name, _, address = extra.partition("=") if "=" in extra else extra.partition(":")
        if not name or not address or name.split() != [name]:
            raise InvalidParameter(f'bad format for add-host: "{extra}"')
        if address != HOST_GATEWAY and not is_address(address.strip("[]")):
            raise InvalidParameter(f'invalid IP address in add-host: "{address}"')
    for server in host.dns or ():
        if not is_address(server):
            raise InvalidParameter(f"bad nameserver address: {server}")
    for what, texts in (("DNS search domain", host.dns_search), ("DNS option", host.dns_options)):
        for text in texts or ():
            if text.split() != [text]:
                raise InvalidParameter(f"invalid {what} {text!r}: it is one word")


def is_address(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_mode(what: str, mode: str, plain: tuple[str, ...], *, joins: bool = True) -> None:
    if mode in plain or (joins and mode.startswith("container:") and len(mode) > len("container:")):
        return
    raise InvalidParameter(f"invalid {what} mode: {mode}")


def check_restart_policy(policy: RestartPolicy) -> None:
    """Refuse what is no policy. Docker's texts."""
    if not policy.name:
        return  # clients of old send any count with it
    if policy.name not in _RESTART_POLICIES:
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', or "
            "'unless-stopped'"
        )
    count = policy.maximum_retry_count
    if policy.name == "on-failure" and count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if policy.name != "on-failure" and count:
        text = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        raise InvalidParameter(f"{text} and cannot be negative" if count < 0 else text)


def check_resources(limits: Resources, facts: HostFacts) -> None:
    """Refuse limits that contradict each other or this machine, with Docker's texts."""
    if limits.memory and limits.memory < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if limits.memory > 0 and limits.memory_swap > 0 and limits.memory_swap < limits.memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if limits.memory == 0 and limits.memory_swap > 0:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if limits.memory_swap < -1:
        raise InvalidParameter(f"invalid memory swap limit {limits.memory_swap}: use -1 (unlimited) or more")
    if limits.memory_swappiness is not None and not -1 <= limits.memory_swappiness <= 100:
        raise InvalidParameter(
            f"Invalid value: {limits.memory_swappiness}, valid memory swappiness range is 0-100"
        )
    if limits.memory_reservation and limits.memory_reservation < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < limits.memory < limits.memory_reservation:
        raise InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    if limits.nano_cpus and limits.cpu_period:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if limits.nano_cpus and limits.cpu_quota:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if limits.nano_cpus < 0 or limits.nano_cpus > facts.cpus * 1_000_000_000:
        raise InvalidParameter(
            f"range of CPUs is from 0.01 to {facts.cpus}.00, as there are only {facts.cpus} CPUs available"
        )
    if limits.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares ({limits.cpu_shares}): value must be a positive integer")
    if limits.cpu_period and not 1000 <= limits.cpu_period <= 1_000_000:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < limits.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    _check_cpu_list("cpuset cpus", "CPUs", limits.cpuset_cpus, facts.cpus)
    if limits.cpuset_mems and not _CPU_LIST.fullmatch(limits.cpuset_mems):
        raise InvalidParameter(
            f"Invalid value {limits.cpuset_mems} for cpuset mems: invalid format: {limits.cpuset_mems}"
        )
    if limits.blkio_weight and not 10 <= limits.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    for ulimit in limits.ulimits or ():
        if ulimit.hard != -1 and (ulimit.soft == -1 or ulimit.soft > ulimit.hard):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
            )
        if f"RLIMIT_{ulimit.name.upper()}" not in confinement.RLIMITS:
            raise InvalidParameter(f"invalid ulimit type: {ulimit.name}")
    for device in limits.devices or ():
        if set(device.cgroup_permissions or "rwm") - set("rwm"):
            raise InvalidParameter(
                f"invalid device cgroup permissions {device.cgroup_permissions!r}: use of r, w, m"
            )
    for rule in limits.device_cgroup_rules or ():
        if not re.fullmatch(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}", rule):
            raise InvalidParameter(f"invalid device cgroup rule format: '{rule}'")


def _check_cpu_list(what: str, unit: str, text: str, available: int) -> None:
    if not text:
        return
    if not _CPU_LIST.fullmatch(text) or len(text) > 4096:
        raise InvalidParameter(f"Invalid value {text} for {what}: invalid format: {text}")
    highest = max(int(number) for number in re.findall(r"\d+", text))
    if highest >= available:
        raise InvalidParameter(
            f"Requested {unit} are not available - requested {text}, available: 0-{available - 1}"
            if available > 1
            else f"Requested {unit} are not available - requested {text}, available: 0"
        )


def _fill_host(host: HostConfig, settings: EngineSettings, facts: HostFacts) -> None:
    """The values Docker shows in `inspect` where the client gave none."""
    host.network_mode = "bridge" if host.network_mode in ("", "default") else host.network_mode
    host.shm_size = host.shm_size or settings.default_shm_size
    host.ipc_mode = host.ipc_mode or "private"
    host.cgroupns_mode = host.cgroupns_mode or ("private" if facts.cgroup_version == 2 else "host")
    host.restart_policy.name = host.restart_policy.name or "no"
    host.runtime = host.runtime or settings.default_runtime
    if host.runtime != BUILT_IN_RUNTIME and host.runtime not in settings.runtimes:
        raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
    if not host.log_config.type:
        host.log_config = LogConfig(type=settings.log_driver, config=host.log_config.config)
    if host.log_config.type == settings.log_driver:
        host.log_config.config = {**settings.log_opts, **(host.log_config.config or {})}
    host.log_config.config = host.log_config.config or {}
    unconfined = host.privileged or "systempaths=unconfined" in (host.security_opt or ())
    if host.masked_paths is None:
        host.masked_paths = [] if unconfined else confinement.masked_paths(facts.cpus)
    if host.readonly_paths is None:
        host.readonly_paths = [] if unconfined else list(confinement.READONLY_PATHS)
    host.port_bindings = host.port_bindings or {}
    host.dns = host.dns or []
    host.dns_options = host.dns_options or []
    host.dns_search = host.dns_search or []
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None
    if host.oom_kill_disable is None and facts.cgroup_version == 1:
        host.oom_kill_disable = False
    if host.memory > 0 and host.memory_swap == 0:
        host.memory_swap = host.memory * 2
    if isinstance(host.init, UnsetType) and settings.init:
        host.init = True
