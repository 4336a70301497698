"""One vote at a time."""

import pytest

from ipam.core import paxos as paxos_module
from ipam.core.paxos import NO_BALLOT, Ballot, Paxos, Proposal, Vote
from tests.ipam.core.parts import A, B, C, D
from weavepy.base.names import PeerName

MINE = Proposal(b"mine", (A,))
OTHER = Proposal(b"other", (B,))


def promised(round: int, opener: str) -> Vote:
    return Vote(Ballot(round, opener), NO_BALLOT, None)  # type: ignore[arg-type]


def accepted(round: int, opener: str, proposal: Proposal) -> Vote:
    ballot = Ballot(round, opener)  # type: ignore[arg-type]
    return Vote(ballot, ballot, proposal)


def nothing() -> Proposal:
    raise AssertionError("nobody asked for a proposal")


def test_nothing_has_begun_before_somebody_votes() -> None:
    one = Paxos(A, 2)
    assert not one.begun
    one.join({B: promised(1, B)})
    assert one.begun


def test_the_first_ballot_is_the_first_and_each_further_one_higher_than_all_that_are_known() -> (
    None
):
    one = Paxos(A, 2)
    assert one.open_ballot() == {A: promised(1, A)}
    one.join({B: promised(5, B)})
    assert one.open_ballot() == {A: promised(6, A)}


def test_only_what_is_news_is_returned() -> None:
    one = Paxos(A, 2)
    assert one.join({B: promised(2, B), C: promised(1, B)}) == {
        B: promised(2, B),
        C: promised(1, B),
    }
    assert one.join({B: promised(1, C), C: promised(2, B)}) == {C: promised(2, B)}
    assert one.votes[B] == promised(2, B)


def test_of_two_votes_under_one_promise_the_one_that_accepted_later_is_kept() -> None:
    early = Vote(Ballot(3, B), Ballot(1, A), MINE)
    late = Vote(Ballot(3, B), Ballot(2, A), MINE)
    assert early.join(late) == late.join(early) == late
    one, two = accepted(1, A, MINE), accepted(1, A, OTHER)
    assert one.join(two) == two.join(one) == two


def test_a_bounded_number_of_peers_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paxos_module, "MAX_PEERS", 2)
    one = Paxos(A, 2)
    one.join({A: promised(1, A), B: promised(1, A)})
    assert one.join({C: promised(1, A), B: promised(2, A)}) == {B: promised(2, A)}
    assert list(one.votes) == [A, B]


def test_a_higher_ballot_is_promised_and_a_lower_one_is_not() -> None:
    one = Paxos(A, 2)
    one.join({B: promised(2, B)})
    assert one.think(nothing) == {A: promised(2, B)}
    assert one.think(nothing) == {}
    one.join({C: promised(1, C)})
    assert one.think(nothing) == {}


def test_a_promise_keeps_what_was_accepted_before() -> None:
    one = Paxos(A, 2)
    one.join({A: accepted(1, B, OTHER), C: promised(2, C)})
    assert one.think(nothing) == {A: Vote(Ballot(2, C), Ballot(1, B), OTHER)}
    assert one.open_ballot() == {A: Vote(Ballot(3, A), Ballot(1, B), OTHER)}


@pytest.mark.parametrize("quorum", [2, 3])
def test_an_opener_proposes_when_a_quorum_has_promised(quorum: int) -> None:
    one = Paxos(A, quorum)
    one.open_ballot()
    voters = (B, C, D)
    for voter in voters[: quorum - 1]:
        assert one.think(nothing) == {}
        one.join({voter: promised(1, A)})
    assert one.think(lambda: MINE) == {A: accepted(1, A, MINE)}
    assert one.think(nothing) == {}, "once"


def test_promises_of_other_ballots_do_not_count() -> None:
    one = Paxos(A, 2)
    one.join({B: promised(1, B), C: promised(1, C)})
    one.open_ballot()
    assert one.think(nothing) == {}


def test_an_opener_repeats_what_was_accepted_under_the_highest_ballot() -> None:
    one = Paxos(A, 3)
    one.join({A: promised(5, A)})
    one.join(
        {B: Vote(Ballot(5, A), Ballot(2, B), OTHER), C: Vote(Ballot(5, A), Ballot(1, C), MINE)}
    )
    assert one.think(nothing) == {A: accepted(5, A, OTHER)}


def test_a_voter_accepts_what_the_opener_of_its_ballot_did_and_nothing_else() -> None:
    one = Paxos(A, 2)
    one.join({B: accepted(1, B, OTHER), C: promised(2, C)})
    assert one.think(nothing) == {A: promised(2, C)}
    one.join({C: accepted(2, C, MINE)})
    assert one.think(nothing) == {A: accepted(2, C, MINE)}
    assert one.think(nothing) == {}


def test_a_proposal_is_decided_when_a_quorum_has_accepted_it_under_one_ballot() -> None:
    one = Paxos(A, 2)
    one.join({A: promised(3, A), B: accepted(1, B, OTHER), C: accepted(2, C, OTHER)})
    assert one.decided() is None
    one.join({D: accepted(2, C, OTHER)})
    assert one.decided() == OTHER


def test_alone_one_decides_alone() -> None:
    one = Paxos(A, 1)
    one.open_ballot()
    one.think(lambda: MINE)
    assert one.decided() == MINE


def test_no_ballot_is_lower_than_any() -> None:
    assert Ballot(0, PeerName("")) == NO_BALLOT
    assert Ballot(1, A) > NO_BALLOT


def test_all_follow_who_opened_the_ballot() -> None:
    assert promised(1, A).leads(A)
    assert not promised(1, A).leads(B)
