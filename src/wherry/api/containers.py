"""Routes under /containers, beside those of execs."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from wherry.api import errors, filters, streams, versions, websocket
from wherry.api.call import Call, read_as
from wherry.api.hijack import Detached, connection_of, hijack, response_head, stream_head
from wherry.api.routes import Route
from wherry.engine.attach import AttachOptions
from wherry.engine.logs import LogsOptions
from wherry.errors import InvalidParameter, WherryError
from wherry.model import wire
from wherry.model.containers import (
    BindOptions,
    ContainerConfig,
    ContainerCreate,
    ContainerUpdate,
    EndpointSettings,
    Mount,
    NetworkingConfig,
    PortsAdd,
    PortsShown,
)

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

MAX_IGNORED_BODY = 64 * 1024


async def list_(call: Call) -> web.StreamResponse:
    rows = await call.engine.containers.list(
        all=call.flag("all"),
        limit=call.optional_number("limit") or 0,
        size=call.flag("size"),
        filters=call.filters(),
    )
    return call.json(rows, kind="container row")


class _Create(ContainerCreate):
    """Docker takes a string for a list of one here, and nowhere else."""

    cmd: list[str] | str | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    shell: list[str] | str | UnsetType = UNSET  # pyright: ignore[reportIncompatibleVariableOverride]


async def create(call: Call) -> web.StreamResponse:
    data = await call.read_json()
    body = read_as(data, _Create)
    if not _has_config(data):
        raise InvalidParameter("config cannot be empty in order to create a container")  # Docker's text
    if isinstance(body.cmd, str):
        body.cmd = [body.cmd]
    if isinstance(body.shell, str):
        body.shell = [body.shell]
    if call.version < versions.CONSOLE_SIZE and body.host_config is not None:
        body.host_config.console_size = (0, 0)
    warnings = _settle_networks(body, call.version)
    if call.version < versions.RECURSIVE_READ_ONLY and body.host_config is not None:
        for mount in body.host_config.mounts or ():
            if mount.type == "bind" and mount.read_only:
                mount.bind_options = mount.bind_options or BindOptions()
                mount.bind_options.read_only_non_recursive = True
    created = await call.engine.containers.create(
        body, name=call.optional_text("name"), platform=call.optional_text("platform")
    )
    created.warnings += warnings
    return call.json(created, status=201)


def _settle_networks(body: ContainerCreate, version: versions.Version) -> list[str]:
    """What clients of one version say about networks in the way of the newest; warnings. Docker's texts."""
    networking = body.networking_config or NetworkingConfig()
    endpoints = dict(networking.endpoints_config or {})
    mode = (body.host_config.network_mode if body.host_config is not None else "") or "default"
    is_old = version < versions.SEVERAL_NETWORKS
    if is_old and len(endpoints) > 1:
        raise InvalidParameter(
            f"Container cannot be created with multiple network endpoints: {', '.join(endpoints)}"
        )
    if is_old:  # such a client has no other word for it than the container-wide one
        for settings in endpoints.values():
            settings.mac_address = ""
    warnings: list[str] = []
    if body.mac_address:
        if mode in ("host", "none") or mode.startswith("container:"):
            if is_old:
                raise InvalidParameter("conflicting options: mac-address and the network mode")
        else:
            main = next((e for name, e in endpoints.items() if is_old or name == mode), None)
            if main is None:
                main = endpoints[mode] = EndpointSettings()
            if main.mac_address not in ("", body.mac_address):
                raise InvalidParameter(
                    "the container-wide MAC address must match the endpoint-specific MAC address for the main"
                    " network, or be left empty"
                )
            main.mac_address = body.mac_address
        if not is_old:
            warnings.append(
                "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig"
                " instead."
            )
    body.networking_config = NetworkingConfig(endpoints_config=endpoints)
    return warnings


_CONFIG_KEYS = frozenset(field.encode_name.lower() for field in msgspec.structs.fields(ContainerConfig))


def _has_config(data: bytes) -> bool:
    """Whether a body has any field of the portable half: Docker takes none for a forgotten configuration."""
    return any(key.lower() in _CONFIG_KEYS for key in msgspec.json.decode(data, type=dict[str, msgspec.Raw]))


async def inspect(call: Call) -> web.StreamResponse:
    found = await call.engine.containers.inspect(call.ref, size=call.flag("size"))
    return call.json(found, kind="container")


async def top(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.containers.top(call.ref, call.text("ps_args")))


async def stats(call: Call) -> web.StreamResponse:
    is_stream = call.flag("stream", default=True)
    one_shot = call.version >= versions.ONE_SHOT_STATS and call.flag("one-shot")
    if is_stream and one_shot:
        raise InvalidParameter("cannot have stream=true and one-shot=true")  # Docker's text
    if is_stream:
        return await streams.lines(call, call.engine.containers.stats.watch(call.ref), "application/json")
    with streams.UntilGone(call):
        return call.json(await call.engine.containers.stats.once(call.ref, with_previous=not one_shot))


