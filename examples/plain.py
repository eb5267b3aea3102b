"""Containers from plain code: import an image, run, exec, follow logs, clean up.

    sudo .venv/bin/python examples/plain.py

Everything is below ROOT and stays there: run it twice, and the second time the image is there already. For an engine
of which nothing is left, write `with Engine.temporary() as engine:` instead.
"""

from __future__ import annotations

import os

from busybox import make_tar

from wherry import Engine
from wherry.errors import InvalidParameter

ROOT = "/var/tmp/wherry-example"


def main() -> None:
    with Engine(root=ROOT, bridge="wex0") as engine:
        if not engine.images():
            tar = make_tar()
            print("imported", engine.import_image(tar, "busybox", changes=['CMD ["sh"]'])[:19])
            os.unlink(tar)

        # A command, its input, and what became of it.
        result = engine.run("busybox", ["sh", "-c", "tr a-z A-Z; echo oops >&2; exit 3"], input=b"hello\n")
        print(result)

        # Options have Docker's meaning. What a container may use is bounded, its root read-only, its network gone.
        result = engine.run(
            "busybox", ["sh", "-c", "echo $GREETING; ls /sys/class/net; touch /x"],
            env={"GREETING": "good morning"}, network="none", memory_bytes=64 << 20, read_only=True,
        )  # fmt: skip
        print(result.stdout.decode(), result.stderr.decode(), sep="", end="")

        # In the background, removed at the end of the block. Its log is followed until it ends.
        script = "for n in 1 2 3; do echo tick $n; sleep 0.2; done"
        with engine.start("busybox", ["sh", "-c", script], name="clock") as clock:
            print("pid 1 is", clock.exec(["cat", "/proc/1/comm"]).stdout.decode().strip())
            print("address", clock.inspect().network_settings.ip_address)
            for piece in clock.logs(follow=True):
                print(piece.decode(), end="")
            print("exit code", clock.wait())

        # What goes wrong is an exception from wherry.errors, with Docker's text.
        try:
            engine.run("busybox", ["no-such-program"])
        except InvalidParameter as error:
            print("refused:", str(error).rpartition("process: ")[2])
        print("left:", engine.containers(all=True))


if __name__ == "__main__":
    main()
