"""Frames under a change of path: real datapaths, the driver, and numbered datagrams.

The test does what the core does: it tells the datapath, waits for its answer, tells the driver.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

import pytest

from fastdp.core.effects import Tunnel, network_id
from fastdp.shell.vxlan import VxlanDriver
from router.sleeve.messages import (
    MAX_MESSAGE_BYTES,
    FastPeersSet,
    MacsOnTap,
    SetFastPeers,
    from_datapath_decoder,
)
from tests.router.sleeve.world import Host, World, inside, needs_kernel
from weavepy.base.names import PeerName

pytestmark = [needs_kernel, pytest.mark.root, pytest.mark.timeout(120)]

DRAIN_S = 0.1
_SO_RCVBUFFORCE = 33
UNICAST_PORT, BROADCAST_PORT = 4001, 4002

Message = TypeVar("Message")


class Router:
    """The part of a router that is under test: one host's datapath and driver."""

    def __init__(self, host: Host, others: list[Host]) -> None:
        self.host = host
        self.driver = VxlanDriver("br0", "weavetap")
        self.strays = 0
        self._generation = 0
        self._answers: dict[int, FastPeersSet] = {}
        self._fast: list[int] = []
        self.tunnels = [
            Tunnel(PeerName(it.peer), it.number, network_id(host.number, it.number), it.underlay)
            for it in others
        ]
        with inside(host.namespace):
            assert self.driver.arrange(self.tunnels, 1400).errors == {}

    def up(self, other: Host, relays: bool = False) -> None:
        self._fast.append(other.number)
        macs = self._set_fast(relays=[other.number] if relays else []).macs
        with inside(self.host.namespace):
            behind = [_octets(mac) for mac in macs.get(other.number, [])]
            self.driver.carry(PeerName(other.peer), behind)

    def down(self, other: Host) -> None:
        peer = PeerName(other.peer)
        with inside(self.host.namespace):
            macs = self.driver.macs(peer)
        self._set_fast(learn={other.number: [mac.hex(":") for mac in macs]})
        with inside(self.host.namespace):
            self.driver.retire(peer, macs)
        self._hear(DRAIN_S)
        self._fast.remove(other.number)
        self._set_fast()

    def rest(self, seconds: float) -> None:
        self._hear(seconds)

    def _set_fast(
        self, relays: list[int] | None = None, learn: dict[int, list[str]] | None = None
    ) -> FastPeersSet:
        self._generation += 1
        self.host.send(
            SetFastPeers(
                generation=self._generation,
                fast=list(self._fast),
                relays=relays or [],
                learn=learn or {},
            )
        )
        give_up_at = time.monotonic() + 10
        while self._generation not in self._answers:
            assert time.monotonic() < give_up_at
            self._hear(0.01)
        return self._answers.pop(self._generation)

    def _hear(self, seconds: float) -> None:
        """Take what the datapath says for so long, and point strays where they belong."""
        assert self.host.link is not None
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.host.link.settimeout(left)
            try:
                message = from_datapath_decoder.decode(self.host.link.recv(MAX_MESSAGE_BYTES))
            except TimeoutError:
                break
            if isinstance(message, FastPeersSet):
                self._answers[message.generation] = message
            elif isinstance(message, MacsOnTap):
                self.strays += 1
                for tunnel in self.tunnels:
                    macs = [_octets(mac) for mac in message.macs.get(tunnel.short_id, [])]
                    if macs and tunnel.short_id in self._fast:
                        with inside(self.host.namespace):
                            self.driver.point(tunnel.peer, macs)
        self.host.link.settimeout(10.0)

    def frames_sent(self, other: Host) -> int:
        with inside(self.host.namespace):
            return self.driver.counters().tunnels[PeerName(other.peer)].frames_sent


class Numbered:
    """Datagrams with numbers, from one container to one address, at a steady pace."""

    def __init__(self, one: Host, to: list[Host], address: str, port: int, pace_s: float) -> None:
        self._pace_s = pace_s
        self._target = (address, port)
        self._stop = threading.Event()
        self.sent = 0
        with inside(one.container):
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._receivers = [self._receiver(host, port) for host in to]
        self._thread = threading.Thread(target=self._send)

    @staticmethod
    def _receiver(host: Host, port: int) -> socket.socket:
        with inside(host.container):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        receiver.bind(("0.0.0.0", port))
        return receiver

    def _send(self) -> None:
        at = time.monotonic()
        while not self._stop.is_set():
            self._sender.sendto(self.sent.to_bytes(8, "big") + bytes(92), self._target)
            self.sent += 1
            at += self._pace_s
            time.sleep(max(0.0, at - time.monotonic()))

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> list[Counter[int]]:
        """By receiver: how often each number came."""
        self._stop.set()
        self._thread.join()
        self._sender.close()
        found = []
        for receiver in self._receivers:
            receiver.settimeout(0.5)
            seen: Counter[int] = Counter()
            with receiver, contextlib.suppress(TimeoutError):
                while True:
                    seen[int.from_bytes(receiver.recv(200)[:8], "big")] += 1
            found.append(seen)
        return found


