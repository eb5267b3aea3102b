"""Containers as clients see them: `inspect` and the rows of `ps`. Plain functions over records and states."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

import msgspec
from msgspec import UNSET

from wherry.engine.creation import port_specs
from wherry.engine.naming import dns_names
from wherry.engine.records import Container, MountSpec
from wherry.engine.times import ago, rfc3339
from wherry.errors import InvalidParameter
from wherry.model.containers import (
    ContainerInspect,
    ContainerSummary,
    EndpointSettings,
    GraphDriverData,
    MountPoint,
    NetworkSettings,
    Port,
    PortBinding,
    State,
    SummaryHostConfig,
    SummaryNetworkSettings,
)
from wherry.network.creation import PREDEFINED
from wherry.network.ports import parse_port, parse_port_range

Filters = Mapping[str, list[str]]


def status_text(container: Container, now_ns: int) -> str:
    """The STATUS column of `docker ps`."""
    state = container.state
    if state.status in ("running", "paused"):
        up = f"Up {ago((now_ns - state.started_ns) / 1e9)}"
        return f"{up} (Paused)" if state.status == "paused" else up
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {ago((now_ns - state.finished_ns) / 1e9)} ago"
    if state.status == "removing":
        return "Removal In Progress"
    if state.status == "dead":
        return "Dead"
    if state.started_ns == 0:
        return "Created"
    if state.finished_ns == 0:
        return ""
    return f"Exited ({state.exit_code}) {ago((now_ns - state.finished_ns) / 1e9)} ago"


def mount_point(mount: MountSpec) -> MountPoint:
    return MountPoint(
        type=mount.type,
        name=mount.name or UNSET,
        driver=mount.driver or UNSET,
        source=mount.source,
        destination=mount.target,
        mode=mount.mode,
        rw=not mount.read_only,
        propagation=mount.propagation,
    )


def _mount_points(container: Container) -> list[MountPoint]:
    """Docker lists binds, volumes, and tmpfs mounts made by `--mount`, but not those of `--tmpfs`."""
    return [mount_point(m) for m in container.record.mounts if m.type != "tmpfs" or m.is_mount_api]


def endpoint_settings(container: Container) -> dict[str, EndpointSettings]:
    """The container's networks, with its addresses while it has some."""
    shown: dict[str, EndpointSettings] = {}
    for name, asked in container.record.endpoints.items():
        if name.startswith("container:"):
            continue
        settings = EndpointSettings(
            ipam_config=asked.ipam_config,
            links=asked.links,
            aliases=asked.aliases,
            driver_opts=asked.driver_opts,
            gw_priority=asked.gw_priority,
        )
        if container.state.started_ns and name not in PREDEFINED:
            settings.dns_names = dns_names(container, name)
        endpoint = container.state.endpoints.get(name)
        if endpoint is not None and container.state.is_running:
            settings.network_id = endpoint.network_id
            settings.endpoint_id = endpoint.id
            settings.gateway = endpoint.gateway
            settings.ip_address = endpoint.address
            settings.ip_prefix_len = endpoint.prefix_length
            settings.ipv6_gateway = endpoint.gateway6
            settings.global_ipv6_address = endpoint.address6
            settings.global_ipv6_prefix_len = endpoint.prefix_length6
            settings.mac_address = endpoint.mac
        shown[name] = settings
    return shown


