"""Containers from a plain Python program: no daemon, no HTTP, one import."""

from __future__ import annotations

import os
import sys
import tempfile

import busybox_rootfs

from wherry import Engine
from wherry.errors import NotFound
from wherry.model.containers import HostConfig


def main() -> None:
    if len(sys.argv) > 1:
        root = sys.argv[1]  # kept: a later run, or a wherryd with this --data-root, finds everything again
        os.makedirs(root, exist_ok=True)
        work(root)
    else:
        with tempfile.TemporaryDirectory(prefix="wherry-example-", dir="/var/tmp") as root:
            work(root)


def work(root: str) -> None:
    with Engine(root=root) as engine:
        tar = f"{root}/busybox.tar"
        busybox_rootfs.write(tar)
        engine.import_image(tar, "busybox", changes=['CMD ["sh"]'])

        # Run something, and have its output and exit code.
        result = engine.run("busybox", ["sh", "-c", "echo hello from $(hostname); exit 3"])
        print(result.exit_code, result.stdout.decode().strip())

        # Feed it, and hold it back: 32 MiB of memory, half a CPU, no network.
        limits = HostConfig(memory=32 << 20, nano_cpus=500_000_000, network_mode="none")
        result = engine.run("busybox", ["wc", "-c"], input=b"x" * 100_000, host=limits)
        print("counted", result.stdout.decode().strip())

        # Something that stays, another command in it, and what it said.
        web = engine.start("busybox", ["sh", "-c", "while :; do date; sleep 1; done"])
        print("inside:", engine.exec(web, ["ps"]).stdout.decode())
        for chunk in engine.logs(web):
            print("it said:", chunk.decode().strip())
        engine.stop(web, timeout_s=0)
        print("it ended with", engine.wait(web))
        engine.remove(web)

        # What goes wrong is an exception that says what.
        try:
            engine.run("no-such-image", ["true"], pull=False)
        except NotFound as error:
            print("refused:", error)


if __name__ == "__main__":
    main()
