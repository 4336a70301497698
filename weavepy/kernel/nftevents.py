"""Tells when somebody else has changed a table of the packet filter.

The kernel multicasts each transaction. Nothing of it is read but who made it and whether the
table's name is in it: programs that change tens of thousands of rules of their own cost us little.
What did not fit into the socket's queue may have been about our table, and counts as if it had.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable

from weavepy.kernel.nflog import NETLINK_NETFILTER

GROUP_NFTABLES = 7
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1

_READ_BYTES = 1 << 17
_MAX_READS = 256
"""Before others have their turn."""


class TableWatch:
    """Listens, from when it is made, in the network namespace of the thread that made it."""

    def __init__(self, table: str, own_ports: Callable[[], tuple[int, ...]]) -> None:
        """`own_ports` are the netlink sockets whose changes are ours."""
        self._name = table.encode() + b"\0"
        self._own_ports = own_ports
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
        )
        # Not the process's number, which the kernel gives to the next socket that asks for none.
        self._socket.bind((int.from_bytes(os.urandom(4)) | 1 << 31, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, GROUP_NFTABLES)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bool:
        """Whether what has come tells of a change of the table by somebody else."""
        changed = False
        for _ in range(_MAX_READS):
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True
                continue
            if (
                self._name in data
                and struct.unpack_from("=I", data, 12)[0] not in self._own_ports()
            ):
                changed = True
        return changed

    def close(self) -> None:
        self._socket.close()
