"""Three peers, four addresses, and every order in which a few things can happen.

Nothing is left to chance: from each state of the world every event that is possible leads to
another, as far as the bound on states goes. Messages on one link keep their order, those on two do
not, and those to a peer that dies are lost. A state is whatever the disks, the cores and the
network hold; the same one reached twice is gone on from once.

In every state all the rings together tile the universe, and whoever is given an address owns it
by what all of them know together. There is one exception, of which the operator is warned: what a
dead peer's containers run with.
"""

import pickle
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from random import Random

import pytest

from ipam.core.effects import Announce, AnswerRequest, LogLine, Persist, Unicast
from ipam.core.election import Seed
from ipam.core.ipam import Ipam
from ipam.core.ring import Ring
from tests.ipam.core.mesh import Disk, peer_name
from weavepy.base.names import PeerName

NAMES = tuple(peer_name(number) for number in (1, 2, 3))
UNIVERSE = ip_network("fd00::/126")
MAX_STATES = 1_500

Event = tuple[str, int, int]


@dataclass
class World:
    peers: dict[int, Ipam] = field(default_factory=dict)
    disks: list[Disk] = field(default_factory=lambda: [Disk() for _ in NAMES])
    in_flight: list[tuple[int, int, bool, bytes]] = field(default_factory=list)
    """From, to, whether to one alone, content."""
    left: dict[str, int] = field(default_factory=dict)
    """How often each kind of event may still happen."""
    requests: int = 0
    starts: int = 0
    now: float = 0.0
    was_dead: int | None = None

    def start(self, at: int) -> None:
        self.starts += 1
        self.peers[at] = Ipam(
            ourself=NAMES[at],
            nickname=f"host{at + 1}",
            universe=UNIVERSE,
            default_subnet=None,
            init=Seed(NAMES),
            saved=self.disks[at].load(),
            rng=Random(self.starts),
            now=self.now,
            expects_peers=True,
        )
        self.tell_reachable()

    def tell_reachable(self) -> None:
        reachable = [NAMES[at] for at in sorted(self.peers)]
        for at in sorted(self.peers):
            self.perform(at, self.peers[at].handle_peers_changed(reachable, self.now))

    def perform(self, at: int, effects: list) -> None:  # type: ignore[type-arg]
        for effect in effects:
            match effect:
                case Persist():
                    self.disks[at].persist(effect)
                case Unicast(peer=peer, payload=payload):
                    self.send(at, NAMES.index(peer), True, payload)
                case Announce(update=update):
                    for to in self.peers:
                        if to != at and NAMES[to] != effect.learnt_from:
                            self.send(at, to, False, update)
                case AnswerRequest(address=int(address)):
                    owner = self.joined().covering(address)
                    assert owner is not None
                    assert owner.owner == NAMES[at], f"{address:x} is {owner.owner}'s"
                case AnswerRequest() | LogLine():
                    pass
        if at in self.peers:
            self.peers[at].check()

    def send(self, at: int, to: int, alone: bool, payload: bytes) -> None:
        if to in self.peers and (at, to, alone, payload) not in self.in_flight:
            self.in_flight.append((at, to, alone, payload))

    def joined(self) -> Ring:
        """What all disks and all cores know together."""
        whole: Ring | None = None
        for peer in [*self.peers.values(), *self.sleeping()]:
            ring = peer.ring
            assert ring is not None
            whole = whole or Ring(ring.ring_id, ring.universe)
            whole.join_fences(ring.fences())
            whole.join(ring.entries())
        assert whole is not None
        return whole

    def sleeping(self) -> Iterator[Ipam]:
        for at in range(len(NAMES)):
            if at not in self.peers:
                yield Ipam(
                    ourself=NAMES[at],
                    nickname="",
                    universe=UNIVERSE,
                    default_subnet=None,
                    init=Seed(NAMES),
                    saved=self.disks[at].load(),
                    rng=Random(0),
                    now=self.now,
                )

    # --- events ------------------------------------------------------------------------------

    def events(self) -> Iterator[Event]:
        links: dict[tuple[int, int], None] = {}
        for number, (source, to, _, _) in enumerate(self.in_flight):
            if (source, to) not in links:
                links[source, to] = None
                yield ("deliver", number, 0)
        for at in sorted(self.peers):
            if self.left["allocate"]:
                yield ("allocate", at, 0)
            if self.left["release"] and self.peers[at].addresses():
                yield ("release", at, 0)
            if self.left["crash"] and len(self.peers) == len(NAMES):
                yield ("crash", at, 0)
            if self.left["gossip"]:
                yield from (("gossip", at, to) for to in sorted(self.peers) if to != at)
        for dead in [at for at in range(len(NAMES)) if at not in self.peers]:
            yield ("restart", dead, 0)
            if self.left["take over"] and self.was_dead is None:
                yield from (("take over", at, dead) for at in sorted(self.peers))
        if not self.in_flight and self.left["wait"]:
            yield ("wait", 0, 0)

    def happen(self, event: Event) -> None:
        kind, at, other = event
        if kind in self.left:
            self.left[kind] -= 1
        self.requests += 1
        deadline = self.now + 30
        match kind:
            case "deliver":
                source, to, alone, payload = self.in_flight.pop(at)
                core = self.peers[to]
                handle = core.handle_unicast if alone else core.handle_gossip
                self.perform(to, handle(NAMES[source], payload, self.now))
            case "allocate":
                owner = f"c{self.requests}"
                core = self.peers[at]
                self.perform(at, core.allocate(self.requests, owner, None, deadline, self.now))
            case "release":
                row = self.peers[at].addresses()[0]
                core = self.peers[at]
                self.perform(at, core.release(self.requests, row.owner, row.address, self.now))
            case "gossip":
                answer = self.peers[other].answer(self.peers[at].digest())
                if answer is not None:
                    self.perform(at, self.peers[at].handle_gossip(NAMES[other], answer, self.now))
            case "crash":
                del self.peers[at]
                self.in_flight = [one for one in self.in_flight if at not in one[:2]]
                self.tell_reachable()
            case "restart":
                self.start(at)
            case "take over":
                core = self.peers[at]
                self.was_dead = other
                self.perform(
                    at, core.take_over(self.requests, NAMES[other], False, deadline, self.now)
                )
            case "wait":
                self.now += 6.0
                for peer in sorted(self.peers):
                    self.perform(peer, self.peers[peer].handle_timeout(self.now))

    def check(self) -> None:
        whole = self.joined()
        assert not whole.contested()
        assert not whole.gaps()
        whole.check_tiles()
        users: dict[int, PeerName] = {}
        for at, core in self.peers.items():
            for row in core.addresses():
                if at == self.was_dead and core.owner_of(row.address).peer != NAMES[at]:
                    continue
                if at == self.was_dead and whole.fences():
                    continue  # its containers, before it has heard of the fence
                assert users.setdefault(row.address, NAMES[at]) == NAMES[at]

    def key(self) -> bytes:
        """What makes two states the same; numbers of requests do not."""
        cores = [
            (
                at,
                core.ring.digest() if core.ring else b"",
                sorted((row.address, row.owner) for row in core.addresses()),
                core.status(self.now).cooling,
                sorted(one.what for one in core.status(self.now).waiting),
                core._restart.passed,
                sorted(core._replica.promises.items()),
                len(core._consent.under_way),
            )
            for at, core in sorted(self.peers.items())
        ]
        disks = [(disk.ring, sorted(disk.rows)) for disk in self.disks]
        return pickle.dumps((cores, disks, sorted(self.in_flight), sorted(self.left.items())))


