"""One allocator between a ring and a space: who is answered what, who is asked, who waits."""

from __future__ import annotations

from ipaddress import ip_network
from random import Random

import pytest

from ipam.core.allocator import MAX_WAITING, Allocator, Waiting
from ipam.core.effects import AnswerRequest, IpamEffect, Unicast
from ipam.core.messages import AddressRequest, Answer, SpaceRequest, decode_message
from ipam.core.ranges import Range
from ipam.core.replica import Replica
from ipam.core.ring import Entry, Ring
from ipam.core.space import Space
from tests.ipam.core.parts import A, B, C, D, replica_of, row, space_of
from weavepy.base.names import PeerName

NETWORK = ip_network("10.32.0.0/28")
FIRST = int(NETWORK[0])
ALL = dict.fromkeys([B, C, D])


class Desk:
    """An allocator, and the requests that are made of it."""

    def __init__(self, owners: int = 2, *, full: bool = False) -> None:
        self.replica: Replica = replica_of(owners, str(NETWORK))
        self.space: Space = space_of(self.replica)
        self.allocator = Allocator(self.replica, self.space, Random(1))
        if full:
            for piece in self.space.owned():
                for at in range(piece.start, piece.end):
                    self.space.use(row(at, f"old{at - FIRST}"))

    def allocate(self, request: int, owner: str = "web", *, until: float = 30.0) -> None:
        waiting = Waiting(request, "allocate", owner, NETWORK, 0, 28, 0.0, until)
        assert self.allocator.add(waiting) == []

    def claim(self, request: int, offset: int, owner: str = "web") -> None:
        waiting = Waiting(request, "claim", owner, None, FIRST + offset, 28, 0.0, 30.0)
        assert self.allocator.add(waiting) == []

    def work(
        self, now: float = 0.0, reachable: dict[PeerName, None] = ALL
    ) -> list[AnswerRequest | tuple[PeerName, object]]:
        return said(self.allocator.work(reachable, now))

    def answer(
        self, source: PeerName, id: int, kind: str = "", error: str = "", now: float = 0.0
    ) -> list[IpamEffect]:
        answer = Answer(id, not kind, kind, error, b"")
        return self.allocator.handle_answer(source, answer, now)

    def reason(self, request: int) -> str:
        return self.allocator.waiting[request].reason


def said(effects: list[IpamEffect]) -> list[AnswerRequest | tuple[PeerName, object]]:
    """Return answers as they are, and what is sent with whom it is sent to."""
    result: list[AnswerRequest | tuple[PeerName, object]] = []
    for effect in effects:
        if isinstance(effect, Unicast):
            result.append((effect.peer, decode_message(effect.payload)))
        else:
            assert isinstance(effect, AnswerRequest)
            result.append(effect)
    return result


def asked(found: list[AnswerRequest | tuple[PeerName, object]]) -> tuple[PeerName, int]:
    """Return who was asked, and under which number; nothing else may have happened."""
    ((peer, message),) = found  # type: ignore[misc]
    assert isinstance(message, SpaceRequest | AddressRequest)
    return peer, message.id


# --- requests -------------------------------------------------------------------------------


def test_requests_are_answered_in_the_order_in_which_they_came() -> None:
    desk = Desk()
    for request in (5, 3, 4):
        desk.allocate(request, f"c{request}")
    answers = desk.work()
    assert answers == [
        AnswerRequest(request, FIRST + at, None, prefix_length=28)
        for at, request in enumerate((5, 3, 4), 1)
    ]
    assert not desk.allocator.waiting


def test_a_bounded_number_of_requests_waits() -> None:
    desk = Desk()
    for request in range(MAX_WAITING):
        desk.allocate(request)
    one_more = Waiting(MAX_WAITING, "prime", "", None, 0, 0, 0.0, 30.0)
    (answer,) = desk.allocator.add(one_more)
    assert isinstance(answer, AnswerRequest)
    assert (answer.request, answer.kind) == (MAX_WAITING, "too-many")
    assert len(desk.allocator.waiting) == MAX_WAITING == 4096


def test_who_is_cancelled_is_told_so_once() -> None:
    desk = Desk()
    desk.allocate(1)
    (answer,) = desk.allocator.cancel(1)
    assert isinstance(answer, AnswerRequest)
    assert (answer.request, answer.kind) == (1, "cancelled")
    assert desk.allocator.cancel(1) == []


