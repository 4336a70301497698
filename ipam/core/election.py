"""How a peer comes by the first ring, and when it opens a ballot for one.

With `Consensus` nobody moves before somebody wants an address. Then that peer opens a ballot, if
none is under way or the one under way has not moved for a while; the waits are random, so that
two peers that outbid each other soon stop. `Seed` makes the ring without a word to anybody,
`Observer` waits for others, and `Appointed` for who has the last word outside of the mesh.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from ipam.core.paxos import Proposal, Vote
from ipam.core.ranges import Universe
from ipam.core.replica import RING_ID_BYTES, Replica
from weavepy.base.errors import UsageError
from weavepy.base.names import PeerName


@dataclass(frozen=True, slots=True)
class Consensus:
    """A majority of `peers` peers agrees on the first ring."""

    peers: int

    @property
    def quorum(self) -> int:
        return self.peers // 2 + 1


@dataclass(frozen=True, slots=True)
class Seed:
    """The named peers get equal shares; all peers must be given the same names."""

    names: tuple[PeerName, ...]


@dataclass(frozen=True, slots=True)
class Observer:
    """Never takes part in making the ring."""


@dataclass(frozen=True, slots=True)
class Appointed:
    """A register outside of the mesh (Kubernetes) decides on the first ring: `Ipam.appoint`."""


InitMode = Consensus | Seed | Observer | Appointed

IDLE = "no ring yet: the first request for an address makes it"

PATIENCE_S = 2.0
"""How long a ballot may rest before another is opened: up to twice this, at random."""


def check_init(init: InitMode) -> int:
    """Return how many peers decide on the first ring. Raises `UsageError`."""
    if isinstance(init, Consensus):
        if init.peers < 1:
            raise UsageError("--ipalloc-init consensus needs at least one peer")
        return init.quorum
    if isinstance(init, Seed) and not init.names:
        raise UsageError("--ipalloc-init seed needs the names of the first peers")
    return 1


def seed_ring_id(universe: Universe, names: Iterable[PeerName]) -> bytes:
    """Return the id that everyone gives to the ring of these seeds."""
    text = f"weavepy seed ring v1 {universe} {' '.join(sorted(set(names)))}"
    return hashlib.sha256(text.encode()).digest()[:RING_ID_BYTES]


class Election:
    def __init__(self, replica: Replica, init: InitMode, rng: Random) -> None:
        self._replica = replica
        self._init = init
        self._rng = rng
        self._again_at = 0.0
        self._heard_of: Mapping[PeerName, None] = {}
        self._looks_until = -math.inf

    def look_around(self, until: float) -> None:
        """Open no ballot before: a peer may have a ring. Only one that needs nobody else's vote
        has to be told, as the others hear of a ring with the votes that they ask for."""
        if self._replica.paxos.quorum == 1:
            self._looks_until = until

    @property
    def votes(self) -> bool:
        return isinstance(self._init, Consensus)

    def handle_wanted(self, reachable: Mapping[PeerName, None], now: float) -> dict[PeerName, Vote]:
        """Somebody waits for an address: open a ballot if that helps. Returns votes to tell."""
        if not isinstance(self._init, Consensus) or self._replica.ring is not None:
            return {}
        paxos = self._replica.paxos
        if now < self._looks_until:
            self._again_at = self._looks_until
            return {}
        self._looks_until = -math.inf
        if paxos.begun and now < self._again_at:
            return {}
        self._put_off(now)
        if len(reachable) + 1 < paxos.quorum:
            return {}
        opened = paxos.open_ballot()
        return {**opened, **self.think(reachable, now)}

    def think(self, reachable: Mapping[PeerName, None], now: float) -> dict[PeerName, Vote]:
        """Votes arrived, or we opened a ballot: returns our vote if that changed it."""
        if not self.votes or self._replica.ring is not None:
            return {}
        self._heard_of = reachable
        votes = self._replica.paxos.think(self._propose)
        if votes:
            self._put_off(now)
        return votes

    def next_at(self, wanted: bool) -> float | None:
        if not wanted or not self.votes or self._replica.ring is not None:
            return None
        return self._again_at

    def can_begin(self, reachable: Mapping[PeerName, None]) -> bool:
        """True if a ring can be made as soon as somebody wants an address."""
        return self.votes and len(reachable) + 1 >= self._replica.paxos.quorum

    def reason(self, reachable: Mapping[PeerName, None]) -> str:
        """Say what a ring is waited for, and what the operator can do."""
        if isinstance(self._init, Consensus):
            quorum = self._replica.paxos.quorum
            if self._looks_until > -math.inf:
                return "just started: looking for peers that have a ring already, for a moment"
            present = min(len(reachable) + 1, quorum)
            return (
                f"waiting for consensus on the first ring: {present} of {quorum} peers needed are"
                " reachable; start more hosts, look at `weavepy status connections`, or restart"
                " with a smaller --ipalloc-init consensus=N"
            )
        if isinstance(self._init, Appointed):
            return (
                "waiting for the Kubernetes API server to say what the first ring is, or for a"
                " peer that has one"
            )
        return (
            "waiting to get a ring from a peer, as an observer: connect to a host that has one,"
            " or run `weavepy prime` on a host that is not an observer"
        )

    def _propose(self) -> Proposal:
        """Choose who gets shares: ourself, and whoever was heard of."""
        peers = {*self._replica.paxos.votes, *self._heard_of, self._replica.ourself}
        return Proposal(self._rng.randbytes(RING_ID_BYTES), tuple(sorted(peers)))

    def _put_off(self, now: float) -> None:
        self._again_at = now + PATIENCE_S * (1 + self._rng.random())
