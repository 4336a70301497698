"""A bridge's forwarding entries, thousands at a time: which MAC lies behind which port.

Written to rtnetlink directly (linux/rtnetlink.h, linux/neighbour.h), many requests in one send,
because a change of path moves up to some thousand entries at once while frames flow: 4,096 of
them take 40 ms here, where pyroute2 needs more than a second for as many single requests.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

_RTM_NEWNEIGH = 28
_RTM_GETNEIGH = 30
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_REQUEST = 0x1
_ACK = 0x4
_DUMP = 0x300
_REPLACE = 0x100
_CREATE = 0x400

_NTF_MASTER = 0x04
"""The entry is the bridge's that the port belongs to, not the device's own."""
_NUD_REACHABLE = 0x02
"""An entry like one that was learnt: it ages and moves."""
_NUD_NOARP = 0x40
_NUD_PERMANENT = 0x80
_NDA_LLADDR = 2
_NDA_MASTER = 9

_MESSAGE = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port."""
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
"""Family, interface, state, flags, type."""
_ATTRIBUTE = struct.Struct("=HH")

_BATCH = 128
"""Requests per send; their answers fit the smallest receive buffer."""

_ANSWERS_BYTES = 256 * 1024
_TIMEOUT_S = 5.0


def point(bridge: int, port: int, macs: Sequence[bytes]) -> None:
    """Let frames for these MACs leave by this port (an interface's index). Raises `OSError`.

    MACs of this host's own interfaces and of groups are passed over: learning would leave them
    alone too, and a peer must not take the host off its bridge by sending from the host's MAC.
    A port without carrier takes none.
    """
    with _open() as connection:
        fixed = {mac for _, mac, is_fixed in _entries(connection, bridge, 0) if is_fixed}
        wanted = [mac for mac in macs if len(mac) == 6 and not mac[0] & 1 and mac not in fixed]
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            connection.send(b"".join(_replacement(port, mac) for mac in batch))
            answers = 0
            while answers < len(batch):
                for kind, body in _messages(connection.recv(_ANSWERS_BYTES)):
                    assert kind == _NLMSG_ERROR
                    answers += 1
                    _raise_error(body, errno.EINVAL, errno.EPERM)


def learnt(bridge: int, port: int) -> list[bytes]:
    """The MACs that the bridge has learnt behind a port, or was told by `point`."""
    with _open() as connection:
        entries = list(_entries(connection, bridge, port))
    return [mac for index, mac, is_fixed in entries if index == port and not is_fixed]


def _entries(
    connection: socket.socket, bridge: int, port: int
) -> Iterator[tuple[int, bytes, bool]]:
    """Port, MAC, and whether no frame can change it. The kernel leaves other ports out, if asked.

    A table that changes meanwhile may show an entry twice or not: like a moment earlier or later.
    """
    request = _NEIGHBOUR.pack(socket.AF_BRIDGE, port, 0, 0, 0)
    request += _ATTRIBUTE.pack(8, _NDA_MASTER) + struct.pack("=I", bridge)
    connection.send(_request(_RTM_GETNEIGH, _DUMP, request))
    while True:
        for kind, body in _messages(connection.recv(_ANSWERS_BYTES)):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                _raise_error(body)
                continue
            _, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
            attributes = dict(_attributes(body[_NEIGHBOUR.size :]))
            if _NDA_MASTER in attributes or index == bridge:
                fixed = state & (_NUD_PERMANENT | _NUD_NOARP) or flags & ~_NTF_MASTER
                yield index, attributes[_NDA_LLADDR], bool(fixed)


def _raise_error(answer: bytes, *harmless: int) -> None:
    code = -struct.unpack_from("=i", answer)[0]
    if code not in (0, *harmless):
        raise OSError(code, os.strerror(code))


def _replacement(port: int, mac: bytes) -> bytes:
    body = _NEIGHBOUR.pack(socket.AF_BRIDGE, port, _NUD_REACHABLE, _NTF_MASTER, 0)
    body += _ATTRIBUTE.pack(4 + len(mac), _NDA_LLADDR) + mac + b"\0\0"
    return _request(_RTM_NEWNEIGH, _ACK | _REPLACE | _CREATE, body)


def _request(kind: int, flags: int, body: bytes) -> bytes:
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, _REQUEST | flags, 0, 0) + body


def _open() -> socket.socket:
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    connection.settimeout(_TIMEOUT_S)
    connection.bind((0, 0))
    return connection


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, at)
        yield kind, data[at + _MESSAGE.size : at + length]
        at += length + 3 & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