def test_when_all_fail_nothing_waits_and_no_search_goes_on() -> None:
    desk = Desk(full=True)
    desk.allocate(1)
    _, number = asked(desk.work())
    answers = desk.allocator.fail_all("leaving", "leaving")
    assert answers == [AnswerRequest(1, None, "leaving", "leaving")]
    assert not desk.allocator.waiting
    desk.allocate(2)
    _, again = asked(desk.work(0.1))
    assert again != number, "a new search"


def test_a_request_expires_at_its_deadline_with_what_it_waited_for() -> None:
    desk = Desk()
    desk.allocate(1, until=30.0)
    desk.allocate(2, until=31.0)
    desk.allocator.explain("waiting for spring")
    assert desk.allocator.expire(29.9) == []
    assert desk.allocator.expire(30.0) == [
        AnswerRequest(1, None, "timed out after 30 s: waiting for spring", "timeout")
    ]
    assert list(desk.allocator.waiting) == [2]


def test_a_ring_is_all_that_a_prime_waits_for() -> None:
    desk = Desk()
    desk.allocator.add(Waiting(1, "prime", "", None, 0, 0, 0.0, 30.0))
    assert desk.allocator.answer_held() == []
    assert desk.work() == [AnswerRequest(1, None, None)]
    assert desk.work() == []


# --- what an owner has already ---------------------------------------------------------------


def test_an_owner_that_has_an_address_gets_it_before_a_restart_is_checked() -> None:
    desk = Desk()
    desk.space.use(row(FIRST + 2, "web"))
    desk.space.use(row(FIRST + 5, "db"))
    desk.space.drain_changes()
    desk.claim(1, 5, "db")
    desk.claim(2, 6, "db")
    desk.claim(3, 5, "web")
    desk.claim(-1, 5, "db")
    answers = desk.allocator.answer_held()
    assert answers == [AnswerRequest(1, FIRST + 5, None, prefix_length=28)]
    assert list(desk.allocator.waiting) == [2, 3, -1]


def test_an_address_is_the_owners_only_with_the_length_of_the_subnet() -> None:
    desk = Desk()
    desk.space.use(row(FIRST + 2, "web"))  # a /24
    desk.allocate(1)
    assert desk.allocator.answer_held() == []
    assert desk.work() == [AnswerRequest(1, FIRST + 1, None, prefix_length=28)]
    desk.allocate(2)
    assert desk.allocator.answer_held() == [AnswerRequest(2, FIRST + 1, None, prefix_length=28)]
    desk.allocate(3)
    assert desk.work() == [AnswerRequest(3, FIRST + 1, None, prefix_length=28)]


def test_an_address_in_doubt_is_answered_to_nobody() -> None:
    desk = Desk()
    desk.allocate(1)
    desk.work()
    desk.allocator.doubtful = {FIRST + 1: None}
    desk.claim(2, 1)
    desk.allocate(3)
    assert desk.allocator.answer_held() == []
    desk.allocator.doubtful = {}
    assert [answer.request for answer in desk.allocator.answer_held()] == [2, 3]  # type: ignore[union-attr]


def test_a_row_that_is_the_owners_already_is_not_written_again() -> None:
    desk = Desk()
    desk.claim(1, 3)
    desk.work()
    assert desk.space.drain_changes()[0]
    desk.claim(2, 3)
    desk.allocator.waiting[2].owner_kind = "attachment"
    desk.work()
    assert desk.space.drain_changes() == ((), ())
    desk.claim(3, 3)
    desk.allocator.waiting[3].prefix_length = 24
    desk.work()
    assert [row.prefix_length for row in desk.space.drain_changes()[0]] == [24]


def test_what_an_owner_is_goes_into_its_row() -> None:
    desk = Desk()
    desk.allocate(1)
    desk.allocator.waiting[1].owner_kind = "attachment"
    desk.work()
    assert [row.kind for row in desk.space.rows()] == ["attachment"]


# --- asking for space ------------------------------------------------------------------------


def test_all_who_wait_for_one_subnet_ask_once() -> None:
    desk = Desk(full=True)
    for request in range(3):
        desk.allocate(request, f"c{request}")
    ((peer, message),) = desk.work()  # type: ignore[misc]
    assert peer == B
    # The network's first and last address are for nobody.
    assert (message.offset, message.size_less_one, message.pressed) == (1, 13, False)
    assert "asked host2 for space" in desk.reason(2)
    assert desk.work(1.9) == []
    assert desk.allocator.next_deadline(works=True).at == 2.0
    assert desk.allocator.next_deadline(works=False).at == 30.0


