"""Heartbeats through the tunnels: one packet socket for all of them.

They go to the link-local group 01:80:c2:00:00:0e (IEEE 802.1Q, 8.6.3), which a bridge does not
forward: none leaks to a container, none of a container gets into a tunnel, and the port of the
bridge hands them up as its own. What came by an interface that is no tunnel of ours is ignored.

    Ethernet header | length of the payload 2 | payload | zeros up to the wanted size

The socket belongs to the network namespace in which it is made.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping

from fastdp.shell.driver import Port
from weavepy.base.names import PeerName

GROUP = bytes.fromhex("0180c200000e")
"""A link-local group: the bridge hands it up to us at the port, and forwards it nowhere."""

ETHERTYPE = 0x88B5
"""IEEE 802's first for local experiments."""

MAX_PAYLOAD_BYTES = 512

_PAYLOAD_AT = 16
_RECEIVE_BUFFER_BYTES = 64 * 1024
_FRAMES_PER_TURN = 64
_PAUSE_S = 0.02
"""After a full turn. So a peer that floods us costs some thousand frames per second at most."""


class HeartbeatSocket:
    def __init__(self, received: Callable[[PeerName, bytes], None]) -> None:
        """`received(peer, payload)` is called on the event loop of `start`."""
        self._received = received
        self._ports: Mapping[PeerName, Port] = {}
        self._peers: dict[str, PeerName] = {}
        self._resuming: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)

    def start(self) -> None:
        self._resuming = None
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def set_ports(self, ports: Mapping[PeerName, Port]) -> None:
        """The tunnels to send to and to listen to from now on."""
        self._ports = ports
        self._peers = {port.interface: peer for peer, port in ports.items()}

    def send(self, peer: PeerName, payload: bytes, frame_bytes: int) -> str:
        """Send one heartbeat of this size; return why it could not be, empty if it was."""
        port = self._ports.get(peer)
        if port is None:
            return "there is no tunnel"
        assert len(payload) <= MAX_PAYLOAD_BYTES
        head = GROUP + port.mac + ETHERTYPE.to_bytes(2, "big") + len(payload).to_bytes(2, "big")
        frame = (head + payload).ljust(frame_bytes, b"\0")
        try:
            self._socket.sendto(frame, (port.interface, ETHERTYPE))
        except OSError as error:
            return error.strerror or "it could not be sent"
        return ""

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        if self._resuming is not None:
            self._resuming.cancel()
        self._socket.close()

    def _read(self) -> None:
        for _ in range(_FRAMES_PER_TURN):
            try:
                # The zeros behind the payload are not even copied.
                frame, address = self._socket.recvfrom(_PAYLOAD_AT + MAX_PAYLOAD_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an interface went down: said once, and no reason to stop
            self._handle(frame, address[0])
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        self._resuming = loop.call_later(_PAUSE_S, self.start)

    def _handle(self, frame: bytes, interface: str) -> None:
        peer = self._peers.get(interface)
        if peer is None or frame[:6] != GROUP:
            return
        length = int.from_bytes(frame[_PAYLOAD_AT - 2 : _PAYLOAD_AT], "big")
        payload = frame[_PAYLOAD_AT : _PAYLOAD_AT + length]
        if len(payload) == length <= MAX_PAYLOAD_BYTES:
            self._received(peer, payload)
