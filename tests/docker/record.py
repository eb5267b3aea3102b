"""Record what a live dockerd answers to acts.py.

    python -m tests.docker.record unix:///run/docker.sock [ACT ...]

writes recorded/ACT.json for every act, or for those named. The daemon needs the image `busybox` as the tests make it
(record.py makes it so), and Debian's docker-registry on PATH for the act `pull`.
"""

from __future__ import annotations

import json
import os
import sys

from tests.docker import acts, rootfs
from tests.docker.engine import Client
from tests.docker.registry import Registry

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recorded")


def inputs() -> dict[str, bytes]:
    """What the acts feed to commands, by the name they use for it."""
    busybox = rootfs.busybox_tar()
    hello = rootfs.image_config([busybox], Cmd=["echo", "loaded"])
    return {
        "$TAR": busybox,
        "$EMPTYTAR": rootfs.tar([]),
        "$ARCHIVE": rootfs.docker_archive(hello, [busybox], "act/loaded:1"),
    }


def fill(registry: Registry) -> None:
    """The images that the act `pull` expects."""
    busybox = rootfs.busybox_tar()
    config = rootfs.image_config([busybox, rootfs.tar([("second", b"2")])], Cmd=["echo", "pulled"])
    layers = [busybox, rootfs.tar([("second", b"2")])]
    registry.put_image("act/small", "latest", layers, config=config)
    ours = registry.get_manifest("act/small", "latest")
    arm = json.loads(rootfs.image_config(layers))
    arm["architecture"] = "arm64"
    registry.put_image("act/small", "arm", layers, config=json.dumps(arm).encode())
    for tag in ("latest", "arm"):
        manifest = registry.get_manifest("act/small", tag)
        value = json.loads(manifest)
        for one in (value["config"], *value["layers"]):
            status, data = registry.request("GET", f"/v2/act/small/blobs/{one['digest']}")
            assert status == 200
            registry.put_blob("act/multi", data)
        registry.put_manifest("act/multi", tag, manifest)
    theirs = registry.get_manifest("act/small", "arm")
    registry.put_index("act/multi", "latest", [(ours, "linux", "amd64"), (theirs, "linux", "arm64")])


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    client = Client(sys.argv[1].removeprefix("unix://"))
    client.docker("import", "--change", 'CMD ["sh"]', "-", "busybox", input=rootfs.busybox_tar()).ok()
    version = client.api("GET", "/version").json
    os.makedirs(FOLDER, exist_ok=True)
    registry = Registry("record")
    try:
        fill(registry)
        player = acts.Player(client, registry=registry.address, inputs=inputs())
        for name in sys.argv[2:] or acts.ACTS:
            outcomes = player.act(name)
            engine = f"dockerd {version['Version']}, API {version['ApiVersion']}"
            with open(f"{FOLDER}/{name}.json", "w") as file:
                json.dump({"engine": engine, "steps": outcomes}, file, indent=1)
                file.write("\n")
            print(f"{name}: {len(outcomes)} steps")
    finally:
        registry.stop()


if __name__ == "__main__":
    main()
