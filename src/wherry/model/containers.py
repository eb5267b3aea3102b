"""Containers as the Docker Engine API 1.51 spells them: what clients send, what they get back.

Names and meaning are the API document's. Fields that Go leaves out when empty have `UNSET` as their default;
lists that may be `null` on the wire are `| None`.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType, field

from wherry.model.wire import Wire, capital_words

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which the API uses for "has not happened"."""

# What a client sends


class HealthConfig(Wire):
    """Times in nanoseconds; `test` is `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class ContainerConfig(Wire):
    """The portable half of a container's configuration: what an image can bring too."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] | UnsetType = UNSET
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    healthcheck: HealthConfig | UnsetType = UNSET
    args_escaped: bool | UnsetType = UNSET
    image: str = ""
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | str | None = None
    network_disabled: bool | UnsetType = UNSET
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | UnsetType = UNSET
    stop_timeout: int | UnsetType = UNSET
    shell: list[str] | UnsetType = UNSET


class LogConfig(Wire):
    type: str = ""
    config: dict[str, str] | None = None


class RestartPolicy(Wire):
    name: str = ""
    maximum_retry_count: int = 0


class PortBinding(Wire, rename=capital_words):
    host_ip: str = field(name="HostIp", default="")
    host_port: str = ""


class WeightDevice(Wire):
    path: str = ""
    weight: int = 0


class ThrottleDevice(Wire):
    path: str = ""
    rate: int = 0


class DeviceMapping(Wire):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Wire):
    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class Ulimit(Wire):
    name: str = ""
    hard: int = 0
    soft: int = 0


class BindOptions(Wire):
    propagation: str | UnsetType = UNSET
    non_recursive: bool | UnsetType = UNSET
    create_mountpoint: bool | UnsetType = UNSET
    read_only_non_recursive: bool | UnsetType = UNSET
    read_only_force_recursive: bool | UnsetType = UNSET


class TmpfsOptions(Wire):
    size_bytes: int | UnsetType = UNSET
    mode: int | UnsetType = UNSET
    options: list[list[str]] | UnsetType = UNSET


class DriverConfig(Wire):
    name: str | UnsetType = UNSET
    options: dict[str, str] | UnsetType = UNSET


class VolumeOptions(Wire):
    no_copy: bool | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    driver_config: DriverConfig | UnsetType = UNSET
    subpath: str | UnsetType = UNSET


class ImageOptions(Wire):
    subpath: str | UnsetType = UNSET


class Mount(Wire):
    """One `--mount`."""

    type: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET
    consistency: str | UnsetType = UNSET
    bind_options: BindOptions | UnsetType = UNSET
    volume_options: VolumeOptions | UnsetType = UNSET
    image_options: ImageOptions | UnsetType = UNSET
    tmpfs_options: TmpfsOptions | UnsetType = UNSET


class Resources(Wire):
    """Limits: what `docker update` can change, and the rest of the cgroup's settings."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice] | None = field(name="BlkioDeviceWriteIOps", default=None)
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = field(name="IOMaximumBandwidth", default=0)


class HostConfig(Resources):
    """The half of a container's configuration that depends on the host."""

    binds: list[str] | None = None
    container_id_file: str = field(name="ContainerIDFile", default="")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    mounts: list[Mount] | UnsetType = UNSET
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] | UnsetType = UNSET
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | UnsetType = UNSET
    tmpfs: dict[str, str] | UnsetType = UNSET
    uts_mode: str = field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | UnsetType = UNSET
    runtime: str = ""
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | UnsetType = UNSET


class EndpointIPAMConfig(Wire):
    ipv4_address: str | UnsetType = field(name="IPv4Address", default=UNSET)
    ipv6_address: str | UnsetType = field(name="IPv6Address", default=UNSET)
    link_local_ips: list[str] | UnsetType = field(name="LinkLocalIPs", default=UNSET)


class EndpointSettings(Wire, rename=capital_words):
    """A container's place on one network, as asked for and as it came to be."""

    ipam_config: EndpointIPAMConfig | None = None
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = ""
    endpoint_id: str = ""
    gateway: str = ""
    ip_address: str = ""
    ip_prefix_len: int = 0
    ipv6_gateway: str = ""
    global_ipv6_address: str = ""
    global_ipv6_prefix_len: int = 0
    dns_names: list[str] | None = None