def inspect(
    container: Container,
    *,
    paths: Mapping[str, str],
    graph_data: Mapping[str, str],
    links: list[str] | None = None,
    size_rw: int | None = None,
    size_root_fs: int | None = None,
) -> ContainerInspect:
    """`docker inspect` of one container. `paths` has hosts, hostname, resolv_conf and log."""
    record, state = container.record, container.state
    networks = endpoint_settings(container)
    settings = NetworkSettings(networks=networks)
    if state.is_running and not record.host.network_mode.startswith("container:"):
        settings.sandbox_id = record.id
        settings.sandbox_key = f"/proc/{state.pid}/ns/net"
    bridge = networks.get("bridge")
    if (
        bridge is not None
    ):  # the fields older clients read, filled as Docker does for its default network only
        settings.endpoint_id = bridge.endpoint_id
        settings.gateway = bridge.gateway
        settings.ip_address = bridge.ip_address
        settings.ip_prefix_len = bridge.ip_prefix_len
        settings.ipv6_gateway = bridge.ipv6_gateway
        settings.global_ipv6_address = bridge.global_ipv6_address
        settings.global_ipv6_prefix_len = bridge.global_ipv6_prefix_len
        settings.mac_address = bridge.mac_address
    settings.ports = port_map(container)
    view = ContainerInspect(
        id=record.id,
        created=rfc3339(record.created_ns),
        path=record.path,
        args=list(record.args),
        state=State(
            status=state.status,
            running=state.is_active,
            paused=state.status == "paused",
            restarting=state.status == "restarting",
            oom_killed=state.oom_killed,
            dead=state.status == "dead",
            pid=state.pid if state.is_running else 0,
            exit_code=state.exit_code,
            error=state.error,
            started_at=rfc3339(state.started_ns),
            finished_at=rfc3339(state.finished_ns),
        ),
        image=record.image_id,
        resolv_conf_path=paths["resolv_conf"] if state.started_ns else "",
        hostname_path=paths["hostname"] if state.started_ns else "",
        hosts_path=paths["hosts"] if state.started_ns else "",
        log_path=paths["log"] if state.started_ns and record.host.log_config.type == "json-file" else "",
        name="/" + record.name,
        restart_count=state.restart_count,
        driver=record.snapshot_driver,
        platform=record.platform,
        mount_label="",
        process_label="",
        app_armor_profile="",
        exec_ids=[e for e, it in container.execs.items() if it.is_running] or None,
        host_config=msgspec.structs.replace(record.host, links=links),
        graph_driver=GraphDriverData(data=dict(graph_data), name=record.snapshot_driver),
        mounts=_mount_points(container),
        config=record.config,
        network_settings=settings,
    )
    if size_rw is not None:
        view.size_rw = size_rw
    if size_root_fs is not None:
        view.size_root_fs = size_root_fs
    return view


def summary(container: Container, *, image: str, now_ns: int) -> ContainerSummary:
    """One row of `docker ps`. `image` is the reference as given, or the image's ID once that names another."""
    record, state = container.record, container.state
    row = ContainerSummary(
        id=record.id,
        names=["/" + record.name],
        image=image,
        image_id=record.image_id,
        command=" ".join([record.path, *(f"'{arg}'" if " " in arg else arg for arg in record.args)]),
        created=record.created_ns // 1_000_000_000,
        ports=_ports(container),
        labels=record.config.labels or {},
        state=state.status,
        status=status_text(container, now_ns),
        host_config=SummaryHostConfig(network_mode=record.host.network_mode),
        network_settings=SummaryNetworkSettings(networks=endpoint_settings(container)),
        mounts=_mount_points(container),
    )
    if record.host.annotations is not UNSET:
        row.host_config.annotations = record.host.annotations
    return row


def port_map(container: Container) -> dict[str, list[PortBinding] | None]:
    """`NetworkSettings.Ports`: each exposed port, with where it is published."""
    if not container.state.is_running:
        return {}
    exposed = container.record.config.exposed_ports
    shown: dict[str, list[PortBinding] | None] = {} if exposed is UNSET else dict.fromkeys(exposed)
    for port in container.state.ports:
        bindings = shown.get(f"{port.container_port}/{port.protocol}") or []
        bindings.append(PortBinding(host_ip=port.host_ip, host_port=str(port.host_port)))
        shown[f"{port.container_port}/{port.protocol}"] = bindings
    return shown


def _ports(container: Container) -> list[Port]:
    """The PORTS column."""
    rows: list[tuple[int, str, str, int]] = []
    for port, bindings in port_map(container).items():
        number, protocol = parse_port(port)
        if not bindings:
            rows.append((number, protocol, "", 0))
        rows += [(number, protocol, b.host_ip, int(b.host_port)) for b in bindings or ()]
    return [
        Port(ip=ip or UNSET, private_port=number, public_port=public or UNSET, type=protocol)
        for number, protocol, ip, public in sorted(rows)
    ]


STATUSES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
"""What can make Python's matcher take for ever, where Go's does not."""
KNOWN_FILTERS = frozenset(
    "ancestor before exited expose health id is-task isolation label name network publish since status volume".split()
)


def check_filters(filters: Filters, known: frozenset[str]) -> None:
    """Refuse a key nobody knows, with Docker's text."""
    for key in filters:
        if key not in known:
            raise InvalidParameter(f"invalid filter '{key}'")


def label_matches(labels: Mapping[str, str], wanted: list[str]) -> bool:
    """Whether every `key` or `key=value` of `wanted` is there."""
    for label in wanted:
        key, has_value, value = label.partition("=")
        if key not in labels or (has_value and labels[key] != value):
            return False
    return True


