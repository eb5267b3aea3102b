"""First use of a volume: what the image has at the place goes into the volume, if that is empty.

Everything by descriptor: the image is hostile, and so is a container that has the volume already. Made in three
steps inside the volume, so that a death in between is found and put right by whoever uses the volume next:

    .wherry-fill/     is being copied into: thrown away and begun anew
    .wherry-filled/   is complete: its contents are moved up, one by one; what is not moved yet still is
    (neither)         done, or never begun
"""

from __future__ import annotations

import os
import shutil
import stat

from wherry.linux.killpoint import killpoint
from wherry.runtime import copyup

_COPYING, _COMPLETE = ".wherry-fill", ".wherry-filled"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fill(volume: int, source: int) -> bool:
    """Copy the directory `source` into the directory `volume`, if that is empty; whether it was.

    Owners, modes, times, extended attributes, symlinks and hard links are the image's, the directory's own too. The
    calling thread's umask must be 0. Raises OSError.
    """
    if not is_empty(volume):
        return False
    _remove(volume, _COPYING)
    os.mkdir(_COPYING, 0o700, dir_fd=volume)
    try:
        copy = os.open(_COPYING, _DIRECTORY, dir_fd=volume)
        try:
            killpoint("volume:copy-begun")
            copyup.copy_directory(source, copy)
        finally:
            os.close(copy)
    except BaseException:
        _remove(volume, _COPYING)
        raise
    killpoint("volume:copied")
    os.rename(_COPYING, _COMPLETE, src_dir_fd=volume, dst_dir_fd=volume)
    finish(volume)
    return True


def is_empty(volume: int) -> bool:
    """Whether the next `fill` will copy."""
    finish(volume)
    return all(name == _COPYING for name in os.listdir(volume))


def finish(volume: int) -> None:
    """Do what is left of a copy that was complete when its maker died. Quick where there is nothing to do."""
    try:
        found = os.stat(_COMPLETE, dir_fd=volume, follow_symlinks=False)
    except OSError:
        return
    if not stat.S_ISDIR(found.st_mode):
        return  # somebody's own file of that name
    complete = os.open(_COMPLETE, _DIRECTORY, dir_fd=volume)
    try:
        for name in os.listdir(complete):
            killpoint("volume:moving-up")
            try:
                os.rename(name, name, src_dir_fd=complete, dst_dir_fd=volume)
            except OSError:
                _remove(complete, name)  # a container made one of that name meanwhile: its own stays
        copyup.copy_attributes(complete, volume)
    finally:
        os.close(complete)
    killpoint("volume:moved-up")
    _remove(volume, _COMPLETE)


def _remove(directory: int, name: str) -> None:
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
