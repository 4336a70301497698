"""The voter of a take-over, alone with what it is asked."""

from __future__ import annotations

from random import Random

import pytest

from ipam.core import consent as consent_module
from ipam.core.consent import (
    AVOID_S,
    MAX_AREA_ENTRIES,
    MAX_PROMISES,
    MAX_TAKE_OVERS,
    Consent,
    _electorate_hash,
    _raw,
)
from ipam.core.messages import ConsentAnswer, ConsentRequest
from ipam.core.promise import Promise
from ipam.core.ring import Entry, Fence, Ring
from tests.ipam.core.consenting import Peer
from tests.ipam.core.parts import RING, A, B, C, D, replica_without_ring
from weavepy.base.names import PeerName


def request_of(one: Peer, /, **fields: object) -> ConsentRequest:
    given: dict[str, object] = {
        "id": 5,
        "ring_id": b"12345678",
        "peer": _raw(D),
        "after": 0,
        "round": 1,
        "electorate": _electorate_hash(one.consent.electorate()),
        "taker": b"",
        "epoch": 0,
        "update": b"",
        **fields,
    }
    return ConsentRequest(**given)  # type: ignore[arg-type]


def vote(one: Peer, source: PeerName = B, /, now: float = 0.0, **fields: object) -> ConsentAnswer:
    return one.consent.handle_request(source, request_of(one, **fields), (), now)


def test_a_voter_promises_and_then_accepts_and_says_what_it_knows() -> None:
    peer = Peer()
    assert peer.replica.ring is not None
    answer = vote(peer, round=3)
    entries = peer.replica.encode_entries(peer.replica.ring.owned_by(D))
    assert answer == ConsentAnswer(5, True, "", "", 3, None, entries)
    assert peer.consent.changed
    assert peer.replica.promises == {D: Promise(0, (3, str(B)))}
    answer = vote(peer, round=3, taker=_raw(B), epoch=1)
    assert answer.granted
    assert answer.accepted == (3, _raw(B), _raw(B), 1)
    assert peer.replica.promises == {D: Promise(0, (3, str(B)), (3, str(B)), str(B), 1)}
    answer = vote(peer, C, round=4)
    assert (answer.round, answer.accepted) == (4, (3, _raw(B), _raw(B), 1))


def test_a_voter_without_that_ring_says_so() -> None:
    peer = Peer()
    assert vote(peer, ring_id=b"another").kind == "foreign"
    consent = Consent(replica_without_ring(), Random(1), lambda peer, message: None)
    answer = consent.handle_request(B, request_of(Peer()), (), 0.0)
    assert answer == ConsentAnswer(5, False, "foreign", "it lives with another ring", 0, None, b"")
    assert not peer.consent.changed


def refused(one: Peer, kind: str, source: PeerName = B, /, **fields: object) -> None:
    before = dict(one.replica.promises)
    answer = vote(one, source, **fields)  # type: ignore[arg-type]
    assert (answer.granted, answer.kind) == (False, kind)
    assert one.replica.promises == before
    assert not one.consent.changed


def test_a_voter_objects_to_the_take_over_of_the_living() -> None:
    refused(Peer(), "alive", peer=_raw(A))
    refused(Peer(), "alive", peer=_raw(B))
    peer = Peer()
    peer.reach(B, sessions=(D,))
    refused(peer, "alive")


def test_a_voter_that_knows_more_or_less_refuses_until_both_know_the_same() -> None:
    refused(Peer(), "stale", after=1)
    refused(Peer(), "stale", electorate=_electorate_hash([A, B, D]))
    peer = Peer()
    assert peer.replica.ring is not None
    peer.replica.ring.join_fences({D: Fence(2, C)})
    refused(peer, "stale", after=0)
    assert vote(peer, after=2).granted


def test_a_voter_keeps_to_the_higher_ballot() -> None:
    peer = Peer()
    assert vote(peer, C, round=3).granted
    peer.consent.changed = False
    refused(peer, "outbid", B, round=3)
    refused(peer, "outbid", C, round=2)
    assert vote(peer, C, round=3, taker=_raw(C), epoch=1).granted
    assert vote(peer, C, round=4).granted


def test_a_voter_makes_a_bounded_number_of_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (MAX_PROMISES, MAX_AREA_ENTRIES, MAX_TAKE_OVERS) == (4096, 8192, 64)
    monkeypatch.setattr(consent_module, "MAX_PROMISES", 1)
    peer = Peer(4, A)
    peer.reach()
    assert vote(peer).granted
    peer.consent.changed = False
    refused(peer, "busy", peer=_raw(C))
    assert vote(peer, round=2).granted, "what is promised already may be promised higher"


@pytest.mark.parametrize(("limit", "granted"), [(3, True), (2, False)])
def test_ranges_in_too_many_pieces_do_not_fit_into_a_message(
    monkeypatch: pytest.MonkeyPatch, limit: int, granted: bool
) -> None:
    monkeypatch.setattr(consent_module, "MAX_AREA_ENTRIES", limit)
    peer = Peer()
    ring = peer.replica.ring
    assert ring is not None
    ring.donate(D, ring.ranges_of(D)[0].start + 5, 1, D, 1)
    assert len(ring.owned_by(D)) == 3
    answer = vote(peer)
    assert (answer.granted, answer.kind) == (granted, "" if granted else "too-many")
    assert len(peer.replica.codec.decode(answer.update).entries) == limit
    peer.reach(A, B, C)
    peer.ask()
    peer.work(0.0)
    assert len(peer.replica.codec.decode(peer.requests()[B].update).entries) == limit


