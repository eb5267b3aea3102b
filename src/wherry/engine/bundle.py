"""Everything about one container turned into one OCI bundle: runtime-spec config.json.

The only place where image, snapshot, mounts, network and limits meet. `spec_for` decides without I/O;
`write_bundle` puts it, and the container's own /etc files, on disk. Written for our runtime and for runc alike.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from wherry.engine import confinement
from wherry.engine.creation import HostFacts
from wherry.engine.records import ContainerRecord, MountSpec
from wherry.engine.settings import EngineSettings
from wherry.errors import InvalidParameter
from wherry.model.containers import HostConfig, Resources
from wherry.model.execs import ExecCreate
from wherry.volumes.driver import Data

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Spec = dict[str, Any]
"""A runtime-spec object: JSON by nature, so it stays a plain dict."""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """Namespaces of another container that this one joins, as `/proc/PID/ns/…` paths; empty for its own."""

    pid: str = ""
    ipc: str = ""
    network: str = ""
    network_of: str = ""  # that container's ID: it lends its /etc files too
    shm: str = ""


class EtcFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where the container's own /etc files lie on the host."""

    hosts: str
    hostname: str
    resolv_conf: str


def spec_for(
    record: ContainerRecord,
    *,
    settings: EngineSettings,
    facts: HostFacts,
    etc: EtcFiles,
    joined: Joined,
    data: Mapping[str, Data],
    has_sandbox: bool,
    seccomp: Spec | None,
    linked: Sequence[str] = (),
) -> Spec:
    """The container's config.json. `data`: what to mount for each target that is a volume or an image.
    `has_sandbox`: the network namespace comes by descriptor. `linked`: the variables of legacy links.
    """
    host, config = record.host, record.config
    capabilities = confinement.capabilities_for(
        host.cap_add or [], host.cap_drop or [], privileged=host.privileged, bounding=facts.bounding
    )
    options = security_options(host, settings)
    spec: Spec = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": config.tty,
            "user": _user(config.user, host.group_add or ()),
            "args": [record.path, *record.args],
            "env": environment(record, linked),
            "cwd": config.working_dir or "/",
            "capabilities": _capability_sets(capabilities),
            "noNewPrivileges": options.no_new_privileges,
            "oomScoreAdj": host.oom_score_adj,
            "rlimits": _rlimits(host, settings),
        },
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "mounts": _mounts(record, etc=etc, joined=joined, data=data),
        "annotations": {} if host.annotations is UNSET else dict(host.annotations),
        "linux": {
            "namespaces": _namespaces(host, joined, has_sandbox=has_sandbox),
            "cgroupsPath": cgroup_path(record, settings),
            "resources": resources_for(host, privileged=host.privileged),
            "devices": [
                _device(device.path_on_host, device.path_in_container) for device in host.devices or ()
            ],
            "maskedPaths": list(host.masked_paths or ()),
            "readonlyPaths": list(host.readonly_paths or ()),
            "sysctl": _sysctls(record),
            "rootfsPropagation": "slave"
            if any(mount.propagation in ("slave", "rslave") for mount in record.mounts)
            else "shared"
            if any(mount.propagation in ("shared", "rshared") for mount in record.mounts)
            else "private",
        },
    }
    if host.uts_mode != "host":
        spec["hostname"] = config.hostname
        if config.domainname:
            spec["domainname"] = config.domainname
    if config.tty and any(host.console_size):
        spec["process"]["consoleSize"] = {"height": host.console_size[0], "width": host.console_size[1]}
    if host.privileged:
        spec["linux"]["devices"] += _host_devices()
    if seccomp is not None:
        spec["linux"]["seccomp"] = seccomp
    if record.host.init is True:
        spec["process"]["args"] = [confinement.INIT_TARGET, "--", record.path, *record.args]
        spec["mounts"].append(
            {
                "destination": confinement.INIT_TARGET,
                "type": "bind",
                "source": init_program(settings),
                "options": ["bind", "ro"],
            }
        )
    return spec


INIT_PROGRAMS = ("/usr/bin/docker-init", "/usr/libexec/docker/docker-init", "/usr/bin/tini-static")


