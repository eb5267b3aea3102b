"""Networks and endpoints as rows of the database. Each function runs inside one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from wherry.network.driver import Endpoint, NetworkConfig


def read_all(connection: sqlite3.Connection) -> tuple[list[NetworkConfig], list[Endpoint]]:
    networks = [row["config"] for row in connection.execute("SELECT config FROM network")]
    endpoints = [row["config"] for row in connection.execute("SELECT config FROM endpoint")]
    return (
        [msgspec.json.decode(config, type=NetworkConfig) for config in networks],
        [msgspec.json.decode(config, type=Endpoint) for config in endpoints],
    )


def write_network(connection: sqlite3.Connection, network: NetworkConfig) -> None:
    connection.execute(
        "INSERT INTO network (id, name, driver, created_ns, config) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET config = excluded.config",
        (network.id, network.name, network.driver, network.created_ns, msgspec.json.encode(network)),
    )


def delete_network(connection: sqlite3.Connection, network: NetworkConfig) -> None:
    connection.execute("DELETE FROM network WHERE id = ?", (network.id,))


def insert_endpoints(connection: sqlite3.Connection, endpoints: Iterable[Endpoint]) -> None:
    connection.executemany(
        "INSERT INTO endpoint (id, network_id, container_id, address, address6, config) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                endpoint.id,
                endpoint.network_id,
                endpoint.container_id,
                endpoint.address or None,
                endpoint.address6 or None,
                msgspec.json.encode(endpoint),
            )
            for endpoint in endpoints
        ],
    )


def delete_endpoint(connection: sqlite3.Connection, endpoint: Endpoint) -> None:
    connection.execute("DELETE FROM endpoint WHERE id = ?", (endpoint.id,))
