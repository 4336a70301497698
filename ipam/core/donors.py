"""The search for a peer that gives us space in one subnet.

All requests that wait for space in a subnet share one search, so a hundred containers that start
together cause one donation, not a hundred. One peer is asked at a time, those with the most free
addresses, as far as their hints tell, first. Nobody has a free address? Then everyone is asked
once more for addresses that are still cooling down. Nobody has those either? Then the search
rests, if somebody could not be asked, or ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from ipam.core.ranges import Range
from weavepy.base.names import PeerName

ASK_TIMEOUT_S = 2.0
"""How long a donor has to answer: it writes to its disk before it does."""

REST_S = 2.0
"""How long a search rests before it asks those again that could not be asked."""


class Stage(Enum):
    FREE = "asking for free addresses"
    PRESSED = "asking for addresses that are cooling down"
    RESTING = "resting"
    ENDED = "everyone was asked and has none"


@dataclass(slots=True)
class DonorSearch:
    bounds: Range
    stage: Stage = Stage.FREE
    asked: PeerName | None = None
    ask_id: int = 0
    until: float = 0.0
    """When to give up on the peer that is asked, or when the rest is over."""
    refused: dict[PeerName, None] = field(default_factory=dict)
    silent: dict[PeerName, None] = field(default_factory=dict)
    unreachable: Sequence[PeerName] = ()

    @property
    def waits(self) -> bool:
        return self.asked is not None or self.stage is Stage.RESTING

    def choose(
        self,
        donors: Mapping[PeerName, int],
        reachable: Mapping[PeerName, None],
        rng: Random,
        now: float,
    ) -> PeerName | None:
        """Return who to ask now; None if an answer or the end of a rest must be awaited, or if
        the stage has just changed and the caller should look whether that helps it."""
        if self.waits and now < self.until:
            return None
        if self.asked is not None:
            self.silent[self.asked] = None
            self.asked = None
        if self.stage is Stage.RESTING:
            self.restart()
        self.unreachable = sorted(peer for peer in donors if peer not in reachable)
        untried = sorted(
            peer
            for peer in donors
            if peer in reachable and peer not in self.refused and peer not in self.silent
        )
        if untried:
            most = max(donors[peer] for peer in untried)
            return rng.choice([peer for peer in untried if donors[peer] == most])
        if self.stage is Stage.FREE:
            self.refused.clear()
            self.stage = Stage.PRESSED
        elif self.silent or self.unreachable:
            self.stage = Stage.RESTING
            self.until = now + REST_S
        else:
            self.stage = Stage.ENDED
        return None

    def ask(self, donor: PeerName, ask_id: int, now: float) -> None:
        self.asked, self.ask_id, self.until = donor, ask_id, now + ASK_TIMEOUT_S

    def handle_refusal(self) -> None:
        """The peer that is asked has nothing for us."""
        assert self.asked is not None
        self.refused[self.asked] = None
        self.asked = None

    def restart(self) -> None:
        """Begin anew: something changed, or the rest is over."""
        self.stage = Stage.FREE
        self.asked = None
        self.refused.clear()
        self.silent.clear()
