"""To whom news is passed on, and when states are compared.

News travels like a rumour: whoever learns something tells about 2·log2(n) neighbours, at most
eight, so it reaches all of n peers in about log(n) steps, almost surely: if each tells eight at
random, one peer in 3,000 hears of it from nobody, and each more would have everybody hear
everything once more. A neighbour that leads to many peers is chosen more often. What gets lost all
the same (a full socket, a link that broke) is found by comparing digests: on each new connection,
and every few seconds with some neighbours.
"""

import math
from collections.abc import Collection, Container, Mapping
from random import Random

from weavepy.base.deadline import Deadline
from weavepy.base.names import PeerName

ROUND_S = 10.0
ROUND_JITTER_S = 2.0
DIGEST_NEIGHBOURS = 3

WELCOME_S = 1.0
"""With a new neighbour, digests are compared at once if we have few others, else so much later:
who joins a large mesh has many new neighbours in a moment, and needs not hear all from each."""

FEW_NEIGHBOURS = 3
MAX_FANOUT = 8


class Gossip:
    def __init__(self, rng: Random, now: float) -> None:
        self._rng = rng
        self._round_at = now
        self._welcome_at: dict[PeerName, float] = {}
        self._schedule(now)

    def audience(self, neighbours: Mapping[PeerName, int], peer_count: int) -> list[PeerName]:
        """Whom to tell news in a mesh of so many peers. `neighbours` are with their weights."""
        return self._choose(neighbours, fanout(peer_count))

    def welcome(self, neighbour: PeerName, others: int, now: float) -> None:
        """Digests are to be compared with this one, who was connected just now, beside `others`."""
        self._welcome_at[neighbour] = now if others < FEW_NEIGHBOURS else now + WELCOME_S

    def welcomed(self, neighbours: Container[PeerName], now: float) -> list[PeerName]:
        """Of the new neighbours, those to whom our digests are due."""
        due = [peer for peer, at in self._welcome_at.items() if now >= at]
        for peer in due:
            del self._welcome_at[peer]
        return [peer for peer in due if peer in neighbours]

    def round_partners(self, neighbours: Collection[PeerName], now: float) -> list[PeerName]:
        """With whom to compare digests now; empty unless a round is due."""
        if now < self._round_at:
            return []
        self._schedule(now)
        return self._choose(dict.fromkeys(neighbours, 1), DIGEST_NEIGHBOURS)

    def next_deadline(self) -> Deadline:
        at = min([self._round_at, *self._welcome_at.values()])
        return Deadline(at, "compare digests with neighbours")

    def _schedule(self, now: float) -> None:
        self._round_at = now + ROUND_S + self._rng.uniform(-ROUND_JITTER_S, ROUND_JITTER_S)

    def _choose(self, weights: Mapping[PeerName, int], count: int) -> list[PeerName]:
        """Draw without putting back. The key u^(1/w) orders a weighted sample (Efraimidis 2006)."""
        if len(weights) <= count:
            return sorted(weights)
        keys = {name: self._rng.random() ** (1 / max(1, weights[name])) for name in sorted(weights)}
        return sorted(sorted(keys, key=lambda name: -keys[name])[:count])


def fanout(peer_count: int) -> int:
    return min(MAX_FANOUT, max(1, math.ceil(2 * math.log2(max(2, peer_count)))))


def weights_of(unicast_all: Mapping[PeerName, PeerName]) -> dict[PeerName, int]:
    """How many peers lie behind each neighbour."""
    weights: dict[PeerName, int] = {}
    for via in unicast_all.values():
        weights[via] = weights.get(via, 0) + 1
    return weights
