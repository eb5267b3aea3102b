"""Many containers from asyncio: a bounded crowd of workers, a deadline, and a server beside its clients.

    sudo .venv/bin/python examples/in_asyncio.py

The engine is a temporary one: images, containers, bridge and firewall rules are gone when the block ends, however it
ends (try Ctrl-C).
"""

from __future__ import annotations

import asyncio
import os
import time

from busybox import make_tar

from wherry import AsyncEngine


async def main() -> None:
    async with AsyncEngine.temporary(bridge="wex1") as engine:
        tar = make_tar()
        await engine.import_image(tar, "busybox")
        os.unlink(tar)
        await crowd(engine)
        await deadline(engine)
        await server(engine)


async def crowd(engine: AsyncEngine) -> None:
    """Twenty containers, four at a time."""
    places = asyncio.Semaphore(4)

    async def square(number: int) -> int:
        async with places:
            result = await engine.run("busybox", ["sh", "-c", f"echo $(({number} * {number}))"])
            return int(result.stdout)

    started = time.perf_counter()
    squares = await asyncio.gather(*(square(number) for number in range(20)))
    print(f"squares of 0..19 sum up to {sum(squares)}: {time.perf_counter() - started:.1f} s")


async def deadline(engine: AsyncEngine) -> None:
    """A call that is cancelled, here by a timeout, takes its container away before it raises."""
    try:
        async with asyncio.timeout(0.5):
            await engine.run("busybox", ["sleep", "3600"])
    except TimeoutError:
        print("too slow; containers left:", len(await engine.containers(all=True)))


async def server(engine: AsyncEngine) -> None:
    """A web server, its log followed in a task, while commands run in it."""
    command = ["sh", "-c", "echo it works > /tmp/index.html; exec httpd -f -vv -p 80 -h /tmp"]
    async with await engine.start("busybox", command, name="web") as web:

        async def follow() -> None:
            async for piece in web.logs(follow=True):
                print("log:", piece.decode().rstrip().replace("\n", "\n     "))

        following = asyncio.create_task(follow())
        fetch = "until wget -qO- http://127.0.0.1/index.html; do sleep 0.05; done"
        print("page:", (await web.exec(["sh", "-c", fetch])).stdout.decode().strip())
        await web.stop(timeout_s=1)  # by SIGTERM, which httpd ignores as PID 1, and then by SIGKILL
        await following
        print("exit code", await web.wait())


if __name__ == "__main__":
    asyncio.run(main())