async def trace(call: Call) -> web.StreamResponse:
    """Ours, not Docker's: where the milliseconds of the last start went."""
    return call.json(await call.engine.containers.trace(call.ref))


async def logs(call: Call) -> web.StreamResponse:
    stdout, stderr = call.flag("stdout"), call.flag("stderr")
    if not (stdout or stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")  # Docker's text
    options = LogsOptions(
        stdout=stdout,
        stderr=stderr,
        follow=call.flag("follow"),
        timestamps=call.flag("timestamps"),
        details=call.flag("details"),
        since_ns=call.optional_time_ns("since"),
        until_ns=call.optional_time_ns("until"),
        tail=_tail(call.text("tail")),
    )
    stream = await call.engine.containers.logs(call.ref, options)
    return await streams.logs(call, stream, _stream_type(call, mux=stream.mux), follow=options.follow)


def _tail(text: str) -> int | None:
    """Docker takes everything that is no number of lines for "all"."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _stream_type(call: Call, *, mux: bool) -> str:
    return MULTIPLEXED_STREAM if mux and call.version >= versions.MULTIPLEXED_TYPE else RAW_STREAM


async def resize(call: Call) -> web.StreamResponse:
    height, width = terminal_size(call)
    await call.engine.containers.resize(call.ref, height=height, width=width)
    return call.empty(200)


def terminal_size(call: Call) -> tuple[int, int]:
    return filters.size(call.text("h"), "height"), filters.size(call.text("w"), "width")


async def start(call: Call) -> web.StreamResponse:
    length = call.request.content_length
    if (length or 0) > 7 or (length is None and call.request.can_read_body):
        # Docker's text. Up to seven bytes are let through: `{}` and `null` of old clients.
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    if call.optional_text("checkpoint"):
        raise InvalidParameter("checkpoint is not supported")
    await call.engine.containers.start(call.ref, detach_keys=call.optional_text("detachKeys"))
    return call.empty()


async def stop(call: Call) -> web.StreamResponse:
    timeout_s, signal = _stopping(call)
    await call.engine.containers.stop(call.ref, timeout_s=timeout_s, signal=signal)
    return call.empty()


async def restart(call: Call) -> web.StreamResponse:
    timeout_s, signal = _stopping(call)
    await call.engine.containers.restart(call.ref, timeout_s=timeout_s, signal=signal)
    return call.empty()


def _stopping(call: Call) -> tuple[int | None, str | None]:
    signal = call.optional_text("signal") if call.version >= versions.SIGNAL_ON_STOP else None
    return call.optional_number("t"), signal


async def kill(call: Call) -> web.StreamResponse:
    try:
        await call.engine.containers.kill(call.ref, signal=call.optional_text("signal"))
    except WherryError as exc:
        prefix = "cannot kill container: "  # Docker's API adds it to whatever went wrong
        text = str(exc)
        raise type(exc)(text if text.startswith(prefix) else f"{prefix}{call.ref}: {text}") from exc
    return call.empty()


async def pause(call: Call) -> web.StreamResponse:
    await call.engine.containers.pause(call.ref)
    return call.empty()


async def unpause(call: Call) -> web.StreamResponse:
    await call.engine.containers.unpause(call.ref)
    return call.empty()


async def update(call: Call) -> web.StreamResponse:
    body = await call.optional_body(ContainerUpdate)
    return call.json(await call.engine.containers.update(call.ref, body))


async def ports(call: Call) -> web.StreamResponse:
    """wherry's own, as the next two: the ports a container has now, and changes to them."""
    return call.json(PortsShown(ports=call.engine.ports.list(call.ref)))


async def add_ports(call: Call) -> web.StreamResponse:
    body = read_as(await call.read_json(), PortsAdd)
    return call.json(PortsShown(ports=await call.engine.ports.add(call.ref, body.port_bindings)))


async def remove_ports(call: Call) -> web.StreamResponse:
    if not call.text("port"):
        raise InvalidParameter(
            "no port specified: use ?port=80/tcp, and hostport= or hostip= for only one of several"
        )
    left = await call.engine.ports.remove(
        call.ref, call.text("port"), host_ip=call.text("hostip"), host_port=call.text("hostport")
    )
    return call.json(PortsShown(ports=left))


async def rename(call: Call) -> web.StreamResponse:
    if not call.text("name"):
        raise InvalidParameter("Neither old nor new names may be empty")  # Docker's text
    await call.engine.containers.rename(call.ref, call.text("name"))
    return call.empty()


async def remove(call: Call) -> web.StreamResponse:
    await call.engine.containers.remove(
        call.ref, force=call.flag("force"), volumes=call.flag("v"), link=call.flag("link")
    )
    return call.empty()


async def add_mount(call: Call) -> web.StreamResponse:
    """Ours, not Docker's: a bind or volume for a container that exists, running or not."""
    return call.json(await call.engine.containers.add_mount(call.ref, await call.body(Mount)), status=201)


async def remove_mount(call: Call) -> web.StreamResponse:
    """Ours, not Docker's."""
    if not call.text("target"):
        raise InvalidParameter("target is missing: name the place in the container")
    await call.engine.containers.remove_mount(call.ref, call.text("target"), force=call.flag("force"))
    return call.empty()


async def prune(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.containers.prune(call.filters()))


# Raw connections


def _attach_options(call: Call) -> AttachOptions:
    return AttachOptions(
        stream=call.flag("stream"),
        stdin=call.flag("stdin"),
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        logs=call.flag("logs"),
        detach_keys=call.optional_text("detachKeys"),
    )


async def attach(call: Call) -> web.StreamResponse:
    try:
        attachment = await call.engine.containers.attach(call.ref, _attach_options(call))
    except WherryError as exc:
        return _refuse_attach(call, exc)
    await call.read_all(MAX_IGNORED_BODY)
    head = stream_head(call.request, _stream_type(call, mux=attachment.mux))
    sock, pending = await hijack(call.request, head)
    await attachment.deliver(sock, pending)
    return Detached()


def _refuse_attach(call: Call, error: WherryError) -> web.StreamResponse:
    """Docker has left HTTP by then, and writes the bare text in the stream's type."""
    response = web.Response(
        status=errors.status_for(error),
        body=f"{error}\r\n".encode("utf-8", "replace"),
        headers={**call.headers, "Content-Type": RAW_STREAM},
    )
    response.force_close()
    return response


async def attach_websocket(call: Call) -> web.StreamResponse:
    attachment = await call.engine.containers.attach(call.ref, _attach_options(call))
    return await websocket.serve(call, attachment)


async def wait(call: Call) -> web.StreamResponse:
    """The head goes out at once: `docker run` starts the container only when it has seen it."""
    condition = call.text("condition") if call.version >= versions.WAIT_CONDITION else ""
    if condition not in ("", "not-running", "next-exit", "removed"):
        raise InvalidParameter(f'invalid condition: "{condition[:64]}"')
    await call.read_all(MAX_IGNORED_BODY)
    waiter = await call.engine.containers.wait(call.ref, condition or "not-running")
    if call.version < versions.EARLY_WAIT_HEADER or call.request.version < (1, 1):
        with streams.UntilGone(call):
            return call.json(await waiter.result())
    if connection_of(call.request).is_tls:
        with streams.UntilGone(call):
            response = await streams.begin(call, "application/json")
            await response.write(wire.encode(await waiter.result()) + b"\n")
            return response
    headers = {
        **call.headers,
        "Content-Type": "application/json",
        "Transfer-Encoding": "chunked",
        "Connection": "close",
    }
    sock, _ = await hijack(call.request, response_head("200 OK", headers))
    await waiter.deliver(sock)
    return Detached()


ROUTES = [
    Route("GET", "/containers/json", list_),
    Route("POST", "/containers/create", create),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{ref:path}/json", inspect),
    Route("GET", "/containers/{ref:path}/top", top),
    Route("GET", "/containers/{ref:path}/stats", stats),
    Route("GET", "/containers/{ref:path}/trace", trace),
    Route("GET", "/containers/{ref:path}/logs", logs),
    Route("GET", "/containers/{ref:path}/attach/ws", attach_websocket),
    Route("POST", "/containers/{ref:path}/attach", attach),
    Route("POST", "/containers/{ref:path}/kill", kill),
    Route("POST", "/containers/{ref:path}/pause", pause),
    Route("POST", "/containers/{ref:path}/unpause", unpause),
    Route("GET", "/containers/{ref:path}/ports", ports),
    Route("POST", "/containers/{ref:path}/ports", add_ports),
    Route("DELETE", "/containers/{ref:path}/ports", remove_ports),
    Route("POST", "/containers/{ref:path}/rename", rename),
    Route("POST", "/containers/{ref:path}/resize", resize),
    Route("POST", "/containers/{ref:path}/restart", restart),
    Route("POST", "/containers/{ref:path}/start", start),
    Route("POST", "/containers/{ref:path}/stop", stop),
    Route("POST", "/containers/{ref:path}/update", update),
    Route("POST", "/containers/{ref:path}/wait", wait),
    Route("POST", "/containers/{ref:path}/mounts", add_mount),
    Route("DELETE", "/containers/{ref:path}/mounts", remove_mount),
    Route("DELETE", "/containers/{ref:path}", remove),
]
