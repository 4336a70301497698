"""Pinging without `ping`: one loop drives ICMP echo from many namespaces at once.

Each source has a raw socket that was made inside its namespace, so no process is started for a
pair, and a matrix of thousands of pairs takes seconds. Round-trip times are taken in user space
and include some 20 to 50 µs of our own.
"""

import heapq
import os
import select
import socket
import struct
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from weavepy.lab.system import in_namespace, in_parallel, run

MAX_OUTSTANDING = 16
"""Pairs under way at one time: a burst of them must not be what makes them fail."""

ECHO_TIMEOUT_S = 1.0

BLOCK_SIDE = 12
"""Sources and destinations of one block; 288 entries for its pairs are within every limit."""

_ICMP_ECHO_REPLY = 0
_ICMP_ECHO_REQUEST = 8
_SOL_RAW = 255
_ICMP_FILTER = 1
_PAYLOAD = b"weavepy lab ping".ljust(48, b".")


class EchoSocket:
    """Sends echo requests from one namespace and recognises the replies to them."""

    def __init__(self, namespace: str) -> None:
        self.socket = in_namespace(namespace, _open)
        self._identifier = int.from_bytes(os.urandom(2), "big")

    def close(self) -> None:
        self.socket.close()

    def send(self, address: str, sequence: int) -> None:
        """Raises OSError if the namespace has no way there."""
        self.socket.sendto(encode_request(self._identifier, sequence), (address, 0))

    def receive(self) -> tuple[str, int] | None:
        """The next reply's sender and sequence number; None if none waits."""
        while True:
            try:
                packet, (address, _) = self.socket.recvfrom(2048)
            except BlockingIOError:
                return None
            reply = decode_reply(packet)
            if reply is not None and reply[0] == self._identifier:
                return address, reply[1]


def _open() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("I", ~(1 << _ICMP_ECHO_REPLY) & 0xFFFFFFFF))
    made.setblocking(False)
    return made


def encode_request(identifier: int, sequence: int) -> bytes:
    header = struct.pack("!BBHHH", _ICMP_ECHO_REQUEST, 0, 0, identifier, sequence)
    checksum = internet_checksum(header + _PAYLOAD)
    return header[:2] + struct.pack("!H", checksum) + header[4:] + _PAYLOAD


def decode_reply(packet: bytes) -> tuple[int, int] | None:
    """Identifier and sequence number of an echo reply with its IPv4 header."""
    if not packet:
        return None
    start = (packet[0] & 15) * 4
    if len(packet) < start + 8 or packet[start] != _ICMP_ECHO_REPLY:
        return None
    identifier, sequence = struct.unpack_from("!HH", packet, start + 4)
    return identifier, sequence


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# --- every one to every other --------------------------------------------------------------------


@dataclass(slots=True)
class Pair:
    """One source and one destination; `rtt_ms` is the best that was seen, None: no answer."""

    source: str
    destination: str
    address: str
    rtt_ms: float | None = None
    lost: int = 0

    @property
    def ok(self) -> bool:
        return self.rtt_ms is not None


@dataclass(order=True, slots=True)
class _Request:
    gives_up_at: float
    sent_at: float
    sequence: int
    pair: Pair = field(compare=False)
    tries_left: int = field(compare=False)


