"""What the engine costs per packet, without the kernel.

    python -m tests.router.sleeve.bench_engine

Sealing and opening are timed apart: large frames of 44 pieces, small frames that share records,
and frames of full size one by one.
"""

import time
from collections.abc import Callable
from random import Random

from tests.router.sleeve.flows import Flow
from tests.router.sleeve.memory import Node, frame_of, pair

ROUNDS = 200


def measure(name: str, feed: Callable[[Node, Node], int]) -> None:
    """Time both directions of what `feed` puts in; it returns how many packets that is."""
    wire, one, two = pair()
    sealing_s = opening_s = 0.0
    packets = datagrams = 0
    for _ in range(ROUNDS):
        started = time.perf_counter()
        packets += feed(one, two)
        one.end_turn()
        sealing_s += time.perf_counter() - started
        batches, wire.batches = wire.batches, []
        received = [(b"".join(b.datagrams), len(b.datagrams[0])) for b in batches]
        datagrams += sum(len(batch.datagrams) for batch in batches)
        started = time.perf_counter()
        for data, size in received:
            two.receive(data, size, one.host)
        two.end_turn()
        opening_s += time.perf_counter() - started
        two.bridge.clear()
    print(
        f"{name:14} {datagrams:7} datagrams"
        f"  seal {sealing_s / packets * 1e6:5.2f} us  open {opening_s / packets * 1e6:5.2f} us"
        "  per packet"
    )


def large(one: Node, two: Node) -> int:
    one.feed(LARGE_FRAME, LARGE.virtio())
    return LARGE.count


def small(one: Node, two: Node) -> int:
    for _ in range(64):
        one.feed(SMALL_FRAME)
    return 64


def full(one: Node, two: Node) -> int:
    for _ in range(64):
        one.feed(FULL_FRAME)
    return 64


LARGE = Flow(payload=Random(1).randbytes(44 * 1348), mss=1348, tcp_options=bytes(12))
_macs = bytes((2, 0, 0, 0, 0, 2)), bytes((2, 0, 0, 0, 0, 1))
LARGE_FRAME = _macs[0] + _macs[1] + LARGE.large()[12:]
SMALL_FRAME = frame_of(_macs[1], _macs[0], bytes(92))
FULL_FRAME = frame_of(_macs[1], _macs[0], bytes(1400))

if __name__ == "__main__":
    measure("large frames", large)
    measure("small frames", small)
    measure("full frames", full)
