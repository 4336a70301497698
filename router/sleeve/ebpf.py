"""Loading a program into the kernel: the one call of `bpf(2)` that the TAP's queues need."""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361}
"""All little-endian, as the instructions are."""

_PROG_LOAD = 5
_SOCKET_FILTER = 1
_instruction = struct.Struct("<BBhi")
_attributes = struct.Struct("=IIQQ")
_ATTRIBUTES_BYTES = 48

_INGRESS_IFINDEX_AT = 36
"""In the `struct __sk_buff` that a filter is given."""

INGRESS_INTERFACE = _instruction.pack(0x61, 0x10, _INGRESS_IFINDEX_AT, 0) + _instruction.pack(
    0x95, 0, 0, 0
)
"""A program: return the index of the interface by which the frame came into this namespace."""


@contextmanager
def loaded_filter(program: bytes) -> Iterator[int]:
    """The descriptor of a socket filter. Raises `OSError` if the kernel does not take it."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    code = ctypes.create_string_buffer(program)
    no_license = ctypes.create_string_buffer(1)
    attributes = _attributes.pack(
        _SOCKET_FILTER,
        len(program) // _instruction.size,
        ctypes.addressof(code),
        ctypes.addressof(no_license),
    ).ljust(_ATTRIBUTES_BYTES, b"\0")
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.syscall(
        ctypes.c_long(number), ctypes.c_int(_PROG_LOAD), attributes, ctypes.c_uint(len(attributes))
    )
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield descriptor
    finally:
        os.close(descriptor)
