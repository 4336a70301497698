"""Mistakes in the ring, its disk and its take-overs, as patches of the real cores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from ipam.core import consent
from ipam.core.allocator import Allocator
from ipam.core.effects import Persist
from ipam.core.held import HeldAddresses
from ipam.core.ipam import Ipam
from ipam.core.keeper import RingKeeper
from ipam.core.paxos import Paxos, Vote
from ipam.core.replica import Replica
from ipam.core.restart import RestartCheck
from ipam.core.ring import Entry, Ring
from ipam.core.space import Space
from weavepy.base.names import PeerName
from weavepy.daemon import node as node_module
from weavepy.daemon.node import Node


def persist_after_sending() -> Sequence[Any]:
    perform = Node._perform

    def persisted(node: Node, effects: Sequence[Any], now: float) -> Iterable[Any]:
        return [*effects[1:], effects[0]] if _begins_with_persist(effects) else effects

    def performed(node: Node, effect: Any, now: float) -> Iterable[Any]:
        if isinstance(effect, Persist):
            node._world.perform(effect, now)
            return []
        return perform(node, effect, now)

    return [patch.object(Node, "_persisted", persisted), patch.object(Node, "_perform", performed)]


def not_persisting_the_ring() -> Sequence[Any]:
    persisted = Node._persisted

    def without_ring(node: Node, effects: Sequence[Any], now: float) -> Iterable[Any]:
        if _begins_with_persist(effects):
            effects = [replace(effects[0], ring=None), *effects[1:]]
        return persisted(node, effects, now)

    return [patch.object(Node, "_persisted", without_ring)]


def going_on_when_the_disk_refuses() -> Sequence[Any]:
    def persisted(node: Node, effects: Sequence[Any], now: float) -> Iterable[Any]:
        if not _begins_with_persist(effects):
            return effects
        try:
            node._world.perform(effects[0], now)
        except Exception:
            node._world.perform  # noqa: B018  # the write is dropped, which is the mistake
        return effects[1:]

    return [patch.object(Node, "_persisted", persisted)]


def merge_prefers_the_older() -> Sequence[Any]:
    def join(mine: Entry, other: Entry) -> Entry:
        return mine if mine.version <= other.version else other

    return [patch.object(Entry, "join", join)]


def donor_keeps_allocating() -> Sequence[Any]:
    def refresh(keeper: RingKeeper, now: float) -> None:
        replica, space = keeper._replica, keeper._space
        if replica.ring is not None and space.free_count == 0:
            space.set_ranges(replica.ring.ranges_of(replica.ourself), replica.ring.contested())

    return [patch.object(RingKeeper, "refresh_space", refresh)]


def version_not_raised() -> Sequence[Any]:
    write_right = Ring._write

    def write(ring: Ring, token: int, *content: Any, **more: Any) -> Entry:
        before = ring.get(token)
        entry = write_right(ring, token, *content, **more)
        entry = replace(entry, version=1 if before is None else before.version)
        ring._put(entry)
        return entry

    return [patch.object(Ring, "_write", write)]


def donation_short_by_one() -> Sequence[Any]:
    donate = Ring.donate

    def one_less(ring: Ring, giver: Any, start: int, size: int, taker: Any, *more: Any) -> Any:
        written = donate(ring, giver, start, size, taker, *more)
        for at, entry in enumerate(written):
            if entry.owner == taker and entry.size > 1:
                written[at] = replace(entry, size=entry.size - 1)
                ring._put(written[at])
        return written

    return [patch.object(Ring, "donate", one_less)]


def release_without_cooling() -> Sequence[Any]:
    def cool(space: Space, address: int, now: float) -> None:
        space.forget(address)

    return [patch.object(Space, "cool", cool)]


def claim_ignores_the_owner() -> Sequence[Any]:
    try_claim = Allocator._try_claim

    def claim(allocator: Allocator, waiting: Any, now: float) -> None:
        row = allocator._space.row(waiting.address)
        if row is not None:
            allocator._give(waiting, waiting.address)
        else:
            try_claim(allocator, waiting, now)

    return [patch.object(Allocator, "_try_claim", claim)]


def digests_always_equal() -> Sequence[Any]:
    return [patch.object(Replica, "answer", lambda replica, digest: None)]


def restart_is_not_checked() -> Sequence[Any]:
    def begin(check: RestartCheck, owners: Any, expects_peers: bool, now: float) -> None:
        check.passed = True

    return [patch.object(RestartCheck, "begin", begin)]


def first_peer_met_is_believed() -> Sequence[Any]:
    """It may have been cut off together with this host, while the others took that one over."""
    return [patch.object(RestartCheck, "_others_may_know", lambda check: False)]


def old_disk_is_believed() -> Sequence[Any]:
    """Its rows are taken for containers of this host, whoever has their addresses by now."""

    def settle(held: HeldAddresses, now: float) -> None:
        held._allocator.doubtful.clear()

    return [patch.object(HeldAddresses, "settle_doubts", settle)]


def running_containers_are_forgotten() -> Sequence[Any]:
    return [patch.object(Ipam, "claim_running", lambda ipam, rows, now: [])]


def promises_counted_by_round() -> Sequence[Any]:
    """Two openers of one round each take the other's promises for their own."""

    def accept(paxos: Paxos, propose: Callable[[], Any]) -> None:
        ballot = paxos._votes[paxos.ourself].promised
        promises = [v for v in paxos._votes.values() if v.promised.round == ballot.round]
        if len(promises) >= paxos.quorum:
            paxos._vote(Vote(ballot, ballot, propose()))

    return [patch.object(Paxos, "_accept_as_opener", accept)]


def taking_over_without_a_fence() -> Sequence[Any]:
    """What the dead peer wrote last, or writes when it is back, counts as much as its taker's."""
    inherit = Ring._inherit

    def inherited(ring: Ring, entry: Entry) -> tuple[PeerName, int]:
        owner, _ = inherit(ring, entry)
        return owner, entry.epoch

    return [patch.object(Ring, "_inherit", inherited)]


def taking_over_without_a_majority() -> Sequence[Any]:
    """Both halves of a cut mesh declare the other dead."""
    return [patch.object(consent, "is_majority", lambda consenting, electorate: True)]


def hand_over_not_awaited() -> Sequence[Any]:
    hand_over = Ipam.hand_over

    def at_once(ipam: Ipam, peer: Any, now: float) -> Any:
        effects = hand_over(ipam, peer, now)
        ipam._departure.done = True
        ipam._departure.again_at = float("inf")
        return [effect for effect in effects if isinstance(effect, Persist)]

    return [patch.object(Ipam, "hand_over", at_once)]


def answers_wait_for_the_disk() -> Sequence[Any]:
    return [patch.object(node_module, "_refused", lambda effect, error: effect)]


def _begins_with_persist(effects: Sequence[Any]) -> bool:
    return bool(effects) and isinstance(effects[0], Persist)
