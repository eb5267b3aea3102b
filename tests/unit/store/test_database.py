from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from wherry.errors import Internal
from wherry.store.database import Database


@pytest.fixture
def path(tmp_path: os.PathLike[str]) -> str:
    return os.path.join(tmp_path, "data", "wherry.db")


@pytest.fixture
async def database(path: str) -> AsyncIterator[Database]:
    made = await Database.open(path)
    yield made
    await made.close()


def facts(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT key, value FROM fact").fetchall())


def put(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO fact VALUES ('a', '1')")


@pytest.mark.parametrize("durable", [True, False])
async def test_what_a_step_changed_is_committed(path: str, durable: bool) -> None:
    database = await Database.open(path)
    await database.run(put, durable=durable)
    await database.close()
    with sqlite3.connect(path) as other:
        assert facts(other) == {"a": "1"}
    other.close()


async def test_a_step_that_raises_changes_nothing(database: Database) -> None:
    def half(connection: sqlite3.Connection) -> None:
        put(connection)
        raise KeyError("half-way")

    with pytest.raises(KeyError):
        await database.run(half)
    assert await database.run(facts) == {}


async def test_a_violated_constraint_is_the_steps_own_business(database: Database) -> None:
    await database.run(put)
    with pytest.raises(sqlite3.IntegrityError):
        await database.run(put)


async def test_a_broken_statement_is_an_internal_error(database: Database) -> None:
    with pytest.raises(Internal, match="no such table: nowhere"):
        await database.run(lambda connection: connection.execute("SELECT * FROM nowhere"))


async def test_it_is_there_again_when_opened_again(path: str) -> None:
    first = await Database.open(path)
    await first.run(put)
    await first.close()
    second = await Database.open(path)
    assert await second.run(facts) == {"a": "1"}
    await second.close()


async def test_nobody_else_may_read_it(database: Database, path: str) -> None:
    await database.run(put)
    for name in os.listdir(os.path.dirname(path)):
        assert stat.S_IMODE(os.stat(os.path.join(os.path.dirname(path), name)).st_mode) == 0o600


async def test_a_newer_schema_is_refused(path: str) -> None:
    await (await Database.open(path)).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(Internal, match="written by a newer wherry"):
        await Database.open(path)


async def test_a_file_that_is_no_database_is_refused_by_name(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(b"not a database" * 1000)
    with pytest.raises(Internal, match=r"wherry\.db: file is not a database"):
        await Database.open(path)


FULL = """
import asyncio, os, sys
from wherry.store.database import Database

async def main(root):
    database = await Database.open(root + "/wherry.db")
    await database.run(lambda c: c.executemany("INSERT INTO fact VALUES (?, 'x')", ((n,) for n in range(300))))
    with open(root + "/filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(65536))
        except OSError:
            pass
    for n in range(3000):
        change = ("y" * (n % 50), n % 300)
        await database.run(lambda c: c.execute("UPDATE fact SET value = ? WHERE key = ?", change))
    await database.run(lambda c: c.execute("DELETE FROM fact"))
    print(await database.run(lambda c: c.execute("SELECT count(*) FROM fact").fetchone()[0]), end="")
    await database.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(
    os.geteuid() != 0, reason="mounts a small filesystem in a namespace of its own: needs root"
)
def test_a_full_disk_does_not_keep_anybody_from_changing_and_removing_things(
    tmp_path: os.PathLike[str],
) -> None:
    mount = f'mount -t tmpfs -o size=20m none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, FULL], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout) == (0, "0"), done.stderr
