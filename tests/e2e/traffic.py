"""Traffic whose fate is known packet by packet, between any two nodes of a lab.

Sockets are made inside the namespaces and used by threads of the test, so nothing is left
behind but what the garbage collector takes.
"""

import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Protocol

from weavepy.lab.lab import Lab

TRANSFER_PORT = 7778
INTERFACE = "ethwe"

_RECEIVE_BUFFER_BYTES = 16 * 1024 * 1024
_SO_RCVBUFFORCE = 33
_ETH_P_ALL = 3
_ETH_P_ARP = 0x0806
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_VNET_HDR = 15
_VNET_HEADER_BYTES = 10
_VXLAN_PORT = (6784).to_bytes(2, "big")
_SETTLE_S = 1.0
"""How long packets may still be under way after the last was sent."""


@dataclass(slots=True)
class Arrivals:
    sent: int = 0
    counts: Counter[int] = field(default_factory=Counter)
    longest_gap_s: float = 0.0
    """Between two arrivals, and between the last one and the end."""

    @property
    def lost(self) -> list[int]:
        return [number for number in range(self.sent) if number not in self.counts]

    @property
    def duplicated(self) -> list[int]:
        return [number for number, count in self.counts.items() if count > 1]


class Containers(Protocol):
    """Of a lab, or whoever else can reach into containers by name."""

    def inside(self, name: str, make: Callable[[], socket.socket], /) -> socket.socket: ...

    def address(self, name: str, /) -> str: ...


class Stream:
    """Numbered UDP datagrams at a steady rate from one container to another, while open."""

    def __init__(
        self,
        lab: Containers,
        source: str,
        destination: str,
        rate: float = 500.0,
        size: int = 200,
        marker: bytes = b"",
    ) -> None:
        """All datagrams have the `marker` in them."""
        self.arrivals = Arrivals()
        self._interval_s = 1 / rate
        self._padding = marker.ljust(size - 8, b"\0")
        self._receiver = lab.inside(destination, _udp)
        self._sender = lab.inside(source, _udp)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self._receiver.bind((lab.address(destination), 0))
        self._address = self._receiver.getsockname()
        self._receiver.settimeout(0.1)
        self._sending = threading.Event()
        self._receiving = threading.Event()
        self._threads = [
            threading.Thread(target=self._receive, name="stream receiver"),
            threading.Thread(target=self._send, name="stream sender"),
        ]

    def __enter__(self) -> Arrivals:
        self._sending.set()
        self._receiving.set()
        for thread in self._threads:
            thread.start()
        return self.arrivals

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sending.clear()
        self._threads[1].join()
        time.sleep(_SETTLE_S)
        self._receiving.clear()
        self._threads[0].join()
        self._sender.close()
        self._receiver.close()

    def _send(self) -> None:
        began = time.monotonic()
        while self._sending.is_set():
            due = began + self.arrivals.sent * self._interval_s
            time.sleep(max(0.0, due - time.monotonic()))
            datagram = struct.pack("!Q", self.arrivals.sent) + self._padding
            self.arrivals.sent += 1
            try:
                self._sender.sendto(datagram, self._address)
            except OSError:
                pass  # it counts as sent, and will be missed

    def _receive(self) -> None:
        last = time.monotonic()
        while self._receiving.is_set():
            try:
                datagram = self._receiver.recv(65536)
            except TimeoutError:
                if self._sending.is_set():
                    gap_s = time.monotonic() - last
                    self.arrivals.longest_gap_s = max(self.arrivals.longest_gap_s, gap_s)
                continue
            now = time.monotonic()
            self.arrivals.longest_gap_s = max(self.arrivals.longest_gap_s, now - last)
            last = now
            self.arrivals.counts[struct.unpack_from("!Q", datagram)[0]] += 1


def transfer(lab: Lab, source: str, destination: str, data: bytes, timeout_s: float = 60.0) -> int:
    """Send bytes over TCP and return how many arrived unharmed; all of them, or it fails."""
    address = (lab.address(destination), TRANSFER_PORT)
    received = bytearray()
    listener = lab.inside(destination, _tcp)
    client = lab.inside(source, _tcp)

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(timeout_s)
            while part := connection.recv(1 << 18):
                received.extend(part)

    with listener, client:
        listener.settimeout(timeout_s)
        client.settimeout(timeout_s)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        thread = threading.Thread(target=receive, name="transfer receiver")
        thread.start()
        try:
            client.connect(address)
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        finally:
            thread.join()
    assert bytes(received) == data
    return len(received)


# --- broadcast -----------------------------------------------------------------------------------


