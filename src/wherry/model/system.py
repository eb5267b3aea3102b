"""The engine itself, as the Docker Engine API spells it: /version and /info."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType, field

from wherry.model.wire import Wire


class Component(Wire):
    name: str
    version: str
    details: dict[str, str] | UnsetType = UNSET


class PlatformName(Wire):
    name: str


class Version(Wire, kw_only=True):
    platform: PlatformName
    components: list[Component]
    version: str
    api_version: str
    min_api_version: str = field(name="MinAPIVersion")
    git_commit: str
    go_version: str
    os: str
    arch: str
    kernel_version: str
    experimental: bool | UnsetType = UNSET
    build_time: str


class Plugins(Wire):
    volume: list[str]
    network: list[str]
    authorization: list[str] | None
    log: list[str]


class IndexConfig(Wire):
    name: str
    mirrors: list[str]
    secure: bool
    official: bool


class RegistryConfig(Wire):
    insecure_registry_cidrs: list[str] = field(name="InsecureRegistryCIDRs")
    index_configs: dict[str, IndexConfig]
    mirrors: list[str] | None


class Swarm(Wire):
    node_id: str = field(name="NodeID", default="")
    node_addr: str = ""
    local_node_state: str = "inactive"
    control_available: bool = False
    error: str = ""
    remote_managers: list[Any] | None = None


class Commit(Wire):
    id: str = field(name="ID")


class RuntimeInfo(Wire, rename=None):
    path: str
    runtimeArgs: list[str] | UnsetType = UNSET


class Info(Wire, kw_only=True):
    id: str = field(name="ID")
    containers: int
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    driver: str
    driver_status: list[tuple[str, str]]
    docker_root_dir: str
    plugins: Plugins
    memory_limit: bool
    swap_limit: bool
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_shares: bool = field(name="CPUShares")
    cpu_set: bool = field(name="CPUSet")
    pids_limit: bool
    ipv4_forwarding: bool = field(name="IPv4Forwarding")
    oom_kill_disable: bool
    debug: bool
    nfd: int = field(name="NFd")
    ngoroutines: int = field(name="NGoroutines")
    system_time: str
    logging_driver: str
    cgroup_driver: str
    cgroup_version: str
    nevents_listener: int = field(name="NEventsListener")
    kernel_version: str
    operating_system: str
    os_version: str = field(name="OSVersion")
    os_type: str = field(name="OSType")
    architecture: str
    ncpu: int = field(name="NCPU")
    mem_total: int
    index_server_address: str
    registry_config: RegistryConfig
    generic_resources: list[Any] | None = None
    http_proxy: str
    https_proxy: str
    no_proxy: str
    name: str
    labels: list[str]
    experimental_build: bool
    server_version: str
    runtimes: dict[str, RuntimeInfo]
    default_runtime: str
    swarm: Swarm
    live_restore_enabled: bool
    isolation: str
    init_binary: str
    containerd_commit: Commit
    runc_commit: Commit
    init_commit: Commit
    security_options: list[str]
    product_license: str | UnsetType = UNSET
    cdi_spec_dirs: list[str] = field(name="CDISpecDirs", default_factory=lambda: list[str]())
    open_ports: list[
        str
    ] = []  # wherry's own: published ports that other hosts can reach, with their containers
    warnings: list[str] | None = None