@contextlib.contextmanager
def numbered(one: Host, others: list[Host]) -> Iterator[tuple[Numbered, Numbered]]:
    """2,000 datagrams per second to the first of the others, and 500 to everyone."""
    unicast = Numbered(one, others[:1], others[0].overlay, UNICAST_PORT, 0.0005)
    broadcast = Numbered(one, others, "10.32.0.255", BROADCAST_PORT, 0.002)
    unicast.start()
    broadcast.start()
    try:
        yield unicast, broadcast
    finally:
        unicast._stop.set()
        broadcast._stop.set()


def lost(sent: int, seen: Counter[int]) -> list[int]:
    return [number for number in range(sent) if number not in seen]


def doubled(seen: Counter[int]) -> list[int]:
    return [number for number, times in seen.items() if times > 1]


def runs(numbers: list[int]) -> list[int]:
    """The first of each run of consecutive numbers."""
    return [number for number in numbers if number - 1 not in set(numbers)]


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def test_no_frame_is_lost_or_doubled_when_tunnels_begin_and_end() -> None:
    with World((), ()) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        assert world.ping(one, two)
        routers = Router(one, [two]), Router(two, [one])
        with numbered(one, [two]) as (unicast, broadcast):
            for _ in range(5):
                for router, other in zip(routers, (two, one), strict=True):
                    router.rest(0.2)
                    router.up(other)
                for router, other in zip(routers, (two, one), strict=True):
                    router.rest(0.3)
                    router.down(other)
        (seen,) = unicast.finish()
        (flooded,) = broadcast.finish()
        by_tunnel = routers[0].frames_sent(two)
    assert by_tunnel > 1000
    assert doubled(seen) == []
    assert doubled(flooded) == []
    assert lost(unicast.sent, seen) == []
    # While the datapath has left off and the tunnel has not begun, or the TAP's queues are drained.
    assert len(runs(lost(broadcast.sent, flooded))) <= 10


def test_a_router_that_comes_after_another_disturbs_no_frame() -> None:
    with World((), ()) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        assert world.ping(one, two)
        routers = Router(one, [two]), Router(two, [one])
        routers[0].up(two)
        routers[1].up(one)
        with numbered(one, [two]) as (unicast, broadcast):
            for _ in range(10):
                one.connect()
                assert one.snapshot is not None
                assert one.snapshot.fast == [2]
                with inside(one.namespace):
                    driver = VxlanDriver("br0", "weavetap")
                    (adopted,) = driver.adopt()
                    tunnel = routers[0].tunnels[0]
                    assert adopted.carrying
                    assert driver.arrange([tunnel], 1400).repairs == []
        (seen,) = unicast.finish()
        (flooded,) = broadcast.finish()
    for numbers, sent in ((seen, unicast.sent), (flooded, broadcast.sent)):
        assert (lost(sent, numbers), doubled(numbers)) == ([], [])


def test_a_mesh_of_tunnels_and_sleeve_brings_each_frame_once() -> None:
    """Tunnels 1-2 and 2-3, sleeve for 1-3 and for all of 4, which hangs on 2 alone."""
    with World((), (), (), ()) as world:
        world.join_all((1, 2), (2, 3), (1, 3), (2, 4))
        one, two, three, _ = world.hosts
        assert all(world.ping(a, b) for a in world.hosts for b in world.hosts if a is not b)
        first, second, third = Router(one, [two]), Router(two, [one, three]), Router(three, [two])
        first.up(two, relays=True)  # 4 hears 1 by 2
        second.up(one)
        second.up(three)
        third.up(two, relays=True)
        assert all(world.ping(a, b) for a in world.hosts for b in world.hosts if a is not b)
        for source in world.hosts:
            others = [host for host in world.hosts if host is not source]
            with numbered(source, others) as (unicast, broadcast):
                second.rest(0.5)
            for numbers in broadcast.finish():
                assert (lost(broadcast.sent, numbers), doubled(numbers)) == ([], [])
            (seen,) = unicast.finish()
            assert (lost(unicast.sent, seen), doubled(seen)) == ([], [])
