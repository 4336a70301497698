"""A handful of `Ipam` cores and a network that loses, reorders and splits, for tests.

It does what the mesh and the daemon do for a core: announcements go to every reachable peer,
unicasts to one, digests are exchanged now and then, the disk keeps what `Persist` says, and the
clock stands still unless a test moves it. After every input all invariants are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
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
from ipam.core.election import Consensus, InitMode
from ipam.core.ipam import Ipam
from ipam.core.ranges import Network
from weavepy.base.names import PeerName


def peer_name(number: int) -> PeerName:
    return PeerName(f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}")


def address(text: str) -> int:
    return int(ip_address(text))


@dataclass
class Disk:
    """What a `Store` does, in memory."""

    ring: bytes | None = None
    rows: dict[int, PersistedAddress] = field(default_factory=dict)

    def persist(self, effect: Persist) -> None:
        if effect.ring is not None:
            self.ring = effect.ring
        for row in effect.allocated:
            self.rows[row.address] = row
        for gone in effect.released:
            self.rows.pop(gone, None)

    def load(self) -> Saved | None:
        if self.ring is None and not self.rows:
            return None
        return Saved(self.ring, tuple(self.rows.values()))

    def copy(self) -> Disk:
        return Disk(self.ring, dict(self.rows))


class TestMesh:
    __test__ = False

    def __init__(
        self,
        count: int,
        *,
        universe: str = "10.32.0.0/24",
        init: InitMode | None = None,
        loss: float = 0.0,
        reorder: bool = False,
        seed: int = 0,
        expects_peers: bool = True,
    ) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.universe: Network = ip_network(universe)
        self.init: InitMode = init or Consensus(count)
        self.loss = loss
        self.reorder = reorder
        self.expects_peers = expects_peers
        self.names = [peer_name(number) for number in range(1, count + 1)]
        self.disks = {name: Disk() for name in self.names}
        self.peers: dict[PeerName, Ipam] = {}
        self.groups: list[list[PeerName]] = [list(self.names)]
        self.answers: dict[int, AnswerRequest] = {}
        self.logs: list[str] = []
        self.bytes_sent = 0
        self._requests = 0
        self._in_flight: list[tuple[PeerName, PeerName, Announce | Unicast]] = []
        for name in self.names:
            self.start(name)
        self.tell_reachable()

    # --- peers and links -------------------------------------------------------------------

    def nickname(self, name: PeerName) -> str:
        return f"host{self.names.index(name) + 1}"

    def start(self, name: PeerName, **options: object) -> Ipam:
        arguments: dict[str, object] = {
            "ourself": name,
            "nickname": self.nickname(name),
            "universe": self.universe,
            "default_subnet": None,
            "init": self.init,
            "saved": self.disks[name].load(),
            "rng": Random(self.rng.getrandbits(64)),
            "now": self.now,
            "expects_peers": self.expects_peers,
            **options,
        }
        self.peers[name] = Ipam(**arguments)  # type: ignore[arg-type]  # overridden by tests
        return self.peers[name]

    def restart(self, name: PeerName) -> Ipam:
        self.crash(name)
        peer = self.start(name)
        self.tell_reachable()
        return peer

    def crash(self, name: PeerName) -> None:
        self.peers.pop(name, None)
        self.tell_reachable()

    def partition(self, *groups: Sequence[int]) -> None:
        """Split by the peers' positions; who is in no group is alone."""
        named = [[self.names[at] for at in group] for group in groups]
        rest = [name for name in self.names if not any(name in group for group in named)]
        self.groups = [*named, *([name] for name in rest)]
        self.tell_reachable()

    def heal(self) -> None:
        self.groups = [list(self.names)]
        self.tell_reachable()
        self.gossip_round()
        self.gossip_round()

    def reach(self, name: PeerName) -> list[PeerName]:
        group = next(group for group in self.groups if name in group)
        return [peer for peer in group if peer in self.peers]

    def tell_reachable(self) -> None:
        for name in list(self.peers):
            self.perform(name, self.peers[name].handle_peers_changed(self.reach(name), self.now))
        self.deliver()

    # --- requests --------------------------------------------------------------------------

    def allocate(
        self, at: int, owner: str, subnet: str | None = None, timeout_s: float = 30.0
    ) -> int:
        network = None if subnet is None else ip_network(subnet)
        number, peer = self._next(at)
        deadline = self.now + timeout_s
        self.perform(self.names[at], peer.allocate(number, owner, network, deadline, self.now))
        self.deliver()
        return number

    def claim(self, at: int, owner: str, where: str, timeout_s: float = 30.0) -> int:
        number, peer = self._next(at)
        effects = peer.claim(number, owner, address(where), None, self.now + timeout_s, self.now)
        self.perform(self.names[at], effects)
        self.deliver()
        return number

    def release(self, at: int, owner: str, where: int | None = None) -> int:
        number, peer = self._next(at)
        self.perform(self.names[at], peer.release(number, owner, where, self.now))
        self.deliver()
        return number

    def prime(self, at: int) -> int:
        number, peer = self._next(at)
        self.perform(self.names[at], peer.prime(number, self.now + 60, self.now))
        self.deliver()
        return number

    def take_over(self, at: int, dead: int, *, force: bool = False, deliver: bool = True) -> int:
        number, peer = self._next(at)
        effects = peer.take_over(number, self.names[dead], force, self.now + 10, self.now)
        self.perform(self.names[at], effects)
        if deliver:
            self.deliver()
            if number not in self.answers:
                self.run(11)
        return number

    def text(self, request: int) -> str:
        answer = self.answers[request]
        assert answer.error is None, answer.error
        return answer.text

    def given(self, request: int) -> str | None:
        """Return the address that a request was answered with, if it was."""
        answer = self.answers.get(request)
        if answer is None or answer.address is None:
            return None
        return str(ip_address(answer.address))

    def error(self, request: int) -> str:
        answer = self.answers[request]
        assert answer.error is not None
        return answer.error

    def _next(self, at: int) -> tuple[int, Ipam]:
        self._requests += 1
        return self._requests, self.peers[self.names[at]]

    # --- effects ---------------------------------------------------------------------------

    def perform(self, name: PeerName, effects: Iterable[IpamEffect]) -> None:
        effects = list(effects)
        assert not any(isinstance(effect, Persist) for effect in effects[1:])
        for effect in effects:
            if isinstance(effect, Persist):
                self.disks[name].persist(effect)
            elif isinstance(effect, AnswerRequest):
                assert effect.request not in self.answers, "answered twice"
                self.answers[effect.request] = effect
            elif isinstance(effect, LogLine):
                self.logs.append(f"{self.nickname(name)}: {effect.message}")
            elif isinstance(effect, Unicast):
                self._in_flight.append((name, effect.peer, effect))
            else:
                for peer in self.reach(name):
                    if peer not in (name, effect.learnt_from):
                        self._in_flight.append((name, peer, effect))
        if name in self.peers:
            self.peers[name].check()

    def deliver(self, limit: int = 100_000, *, partly: bool = False) -> None:
        """Carry messages until there are none, or just so many of them."""
        for _ in range(limit):
            if not self._in_flight:
                return
            at = self.rng.randrange(len(self._in_flight)) if self.reorder else 0
            source, peer, effect = self._in_flight.pop(at)
            if self.rng.random() < self.loss:
                continue
            if peer not in self.peers or peer not in self.reach(source):
                continue
            core = self.peers[peer]
            if isinstance(effect, Unicast):
                self.bytes_sent += len(effect.payload)
                self.perform(peer, core.handle_unicast(source, effect.payload, self.now))
            else:
                self.bytes_sent += len(effect.update)
                self.perform(peer, core.handle_gossip(source, effect.update, self.now))
        if partly:
            return
        raise AssertionError("the peers talk without end")

    def lose_all(self) -> None:
        """What is on its way is lost."""
        self._in_flight.clear()

    def gossip_round(self) -> None:
        """Every pair of peers compares digests, both ways."""
        for name in list(self.peers):
            for peer in self.reach(name):
                if peer == name or self.rng.random() < self.loss:
                    continue
                answer = self.peers[peer].answer(self.peers[name].digest())
                if answer is not None:
                    self.bytes_sent += len(answer)
                    effects = self.peers[name].handle_gossip(peer, answer, self.now)
                    self.perform(name, effects)
                self.deliver()

    def run(self, seconds: float, step: float = 0.25, gossip_every: float = 2.0) -> None:
        """Let time pass: timers fire, digests are exchanged."""
        end = self.now + seconds
        next_gossip = self.now + gossip_every
        while self.now < end:
            self.now += step
            for name in list(self.peers):
                if self.peers[name].next_deadline().at <= self.now:
                    self.perform(name, self.peers[name].handle_timeout(self.now))
            self.deliver()
            if self.now >= next_gossip:
                next_gossip = self.now + gossip_every
                self.gossip_round()

    # --- what must hold --------------------------------------------------------------------

    def check_no_duplicates(self, *, besides_displaced: bool = False) -> None:
        """`besides_displaced`: a peer that was taken over and is back knows of its containers
        with addresses that are another's now, and says so; those are left out."""
        seen: dict[int, str] = {}
        for name, peer in self.peers.items():
            for row in peer.addresses():
                if besides_displaced and peer.owner_of(row.address).peer != name:
                    continue
                user = f"{row.owner} on {name}"
                assert row.address not in seen, f"{user} and {seen[row.address]} share an address"
                seen[row.address] = user

    def check_converged(self) -> None:
        """All rings are equal and tile the universe."""
        rings = [peer.ring for peer in self.peers.values()]
        first = rings[0]
        assert first is not None
        first.check_tiles()
        for ring in rings[1:]:
            assert ring is not None
            assert ring.entries() == first.entries()
