"""Networks as the Docker Engine API spells them: /networks and /networks/{id}."""

from __future__ import annotations

from msgspec import field

from wherry.model.wire import Wire, capital_words


class IPAMConfig(Wire, omit_defaults=True, rename=capital_words):
    """One subnet of a network."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class IPAM(Wire):
    """Where a network's addresses come from."""

    driver: str = "default"
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
