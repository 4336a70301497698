"""What happened to the ranges of this host, for whoever asks later: gave, got, lost, and why.

Events are collected while an input is handled and go to disk with its `Persist`, in the same
transaction as the change itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipam.core.effects import HistoryEvent, HistoryKind
from ipam.core.ranges import Range, normalise, total
from ipam.core.replica import Replica
from ipam.core.ring import Entry
from weavepy.base.names import PeerName

MAX_RANGES_TOLD = 4


class History:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._events: list[HistoryEvent] = []

    def note(
        self, kind: HistoryKind, pieces: Iterable[Range], peer: PeerName | None, reason: str
    ) -> None:
        ranges = normalise(pieces)
        text = self._replica.universe.range_text
        self._events.append(
            HistoryEvent(
                kind,
                tuple(text(piece) for piece in ranges[:MAX_RANGES_TOLD]),
                total(ranges),
                self._replica.label(peer) if peer is not None else "",
                reason,
            )
        )

    def note_entries(
        self, kind: HistoryKind, entries: Iterable[Entry], peer: PeerName | None, reason: str
    ) -> None:
        unroll = self._replica.universe.unroll
        pieces = [piece for entry in entries for piece in unroll(entry.token, entry.size)]
        if pieces:
            self.note(kind, pieces, peer, reason)

    def drain(self) -> tuple[HistoryEvent, ...]:
        events, self._events = tuple(self._events), []
        return events