class ArpCounter:
    """Counts the ARP requests that reach each container, by sender and by address asked for."""

    def __init__(self, lab: Lab, containers: list[str]) -> None:
        self._sockets = {name: lab.inside(name, _arp_socket) for name in containers}
        self._macs = {name: made.getsockname()[4] for name, made in self._sockets.items()}
        self._addresses = {name: lab.address(name) for name in containers}
        self.counts: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in containers}

    def close(self) -> None:
        for made in self._sockets.values():
            made.close()

    def ask(self, source: str, address: str) -> None:
        """Broadcast an ARP request with the sender's own addresses."""
        mac = self._macs[source]
        request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        request += mac + socket.inet_aton(self._addresses[source])
        request += bytes(6) + socket.inet_aton(address)
        self._sockets[source].send(b"\xff" * 6 + mac + struct.pack("!H", _ETH_P_ARP) + request)

    def collect(self, for_s: float) -> None:
        """Count what arrives until that long nothing did."""
        by_socket = {made: name for name, made in self._sockets.items()}
        while ready := select.select(list(by_socket), [], [], for_s)[0]:
            for made in ready:
                frame, address = made.recvfrom(2048)
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                operation = struct.unpack_from("!H", frame, 20)[0]
                if operation == 1:
                    sender = socket.inet_ntoa(frame[28:32])
                    asked = socket.inet_ntoa(frame[38:42])
                    self.counts[by_socket[made]][sender, asked] += 1

    def received(self, container: str, source: str, address: str) -> int:
        return self.counts[container][self._addresses[source], address]


# --- the wire ------------------------------------------------------------------------------------


class WireTap:
    """Looks for a marker in everything that passes every link of a lab, both ways, while open."""

    def __init__(self, lab: Lab, marker: bytes) -> None:
        self._marker = marker
        self._sockets = {
            link.name: lab.inside("wire", partial(_tap, link.ends[0].port))
            for link in lab.plan.links
        }
        self.packets: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        """Packets that were "esp", "vxlan" in clear, or of another kind."""
        self.dropped = 0
        """Packets that the tap missed; a test that relies on absence asserts that it is 0."""
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wire tap")

    def __enter__(self) -> "WireTap":
        self._open.set()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        time.sleep(_SETTLE_S)
        self._open.clear()
        self._thread.join()
        for made in self._sockets.values():
            statistics = made.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self.dropped += struct.unpack("II", statistics)[1]
            made.close()

    def _watch(self) -> None:
        names = {made: name for name, made in self._sockets.items()}
        while True:
            ready = select.select(list(names), [], [], 0.1)[0]
            if not ready and not self._open.is_set():
                return
            for made in ready:
                packet = made.recv(1 << 17)
                self.packets[names[made]] += 1
                self.kinds[_kind_of(packet)] += 1
                if self._marker in packet:
                    self.found[names[made]] += 1


def record_datagrams(lab: Lab, one: str, other: str, count: int, timeout_s: float) -> list[bytes]:
    """So many of the datagrams of sleeve that pass from one host to another now, or fewer."""
    link = lab.plan.link(one, other)
    at_one = link.end_at(lab.plan.host(one).host)
    recorded: list[bytes] = []
    deadline = time.monotonic() + timeout_s
    with lab.inside("wire", partial(_tap, at_one.port)) as tap:
        tap.settimeout(timeout_s)
        tap.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        source = socket.inet_aton(at_one.address)
        while len(recorded) < count and time.monotonic() < deadline:
            packet = tap.recv(1 << 17)
            frame = packet[_VNET_HEADER_BYTES:]
            ip = frame[14:]
            if frame[12:14] == b"\x08\x00" and ip[9] == socket.IPPROTO_UDP and ip[12:16] == source:
                # Not cut yet, if one system call sent many.
                size = struct.unpack_from("=H", packet, 4)[0] or len(ip)
                recorded += [ip[at : at + size] for at in range(28, len(ip), size)]
    return recorded[:count]


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _tcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _arp_socket() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    made.bind((INTERFACE, _ETH_P_ARP))
    return made


def _kind_of(frame: bytes) -> str:
    """By the protocol of IP, without options or extensions, and the UDP port sent to."""
    at = {0x0800: (23, 14 + 20), 0x86DD: (20, 14 + 40)}.get(int.from_bytes(frame[12:14], "big"))
    if at is None:
        return "not IP"
    protocol = frame[at[0]]
    if protocol == socket.IPPROTO_UDP and frame[at[1] + 2 : at[1] + 4] == _VXLAN_PORT:
        return "vxlan"
    return "esp" if protocol == socket.IPPROTO_ESP else "other"


def _tap(port: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 * _RECEIVE_BUFFER_BYTES)
    made.bind((port, _ETH_P_ALL))
    return made