def test_numbers_of_questions_differ_and_do_not_start_where_the_last_run_did() -> None:
    numbers = []
    for seed in range(40):
        desk = Desk(full=True)
        desk.allocator = Allocator(desk.replica, desk.space, Random(seed))
        desk.allocate(1)
        first = asked(desk.work())
        desk.answer(*first, "no-space")
        assert asked(desk.work()) == (B, first[1] + 1)
        numbers.append(first[1])
    assert len(set(numbers)) == 40
    assert max(numbers) > 2**31
    assert max(numbers) <= 2**32


def test_who_has_refused_is_followed_by_the_next_and_then_pressed() -> None:
    desk = Desk(3, full=True)
    desk.allocate(1)
    order: list[tuple[PeerName, bool]] = []
    for _ in range(4):
        ((peer, message),) = desk.work()  # type: ignore[misc]
        order.append((peer, message.pressed))
        assert desk.answer(peer, message.id, "no-space") == []
    assert sorted(order[:2]) == [(B, False), (C, False)]
    assert sorted(order[2:]) == [(B, True), (C, True)]
    (answer,) = desk.work()
    assert isinstance(answer, AnswerRequest)
    assert answer.kind == "no-space"
    assert "on this host and 2 others" in str(answer.error)
    assert not desk.allocator.waiting


def test_an_answer_counts_only_from_the_one_that_was_asked_and_to_that_question() -> None:
    desk = Desk(3, full=True)
    desk.allocate(1)
    peer, number = asked(desk.work())
    other = C if peer == B else B
    desk.answer(other, number, "no-space")
    desk.answer(peer, number + 1, "no-space")
    assert desk.work(1.0) == []
    desk.answer(peer, number, "no-space")
    assert asked(desk.work(1.0))[0] == other


def test_who_has_not_answered_in_two_seconds_is_followed_by_the_next() -> None:
    desk = Desk(3, full=True)
    desk.allocate(1)
    first, _ = asked(desk.work(0.0))
    second, _ = asked(desk.work(2.0))
    assert sorted([first, second]) == [B, C]


def test_who_granted_something_is_asked_again_if_it_was_not_enough() -> None:
    desk = Desk(full=True)
    desk.allocate(1)
    peer, number = asked(desk.work())
    desk.answer(peer, number)
    assert asked(desk.work(0.5)) == (B, number + 1)


def test_a_cooling_address_is_used_when_nobody_has_a_free_one() -> None:
    desk = Desk(full=True)
    desk.space.cool(FIRST + 3, 0.0)
    desk.allocate(1)
    peer, number = asked(desk.work())
    desk.answer(peer, number, "no-space")
    found = desk.work(1.0)
    assert found[-1] == AnswerRequest(1, FIRST + 3, None, prefix_length=28)
    assert not desk.allocator.waiting


def test_who_cannot_be_reached_is_waited_for() -> None:
    desk = Desk(3, full=True)
    desk.allocate(1)
    assert desk.work(0.0, {}) == []
    assert "waiting for host2, host3;" in desk.reason(1)
    assert desk.allocator.next_deadline(works=True).at == 2.0
    assert desk.work(1.0) == [], "it rests"
    desk.allocator.restart_searches()
    assert asked(desk.work(1.0))[0] in (B, C)


def test_who_does_not_answer_is_waited_for_by_name() -> None:
    desk = Desk(full=True)
    desk.allocate(1)
    desk.work(0.0)
    desk.work(2.0)
    assert "waiting for host2;" in desk.reason(1)


@pytest.mark.parametrize(
    ("silent", "names"),
    [
        ([B, C, D, A], "host2, host3, host4, host1;"),
        ([B, C, B, D, A, "x"], "host2, host3, host4, host1 and 1 more;"),
    ],
)
def test_of_many_who_are_waited_for_four_are_named(silent: list[PeerName], names: str) -> None:
    desk = Desk(full=True)
    desk.allocate(1)
    desk.work(0.0, {})
    (search,) = desk.allocator._searches.values()
    search.unreachable = silent
    desk.allocate(2)
    desk.work(0.1)
    assert f"waiting for {names}" in desk.reason(2)


