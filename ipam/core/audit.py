"""Do ring, disk and interfaces say the same? `weavepy ipam check` asks.

Nothing is changed here. What differs for a moment in honest life (an attachment that is just being
made) is not reported: the caller names the owners that are busy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ipam.core.effects import PersistedAddress, RunningAddress, Saved
from ipam.core.replica import Replica
from ipam.core.space import Space
from weavepy.base.errors import ProtocolError

Row = TypeVar("Row", RunningAddress, PersistedAddress)


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    """One of "ring", "store" and "interface": what disagrees with what this host believes."""
    text: str


def audit(
    replica: Replica,
    space: Space,
    saved: Saved | None,
    live: Sequence[RunningAddress],
    busy: Collection[str],
) -> list[Finding]:
    return [
        *(Finding("ring", text) for text in _ring_findings(replica, space)),
        *(Finding("store", text) for text in _store_findings(replica, space, saved)),
        *(Finding("interface", text) for text in _live_findings(replica, space, live, busy)),
    ]


def _ring_findings(replica: Replica, space: Space) -> Iterator[str]:
    ring = replica.ring
    if ring is None:
        if space.rows():
            yield f"{len(space.rows())} addresses are in use, but there is no ring"
        return
    for piece in ring.contested():
        yield f"{replica.universe.range_text(piece)} is claimed by two peers, and frozen"
    if ring.gaps():
        yield f"{ring.gaps()} addresses have no owner that this host knows of: news is missing"
    for row in space.rows():
        entry = ring.covering(row.address)
        if entry is None or entry.owner != replica.ourself:
            whose = replica.label(entry.owner) if entry is not None else "nobody we know"
            text = replica.universe.text(row.address)
            yield f"{text} is used by {row.owner} here, but lies in the range of {whose}"


def _store_findings(replica: Replica, space: Space, saved: Saved | None) -> Iterator[str]:
    text = replica.universe.text
    stored = {row.address: row for row in saved.addresses} if saved is not None else {}
    ours = {row.address: row for row in (*space.rows(), *space.cooling_rows())}
    for address in sorted(stored.keys() | ours.keys()):
        mine, theirs = ours.get(address), stored.get(address)
        if mine is None or theirs is None or _comparable(mine) != _comparable(theirs):
            yield f"{text(address)} is {_told(mine)} in memory and {_told(theirs)} on disk"
    if replica.ring is None:
        return
    if saved is None or saved.ring is None:
        yield "the ring is not on disk"
        return
    try:
        on_disk = set(replica.codec.decode(replica.update_of(saved.ring)).entries)
    except ProtocolError as error:
        yield f"the ring on disk cannot be read: {error}"
        return
    missing = [entry for entry in replica.ring.owned_by(replica.ourself) if entry not in on_disk]
    if missing:
        yield f"{len(missing)} ranges of this host are not on disk"


def _live_findings(
    replica: Replica, space: Space, live: Sequence[RunningAddress], busy: Collection[str]
) -> Iterator[str]:
    text = replica.universe.text
    owners = {one.owner for one in live}
    held = {(one.address, one.owner) for one in live}
    for one in _not_busy(live, busy):
        if one.address not in replica.universe:
            continue
        row = space.row(one.address)
        if row is None:
            yield f"{one.owner} runs with {text(one.address)}, which is not recorded"
        elif row.owner != one.owner:
            yield f"{one.owner} runs with {text(one.address)}, which is recorded for {row.owner}"
    for row in _not_busy(space.rows(), busy):
        if row.kind != "attachment":
            continue
        if row.owner not in owners:
            yield f"{text(row.address)} is recorded for {row.owner}, which has no interface"
        elif (row.address, row.owner) not in held:
            yield f"{text(row.address)} is recorded for {row.owner}, but not on its interface"


def _not_busy(rows: Iterable[Row], busy: Collection[str]) -> Iterator[Row]:
    return (row for row in rows if row.owner not in busy)


def _comparable(row: PersistedAddress) -> PersistedAddress:
    return replace(row, freed_at=None if row.freed_at is None else 0.0)


def _told(row: PersistedAddress | None) -> str:
    if row is None:
        return "unknown"
    return f"{'cooling after' if row.freed_at is not None else 'used by'} {row.owner}"
