"""The one object in which the routers of a cluster keep what must be decided once.

A ConfigMap, changed by compare-and-swap on its resource version. Nobody watches it: it is read at
the start, every few minutes, and before each decision. It holds, each under a key of its own,

- `ring`: the first ring, that is its id and the peers that divide the universe;
- `peer.NAME`: which node this peer runs on, by name and uid. Each peer writes its own before it
  owns anything, so that the ring's owners can be told from peers that are no nodes;
- `reclaimed.NAME`: the last take-over of this peer's ranges, that is taker and epoch.

An API server takes objects up to 1 MiB: room for twice as many peers as a mesh may have.

What cannot be read is treated as absent, except that nothing is written over an unreadable ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from weavepy.base.errors import WeavepyError
from weavepy.base.names import PeerName, parse_peer_name

Value = TypeVar("Value")

RING_KEY = "ring"
MAX_RECLAIMED = 1024
"""Take-overs that are kept on record; the ring has them all. Clusters whose nodes come and go would
else outgrow what an object may hold."""


class FirstRing(msgspec.Struct, frozen=True):
    id: str
    """In hex."""
    peers: tuple[str, ...]
    """Who gets equal shares. Nobody, if the ring is older than this object."""
    universe: str = ""


class Home(msgspec.Struct, frozen=True):
    node: str
    uid: str


class Reclaimed(msgspec.Struct, frozen=True):
    epoch: int
    taker: str
    node: str = ""


class UnreadableRing(WeavepyError):
    """Somebody has changed the register by hand."""


@dataclass(frozen=True, slots=True)
class Register:
    version: str
    """Of the object; a change is refused if it is another one by then."""
    ring: FirstRing | None = None
    homes: Mapping[PeerName, Home] = field(default_factory=dict)
    reclaimed: Mapping[PeerName, Reclaimed] = field(default_factory=dict)

    @classmethod
    def parse(cls, version: str, data: Mapping[str, str]) -> Register:
        ring = None
        if RING_KEY in data:
            ring = _read(FirstRing, data[RING_KEY])
            if ring is None or not _is_ring_id(ring.id):
                raise UnreadableRing(
                    f"the key {RING_KEY!r} of the register cannot be read: restore it, or delete"
                    " it, and the routers that know the ring write it anew"
                )
        homes: dict[PeerName, Home] = {}
        reclaimed: dict[PeerName, Reclaimed] = {}
        for key, text in sorted(data.items()):
            kind, _, digits = key.partition(".")
            peer = _peer(digits)
            if kind == "peer" and peer and (home := _read(Home, text)):
                homes[peer] = home
            elif kind == "reclaimed" and peer and (record := _read(Reclaimed, text)):
                reclaimed[peer] = record
        return cls(version, ring, homes, reclaimed)

    def verdicts(self) -> dict[PeerName, tuple[int, PeerName]]:
        return {peer: (one.epoch, PeerName(one.taker)) for peer, one in self.reclaimed.items()}

    def to_forget(self, besides: PeerName) -> list[str]:
        """Return the keys that have to go so that another take-over fits, that of `besides`.

        With a take-over goes where that peer lived. If it came back, it puts that on record again.
        """
        by_age = sorted(
            (peer for peer in self.reclaimed if peer != besides),
            key=lambda peer: self.reclaimed[peer].epoch,
        )
        oldest = by_age[: max(0, len(by_age) - MAX_RECLAIMED + 1)]
        return [key for peer in oldest for key in (reclaimed_key(peer), peer_key(peer))]


def peer_key(peer: PeerName) -> str:
    return f"peer.{peer.replace(':', '')}"


def reclaimed_key(peer: PeerName) -> str:
    return f"reclaimed.{peer.replace(':', '')}"


def encode(value: FirstRing | Home | Reclaimed) -> str:
    return msgspec.json.encode(value).decode()


def _read(kind: type[Value], text: str) -> Value | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError:
        return None


def _peer(digits: str) -> PeerName | None:
    if len(digits) != 12:
        return None
    try:
        return parse_peer_name(":".join(digits[at : at + 2] for at in range(0, 12, 2)))
    except WeavepyError:
        return None


def _is_ring_id(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) > 0
    except ValueError:
        return False
