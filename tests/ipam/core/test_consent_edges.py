"""The asker and the voter of a take-over, each alone with what it is told, step by step."""

from __future__ import annotations

import math
from dataclasses import replace
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
    is_majority,
)
from ipam.core.effects import AnswerRequest
from ipam.core.messages import ConsentAnswer, ConsentRequest
from ipam.core.promise import Promise
from ipam.core.ring import Entry, Fence, Ring
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import RING, A, B, C, D, E, replica_of, replica_without_ring
from weavepy.base.names import PeerName


class Peer:
    """One side of take-overs; `A` unless said otherwise, in a ring of four equal shares."""

    def __init__(self, owners: int = 4, *reachable: PeerName, seed: int = 1) -> None:
        self.replica = replica_of(owners)
        self.sent: list[tuple[PeerName, ConsentRequest]] = []
        self.consent = Consent(self.replica, Random(seed), self._keep)
        self.reach(*(reachable or (B, C)))

    def _keep(self, peer: PeerName, message: ConsentRequest | ConsentAnswer) -> None:
        assert isinstance(message, ConsentRequest)
        self.sent.append((peer, message))

    def reach(self, *peers: PeerName, sessions: tuple[PeerName, ...] = ()) -> None:
        self.consent.handle_peers(dict.fromkeys(peers), dict.fromkeys([*peers, *sessions]))

    def ask(self, now: float = 0.0, *, force: bool = False, dead: PeerName = D) -> None:
        self.consent.ask(1, dead, force, now + 10.0, now)

    def work(self, now: float) -> AnswerRequest | None:
        answers = self.consent.work(now)
        assert len(answers) <= 1
        return answers[0] if answers else None

    def requests(self) -> dict[PeerName, ConsentRequest]:
        """Return what was asked since the last call."""
        found = dict(self.sent)
        assert len(found) == len(self.sent), "nobody is asked twice at once"
        self.sent.clear()
        return found

    def answer(
        self,
        source: PeerName,
        request: ConsentRequest,
        kind: str = "",
        *,
        round: int = 1,
        accepted: tuple[int, PeerName, PeerName, int] | None = None,
        now: float = 0.0,
    ) -> None:
        before = accepted and (accepted[0], _raw(accepted[1]), _raw(accepted[2]), accepted[3])
        answer = ConsentAnswer(request.id, not kind, kind, "it says so", round, before, b"")
        self.consent.handle_answer(source, answer, now)

    def owners(self) -> dict[PeerName, int]:
        assert self.replica.ring is not None
        return self.replica.ring.owners()


def refusal(answer: AnswerRequest | None) -> tuple[str, str]:
    assert answer is not None
    assert answer.error is not None
    return answer.kind, answer.error


# --- asking ----------------------------------------------------------------------------------


def test_a_take_over_from_the_first_question_to_the_end() -> None:
    peer = Peer()
    peer.ask()
    assert peer.consent.next_at() == 0.0
    assert peer.work(0.0) is None
    first = peer.requests()
    assert list(first) == [B, C]
    assert replace_id(first[B]) == ConsentRequest(
        0,
        b"12345678",
        _raw(D),
        0,
        1,
        _electorate_hash([A, B, C, D]),
        b"",
        0,
        peer.replica.encode_entries(peer.replica.ring.owned_by(D)),  # type: ignore[union-attr]
    )
    assert peer.consent.next_at() == 2.0
    for voter in (B, C):
        peer.answer(voter, first[voter])
    assert peer.work(0.5) is None
    second = peer.requests()
    assert list(second) == [B, C]
    assert (second[B].taker, second[B].epoch, second[B].round) == (_raw(A), 1, 1)
    assert second[B].id == first[B].id + 1
    assert peer.consent.next_at() == 2.5
    assert peer.work(0.55) is None, "what was promised is not accepted yet"
    peer.consent.changed = False
    peer.answer(B, second[B])
    answer = peer.work(0.6)
    assert answer == AnswerRequest(
        1, None, None, text="host4 is taken over: its addresses went to this host"
    )
    assert peer.consent.changed
    assert peer.owners() == {A: 128, B: 64, C: 64}
    assert peer.replica.fences == {D: Fence(1, A)}
    assert not peer.consent.under_way
    assert peer.consent.next_at() == math.inf