def init_program(settings: EngineSettings) -> str:
    """The host's program for `--init`: it must be static, since the container's libraries are not the host's."""
    for path in (settings.init_path,) if settings.init_path else INIT_PROGRAMS:
        if os.access(path, os.X_OK):
            return path
    raise InvalidParameter(
        f"no init for --init: {settings.init_path or 'none of ' + ', '.join(INIT_PROGRAMS)} is there; install the"
        " package tini, or name a static one with --init-path"
    )


class SecurityOptions(msgspec.Struct, frozen=True, kw_only=True):
    no_new_privileges: bool = False
    seccomp: str | None = None  # None: the engine's profile; "unconfined"; or Docker's JSON
    systempaths_unconfined: bool = False


def security_options(host: HostConfig, settings: EngineSettings) -> SecurityOptions:
    """What `--security-opt` says. Raises InvalidParameter with Docker's text."""
    no_new_privileges, seccomp, unconfined = settings.no_new_privileges, None, False
    for option in host.security_opt or ():
        key, _, value = (
            option.replace(":", "=", 1).partition("=") if "=" not in option else option.partition("=")
        )
        if key == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
            no_new_privileges = value != "false"
        elif key == "seccomp":
            seccomp = value
        elif key == "systempaths" and value == "unconfined":
            unconfined = True
        elif key not in ("label", "apparmor", "writable-cgroups"):
            raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(
        no_new_privileges=no_new_privileges, seccomp=seccomp, systempaths_unconfined=unconfined
    )


def environment(record: ContainerRecord, linked: Sequence[str] = ()) -> list[str]:
    """PATH, HOSTNAME, TERM and HOME are the engine's where nothing else sets them; HOME is the runtime's to add. So
    are those of legacy links."""
    given = [entry for entry in record.config.env or () if "=" in entry]
    names = {entry.partition("=")[0] for entry in given}
    made = [] if "PATH" in names else [f"PATH={DEFAULT_PATH}"]
    if "HOSTNAME" not in names:
        made.append(f"HOSTNAME={record.config.hostname}")
    if record.config.tty and "TERM" not in names:
        made.append("TERM=xterm")
    made += [entry for entry in linked if entry.partition("=")[0] not in names]
    return made + given


def process_for_exec(
    record: ContainerRecord,
    body: ExecCreate,
    *,
    settings: EngineSettings,
    facts: HostFacts,
    linked: Sequence[str] = (),
) -> Spec:
    """The OCI process object of `docker exec`."""
    host = record.host
    capabilities = confinement.capabilities_for(
        host.cap_add or [],
        host.cap_drop or [],
        privileged=host.privileged or body.privileged,
        bounding=facts.bounding,
    )
    env = environment(record, linked)
    names = {entry.partition("=")[0] for entry in body.env or ()}
    env = [entry for entry in env if entry.partition("=")[0] not in names] + list(body.env or ())
    if body.tty and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=xterm")
    process: Spec = {
        "terminal": body.tty,
        "user": _user(body.user or record.config.user, host.group_add or ()),
        "args": list(body.cmd or ()),
        "env": env,
        "cwd": body.working_dir or record.config.working_dir or "/",
        "capabilities": _capability_sets(capabilities),
        "noNewPrivileges": security_options(host, settings).no_new_privileges,
        "rlimits": _rlimits(host, settings),
    }
    if body.tty and body.console_size:
        process["consoleSize"] = {"height": body.console_size[0], "width": body.console_size[1]}
    return process


def cgroup_path(record: ContainerRecord, settings: EngineSettings) -> str:
    parent = record.host.cgroup_parent or settings.cgroup_parent or "wherry"
    return "/" + os.path.join(parent.strip("/"), record.id)


def _user(name: str, groups: Sequence[str]) -> Spec:
    """The process's user by name: only the runtime sees the container's /etc/passwd. The numbers are a stand-in."""
    return {"uid": 0, "gid": 0, "username": name, "groupnames": list(groups)}


def _capability_sets(capabilities: Sequence[str]) -> Spec:
    return {name: list(capabilities) for name in ("bounding", "effective", "permitted")}


