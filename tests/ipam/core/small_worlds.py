"""Every state that a few peers can get into, one after the other.

A peer is a machine: what it does to an input follows from its state alone, as the core has no
clock, and gets here a source of random numbers that has no state. So each pair of a peer's state
and an input is run through the real core once, and looked up from then on: a million states of the
world are made of a few thousand states of single peers. Those are told apart by a hash over all
that the core and its disk hold, which is never shortened by hand to what seems to matter.

Messages on one link keep their order, those on two do not, and those to a peer that dies are lost.
One that is on its way already is not sent a second time.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import blake2b
from ipaddress import IPv6Network
from random import Random
from types import FunctionType, MethodType
from typing import Any

from ipam.core.effects import Announce, AnswerRequest, Persist, PersistedAddress, Unicast
from ipam.core.election import Seed
from ipam.core.ipam import Ipam
from ipam.core.ranges import Universe
from ipam.core.ring import Entry, Fence, Ring
from tests.ipam.core.mesh import Disk, peer_name
from weavepy.base.names import PeerName

NAMES = tuple(peer_name(number) for number in (1, 2, 3))
UNIVERSE = IPv6Network("fd00::/126")
WAIT_S = 6.0
ASK_S = 30.0

KINDS = ("allocate", "release", "crash", "gossip", "take over", "wait")
CACHES = ("_live", "_live_tokens")
"""What a ring computes from the rest of it when it is asked."""

Event = tuple[str, int, int]
Message = tuple[bool, bytes]
"""Whether it is for one peer alone, and what it says."""
Links = tuple[tuple[int, int, tuple[Message, ...]], ...]
"""From, to, what is on its way; sorted, and none without messages."""


class FirstChoice(Random):
    """Takes what comes first, always. Restarted peers count their questions from another number."""

    def __init__(self, start: int) -> None:
        super().__init__(0)
        self._start = start

    def __reduce__(self) -> Any:
        return FirstChoice, (self._start,)

    def random(self) -> float:
        return 0.5

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return start + 1000 * self._start

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        return list(population)[:k]


@dataclass
class Peer:
    """A host: its router, if that runs, and its disk."""

    at: int
    core: Ipam | None = None
    disk: Disk = field(default_factory=Disk)
    starts: int = 0
    asked: int = 0

    def load(self, now: float) -> Ipam:
        return Ipam(
            ourself=NAMES[self.at],
            nickname=f"host{self.at + 1}",
            universe=UNIVERSE,
            default_subnet=None,
            init=Seed(NAMES),
            saved=self.disk.load(),
            rng=FirstChoice(self.starts),
            now=now,
            expects_peers=True,
        )

    def handle(self, given: tuple[Any, ...], now: float) -> list[Any]:
        """Give an input to the core; returns what it says and answers, when that may be said."""
        match given:
            case ("start",):
                self.starts += 1
                self.core = self.load(now)
                return []
            case ("crash",):
                self.core = None
                return []
        core = self.core
        assert core is not None
        match given:
            case ("reach", peers):
                effects = core.handle_peers_changed([NAMES[at] for at in peers], now)
            case ("hear", source, alone, payload):
                handle = core.handle_unicast if alone else core.handle_gossip
                effects = handle(NAMES[source], payload, now)
            case ("allocate",):
                self.asked += 1
                owner = f"c{self.at}.{self.asked}"
                effects = core.allocate(self.asked, owner, None, now + ASK_S, now)
            case ("release",):
                self.asked += 1
                row = core.addresses()[0]
                effects = core.release(self.asked, row.owner, row.address, now)
            case ("take over", dead):
                self.asked += 1
                effects = core.take_over(self.asked, NAMES[dead], False, now + ASK_S, now)
            case ("wait",):
                effects = core.handle_timeout(now)
            case _:
                raise AssertionError(given)
        for effect in effects:
            if isinstance(effect, Persist):
                self.disk.persist(effect)
        core.check()
        return [one for one in effects if isinstance(one, Unicast | Announce | AnswerRequest)]


@dataclass(frozen=True)
class Facts:
    """What there is to see of one state of a peer."""

    alive: bool
    rows: tuple[PersistedAddress, ...]
    digest: bytes
    ring_id: bytes
    fences: dict[PeerName, Fence]
    entries: Sequence[Entry]


class Peers:
    """All states of single peers that were met, by number, and what inputs do to them."""

    def __init__(self) -> None:
        self.facts: list[Facts] = []
        self._numbers: dict[bytes, int] = {}
        self._frozen: list[bytes] = []
        self._known: dict[tuple[int, tuple[Any, ...], float], tuple[int, tuple[Any, ...]]] = {}
        self._answers: dict[tuple[int, bytes], bytes | None] = {}

    def __len__(self) -> int:
        return len(self._frozen)

    def handle(
        self, number: int, given: tuple[Any, ...], now: float
    ) -> tuple[int, tuple[Any, ...]]:
        """Return the number of the state that an input leads to, and what is said."""
        known = self._known.get((number, given, now))
        if known is None:
            peer: Peer = pickle.loads(self._frozen[number])
            said = tuple(peer.handle(given, now))
            known = self._known[number, given, now] = (self.number_of(peer, now), said)
        return known

    def answer(self, number: int, digest: bytes) -> bytes | None:
        if (number, digest) not in self._answers:
            peer: Peer = pickle.loads(self._frozen[number])
            assert peer.core is not None
            self._answers[number, digest] = peer.core.answer(digest)
        return self._answers[number, digest]

    def number_of(self, peer: Peer, now: float) -> int:
        key = blake2b(repr(content_of(peer, {})).encode(), digest_size=16).digest()
        number = self._numbers.setdefault(key, len(self._frozen))
        if number == len(self._frozen):
            self._frozen.append(pickle.dumps(peer))
            core = peer.core or peer.load(now)
            assert core.ring is not None
            self.facts.append(
                Facts(
                    alive=peer.core is not None,
                    rows=tuple(core.addresses()) if peer.core is not None else (),
                    digest=core.digest(),
                    ring_id=core.ring.ring_id,
                    fences=dict(core.ring.fences()),
                    entries=tuple(core.ring.entries()),
                )
            )
        return number


def content_of(thing: Any, seen: dict[int, int]) -> Any:
    """Return all that an object holds as plain values, equal for what will behave alike.

    Objects that change have an identity, and are described where they are met first.
    """
    match thing:
        case None | bool() | int() | float() | str() | bytes() | IPv6Network() | Enum():
            return thing
        case FunctionType() | MethodType():
            return thing.__qualname__
        case dict():
            return [(content_of(key, seen), content_of(thing[key], seen)) for key in thing]
        case list() | tuple() | deque():
            return [content_of(one, seen) for one in thing]
    params = getattr(thing, "__dataclass_params__", None)
    if params is None or not params.frozen:
        if id(thing) in seen:
            return f"object {seen[id(thing)]}"
        seen[id(thing)] = len(seen)
    names = getattr(thing, "__dict__", None) or [
        name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())
    ]
    assert names, f"there is no looking into {thing!r}"
    return [(name, content_of(getattr(thing, name), seen)) for name in names if name not in CACHES]


@dataclass(frozen=True, slots=True)
class World:
    peers: tuple[int, ...]
    """The number of each one's state."""
    links: Links
    left: tuple[int, ...]
    """How often each of `KINDS` may still happen."""
    now: float = 0.0
    was_dead: int = -1


