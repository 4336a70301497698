"""Short ids: 12 bits that stand for a peer in records and frames, drawn by their owner.

If two peers drew the same one, the lower name keeps it and the other draws again. Until then
neither is used, as a frame's source would be ambiguous. A newcomer that carries no traffic yet
yields to anybody, and the others give it a moment to do so.
"""

from collections.abc import Iterable, Mapping
from random import Random

from router.mesh.records import MAX_SHORT_ID, Record
from weavepy.base.names import PeerName, ShortId

PATIENCE_S = 1.0
"""How long an established peer waits for a newcomer to yield."""


def draw(rng: Random, records: Iterable[Record]) -> ShortId:
    """A free one; 0 if there is none."""
    taken = {record.short_id for record in records}
    free = [short_id for short_id in range(1, MAX_SHORT_ID + 1) if short_id not in taken]
    return ShortId(rng.choice(free) if free else 0)


def rivals(ourself: PeerName, records: Mapping[PeerName, Record]) -> list[PeerName]:
    """Others with our short id."""
    ours = records[ourself].short_id
    return [
        record.name
        for record in records.values()
        if record.short_id == ours and record.name != ourself
    ]


def undisputed(
    names: Iterable[PeerName], records: Mapping[PeerName, Record]
) -> dict[PeerName, ShortId]:
    """The short ids of these peers, without those that two of them have."""
    holders: dict[ShortId, list[PeerName]] = {}
    for name in sorted(names):
        if name in records and records[name].short_id:
            holders.setdefault(records[name].short_id, []).append(name)
    return {
        names_of_id[0]: short_id
        for short_id, names_of_id in holders.items()
        if len(names_of_id) == 1
    }
