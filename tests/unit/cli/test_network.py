"""What `network create` sends; its texts are compared with docker's in tests/docker."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.cli.network import ipam_config, natural


def config(
    *subnets: str,
    ranges: tuple[str, ...] = (),
    gateways: tuple[str, ...] = (),
    auxiliary: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    return ipam_config(
        subnets=list(subnets), ranges=list(ranges), gateways=list(gateways), auxiliary=auxiliary or {}
    )


def test_each_address_goes_with_the_subnet_it_lies_in() -> None:
    assert config(
        "10.1.0.0/24",
        "fd00::/64",
        ranges=("fd00::8000/120",),
        gateways=("fd00::1", "10.1.0.1"),
        auxiliary={"r": "10.1.0.9"},
    ) == [
        {"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1", "AuxiliaryAddresses": {"r": "10.1.0.9"}},
        {"Subnet": "fd00::/64", "IPRange": "fd00::8000/120", "Gateway": "fd00::1"},
    ]
    assert config() == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"gateways": ("10.1.0.1",)}, "every ip-range or gateway must have a corresponding subnet"),
        ({"subnets": ("x", "10.1.0.0/24")}, "invalid subnet: invalid CIDR address: x"),
        ({"subnets": ("10.1.0.0/24",), "gateways": ("10.2.0.1",)}, "no matching subnet for gateway 10.2.0.1"),
        (
            {"subnets": ("10.1.0.0/24",), "ranges": ("10.2.0.0/25",)},
            "no matching subnet for range 10.2.0.0/25",
        ),
        (
            {"subnets": ("10.1.0.0/24",), "auxiliary": {"a": "10.2.0.1"}},
            "no matching subnet for aux-address 10.2.0.1",
        ),
        (
            {"subnets": ("10.1.0.0/16", "10.1.2.0/24")},
            "multiple overlapping subnet configuration is not supported",
        ),
        (
            {"subnets": ("10.1.0.0/16", "10.1.0.0/16")},
            "multiple overlapping subnet configuration is not supported",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        config(*fields.pop("subnets", ()), **fields)


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["net10", "net2", "a", "net", "2", "10"], key=natural) == [
        "2",
        "10",
        "a",
        "net",
        "net2",
        "net10",
    ]
