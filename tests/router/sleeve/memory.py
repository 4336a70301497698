"""Datapaths in memory: real engines, steerings and sessions on a wire that is a list.

Time is a number that a test moves. `Node.bridge` is what came out of the TAP; `Node.feed` puts
a frame in. `Wire.run` carries datagrams until all is quiet; a test may drop some on the way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from router.overlay.mac_table import MacTable
from router.overlay.switch import Switch
from router.sleeve.control import Receipt
from router.sleeve.engine import Engine
from router.sleeve.forwarder import Forwarder
from router.sleeve.messages import Epoch, FromDatapath, InstallEpoch, InstallRoutes
from router.sleeve.outbound import HEADROOM_BYTES
from router.sleeve.spans import SpanChoice
from router.sleeve.steering import Steering

PORT = 6783
PLAIN_VIRTIO = bytes(10)


@dataclass
class FakeTap:
    offloads: tuple[str, ...] = ("tap-tso",)
    name: str = "tap"
    mtu_bytes: int = 1400
    written: list[bytes] = field(default_factory=list)
    error: str = ""
    queue_drops: int = 0

    def write(self, parts: Sequence[bytes | memoryview]) -> str:
        if not self.error:
            self.written.append(b"".join(parts))
        return self.error

    def set_mtu(self, mtu_bytes: int) -> None:
        if mtu_bytes < 68:
            raise OSError("too small")
        self.mtu_bytes = mtu_bytes


class PinnedSpan(SpanChoice):
    def __init__(self, span: int) -> None:
        super().__init__()
        self.span = span

    def handle_receipt(self, receipt: Receipt, now: float) -> None:
        pass

    def start_anew(self) -> None:
        pass


@dataclass
class Batch:
    """What one system call sends: datagrams of one size, the last perhaps shorter."""

    sender: "Node"
    receiver: str
    datagrams: list[bytes]


class Node:
    def __init__(
        self,
        wire: "Wire",
        number: int,
        *,
        offload: bool = True,
        encrypted: bool = True,
        underlay_mtu_bytes: int = 1500,
    ) -> None:
        self.number = number
        self.host = f"10.99.0.{number}"
        self.peer = f"00:00:00:00:00:{number:02x}"
        self.tap = FakeTap() if offload else FakeTap(offloads=())
        self.told: list[FromDatapath] = []
        self.max_packet_bytes = underlay_mtu_bytes
        self._wire = wire
        rng = Random(number)
        self.switch = Switch(MacTable())
        self.engine = Engine(self.switch, self.tap, rng, encrypted=encrypted, bundling=offload)
        self.steering = Steering(
            self.engine,
            self.tap,
            self,
            rng,
            wire.now,
            self.told.append,
            encrypted=encrypted,
            udp_port=PORT,
            mtu_bytes=1400,
            underlay_mtu_bytes=underlay_mtu_bytes,
            offloads=lambda: self.tap.offloads,
            kernel_drops=lambda: {"tap-queue-full": self.tap.queue_drops},
        )
        wire.nodes[self.host] = self

    @property
    def mac(self) -> bytes:
        """Of the one container here."""
        return bytes((2, 0, 0, 0, 0, self.number))

    @property
    def bridge(self) -> list[bytes]:
        return self.tap.written

    def feed(self, frame: bytes, virtio: bytes = PLAIN_VIRTIO) -> None:
        """A frame comes from the bridge."""
        data = (virtio if self.tap.offloads else b"") + frame
        self.engine.buffer[HEADROOM_BYTES : HEADROOM_BYTES + len(data)] = data
        self.engine.handle_frame(len(data), self._wire.now)

    def send(
        self,
        parts: Sequence[bytes | memoryview],
        size: int,
        count: int,
        endpoint: tuple[str, int],
    ) -> str:
        """The engine's datagram sink."""
        assert len(parts) == 2 * count
        datagrams = [b"".join(parts[at : at + 2]) for at in range(0, len(parts), 2)]
        if count > 1:
            assert all(len(datagram) == size for datagram in datagrams[:-1])
            assert len(datagrams[-1]) <= size
        if max(map(len, datagrams)) + 28 > self.max_packet_bytes:
            return "EMSGSIZE"
        self._wire.batches.append(Batch(self, endpoint[0], datagrams))
        return ""

    def receive(self, data: bytes, size: int, host: str) -> None:
        now = self._wire.now
        effects = self.engine.handle_datagrams(memoryview(data), len(data), size, (host, PORT), now)
        self.steering.handle_effects(effects, now)

    def end_turn(self) -> None:
        now = self._wire.now
        if now >= self.engine.release_at:
            self.steering.handle_effects(self.engine.release(now), now)
        self.steering.handle_failed(self.engine.flush(now), now)

    def forwarder(self, other: "Node") -> Forwarder:
        return self.engine.forwarders[other.number]

    def pin_span(self, other: "Node", span: int, *, parity: bool = False) -> None:
        """Records to that node span so many datagrams, whatever it tells about losses."""
        session = self.forwarder(other).session
        session._span_choice = PinnedSpan(span)
        session.span = span
        session.parity = session._span_choice.parity = parity

    def drops(self) -> dict[str, int]:
        total = dict(self.engine.drops)
        for forwarder in self.engine.forwarders.values():
            for reason, count in forwarder.drops.items():
                total[reason] = total.get(reason, 0) + count
        return total


