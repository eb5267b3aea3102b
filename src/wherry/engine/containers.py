"""Containers: create, find, list, look into, rename, remove. What makes them live and die is in lifecycle.py."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import sqlite3
import time
from contextlib import AsyncExitStack

import msgspec
from msgspec import UNSET

from wherry.engine import bundle, views
from wherry.engine.added_mounts import AddedMounts
from wherry.engine.attach import (
    Attachment,
    AttachOptions,
    EarlyClient,
    answer_wait,
    check_detach_keys,
    hang_up,
)
from wherry.engine.context import Context
from wherry.engine.creation import (
    check_combination,
    check_endpoints,
    check_resources,
    check_restart_policy,
    parse_signal,
    plan_container,
)
from wherry.engine.images import ImageUser
from wherry.engine.lifecycle import Lifecycle, must_not_restart
from wherry.engine.links import parse_link
from wherry.engine.log_setup import check_log
from wherry.engine.logs import LogsOptions, LogStream, open_logs
from wherry.engine.names import check_name, suggest_name
from wherry.engine.naming import DEFAULT_NETWORK
from wherry.engine.records import (
    Condition,
    Container,
    ContainerRecord,
    ContainerState,
    MountSpec,
    Waiter,
    encode_row,
)
from wherry.engine.stats import Stats
from wherry.engine.times import parse_timestamp
from wherry.engine.views import Filters
from wherry.engine.volume_mounts import ContainerMounts, snapshots_of, volumes_of
from wherry.errors import Conflict, Internal, InvalidParameter, NotFound
from wherry.linux.killpoint import killpoint
from wherry.model.containers import (
    ContainerCreate,
    ContainerCreated,
    ContainerInspect,
    ContainersPruned,
    ContainerSummary,
    ContainerTop,
    ContainerUpdate,
    ContainerUpdated,
    ContainerWaited,
    EndpointSettings,
    Mount,
    MountPoint,
    Resources,
)
from wherry.oci.digest import ChainID
from wherry.shim.client import ShimError, ShimGone
from wherry.volumes.volumes import doom_in, settle_in

CONDITIONS: dict[str, Condition] = {
    "": "not-running",
    "not-running": "not-running",
    "next-exit": "next-exit",
    "removed": "removed",
}


class Containers:
    """The engine's containers, by ID in memory and in the database."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._by_id: dict[str, Container] = {}
        self._ids: dict[str, str] = {}  # by name
        self.mounts = ContainerMounts(
            context, lambda: [container for container in self._by_id.values() if container.state.is_running]
        )
        self.added = AddedMounts(context, self.mounts)
        self.stats = Stats(context, find=self.find, exists=self._by_id.__contains__)
        self.lifecycle = Lifecycle(
            context, remove=self._remove_stopped, mounts=self.mounts, find_running=self._joined_container
        )
        context.naming.find = self._by_id.get
        context.naming.all = self.all

    # Finding

    def find(self, reference: str) -> Container:
        """By full ID, name or unique prefix of an ID, in that order. Docker's texts."""
        text = reference.removeprefix("/")
        found = self._by_id.get(text) or self._by_id.get(self._ids.get(text, "")) or self._find_linked(text)
        if found:
            return found
        if text and len(text) < 64:
            matches = [container for key, container in self._by_id.items() if key.startswith(text)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise InvalidParameter(f"Multiple IDs found with provided prefix: {text}")
        raise NotFound(f"No such container: {reference}")

    def _find_linked(self, text: str) -> Container | None:
        """What `web/store` names: the container that web is linked to under the name store."""
        parent, _, alias = text.rpartition("/")
        container = self._by_id.get(self._ids.get(parent, "")) if parent else None
        return self._by_id.get(container.record.links.get(alias, "")) if container is not None else None

    def name_of(self, container_id: str) -> str:
        """The container's name; its ID for one that is not shown."""
        container = self._by_id.get(container_id)
        return container.name if container is not None else container_id

    def all(self) -> list[Container]:
        return list(self._by_id.values())

    def users_of(self, image_id: str) -> list[ImageUser]:
        return [
            ImageUser(container.id, container.state.is_active)
            for container in self._by_id.values()
            if container.record.image_id == image_id
        ]

    # Creating

    async def create(
        self, body: ContainerCreate, *, name: str | None = None, platform: str | None = None
    ) -> ContainerCreated:
        """A new container in state created. Half of one is never left: its row is written last."""
        name = check_name(name) if name else None
        async with AsyncExitStack() as until_made:
            record = await self._plan(body, name or "", platform, until_made)
            record.name = self._reserve_name(name, record.id)
            container = Container(record)
            try:
                killpoint("create:name-reserved")
                record.mounts = await self.mounts.provide(record, until_made)
                await self._make(container)
            except BaseException:
                self._ids.pop(record.name, None)
                await asyncio.shield(self._unmake(record))
                raise
        self._by_id[record.id] = container
        self._context.events.emit("container", "create", record.id, container.event_attributes())
        return ContainerCreated(id=record.id, warnings=self._warnings(record))

    async def _plan(
        self, body: ContainerCreate, name: str, platform: str | None, until_made: AsyncExitStack
    ) -> ContainerRecord:
        """What `body` asks for, decided and checked; its image stays on disk until `until_made` ends."""
        context = self._context
        image = await context.image_defaults(body.image, platform, until_made) if body.image else None
        record = plan_container(
            body,
            image,
            container_id=secrets.token_hex(32),
            name=name,
            created_ns=time.time_ns(),
            settings=context.settings,
            facts=context.facts,
            mounts_of=self._mounts_of,
        )
        record.endpoints = self._by_network_name(record)
        check_endpoints(record.endpoints, context.networks.find, is_new=True)
        check_combination(record.host, record.endpoints)
        bundle.security_options(record.host, context.settings)
        record.links = self._links(record)
        check_log(record.host.log_config)
        return record

    def _links(self, record: ContainerRecord) -> dict[str, str]:
        """The containers that `--link` names, by what they are to be called. Docker's texts."""
        links: dict[str, str] = {}
        mode = record.host.network_mode
        for text in record.host.links or ():
            name, alias = parse_link(text)
            if mode != DEFAULT_NETWORK:
                continue  # the links of its endpoint hold
            try:
                target = self.find(name)
            except NotFound as exc:
                # Not NotFound, which a client takes for the image's.
                raise InvalidParameter(f"could not get container for {name}: {exc}") from exc
            while target.record.host.network_mode.startswith("container:"):
                target = self.find(target.record.host.network_mode.partition(":")[2])
            if target.record.host.network_mode == "host":
                raise InvalidParameter(
                    "conflicting options: host type networking can't be used with links. This would result in"
                    " undefined behavior"
                )
            links[alias] = target.id
        return links

    def _by_network_name(self, record: ContainerRecord) -> dict[str, EndpointSettings]:
        """What is asked of each network, under the name it has now; a start says so if there still is none by then."""
        named: dict[str, EndpointSettings] = {}
        for text, asked in record.endpoints.items():
            network = self._context.networks.find(text)
            name = network.name if network is not None else text
            if name not in named or named[name] == EndpointSettings():  # given by name and by ID
                named[name] = asked
        return named

    def _mounts_of(self, reference: str) -> tuple[MountSpec, ...]:
        """What `--volumes-from` takes over: all but what came by `--tmpfs`."""
        try:
            mounts = self.find(reference).record.mounts
        except NotFound as exc:  # a 404 would make the CLI pull the image
            raise InvalidParameter(str(exc)) from exc
        return tuple(mount for mount in mounts if mount.type != "tmpfs" or mount.is_mount_api)

    def _reserve_name(self, wanted: str | None, container_id: str) -> str:
        if wanted:
            holder = self._ids.get(wanted)
            if holder:
                raise Conflict(
                    f'Conflict. The container name "/{wanted}" is already in use by container "{holder}". You have'
                    " to remove (or rename) that container to be able to reuse that name."
                )
            self._ids[wanted] = container_id
            return wanted
        attempt = 0
        while (name := suggest_name(attempt)) in self._ids:
            attempt += 1
        self._ids[name] = container_id
        return name

    async def _make(self, container: Container) -> None:
        context, record = self._context, container.record
        await asyncio.to_thread(self._make_files, record)
        killpoint("create:files-made")
        await self.mounts.populate(record)
        config, state = encode_row(record), encode_row(container.state)

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO container (id, created_ns, image_id, config, state) VALUES (?,?,?,?,?)",
                (record.id, record.created_ns, record.image_id, config, state),
            )
            connection.execute("INSERT INTO name (name, container_id) VALUES (?,?)", (record.name, record.id))
            if record.mounts:
                settle_in(connection, record.id)

        await context.database.run(insert, durable=not record.host.auto_remove)
        context.volumes.settled(record.id)
        killpoint("create:row-written")

    def _make_files(self, record: ContainerRecord) -> None:
        self._context.driver.prepare(record.id, [ChainID(text) for text in record.chain_ids])
        killpoint("create:snapshot-prepared")
        self.mounts.make_snapshots(record)
        os.mkdir(self._context.container_dir(record.id), 0o710)

    async def _unmake(self, record: ContainerRecord) -> None:
        await asyncio.to_thread(self._delete_files, record.id, snapshots_of(record))
        await self._context.volumes.discard(record.id)

    def _delete_files(self, container_id: str, snapshots: list[str]) -> None:
        for key in (container_id, *snapshots):
            self._context.driver.remove(key)
        shutil.rmtree(self._context.container_dir(container_id), ignore_errors=True)
        shutil.rmtree(self._context.exec_dir(container_id), ignore_errors=True)

    def _warnings(self, record: ContainerRecord) -> list[str]:
        warnings: list[str] = []
        config = record.config
        if record.host.port_bindings and record.host.network_mode == "host":
            warnings.append("Published ports are discarded when using host network mode")  # Docker's text
        if config.healthcheck is not UNSET and config.healthcheck.test not in (None, [], ["NONE"]):
            warnings.append("health checks are kept but not run yet")
        return warnings

    # Looking

    async def list(
        self, *, all: bool = False, limit: int = 0, size: bool = False, filters: Filters | None = None
    ) -> list[ContainerSummary]:
        """Newest first. A `status` filter or a limit implies all."""
        filters = filters or {}
        ancestors = await self._context.ancestor_ids(filters.get("ancestor", []))
        matches = views.container_filter(filters, find=self.find, ancestors=ancestors)
        shows_all = all or limit > 0 or bool(filters.get("status"))
        chosen = sorted(
            (c for c in self._by_id.values() if (shows_all or c.state.is_active) and matches(c)),
            key=lambda c: c.record.created_ns,
            reverse=True,
        )
        if limit > 0:
            chosen = chosen[:limit]
        names = await self._context.current_names({c.record.image_reference for c in chosen})
        linked = self._link_names()
        now_ns = time.time_ns()
        rows: list[ContainerSummary] = []
        for container in chosen:
            record = container.record
            is_current = names.get(record.image_reference) == record.image_id
            row = views.summary(
                container, image=record.image_reference if is_current else record.image_id, now_ns=now_ns
            )
            row.names += sorted(linked.get(record.id, ()))
            if size:
                row.size_rw, row.size_root_fs = await self._sizes(container)
            rows.append(row)
        return rows

    async def inspect(self, reference: str, *, size: bool = False) -> ContainerInspect:
        container = self.find(reference)
        sizes = await self._sizes(container) if size else (None, None)
        return views.inspect(
            container,
            paths=self._paths(container),
            graph_data={**self._context.driver.graph_data(container.id), "ID": container.id},
            links=self._shown_links(container),
            size_rw=sizes[0],
            size_root_fs=sizes[1],
        )

    def _paths(self, container: Container) -> dict[str, str]:
        """Where the container's files are. One that joins another's network has that one's /etc files."""
        paths, mode = self._context.paths(container.id), container.record.host.network_mode
        if mode.startswith("container:"):
            try:
                other = self._context.paths(self.find(mode.partition(":")[2]).id)
            except (NotFound, InvalidParameter):
                return paths
            return {**other, "log": paths["log"]}
        return paths

    def _link_names(self) -> dict[str, list[str]]:
        """What containers are called by others that are linked to them, by ID."""
        names: dict[str, list[str]] = {}
        for other in self._by_id.values():
            for alias, target in other.record.links.items():
                names.setdefault(target, []).append(f"/{other.name}/{alias}")
        return names

    def _shown_links(self, container: Container) -> list[str] | None:
        """The container's legacy links as `inspect` shows them."""
        shown = [
            f"/{target.name}:/{container.name}/{alias}"
            for alias, target_id in container.record.links.items()
            if (target := self._by_id.get(target_id)) is not None
        ]
        return shown or None

    async def _sizes(self, container: Container) -> tuple[int, int]:
        writable = await asyncio.to_thread(self._context.driver.usage, container.id)
        return writable, writable + await self._context.image_size(container.record.image_id)

    async def top(self, reference: str, ps_args: str = "") -> ContainerTop:
        """The container's processes as the host's `ps` shows them."""
        container = self.find(reference)
        self._must_run(container)
        shim = container.shim
        if shim is None:
            raise Conflict(f"container {container.id} is not running")
        pids = [int(pid) for pid in (await shim.pids())["pids"]]
        return await list_processes(pids, ps_args or "-ef")

    async def logs(self, reference: str, options: LogsOptions) -> LogStream:
        container = self.find(reference)
        return await open_logs(self._context, container, options)

    async def trace(self, reference: str) -> dict[str, list[dict[str, object]]]:
        """Where the milliseconds of the last start went."""
        container = self.find(reference)
        return {"Steps": [{"Name": step, "At": round(at, 3)} for step, at in container.trace]}

    # Living: each takes a reference and hands a container on

    async def start(self, reference: str, *, detach_keys: str | None = None) -> None:
        await self.lifecycle.start(self.find(reference))

    async def stop(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        await self.lifecycle.stop(self.find(reference), timeout_s=timeout_s, signal=signal)

    async def restart(
        self, reference: str, *, timeout_s: int | None = None, signal: str | None = None
    ) -> None:
        container = self.find(reference)
        await self.lifecycle.restart(container, timeout_s=timeout_s, signal=signal)

    async def kill(self, reference: str, *, signal: str | None = None) -> None:
        try:
            container = self.find(reference)
            number = parse_signal(signal) if signal else 9
        except (NotFound, InvalidParameter) as exc:
            raise type(exc)(f"cannot kill container: {reference}: {exc}") from exc
        await self.lifecycle.kill(container, number)

    async def pause(self, reference: str) -> None:
        await self.lifecycle.pause(self.find(reference))

    async def unpause(self, reference: str) -> None:
        await self.lifecycle.unpause(self.find(reference))

    async def resize(self, reference: str, *, height: int, width: int) -> None:
        container = self.find(reference)
        if not container.state.is_running or container.shim is None:
            raise Conflict(f"container {container.id} is not running")
        if (
            container.record.config.tty
        ):  # without a terminal there is nothing to do, and Docker says so by 200
            await container.shim.resize(width=width, height=height)

    async def update(self, reference: str, body: ContainerUpdate) -> ContainerUpdated:
        """Change limits and restart policy, now and for later starts."""
        container = self.find(reference)
        async with container.lock:
            if container.state.status in ("removing", "dead"):
                raise Conflict(f"Cannot update container {container.id}: container is marked for removal")
            host = msgspec.structs.replace(container.record.host)
            for field in Resources.__struct_fields__:
                value = getattr(body, field)
                if value:
                    setattr(host, field, value)
            if body.restart_policy.name:
                check_restart_policy(body.restart_policy)
                if host.auto_remove and body.restart_policy.name != "no":
                    raise Conflict(
                        f"Cannot update container {container.id}: Restart policy cannot be updated because AutoRemove is"
                        " enabled for the container"
                    )
                host.restart_policy = body.restart_policy
            check_resources(host, self._context.facts)
            if container.state.is_running:
                resources = bundle.resources_for(host, privileged=host.privileged)
                resources.pop("devices")
                await self.lifecycle.apply_limits(container, resources)
            container.record.host = host
            await self._context.save_record(container)
        self._context.events.emit("container", "update", container.id, container.event_attributes())
        return ContainerUpdated(warnings=[])

    async def add_mount(self, reference: str, body: Mount) -> MountPoint:
        return views.mount_point(await self.added.add(self.find(reference), body))

    async def remove_mount(self, reference: str, target: str, *, force: bool = False) -> None:
        await self.added.remove(self.find(reference), target, force=force)

    async def wait(self, reference: str, condition: str = "") -> WaitingClient:
        """A client that waits. It is registered before this returns, so that no exit can be missed."""
        chosen = CONDITIONS.get(condition)
        if chosen is None:
            raise InvalidParameter(f'invalid condition: "{condition}"')
        container = self.find(reference)
        waiter = Waiter(chosen)
        if chosen == "not-running" and not container.state.is_active:
            waiter.settle(ContainerWaited(status_code=container.state.exit_code))
        else:
            container.waiters.append(waiter)
        return WaitingClient(container, waiter)

    async def attach(self, reference: str, options: AttachOptions) -> Attachment:
        """Attach to a container's own process, running or yet to be started."""
        container = self.find(reference)
        if container.state.status == "paused":
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        must_not_restart(container)
        check_detach_keys(options.detach_keys)
        if container.state.status in ("removing", "dead"):
            raise Conflict(f"container {container.id} is marked for removal")
        config = container.record.config

        async def deliver(sock: socket.socket, pending: bytes) -> None:
            await self._deliver(container, options, sock, pending)

        return Attachment(mux=not config.tty, deliver=deliver)

    async def _deliver(
        self, container: Container, options: AttachOptions, sock: socket.socket, pending: bytes
    ) -> None:
        if options.logs:
            await self._replay(container, options, sock)
        if not options.stream:
            hang_up(sock)
            return
        client = EarlyClient(sock=sock, pending=pending, options=options)
        async with container.lock:
            if container.state.status == "running" and container.shim is not None:
                await self.lifecycle.hand_over(container, client)
            elif container.id not in self._by_id:
                hang_up(sock)
            else:
                for early in [early for early in container.early if early.is_gone()]:
                    container.early.remove(early)
                    early.sock.close()
                container.early.append(client)
        self._context.events.emit("container", "attach", container.id, container.event_attributes())

    async def _replay(self, container: Container, options: AttachOptions, sock: socket.socket) -> None:
        """What the container has written so far, for `attach` with `logs=1`."""
        stream = await open_logs(
            self._context, container, LogsOptions(stdout=options.stdout, stderr=options.stderr)
        )
        loop = asyncio.get_running_loop()
        async for chunk in stream:
            await loop.sock_sendall(sock, chunk)

    # Changing and removing

    async def rename(self, reference: str, new_name: str) -> None:
        container = self.find(reference)
        if not new_name:
            raise InvalidParameter("Neither old nor new names may be empty")
        try:
            name = check_name("/" + new_name.removeprefix("/"))
        except InvalidParameter as exc:
            raise InvalidParameter(f"Error when allocating new name: {exc}") from exc
        async with container.lock:
            old = container.record.name
            if name == old:
                raise InvalidParameter("Renaming a container with the same name as its current name")
            try:
                self._reserve_name(name, container.id)
            except Conflict as exc:
                raise Conflict(f"Error when allocating new name: {exc}") from exc
            try:
                record = msgspec.structs.replace(container.record, name=name)
                config = encode_row(record)

                def change(connection: sqlite3.Connection) -> None:
                    connection.execute("UPDATE name SET name=? WHERE container_id=?", (name, record.id))
                    connection.execute("UPDATE container SET config=? WHERE id=?", (config, record.id))

                await self._context.database.run(change)
            except BaseException:
                self._ids.pop(name, None)
                raise
            container.record.name = name
            self._ids.pop(old, None)
            self._context.naming.renamed(container)
        attributes = {**container.event_attributes(), "oldName": "/" + old}
        self._context.events.emit("container", "rename", container.id, attributes)

    async def remove(
        self, reference: str, *, force: bool = False, volumes: bool = False, link: bool = False
    ) -> None:
        if link:
            await self._remove_link(reference)
            return
        container = self.find(reference)
        if container.state.status == "removing":
            raise Conflict(f"removal of container {reference} is already in progress")
        if container.state.is_active:
            if not force:
                state = container.state.status
                advice = (
                    "unpause and then stop the container before removing or force remove"
                    if state == "paused"
                    else "stop the container before removing or force remove"
                )
                raise Conflict(f'cannot remove container "{container.name}": container is {state}: {advice}')
            await self.lifecycle.kill_and_wait(container)
        async with container.lock:
            if container.id not in self._by_id:
                return  # it removed itself meanwhile
            await self._remove_stopped(container, volumes=volumes)

    async def _remove_link(self, reference: str) -> None:
        """`docker rm --link web/store`. Docker's texts."""
        parent, _, alias = reference.strip("/").rpartition("/")
        if not parent:
            raise Conflict("Conflict, cannot remove the default link name of the container")
        container = self._by_id.get(self._ids.get(parent, ""))
        if container is None:
            raise NotFound(f"Cannot get parent /{parent} for link name /{parent}/{alias}")
        async with container.lock:
            if alias not in container.record.links:
                raise NotFound(f"No such container: {reference}")
            target = container.record.links.pop(alias)
            try:
                await self._context.save_record(container)
            except BaseException:
                container.record.links[alias] = target
                raise
            self._context.naming.unlinked(container, alias)

    async def _remove_stopped(self, container: Container, *, volumes: bool = False) -> None:
        """Make a stopped container cease to be; with `volumes`, or --rm, its anonymous volumes too. The caller holds
        its lock.

        The row goes first: it is what a restart believes; files without a row are deleted at the next start.
        """
        context = self._context
        await context.free_files(container, at_once=True)
        container.state.become("removing")
        record, container_id, snapshots = container.record, container.id, snapshots_of(container.record)
        going = self.mounts.going_with(record) if volumes or record.host.auto_remove else []

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM name WHERE container_id=?", (container_id,))
            connection.execute("DELETE FROM container WHERE id=?", (container_id,))
            if going:
                doom_in(connection, going, container_id)

        durable = not record.host.auto_remove
        try:
            await context.database.run(delete, durable=durable)
        except Internal:  # a full disk has no room to note a removal: make some
            try:
                await asyncio.to_thread(self._delete_files, container_id, snapshots)
                await context.database.run(delete, durable=durable)
            except BaseException:
                container.state.become("exited")
                raise
        killpoint("remove:row-deleted")
        self._by_id.pop(container_id, None)
        self._ids.pop(container.name, None)
        context.volumes.doomed(going, container_id)
        await asyncio.to_thread(self._delete_files, container_id, snapshots)
        killpoint("remove:files-deleted")
        for early in container.early:
            hang_up(early.sock)
        container.early.clear()
        answer = ContainerWaited(status_code=container.state.exit_code)
        for waiter in container.waiters:
            waiter.settle(answer)
        container.waiters.clear()
        context.forget_execs(container)
        context.events.emit("container", "destroy", container_id, container.event_attributes())
        await self.mounts.removed(record, going)

    async def prune(self, filters: Filters | None = None) -> ContainersPruned:
        """Remove every stopped container that the filters allow."""
        filters = filters or {}
        views.check_filters(filters, frozenset(("until", "label", "label!")))
        until = min((parse_timestamp(text) for text in filters.get("until", ())), default=None)
        deleted: list[str] = []
        reclaimed = 0
        for container in self.all():
            labels = container.record.config.labels or {}
            if (
                container.state.is_active
                or (until is not None and container.record.created_ns >= until)
                or not views.label_matches(labels, filters.get("label", []))
                or (filters.get("label!") and views.label_matches(labels, filters["label!"]))
            ):
                continue
            try:
                size = await asyncio.to_thread(self._context.driver.usage, container.id)
                await self.remove(container.id)
            except (Conflict, NotFound):
                continue  # somebody started or removed it meanwhile
            deleted.append(container.id)
            reclaimed += size
        self._context.events.emit("container", "prune", "", {"reclaimed": str(reclaimed)})
        return ContainersPruned(containers_deleted=deleted or None, space_reclaimed=reclaimed)

    # Restoring

    def restore(self, record: ContainerRecord, state: ContainerState) -> Container:
        """Know a container again that the database knows."""
        container = Container(record, state)
        self._by_id[record.id] = container
        self._ids[record.name] = record.id
        self._context.volumes.use((mount.name for mount in volumes_of(record)), record.id)
        return container

    def reserve(self, name: str, container_id: str) -> None:
        """Keep a name for a container that is not shown: it belongs to another storage driver."""
        self._ids[name] = container_id

    def _joined_container(self, mode: str) -> Container:
        """The running container that `container:REF` names. Docker's text when it does not run."""
        try:
            other = self.find(mode.partition(":")[2])
        except NotFound as exc:
            raise NotFound(f"joining network namespace of container: {exc}") from exc
        must_not_restart(other)
        if not other.state.is_running:
            raise Conflict(
                "cannot join network namespace of a non running container: "
                f"container {other.name} is {other.state.status}"
            )
        return other

    def _must_run(self, container: Container) -> None:
        must_not_restart(container)
        if not container.state.is_running:
            raise Conflict(f"container {container.id} is not running")


class WaitingClient:
    """A client of `wait`: answer it on its raw connection, or ask for the result."""

    def __init__(self, container: Container, waiter: Waiter) -> None:
        self._container = container
        self._waiter = waiter

    async def deliver(self, sock: socket.socket) -> None:
        """Answer on `sock`, whose response head is written. Handed to the shim too, which outlives this daemon."""
        container = self._container
        self._waiter.socket = sock
        if container.shim is not None and container.state.is_running:
            try:
                await container.shim.wait(sock, self._waiter.condition)
            except (ShimError, ShimGone):
                pass  # it ends just now, and we are here to answer
        try:
            await answer_wait(self._waiter, sock)
        finally:
            self._forget()

    async def result(self) -> ContainerWaited:
        try:
            return await self._waiter.answer
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._waiter in self._container.waiters:
            self._container.waiters.remove(self._waiter)


async def list_processes(pids: list[int], ps_args: str) -> ContainerTop:
    """Run the host's `ps` and keep the container's processes. Docker's rules: the output must have a PID column.

    Asked by pid first, which finds processes on any terminal; some options of `ps` do not go with that.
    """
    words = ps_args.split()
    code, output, errors = await _run_ps([*words, "-q" + ",".join(map(str, pids))])
    if code != 0:
        code, output, errors = await _run_ps(words)
    if code != 0:
        raise InvalidParameter(f"ps: {errors.strip().partition(chr(10))[0]}")
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidParameter("Couldn't find PID field in ps output")
    column = titles.index("PID")
    wanted = {str(pid) for pid in pids}
    rows = [line.split(None, len(titles) - 1) for line in lines[1:]]
    return ContainerTop(
        titles=titles, processes=[row for row in rows if len(row) > column and row[column] in wanted]
    )


async def _run_ps(words: list[str]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "ps",
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": bundle.DEFAULT_PATH, "LC_ALL": "C.UTF-8"},
    )
    async with asyncio.timeout(10):
        output, errors = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")