def replace_id(request: ConsentRequest) -> ConsentRequest:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return ConsentRequest(**{**fields, "id": 0})


def test_numbers_of_questions_begin_anywhere() -> None:
    numbers = []
    for seed in range(40):
        peer = Peer(seed=seed)
        peer.ask()
        peer.work(0.0)
        numbers.append(peer.requests()[B].id)
    assert len(set(numbers)) == 40
    assert 2**31 < max(numbers) <= 2**32


def test_when_enough_have_consented_the_others_have_a_second_to_object() -> None:
    peer = Peer()
    peer.ask(10.0)
    peer.work(10.0)
    first = peer.requests()
    peer.answer(B, first[B], now=10.2)
    assert peer.work(10.2) is None
    assert peer.consent.next_at() == 11.0
    assert peer.work(10.9) is None
    assert not peer.requests()
    assert peer.work(11.0) is None
    assert list(peer.requests()) == [B]
    assert peer.consent.next_at() == 13.0


def test_who_was_not_heard_is_named_in_the_outcome() -> None:
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    peer.answer(B, peer.requests()[B])
    peer.work(1.0)
    peer.answer(B, peer.requests()[B])
    answer = peer.work(1.1)
    assert answer is not None
    assert "; host3 could not be asked" in answer.text


def test_who_has_refused_is_not_waited_for() -> None:
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    peer.answer(B, first[B])
    peer.answer(C, first[C], "busy")
    peer.work(0.1)
    assert list(peer.requests()) == [B]


def test_half_without_the_lowest_name_is_not_enough() -> None:
    peer = Peer(4, B, C)
    peer.ask(dead=A)
    kind, error = refusal(peer.work(0.0))
    assert (kind, error.split(":")[0]) == ("usage", "this host cannot take itself over")
    assert not is_majority({C: None, D: None}, [A, B, C, D])
    assert is_majority({A: None, D: None}, [A, B, C, D])
    assert is_majority({B: None, C: None, D: None}, [A, B, C, D])
    assert not is_majority({}, [])
    assert is_majority({A: None, B: None}, [A, B, C])
    assert not is_majority({A: None}, [A, B, C])


def test_those_who_own_nothing_may_object_but_do_not_count() -> None:
    peer = Peer(4, B, PeerName("zz"))
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    assert list(first) == [B, "zz"]
    peer.answer(PeerName("zz"), first[PeerName("zz")])
    assert peer.work(1.0) is None
    assert not peer.requests()
    peer.answer(PeerName("zz"), first[PeerName("zz")], "alive")
    assert refusal(peer.work(1.1))[0] == "alive"


def test_a_ballot_that_comes_to_nothing_is_followed_by_a_higher_one() -> None:
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    old = peer.requests()
    assert peer.work(1.9) is None
    assert not peer.requests()
    assert peer.work(2.0) is None
    second = peer.requests()
    assert second[B].round == 2
    assert peer.consent.next_at() == 4.0
    peer.answer(B, old[B])
    peer.answer(C, old[C])
    assert peer.work(2.1) is None
    assert not peer.requests(), "answers to the ballot before do not count"


def test_a_new_ballot_counts_nothing_of_the_one_before() -> None:
    peer = Peer(5, B, C, E)
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    peer.answer(B, first[B])
    peer.answer(C, first[C], "busy", now=1.9)
    peer.work(2.0)
    second = peer.requests()
    peer.answer(E, second[E])
    assert peer.work(3.5) is None
    assert not peer.requests(), "two of five have promised this one"
    peer.work(4.0)
    third = peer.requests()
    peer.answer(E, third[E])
    peer.answer(B, third[B])
    assert peer.work(4.1) is None
    assert not peer.requests(), "host3 has not answered this one"
    assert peer.consent.next_at() == 5.0


