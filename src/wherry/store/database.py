"""The one SQLite database, owned by one thread.

All access goes through `run`: the function it is given runs in the owner thread inside one transaction,
committed when it returns and rolled back when it raises. `durable=True` waits for the disk (`synchronous=FULL`),
for what has been promised to a client; otherwise the commit survives the death of the process but not of the
machine.

A full disk must not keep anybody from removing things, nor a container from ending: space for the log and for some
growth of the database is reserved beforehand (`_reserve`).

Schema: numbered SQL files in `migrations/`, applied in order, remembered in `PRAGMA user_version`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Final, TypeVar

from wherry.errors import Internal
from wherry.linux.disk import reserve

T = TypeVar("T")

_LOG_BYTES: Final = 6 << 20
_GROWTH_BYTES: Final = 1 << 20
_RESERVE_EVERY: Final = 1000  # transactions


class Database:
    """Open with `await Database.open(path)`, close with `await database.close()`."""

    def __init__(self, path: str, connection: sqlite3.Connection, owner: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._owner = owner
        self._is_durable = True
        self._path = path
        self._until_reserve = 0

    @classmethod
    async def open(cls, path: str) -> Database:
        """Open or make the database at `path` and bring its schema up to date."""
        owner = ThreadPoolExecutor(1, thread_name_prefix="database")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(owner, _connect, path)
        except BaseException:
            owner.shutdown(wait=False)
            raise
        return cls(path, connection, owner)

    async def run(self, step: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """`step`'s result, once everything it changed is committed. Reads pass `durable=False`: it costs nothing.

        Cancelled, it does not wait; the step, once begun, still runs to its end.
        """
        return await asyncio.get_running_loop().run_in_executor(self._owner, self._transact, step, durable)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._owner, self._connection.close)
        self._owner.shutdown()

    def _transact(self, step: Callable[[sqlite3.Connection], T], durable: bool) -> T:
        if durable != self._is_durable:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable
        if self._until_reserve == 0:
            self._until_reserve = _RESERVE_EVERY
            _reserve(self._path)
        self._until_reserve -= 1
        try:
            with self._connection:
                return step(self._connection)
        except sqlite3.OperationalError as exc:
            # A full or broken disk. What violates a constraint is the step's own business.
            raise Internal(f"database: {exc}") from exc


def _reserve(path: str) -> None:
    """Have space at hand for the write-ahead log at its usual most (1000 pages) and for more rows.

    Beyond the files' ends, so SQLite does not see it. Repeated as the database grows; a full disk has it already.
    """
    for name, beyond in ((path, 0), (f"{path}-wal", _LOG_BYTES)):
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            size = os.fstat(descriptor).st_size
            reserve(descriptor, max(beyond, size + _GROWTH_BYTES))
        finally:
            os.close(descriptor)


def _connect(path: str) -> sqlite3.Connection:
    os.makedirs(os.path.dirname(path), mode=0o710, exist_ok=True)
    os.close(
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    )  # the log beside it gets the same mode
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        # One engine a data root (it holds a lock of its own), so no file locks for each transaction, nor shared memory.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(
            "PRAGMA secure_delete=ON"
        )  # a removed container's environment must not stay on disk
        _migrate(connection, path)
    except sqlite3.DatabaseError as exc:
        connection.close()
        raise Internal(f"cannot open the database {path}: {exc}") from exc
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    scripts = sorted(
        (int(item.name[:4]), item)
        for item in resources.files("wherry.store").joinpath("migrations").iterdir()
        if item.name.endswith(".sql")
    )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise Internal(
            f"{path} was written by a newer wherry (schema {version}): use that version or a new data root"
        )
    for number, script in scripts:
        if number > version:
            connection.executescript(f"BEGIN;\n{script.read_text()}\nPRAGMA user_version={number};\nCOMMIT;")