class Matrix:
    """Pings pairs of containers, at most `MAX_OUTSTANDING` at once.

    A pair is tried `count` times at the most and is done with the first answer.
    """

    def __init__(self, namespaces: dict[str, str], count: int) -> None:
        self._count = count
        self._sockets = {name: EchoSocket(place) for name, place in namespaces.items()}
        self._by_descriptor = {
            echo.socket.fileno(): (name, echo) for name, echo in self._sockets.items()
        }
        self._sequences = dict.fromkeys(self._sockets, 0)
        self._under_way: dict[tuple[str, str, int], _Request] = {}
        self._timers: list[_Request] = []

    def close(self) -> None:
        for echo in self._sockets.values():
            echo.close()

    def run(self, pairs: Sequence[Pair]) -> None:
        waiting = deque(pairs)
        poller = select.poll()
        for descriptor in self._by_descriptor:
            poller.register(descriptor, select.POLLIN)
        while waiting or self._under_way:
            while waiting and len(self._under_way) < MAX_OUTSTANDING:
                self._send(waiting.popleft(), self._count)
            pause_s = self._timers[0].gives_up_at - time.monotonic() if self._timers else 0.0
            for descriptor, _ in poller.poll(max(0.0, pause_s) * 1000):
                self._receive(*self._by_descriptor[descriptor])
            self._give_up(time.monotonic())

    def _send(self, pair: Pair, tries: int) -> None:
        sequence = self._sequences[pair.source] = (self._sequences[pair.source] + 1) & 0xFFFF
        now = time.monotonic()
        request = _Request(now + ECHO_TIMEOUT_S, now, sequence, pair, tries - 1)
        self._under_way[(pair.source, pair.address, sequence)] = request
        heapq.heappush(self._timers, request)
        try:
            self._sockets[pair.source].send(pair.address, sequence)
        except OSError:
            pass  # no route, or no address yet: it gives up like any other

    def _receive(self, source: str, echo: EchoSocket) -> None:
        while (reply := echo.receive()) is not None:
            request = self._under_way.pop((source, *reply), None)
            if request is not None:
                request.pair.rtt_ms = (time.monotonic() - request.sent_at) * 1000

    def _give_up(self, now: float) -> None:
        while self._timers and self._timers[0].gives_up_at <= now:
            request = heapq.heappop(self._timers)
            key = (request.pair.source, request.pair.address, request.sequence)
            if self._under_way.pop(key, None) is None:
                continue
            request.pair.lost += 1
            if request.tries_left:
                self._send(request.pair, request.tries_left)


def ping_matrix(namespaces: dict[str, str], pairs: Sequence[Pair], count: int) -> None:
    """Fill in what became of each pair. `namespaces` are those of all that take part, by name.

    A pair costs two entries of the neighbour table that all namespaces share with the machine.
    So a large matrix is done in blocks, and the entries are dropped after each.
    """
    matrix = Matrix(namespaces, count)
    places = {name: index // BLOCK_SIDE for index, name in enumerate(namespaces)}
    blocks: dict[tuple[int, int], list[Pair]] = defaultdict(list)
    for pair in pairs:
        blocks[places[pair.source], places[pair.destination]].append(pair)
    try:
        for block in blocks.values():
            matrix.run(block)
            if len(blocks) > 1:
                names = {name for pair in block for name in (pair.source, pair.destination)}
                in_parallel(_forget_neighbours, [namespaces[name] for name in sorted(names)])
    finally:
        matrix.close()


def _forget_neighbours(namespace: str) -> None:
    run(["ip", "-n", namespace, "neighbour", "flush", "all"])


# --- one to one, again and again -----------------------------------------------------------------


def ping_series(namespace: str, address: str, count: int, interval_s: float) -> list[float | None]:
    """Round-trip times in ms of `count` requests sent at fixed instants; None: lost."""
    echo = EchoSocket(namespace)
    times: list[float | None] = [None] * count
    sent_at: dict[int, float] = {}
    began = time.monotonic()
    try:
        while True:
            now = time.monotonic()
            due = began + len(sent_at) * interval_s
            if len(sent_at) < count and now >= due:
                sequence = len(sent_at)
                sent_at[sequence] = time.monotonic()
                try:
                    echo.send(address, sequence & 0xFFFF)
                except OSError:
                    pass  # counts as lost
                continue
            ends = began + count * interval_s + ECHO_TIMEOUT_S
            if len(sent_at) == count and (now >= ends or None not in times):
                return times
            until = due if len(sent_at) < count else ends
            if select.select([echo.socket], [], [], max(0.0, until - now))[0]:
                arrived_at = time.monotonic()
                while (reply := echo.receive()) is not None:
                    sequence = reply[1]
                    if sequence in sent_at and times[sequence] is None:
                        times[sequence] = (arrived_at - sent_at[sequence]) * 1000
    finally:
        echo.close()