def _rlimits(host: HostConfig, settings: EngineSettings) -> list[Spec]:
    limits = dict(settings.default_ulimits)
    for ulimit in host.ulimits or ():
        limits[ulimit.name] = (ulimit.soft, ulimit.hard)
    unlimited = (1 << 64) - 1
    return [
        {
            "type": f"RLIMIT_{name.upper()}",
            "soft": soft if soft >= 0 else unlimited,
            "hard": hard if hard >= 0 else unlimited,
        }
        for name, (soft, hard) in limits.items()
    ]


def _namespaces(host: HostConfig, joined: Joined, *, has_sandbox: bool) -> list[Spec]:
    namespaces: list[Spec] = [{"type": "mount"}]
    if host.network_mode != "host":
        if joined.network:
            namespaces.append({"type": "network", "path": joined.network})
        else:
            namespaces.append({"type": "network"})
    if host.uts_mode != "host":
        namespaces.append({"type": "uts"})
    if host.pid_mode != "host":
        namespaces.append({"type": "pid", "path": joined.pid} if joined.pid else {"type": "pid"})
    if host.ipc_mode != "host":
        namespaces.append({"type": "ipc", "path": joined.ipc} if joined.ipc else {"type": "ipc"})
    if host.cgroupns_mode == "private":
        namespaces.append({"type": "cgroup"})
    return namespaces


def _mounts(
    record: ContainerRecord, *, etc: EtcFiles, joined: Joined, data: Mapping[str, Data]
) -> list[Spec]:
    host = record.host
    mounts: list[Spec] = confinement.default_mounts(
        shm_size=host.shm_size,
        privileged=host.privileged,
    )
    if host.ipc_mode == "none":
        mounts = [mount for mount in mounts if mount["destination"] not in ("/dev/shm", "/dev/mqueue")]
    shared_shm = "/dev/shm" if host.ipc_mode == "host" else joined.shm
    if shared_shm:
        mounts = [mount for mount in mounts if mount["destination"] != "/dev/shm"]
        mounts.append(
            {
                "destination": "/dev/shm",
                "type": "bind",
                "source": shared_shm,
                "options": ["rbind", "rprivate"],
            }
        )
        if host.ipc_mode == "host":
            mounts = [mount for mount in mounts if mount["destination"] != "/dev/mqueue"]
            mounts.append(
                {
                    "destination": "/dev/mqueue",
                    "type": "bind",
                    "source": "/dev/mqueue",
                    "options": ["rbind", "rprivate"],
                }
            ) if os.path.isdir("/dev/mqueue") else None
    taken = {mount.target for mount in record.mounts}
    mounts = [mount for mount in mounts if mount["destination"] not in taken]
    if "/dev" in taken:
        mounts = [mount for mount in mounts if not mount["destination"].startswith("/dev/")]
    mounts += [mount_entry(mount, data.get(mount.target)) for mount in record.mounts]
    # Last, so that a volume over /etc does not hide them.
    for source, target in (
        (etc.resolv_conf, "/etc/resolv.conf"),
        (etc.hostname, "/etc/hostname"),
        (etc.hosts, "/etc/hosts"),
    ):
        if target not in taken:
            options = ["rbind", "rprivate", *(["ro"] if host.readonly_rootfs else [])]
            mounts.append({"destination": target, "type": "bind", "source": source, "options": options})
    return mounts


def mount_entry(mount: MountSpec, data: Data | None) -> Spec:
    """One mount as the runtime-spec has it; `data` is what a volume's or an image's content is."""
    kind, source, options = mount.type, mount.source or mount.type, list(mount.options)
    if data is not None and data.path:
        kind, source = "bind", data.path
        words = [word for word in data.options if word not in ("bind", "rbind")]
        how = "bind" if "bind" in data.options else "rbind"
        options = [how, *words, *(word for word in options if word not in ("bind", "rbind"))]
    elif data is not None:
        kind, source = data.filesystem, data.device
        access = ["ro"] if mount.read_only else []
        options = [*(word for word in data.options if word != "rw"), *access, "rprivate"]
    if mount.subpath:
        options.append(f"X-wherry.subpath={mount.subpath}")
    return {"destination": mount.target, "type": kind, "source": source, "options": options}


