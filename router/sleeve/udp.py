"""UDP for the hot path: many datagrams in one system call, both ways.

Outwards `UDP_SEGMENT` lets the kernel cut one long send into datagrams of one size (the last
may be shorter). Inwards `UDP_GRO` lets it hand over many datagrams of one sender at once, with
their size in a control message. Measured on veth, that is about forty datagrams per call.

The sockets are not connected, so no ICMP error ever comes out of them; what a send itself
meets (no route, too large, filtered, buffer full) is returned by name, never raised. All
datagrams carry DF and the kernel's path MTU cache is ignored (`PMTUDISC_PROBE`): sleeve
finds path MTUs itself and does not trust ICMP.
"""

import errno
import socket
import struct
from collections.abc import Sequence

from weavepy.base.errors import WeavepyError

Endpoint = tuple[str, int]

MAX_BATCH_DATAGRAMS = 64
"""UDP_MAX_SEGMENTS of kernels before 6.9."""

MAX_BATCH_BYTES = 65_507
"""The largest UDP payload over IPv4; over IPv6 it is a little more."""

RECEIVE_BUFFER_BYTES = 65_536

SOCKET_BUFFER_BYTES = 8 * 1024 * 1024
"""Some 60 ms at 1 Gbit/s: a burst during one slow pass of the loop must not be lost."""

_UDP_SEGMENT = 103
_UDP_GRO = 104
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_PROBE = 3
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8
_CONTROL_BYTES = socket.CMSG_SPACE(4)
_int = struct.Struct("i")
_segment_size = struct.Struct("H")

_GSO_MISSING = (errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
"""How a route whose device cannot checksum refuses UDP_SEGMENT; then we send one by one."""


class UdpSocket:
    """One bound socket of one address family."""

    def __init__(self, family: socket.AddressFamily, port: int, *, offload: bool) -> None:
        """Raises `WeavepyError` if the port is taken, `OSError` if there is no such family."""
        self._socket = open_socket(family, port)
        self.port: int = self._socket.getsockname()[1]
        self.offloads: tuple[str, ...] = ()
        self._send_batches = False
        if not offload:
            return
        try:
            self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
            self._send_batches = True
            self.offloads += ("udp-gso",)
        except OSError:
            pass
        try:
            self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
            self.offloads += ("udp-gro",)
        except OSError:
            pass

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def raw(self) -> socket.socket:
        return self._socket

    def receive_into(self, buffer: memoryview) -> tuple[int, int, Endpoint] | None:
        """Receive (bytes, size of each datagram, sender), or None when nothing waits."""
        try:
            length, control, _, address = self._socket.recvmsg_into((buffer,), _CONTROL_BYTES)
        except OSError:
            # Whatever it is, this socket goes on: the next datagram is another one's.
            return None
        size = length
        for level, kind, data in control:
            if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
                size = _int.unpack(data)[0]
        return length, size, address[:2]

    def send(
        self, parts: Sequence[bytes | memoryview], size: int, count: int, endpoint: Endpoint
    ) -> str:
        """Send `count` datagrams of `size` bytes, the last perhaps shorter.

        `parts` are their bytes, in order, in as many parts per datagram as you like if `count`
        is 1, else two. Return the name of the error that it met, empty if none.
        """
        if count > 1 and not self._send_batches:
            return self._send_singly(parts, endpoint)
        try:
            if count == 1:
                self._socket.sendmsg(parts, (), 0, endpoint)
            else:
                segment = ((socket.IPPROTO_UDP, _UDP_SEGMENT, _segment_size.pack(size)),)
                # One part: that the kernel gathers many costs more than this copy.
                self._socket.sendmsg((b"".join(parts),), segment, 0, endpoint)
        except OSError as error:
            if count > 1 and error.errno in _GSO_MISSING:
                self._send_batches = False
                self.offloads = tuple(name for name in self.offloads if name != "udp-gso")
                return self._send_singly(parts, endpoint)
            if error.errno == errno.EINVAL and count > 1:
                # What some kernels say of a segment that is beyond the device's MTU.
                return "EMSGSIZE"
            return errno.errorcode.get(error.errno or 0, "unknown")
        return ""

    def queue_drops(self) -> int:
        return queue_drops(self._socket)

    def close(self) -> None:
        self._socket.close()

    def _send_singly(self, parts: Sequence[bytes | memoryview], endpoint: Endpoint) -> str:
        failure = ""
        for at in range(0, len(parts), 2):
            failure = self.send(parts[at : at + 2], 0, 1, endpoint) or failure
        return failure


class UdpSockets:
    """The sockets of both families, where the host has both, on one port."""

    def __init__(self, port: int, *, offload: bool) -> None:
        """Raises `WeavepyError` if the port is taken or there is no IP at all."""
        self.sockets: dict[bool, UdpSocket] = {}
        """By whether it is the one for IPv6."""
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                self.sockets[family == socket.AF_INET6] = UdpSocket(family, port, offload=offload)
            except OSError:
                continue
        if not self.sockets:
            raise WeavepyError("this host has neither IPv4 nor IPv6")

    @property
    def offloads(self) -> tuple[str, ...]:
        """Those that every socket has."""
        first, *others = self.sockets.values()
        return tuple(
            name for name in first.offloads if all(name in other.offloads for other in others)
        )

    def raw(self) -> list[socket.socket]:
        return [udp.raw for udp in self.sockets.values()]

    def send(
        self, parts: Sequence[bytes | memoryview], size: int, count: int, endpoint: Endpoint
    ) -> str:
        """See `UdpSocket.send`."""
        udp = self.sockets.get(":" in endpoint[0])
        if udp is None:
            return "EAFNOSUPPORT"
        return udp.send(parts, size, count, endpoint)

    def queue_drops(self) -> int:
        """Datagrams that the kernel dropped because we did not read fast enough."""
        return sum(udp.queue_drops() for udp in self.sockets.values())

    def close(self) -> None:
        for udp in self.sockets.values():
            udp.close()


def queue_drops(udp: socket.socket) -> int:
    """What did not fit this socket's receive buffer, since it was opened."""
    try:
        meminfo = udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    return int(_MEMINFO.unpack(meminfo)[_MEMINFO_DROPS]) if len(meminfo) == _MEMINFO.size else 0


def open_socket(family: socket.AddressFamily, port: int) -> socket.socket:
    """Bind a non-blocking UDP socket set up the way sleeve needs it, offloads aside.

    Raises `WeavepyError` if the port is taken, `OSError` if the family is not there.
    """
    udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        for force, plain in (
            (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
            (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
        ):
            try:
                udp.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
            except OSError:
                udp.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER_BYTES)
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        udp.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    except OSError as error:
        udp.close()
        if error.errno == errno.EADDRINUSE:
            raise WeavepyError(
                f"UDP port {port} is taken: is another router running here? Choose another --port"
            ) from error
        raise
    return udp
