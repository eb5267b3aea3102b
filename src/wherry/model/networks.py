"""Networks as the Docker Engine API spells them: /networks and /networks/{id}."""

from __future__ import annotations

from msgspec import field

from wherry.model.containers import EndpointSettings
from wherry.model.wire import Wire, capital_words


class IPAMConfig(Wire, omit_defaults=True, rename=capital_words):
    """One subnet of a network."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class IPAM(Wire):
    """Where a network's addresses come from."""

    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IPAMConfig] | None = None


class EndpointResource(Wire, rename=capital_words):
    """One container on a network. Addresses come with their prefix: `172.17.0.2/16`."""

    name: str
    endpoint_id: str
    mac_address: str = ""
    ipv4_address: str = ""
    ipv6_address: str = ""


class ConfigReference(Wire):
    network: str = ""


class NetworkResource(Wire, kw_only=True, rename=capital_words):
    """A network. `containers` is filled by an inspect and empty in a list."""

    name: str
    id: str = field(name="Id")
    created: str
    scope: str = "local"
    driver: str
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam: IPAM = field(default_factory=IPAM)
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_from: ConfigReference = field(default_factory=ConfigReference)
    config_only: bool = False
    containers: dict[str, EndpointResource] = {}
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class NetworkCreate(Wire, kw_only=True, rename=capital_words):
    """Body of POST /networks/create. `None`: not said."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    ipam: IPAM | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class NetworkCreated(Wire):
    id: str
    warning: str = ""


class NetworkConnect(Wire):
    """Body of POST /networks/{id}/connect."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnect(Wire):
    """Body of POST /networks/{id}/disconnect."""

    container: str = ""
    force: bool = False


class NetworksPruned(Wire):
    networks_deleted: list[str] | None = None