class NetworkingConfig(Wire):
    endpoints_config: dict[str, EndpointSettings] | None = None


class ContainerCreate(ContainerConfig):
    """Body of POST /containers/create."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None
    mac_address: str = ""  # where clients before 1.44 say it: of the main network


class ContainerUpdate(Resources):
    """Body of POST /containers/{id}/update."""

    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)


# What a client gets


class ContainerCreated(Wire):
    id: str
    warnings: list[str]


class ContainerUpdated(Wire):
    warnings: list[str]


class ContainerWaited(Wire):
    status_code: int
    error: dict[str, str] | UnsetType = UNSET


class ContainerTop(Wire):
    titles: list[str]
    processes: list[list[str]]


class ContainersPruned(Wire):
    containers_deleted: list[str] | None
    space_reclaimed: int


class State(Wire):
    status: str
    running: bool
    paused: bool
    restarting: bool
    oom_killed: bool = field(name="OOMKilled")
    dead: bool
    pid: int
    exit_code: int
    error: str
    started_at: str
    finished_at: str


class Port(Wire):
    ip: str | UnsetType = field(name="IP", default=UNSET)
    private_port: int = 0
    public_port: int | UnsetType = UNSET
    type: str = "tcp"


class PortsAdd(Wire):
    """wherry's own: ports to publish on a container that is there already."""

    port_bindings: dict[str, list[PortBinding] | None] = {}


class PortsShown(Wire):
    """wherry's own: a container's ports, as in `NetworkSettings`."""

    ports: dict[str, list[PortBinding] | None]


class MountPoint(Wire, kw_only=True):
    type: str
    name: str | UnsetType = UNSET
    source: str = ""
    destination: str = ""
    driver: str | UnsetType = UNSET
    mode: str = ""
    rw: bool = field(name="RW", default=True)
    propagation: str = ""


class GraphDriverData(Wire):
    data: dict[str, str] | None
    name: str


class NetworkSettings(Wire, rename=capital_words):
    bridge: str = ""
    sandbox_id: str = ""
    sandbox_key: str = ""
    ports: dict[str, list[PortBinding] | None] = {}
    hairpin_mode: bool = False
    link_local_ipv6_address: str = ""
    link_local_ipv6_prefix_len: int = 0
    secondary_ip_addresses: list[str] | None = None
    secondary_ipv6_addresses: list[str] | None = None
    endpoint_id: str = ""
    gateway: str = ""
    global_ipv6_address: str = ""
    global_ipv6_prefix_len: int = 0
    ip_address: str = ""
    ip_prefix_len: int = 0
    ipv6_gateway: str = ""
    mac_address: str = ""
    networks: dict[str, EndpointSettings] = {}


class ContainerInspect(Wire, kw_only=True):
    id: str
    created: str
    path: str
    args: list[str]
    state: State
    image: str
    resolv_conf_path: str
    hostname_path: str
    hosts_path: str
    log_path: str
    name: str
    restart_count: int
    driver: str
    platform: str
    mount_label: str
    process_label: str
    app_armor_profile: str
    exec_ids: list[str] | None = field(name="ExecIDs")
    host_config: HostConfig
    graph_driver: GraphDriverData
    size_rw: int | UnsetType = UNSET
    size_root_fs: int | UnsetType = UNSET
    mounts: list[MountPoint]
    config: ContainerConfig
    network_settings: NetworkSettings
    image_manifest_descriptor: dict[str, Any] | UnsetType = UNSET


class SummaryHostConfig(Wire):
    network_mode: str = ""
    annotations: dict[str, str] | UnsetType = UNSET


class SummaryNetworkSettings(Wire):
    networks: dict[str, EndpointSettings]


class ContainerSummary(Wire, kw_only=True):
    """One row of GET /containers/json."""

    id: str
    names: list[str]
    image: str
    image_id: str = field(name="ImageID")
    command: str
    created: int
    ports: list[Port]
    size_rw: int | UnsetType = UNSET
    size_root_fs: int | UnsetType = UNSET
    labels: dict[str, str]
    state: str
    status: str
    host_config: SummaryHostConfig
    network_settings: SummaryNetworkSettings
    mounts: list[MountPoint]