def test_an_answer_is_not_cut_short_because_somebody_came_or_went() -> None:
    desk = Desk(3, full=True)
    desk.allocate(1)
    desk.work()
    desk.allocator.restart_searches()
    assert desk.work(1.0) == []


def test_a_search_that_nobody_waits_for_is_forgotten() -> None:
    desk = Desk(full=True)
    desk.allocate(1)
    peer, number = asked(desk.work())
    desk.allocator.cancel(1)
    desk.work(0.1)
    desk.allocate(2)
    assert asked(desk.work(0.2)) == (peer, number + 1)


def test_where_part_of_the_subnet_is_frozen_the_refusal_says_so() -> None:
    for lie in (None, Entry(FIRST, 4, B, 1, 0)):
        desk = Desk(1, full=True)
        assert desk.replica.ring is not None
        if lie is not None:
            desk.replica.ring.join([lie])
        desk.allocate(1)
        (answer,) = desk.work()
        assert isinstance(answer, AnswerRequest)
        assert ("frozen by a contradiction" in str(answer.error)) is (lie is not None)
        assert "on this host:" in str(answer.error)


# --- claiming --------------------------------------------------------------------------------


def test_an_address_of_ours_is_given_to_who_claims_it_and_to_nobody_else() -> None:
    desk = Desk()
    desk.claim(1, 3)
    assert desk.work() == [AnswerRequest(1, FIRST + 3, None, prefix_length=28)]
    desk.claim(2, 3, "db")
    (answer,) = desk.work()
    assert isinstance(answer, AnswerRequest)
    assert (answer.kind, answer.error) == (
        "in-use",
        "10.32.0.3 is in use by container web on host1",
    )


def test_what_is_anothers_is_asked_for_and_asked_again_after_two_seconds() -> None:
    desk = Desk()
    desk.claim(1, 9)
    ((peer, message),) = desk.work(5.0)  # type: ignore[misc]
    assert peer == B
    assert isinstance(message, AddressRequest)
    assert message.offset == 9
    assert message.ring_id == b"12345678"
    assert desk.reason(1) == "asked host2 to hand over 10.32.0.9"
    assert desk.work(6.9) == []
    assert desk.allocator.next_deadline(works=True).at == 7.0
    assert desk.allocator.next_deadline(works=False).at == 30.0
    assert asked(desk.work(7.0)) == (B, message.id + 1)


def test_a_refused_claim_is_answered_with_what_the_owner_said() -> None:
    for kind, told in (("in-use", "in-use"), ("frozen", "frozen"), ("usage", "in-use")):
        desk = Desk()
        desk.claim(1, 9)
        peer, number = asked(desk.work())
        assert desk.answer(peer, number, kind, "it says no") == [
            AnswerRequest(1, None, "it says no", told)  # type: ignore[arg-type]
        ]
        assert not desk.allocator.waiting


def test_answers_to_claims_count_only_from_the_one_that_was_asked_and_to_that_question() -> None:
    desk = Desk()
    desk.claim(1, 9)
    peer, number = asked(desk.work())
    assert desk.answer(C, number, "in-use") == []
    assert desk.answer(peer, number + 1, "in-use") == []
    assert 1 in desk.allocator.waiting
    assert len(desk.answer(peer, number, "in-use")) == 1


def test_an_owner_that_is_busy_is_asked_again_after_a_second() -> None:
    desk = Desk()
    desk.claim(1, 9)
    peer, number = asked(desk.work(5.0))
    assert desk.answer(peer, number, "busy", now=5.5) == []
    assert desk.answer(peer, number, "in-use", now=5.6) == [], "it has been answered"
    assert desk.allocator.next_deadline(works=True).at == 6.5
    assert desk.work(6.4) == []
    assert asked(desk.work(6.5)) == (B, number + 1)
    assert desk.answer(B, number, "in-use") == [], "an answer to the question before"


def test_a_claim_follows_its_address_to_the_new_owner_at_once() -> None:
    desk = Desk()
    assert desk.replica.ring is not None
    desk.claim(1, 9)
    peer, number = asked(desk.work(5.0))
    desk.replica.ring.donate(B, FIRST + 9, 1, C, 1)
    assert desk.answer(peer, number, "moved", now=5.5) == []
    assert asked(desk.work(5.5)) == (C, number + 1)