def test_a_value_that_nobody_accepts_in_time_is_followed_by_a_new_ballot() -> None:
    peer = Peer()
    peer.ask()
    numbers = []
    for round in (1, 2):
        now = 2.0 * round
        peer.work(now)
        first = peer.requests()
        assert (first[B].taker, first[B].round) == (b"", round)
        for voter in (B, C):
            peer.answer(voter, first[voter])
        peer.work(now)
        second = peer.requests()
        assert second[B].taker == _raw(A)
        numbers += [first[B].id, second[B].id]
    assert len(set(numbers)) == 4


def test_a_ballot_whose_majority_is_gone_waits_for_the_next() -> None:
    peer = Peer()
    ring = peer.replica.ring
    assert ring is not None
    peer.ask()
    peer.work(0.0)
    peer.answer(B, peer.requests()[B])
    peer.work(0.1)
    assert peer.consent.next_at() == 1.0
    ring.donate(B, ring.ranges_of(B)[0].start, 1, E, 1)
    peer.work(1.0)
    assert not peer.requests(), "two of five"
    peer.work(2.0)
    assert peer.requests()
    assert peer.consent.next_at() == 4.0


def test_while_the_others_have_their_second_no_new_ballot_is_opened() -> None:
    stranger = peer_name(77)
    peer = Peer(4, B, C, stranger)
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    peer.answer(stranger, first[stranger], "busy", now=0.0)
    assert 0.2 <= peer.consent.next_at() < 0.7
    peer.answer(B, first[B])
    peer.work(0.15)
    assert peer.consent.next_at() == 1.0
    peer.work(0.95)
    assert not peer.requests()


def test_the_first_of_several_that_is_due_counts() -> None:
    peer = Peer(4, B)
    peer.consent.ask(1, C, False, 10.0, 0.0)
    peer.consent.work(0.0)
    peer.consent.ask(2, D, False, 11.0, 1.0)
    peer.consent.work(1.0)
    assert peer.consent.next_at() == 2.0


def test_whoever_owns_everything_has_no_majority_without_it() -> None:
    peer = Peer(4)
    assert peer.replica.ring is not None
    peer.replica.ring.join([Entry(peer.replica.universe.first, 256, D, 9, 1, epoch=1)])
    peer.ask()
    kind, error = refusal(peer.work(0.0))
    assert kind == "no-majority"
    assert error.startswith("0 of 1 peers needed")


def test_of_many_who_were_not_heard_eight_are_named() -> None:
    peer = Peer(4, B, C, *(peer_name(number) for number in range(20, 40)))
    ring = peer.replica.ring
    assert ring is not None
    for number in range(20, 40):
        start = ring.ranges_of(B)[0].start
        ring.donate(B, start, 1, peer_name(number), 1)
    peer.ask()
    peer.work(0.0)
    for _ in range(2):
        requests = peer.requests()
        for number in range(20, 32):
            peer.answer(peer_name(number), requests[peer_name(number)])
        answer = peer.work(1.0)
    assert answer is not None
    names = answer.text.split("; ")[1].split(" could not")[0]
    assert len(names.split(", ")) == 8


def test_all_hosts_count_the_same_electorate_alike() -> None:
    assert _electorate_hash([A, B]).hex() == "461921b0d3e6f8ea"


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


def test_the_next_ballot_is_higher_than_any_that_a_voter_has_promised() -> None:
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    peer.answer(B, first[B], "outbid", round=7)
    peer.answer(C, first[C], "outbid", round=5)
    peer.work(2.0)
    assert peer.requests()[B].round == 8


def test_the_next_ballot_is_higher_than_what_we_have_promised_to_another() -> None:
    peer = Peer()
    peer.replica.promises[D] = Promise(0, (4, str(B)))
    peer.ask()
    peer.work(0.0)
    assert peer.requests()[B].round == 5


@pytest.mark.parametrize("kind", ["stale", "outbid", "busy"])
def test_after_a_refusal_that_may_pass_another_ballot_follows_soon_but_at_random(kind: str) -> None:
    times = set()
    for seed in range(9):
        peer = Peer(seed=seed)
        peer.ask()
        peer.work(0.0)
        peer.answer(B, peer.requests()[B], kind, now=0.3)
        at = peer.consent.next_at()
        assert 0.5 <= at <= 0.9
        times.add(at)
    assert len(times) == 9
    assert max(times) > 0.75


