"""What rules of the packet filter log (`log group N`), read from a netlink socket of our own.

The kernel keeps no log for a group that nobody reads, and one reader per group. What is not read
fast enough is lost, which is what one wants of a log of packets: nothing waits for it. The socket
belongs to the network namespace of the thread that opened it, as do the rules.

Numbers and layouts: linux/netfilter/nfnetlink.h and nfnetlink_log.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from weavepy.kernel.netlink import HostError

NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_NO_ENOBUFS = 5

NLMSG_ERROR = 2
NLM_F_REQUEST_ACK = 0x05
MSG_PACKET, MSG_CONFIG = 0x400, 0x401
"""NFNL_SUBSYS_ULOG and what it says."""

CFG_CMD, CFG_MODE, CFG_TIMEOUT, CFG_QTHRESH = 1, 2, 4, 5
CMD_BIND = 1
COPY_PACKET = 2
MARK, PAYLOAD, PREFIX = 2, 9, 10

SNAP_BYTES = 128
"""Of each packet: all of its headers, as a rule."""
BATCH = 32
BATCH_HUNDREDTHS_S = 10
"""The kernel hands packets over in batches: so many, or when the first has waited this long."""

ANSWER_TIMEOUT_S = 2.0
_READ_BYTES = 1 << 17
_MAX_READS = 64
"""Before others have their turn."""


class NoPacketLog(HostError):
    """This kernel, or another program that reads our group, is in the way."""


@dataclass(frozen=True, slots=True)
class Logged:
    prefix: str
    """What the rule calls it."""
    packet: bytes
    """From the IP header on, cut at `SNAP_BYTES`."""
    mark: int


class PacketLog:
    def __init__(self, group: int) -> None:
        """Raises `HostError`."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        except OSError as error:
            raise NoPacketLog(f"the kernel has no netfilter: {error.strerror}") from error
        try:
            self._socket.settimeout(ANSWER_TIMEOUT_S)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
            # Whatever is bound without asking takes the number of the process (`nftables.py`).
            self._socket.bind((int.from_bytes(os.urandom(4)) | 1 << 31, 0))
            self._configure(group, attribute(CFG_CMD, bytes([CMD_BIND])))
            mode = struct.pack(">IBx", SNAP_BYTES, COPY_PACKET)
            self._configure(
                group,
                attribute(CFG_MODE, mode)
                + attribute(CFG_TIMEOUT, struct.pack(">I", BATCH_HUNDREDTHS_S))
                + attribute(CFG_QTHRESH, struct.pack(">I", BATCH)),
            )
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[Logged]:
        """What has come; more may be there, and then the socket stays readable."""
        found: list[Logged] = []
        for _ in range(_MAX_READS):
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            found += _logged(data)
        return found

    def close(self) -> None:
        self._socket.close()

    def _configure(self, group: int, attributes: bytes) -> None:
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, group) + attributes
        head = struct.pack("=IHHII", 16 + len(body), MSG_CONFIG, NLM_F_REQUEST_ACK, 1, 0)
        try:
            self._socket.send(head + body)
            code = self._answer()
        except OSError as error:
            raise NoPacketLog(f"the kernel's packet log: {error}") from error
        if code == errno.EPERM:
            raise NoPacketLog(
                f"another program reads the packet log's group {group}, or this is not root"
            )
        if code:
            raise NoPacketLog(
                f"the kernel has no packet log ({os.strerror(code)}): load nfnetlink_log"
            )

    def _answer(self) -> int:
        """The errno that the kernel answers with; packets may come in between."""
        while True:
            for kind, body in messages(self._socket.recv(_READ_BYTES)):
                if kind == NLMSG_ERROR:
                    return -int(struct.unpack_from("=i", body)[0])


def _logged(data: bytes) -> Iterator[Logged]:
    for kind, body in messages(data):
        if kind != MSG_PACKET:
            continue
        fields = dict(_attributes(body[4:]))
        yield Logged(
            fields.get(PREFIX, b"").rstrip(b"\0").decode(errors="replace"),
            fields.get(PAYLOAD, b""),
            int.from_bytes(fields.get(MARK, b"")),
        )


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16:
            return
        yield kind, data[offset + 16 : offset + length]
        offset += -(-length // 4) * 4


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += -(-length // 4) * 4


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)
