"""How `wherry info` is laid out: docker's lines in docker's order, where the engine says something."""

from __future__ import annotations

from wherry.cli import units
from wherry.client.answers import items, mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def info_text(client: dict[str, Any], info: dict[str, Any] | None) -> tuple[str, str]:
    """What goes to stdout, and the warnings for stderr."""
    lines = [
        "Client:",
        f" Version:    {client['Version']}",
        f" Context:    {client['Context']}",
        f" Debug Mode: {_bool(client['Debug'])}",
        "",
        "Server:",
    ]
    if info is None:
        return "\n".join(lines) + "\n", ""
    lines += (
        _counts(info)
        + _drivers(info)
        + _swarm(info)
        + _runtime(info)
        + _host(info)
        + _registry(info)
        + _tail(info)
    )
    warnings = "".join(f"{text}\n" for text in items(info, "Warnings"))
    return "\n".join(lines) + "\n\n", warnings


def _bool(value: Any) -> str:
    return "true" if value else "false"


def _counts(info: dict[str, Any]) -> list[str]:
    return [
        f" Containers: {info.get('Containers', 0)}",
        f"  Running: {info.get('ContainersRunning', 0)}",
        f"  Paused: {info.get('ContainersPaused', 0)}",
        f"  Stopped: {info.get('ContainersStopped', 0)}",
        f" Images: {info.get('Images', 0)}",
        *([f" Server Version: {info['ServerVersion']}"] if info.get("ServerVersion") else []),
    ]


def _drivers(info: dict[str, Any]) -> list[str]:
    lines = [f" Storage Driver: {info.get('Driver', '')}"]
    lines += [f"  {key}: {value}" for key, value in items(info, "DriverStatus")]
    for key, value in items(info, "SystemStatus"):
        lines.append(f" {key}: {value}")
    lines.append(f" Logging Driver: {info.get('LoggingDriver', '')}")
    if info.get("CgroupDriver"):
        lines.append(f" Cgroup Driver: {info['CgroupDriver']}")
    if info.get("CgroupVersion"):
        lines.append(f" Cgroup Version: {info['CgroupVersion']}")
    plugins = mapping(info, "Plugins")
    lines.append(" Plugins:")
    lines.append(f"  Volume: {' '.join(plugins.get('Volume') or ())}")
    lines.append(f"  Network: {' '.join(plugins.get('Network') or ())}")
    if plugins.get("Authorization"):
        lines.append(f"  Authorization: {' '.join(plugins['Authorization'])}")
    lines.append(f"  Log: {' '.join(plugins.get('Log') or ())}")
    if info.get("CDISpecDirs"):
        lines.append(" CDI spec directories:")
        lines += [f"  {directory}" for directory in info["CDISpecDirs"]]
    return lines


def _swarm(info: dict[str, Any]) -> list[str]:
    swarm = mapping(info, "Swarm")
    lines = [f" Swarm: {swarm.get('LocalNodeState', '')}"]
    if swarm.get("LocalNodeState") in ("inactive", "locked", None, ""):
        return lines
    lines.append(f"  NodeID: {swarm.get('NodeID', '')}")
    if swarm.get("Error"):
        lines.append(f"  Error: {swarm['Error']}")
    lines.append(f"  Is Manager: {_bool(swarm.get('ControlAvailable'))}")
    if swarm.get("ControlAvailable"):
        lines.append(f"  Managers: {swarm.get('Managers', 0)}")
        lines.append(f"  Nodes: {swarm.get('Nodes', 0)}")
    lines.append(f"  Node Address: {swarm.get('NodeAddr', '')}")
    return lines


def _runtime(info: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    if info.get("Runtimes"):
        lines.append(f" Runtimes: {' '.join(sorted(info['Runtimes']))}")
        lines.append(f" Default Runtime: {info.get('DefaultRuntime', '')}")
    if info.get("OSType") == "linux":
        lines.append(f" Init Binary: {info.get('InitBinary', '')}")
        for name, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
            lines.append(f" {name} version: {mapping(info, key).get('ID', '')}")
        if info.get("SecurityOptions"):
            lines.append(" Security Options:")
            for text in info["SecurityOptions"]:
                parts = dict(part.partition("=")[::2] for part in text.split(","))
                name = parts.pop("name", "")
                lines.append(f"  {name}")
                lines += [f"   {_label(key)}: {value}" for key, value in parts.items()]
    return lines


def _label(key: str) -> str:
    return "Profile" if key == "profile" else key


def _host(info: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, key in (
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    ):
        if info.get(key):
            lines.append(f" {name}: {info[key]}")
    lines.append(f" CPUs: {info.get('NCPU', 0)}")
    lines.append(f" Total Memory: {units.bytes_size(info.get('MemTotal') or 0)}")
    for name, key in (("Name", "Name"), ("ID", "ID")):
        if info.get(key):
            lines.append(f" {name}: {info[key]}")
    lines.append(f" Docker Root Dir: {info.get('DockerRootDir', '')}")
    lines.append(f" Debug Mode: {_bool(info.get('Debug'))}")
    if info.get("Debug"):
        for name, key in (
            ("File Descriptors", "NFd"),
            ("Goroutines", "NGoroutines"),
            ("System Time", "SystemTime"),
            ("EventsListeners", "NEventsListener"),
        ):
            lines.append(f"  {name}: {info.get(key, '')}")
    for name, key in (("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")):
        if info.get(key):
            lines.append(f" {name}: {info[key]}")
    if info.get("Labels"):
        lines.append(" Labels:")
        lines += [f"  {label}" for label in info["Labels"]]
    lines.append(f" Experimental: {_bool(info.get('ExperimentalBuild'))}")
    return lines


def _registry(info: dict[str, Any]) -> list[str]:
    config = mapping(info, "RegistryConfig")
    lines: list[str] = []
    insecure = [
        name for name, index in sorted(mapping(config, "IndexConfigs").items()) if not index.get("Secure")
    ]
    insecure += items(config, "InsecureRegistryCIDRs")
    if insecure:
        lines.append(" Insecure Registries:")
        lines += [f"  {name}" for name in insecure]
    if config.get("Mirrors"):
        lines.append(" Registry Mirrors:")
        lines += [f"  {mirror}" for mirror in config["Mirrors"]]
    return lines


def _tail(info: dict[str, Any]) -> list[str]:
    lines = [f" Live Restore Enabled: {_bool(info.get('LiveRestoreEnabled'))}"]
    if info.get("Isolation"):
        lines.append(f" Default Isolation: {info['Isolation']}")
    if info.get("ProductLicense"):
        lines.append(f" Product License: {info['ProductLicense']}")
    if info.get("DefaultAddressPools"):
        lines.append(" Default Address Pools:")
        lines += [f"   Base: {pool['Base']}, Size: {pool['Size']}" for pool in info["DefaultAddressPools"]]
    firewall = mapping(info, "FirewallBackend")
    if firewall.get("Driver"):
        lines.append(f" Firewall Backend: {firewall['Driver']}")
        lines += [f"  {key}: {value}" for key, value in items(firewall, "Info")]
    if items(info, "OpenPorts"):
        lines.append(" Open Ports:")
        lines += [f"  {port}" for port in items(info, "OpenPorts")]
    return lines
