"""Several `Mesh` cores in one process: virtual clock, in-memory TCP, a model of the overlay.

A `Host` has a network and a datapath, which outlive its router. Bytes between two hosts arrive
in order after `LATENCY_S`; while their path is cut they wait, as TCP would retransmit them, and
dials are not answered. Overlay sessions come up when both routers are connected, go down 3 s
after their path was cut, and live on while a router is dead.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from random import Random

from router.mesh.effects import (
    CloseLink,
    Dial,
    GossipReceived,
    IdentityCopied,
    LinkId,
    LogLine,
    MeshEffect,
    OverlayMessageReceived,
    PeerAdded,
    PeerConnected,
    PeerDisconnected,
    PeerRemoved,
    ReachableChanged,
    RememberTargets,
    RoutesChanged,
    SendBytes,
    UnicastReceived,
)
from router.mesh.identity import Identity
from router.mesh.mesh import AdoptedPeer, Mesh
from weavepy.base.effects import EffectLoop
from weavepy.base.gossip import Announce, Channel, Unicast
from weavepy.base.names import PeerName, PeerUid, ShortId

LATENCY_S = 0.001
OVERLAY_DEAD_S = 3.0
PORT = 6783
SECRET = b"s" * 32


class SetChannel:
    """The simplest join: a set of words."""

    def __init__(self) -> None:
        self.words: set[bytes] = set()

    def digest(self) -> bytes:
        return sha256(b",".join(sorted(self.words))).digest()

    def answer(self, digest: bytes) -> bytes | None:
        return None if digest == self.digest() else b",".join(sorted(self.words))

    def combine(self, first: bytes, second: bytes) -> bytes:
        return b",".join(sorted({*first.split(b","), *second.split(b",")} - {b""}))

    def merge(self, update: bytes) -> bool:
        before = len(self.words)
        self.words |= set(update.split(b",")) - {b""}
        return len(self.words) > before


@dataclass
class Pipe:
    """One direction of a TCP connection. None in it is the end of the stream."""

    taker: "Host"
    link: LinkId
    giver: "Host"
    queue: deque[tuple[float, bytes | None]] = field(default_factory=deque)
    back: "Pipe | None" = None
    stalled: bool = False


class Host:
    def __init__(self, world: "World", name: str, **options: object) -> None:
        self.world = world
        self.name = name
        self.identity = Identity(sha256(f"key of {name}".encode()).digest())
        self.options = options
        self.runs = 0
        self.mesh: Mesh | None = None
        self.pipes: dict[LinkId, Pipe] = {}
        self.sessions: dict[PeerName, bool] = {}
        self.channel = SetChannel()
        self.effects: list[MeshEffect] = []
        self.routes: RoutesChanged | None = None
        """What the datapath has: it survives the router."""
        self.remembered: tuple[str, ...] = ()
        self.copies: list[str] = []
        """What was said of others with our identity."""
        self.sent_bytes = 0
        self._due_at: float | None = None
        self._loop: EffectLoop[object] = EffectLoop(self._perform)

    @property
    def peer(self) -> PeerName:
        return self.identity.name

    @property
    def core(self) -> Mesh:
        assert self.mesh is not None
        return self.mesh

    def start(self, *targets: str, adopt: bool = False, **changes: object) -> None:
        self.runs += 1
        self._due_at = None
        options = {**self.options, **changes}
        adopted = []
        short_id = None
        if adopt:
            assert self.routes is not None
            short_id = self.routes.short_ids[self.peer]
            for peer, up in self.sessions.items():
                if up:
                    host = self.world.by_peer(peer).name
                    adopted.append(AdoptedPeer(peer, self.routes.short_ids[peer], host))
        else:
            self.sessions.clear()
        seed = f"{self.name} {self.runs} {self.world.seed}"
        keys = Random(seed + " keys")
        arguments: dict[str, object] = {
            "identity": self.identity,
            "uid": PeerUid(Random(seed).getrandbits(62) + 1),
            "nickname": self.name,
            "secret": SECRET,
            "encrypted": True,
            "port": PORT,
            "udp_port": PORT,
            "channels": {"words": self.channel},
            "rng": Random(seed),
            "now": self.world.now,
            "short_id": short_id,
            "given": targets,
            "remembered": self.remembered if adopt else (),
            "adopted": adopted,
            "draw_ephemeral": lambda: keys.randbytes(32),
        }
        self.mesh = Mesh(**{**arguments, **options})  # type: ignore[arg-type]

    def due_at(self) -> float:
        if self._due_at is None:
            self._due_at = float("inf") if self.mesh is None else self.mesh.next_deadline().at
        return self._due_at

    def do(self, effects: Iterable[object]) -> None:
        self._due_at = None
        self._loop.run(effects, self.world.now)

    def seen(self, kind: type) -> list[MeshEffect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def announce(self, word: bytes) -> None:
        self.channel.merge(word)
        self.do([Announce("words", word)])

    def _perform(self, effect: object, now: float) -> Iterable[object]:
        if self.mesh is None:
            return []
        if isinstance(effect, Announce):
            return self.mesh.announce(effect, now)
        if isinstance(effect, Unicast):
            return self.mesh.unicast(effect, now)
        self.effects.append(effect)  # type: ignore[arg-type]
        if isinstance(effect, Dial):
            self.world.dial(self, effect)
        elif isinstance(effect, SendBytes):
            self.sent_bytes += len(effect.data)
            self.world.send(self.pipes[effect.link], effect.data)
        elif isinstance(effect, CloseLink):
            pipe = self.pipes.pop(effect.link, None)
            if pipe is not None:
                self.world.send(pipe, None)
        elif isinstance(effect, PeerConnected):
            self.world.later(0.005, lambda: self.world.bring_up(self, effect.peer))
        elif isinstance(effect, PeerDisconnected):
            if effect.left:
                self.sessions.pop(effect.peer, None)
        elif isinstance(effect, RoutesChanged):
            self.routes = effect
        elif isinstance(effect, RememberTargets):
            self.remembered = effect.targets
        elif isinstance(effect, IdentityCopied):
            self.copies.append(effect.text)
        elif isinstance(effect, GossipReceived):
            if self.channel.merge(effect.update):
                return [Announce("words", effect.update, effect.source)]
        else:
            assert isinstance(
                effect,
                OverlayMessageReceived
                | UnicastReceived
                | PeerAdded
                | PeerRemoved
                | ReachableChanged
                | LogLine,
            )
        return []


class World:
    def __init__(self, seed: int = 0) -> None:
        self.now = 1000.0
        self.seed = seed
        self.hosts: dict[str, Host] = {}
        self.cuts: set[frozenset[str]] = set()
        self.overlay = True
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._pipes: list[Pipe] = []

    def host(self, name: str, **options: object) -> Host:
        self.hosts[name] = Host(self, name, **options)
        return self.hosts[name]

    def by_peer(self, peer: PeerName) -> Host:
        return next(host for host in self.hosts.values() if host.peer == peer)

    # --- time --------------------------------------------------------------------------------

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            at = self._events[0][0] if self._events else end + 1
            first = None
            for host in self.hosts.values():
                if host.mesh is not None and host.due_at() < at:
                    at = host.due_at()
                    first = host
            if at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            if first is None:
                heapq.heappop(self._events)[2]()
            else:
                first.do(first.core.handle_timeout(self.now))

    def run_until(self, condition: Callable[[], bool], within_s: float) -> float:
        """Returns how long it took."""
        start = self.now
        while not condition():
            assert self.now < start + within_s, f"not within {within_s:g} s"
            self.run(0.05)
        return self.now - start

    # --- TCP ---------------------------------------------------------------------------------

    def dial(self, giver: Host, effect: Dial) -> None:
        self.later(2 * LATENCY_S, lambda: self._answer(giver, effect))

    def _answer(self, giver: Host, effect: Dial) -> None:
        if giver.mesh is None:
            return
        taker = self.hosts.get(effect.host)
        if taker is not None and self.is_cut(giver, taker):
            return
        if taker is None or taker.mesh is None or effect.port != PORT:
            giver.do(giver.mesh.handle_dial_failed(effect.link, "connection refused", self.now))
            return
        link = taker.mesh.new_link_id()
        there = Pipe(taker, link, giver)
        back = Pipe(giver, effect.link, taker)
        there.back, back.back = back, there
        giver.pipes[effect.link] = there
        taker.pipes[link] = back
        self._pipes += [there, back]
        taker.do(taker.mesh.handle_link_accepted(link, giver.name, 40000 + link, self.now))
        giver.do(giver.mesh.handle_link_opened(effect.link, taker.name, PORT, self.now))

    def send(self, pipe: Pipe, data: bytes | None) -> None:
        pipe.queue.append((self.now + LATENCY_S, data))
        self.later(LATENCY_S, lambda: self._flush(pipe))

    def _flush(self, pipe: Pipe) -> None:
        taker = pipe.taker
        while pipe.queue and pipe.queue[0][0] <= self.now:
            if self.is_cut(pipe.giver, taker) or pipe.stalled:
                return
            _, data = pipe.queue.popleft()
            if taker.mesh is None or pipe.link not in taker.pipes:
                continue
            if taker.pipes[pipe.link] is not pipe.back:
                continue
            if data is None:
                del taker.pipes[pipe.link]
                effects = taker.mesh.handle_link_closed(pipe.link, "closed", self.now)
            else:
                effects = taker.mesh.handle_bytes(pipe.link, data, self.now)
            taker.do(effects)

    # --- trouble -----------------------------------------------------------------------------

    def is_cut(self, one: Host, other: Host) -> bool:
        return frozenset((one.name, other.name)) in self.cuts

    def cut(self, one: Host, other: Host) -> None:
        self.cuts.add(frozenset((one.name, other.name)))
        self.later(OVERLAY_DEAD_S, lambda: self._overlay_dies(one, other))

    def heal(self, one: Host, other: Host) -> None:
        self.cuts.discard(frozenset((one.name, other.name)))
        for pipe in self._pipes:
            if {pipe.giver, pipe.taker} == {one, other}:
                self._flush(pipe)
        self.later(0.5, lambda: self.bring_up(one, other.peer))

    def partition(self, *sides: Sequence[Host]) -> None:
        for one, other in self._across(sides):
            self.cut(one, other)

    def heal_partition(self, *sides: Sequence[Host]) -> None:
        for one, other in self._across(sides):
            self.heal(one, other)

    def kill(self, host: Host, datapath: bool = False) -> None:
        """The router's process is gone; with `datapath`, the whole host's."""
        host.mesh = None
        for pipe in host.pipes.values():
            self.send(pipe, None)
        host.pipes.clear()
        if datapath:
            host.sessions.clear()
            for other in self.hosts.values():
                self.later(OVERLAY_DEAD_S, lambda other=other: self._overlay_dies(host, other))

    def _across(self, sides: Sequence[Sequence[Host]]) -> list[tuple[Host, Host]]:
        return [
            (one, other)
            for index, side in enumerate(sides)
            for later_side in sides[index + 1 :]
            for one in side
            for other in later_side
        ]

    # --- overlay -----------------------------------------------------------------------------

    def bring_up(self, one: Host, peer: PeerName) -> None:
        other = self.by_peer(peer)
        if not self.overlay or self.is_cut(one, other):
            return
        if one.mesh is None or other.mesh is None:
            return
        together = peer in one.mesh.connected_peers and one.peer in other.mesh.connected_peers
        if not together:
            return
        for host, remote in ((one, other), (other, one)):
            host.sessions[remote.peer] = True
            host.do(host.core.handle_overlay_up(remote.peer, self.now))

    def _overlay_dies(self, one: Host, other: Host) -> None:
        if not self.is_cut(one, other) and one.sessions.get(other.peer):
            return
        for host, remote in ((one, other), (other, one)):
            if host.sessions.get(remote.peer):
                host.sessions[remote.peer] = False
                if host.mesh is not None:
                    host.do(host.mesh.handle_overlay_down(remote.peer, "nothing heard", self.now))


def mesh_of(*names: str, seed: int = 0, **options: object) -> tuple[World, list[Host]]:
    """Hosts of which all but the first were given the first as their target."""
    world = World(seed)
    hosts = [world.host(name, **options) for name in names]
    for host in hosts:
        host.start(*([] if host is hosts[0] else [names[0]]))
    return world, hosts


def chain_of(*names: str, seed: int = 0) -> tuple[World, list[Host]]:
    world = World(seed)
    hosts = [world.host(name, discovery=False) for name in names]
    for host, left in zip(hosts, [None, *names], strict=False):
        host.start(*([] if left is None else [left]))
    return world, hosts


def deliveries(hosts: Iterable[Host], source: Host) -> dict[str, int]:
    """How many copies of a broadcast each host takes, if all follow their routes."""
    by_peer = {host.peer: host for host in hosts}
    copies: dict[str, int] = {}
    todo = [source]
    while todo:
        here = todo.pop()
        copies[here.name] = copies.get(here.name, 0) + 1
        assert copies[here.name] < 100, "a broadcast loop"
        assert here.routes is not None
        todo += [by_peer[peer] for peer in here.routes.broadcast.get(source.peer, ())]
    return copies


def path(hosts: Iterable[Host], source: Host, destination: Host) -> list[str]:
    """The hosts that a unicast frame passes, the source left out."""
    by_peer = {host.peer: host for host in hosts}
    hops = []
    here = source
    while here is not destination:
        assert here.routes is not None
        here = by_peer[here.routes.unicast[destination.peer]]
        hops.append(here.name)
        assert len(hops) < 100, "a unicast loop"
    return hops


def is_full(hosts: Sequence[Host]) -> bool:
    """Each is established with each, and says so in its routes."""
    everyone = {host.peer for host in hosts}
    return all(
        host.mesh is not None
        and host.routes is not None
        and host.routes.unicast == {peer: peer for peer in everyone - {host.peer}}
        and set(host.routes.short_ids) == everyone
        and host.routes.broadcast
        == {
            peer: tuple(sorted(everyone - {host.peer})) if peer == host.peer else ()
            for peer in everyone
        }
        for host in hosts
    )


__all__ = ["Channel", "Host", "ShortId", "World", "chain_of", "deliveries", "is_full", "mesh_of"]