def test_no_ballot_follows_sooner_than_a_moment_after_the_last_began_nor_later_than_without() -> (
    None
):
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    peer.answer(B, first[B], "foreign", now=0.3)
    assert peer.consent.next_at() == 2.0
    peer.answer(B, first[B], "busy", now=1.9)
    assert peer.consent.next_at() == 2.0
    peer.answer(B, first[B], "busy", now=-5.0)
    assert peer.consent.next_at() == 0.2


def test_one_that_sees_it_alive_ends_the_request() -> None:
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    peer.answer(B, first[B])
    peer.answer(C, first[C], "alive")
    kind, error = refusal(peer.work(0.1))
    assert kind == "alive"
    assert error.startswith("host3 still sees host4 alive")
    assert not peer.consent.under_way


def test_who_is_heard_of_meanwhile_is_alive() -> None:
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    peer.reach(B, C, sessions=(D,))
    assert refusal(peer.work(0.1))[0] == "alive"


def test_answers_count_only_from_those_who_were_asked() -> None:
    peer = Peer(4, B)
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    peer.answer(C, first[B])
    assert peer.work(1.0) is None
    assert not peer.requests()


def test_a_request_times_out_at_its_deadline_with_the_last_refusal() -> None:
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    assert peer.work(9.9) is None
    second = peer.requests()
    peer.answer(C, second[C], "outbid", now=9.95)
    assert first
    assert peer.consent.next_at() == 10.0
    assert refusal(peer.work(10.0)) == ("timeout", "timed out after 10 s: host3: it says so")
    other = Peer()
    other.ask()
    assert "not enough of them answered" in refusal(other.work(10.0))[1]


def test_without_enough_who_can_be_reached_the_missing_are_named() -> None:
    peer = Peer()
    peer.reach()
    peer.ask()
    kind, error = refusal(peer.work(0.0))
    assert kind == "no-majority"
    assert error.startswith(
        "1 of 3 peers needed are reachable (more than half of the 4 that own addresses, the dead"
        " one counted): start or reconnect host2, host3; or,"
    )


def test_of_many_who_are_missing_eight_are_named() -> None:
    peer = Peer()
    assert peer.replica.ring is not None
    peer.reach()
    for number in range(20, 40):
        start = peer.replica.universe.first + 2 * number
        owner = peer.replica.ring.covering(start)
        assert owner is not None
        peer.replica.ring.donate(owner.owner, start, 1, peer_name(number), 1)
    peer.ask()
    _, error = refusal(peer.work(0.0))
    names = error.split("reconnect ")[1].split(";")[0].split(", ")
    assert len(names) == 8


def test_half_of_them_would_do_only_with_the_lowest_name() -> None:
    peer = Peer(2)
    assert peer.replica.ring is not None
    first = peer.replica.universe.first
    peer.reach()
    peer.ask(dead=B)
    assert peer.work(0.0) is not None, "half, with the lowest name: A itself"
    assert peer.owners() == {A: 256}
    lower = PeerName("01:00:00:00:00:00")
    other = Peer(1)
    assert other.replica.ring is not None
    other.replica.ring.donate(A, first, 128, lower, 1)
    other.reach()
    other.ask(dead=lower)
    kind, error = refusal(other.work(0.0))
    assert kind == "no-majority"
    assert f"half of them would do only with {lower}" in error


def test_there_must_be_a_ring_in_which_it_owns_something() -> None:
    consent = Consent(replica_without_ring(), Random(1), lambda peer, message: None)
    consent.ask(1, D, False, 10.0, 0.0)
    (answer,) = consent.work(0.0)
    assert answer.kind == "unknown"
    peer = Peer(3)
    peer.ask()
    assert refusal(peer.work(0.0)) == ("unknown", "host4 owns no part of the ring")