def _device(path: str, target: str) -> Spec:
    """A device node of the host as the runtime-spec describes it. Raises InvalidParameter in Docker's words."""
    try:
        info = os.stat(path)
    except OSError as exc:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{path}": no such file or directory'
        ) from exc
    if stat.S_ISCHR(info.st_mode):
        kind = "c"
    elif stat.S_ISBLK(info.st_mode):
        kind = "b"
    else:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{path}": not a device node'
        )
    return {
        "path": target or path,
        "type": kind,
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }


_SKIPPED_DEVICES = frozenset(
    "pts shm fd mqueue .lxc .lxd-mounts .udev console null zero full random urandom tty ptmx stdin stdout stderr".split()
)


def _host_devices() -> list[Spec]:
    """Every device node below the host's /dev: what `--privileged` gives."""
    found: list[Spec] = []
    for directory, names, files in os.walk("/dev"):
        names[:] = [name for name in names if name not in _SKIPPED_DEVICES]
        for name in files:
            path = os.path.join(directory, name)
            if name in _SKIPPED_DEVICES or os.path.islink(path):
                continue
            try:
                found.append(_device(path, path))
            except InvalidParameter:
                continue  # a socket, or gone meanwhile
    return found


def resources_for(limits: Resources, *, privileged: bool) -> Spec:
    """The `linux.resources` of a container's limits."""
    memory: Spec = {}
    if limits.memory > 0:
        memory["limit"] = limits.memory
    if limits.memory_reservation > 0:
        memory["reservation"] = limits.memory_reservation
    if limits.memory_swap:
        memory["swap"] = limits.memory_swap
    if limits.memory_swappiness is not None and limits.memory_swappiness >= 0:
        memory["swappiness"] = limits.memory_swappiness
    if limits.oom_kill_disable:
        memory["disableOOMKiller"] = True
    cpu: Spec = {}
    if limits.cpu_shares:
        cpu["shares"] = limits.cpu_shares
    if limits.nano_cpus:
        cpu["period"] = 100_000
        cpu["quota"] = limits.nano_cpus * 100_000 // 1_000_000_000
    if limits.cpu_period:
        cpu["period"] = limits.cpu_period
    if limits.cpu_quota:
        cpu["quota"] = limits.cpu_quota
    if limits.cpuset_cpus:
        cpu["cpus"] = limits.cpuset_cpus
    if limits.cpuset_mems:
        cpu["mems"] = limits.cpuset_mems
    resources: Spec = {
        "devices": [{"allow": True, "access": "rwm"}]
        if privileged
        else [*confinement.DEVICE_RULES, *_device_rules(limits)],
        "memory": memory,
        "cpu": cpu,
    }
    if limits.pids_limit:
        resources["pids"] = {"limit": limits.pids_limit}
    if limits.blkio_weight:
        resources["blockIO"] = {"weight": limits.blkio_weight}
    return resources


def _device_rules(limits: Resources) -> list[Spec]:
    rules: list[Spec] = []
    for device in limits.devices or ():
        node = _device(device.path_on_host, device.path_in_container)
        rules.append(
            {
                "allow": True,
                "type": node["type"],
                "major": node["major"],
                "minor": node["minor"],
                "access": device.cgroup_permissions or "rwm",
            }
        )
    for text in limits.device_cgroup_rules or ():
        kind, numbers, access = text.split(" ")
        major, minor = numbers.split(":")
        rule: Spec = {"allow": True, "type": kind, "access": access}
        if major != "*":
            rule["major"] = int(major)
        if minor != "*":
            rule["minor"] = int(minor)
        rules.append(rule)
    return rules


def _sysctls(record: ContainerRecord) -> dict[str, str]:
    host = record.host
    given = {} if host.sysctls is UNSET else dict(host.sysctls)
    confinement.check_sysctls(
        given, host_network=host.network_mode == "host", host_ipc=host.ipc_mode == "host"
    )
    if host.privileged or host.network_mode == "host" or host.network_mode.startswith("container:"):
        return given
    return {**confinement.DEFAULT_SYSCTLS, **given}
