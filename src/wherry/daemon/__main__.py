"""wherryd: read the configuration, open the engine, serve the API, until told to stop.

The only place where daemon, API and engine are put together. Containers do not depend on this process: it may be
killed at any time, and the next one goes on from what is on disk and in the launcher.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

import wherry
from wherry.api.app import ApiSettings, build_app, serve
from wherry.api.versions import parse as parse_version
from wherry.daemon import config, listen, log
from wherry.daemon.config import DaemonSettings
from wherry.daemon.notify import notify
from wherry.daemon.reload import Reloading
from wherry.engine.engine import Engine
from wherry.errors import WherryError
from wherry.linux import memory

_log = logging.getLogger("wherry")


def main(argv: list[str] | None = None) -> int:
    """The `wherryd` command."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        settings, only_validate = config.load(argv)
        if only_validate:
            print("configuration OK")
            return 0
    except config.Help as text:
        print(text)
        return 0
    except WherryError as exc:
        print(exc, file=sys.stderr)
        return 1
    if os.geteuid() != 0:
        print("wherryd needs to be started with root privileges", file=sys.stderr)
        return 1
    log.set_up(level=settings.log_level, form=settings.log_format)
    memory.keep_few_arenas()
    try:
        asyncio.run(run(settings, argv))
    except (WherryError, OSError) as exc:
        print(f"failed to start daemon: {exc}", file=sys.stderr)
        return 1
    return 0


async def run(settings: DaemonSettings, argv: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT. `argv` made the settings, and is read again at SIGHUP."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # not before there is something to reload
    for warning in settings.warnings:
        _log.warning(warning)
    tls = listen.tls_context(settings)
    engine = await Engine.open(settings.engine)
    try:
        write_pidfile(settings.pidfile)
        listeners = await open_listeners(settings, engine)
        app = build_app(
            engine,
            ApiSettings(
                engine_version=wherry.__version__,
                min_api_version=parse_version(settings.min_api_version),
                experimental=settings.experimental,
            ),
        )
        servers: list[asyncio.Server] = []
        for host, listener in listeners:
            servers += await serve(app, [listener], tls=tls if host.startswith("tcp") else None)
            _log.info("API listen on %s", host.partition("://")[2] or host)
        gc.collect()
        gc.freeze()  # what is loaded stays: full collections need not walk it
        reloading = Reloading(argv, settings, engine)
        loop.add_signal_handler(signal.SIGHUP, reload, reloading)
        notify("READY=1")
        _log.info("Daemon has completed initialization")
        await stop.wait()
        notify("STOPPING=1")
        for server in servers:
            server.close()
        if engine.settings.live_restore:
            _log.info("Processing signal: containers go on running")
        else:
            _log.info("Processing signal: stopping containers")
            await engine.shut_down()
    except BaseException:
        await engine.launcher.leave(Exception)  # nothing was served: leave no process behind
        raise
    finally:
        await engine.close()
        remove_pidfile(settings.pidfile)


def reload(reloading: Reloading) -> None:
    """SIGHUP. systemd learns when it begins and ends, for units of Type=notify-reload."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    reloading.reload()
    notify("READY=1")


async def open_listeners(settings: DaemonSettings, engine: Engine) -> list[tuple[str, socket.socket]]:
    """The sockets of `settings.hosts`: those the launcher kept for us, and new ones, which it keeps from now on."""
    kept = await engine.launcher.take()
    listeners: list[tuple[str, socket.socket]] = []
    for host in settings.hosts:
        listener = kept.pop(host, None)
        if listener is not None and not listen.still_names(listener, host):
            listener.close()
            listener = None
        if listener is None:
            listener = listen.open_listener(host, settings)
            if not host.startswith("fd://"):  # those are systemd's to keep
                await engine.launcher.hold(host, listener)
        listener.setblocking(False)
        listeners.append((host, listener))
    for host, listener in kept.items():
        await engine.launcher.drop(host)
        listener.close()
        if host.startswith("unix://"):
            try:
                os.unlink(host.removeprefix("unix://"))
            except FileNotFoundError:
                pass
    return listeners


def write_pidfile(path: str) -> None:
    """Say who we are. A file that names a live daemon is refused; the lock on the data root decides otherwise."""
    temporary = f"{path}.{os.getpid()}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(temporary, "w") as file:
        file.write(str(os.getpid()))
    os.rename(temporary, path)


def remove_pidfile(path: str) -> None:
    try:
        with open(path) as file:
            if file.read().strip() == str(os.getpid()):
                os.unlink(path)
    except FileNotFoundError:
        pass


if __name__ == "__main__":
    sys.exit(main())