def test_a_voter_tells_of_what_the_dead_peer_gave_away_where_the_asker_thinks_it_is() -> None:
    peer = Peer()
    ring = peer.replica.ring
    assert ring is not None
    (before,) = ring.owned_by(D)
    ring.donate(D, before.token, 8, C, 1)
    ring.donate(D, before.token + 40, 2, B, 1)
    request = request_of(peer, electorate=_electorate_hash(peer.consent.electorate()))
    answer = peer.consent.handle_request(B, request, [before], 0.0)
    told = peer.replica.codec.decode(answer.update).entries
    offsets = [entry.token - before.token for entry in told]
    assert offsets == [0, 8, 40, 42]
    own = peer.consent.handle_request(B, request, [], 0.0)
    offsets = [
        entry.token - before.token for entry in peer.replica.codec.decode(own.update).entries
    ]
    assert offsets == [8, 42]


# --- what a promise means to the voter ------------------------------------------------------------


def test_no_space_is_taken_for_a_minute_from_a_peer_that_was_promised_away() -> None:
    peer = Peer()
    vote(peer, now=100.0)
    assert peer.consent.avoided(159.9) == [D]
    assert peer.consent.avoided(160.0) == []
    assert AVOID_S == 60.0


def test_promises_of_the_last_run_are_as_good_as_new_ones() -> None:
    peer = Peer()
    peer.replica.promises[D] = Promise(0, (1, str(B)))
    assert peer.consent.avoided(0.0) == []
    peer.consent.handle_loaded(100.0)
    assert peer.consent.avoided(159.9) == [D]


def test_a_peer_that_returns_is_told_to_whom_its_ranges_may_have_gone() -> None:
    peer = Peer()
    assert peer.consent.promised(D) == b""
    vote(peer)
    assert peer.consent.promised(D) == b"", "nothing was accepted yet"
    vote(peer, taker=_raw(B), epoch=1)
    assert peer.consent.promised(D) == _raw(B)
    assert peer.replica.ring is not None
    peer.replica.ring.join_fences({D: Fence(1, B)})
    assert peer.consent.promised(D) == b"", "the outcome is known"


def test_a_promise_has_served_its_purpose_when_the_fence_is_known() -> None:
    peer = Peer()
    vote(peer, taker=_raw(B), epoch=1)
    peer.consent.handle_fences([D, C])
    assert D in peer.replica.promises, "not before it is in the ring"
    assert peer.consent.avoided(1.0) == []
    assert peer.replica.ring is not None
    peer.replica.ring.join_fences({D: Fence(1, B)})
    peer.consent.handle_fences([D])
    assert not peer.replica.promises


def test_a_promise_about_the_next_take_over_is_kept() -> None:
    peer = Peer()
    assert peer.replica.ring is not None
    peer.replica.ring.join_fences({D: Fence(1, B)})
    peer.replica.promises[D] = Promise(1, (2, str(C)))
    peer.consent.handle_fences([D])
    assert D in peer.replica.promises
    peer.replica.promises[D] = Promise(0, (2, str(C)), (2, str(C)), str(C), 1)
    answer = vote(peer, after=1, round=1)
    assert answer.granted, "what was promised about the take-over before does not bind"
    assert answer.accepted is None


def test_entries_that_a_piece_only_touches_are_not_told() -> None:
    peer = Peer()
    first = peer.replica.universe.first
    told = [Entry(first + 10, 4, D, 1, 1)]
    ring = peer.replica.ring
    assert ring is not None
    ring.donate(A, first + 6, 4, A, 1)
    ring.donate(A, first + 14, 4, A, 1)
    answer = peer.consent.handle_request(B, request_of(peer), told, 0.0)
    tokens = [entry.token - first for entry in peer.replica.codec.decode(answer.update).entries]
    assert tokens == [10, 192]


def test_an_entry_across_the_end_is_told_if_either_side_is_in_question() -> None:
    peer = Peer()
    first = peer.replica.universe.first
    peer.replica.ring = Ring(RING, peer.replica.universe)
    peer.replica.ring.join([Entry(first + 200, 100, B, 1, 1), Entry(first + 44, 156, D, 1, 1)])
    peer.reach()
    answer = peer.consent.handle_request(B, request_of(peer), [Entry(first + 10, 4, D, 1, 1)], 0.0)
    assert len(peer.replica.codec.decode(answer.update).entries) == 2


def test_an_entry_that_begins_before_what_is_in_question_and_reaches_into_it_is_told() -> None:
    peer = Peer()
    first = peer.replica.universe.first
    told = [Entry(first + 20, 4, D, 1, 1), Entry(first + 120, 4, D, 1, 1)]
    answer = peer.consent.handle_request(B, request_of(peer), told, 0.0)
    tokens = [entry.token - first for entry in peer.replica.codec.decode(answer.update).entries]
    assert tokens == [0, 64, 192]
