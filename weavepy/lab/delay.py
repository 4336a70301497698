"""A wire that takes its time: moves frames between two ports, each one `DELAY` ms later.

    python -m weavepy.lab.delay PORT PORT DELAY_MS

Kernels come without netem often enough that the lab brings its own. Frames are taken from a
packet socket with their virtio-net header, so those that the kernel keeps large or without
checksum leave as they came. The delay is constant, so each direction is a plain queue; it is
bounded, and what does not fit is lost, as in any network.
"""

import select
import socket
import struct
import sys
import time
from collections import deque

QUEUE_BYTES = 64 * 1024 * 1024
"""For each direction: 1 Gbit/s for half a second."""

_RECEIVE_BUFFER_BYTES = 32 * 1024 * 1024
_MAX_FRAME_BYTES = 128 * 1024
_READ_BATCH = 64

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32


class Direction:
    """From one port to the other."""

    def __init__(self, source: socket.socket, sink: socket.socket, delay_s: float) -> None:
        self.source = source
        self._sink = sink
        self._delay_s = delay_s
        self._waiting: deque[tuple[float, bytes]] = deque()
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
            if self._waiting_bytes + len(frame) <= QUEUE_BYTES:
                self._waiting.append((time.monotonic() + self._delay_s, frame))
                self._waiting_bytes += len(frame)

    def deliver(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            frame = self._waiting.popleft()[1]
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


def relay(one: socket.socket, other: socket.socket, delay_s: float) -> None:
    """For ever."""
    directions = {one: Direction(one, other, delay_s), other: Direction(other, one, delay_s)}
    while True:
        due = [direction.due for direction in directions.values() if direction.due is not None]
        timeout_s = max(0.0, min(due) - time.monotonic()) if due else None
        for source in select.select(list(directions), [], [], timeout_s)[0]:
            directions[source].take()
        now = time.monotonic()
        for direction in directions.values():
            direction.deliver(now)


def main(arguments: list[str]) -> None:
    one, other, delay_ms = arguments
    ports = open_port(one), open_port(other)
    print("ready", flush=True)
    relay(*ports, float(delay_ms) / 1000)


if __name__ == "__main__":
    main(sys.argv[1:])
