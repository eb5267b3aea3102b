"""A container's log driver: checked before the container is made, told to its shim, found again by `docker logs`.

A driver writes to a file below the container's directory.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from wherry import plugins
from wherry.engine.context import Context
from wherry.engine.log_details import details_for, tag_for
from wherry.engine.records import Container, ContainerRecord
from wherry.engine.times import rfc3339
from wherry.errors import InvalidParameter, Unsupported
from wherry.logs import options as log_options
from wherry.model.containers import LogConfig

_CACHE = "local"
"""The driver whose options those of a cache are, without their prefix."""
_NO_READING = "configured logging driver does not support reading"  # Docker's text


class Source(NamedTuple):
    """Where `docker logs` reads."""

    driver: Any
    path: str


def check_log(log: LogConfig) -> None:
    """Refuse a driver that is not installed, or options it does not take. Docker's texts."""
    options = log.config or {}
    if log.type == "none":
        return  # as Docker: whatever is asked, nothing is kept
    log_options.check_common(options)
    if log.type not in plugins.driver_names(plugins.LOGS):
        raise InvalidParameter(f'error looking up logging plugin {log.type}: plugin "{log.type}" not found')
    plugins.load_driver(plugins.LOGS, log.type).validate(log_options.own(options))
    if "tag" in options:
        tag_for(options, "", dict.fromkeys(TAG_FIELDS, ""))
    details_for(options, labels={}, env=[])
    cached = log_options.cache_options(options)
    if cached:
        plugins.load_driver(plugins.LOGS, _CACHE).validate(cached)


def log_target(context: Context, container: Container) -> dict[str, Any]:
    """What the shim is told about the container's log."""
    record = container.record
    options = record.host.log_config.config or {}
    driver = plugins.load_driver(plugins.LOGS, record.host.log_config.type)
    details = details_for(options, labels=record.config.labels or {}, env=record.config.env or [])
    if options.get("tag"):
        details["tag"] = tag_for(options, "", tag_fields(context, record))
    return {
        "driver": plugins.driver_path(plugins.LOGS, record.host.log_config.type),
        "path": _path(context, record, driver.file_name) if driver.file_name else "",
        "options": options,
        "attrs": details,
    }


def log_source(context: Context, record: ContainerRecord) -> Source:
    """Where the container's log is read. Raises Unsupported when nothing is kept."""
    driver = plugins.load_driver(plugins.LOGS, record.host.log_config.type)
    if not driver.readable:
        raise Unsupported(_NO_READING)
    return Source(driver, _path(context, record, driver.file_name))


TAG_FIELDS = (
    "ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "Hostname", "DaemonName", "Command",
    "ContainerID", "ContainerName", "ContainerEntrypoint", "ContainerArgs", "ContainerImageID",
    "ContainerImageName", "ContainerCreated", "LogPath",
)  # fmt: skip


def tag_fields(context: Context, record: ContainerRecord) -> dict[str, str]:
    """What a tag's template may name: the fields and methods of Docker's logger.Info."""
    values = (
        record.id[:12],
        record.id,
        record.name,
        record.image_id.removeprefix("sha256:")[:12],
        record.image_id,
        record.image_reference,
        context.facts.hostname,
        "docker",
        " ".join([record.path, *record.args]),
        record.id,
        f"/{record.name}",
        record.path,
        f"[{' '.join(record.args)}]",
        record.image_id,
        record.image_reference,
        rfc3339(record.created_ns),
        "",
    )
    return dict(zip(TAG_FIELDS, values, strict=True))


def _path(context: Context, record: ContainerRecord, name: str) -> str:
    path = os.path.join(context.container_dir(record.id), name.replace("{id}", record.id))
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return path