def test_a_claim_that_was_granted_is_answered_when_the_address_is_ours() -> None:
    desk = Desk()
    assert desk.replica.ring is not None
    desk.claim(1, 9)
    peer, number = asked(desk.work())
    desk.replica.ring.donate(B, FIRST + 9, 1, A, 1)
    desk.space.set_ranges(desk.replica.ring.ranges_of(A), [])
    assert desk.answer(peer, number) == []
    assert desk.work() == [AnswerRequest(1, FIRST + 9, None, prefix_length=28)]


def test_a_claim_waits_for_an_owner_that_cannot_be_reached_and_asks_it_at_once_when_it_can() -> (
    None
):
    desk = Desk()
    desk.claim(1, 9)
    assert desk.work(1.0, {}) == []
    assert "10.32.0.9 lies in the range of host2, which is not reachable" in desk.reason(1)
    assert desk.allocator.next_deadline(works=True).at == 30.0
    assert asked(desk.work(1.1))[0] == B


def test_a_claim_asks_anew_when_the_one_that_was_asked_went_and_came_back() -> None:
    desk = Desk()
    desk.claim(1, 9)
    _, number = asked(desk.work(1.0))
    desk.allocator.restart_searches()
    assert desk.work(1.1) == [], "it is still there"
    desk.work(1.2, {})
    desk.allocator.restart_searches()
    assert desk.answer(B, number, "in-use") == []
    assert asked(desk.work(1.3)) == (B, number + 1)


def test_a_claim_does_not_wait_for_one_that_went_when_its_address_is_anothers() -> None:
    desk = Desk()
    assert desk.replica.ring is not None
    desk.claim(1, 9)
    _, number = asked(desk.work(0.1))
    desk.replica.ring.donate(B, FIRST + 9, 1, C, 1)
    assert desk.work(0.2, {C: None}) == []
    desk.allocator.restart_searches()
    assert asked(desk.work(0.3, {C: None})) == (C, number + 1)


def test_a_claim_whose_address_moved_is_due_at_once() -> None:
    desk = Desk()
    assert desk.replica.ring is not None
    desk.claim(1, 9)
    peer, number = asked(desk.work())
    desk.replica.ring.donate(B, FIRST + 9, 1, C, 1)
    desk.answer(peer, number, "moved", now=0.5)
    assert desk.allocator.next_deadline(works=True).at == 0.5


def test_a_claim_waits_while_its_owner_is_taken_over() -> None:
    desk = Desk()
    desk.replica.avoid = [B]
    desk.claim(1, 9)
    assert desk.work() == []
    assert desk.reason(1) == "host2 is just being taken over"
    assert desk.allocator.next_deadline(works=True).at == 30.0
    desk.replica.avoid = []
    assert asked(desk.work())[0] == B
    desk.replica.avoid = [B]
    assert desk.work() == []
    assert desk.allocator.next_deadline(works=True).at == 30.0, "no answer counts any more"


def test_a_claim_waits_for_news_where_the_ring_is_incomplete() -> None:
    desk = Desk()
    desk.replica.ring = Ring(b"12345678", desk.replica.universe)
    desk.space.set_ranges([], [])
    desk.claim(1, 9)
    assert desk.work() == []
    assert "waiting for news of who owns 10.32.0.9" in desk.reason(1)


def test_a_contested_address_of_ours_is_frozen() -> None:
    desk = Desk()
    assert desk.replica.ring is not None
    desk.space.set_ranges(desk.replica.ring.ranges_of(A), [Range(FIRST, FIRST + 16)])
    desk.claim(1, 3)
    (answer,) = desk.work()
    assert isinstance(answer, AnswerRequest)
    assert answer.kind == "frozen"
    assert str(answer.error).startswith("10.32.0.3 is frozen")


def test_an_owner_keeps_what_it_has_in_the_range_of_another_unless_we_ask_for_ourselves() -> None:
    desk = Desk()
    desk.space.use(row(FIRST + 9, "web"))
    desk.claim(1, 9)
    assert desk.work() == [AnswerRequest(1, FIRST + 9, None, prefix_length=28)]
    desk.claim(-1, 9)
    assert asked(desk.work())[0] == B
    desk.claim(-2, 3)
    assert desk.work() == [AnswerRequest(-2, FIRST + 3, None, prefix_length=28)]


def test_without_anything_that_waits_nothing_is_due() -> None:
    desk = Desk()
    assert desk.allocator.next_deadline(works=True).at == float("inf")
    desk.allocate(1, until=9.0)
    desk.allocate(2, until=8.0)
    assert desk.allocator.next_deadline(works=True).at == 8.0
