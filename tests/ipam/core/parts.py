"""The parts of one peer, without the rest of it, and one whole peer that is told things by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from random import Random

from ipam.core.effects import (
    Announce,
    AnswerRequest,
    IpamEffect,
    LogLine,
    Persist,
    PersistedAddress,
    Saved,
    Unicast,
)
from ipam.core.election import Observer
from ipam.core.ipam import Ipam
from ipam.core.messages import Message, Update, decode_message, encode_message
from ipam.core.ranges import Universe
from ipam.core.replica import Replica
from ipam.core.ring import Entry, Ring
from ipam.core.space import Space
from tests.ipam.core.mesh import Disk, peer_name
from weavepy.base.names import PeerName

A, B, C, D, E = (peer_name(number) for number in (1, 2, 3, 4, 5))
RING = b"12345678"


def replica_without_ring(universe: str = "10.32.0.0/24", quorum: int = 1) -> Replica:
    """That of `A`, known as host1; it knows the other names as well."""
    replica = Replica(A, "host1", Universe.of(ip_network(universe)), quorum)
    replica.nicknames |= {B: "host2", C: "host3", D: "host4"}
    return replica


def replica_of(owners: int, universe: str = "10.32.0.0/24") -> Replica:
    """With a ring in equal shares, of which `A` has the first."""
    replica = replica_without_ring(universe)
    names = [A, B, C, D, E][:owners]
    replica.ring = Ring.divide(RING, replica.universe, names)
    return replica


def space_of(replica: Replica) -> Space:
    space = Space()
    assert replica.ring is not None
    space.set_ranges(replica.ring.ranges_of(A), replica.ring.contested())
    return space


def row(address: int, owner: str = "web") -> PersistedAddress:
    return PersistedAddress(address, owner, 24)


@dataclass
class Said:
    """What one input led to, sorted by kind; payloads are decoded."""

    persist: Persist | None = None
    told: list[Update] = field(default_factory=list)
    """To everyone."""
    passed_on: list[PeerName | None] = field(default_factory=list)
    """Of each of those, from whom it was learnt."""
    sent: list[tuple[PeerName, Message]] = field(default_factory=list)
    answers: list[AnswerRequest] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)


class Host:
    """`A` with a /28, of which `owners` peers own equal shares; 0 means that there is no ring.

    It was just started from its disk, and its check after that is over unless said otherwise.
    """

    def __init__(
        self,
        owners: int = 2,
        *,
        checked: bool = True,
        saved: Saved | None = None,
        **options: object,
    ) -> None:
        self.now = 0.0
        self.disk = Disk()
        self.replica = replica_of(owners, "10.32.0.0/28") if owners else replica_without_ring()
        if saved is None and owners:
            saved = Saved(self.replica.snapshot(), ())
        arguments: dict[str, object] = {
            "ourself": A,
            "nickname": "host1",
            "universe": ip_network("10.32.0.0/28"),
            "default_subnet": None,
            "init": Observer(),
            "saved": saved,
            "rng": Random(1),
            "now": self.now,
            "expects_peers": True,
            **options,
        }
        self.ipam = Ipam(**arguments)  # type: ignore[arg-type]
        self.first = self.ipam.universe.first
        self.codec = self.ipam._replica.codec
        if checked:
            self.now = 5.0
            self.do(self.ipam.handle_timeout(self.now))

    @property
    def ring(self) -> Ring:
        assert self.ipam.ring is not None
        return self.ipam.ring

    def do(self, effects: Iterable[IpamEffect]) -> Said:
        said = Said()
        for number, effect in enumerate(effects):
            match effect:
                case Persist():
                    assert number == 0
                    said.persist = effect
                    self.disk.persist(effect)
                case Announce(update=update, learnt_from=source):
                    said.told.append(self.codec.decode(update))
                    said.passed_on.append(source)
                case Unicast(peer=peer, payload=payload):
                    said.sent.append((peer, decode_message(payload)))
                case AnswerRequest():
                    said.answers.append(effect)
                case LogLine(message=message):
                    said.logs.append(message)
        self.ipam.check()
        return said

    def reach(self, *peers: PeerName, sessions: Sequence[PeerName] = ()) -> Said:
        return self.do(self.ipam.handle_peers_changed(peers, self.now, sessions))

    def hear(self, source: PeerName, message: Message) -> Said:
        return self.do(self.ipam.handle_unicast(source, encode_message(message), self.now))

    def gossip(self, source: PeerName, update: Update) -> Said:
        return self.do(self.ipam.handle_gossip(source, self.codec.encode(update), self.now))

    def tell(self, source: PeerName, *entries: Entry, **parts: object) -> Said:
        """Let it hear of entries of its own ring."""
        return self.gossip(source, Update(ring_id=RING, entries=entries, **parts))  # type: ignore[arg-type]

    def wait(self, seconds: float) -> Said:
        self.now += seconds
        return self.do(self.ipam.handle_timeout(self.now))

    def allocate(self, request: int, owner: str = "web", *, until: float = 1000.0) -> Said:
        return self.do(self.ipam.allocate(request, owner, None, until, self.now))

    def claim(self, request: int, offset: int, owner: str = "web") -> Said:
        effects = self.ipam.claim(request, owner, self.first + offset, None, 1000.0, self.now)
        return self.do(effects)

    def offsets(self) -> dict[int, str]:
        """Return which addresses are in use, and for whom."""
        return {one.address - self.first: one.owner for one in self.ipam.addresses()}

    def warnings(self) -> tuple[str, ...]:
        return self.ipam.status(self.now).warnings

    def reason(self) -> str:
        """Return what the only request that waits is told."""
        (waiting,) = self.ipam.status(self.now).waiting
        return waiting.reason
