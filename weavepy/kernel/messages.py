"""Netlink messages as bytes: many requests and answers at a time (linux/netlink.h).

For what every pod waits for, what is done to thousands of forwarding entries while frames flow, or
looked at again every few seconds for hundreds of devices: pyroute2 costs 0.3 to 1 ms apiece; here
it is a hundredth of that. What bodies look like is their users' business.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from weavepy.kernel.netlink import MAX_DUMPS, NLM_F_DUMP_INTR, HostError

REPLACE = 0x100
EXCLUSIVE = 0x200
CREATE = 0x400

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_REQUEST = 0x1
_ACK = 0x4
_DUMP = 0x300

_MESSAGE = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
_KIND_MASK = 0x3FFF
"""Above are the flags for nested ones and for byte order."""

_BATCH = 128
"""Requests per send; their answers fit the smallest receive buffer."""

_ANSWERS_BYTES = 256 * 1024
_TIMEOUT_S = 5.0


@contextmanager
def connected(protocol: int = socket.NETLINK_ROUTE) -> Iterator[socket.socket]:
    """To the network namespace of the calling thread."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.bind((0, 0))
        yield connection


def dump(connection: socket.socket, kind: int, body: bytes) -> list[bytes]:
    """The bodies of all answers; the whole again, if the kernel says that it changed meanwhile."""
    for _ in range(MAX_DUMPS):
        connection.send(_request(kind, _DUMP, body))
        found: list[bytes] = []
        interrupted = False
        done = False
        while not done:
            for answer, flags, content in messages(connection.recv(_ANSWERS_BYTES)):
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if answer == _NLMSG_ERROR:
                    _raise_error(content)
                if answer == _NLMSG_DONE:
                    done = True
                else:
                    found.append(content)
        if not interrupted:
            return found
    raise HostError("the kernel's network tables change faster than they can be read: try again")


def ask(connection: socket.socket, kind: int, body: bytes) -> bytes:
    """The body of the one answer. Raises `OSError`."""
    connection.send(_request(kind, 0, body))
    for answer, _, content in messages(connection.recv(_ANSWERS_BYTES)):
        if answer == _NLMSG_ERROR:
            _raise_error(content)
        return content
    raise OSError(errno.EIO, "the kernel gave an empty answer")


def change(
    connection: socket.socket,
    kind: int,
    flags: int,
    bodies: Sequence[bytes],
    harmless: Sequence[int] = (),
) -> None:
    """Do all of these. Raises `OSError` at an error that is not among the `harmless`."""
    for start in range(0, len(bodies), _BATCH):
        batch = bodies[start : start + _BATCH]
        connection.send(b"".join(_request(kind, flags | _ACK, body) for body in batch))
        answers = 0
        while answers < len(batch):
            for _, _, content in messages(connection.recv(_ANSWERS_BYTES)):
                answers += 1
                _raise_error(content, *harmless)


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attribute_list(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & _KIND_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    return dict(attribute_list(data))


def _request(kind: int, flags: int, body: bytes) -> bytes:
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, _REQUEST | flags, 0, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags, body."""
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, flags, _, _ = _MESSAGE.unpack_from(data, at)
        yield kind, flags, data[at + _MESSAGE.size : at + length]
        at += length + 3 & ~3


def _raise_error(answer: bytes, *harmless: int) -> None:
    code = -struct.unpack_from("=i", answer)[0]
    if code not in (0, *harmless):
        raise OSError(code, os.strerror(code))