class Wire:
    def __init__(self) -> None:
        self.now = 1000.0
        self.nodes: dict[str, Node] = {}
        self.batches: list[Batch] = []
        self.lose: Callable[[Batch, int], bool] = lambda batch, number: False
        """Asked for each datagram of a batch."""
        self.carried: list[bytes] = []
        """Every datagram that got across."""

    def run(self) -> None:
        """Carry everything, and what follows from it, at this moment."""
        for _ in range(1000):
            for node in self.nodes.values():
                node.end_turn()
            if not self.batches:
                return
            batches, self.batches = self.batches, []
            for batch in batches:
                self._carry(batch)
        raise AssertionError("datagrams without end")

    def pass_time(self, seconds: float, step_s: float = 0.05) -> None:
        for _ in range(round(seconds / step_s)):
            self.now += step_s
            for node in self.nodes.values():
                if self.now >= node.steering.next_at:
                    node.steering.handle_timeout(self.now)
            self.run()

    def _carry(self, batch: Batch) -> None:
        node = self.nodes.get(batch.receiver)
        if node is None:
            return
        left = [one for number, one in enumerate(batch.datagrams) if not self.lose(batch, number)]
        self.carried += left
        # As UDP_GRO does: datagrams of one size come in together, and a shorter one ends that.
        while left:
            size = len(left[0])
            together = 1
            while together < len(left) and len(left[together - 1]) == size:
                if len(left[together]) > size:
                    break
                together += 1
            node.receive(b"".join(left[:together]), size, batch.sender.host)
            left = left[together:]

    def join(self, one: Node, other: Node, *, seed: int = 1) -> None:
        """Give both ends of a pair the same new epoch."""
        rng = Random(f"{one.number} {other.number} {seed}")
        secret = rng.randbytes(32)
        indexes = rng.getrandbits(32), rng.getrandbits(32)
        for ours, theirs, initiator in ((one, other, True), (other, one, False)):
            local, remote = indexes if initiator else indexes[::-1]
            ours.steering.handle_message(
                InstallEpoch(
                    peer=theirs.peer,
                    short_id=theirs.number,
                    endpoint_host=theirs.host,
                    endpoint_port=PORT,
                    epoch=Epoch(secret, initiator, local, remote),
                ),
                self.now,
            )

    def route(self, node: Node, unicast: dict[int, int], broadcast: dict[int, list[int]]) -> None:
        node.steering.handle_message(
            InstallRoutes(
                ourself=node.number,
                unicast=unicast,
                broadcast=broadcast,
                short_ids={one.number: one.peer for one in self.nodes.values()},
            ),
            self.now,
        )


def pair(
    *, offload: tuple[bool, bool] = (True, True), encrypted: bool = True, settle: bool = True
) -> tuple[Wire, Node, Node]:
    """Two joined nodes that know each other's container and the path between them."""
    wire = Wire()
    one = Node(wire, 1, offload=offload[0], encrypted=encrypted)
    two = Node(wire, 2, offload=offload[1], encrypted=encrypted)
    wire.join(one, two)
    wire.route(one, {2: 2}, {1: [2], 2: []})
    wire.route(two, {1: 1}, {2: [1], 1: []})
    if settle:
        wire.pass_time(3.0)
        introduce(wire, one, two)
    return wire, one, two


def chain(count: int = 3) -> tuple[Wire, list[Node]]:
    """Nodes 1 - 2 - ... in a row, joined and acquainted."""
    wire = Wire()
    nodes = [Node(wire, number) for number in range(1, count + 1)]
    for left, right in pairwise(nodes):
        wire.join(left, right)
    for node in nodes:
        n = node.number
        wire.route(
            node,
            {to: n + (1 if to > n else -1) for to in range(1, count + 1) if to != n},
            {
                source: [
                    to
                    for to in (n - 1, n + 1)
                    if 1 <= to <= count and abs(to - source) > abs(n - source)
                ]
                for source in range(1, count + 1)
            },
        )
    wire.pass_time(3.0)
    introduce(wire, *nodes)
    return wire, nodes


def introduce(wire: Wire, *nodes: Node) -> None:
    """Each container says something to everyone, so that all learn where it is."""
    for node in nodes:
        node.feed(frame_of(node.mac, b"\xff" * 6))
        wire.run()
    for node in nodes:
        node.bridge.clear()
    wire.carried.clear()


def frame_of(source: bytes, destination: bytes, payload: bytes = b"hello " * 10) -> bytes:
    return destination + source + b"\x88\xb5" + payload
