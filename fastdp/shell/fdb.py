"""A bridge's forwarding entries: which MAC lies behind which port (linux/neighbour.h).

A change of path moves up to some thousand of them while frames flow.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Sequence

from weavepy.kernel.messages import (
    CREATE,
    REPLACE,
    attribute,
    attributes,
    change,
    connected,
    dump,
)

_RTM_NEWNEIGH = 28
_RTM_GETNEIGH = 30

_NTF_MASTER = 0x04
"""The entry is the bridge's that the port belongs to, not the device's own."""
_NUD_REACHABLE = 0x02
"""An entry like one that was learnt: it ages and moves."""
_NUD_NOARP = 0x40
_NUD_PERMANENT = 0x80
_NDA_LLADDR = 2
_NDA_MASTER = 9

_NEIGHBOUR = struct.Struct("=BxxxiHBB")
"""Family, interface, state, flags, type."""


def point(bridge: int, port: int, macs: Sequence[bytes]) -> None:
    """Let frames for these MACs leave by this port (an interface's index). Raises `OSError`.

    MACs of this host's own interfaces and of groups are passed over: learning would leave them
    alone too, and a peer must not take the host off its bridge by sending from the host's MAC.
    A port without carrier takes none.
    """
    with connected() as connection:
        fixed = {mac for _, mac, is_fixed in _entries(connection, bridge, 0) if is_fixed}
        head = _NEIGHBOUR.pack(socket.AF_BRIDGE, port, _NUD_REACHABLE, _NTF_MASTER, 0)
        entries = [
            head + attribute(_NDA_LLADDR, mac)
            for mac in macs
            if len(mac) == 6 and not mac[0] & 1 and mac not in fixed
        ]
        harmless = (errno.EINVAL, errno.EPERM)
        change(connection, _RTM_NEWNEIGH, REPLACE | CREATE, entries, harmless)


def learnt(bridge: int, port: int) -> list[bytes]:
    """The MACs that the bridge has learnt behind a port, or was told by `point`."""
    with connected() as connection:
        entries = list(_entries(connection, bridge, port))
    return [mac for index, mac, is_fixed in entries if index == port and not is_fixed]


def _entries(
    connection: socket.socket, bridge: int, port: int
) -> Iterator[tuple[int, bytes, bool]]:
    """Port, MAC, and whether no frame can change it; of one port only, if asked."""
    request = _NEIGHBOUR.pack(socket.AF_BRIDGE, port, 0, 0, 0)
    request += attribute(_NDA_MASTER, struct.pack("=I", bridge))
    for body in dump(connection, _RTM_GETNEIGH, request):
        _, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
        found = attributes(body[_NEIGHBOUR.size :])
        if _NDA_MASTER in found or index == bridge:
            fixed = state & (_NUD_PERMANENT | _NUD_NOARP) or flags & ~_NTF_MASTER
            yield index, found[_NDA_LLADDR], bool(fixed)
