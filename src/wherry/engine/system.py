"""The engine about itself: version and info."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from collections.abc import Callable, Sequence

import msgspec

import wherry
from wherry import plugins
from wherry.engine.containers import Containers
from wherry.engine.context import Context
from wherry.engine.creation import HostFacts
from wherry.engine.settings import BUILT_IN_RUNTIME
from wherry.engine.times import rfc3339
from wherry.engine.volumes import VolumeDirectory
from wherry.linux import capabilities
from wherry.model import wire
from wherry.model.masking import masked
from wherry.model.system import (
    Commit,
    Component,
    IndexConfig,
    Info,
    PlatformName,
    Plugins,
    RegistryConfig,
    RuntimeInfo,
    Swarm,
    Version,
)
from wherry.model.volumes import DiskUsage
from wherry.oci.platform import host_platform
from wherry.runtime.cgroups.driver import ROOT, is_unified
from wherry.runtime.cgroups.v1 import mounted_hierarchies

API_VERSION = "1.51"
MIN_API_VERSION = "1.24"


def host_facts(snapshot_driver: str) -> HostFacts:
    """Look once at the machine."""
    bounding = capabilities.bounding()
    return HostFacts(
        cpus=os.cpu_count() or 1,
        cgroup_version=2 if is_unified() else 1,
        hostname=platform.node(),
        bounding=frozenset(name for name, n in capabilities.NUMBERS.items() if bounding >> n & 1),
        snapshot_driver=snapshot_driver,
    )


class System:
    def __init__(
        self, context: Context, containers: Containers, volumes: VolumeDirectory, engine_id: str
    ) -> None:
        self._context = context
        self._containers = containers
        self._volumes = volumes
        self._id = engine_id
        self.listener_count: Callable[[], int] = lambda: context.events.listeners

    async def ping(self) -> dict[str, str]:
        """Headers of /_ping beyond those on every response. Builder 1: the classic builder's API."""
        return {"Builder-Version": "1", "Swarm": "inactive"}

    def reloaded(self) -> None:
        """Tell of new settings: Docker's event `daemon reload`."""
        settings = self._context.settings
        attributes = {
            "debug": _word(settings.debug),
            "default-runtime": settings.default_runtime,
            "default-shm-size": str(settings.default_shm_size),
            "insecure-registries": _json(settings.insecure_registries),
            "labels": _json(settings.labels),
            "live-restore": _word(settings.live_restore),
            "log-driver": settings.log_driver,
            "log-opts": _json(settings.log_opts),
            "max-concurrent-downloads": str(settings.max_concurrent_downloads),
            "name": self._context.facts.hostname,
            "registry-mirrors": _json(settings.registry_mirrors),
            "runtimes": " ".join(f"{name}:{runtime.path}" for name, runtime in settings.runtimes.items()),
            "shutdown-timeout": str(settings.shutdown_timeout),
        }
        self._context.events.emit("daemon", "reload", self._id, attributes)

    async def version(self) -> Version:
        kernel = platform.release()
        architecture = host_platform().architecture
        details = {
            "ApiVersion": API_VERSION,
            "Arch": architecture,
            "BuildTime": "",
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": f"python{platform.python_version()}",
            "KernelVersion": kernel,
            "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
        }
        components = [Component(name="Engine", version=wherry.__version__, details=details)]
        for name, setting in self._context.settings.runtimes.items():
            components.append(Component(name=name, version="", details={"Path": setting.path}))
        return Version(
            platform=PlatformName(name="wherry"),
            components=components,
            version=wherry.__version__,
            api_version=API_VERSION,
            min_api_version=MIN_API_VERSION,
            git_commit="",
            go_version=f"python{platform.python_version()}",
            os="linux",
            arch=architecture,
            kernel_version=kernel,
            build_time="",
        )

    async def disk_usage(self, kinds: Sequence[str] = ()) -> DiskUsage:
        """What takes how much room: of `kinds` (image, container, volume, build-cache), or of all."""
        context, usage = self._context, DiskUsage()
        if not kinds or "image" in kinds:
            usage.images = list(await context.images.list(all=True, shared_size=True))
            sizes = await context.store.images.layer_sizes()
            usage.layers_size = sum(sizes.values())
        if not kinds or "container" in kinds:
            usage.containers = list(await self._containers.list(all=True, size=True))
        if not kinds or "volume" in kinds:
            usage.volumes = await self._volumes.usage()
        if not kinds or "build-cache" in kinds:
            usage.build_cache = []
        return usage

    async def info(self) -> Info:
        context, settings = self._context, self._context.settings
        containers = self._containers.all()
        running = [c for c in containers if c.state.status == "running"]
        paused = [c for c in containers if c.state.status == "paused"]
        has = _controllers()
        await context.networks.check_firewall()
        images = await context.database.run(_count_images, durable=False)
        runtimes = {BUILT_IN_RUNTIME: RuntimeInfo(path="wherry-runtime")}
        for name, setting in settings.runtimes.items():
            runtimes[name] = RuntimeInfo(path=setting.path)
        release = _os_release()
        version = context.facts.cgroup_version
        security = ["name=seccomp,profile=" + (settings.seccomp_profile or "builtin")]
        if version == 2:
            security.append("name=cgroupns")
        if settings.no_new_privileges:
            security.append("name=no-new-privileges")
        return Info(
            id=self._id,
            containers=len(containers),
            containers_running=len(running),
            containers_paused=len(paused),
            containers_stopped=len(containers) - len(running) - len(paused),
            images=images,
            driver=context.driver.name,
            driver_status=context.driver.status(),
            docker_root_dir=settings.data_root,
            plugins=Plugins(
                volume=context.volumes.drivers(),
                network=plugins.driver_names(plugins.NETWORKS),
                authorization=None,
                log=plugins.driver_names(plugins.LOGS),
            ),
            memory_limit="memory" in has,
            swap_limit="memory" in has,
            cpu_cfs_period="cpu" in has,
            cpu_cfs_quota="cpu" in has,
            cpu_shares="cpu" in has,
            cpu_set="cpuset" in has,
            pids_limit="pids" in has,
            ipv4_forwarding=_read("/proc/sys/net/ipv4/ip_forward") == "1",
            oom_kill_disable=version == 1,
            debug=settings.debug,
            nfd=len(os.listdir("/proc/self/fd")),
            ngoroutines=len(os.listdir("/proc/self/task")),
            system_time=rfc3339(time.time_ns()),
            logging_driver=settings.log_driver,
            cgroup_driver="cgroupfs",
            cgroup_version=str(version),
            nevents_listener=self.listener_count(),
            kernel_version=platform.release(),
            operating_system=release.get("PRETTY_NAME", "Linux"),
            os_version=release.get("VERSION_ID", ""),
            os_type="linux",
            architecture=platform.machine(),
            ncpu=context.facts.cpus,
            mem_total=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            index_server_address="https://index.docker.io/v1/",
            registry_config=_registry_config(settings.registry_mirrors, settings.insecure_registries),
            http_proxy=os.environ.get("HTTP_PROXY", ""),
            https_proxy=os.environ.get("HTTPS_PROXY", ""),
            no_proxy=os.environ.get("NO_PROXY", ""),
            name=context.facts.hostname,
            labels=list(settings.labels),
            experimental_build=False,
            server_version=wherry.__version__,
            runtimes=runtimes,
            default_runtime=settings.default_runtime,
            swarm=Swarm(),
            live_restore_enabled=self._context.settings.live_restore,
            isolation="",
            init_binary=settings.init_path or "docker-init",
            containerd_commit=Commit(id=""),
            runc_commit=Commit(id=""),
            init_commit=Commit(id=""),
            security_options=security,
            open_ports=self._open_ports(),
            warnings=[*self._warnings(has), *context.networks.warnings()] or None,
        )

    def _open_ports(self) -> list[str]:
        """`0.0.0.0:8080/tcp web:80` for each published port that is not this host's alone."""
        shown: list[str] = []
        for owner, port in self._context.ports.open_to_the_world():
            address = f"[{port.host_ip}]" if port.is_ipv6 else port.host_ip
            name = self._containers.find(owner).name
            shown.append(f"{address}:{port.host_port}/{port.protocol} {name}:{port.container_port}")
        return sorted(shown)

    def _warnings(self, has: frozenset[str]) -> list[str]:
        warnings = [
            f"WARNING: No {what} support"
            for controller, what in (
                ("memory", "memory limit"),
                ("cpu", "cpu cfs quota"),
                ("pids", "pids limit"),
            )
            if controller not in has
        ]
        if "CAP_SYS_RESOURCE" not in self._context.facts.bounding:
            warnings.append(
                "WARNING: the engine lacks CAP_SYS_RESOURCE: --ulimit cannot raise hard limits and --oom-score-adj"
                " cannot go below the engine's own"
            )
        return warnings


def _controllers() -> frozenset[str]:
    """The cgroup controllers this host offers."""
    if not is_unified():
        return frozenset(mounted_hierarchies())
    return frozenset(_read(f"{ROOT}/cgroup.controllers").split())


def _count_images(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM image").fetchone()
    return int(count)


def _registry_config(mirrors: tuple[str, ...], insecure: tuple[str, ...]) -> RegistryConfig:
    cidrs = [text for text in insecure if "/" in text]
    shown = [mirror.rstrip("/") + "/" for mirror in mirrors]
    configs = {"docker.io": IndexConfig(name="docker.io", mirrors=shown, secure=True, official=True)}
    for name in insecure:
        if "/" not in name:
            configs[name] = IndexConfig(name=name, mirrors=[], secure=False, official=False)
    return RegistryConfig(
        insecure_registry_cidrs=[*cidrs, "127.0.0.0/8"], index_configs=configs, mirrors=shown
    )


def _word(value: bool) -> str:
    return "true" if value else "false"


def _json(value: object) -> str:
    return wire.encode(masked(msgspec.to_builtins(value))).decode()


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(4096).strip()
    except OSError:
        return ""


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
