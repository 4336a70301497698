"""What the ring looks like to an operator; the daemon turns it into the API's `IpamStatus`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipam.core.allocator import Waiting
from ipam.core.election import IDLE, Election
from ipam.core.ranges import Network, Range, normalise
from ipam.core.replica import Replica
from ipam.core.space import Space
from weavepy.base.names import PeerName

MAX_RANGES_SHOWN = 32

PICTURE_SLICES = 64
FROZEN = -1
UNKNOWN = -2


@dataclass(frozen=True, slots=True)
class RangeOwner:
    peer: PeerName
    nickname: str
    addresses: int
    share: float
    free: int | None
    reachable: bool
    ranges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WaitingStatus:
    owner: str
    what: str
    reason: str
    since_s: float


@dataclass(frozen=True, slots=True)
class IpamStatus:
    state: str
    """One of "idle" (no ring, nothing hinders making one), "waiting" or "ready"."""
    reason: str
    universe: str
    default_subnet: str
    ring_id: str
    entries: int
    allocated: int
    cooling: int
    free: int
    owners: tuple[RangeOwner, ...]
    frozen: tuple[str, ...]
    waiting: tuple[WaitingStatus, ...]
    warnings: tuple[str, ...]
    picture: tuple[int, ...] = ()
    """See `picture_of`."""


@dataclass(frozen=True, slots=True)
class AddressOwner:
    """Who has an address: the peer whose range it lies in, and who uses it on this host."""

    peer: PeerName | None
    nickname: str
    owner: str
    """Empty if nobody uses it on this host."""


def status_of(
    replica: Replica,
    space: Space,
    election: Election,
    *,
    network: Network,
    default_subnet: Network,
    reachable: Mapping[PeerName, None],
    waiting: Mapping[int, Waiting],
    warnings: tuple[str, ...],
    now: float,
) -> IpamStatus:
    ring, universe = replica.ring, replica.universe
    owners = owner_rows(replica, reachable, space.free_count)
    state, reason = _state(replica, election, reachable)
    return IpamStatus(
        state=state,
        reason=reason,
        universe=str(network),
        default_subnet=str(default_subnet),
        ring_id=ring.ring_id.hex() if ring else "",
        entries=len(ring) if ring else 0,
        allocated=space.in_use_count,
        cooling=space.cooling_count,
        free=space.free_count,
        owners=owners,
        frozen=tuple(universe.range_text(piece) for piece in (ring.contested() if ring else ())),
        waiting=waiting_rows(replica, waiting, now),
        warnings=warnings,
        picture=picture_of(replica, owners),
    )


def _state(
    replica: Replica, election: Election, reachable: Mapping[PeerName, None]
) -> tuple[str, str]:
    if replica.ring is not None:
        return "ready", ""
    if election.can_begin(reachable):
        return "idle", IDLE
    return "waiting", election.reason(reachable)


def owner_rows(
    replica: Replica, reachable: Mapping[PeerName, None], own_free: int
) -> tuple[RangeOwner, ...]:
    """Return a row per owner of ranges, the biggest first."""
    if replica.ring is None:
        return ()
    pieces: dict[PeerName, list[Range]] = {}
    for entry in replica.ring.live():
        unrolled = replica.universe.unroll(entry.token, entry.size)
        pieces.setdefault(entry.owner, []).extend(unrolled)
    sizes = replica.ring.owners()
    rows: list[RangeOwner] = []
    for peer in sorted(sizes, key=lambda peer: (-sizes[peer], peer)):
        hint = replica.hints.get(peer)
        ourself = peer == replica.ourself
        rows.append(
            RangeOwner(
                peer=peer,
                nickname=replica.nicknames.get(peer, ""),
                addresses=sizes[peer],
                share=sizes[peer] / replica.universe.size,
                free=own_free if ourself else (hint.free if hint else None),
                reachable=ourself or peer in reachable,
                ranges=tuple(
                    replica.universe.range_text(piece)
                    for piece in normalise(pieces[peer])[:MAX_RANGES_SHOWN]
                ),
            )
        )
    return tuple(rows)


def picture_of(replica: Replica, owners: Sequence[RangeOwner]) -> tuple[int, ...]:
    """Return the universe in equal slices: of each, which of `owners` has the most of it.

    `FROZEN` where two peers contradict each other, `UNKNOWN` where no owner is known.
    """
    ring = replica.ring
    if ring is None:
        return ()
    universe = replica.universe
    numbers = {row.peer: number for number, row in enumerate(owners)}
    count = min(PICTURE_SLICES, universe.size)
    bounds = [universe.first + universe.size * at // count for at in range(count + 1)]
    weights: list[dict[int, int]] = [{} for _ in range(count)]
    pieces = [
        (piece, numbers[entry.owner])
        for entry in ring.live()
        for piece in universe.unroll(entry.token, entry.size)
    ]
    for piece, number in [*pieces, *((piece, FROZEN) for piece in ring.contested())]:
        at = bisect_right(bounds, piece.start) - 1
        while bounds[at] < piece.end:
            common = Range(bounds[at], bounds[at + 1]).meet(piece)
            assert common is not None
            weights[at][number] = weights[at].get(number, 0) + common.size
            at += 1
    return tuple(
        FROZEN if FROZEN in weight else max(weight, key=weight.__getitem__, default=UNKNOWN)
        for weight in weights
    )


def waiting_rows(
    replica: Replica, waiting: Mapping[int, Waiting], now: float
) -> tuple[WaitingStatus, ...]:
    return tuple(
        WaitingStatus(
            owner=one.owner,
            what=_what(replica, one),
            reason=one.reason,
            since_s=max(0.0, now - one.since),
        )
        for one in waiting.values()
    )


def _what(replica: Replica, waiting: Waiting) -> str:
    if waiting.kind == "allocate":
        return f"an address in {waiting.network}"
    if waiting.kind == "claim":
        return f"the address {replica.universe.text(waiting.address)}"
    return "a ring"
