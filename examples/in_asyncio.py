"""Many containers at once from an asyncio program."""

from __future__ import annotations

import asyncio
import tempfile
import time

import busybox_rootfs

from wherry.engine.embedded import AsyncEngine
from wherry.model.containers import HostConfig


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wherry-example-", dir="/var/tmp") as root:
        async with AsyncEngine(root=root) as engine:
            tar = f"{root}/busybox.tar"
            await asyncio.to_thread(busybox_rootfs.write, tar)
            await engine.import_image(tar, "busybox")

            started = time.perf_counter()
            alone = HostConfig(network_mode="none")
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(engine.run("busybox", ["expr", str(n), "*", str(n)], host=alone))
                    for n in range(1, 11)
                ]
            squares = [int(task.result().stdout) for task in tasks]
            print(squares, f"in {(time.perf_counter() - started) * 1000:.0f} ms")

            container = await engine.start(
                "busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; done"], host=alone
            )
            async for chunk in engine.logs(container, follow=True):
                print("log:", chunk.decode().split())
            print("exit code", await engine.wait(container))
            await engine.remove(container)


if __name__ == "__main__":
    asyncio.run(main())