class Explorer:
    def __init__(self) -> None:
        self.peers = Peers()
        self._rings: dict[tuple[int, ...], Ring] = {}
        self._right: dict[tuple[tuple[int, ...], int], None] = {}

    def begun(self, left: dict[str, int]) -> World:
        """All three know each other, and have said so."""
        numbers = [
            self.peers.handle(self.peers.number_of(Peer(at), 0.0), ("start",), 0.0)[0]
            for at in range(len(NAMES))
        ]
        world = self._tell_reachable(World(tuple(numbers), (), (0, 0, 0, 0, 0, 1)))
        for event in ("deliver", "wait", "deliver"):
            while event == "deliver" and world.links:
                source, to, _ = world.links[0]
                world = self.after(world, ("deliver", source, to))
            if event == "wait":
                world = self.after(world, ("wait", 0, 0))
        budget = tuple(left.get(kind, 0) for kind in KINDS)
        return replace(world, left=budget)

    def events(self, world: World) -> Iterator[Event]:
        facts = [self.peers.facts[number] for number in world.peers]
        live = [at for at, fact in enumerate(facts) if fact.alive]
        allocate, release, crash, gossip, take_over, wait = world.left
        for source, to, _ in world.links:
            yield "deliver", source, to
        for at in live:
            if allocate:
                yield "allocate", at, 0
            if release and facts[at].rows:
                yield "release", at, 0
            if crash and len(live) == len(NAMES):
                yield "crash", at, 0
            for other in live:
                if gossip and other != at and facts[at].digest != facts[other].digest:
                    yield "gossip", at, other
        for dead in range(len(NAMES)):
            if dead in live:
                continue
            yield "restart", dead, 0
            if take_over and world.was_dead in (-1, dead):
                yield from (("take over", at, dead) for at in live)
        if wait and not world.links:
            yield "wait", 0, 0

    def after(self, world: World, event: Event) -> World:
        kind, at, other = event
        left = world.left
        if kind in KINDS:
            number = KINDS.index(kind)
            left = (*left[:number], left[number] - 1, *left[number + 1 :])
        world = replace(world, left=left)
        match kind:
            case "deliver":
                (alone, payload), links = _take(world.links, at, other)
                world = replace(world, links=links)
                return self._give(world, other, ("hear", at, alone, payload))
            case "gossip":
                digest = self.peers.facts[world.peers[at]].digest
                answer = self.peers.answer(world.peers[other], digest)
                if answer is None:
                    return world
                return self._give(world, at, ("hear", other, False, answer))
            case "crash":
                links = tuple(link for link in world.links if at not in link[:2])
                world = replace(world, links=links)
                return self._tell_reachable(self._give(world, at, ("crash",)))
            case "restart":
                return self._tell_reachable(self._give(world, at, ("start",)))
            case "take over":
                return self._give(replace(world, was_dead=other), at, ("take over", other))
            case "wait":
                world = replace(world, now=world.now + WAIT_S)
                for live in self._live(world):
                    world = self._give(world, live, ("wait",))
                return world
        return self._give(world, at, (kind,))

    def check(self, world: World) -> None:
        """All the rings together tile the universe, and no address is used twice."""
        key = world.peers, world.was_dead
        if key in self._right:
            return
        whole = self._joined(world.peers)
        assert not whole.contested()
        assert not whole.gaps()
        whole.check_tiles()
        users: dict[int, int] = {}
        for at, number in enumerate(world.peers):
            for row in self.peers.facts[number].rows:
                if at == world.was_dead and (
                    whole.fences() or _owner(whole, row.address) != NAMES[at]
                ):
                    continue  # its containers, of which the operator is warned
                assert users.setdefault(row.address, at) == at, f"{row.address:x} is used twice"
        self._right[key] = None

    # --- helpers -----------------------------------------------------------------------------

    def _live(self, world: World) -> list[int]:
        return [at for at, one in enumerate(world.peers) if self.peers.facts[one].alive]

    def _tell_reachable(self, world: World) -> World:
        live = tuple(self._live(world))
        for at in live:
            world = self._give(world, at, ("reach", live))
        return world

    def _give(self, world: World, at: int, given: tuple[Any, ...]) -> World:
        number, said = self.peers.handle(world.peers[at], given, world.now)
        peers = (*world.peers[:at], number, *world.peers[at + 1 :])
        links = world.links
        for effect in said:
            match effect:
                case Unicast(peer=peer, payload=payload):
                    links = self._sent(peers, links, at, NAMES.index(peer), (True, payload))
                case Announce(update=update, learnt_from=learnt_from):
                    for to, name in enumerate(NAMES):
                        if to != at and name != learnt_from:
                            links = self._sent(peers, links, at, to, (False, update))
                case AnswerRequest(address=int(address)):
                    owner = _owner(self._joined(peers), address)
                    assert owner == NAMES[at], f"{address:x} is {owner}'s"
        return replace(world, peers=peers, links=links)

    def _sent(
        self,
        peers: tuple[int, ...],
        links: Links,
        at: int,
        to: int,
        message: Message,
    ) -> Links:
        if not self.peers.facts[peers[to]].alive:
            return links
        for number, (source, taker, waiting) in enumerate(links):
            if (source, taker) == (at, to):
                if message in waiting:
                    return links
                longer = (at, to, (*waiting, message))
                return (*links[:number], longer, *links[number + 1 :])
        return tuple(sorted((*links, (at, to, (message,)))))

    def _joined(self, numbers: tuple[int, ...]) -> Ring:
        """What all disks and all cores know together."""
        whole = self._rings.get(numbers)
        if whole is None:
            facts = [self.peers.facts[number] for number in numbers]
            whole = Ring(facts[0].ring_id, Universe.of(UNIVERSE))
            for fact in facts:
                whole.join_fences(fact.fences)
                whole.join(fact.entries)
            self._rings[numbers] = whole
        return whole


def _take(links: Links, source: int, to: int) -> tuple[Message, Links]:
    for number, link in enumerate(links):
        if link[:2] == (source, to):
            first, *others = link[2]
            rest = ((source, to, tuple(others)),) if others else ()
            return first, (*links[:number], *rest, *links[number + 1 :])
    raise AssertionError("nothing is on its way there")


def _owner(ring: Ring, address: int) -> PeerName | None:
    entry = ring.covering(address)
    return None if entry is None else entry.owner
