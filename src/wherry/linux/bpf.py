"""bpf(2), as far as the device filter of cgroup v2 needs it."""

from __future__ import annotations

import ctypes
import os
import struct

from wherry.linux.libc import check, system_call

_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2

_bpf = system_call("bpf", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def attach_device_filter(cgroup: int, program: bytes) -> None:
    """Have `program` decide on device accesses in the cgroup whose directory is `cgroup`, as long as that
    lives.
    """
    code = ctypes.create_string_buffer(program, len(program))
    license_name = ctypes.create_string_buffer(b"Apache")
    attributes = struct.pack(
        "=IIQQIIQII16s",
        _PROG_TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_name),
        0,
        0,
        0,
        0,
        0,
        b"wherry_devices",
    )
    loaded = check("bpf", _bpf(_PROG_LOAD, attributes, len(attributes)), "device filter")
    try:
        attributes = struct.pack("=IIII", cgroup, loaded, _CGROUP_DEVICE, _ALLOW_MULTI)
        check("bpf", _bpf(_PROG_ATTACH, attributes, len(attributes)), "device filter")
    finally:
        os.close(loaded)