def begun(**left: int) -> World:
    budget = {"allocate": 0, "release": 0, "crash": 0, "gossip": 0, "take over": 0, "wait": 0}
    world = World(left={**budget, **{name.replace("_", " "): n for name, n in left.items()}})
    for at in range(len(NAMES)):
        world.start(at)
    while world.in_flight:
        world.happen(("deliver", 0, 0))
    world.left["wait"] += 1
    world.happen(("wait", 0, 0))
    while world.in_flight:
        world.happen(("deliver", 0, 0))
    return world


@pytest.mark.parametrize(
    "left",
    [
        {"allocate": 4, "release": 1, "gossip": 1},
        {"allocate": 2, "crash": 1, "gossip": 1, "wait": 1},
        {"allocate": 2, "crash": 1, "take_over": 1, "wait": 1},
        {"allocate": 1, "crash": 2, "take_over": 1, "wait": 2},
    ],
    ids=["claims and donations", "crashes", "a take-over", "a taker that crashes"],
)
def test_nothing_that_can_happen_breaks_the_ring(left: dict[str, int]) -> None:
    first = begun(**left)
    seen = {first.key(): None}
    todo = deque([(pickle.dumps(first), ())])
    deepest, steps = 0, 0
    while todo and len(seen) < MAX_STATES:
        # In turns from both ends: some histories are followed far, and all for a few events.
        frozen, path = todo.popleft() if len(seen) % 2 else todo.pop()
        for event in list(pickle.loads(frozen).events()):
            world: World = pickle.loads(frozen)
            steps += 1
            try:
                world.happen(event)
                world.check()
            except AssertionError as error:
                raise AssertionError(f"after {[*path, event]}: {error}") from error
            key = world.key()
            if key not in seen:
                seen[key] = None
                deepest = max(deepest, len(path) + 1)
                todo.append((pickle.dumps(world), (*path, event)))
    print(f"{len(seen)} states, {steps} steps, up to {deepest} events deep, {len(todo)} left")
    assert len(seen) > 100
