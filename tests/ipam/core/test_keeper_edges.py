"""What follows when the ring changes, by our own hand or by what others say."""

from __future__ import annotations

import math
from dataclasses import replace

from ipam.core.consent import _electorate_hash, _raw
from ipam.core.effects import Saved
from ipam.core.election import Consensus, Observer
from ipam.core.messages import (
    AddressRequest,
    Answer,
    ConsentAnswer,
    ConsentRequest,
    Consult,
    ConsultAnswer,
    SpaceRequest,
    Update,
)
from ipam.core.paxos import NO_BALLOT, Ballot, Vote
from ipam.core.ring import Entry, Fence
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import RING, A, B, C, Host, Said

F = peer_name(6)


def test_an_old_copy_of_ourself_is_found_out_and_writes_above_it() -> None:
    host = Host(2)
    (mine,) = host.ring.owned_by(A)
    said = host.tell(B, replace(mine, version=9, generation=7, owner=B))
    assert said.persist is not None
    assert [event.kind for event in said.persist.history] == ["lost"]
    assert "a later run of this peer" in host.warnings()[0]
    (theirs, *_) = host.ring.owned_by(B)
    host.tell(B, replace(theirs, version=99, owner=A))
    said = host.hear(B, SpaceRequest(1, RING, 0, 15, False))
    assert {entry.generation for update in said.told for entry in update.entries} == {8}


def test_writes_of_our_own_run_that_a_disk_lost_are_not_a_later_run() -> None:
    host = Host(2)
    (mine,) = host.ring.owned_by(A)
    said = host.tell(B, replace(mine, version=9, generation=1, owner=B))
    assert any("the last writes before its disk was lost" in line for line in said.logs)
    host = Host(2)
    host.tell(B, replace(mine, version=9, generation=2, owner=B))
    assert "a later run of this peer" in host.warnings()[0]


def test_who_was_taken_over_is_told_and_owns_nothing() -> None:
    host = Host(2)
    host.claim(1, 3)
    said = host.tell(B, fences={A: Fence(1, B)})
    assert said.persist is not None
    assert said.persist.ring is not None
    (event,) = said.persist.history
    assert (event.kind, event.addresses, event.peer) == ("taken-over", 8, "host2")
    assert "host2 took its addresses over" in host.warnings()[0]
    assert host.ipam.status(host.now).free == 0
    assert said.told[0].fences == {A: Fence(1, B)}
    assert said.passed_on[0] == B


def test_fences_on_others_are_passed_on_once_and_saved() -> None:
    host = Host(3)
    said = host.tell(B, fences={C: Fence(1, B)})
    assert [update.fences for update in said.told] == [{C: Fence(1, B)}]
    assert said.persist is not None
    assert said.persist.ring is not None
    assert said.persist.history == ()
    assert host.tell(B, fences={C: Fence(1, B)}).told == []
    again = Host(3, saved=Saved(said.persist.ring, ()), checked=False)
    assert all(update.hints for update in again.wait(5.0).told), "they were told before"
    assert host.ipam._consent.avoided(host.now) == []


def test_a_fence_that_is_heard_of_ends_what_was_promised() -> None:
    host = Host(3)
    promise_away(host)
    assert host.ipam._consent.avoided(host.now) == [C]
    host.tell(B, fences={C: Fence(1, B)})
    assert host.ipam._consent.avoided(host.now) == []


def test_what_a_fence_makes_ours_is_written_down_as_soon_as_the_check_is_over() -> None:
    host = Host(2, checked=False)
    host.tell(C, fences={B: Fence(1, A)})
    assert host.ring.inherited_by(A)
    said = host.wait(5.0)
    assert not host.ring.inherited_by(A)
    assert said.persist is not None
    assert [event.kind for event in said.persist.history] == ["took-over"]
    assert host.ring.owners() == {A: 16}
    told = [entry for update in said.told for entry in update.entries]
    assert [(entry.owner, entry.epoch) for entry in told] == [(A, 1)]


def test_that_another_takes_over_is_told_by_who_brought_it_to_its_end() -> None:
    host = Host(3)
    host.reach(B)
    ((_, first),) = host.do(host.ipam.take_over(1, C, False, 99.0, 5.0)).sent
    assert isinstance(first, ConsentRequest)
    accepted = (1, _raw(B), _raw(B), 1)
    ((_, second),) = host.hear(B, ConsentAnswer(first.id, True, "", "", 1, accepted, b"")).sent
    assert isinstance(second, ConsentRequest)
    said = host.hear(B, ConsentAnswer(second.id, True, "", "", 1, accepted, b""))
    assert [answer.text for answer in said.answers] == [
        "host3 is taken over: its addresses went to host2"
    ]
    assert said.persist is not None
    assert said.persist.ring is not None
    assert [update.fences for update in said.told] == [{C: Fence(1, B)}]
    assert host.ipam._consent.avoided(host.now) == []
    assert host.reach(B).persist is None, "it is on disk"


