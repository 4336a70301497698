"""The TAP's queues, between a real bridge and containers that do not care for each other."""

import itertools
import os
import socket
import struct
from collections.abc import Iterable, Iterator

import pytest

from router.sleeve.tap import MAX_FRAME_BYTES, VIRTIO_HEADER, Tap
from tests.router.sleeve.world import inside, needs_kernel, run

pytestmark = [needs_kernel, pytest.mark.root]

NAME = f"weavepy-tap-{os.getpid()}"
ETHERTYPE = 0x88B5
FLOOD_FRAMES = 3_000
"""More than a queue holds."""


@pytest.fixture
def tap() -> Iterator[Tap]:
    """On a bridge with two ports; what is sent on `in1` and `in2` comes in there."""
    run("ip", "netns", "add", NAME)
    tap = None
    try:
        run("ip", "-n", NAME, "link", "add", "br0", "type", "bridge")
        with inside(NAME):
            tap = Tap("tap0", 1400, offload=True)
        for number in ("1", "2"):
            run(
                *("ip", "-n", NAME, "link", "add", f"in{number}"),
                *("type", "veth", "peer", "name", f"port{number}"),
            )
            run("ip", "-n", NAME, "link", "set", f"in{number}", "up")
        for port in ("port1", "port2", "tap0"):
            run("ip", "-n", NAME, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", NAME, "link", "set", "br0", "up")
        yield tap
    finally:
        if tap is not None:
            tap.close()
        run("ip", "netns", "del", NAME)


def send(port: int, sources: Iterable[int], numbers: Iterable[int]) -> None:
    with inside(NAME):
        mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        mouth.bind((f"in{port}", 0))
    with mouth:
        for source, number in zip(sources, numbers, strict=False):
            macs = b"\x02\0\0\0\0\xff" + b"\x02\0\0\0\x01" + bytes([source])
            mouth.send((macs + struct.pack("!HI", ETHERTYPE, number)).ljust(60, b"\0"))


def waiting(tap: Tap) -> dict[int, list[int]]:
    """The numbers of our frames that each queue has."""
    buffer = memoryview(bytearray(VIRTIO_HEADER.size + MAX_FRAME_BYTES))
    found: dict[int, list[int]] = {}
    for queue in tap.queues():
        while tap.read_into(queue, buffer):
            ethertype, number = struct.unpack_from("!HI", buffer, VIRTIO_HEADER.size + 12)
            if ethertype == ETHERTYPE:
                found.setdefault(queue, []).append(number)
    return found


@pytest.mark.parametrize("sources", [[1], range(256)], ids=["one address", "many"])
def test_a_port_that_floods_takes_no_room_from_another(tap: Tap, sources: Iterable[int]) -> None:
    assert "tap-fair" in tap.offloads
    send(1, itertools.cycle(sources), range(FLOOD_FRAMES))
    wanted = range(FLOOD_FRAMES, FLOOD_FRAMES + 10)
    send(2, itertools.repeat(1), wanted)
    flooded, spared = sorted(waiting(tap).values(), key=len, reverse=True)
    assert flooded == list(range(len(flooded)))
    assert spared == list(wanted)
    with inside(NAME):
        assert tap.queue_drops() >= FLOOD_FRAMES - len(flooded) > 0
