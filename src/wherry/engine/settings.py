"""What an engine is told when it is opened. The daemon fills this from its flags and daemon.json, a program that
embeds the engine by keyword."""

from __future__ import annotations

import msgspec


class RuntimeSetting(msgspec.Struct, frozen=True):
    """An OCI runtime by name: `path` is its command, `args` come before the verb."""

    path: str
    args: tuple[str, ...] = ()


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that makes one engine different from another on the same machine."""

    data_root: str = "/var/lib/wherry"
    exec_root: str = "/run/wherry"
    storage_driver: str = ""  # empty: overlay2 where it works, else vfs
    default_runtime: str = "wherry"
    runtimes: dict[str, RuntimeSetting] = {}
    log_driver: str = "json-file"
    log_opts: dict[str, str] = {}
    bridge: str = "wherry0"
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_address_pools: tuple[tuple[str, int], ...] = ()  # base and size; empty: Docker's
    default_network_opts: dict[str, dict[str, str]] = {}  # by driver
    ipv6: bool = False
    icc: bool = True
    ip_masq: bool = True
    ip_forward: bool = True
    iptables: bool = True
    ip6tables: bool = True
    mtu: int = 1500
    firewall_accept: bool = False
    publish_address: str = ""  # where ports are bound that name no address; empty: everywhere
    cgroup_parent: str = ""
    default_shm_size: int = 64 << 20
    default_ulimits: dict[str, tuple[int, int]] = {}
    seccomp_profile: str = ""  # a file in Docker's JSON, `unconfined`, or empty for the built-in one
    no_new_privileges: bool = False
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    max_concurrent_downloads: int = 3
    labels: tuple[str, ...] = ()
    init: bool = False
    init_path: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    host_gateway_ips: tuple[
        str, ...
    ] = ()  # what `--add-host NAME:host-gateway` means; empty: the default network's
    debug: bool = False
    live_restore: bool = True  # containers outlive the daemon; False: as Docker without `live-restore`
    shutdown_timeout: int = 15  # seconds for stopping containers where they do not; negative: no limit


RELOADABLE = (
    "debug", "labels", "registry_mirrors", "insecure_registries", "default_runtime", "runtimes", "log_driver", "log_opts",
    "max_concurrent_downloads", "live_restore", "shutdown_timeout", "default_shm_size",
)  # fmt: skip
"""What a running engine takes over: `Engine.reload`. Docker's list, and the log driver of new containers."""

BUILT_IN_RUNTIME = "wherry"
"""The name of wherry's own OCI runtime, run inside the shim."""