def container_filter(
    filters: Filters, *, find: Callable[[str], Container], ancestors: set[str]
) -> Callable[[Container], bool]:
    """Docker's rules for `ps --filter`: keys are ANDed, values of a key ORed (labels ANDed).

    `find` resolves the container of `before` and `since`; `ancestors` are the image IDs that `ancestor` allows.
    Raises InvalidParameter for a bad key or value.
    """
    check_filters(filters, KNOWN_FILTERS)
    for status in filters.get("status", ()):
        if status not in STATUSES:
            raise InvalidParameter(
                f"invalid filter 'status={status}': invalid value for state ({status}): must be one of created,"
                " running, paused, restarting, removing, exited, dead"
            )
    exits: set[int] = set()
    for text in filters.get("exited", ()):
        if not text.lstrip("-").isdigit():
            raise InvalidParameter(
                f"invalid filter 'exited={text}': strconv.Atoi: parsing \"{text}\": invalid syntax"
            )
        exits.add(int(text))
    for key in ("is-task",):
        for text in filters.get(key, ()):
            if text.lower() not in ("true", "false", "1", "0"):
                raise InvalidParameter(f"invalid filter '{key}={text}'")
    if any(_REPEATED_GROUP.search(text) for text in filters.get("name", ())):
        raise InvalidParameter("invalid filter 'name': a repeated group is not supported")
    try:
        names = [re.compile(text) for text in filters.get("name", ()) if text]
    except re.error as exc:
        raise InvalidParameter(f"invalid filter 'name': {exc}") from exc
    before = [find(text).record.created_ns for text in filters.get("before", ())]
    since = [find(text).record.created_ns for text in filters.get("since", ())]
    wants_task = any(text.lower() in ("true", "1") for text in filters.get("is-task", ()))
    expose = {port for text in filters.get("expose", ()) for port in ports_of_filter(text)}
    publish = {port for text in filters.get("publish", ()) for port in ports_of_filter(text)}

    def matches(container: Container) -> bool:
        record, state = container.record, container.state
        exposed = record.config.exposed_ports
        return not (
            (filters.get("id") and not any(record.id.startswith(text) for text in filters["id"]))
            or (names and not any(n.search(record.name) or n.search("/" + record.name) for n in names))
            or (filters.get("status") and state.status not in filters["status"])
            or (exits and (state.is_active or state.exit_code not in exits or state.started_ns == 0))
            or (filters.get("label") and not label_matches(record.config.labels or {}, filters["label"]))
            or (filters.get("ancestor") and record.image_id not in ancestors)
            or (before and not all(record.created_ns < ns for ns in before))
            or (since and not all(record.created_ns > ns for ns in since))
            or (filters.get("network") and not _on_network(container, filters["network"]))
            or (filters.get("volume") and not _has_volume(container, filters["volume"]))
            or (filters.get("health") and "none" not in filters["health"])
            or (filters.get("isolation") and "default" not in filters["isolation"])
            or wants_task
            or (expose and not (exposed and expose & {parse_port(text) for text in exposed}))
            or (publish and publish.isdisjoint(_host_ports(container)))
        )

    return matches


def ports_of_filter(text: str) -> set[tuple[int, str]]:
    """`80`, `80/udp` or `8000-8010/tcp` as ports."""
    numbers, slash, protocol = text.partition("/")
    first, last = parse_port_range(numbers)
    _, protocol = parse_port(f"{last}{slash}{protocol}")
    return {(number, protocol) for number in range(first, last + 1)}


def _host_ports(container: Container) -> set[tuple[int, str]]:
    """The host's ports that the container has, or is to have when it runs."""
    found = {(port.host_port, port.protocol) for port in container.state.ports}
    for spec in port_specs(container.record):
        if spec.first and spec.first == spec.last:
            found.add((spec.first, spec.protocol))
    return found


def _on_network(container: Container, wanted: list[str]) -> bool:
    ids = {endpoint.network_id for endpoint in container.state.endpoints.values()}
    return any(text in container.record.endpoints or any(i.startswith(text) for i in ids) for text in wanted)


def _has_volume(container: Container, wanted: list[str]) -> bool:
    return any(
        mount.target in wanted or (mount.name or mount.source) in wanted for mount in container.record.mounts
    )


def now_ns() -> int:
    return time.time_ns()
