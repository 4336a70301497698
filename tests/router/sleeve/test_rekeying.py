"""Keys are renewed every second under load between real datapaths, and no packet is lost to it.

WEAVEPY_REKEY_SECONDS=60     for so long; the default is a few
"""

import os
import select
import socket
import struct
import threading
import time

import pytest

from tests.router.sleeve.world import Host, World, inside, needs_kernel

SECONDS = float(os.environ.get("WEAVEPY_REKEY_SECONDS", "6"))
PER_S = 2_000
"""Datagrams in each direction; little enough that nothing but the keys could lose one."""
BURST = 4
SETTLE_S = 2.0
_SO_RCVBUFFORCE = 33
_EVERY_SECOND = ("--rekey-after", "1")

pytestmark = [needs_kernel, pytest.mark.root, pytest.mark.timeout(180)]


class Numbered:
    """Numbered datagrams from one container to another, each counted when it arrives."""

    def __init__(self, one: Host, other: Host) -> None:
        with inside(other.container):
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self.receiver.bind((other.overlay, 0))
        with inside(one.container):
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.connect(self.receiver.getsockname())
        self.sent = 0
        self.arrived: dict[int, int] = {}

    def send(self, seconds: float) -> None:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            for _ in range(BURST):
                self._sender.send(struct.pack("!I", self.sent).ljust(400, b"n"))
                self.sent += 1
            # Who was held up does not make up for it: that would test the queues.
            time.sleep(BURST / PER_S)

    def take(self) -> None:
        (number,) = struct.unpack_from("!I", self.receiver.recv(2048))
        self.arrived[number] = self.arrived.get(number, 0) + 1

    def close(self) -> None:
        self._sender.close()
        self.receiver.close()


@pytest.mark.parametrize("options", [(), ("--no-offload",)], ids=["offload", "portable"])
def test_keys_renewed_every_second_lose_no_packet(options: tuple[str, ...]) -> None:
    with World((*options, *_EVERY_SECOND), (*options, *_EVERY_SECOND)) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        assert world.ping(one, two)
        before = one.session(two).epoch
        streams = [Numbered(one, two), Numbered(two, one)]
        senders = [threading.Thread(target=stream.send, args=(SECONDS,)) for stream in streams]
        for sender in senders:
            sender.start()
        collect(streams, senders)
        renewed = one.session(two).epoch - before
        for stream in streams:
            missing = [number for number in range(stream.sent) if number not in stream.arrived]
            print(f"{renewed} new keys, {stream.sent} sent, {len(missing)} lost")
            if missing:
                print(one.drops(), two.drops())
            assert missing == []
            assert max(stream.arrived.values()) == 1
            assert stream.sent > 0.2 * SECONDS * PER_S
            stream.close()
        assert renewed >= 0.7 * SECONDS
        assert two.session(one).up
        for host in (one, two):
            # Nor is a control record of an epoch that is gone by now taken for anything.
            assert host.drops().keys() & {"replayed", "not-authentic"} == set()


def collect(streams: list[Numbered], senders: list[threading.Thread]) -> None:
    """Until all that was sent is here, or nothing comes any more."""
    by_socket = {stream.receiver: stream for stream in streams}
    heard_at = time.monotonic()
    while any(sender.is_alive() for sender in senders) or time.monotonic() < heard_at + SETTLE_S:
        for receiver in select.select(list(by_socket), [], [], 0.1)[0]:
            by_socket[receiver].take()
            heard_at = time.monotonic()
        if all(len(stream.arrived) == stream.sent for stream in streams) and not any(
            sender.is_alive() for sender in senders
        ):
            return