def promise_away(host: Host) -> Said:
    """Let it consent that the ranges of the last of three go to `B`."""
    electorate = _electorate_hash([A, B, C])
    update = host.codec.encode(Update(ring_id=RING))
    return host.hear(B, ConsentRequest(1, RING, _raw(C), 0, 1, electorate, b"", 0, update))


def test_a_promise_of_the_last_run_still_keeps_us_from_asking_for_what_was_promised_away() -> None:
    host = Host(3)
    said = promise_away(host)
    assert said.persist is not None
    assert host.claim(1, 12).sent == []
    assert host.reach(B).persist is None, "the promise is on disk"
    again = Host(3, saved=Saved(said.persist.ring, ()))
    again.reach(B, C)
    assert again.claim(1, 12).sent == []
    assert again.reason() == "host3 is just being taken over"
    later = again.wait(60.0).sent
    assert [peer for peer, message in later if isinstance(message, AddressRequest)] == [C]


def test_what_a_fence_made_ours_while_we_were_away_can_be_given_to_the_first_who_asks() -> None:
    host = Host(3, checked=False)
    host.reach(B)
    fenced = host.codec.encode(Update(ring_id=RING, fences={C: Fence(1, A)}))
    host.hear(B, ConsultAnswer(1, fenced))
    said = host.hear(B, SpaceRequest(1, RING, 11, 4, False))
    (answer,) = [message for _, message in said.sent if isinstance(message, Answer)]
    assert answer.granted


def test_a_ring_that_is_heard_of_is_taken_up_checked_and_saved() -> None:
    host = Host(0)
    host.reach(B)
    said = host.tell(B, Entry(host.first, 8, A, 1, 1), Entry(host.first + 8, 8, B, 1, 1))
    assert said.persist is not None
    assert said.persist.ring is not None
    assert [(event.kind, event.peer) for event in said.persist.history] == [("adopted", B)]
    assert said.sent == [(B, Consult(1, host.ipam.digest()))]
    assert host.allocate(1).answers == []


def test_a_ring_that_was_agreed_on_is_saved_and_told() -> None:
    host = Host(0, init=Consensus(1), expects_peers=False)
    said = host.allocate(1)
    assert said.persist is not None
    (event,) = said.persist.history
    assert (event.kind, event.addresses, event.reason) == (
        "ring-made",
        16,
        "1 peers agreed on it",
    )
    assert [len(update.entries) for update in said.told][-1] == 1
    assert "the first ring was agreed on by 1 peers" in said.logs
    assert said.answers[0].address == host.first + 1


def test_an_observer_does_not_take_up_what_was_decided_by_votes() -> None:
    host = Host(0, init=Observer())
    vote = Vote(Ballot(1, B), NO_BALLOT, None)
    assert host.gossip(B, Update(votes={B: vote})).told != []
    assert host.ipam.ring is None


def test_of_several_writes_one_that_touches_ours_is_enough() -> None:
    host = Host(3)
    free = host.ipam.status(host.now).free
    (b,) = host.ring.owned_by(B)
    host.tell(C, replace(b, version=2), Entry(host.first + 2, 2, C, 1, 1))
    assert host.ipam.status(host.now).free == free - 2


def test_the_latest_of_several_lost_writes_tells_whether_a_later_run_wrote_them() -> None:
    host = Host(2)
    (mine,) = host.ring.owned_by(A)
    parts = [replace(mine, version=2, size=4), Entry(host.first + 4, 4, A, 1, 1)]
    host.tell(B, *parts)
    lost = [replace(one, version=9, owner=B) for one in parts]
    host.tell(B, lost[0], replace(lost[1], generation=7))
    assert "2 ranges" in host.warnings()[0]
    assert "a later run of this peer" in host.warnings()[0]


