"""What is done in a view, each in a process of its own: stat, pack, extract, compare.

A job is told what to do as a dict, talks through one socket and moves an archive through another. It answers with
`{"stat": …}` as soon as that is known (stat, pack), and with `{"done": true}` or `{"error": kind, "message": …}` at
its end.
"""

from __future__ import annotations

import io
import os
import socket
import stat
from collections.abc import Callable
from typing import Any, BinaryIO, Final, cast

import msgspec

from wherry.errors import Forbidden, Internal, InvalidParameter, NotFound, Unavailable, WherryError
from wherry.files.paths import Place, follow, go_mode
from wherry.files.view import View, confine
from wherry.linux.files import mount_id
from wherry.runtime import users
from wherry.runtime.errors import StartFailed
from wherry.store.changes import changes, pack_changes
from wherry.store.compression import decompressed
from wherry.store.extract import extract
from wherry.store.pack import Packer, is_kernel_filesystem

Message = dict[str, Any]
Talk = Callable[[Message], None]

ERRORS: Final[dict[str, type[WherryError]]] = {
    "not-found": NotFound,
    "invalid": InvalidParameter,
    "forbidden": Forbidden,
    "unavailable": Unavailable,
    "internal": Internal,
}
_MAX_TEXT: Final = 4000
_ST_RDONLY: Final = 1


def run(view: View, order: Message, talk: socket.socket, data: int) -> None:
    """Do one job and tell how it went. Never raises."""

    def say(message: Message) -> None:
        talk.send(encode(message))

    try:
        job = _JOBS[order["job"]]
        if order.get("bare"):
            os.fchdir(view.bare)
            os.chroot(".")
        confine(trusted=order["job"] in ("changes", "layer"))
        job(view, order, say, data)
        say({"done": True})
    except (BrokenPipeError, ConnectionResetError):
        pass  # whoever asked has gone
    except BaseException as exc:
        try:
            say(failure(exc))
        except OSError:
            pass


def encode(message: Message) -> bytes:
    return msgspec.json.encode(message)


def failure(error: BaseException) -> Message:
    """An exception as a message that `client.py` makes an exception of again."""
    for kind, each in ERRORS.items():
        if isinstance(error, each):
            return {"error": kind, "message": str(error)[:_MAX_TEXT]}
    if isinstance(error, StartFailed):
        return {"error": "internal", "message": error.message[:_MAX_TEXT]}
    if isinstance(error, OSError) and error.strerror:
        return {"error": "internal", "message": error.strerror.lower()}
    return {"error": "internal", "message": f"{type(error).__name__}: {error}"[:_MAX_TEXT]}


def _stat(view: View, order: Message, say: Talk, data: int) -> None:
    place = Place(order["path"])
    root = _root(view, order)
    found = _open(place, root)
    try:
        say({"stat": _status(root, place, os.fstat(found))})
    finally:
        os.close(found)


def _pack(view: View, order: Message, say: Talk, data: int) -> None:
    place = Place(order["path"])
    root = _root(view, order)
    found = _open(place, root)
    status = os.fstat(found)
    packer = Packer(data)
    if stat.S_ISDIR(status.st_mode):
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)
        say({"stat": _status(root, place, status)})
        packer.contents(directory, os.fsencode(order.get("name", place.name)))
    else:
        parent = Place(os.path.dirname(place.clean)).open_directory(root)
        say({"stat": _status(root, place, status)})
        try:
            packer.tree(parent, os.fsencode(os.path.basename(place.clean)), os.fsencode(place.name))
        except FileNotFoundError as exc:
            raise NotFound(place.text) from exc  # it went meanwhile
    packer.end()


def _open(place: Place, root: int) -> int:
    found = place.open(root)
    status = os.fstat(found)
    if is_kernel_filesystem(found):
        above = Place(os.path.dirname(place.clean)).open_directory(root)
        try:
            if not stat.S_ISDIR(status.st_mode) or is_kernel_filesystem(above):
                raise NotFound(place.text)  # kernel filesystems look empty
        finally:
            os.close(above)
    return found


def _extract(view: View, order: Message, say: Talk, data: int) -> None:
    place = Place(order["path"])
    root = _root(view, order)
    directory = place.open_directory(root)
    if is_kernel_filesystem(directory):
        raise Forbidden(f"{place.text} is a kernel filesystem: nothing can be copied into it")
    if os.fstatvfs(directory).f_flag & _ST_RDONLY:
        is_root = mount_id(directory) == mount_id(root)
        raise Forbidden(
            "container rootfs is marked read-only" if is_root else "mounted volume is marked read-only"
        )  # Docker's texts
    owner = None
    if order.get("owner"):
        try:
            uid, gid, _ = users.resolve(root, order["owner"], ())
        except StartFailed as exc:
            raise InvalidParameter(exc.message) from exc
        owner = uid, gid
    os.umask(0)
    source = io.FileIO(data, "rb", closefd=False)
    with decompressed(cast("BinaryIO", source)) as tar:
        extract(
            tar,
            directory,
            place=follow(root, place.clean),
            merge_only=bool(order.get("merge_only")),
            owner=owner,
        )


def _changes(view: View, order: Message, say: Talk, data: int) -> None:
    """A byte for the kind, the path and a NUL for each."""
    with io.FileIO(data, "wb", closefd=False) as raw, io.BufferedWriter(raw, 1 << 18) as out:
        for change in changes(view.root, view.lower, is_full=view.is_full):
            out.write(b"%d%b\0" % (change.kind, change.path))


def _layer(view: View, order: Message, say: Talk, data: int) -> None:
    pack_changes(view.root, view.lower, data, is_full=view.is_full)


def _root(view: View, order: Message) -> int:
    return view.bare if order.get("bare") else view.root


def _status(root: int, place: Place, status: os.stat_result) -> Message:
    target = follow(root, place.clean) if stat.S_ISLNK(status.st_mode) else ""
    return {
        "name": place.name,
        "size": status.st_size,
        "mode": go_mode(status.st_mode),
        "mtime_ns": status.st_mtime_ns,
        "target": os.fsencode(target).decode("utf-8", "replace"),
    }


_JOBS: Final[dict[str, Callable[[View, Message, Talk, int], None]]] = {
    "stat": _stat,
    "pack": _pack,
    "extract": _extract,
    "changes": _changes,
    "layer": _layer,
}
