"""What each message does to one peer, and what is answered."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from ipam.core.consent import _electorate_hash, _raw
from ipam.core.effects import HistoryEvent, LogLine
from ipam.core.election import Consensus
from ipam.core.messages import (
    AddressRequest,
    Answer,
    ConsentAnswer,
    ConsentRequest,
    Consult,
    ConsultAnswer,
    HandOver,
    HandOverDone,
    Repair,
    SpaceRequest,
    Update,
)
from ipam.core.paxos import NO_BALLOT, Ballot, Vote
from ipam.core.ring import Entry, Fence
from tests.ipam.core.parts import RING, A, B, C, D, Host, Said, replica_without_ring

ASK = SpaceRequest(1, RING, 0, 15, False)


def answer_in(said: Said) -> Answer:
    (answer,) = [message for _, message in said.sent if isinstance(message, Answer)]
    return answer


def theirs(host: Host, owner: str = B) -> Entry:
    (entry,) = host.ring.owned_by(owner)  # type: ignore[arg-type]
    return entry


def sorted_by_token(host: Host, update: bytes) -> list[Entry]:
    return sorted(host.codec.decode(update).entries, key=lambda one: one.token)


# --- asks for space --------------------------------------------------------------------------


@pytest.mark.parametrize("message", [ASK, AddressRequest(1, RING, 4)], ids=["space", "address"])
def test_what_is_given_is_on_disk_told_to_all_and_to_the_taker(
    message: SpaceRequest | AddressRequest,
) -> None:
    host = Host()
    said = host.hear(B, message)
    answer = answer_in(said)
    assert answer.granted
    assert said.persist is not None
    assert said.persist.ring is not None
    told = host.codec.decode(answer.update).entries
    assert [entry.owner for entry in told if entry.owner == B] == [B]
    (update,) = said.told
    assert update.entries == told
    assert said.passed_on == [None]
    (event,) = said.persist.history
    given = [entry.size for entry in told if entry.owner == B]
    assert (event.kind, event.addresses, event.peer) == ("donated", given[0], "host2")
    assert host.ipam.status(host.now).free == 8 - given[0]


def test_a_refusal_changes_nothing_and_says_why() -> None:
    host = Host()
    host.claim(1, 4)
    said = host.hear(B, AddressRequest(1, RING, 4))
    answer = answer_in(said)
    assert (answer.granted, answer.kind, said.persist, said.told) == (False, "in-use", None, [])


def test_who_has_another_ring_or_none_gets_nothing() -> None:
    for host in (Host(), Host(0)):
        answer = answer_in(host.hear(B, SpaceRequest(1, b"another!", 0, 15, False)))
        assert (answer.id, answer.granted, answer.kind) == (1, False, "foreign")
    assert answer_in(Host(0).hear(B, SpaceRequest(1, b"", 0, 15, False))).kind == "foreign"


def test_who_is_restarting_leaving_or_without_a_disk_is_busy() -> None:
    restarting, leaving, broken = Host(checked=False), Host(), Host()
    leaving.do(leaving.ipam.hand_over(C, leaving.now))
    broken.do(broken.ipam.handle_disk("full", broken.now))
    for host in (restarting, leaving, broken):
        answer = answer_in(host.hear(B, ASK))
        assert (answer.granted, answer.kind) == (False, "busy")


def test_what_we_are_given_is_noted_with_who_gave_it_and_why() -> None:
    host = Host()
    entry = theirs(host)
    given, rest = Entry(entry.token + 4, 4, A, 1, 1), replace(entry, version=2, size=4)
    update = host.codec.encode(Update(ring_id=RING, entries=[rest, given]))
    said = host.hear(B, Answer(7, True, "", "", update))
    assert said.persist is not None
    assert said.persist.history == (
        HistoryEvent("received", ("10.32.0.12-10.32.0.15",), 4, "host2", "we asked for space"),
    )
    assert said.persist.ring is not None
    assert host.ipam.status(host.now).free == 12
    other = Host()
    said = other.tell(B, rest, given)
    assert said.persist is not None
    assert said.persist.history[0].peer == ""
    assert said.persist.history[0].reason == "by gossip"


# --- what do you know that I do not --------------------------------------------------------------


def test_who_asks_is_told_what_it_lacks() -> None:
    host = Host()
    equal = host.hear(B, Consult(3, host.ipam.digest()))
    assert equal.sent == [(B, ConsultAnswer(3, b"", b""))]
    ((peer, answer),) = host.hear(B, Consult(4, b"V")).sent
    assert peer == B
    assert isinstance(answer, ConsultAnswer)
    assert sorted_by_token(host, answer.update) == host.ring.entries()


def test_without_a_disk_nobody_is_told_anything() -> None:
    host = Host()
    host.do(host.ipam.handle_disk("full", host.now))
    assert host.hear(B, Consult(4, b"V")).sent == []
    assert host.hear(B, Repair(b"", [(at, 0) for at in range(64)])).sent == []
    assert host.ipam.answer(b"V") is None
    host.do(host.ipam.handle_disk("", host.now))
    assert host.ipam.answer(b"V") is not None


def test_who_returns_is_told_to_whom_its_ranges_may_have_gone() -> None:
    host = Host(3)
    electorate = _electorate_hash([A, B, C])
    step = ConsentRequest(1, RING, _raw(C), 0, 1, electorate, b"", 0, update_of(host))
    assert consent_in(host.hear(B, step)).granted
    accept = ConsentRequest(1, RING, _raw(C), 0, 1, electorate, _raw(B), 1, update_of(host))
    said = host.hear(B, accept)
    assert consent_in(said).granted
    assert said.persist is not None
    assert said.persist.ring is not None, "a promise is on disk before it is told"
    ((_, answer),) = host.hear(C, Consult(1, host.ipam.digest())).sent
    assert answer == ConsultAnswer(1, b"", _raw(B))
    ((_, answer),) = host.hear(B, Consult(1, host.ipam.digest())).sent
    assert answer == ConsultAnswer(1, b"", b"")


def update_of(host: Host, *entries: Entry) -> bytes:
    return host.codec.encode(Update(ring_id=RING, entries=entries))


def consent_in(said: Said) -> ConsentAnswer:
    (answer,) = [message for _, message in said.sent if isinstance(message, ConsentAnswer)]
    return answer


def test_an_answer_to_our_question_ends_the_check_after_a_restart() -> None:
    host = Host(checked=False)
    said = host.reach(B)
    assert said.sent == [(B, Consult(1, host.ipam.digest()))]
    entry = replace(theirs(host), version=2, owner=C)
    said = host.hear(B, ConsultAnswer(1, update_of(host, entry)))
    assert host.ring.owned_by(C) == [entry]
    assert "the address ring is up to date, as far as anyone tells" in said.logs
    assert host.allocate(1).answers[0].address == host.first + 1


def test_a_promise_to_another_holds_the_check_up_unless_the_outcome_is_known() -> None:
    host = Host(checked=False)
    host.reach(B)
    host.hear(B, ConsultAnswer(1, b"", _raw(C)))
    assert host.allocate(1).answers == []
    assert "this host was declared dead" in host.reason()
    host.tell(B, fences={A: Fence(1, C)})
    host.hear(B, ConsultAnswer(1, b"", _raw(C)))
    assert "this host was declared dead" not in host.reason()


def test_a_repair_is_answered_with_what_is_wanted_and_was_not_told() -> None:
    host = Host()
    everything = [(bucket, at) for bucket in range(64) for at in range(64)]
    mine, other = host.ring.entries()
    ((peer, answer),) = host.hear(B, Repair(update_of(host, other), everything)).sent
    assert peer == B
    assert isinstance(answer, Repair)
    assert answer.wanted == []
    assert host.codec.decode(answer.update).entries == [mine]
    assert host.hear(B, Repair(update_of(host, mine, other), everything)).sent == []
    assert host.hear(B, Repair(b"?", everything)).sent == []


def test_a_finer_digest_is_answered_with_a_repair() -> None:
    host = Host()
    slices = dict.fromkeys(range(64), b"\x01" * 256)
    ((peer, answer),) = host.tell(B, slices=slices).sent
    assert peer == B
    assert isinstance(answer, Repair)
    assert len(answer.wanted) == 64 * 64
    assert sorted_by_token(host, answer.update) == host.ring.entries()
    mine = {bucket: host.ipam._replica._slices(bucket) for bucket in range(64)}
    assert host.tell(B, slices=mine).sent == []
    host.do(host.ipam.handle_disk("full", host.now))
    assert host.tell(B, slices=slices).sent == []


def test_who_has_more_to_tell_is_asked_for_it_as_long_as_it_tells_something_new() -> None:
    host = Host()
    entry = replace(theirs(host), version=2)
    said = host.tell(B, entry, more=True)
    assert said.sent == [(B, Consult(0, host.ipam.digest()))]
    assert host.tell(B, entry, more=True).sent == []
    assert host.tell(B, replace(entry, version=3)).sent == []


def test_who_speaks_as_if_there_were_no_ring_is_told_it_once_in_two_seconds() -> None:
    host = Host()
    votes = Update(votes={B: Vote(Ballot(1, B), NO_BALLOT, None)})
    assert host.gossip(B, votes).sent == [], "it cannot be reached"
    host.reach(B)
    ((peer, message),) = host.gossip(B, votes).sent
    assert peer == B
    assert isinstance(message, Repair)
    assert sorted_by_token(host, message.update) == host.ring.entries()
    host.now += 1.9
    host.reach(B, C)
    assert host.gossip(B, votes).sent == []
    host.now += 0.1
    assert len(host.gossip(B, votes).sent) == 1
    host.reach()
    host.reach(B)
    assert len(host.gossip(B, votes).sent) == 1, "it was away"
    assert host.tell(B).sent == [], "it speaks of the ring"
    assert Host(0).gossip(B, votes).sent == []


def test_without_a_disk_nobody_is_told_that_there_is_a_ring() -> None:
    host = Host()
    host.reach(B)
    host.do(host.ipam.handle_disk("full", host.now))
    assert host.gossip(B, Update()).sent == []
    host.do(host.ipam.handle_disk("", host.now))
    assert len(host.gossip(B, Update()).sent) == 1


# --- leaving ---------------------------------------------------------------------------------


def test_what_is_handed_over_is_on_disk_before_it_is_confirmed() -> None:
    host = Host()
    entry = replace(theirs(host), version=2, owner=A)
    said = host.hear(B, HandOver(3, update_of(host, entry)))
    assert said.sent == [(B, HandOverDone(3))]
    assert said.persist is not None
    assert said.persist.ring is not None
    (event,) = said.persist.history
    assert (event.kind, event.peer) == ("received", "host2")
    assert event.reason == "it left and handed its ranges over"
    again = host.hear(B, HandOver(3, update_of(host, entry)))
    assert again.sent == [(B, HandOverDone(3))]
    assert again.persist is not None


def test_a_hand_over_is_repeated_every_second_until_its_heir_has_confirmed_it() -> None:
    host = Host()
    said = host.do(host.ipam.hand_over(B, host.now))
    assert said.persist is not None
    (event,) = said.persist.history
    assert (event.kind, event.addresses, event.peer) == ("handed-over", 8, "host2")
    assert [entry.owner for entry in said.told[0].entries] == [B]
    assert host.ipam.next_deadline().at == host.now
    ((peer, message),) = host.wait(0.0).sent
    assert peer == B
    assert isinstance(message, HandOver)
    assert host.codec.decode(message.update).entries == said.told[0].entries
    assert host.ipam.next_deadline().at == host.now + 1.0
    assert host.wait(0.9).sent == []
    assert host.wait(0.1).sent == [(B, message)]
    host.hear(C, HandOverDone(message.id))
    host.hear(B, HandOverDone(message.id + 1))
    assert not host.ipam.handed_over
    assert host.wait(1.0).sent == [(B, message)]
    host.hear(B, HandOverDone(message.id))
    assert host.ipam.handed_over
    assert host.ipam.next_deadline().reason != "the hand-over is not confirmed"
    assert host.wait(1.0).sent == []


def test_what_a_fence_made_ours_is_handed_over_even_before_the_check_is_over() -> None:
    host = Host(2, checked=False)
    host.tell(C, fences={B: Fence(1, A)})
    said = host.do(host.ipam.hand_over(C, host.now))
    assert host.ring.owners() == {C: 16}
    assert sorted((entry.owner, entry.epoch) for entry in said.told[0].entries) == [(C, 0), (C, 1)]


def test_who_owns_nothing_has_handed_over_at_once() -> None:
    for host in (Host(0), Host(1)):
        if host.ipam.ring is not None:
            host.tell(B, Entry(host.first, 16, B, 9, 1))
        host.do(host.ipam.hand_over(B, host.now))
        assert host.ipam.handed_over
        assert host.wait(1.0).sent == []


def test_who_does_not_leave_hands_nothing_over_whatever_is_confirmed() -> None:
    host = Host()
    host.hear(B, HandOverDone(1))
    assert not host.ipam.handed_over
    assert host.wait(1.0).sent == []


# --- take-overs ------------------------------------------------------------------------------


def ask_of(host: Host, electorate: list[str], update: bytes | None = None) -> ConsentRequest:
    update = update_of(host) if update is None else update
    return ConsentRequest(
        1,
        RING,
        _raw(C),
        0,
        1,
        _electorate_hash(electorate),
        b"",
        0,
        update,  # type: ignore[arg-type]
    )


def test_who_is_restarting_or_without_a_disk_or_not_understood_gets_no_consent() -> None:
    restarting, broken, deaf = Host(3, checked=False), Host(3), Host(3)
    broken.do(broken.ipam.handle_disk("full", broken.now))
    for host, update in ((restarting, None), (broken, None), (deaf, b"?")):
        answer = consent_in(host.hear(B, ask_of(host, [A, B, C], update)))
        assert answer == ConsentAnswer(1, False, "busy", answer.error, 0, None, b"")


def test_who_knows_other_owners_is_asked_what_it_knows() -> None:
    host = Host(3)
    said = host.hear(B, ask_of(host, [A, B, C, D]))
    assert consent_in(said).kind == "stale"
    assert (B, Consult(0, host.ipam.digest())) in said.sent
    assert len(host.hear(B, ask_of(host, [A, B, C])).sent) == 1


def test_what_an_asker_knows_of_the_ranges_is_merged_before_the_vote() -> None:
    host = Host(3)
    news = replace(theirs(host, C), version=2, size=4)
    rest = Entry(news.token + 4, 1, D, 1, 1)
    said = host.hear(B, ask_of(host, [A, B, C, D], update_of(host, news, rest)))
    answer = consent_in(said)
    assert answer.granted
    assert news in host.codec.decode(answer.update).entries


def test_an_answer_to_a_take_over_is_merged_and_a_stale_one_asks_for_more() -> None:
    host = Host(3)
    host.reach(B)
    said = host.do(host.ipam.take_over(1, C, False, host.now + 10, host.now))
    ((_, request),) = said.sent
    assert isinstance(request, ConsentRequest)
    news = replace(theirs(host, C), version=2)
    stale = ConsentAnswer(request.id, False, "stale", "", 1, None, update_of(host, news))
    said = host.hear(B, stale)
    assert host.ring.owned_by(C) == [news]
    assert said.sent == [(B, Consult(0, host.ipam.digest()))]
    granted = ConsentAnswer(request.id, True, "", "", 1, None, b"")
    assert all(not isinstance(message, Consult) for _, message in host.hear(B, granted).sent)


# --- what is not for us ----------------------------------------------------------------------


def test_of_what_makes_no_sense_each_doubling_is_logged() -> None:
    host = Host()
    logged = []
    for number in range(1, 17):
        effects = (
            host.ipam.handle_gossip(B, b"?", host.now)
            if number % 2
            else host.ipam.handle_unicast(B, b"?", host.now)
        )
        if host.do(effects).logs:
            logged.append(number)
    assert logged == [1, 2, 4, 8, 16]
    for _ in range(15):
        host.ipam.handle_gossip(B, b"?", host.now)
    (line,) = host.ipam.handle_gossip(B, b"?", host.now)
    assert isinstance(line, LogLine)
    assert line.fields == (("peer", B), ("count", "32"))


def test_who_lives_with_another_range_or_ring_is_warned_of_once_and_until_it_is_gone() -> None:
    host = Host()
    host.reach(B, C)
    data = replica_without_ring("10.99.0.0/28").codec.encode(Update())
    assert "range 10.99.0.0/28" in host.do(host.ipam.handle_gossip(B, data, host.now)).logs[0]
    assert host.do(host.ipam.handle_gossip(B, data, host.now)).logs == []
    foreign_ring = Update(ring_id=b"another!", entries=[Entry(host.first, 16, C, 1, 1)])
    assert len(host.gossip(C, foreign_ring).logs) == 1
    assert host.gossip(C, foreign_ring).logs == []
    assert host.ipam.foreigners() == [B, C]
    assert len(host.warnings()) == 2
    host.reach(B)
    assert host.ipam.foreigners() == [B]
    assert len(host.warnings()) == 1


def test_votes_go_to_the_opener_alone_if_it_can_be_reached() -> None:
    host = Host(0, init=Consensus(3), expects_peers=False)
    host.reach(B)
    opened = Update(votes={B: Vote(Ballot(1, B), NO_BALLOT, None)})
    said = host.gossip(B, opened)
    ((peer, message),) = said.sent
    assert peer == B
    assert isinstance(message, Repair)
    assert list(host.codec.decode(message.update).votes) == [A]
    assert said.persist is not None
    assert said.persist.ring is not None, "a vote is on disk before it is told"
    assert [list(update.votes) for update in said.told] == [[B]], "everyone hears of the opener"
    assert said.passed_on == [B]
    host.reach(C)
    said = host.gossip(C, Update(votes={B: Vote(Ballot(2, B), NO_BALLOT, None)}))
    assert said.sent == []
    assert sorted(peer for update in said.told for peer in update.votes) == [A, B]
    follower = Update(votes={C: Vote(Ballot(2, B), NO_BALLOT, None)})
    assert host.gossip(C, follower).told == [], "who follows matters to the opener alone"


def test_random_bytes_do_no_harm() -> None:
    host = Host()
    rng = Random(1)
    before = host.ipam.digest()
    for _ in range(50):
        host.do(host.ipam.handle_unicast(B, rng.randbytes(20), host.now))
    assert host.ipam.digest() == before
