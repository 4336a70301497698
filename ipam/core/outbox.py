"""What an input leads to, in order, with what must be on disk in front of it.

All that is said while an input is handled is collected here. `drain` returns it behind one
`Persist` of everything that changed, so that nobody hears of what is not on disk. What only
others wrote is saved a little later: it is their promise, not ours, and they have it on disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ipam.core.effects import (
    RING_CHANNEL,
    Announce,
    AnswerRequest,
    IpamEffect,
    LogLine,
    Persist,
    Unicast,
)
from ipam.core.history import History
from ipam.core.messages import Message, encode_message
from ipam.core.replica import Learnt, Replica
from ipam.core.space import Space
from weavepy.base.names import PeerName

SAVE_NEWS_AFTER_S = 1.0
"""How long news that others wrote may wait for the disk."""


class Outbox:
    def __init__(self, replica: Replica, space: Space, history: History) -> None:
        self._replica = replica
        self._space = space
        self._history = history
        self._effects: list[IpamEffect] = []
        self._save_now = False
        self.save_at = math.inf
        """When news is to be saved."""
        self.disk_error = ""
        """Why the disk takes nothing; empty if it does."""

    # --- saying ----------------------------------------------------------------------------

    def add(self, effects: Iterable[IpamEffect]) -> None:
        self._effects += effects

    def send(self, peer: PeerName, message: Message) -> None:
        self._effects.append(Unicast(RING_CHANNEL, peer, encode_message(message)))

    def announce(self, learnt: Learnt, learnt_from: PeerName | None = None) -> None:
        for update in self._replica.encode_news(learnt):
            self._effects.append(Announce(RING_CHANNEL, update, learnt_from=learnt_from))

    def log(self, level: str, message: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        self._effects.append(LogLine(level, message, fields))

    # --- saving ----------------------------------------------------------------------------

    def save_ring(self) -> None:
        self._save_now = True

    def save_ring_soon(self, now: float) -> None:
        self.save_at = min(self.save_at, now + SAVE_NEWS_AFTER_S)

    def handle_timeout(self, now: float) -> None:
        if now >= self.save_at:
            self._save_now = True

    def drain(self) -> list[IpamEffect]:
        """Return everything, with what must be on disk first."""
        effects, self._effects = self._effects, []
        effects = [effect for effect in effects if not _is_our_own_answer(effect)]
        persist = self._take_persist()
        return effects if persist is None else [persist, *effects]

    def _take_persist(self) -> Persist | None:
        written, gone = self._space.drain_changes()
        history = self._history.drain()
        if not (written or gone or history or self._save_now):
            return None
        ring = self._replica.snapshot() if self._save_now else None
        if self._save_now:
            self._save_now = False
            self.save_at = math.inf
        return Persist(ring, written, gone, history)


def _is_our_own_answer(effect: IpamEffect) -> bool:
    return isinstance(effect, AnswerRequest) and effect.request < 0
