"""A wire that takes its time: moves frames between two ports, each one `DELAY` ms later.

    python -m weavepy.lab.delay PORT PORT DELAY_MS [DUPLICATE [REORDER]]

The last two are probabilities. A frame's duplicate comes some time after it, and a frame that is
to be overtaken is held back for as long: up to `SPREAD_S`.

Kernels come without netem often enough that the lab brings its own. Frames are taken from a
packet socket with their virtio-net header, so those that the kernel keeps large or without
checksum leave as they came. Each direction's queue is bounded, and what does not fit is lost, as
in any network.
"""

import heapq
import itertools
import select
import socket
import struct
import sys
import time
from random import Random

QUEUE_BYTES = 64 * 1024 * 1024
"""For each direction: 1 Gbit/s for half a second."""

_RECEIVE_BUFFER_BYTES = 32 * 1024 * 1024
_MAX_FRAME_BYTES = 128 * 1024
_READ_BATCH = 64

SPREAD_S = 0.03
"""How long after its time a frame comes that comes again, or late."""

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32


class Direction:
    """From one port to the other."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        delay_s: float,
        duplicate: float = 0.0,
        reorder: float = 0.0,
    ) -> None:
        self.source = source
        self._sink = sink
        self._delay_s = delay_s
        self._duplicate = duplicate
        self._reorder = reorder
        self._rng = Random()
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, bytes]] = []
        """A heap by the time when it is due, then by the order in which it came."""
        self._waiting_bytes = 0

    @property
    def due(self) -> float | None:
        return self._waiting[0][0] if self._waiting else None

    def take(self) -> None:
        for _ in range(_READ_BATCH):
            try:
                frame = self.source.recv(_MAX_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # the port went down or a frame was cut short: frames get lost, no more
            due = time.monotonic() + self._delay_s
            if self._duplicate and self._rng.random() < self._duplicate:
                self._put(due + self._rng.uniform(0, SPREAD_S), frame)
            if self._reorder and self._rng.random() < self._reorder:
                due += self._rng.uniform(0, SPREAD_S)
            self._put(due, frame)

    def _put(self, due: float, frame: bytes) -> None:
        if self._waiting_bytes + len(frame) <= QUEUE_BYTES:
            heapq.heappush(self._waiting, (due, next(self._numbers), frame))
            self._waiting_bytes += len(frame)

    def deliver(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            frame = heapq.heappop(self._waiting)[2]
            self._waiting_bytes -= len(frame)
            try:
                self._sink.send(frame)
            except OSError:
                pass  # port down, queue full or frame too large for it: lost


def open_port(name: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, struct.pack("i", 1))
    port.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, struct.pack("i", 1))
    port.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    port.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _RECEIVE_BUFFER_BYTES)
    port.bind((name, _ETH_P_ALL))
    port.setblocking(False)
    return port


def relay(
    one: socket.socket, other: socket.socket, delay_s: float, duplicate: float, reorder: float
) -> None:
    """For ever."""
    directions = {
        source: Direction(source, sink, delay_s, duplicate, reorder)
        for source, sink in ((one, other), (other, one))
    }
    while True:
        due = [direction.due for direction in directions.values() if direction.due is not None]
        timeout_s = max(0.0, min(due) - time.monotonic()) if due else None
        for source in select.select(list(directions), [], [], timeout_s)[0]:
            directions[source].take()
        now = time.monotonic()
        for direction in directions.values():
            direction.deliver(now)


def main(arguments: list[str]) -> None:
    one, other, *numbers = arguments
    delay_ms, duplicate, reorder = (*map(float, numbers), 0.0, 0.0)[:3]
    ports = open_port(one), open_port(other)
    print("ready", flush=True)
    relay(*ports, delay_ms / 1000, duplicate, reorder)


if __name__ == "__main__":
    main(sys.argv[1:])