def test_a_contradiction_that_touches_ours_is_frozen_at_once_and_one_elsewhere_is_not() -> None:
    host = Host(3)
    free = host.ipam.status(host.now).free
    (b,) = host.ring.owned_by(B)
    host.tell(C, Entry(b.token + 2, 2, C, 1, 1))
    assert host.ipam.status(host.now).free == free
    host.tell(C, Entry(host.first + 2, 2, C, 1, 1))
    assert host.ipam.status(host.now).free == free - 2


def test_what_was_frozen_for_want_of_news_is_free_again_when_the_news_comes() -> None:
    host = Host(3)
    free = host.ipam.status(host.now).free
    (c,) = host.ring.owned_by(C)
    host.tell(B, replace(c, version=2, size=c.size + 2))  # reaches round the circle into ours
    assert host.ipam.status(host.now).free == free - 2
    host.tell(B, replace(c, version=3))
    assert host.ipam.status(host.now).free == free


def test_what_others_wrote_is_saved_a_second_later_and_what_concerns_us_at_once() -> None:
    host = Host(3)
    host.wait(20.0)
    (b,) = host.ring.owned_by(B)
    said = host.tell(C, replace(b, version=2))
    assert said.persist is None
    assert host.deadline() == (host.now + 1.0, "news to save")
    host.now += 0.5
    host.tell(C, replace(b, version=3))
    assert host.deadline() == (host.now + 0.5, "news to save")
    assert host.wait(0.4).persist is None
    said = host.wait(0.1)
    assert said.persist is not None
    assert said.persist.ring is not None
    assert host.deadline()[0] == math.inf
    (a,) = host.ring.owned_by(A)
    for news in (replace(a, version=9, owner=B), replace(b, version=9, owner=A)):
        said = host.tell(C, news)
        assert said.persist is not None
        assert said.persist.ring is not None
        assert host.deadline()[1] != "news to save"
    assert host.tell(C, replace(b, version=9, owner=A)).persist is None, "no news"


def neighbouring(**options: object) -> Host:
    """It owns two neighbouring entries, and all owners can be reached."""
    host = Host(2, **options)  # type: ignore[arg-type]
    host.wait(10.0)
    host.reach(B)
    (theirs,) = host.ring.owned_by(B)
    given = Entry(theirs.token, 4, A, 2, 1)
    host.tell(B, given, Entry(theirs.token + 4, 4, B, 1, 1))
    host.wait(10.0)
    return host


def test_neighbouring_ranges_of_ours_are_merged_saved_and_told() -> None:
    host = neighbouring()
    assert host.deadline()[0] == host.now + 20.0
    said = host.wait(20.0)
    assert said.persist is not None
    assert said.persist.ring is not None
    assert [event.kind for event in said.persist.history] == ["merged"]
    told = [entry for update in said.told for entry in update.entries]
    assert [(entry.token, entry.size, entry.level) for entry in told] == [(host.first, 12, 1)]
    assert len(host.ring) == 2


def test_who_leaves_or_has_no_disk_merges_nothing() -> None:
    broken, leaving = neighbouring(), neighbouring()
    broken.do(broken.ipam.handle_disk("full", broken.now))
    leaving.do(leaving.ipam.hand_over(B, leaving.now))
    for host in (broken, leaving):
        entries = host.ring.entries()
        host.wait(20.0)
        host.wait(30.0)
        assert host.ring.entries() == entries
    broken.do(broken.ipam.handle_disk("", broken.now))
    broken.wait(30.0)
    assert len(broken.ring) == 2


def test_when_another_takes_over_it_is_asked_at_once_for_what_was_waited_for() -> None:
    host = Host(3)
    nothing = host.codec.encode(Update(ring_id=RING))
    for number in range(1, 6):
        host.claim(number, number, f"c{number}")
    host.reach(B)
    said = host.allocate(9, "late")
    for _ in range(2):
        ((peer, ask),) = said.sent
        assert peer == B
        assert isinstance(ask, SpaceRequest)
        said = host.hear(B, Answer(ask.id, False, "no-space", "none", nothing))
    assert "waiting for host3" in host.reason()
    ((_, first),) = host.do(host.ipam.take_over(10, C, False, 99.0, host.now)).sent
    assert isinstance(first, ConsentRequest)
    accepted = (1, _raw(B), _raw(B), 1)
    ((_, second),) = host.hear(B, ConsentAnswer(first.id, True, "", "", 1, accepted, b"")).sent
    assert isinstance(second, ConsentRequest)
    said = host.hear(B, ConsentAnswer(second.id, True, "", "", 1, accepted, b""))
    assert [peer for peer, message in said.sent if isinstance(message, SpaceRequest)] == [B]