def test_who_comes_later_is_told_the_outcome() -> None:
    peer = Peer()
    assert peer.replica.ring is not None
    peer.replica.ring.join_fences({D: Fence(1, C)})
    peer.ask()
    answer = peer.work(0.0)
    assert answer is not None
    assert answer.text == "host4 is taken over: its addresses went to host3"
    assert not peer.requests()


def test_what_was_accepted_under_the_highest_ballot_is_taken_up() -> None:
    peer = Peer()
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    peer.answer(B, first[B], accepted=(3, B, C, 5))
    peer.answer(C, first[C], accepted=(2, C, B, 9))
    peer.work(0.1)
    second = peer.requests()
    assert (second[B].taker, second[B].epoch) == (_raw(C), 5)
    peer.answer(C, second[C])
    answer = peer.work(0.2)
    assert answer is not None
    assert answer.text.endswith("went to host3")
    assert peer.replica.fences == {D: Fence(5, C)}


def test_an_epoch_is_higher_than_any_before() -> None:
    peer = Peer()
    assert peer.replica.ring is not None
    peer.replica.ring.join_fences({B: Fence(6, C)})
    peer.reach(B, C)
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    for voter in first:
        peer.answer(voter, first[voter])
    peer.work(0.1)
    assert {request.epoch for request in peer.requests().values()} == {7}


def test_an_old_outcome_does_not_end_it_while_the_peer_owns_more() -> None:
    peer = Peer()
    ring = peer.replica.ring
    assert ring is not None
    (theirs,) = ring.owned_by(D)
    ring.join([replace(theirs, version=2, epoch=3)])
    peer.ask()
    peer.work(0.0)
    first = peer.requests()
    for voter in (B, C):
        peer.answer(voter, first[voter], accepted=(1, B, B, 2))
    peer.work(0.1)
    second = peer.requests()
    peer.answer(B, second[B])
    assert peer.work(0.2) is None
    assert peer.replica.fences == {D: Fence(2, B)}
    third = peer.requests()
    assert (third[B].taker, third[B].after, third[B].round) == (b"", 2, 2)
    for voter in (B, C):
        peer.answer(voter, third[voter], round=2)
    peer.work(0.3)
    fourth = peer.requests()
    assert (fourth[B].taker, fourth[B].epoch) == (_raw(A), 4)
    peer.answer(B, fourth[B], round=2)
    assert peer.work(0.4) is not None
    assert peer.replica.fences == {D: Fence(4, A)}


def test_force_decides_at_once_unless_it_lives_or_owns_nothing() -> None:
    peer = Peer()
    peer.reach()
    peer.ask(force=True)
    assert peer.consent.changed
    assert peer.replica.fences == {D: Fence(1, A)}
    answer = peer.work(0.0)
    assert answer is not None
    assert answer.text
    for dead, sessions in ((D, (D,)), (A, ()), (peer_name(9), ())):
        other = Peer()
        other.reach(sessions=sessions)
        other.ask(force=True, dead=dead)
        assert not other.replica.fences
        assert refusal(other.work(0.0))


def test_of_several_requests_each_goes_on_by_itself() -> None:
    peer = Peer(4, B)
    peer.consent.ask(1, C, False, 10.0, 0.0)
    peer.consent.ask(2, D, False, 5.0, 0.0)
    assert peer.consent.work(0.0) == []
    assert [bytes(request.peer) for _, request in peer.sent] == [_raw(C), _raw(D)]
    c, d = (request for _, request in peer.sent)
    peer.sent.clear()
    peer.answer(B, d)
    assert peer.consent.work(1.0) == []
    assert [bytes(request.peer) for _, request in peer.sent] == [_raw(D)]
    peer.answer(B, c)
    peer.sent.clear()
    peer.consent.work(1.1)
    assert [bytes(request.peer) for _, request in peer.sent] == [_raw(C)]


def test_who_is_cancelled_is_forgotten() -> None:
    peer = Peer()
    peer.ask()
    assert list(peer.consent.under_way) == [1]
    assert peer.consent.cancel(1)
    assert not peer.consent.cancel(1)
    assert peer.work(0.0) is None


# --- voting ----------------------------------------------------------------------------------


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
