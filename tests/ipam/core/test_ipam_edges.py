"""One whole peer: requests, its clock, its disk, and what it shows of itself."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import ip_network
from random import Random

import pytest

from ipam.core.consent import MAX_TAKE_OVERS, _electorate_hash, _raw
from ipam.core.effects import AnswerRequest, PersistedAddress, RunningAddress, Saved
from ipam.core.election import Consensus, Observer, Seed
from ipam.core.ipam import Ipam
from ipam.core.messages import (
    AddressRequest,
    Answer,
    ConsentAnswer,
    ConsentRequest,
    Consult,
    ConsultAnswer,
    Hint,
    SpaceRequest,
    Update,
)
from ipam.core.outbox import Outbox
from ipam.core.paxos import NO_BALLOT, Ballot, Vote
from ipam.core.ring import Entry, Fence
from ipam.core.status import AddressOwner
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import RING, A, B, C, D, E, Host, Said, replica_of
from weavepy.base.errors import UsageError, WeavepyError

F = peer_name(6)


def running(host: Host, offset: int, owner: str = "web") -> RunningAddress:
    return RunningAddress(host.first + offset, owner, 28)


def deadline(host: Host) -> tuple[float, str]:
    found = host.ipam.next_deadline()
    return found.at, found.reason


# --- starting --------------------------------------------------------------------------------


@pytest.mark.parametrize("init", [Consensus(0), Seed(())])
def test_a_ring_that_nobody_could_make_is_refused(init: Consensus | Seed) -> None:
    with pytest.raises(UsageError, match="needs"):
        Host(0, init=init)


def test_a_default_subnet_must_lie_in_the_universe() -> None:
    with pytest.raises(UsageError, match="outside"):
        Host(0, default_subnet=ip_network("10.33.0.0/28"))


def test_a_seed_makes_its_ring_at_once_and_saves_it() -> None:
    host = Host(0, init=Seed((A, B)), checked=False)
    assert list(host.ring.owners()) == [A, B]
    said = host.wait(0.0)
    assert said.persist is not None
    assert said.persist.ring is not None
    (event,) = said.persist.history
    assert (event.kind, event.addresses, event.reason) == (
        "ring-made",
        8,
        "from the seed of 2 peers",
    )
    assert host.allocate(1).answers == [], "it may have lost its disk"
    host.wait(5.0)
    assert host.offsets() == {1: "web"}


def test_a_peer_that_is_alone_goes_on_at_once() -> None:
    replica = replica_of(1, "10.32.0.0/28")
    host = Host(1, checked=False, expects_peers=False, saved=Saved(replica.snapshot(), ()))
    assert host.allocate(1).answers[0].address == host.first + 1


def test_a_host_of_its_own_looks_for_a_ring_for_five_seconds_before_it_makes_one() -> None:
    host = Host(0, init=Consensus(1), checked=False)
    assert host.allocate(1).answers == []
    assert deadline(host) == (5.0, "another ballot")
    host.wait(4.9)
    assert host.ipam.ring is None
    host.wait(0.1)
    assert host.ring.owners() == {A: 16}
    quick = Host(0, init=Consensus(1), checked=False, expects_peers=False)
    assert quick.allocate(1).answers[0].address == quick.first + 1


def test_unless_told_otherwise_a_peer_expects_others() -> None:
    ipam = Ipam(
        ourself=A,
        nickname="host1",
        universe=ip_network("10.32.0.0/28"),
        default_subnet=None,
        init=Observer(),
        saved=Saved(replica_of(1, "10.32.0.0/28").snapshot(), ()),
        rng=Random(1),
        now=0.0,
    )
    effects = ipam.allocate(1, "web", None, 9.0, 0.0)
    assert not any(isinstance(effect, AnswerRequest) for effect in effects)


def test_each_start_is_saved() -> None:
    said = Host(2, checked=False).wait(0.0)
    assert said.persist is not None
    assert said.persist.ring is not None


def test_a_ring_with_gaps_is_no_contradiction() -> None:
    host = Host(0)
    host.tell(B, Entry(host.first, 4, A, 1, 1))
    assert host.ring.gaps() == 12


def test_rows_of_the_last_run_are_taken_up_and_those_of_nobody_cool_down_anew() -> None:
    rows = (
        PersistedAddress(Host(0).first + 1, "web", 28),
        PersistedAddress(Host(0).first + 2, "gone", 28),
        PersistedAddress(Host(0).first + 3, "freed", 28, freed_at=-500.0),
    )
    saved = Saved(replica_of(2, "10.32.0.0/28").snapshot(), rows)
    host = Host(2, saved=saved, known_owners={"web"})
    assert host.offsets() == {1: "web"}
    assert host.ipam.status(host.now).cooling == 2
    assert deadline(host) == (60.0, "an address has cooled down")
    host.wait(55.0)
    assert host.ipam.status(host.now).cooling == 0
    everyone = Host(2, saved=saved)
    assert everyone.offsets() == {1: "web", 2: "gone"}


def test_a_ring_that_cannot_be_read_or_is_anothers_is_refused_with_a_way_out() -> None:
    with pytest.raises(WeavepyError, match="cannot be read"):
        Host(0, saved=Saved(b"?", ()))
    with pytest.raises(WeavepyError, match="launch with --ipalloc-range"):
        Host(0, saved=Saved(replica_of(1, "10.99.0.0/24").snapshot(), ()))
    host = Host(0, saved=Saved(None, (PersistedAddress(Host(0).first + 1, "web", 28),)))
    assert host.offsets() == {1: "web"}


# --- requests --------------------------------------------------------------------------------


def test_an_address_is_of_the_default_subnet_unless_another_is_asked_for() -> None:
    host = Host(1, default_subnet=ip_network("10.32.0.8/29"))
    (answer,) = host.allocate(1).answers
    assert answer == AnswerRequest(1, host.first + 9, None, prefix_length=29)
    effects = host.ipam.allocate(2, "db", ip_network("10.32.0.4/30"), 99.0, 5.0, "attachment")
    said = host.do(effects)
    assert said.answers == [AnswerRequest(2, host.first + 5, None, prefix_length=30)]
    assert said.persist is not None
    assert said.persist.allocated == (
        PersistedAddress(host.first + 5, "db", 30, kind="attachment"),
    )
    assert said.persist.ring is None, "the ring has not changed"


def test_a_subnet_outside_the_universe_is_refused() -> None:
    host = Host(1)
    (answer,) = host.ipam.allocate(1, "web", ip_network("10.33.0.0/28"), 99.0, 5.0)
    assert isinstance(answer, AnswerRequest)
    assert (answer.request, answer.kind) == (1, "usage")


def test_a_claim_is_checked_against_universe_and_subnet() -> None:
    host = Host(1)
    for offset, prefix, kind in (
        (16, None, "outside-universe"),
        (-1, None, "outside-universe"),
        (0, None, "reserved"),
        (15, None, "reserved"),
        (4, 30, "reserved"),
        (0, 32, ""),
        (4, None, ""),
    ):
        effects = host.ipam.claim(1, "web", host.first + offset, prefix, 99.0, host.now)
        (answer,) = host.do(effects).answers
        assert answer.kind == kind
    assert {one.prefix_length for one in host.ipam.addresses()} == {32, 28}


def test_a_claim_records_what_its_owner_is() -> None:
    host = Host(1)
    host.do(host.ipam.claim(1, "web", host.first + 4, None, 99.0, host.now, "attachment"))
    assert [one.kind for one in host.ipam.addresses()] == ["attachment"]


def test_one_address_or_all_of_an_owner_are_released() -> None:
    host = Host(1)
    for offset, owner in ((3, "web"), (4, "web"), (5, "web"), (6, "db")):
        host.claim(offset, offset, owner)

    def release(owner: str, offset: int | None) -> list[int]:
        address = None if offset is None else host.first + offset
        said = host.do(host.ipam.release(9, owner, address, host.now))
        (answer,) = said.answers
        assert (answer.error, answer.address) == (None, None)
        return [one - host.first for one in answer.released]

    assert release("db", 3) == []
    assert release("web", 7) == []
    assert release("web", 3) == [3]
    assert release("", 6) == [6]
    assert release("web", None) == [4, 5]
    assert release("web", None) == []
    assert host.offsets() == {}
    assert host.ipam.status(host.now).cooling == 4


def test_an_address_in_anothers_range_does_not_cool_down_when_it_is_released() -> None:
    host = Host(2)
    host.claim(1, 3)
    (mine,) = host.ring.owned_by(A)
    host.tell(B, replace(mine, version=9, owner=B))
    host.do(host.ipam.release(2, "web", None, host.now))
    assert host.offsets() == {}
    assert host.ipam.status(host.now).cooling == 0


def test_a_cancelled_request_is_answered_once() -> None:
    host = Host(0)
    host.allocate(1)
    assert [answer.kind for answer in host.do(host.ipam.cancel(1, 5.0)).answers] == ["cancelled"]
    assert host.do(host.ipam.cancel(1, 5.0)).answers == []
    other = Host(3)
    other.reach(B)
    other.do(other.ipam.take_over(1, C, False, 15.0, 5.0))
    assert [answer.kind for answer in other.do(other.ipam.cancel(1, 5.0)).answers] == ["cancelled"]
    assert other.do(other.ipam.cancel(1, 5.0)).answers == []


def test_a_prime_is_answered_when_there_is_a_ring() -> None:
    host = Host(0)
    assert host.do(host.ipam.prime(1, 99.0, host.now)).answers == []
    entry = Entry(host.first, 16, B, 1, 1)
    host.tell(B, entry)
    said = host.wait(5.0)
    assert said.answers == [AnswerRequest(1, None, None)]
    assert host.do(host.ipam.prime(2, 99.0, host.now)).answers == [AnswerRequest(2, None, None)]


def test_peers_are_found_by_name_or_nickname_if_the_ring_knows_them() -> None:
    host = Host(3)
    host.tell(B, fences={D: Fence(1, A)})
    assert host.ipam.find_peers("host2") == [B]
    assert host.ipam.find_peers(C) == [C]
    assert host.ipam.find_peers(D) == [D]
    assert host.ipam.find_peers("host1") == [A]
    assert host.ipam.find_peers("host9") == []
    for peer in (E, C, F):
        host.tell(B, *host.ring.entries(), fences={peer: Fence(1, A)}, nicknames={peer: "host2"})
    assert host.ipam.find_peers("host2") == [B, C, E, F]
    assert Host(0).ipam.find_peers("host1") == [A]


def test_who_leaves_or_has_no_disk_takes_no_requests() -> None:
    leaving, broken = Host(2), Host(2)
    waiting = Host(0)
    waiting.allocate(1)
    assert waiting.do(waiting.ipam.hand_over(B, 5.0)).answers[0].kind == "leaving"
    leaving.do(leaving.ipam.hand_over(B, 5.0))
    broken.do(broken.ipam.handle_disk("full", 5.0))
    for host, kind in ((leaving, "leaving"), (broken, "disk")):
        for effects in (
            host.ipam.allocate(1, "web", None, 99.0, 5.0),
            host.ipam.claim(2, "web", host.first + 3, None, 99.0, 5.0),
            host.ipam.take_over(3, B, False, 99.0, 5.0),
        ):
            assert [answer.kind for answer in host.do(effects).answers] == [kind]
    broken.do(broken.ipam.handle_disk("", 5.0))
    assert broken.allocate(4).answers[0].address is not None


def test_who_leaves_forgets_its_addresses_and_frees_none() -> None:
    host = Host(2)
    host.claim(1, 3)
    said = host.do(host.ipam.hand_over(B, 5.0))
    assert said.persist is not None
    assert said.persist.released == (host.first + 3,)
    assert host.offsets() == {}
    assert host.ring.owners() == {B: 16}


def test_a_bounded_number_of_take_overs_is_under_way() -> None:
    host = Host(3)
    host.reach(B)
    for number in range(MAX_TAKE_OVERS):
        assert host.do(host.ipam.take_over(number, C, False, 99.0, 5.0)).answers == []
    (answer,) = host.do(host.ipam.take_over(99, C, False, 99.0, 5.0)).answers
    assert answer.kind == "too-many"
    assert MAX_TAKE_OVERS == 64


def test_a_take_over_by_force_is_saved_told_and_noted() -> None:
    host = Host(3)
    said = host.do(host.ipam.take_over(1, C, True, 15.0, 5.0))
    assert said.answers[0].text.startswith("host3 is taken over")
    assert said.persist is not None
    assert said.persist.ring is not None
    (event,) = said.persist.history
    assert (event.kind, event.addresses, event.peer) == ("took-over", 5, "host3")
    assert said.told[0].fences == {C: Fence(1, A)}
    (entry,) = said.told[0].entries
    assert (entry.owner, entry.epoch, entry.generation) == (A, 1, 2)
    assert any("took over 1 ranges of host3" in line for line in said.logs)
    assert host.ipam.status(host.now).free == 11
    assert host.reach(B).told == [], "once"
    # What was the dead peer's comes last, from above.
    given = [host.allocate(number, f"c{number}").answers[0].address for number in range(2, 11)]
    assert [address - host.first for address in given if address] == [
        1, 2, 3, 4, 5, 14, 13, 12, 11,
    ]  # fmt: skip


def test_without_a_disk_no_take_over_goes_on() -> None:
    host = Host(3)
    host.reach(B)
    host.do(host.ipam.take_over(1, C, False, 15.0, 5.0))
    assert deadline(host)[1] == "a take-over"
    host.do(host.ipam.handle_disk("full", 5.0))
    assert deadline(host)[1] != "a take-over"
    assert all(not isinstance(m, ConsentRequest) for _, m in host.wait(3.0).sent)
    host.do(host.ipam.handle_disk("", host.now))
    assert any(isinstance(m, ConsentRequest) for _, m in host.wait(3.0).sent)


# --- its clock and its disk ------------------------------------------------------------------


def test_what_others_wrote_is_saved_a_second_later_and_what_concerns_us_at_once() -> None:
    host = Host(3)
    host.wait(20.0)
    (b,) = host.ring.owned_by(B)
    said = host.tell(C, replace(b, version=2))
    assert said.persist is None
    assert deadline(host) == (host.now + 1.0, "news to save")
    host.now += 0.5
    host.tell(C, replace(b, version=3))
    assert deadline(host) == (host.now + 0.5, "news to save")
    assert host.wait(0.4).persist is None
    said = host.wait(0.1)
    assert said.persist is not None
    assert said.persist.ring is not None
    assert deadline(host)[0] == math.inf
    (a,) = host.ring.owned_by(A)
    for news in (replace(a, version=9, owner=B), replace(b, version=9, owner=A)):
        said = host.tell(C, news)
        assert said.persist is not None
        assert said.persist.ring is not None
        assert deadline(host)[1] != "news to save"
    assert host.tell(C, replace(b, version=9, owner=A)).persist is None, "no news"


def test_the_first_thing_that_is_due_is_named() -> None:
    host = Host(2, checked=False)
    assert deadline(host) == (0.0, "a hint to tell")
    host.wait(0.0)
    assert deadline(host) == (5.0, "the check after a restart")
    host.wait(5.0)
    assert deadline(host)[0] == math.inf
    host.claim(1, 3)
    host.do(host.ipam.release(2, "web", None, host.now))
    assert deadline(host) == (host.now + 60.0, "an address has cooled down")
    host.do(host.ipam.hand_over(B, host.now))
    assert deadline(host) == (host.now, "the hand-over is not confirmed")


def test_while_there_is_no_ring_only_requests_are_due() -> None:
    host = Host(0)
    assert deadline(host)[0] == math.inf
    host.allocate(1, until=50.0)
    assert deadline(host) == (50.0, "a waiting request")
    (answer,) = host.wait(45.0).answers
    assert answer.kind == "timeout"
    assert "as an observer" in str(answer.error)


def test_an_address_that_has_cooled_down_is_gone_from_the_disk() -> None:
    host = Host(2)
    host.claim(1, 3)
    host.do(host.ipam.release(2, "web", None, host.now))
    said = host.wait(60.0)
    assert said.persist is not None
    assert said.persist.released == (host.first + 3,)


def test_hints_are_told_but_not_by_who_leaves() -> None:
    host = Host(2, checked=False)
    said = host.wait(0.0)
    assert [update.hints for update in said.told] == [{A: Hint(1, 8)}]
    assert host.tell(B, hints={B: Hint(3, 7)}).told == []
    assert deadline(host)[1] in ("a hint to tell", "news to save")
    said = host.wait(1.0)
    assert [update.hints for update in said.told] == [{B: Hint(3, 7)}]
    for number in range(1, 6):
        host.claim(number, number, f"c{number}")
    host.wait(4.0)
    host.now = 10.0
    host.reach()
    leaving = host.ipam.hand_over(B, host.now)
    assert leaving
    assert all(not update.hints for update in host.wait(0.0).told)
    assert Host(0).wait(100.0).told == []


# --- who is there ----------------------------------------------------------------------------


def test_ourself_is_not_among_the_peers_that_can_be_reached() -> None:
    host = Host(2)
    host.reach(B, A)
    rows = {row.peer: row.reachable for row in host.ipam.status(host.now).owners}
    assert rows == {A: True, B: True}
    host.reach(A)
    rows = {row.peer: row.reachable for row in host.ipam.status(host.now).owners}
    assert rows == {A: True, B: False}
    alone = Host(0, init=Consensus(2))
    alone.reach(A)
    assert alone.ipam.status(alone.now).state == "waiting"
    alone.reach(B)
    assert alone.ipam.status(alone.now).state == "idle"


def test_peers_are_asked_in_the_order_of_their_names() -> None:
    host = Host(5)
    host.reach(E, C, B)
    said = host.do(host.ipam.take_over(1, D, False, 99.0, host.now))
    assert [peer for peer, _ in said.sent] == [B, C, E]


def test_the_living_are_not_taken_over() -> None:
    host = Host(3)
    host.reach(B, sessions=[C])
    for peer in (B, C):
        (answer,) = host.do(host.ipam.take_over(1, peer, False, 99.0, host.now)).answers
        assert answer.kind == "alive"


def test_beside_a_copy_owners_of_ranges_are_asked() -> None:
    host = Host(2)
    host.reach(B, C, D)
    said = host.do(host.ipam.handle_identity_copied("twice", host.now))
    assert [peer for peer, _ in said.sent] == [B]


def test_a_copy_of_ourself_keeps_us_from_giving_anything_out() -> None:
    host = Host(2)
    assert host.allocate(1).answers
    said = host.do(host.ipam.handle_identity_copied("twice", host.now))
    assert said.answers == []
    assert host.allocate(2, "db").answers == []
    assert "another router with the identity" in host.reason()
    assert any("another router with the identity" in line for line in host.warnings())
    said = host.reach(B)
    assert (B, Consult(1, host.ipam.digest())) in said.sent
    for late in (Host(0), Host(1)):
        late.do(late.ipam.handle_identity_copied("twice", late.now))
        assert late.allocate(1).answers == []


# --- what it shows ---------------------------------------------------------------------------


def test_the_status_has_all_figures() -> None:
    host = Host(2, default_subnet=ip_network("10.32.0.0/29"))
    for offset in (1, 2, 3):
        host.claim(offset, offset, f"c{offset}")
    host.do(host.ipam.release(9, "c3", None, host.now))
    status = host.ipam.status(host.now)
    assert (status.state, status.reason) == ("ready", "")
    assert (status.universe, status.default_subnet) == ("10.32.0.0/28", "10.32.0.0/29")
    assert (status.ring_id, status.entries) == (RING.hex(), 2)
    assert (status.allocated, status.cooling, status.free) == (2, 1, 5)
    assert [row.free for row in status.owners] == [5, None]
    assert status.picture == (0,) * 8 + (1,) * 8
    assert (status.frozen, status.waiting, status.warnings) == ((), (), ())
    host.tell(B, Entry(host.first + 6, 4, B, 1, 1))
    assert host.ipam.status(host.now).frozen == ("10.32.0.6-10.32.0.9",)


def test_the_status_without_a_ring_says_what_hinders_it() -> None:
    status = Host(0).ipam.status(5.0)
    assert (status.state, status.ring_id, status.entries, status.owners) == ("waiting", "", 0, ())
    assert "as an observer" in status.reason
    idle = Host(0, init=Consensus(1)).ipam.status(5.0)
    assert (idle.state, "the first request" in idle.reason) == ("idle", True)


def test_who_has_an_address_is_told_as_far_as_it_is_known() -> None:
    host = Host(2)
    host.claim(1, 3)
    owner = host.ipam.owner_of
    assert owner(host.first + 3) == AddressOwner(A, "host1", "web")
    assert owner(host.first + 9) == AddressOwner(B, "host2", "")
    assert owner(host.first + 99) == AddressOwner(None, "", "")
    assert Host(0).ipam.owner_of(host.first) == AddressOwner(None, "", "")
    assert [one.address for one in host.ipam.lookup("web")] == [host.first + 3]
    assert host.ipam.lookup("db") == ()


def test_two_updates_are_combined() -> None:
    host = Host(1)
    one = host.codec.encode(Update(ring_id=RING, hints={B: Hint(1, 1)}))
    two = host.codec.encode(Update(ring_id=RING, hints={C: Hint(1, 1)}))
    assert list(host.codec.decode(host.ipam.combine(one, two)).hints) == [B, C]


# --- what runs -------------------------------------------------------------------------------


def test_what_runs_in_our_range_is_in_use_whatever_was_recorded() -> None:
    host = Host(2)
    host.claim(1, 3, "old")
    said = host.do(
        host.ipam.claim_running([running(host, 3), running(host, 4), running(host, 99)], host.now)
    )
    assert host.offsets() == {3: "web", 4: "web"}
    assert [one.kind for one in host.ipam.addresses()] == ["attachment"] * 2
    assert said.logs == ["10.32.0.3 was stored as old's, but web runs with it"]
    assert host.warnings() == ()


def test_what_runs_in_anothers_range_is_claimed_from_it_every_minute_and_listed() -> None:
    host = Host(2)
    host.reach(B)
    said = host.do(host.ipam.claim_running([running(host, 9)], host.now))
    ((peer, message),) = said.sent
    assert peer == B
    assert isinstance(message, AddressRequest)
    assert message.offset == 9
    (warning,) = host.warnings()
    assert warning.startswith("web runs with 10.32.0.9, which belongs to host2")
    host.wait(29.9)
    assert len(host.ipam.status(host.now).waiting) == 1
    host.wait(0.1)
    assert host.ipam.status(host.now).waiting == ()
    assert deadline(host) == (65.0, "addresses held elsewhere")
    assert host.wait(29.9).sent == []
    ((peer, again),) = host.wait(0.1).sent
    assert isinstance(again, AddressRequest)
    assert again.id > message.id
    assert host.offsets() == {}


def test_answers_to_our_own_claims_are_for_nobody() -> None:
    host = Host(2)
    host.do(host.ipam.claim_running([running(host, 9)], host.now))
    assert host.wait(30.0).answers == []


def test_before_the_check_is_over_nothing_is_claimed() -> None:
    host = Host(2, checked=False)
    host.reach(B)
    said = host.do(host.ipam.claim_running([running(host, 9)], host.now))
    assert all(not isinstance(message, AddressRequest) for _, message in said.sent)
    host.wait(0.0)
    assert deadline(host)[0] > 0.0
    without_ring = Host(0)
    without_ring.do(without_ring.ipam.claim_running([running(without_ring, 9)], 5.0))
    assert deadline(without_ring)[0] == math.inf


def test_a_held_address_that_is_released_is_not_claimed_any_more() -> None:
    for owner, offset, left in (
        ("web", None, 0),
        ("web", 9, 0),
        ("web", 8, 1),
        ("db", None, 1),
        ("db", 9, 1),
    ):
        host = Host(2)
        host.do(host.ipam.claim_running([running(host, 9)], host.now))
        address = None if offset is None else host.first + offset
        host.do(host.ipam.release(1, owner, address, host.now))
        assert len(host.warnings()) == left


def test_reconciling_takes_up_what_runs_and_forgets_what_does_not() -> None:
    host = Host(2)
    host.do(host.ipam.claim_running([running(host, 9)], host.now))
    host.do(host.ipam.reconcile([running(host, 9), running(host, 4)], (), host.now))
    assert host.offsets() == {4: "web"}
    assert len(host.warnings()) == 1
    host.do(host.ipam.reconcile([running(host, 9, "other"), running(host, 4)], ["web"], host.now))
    (warning,) = host.warnings()
    assert warning.startswith("web runs with 10.32.0.9"), "web is just being attached"
    host.do(host.ipam.reconcile([running(host, 4)], (), host.now))
    assert host.warnings() == ()
    host.do(host.ipam.reconcile([running(host, 5, "new"), running(host, 99)], ["new"], host.now))
    assert host.offsets() == {4: "web"}


def test_an_attachment_that_is_gone_for_two_sightings_is_freed_and_cools_down() -> None:
    host = Host(2)
    host.do(host.ipam.claim_running([running(host, 4)], host.now))
    host.do(host.ipam.reconcile([], (), host.now))
    host.now += 60.0
    said = host.do(host.ipam.reconcile([], (), host.now))
    assert said.logs == ["freed 10.32.0.4: the interface of web is gone"]
    assert host.offsets() == {}
    assert host.ipam.status(host.now).cooling == 1


def test_what_reconciling_finds_in_anothers_range_is_claimed_at_once() -> None:
    host = Host(2)
    host.reach(B)
    host.do(host.ipam.claim_running([], host.now))
    host.now += 5.0
    said = host.do(host.ipam.reconcile([running(host, 9)], (), host.now))
    assert [peer for peer, _ in said.sent] == [B]
    said = host.do(host.ipam.reconcile([running(host, 9), running(host, 10)], (), host.now))
    assert [m.offset for _, m in said.sent if isinstance(m, AddressRequest)] == [9, 10]


def test_what_is_displaced_by_another_owner_is_claimed_from_it_and_listed() -> None:
    host = Host(2)
    host.reach(B)
    host.claim(1, 3)
    (mine,) = host.ring.owned_by(A)
    said = host.tell(C, replace(mine, version=9, owner=B))
    (ask,) = [m for _, m in said.sent if isinstance(m, AddressRequest)]
    assert ask.offset == 3
    given = Entry(host.first + 15, 1, A, 1, 1)
    said = host.tell(C, given)
    assert not [m for _, m in said.sent if isinstance(m, AddressRequest)], "it was just asked for"
    (_, warning) = host.warnings()
    assert "web runs with 10.32.0.3, which belongs to host2" in warning
    assert host.offsets() == {3: "web"}
    assert deadline(host)[0] <= host.now + 60.0
    host.do(host.ipam.release(2, "web", None, host.now))
    assert len(host.warnings()) == 1
    assert host.wait(120.0).sent == []


def test_addresses_in_doubt_go_to_their_owner_only_if_they_are_still_ours() -> None:
    rows = tuple(
        PersistedAddress(Host(0).first + at, f"c{at}", 28, kind=kind)
        for at, kind in ((3, "manual"), (9, "manual"), (10, "attachment"))  # type: ignore[misc]
    )
    saved = Saved(replica_of(2, "10.32.0.0/28").snapshot(), rows)
    host = Host(2, saved=saved, checked=False)
    host.do(host.ipam.claim_running([], 0.0))
    assert host.claim(1, 3, "c3").answers == []
    host.reach(B)
    said = host.wait(5.0)
    assert [answer.address for answer in said.answers] == [host.first + 3]
    assert host.offsets() == {3: "c3"}
    (warning,) = host.warnings()
    assert "c9 runs with 10.32.0.9" in warning, "its owner is asked, as nothing else tells"
    host.do(host.ipam.reconcile([], (), host.now))
    assert len(host.warnings()) == 1, "it needs no interface"
    assert [answer.address for answer in host.allocate(2, "c3").answers] == [host.first + 3]
    known = Host(2, saved=saved, checked=False)
    known.do(known.ipam.claim_running([RunningAddress(known.first + 9, "c9", 28)], 0.0))
    known.wait(5.0)
    assert known.offsets() == {3: "c3", 9: "c9"}


# --- when the ring changes -----------------------------------------------------------------------


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


def test_warnings_say_what_stands_in_the_way() -> None:
    host = Host(2, checked=False)
    host.reach(B)
    assert host.warnings() == ()
    host.hear(B, ConsultAnswer(1, b"", _raw(C)))
    (warning,) = host.warnings()
    assert "this host was declared dead" in warning
    host.hear(B, ConsultAnswer(1, b"", b""))
    assert host.warnings() == ()
    host.do(host.ipam.handle_disk("it is full", host.now))
    assert host.warnings() == ("addresses cannot be given out: it is full",)
    empty = Host(0)
    empty.do(empty.ipam.claim_running([running(empty, 9)], empty.now))
    (warning,) = empty.warnings()
    assert "which belongs to nobody we know" in warning


def test_a_promise_that_was_heard_of_is_no_warning_when_the_check_is_over() -> None:
    host = Host(2, checked=False)
    host.reach(B)
    host.hear(B, ConsultAnswer(1, b"", _raw(C)))
    host.wait(5.0)
    host.wait(5.0)
    assert host.warnings() == ()


def test_who_lives_with_another_ring_is_told_apart_from_who_lives_with_another_range() -> None:
    host = Host(2)
    host.reach(B, C)
    host.gossip(B, Update(ring_id=b"another!"))
    data = replica_of(1, "10.99.0.0/28").codec.encode(Update())
    host.do(host.ipam.handle_gossip(C, data, host.now))
    of_ring, of_range = host.warnings()
    assert f"another address ring {b'another!'.hex()} (ours: {RING.hex()})" in of_ring
    assert "another address range 10.99.0.0/28 (ours: 10.32.0.0/28)" in of_range
    assert "with --ipalloc-range 10.32.0.0/28" in of_range
    assert "--ipalloc-range" not in of_ring


def test_a_contradiction_that_touches_ours_is_frozen_at_once_and_one_elsewhere_is_not() -> None:
    host = Host(3)
    free = host.ipam.status(host.now).free
    (b,) = host.ring.owned_by(B)
    host.tell(C, Entry(b.token + 2, 2, C, 1, 1))
    assert host.ipam.status(host.now).free == free
    host.tell(C, Entry(host.first + 2, 2, C, 1, 1))
    assert host.ipam.status(host.now).free == free - 2


def test_an_outbox_says_and_saves_nothing_by_itself() -> None:
    host = Host(1)
    outbox = Outbox(host.ipam._replica, host.ipam._space, host.ipam._history)
    assert outbox.drain() == []
    outbox.save_ring_soon(3.0)
    outbox.save_ring_soon(2.0)
    assert outbox.save_at == 3.0
    outbox.handle_timeout(2.9)
    assert outbox.drain() == []
    outbox.handle_timeout(3.0)
    assert len(outbox.drain()) == 1
    assert outbox.drain() == []
    assert outbox.save_at == math.inf


def test_a_peer_draws_its_numbers_from_what_it_is_given() -> None:
    one, other = Host(2, rng=Random(1)), Host(2, rng=Random(2))
    asks = []
    for host in (one, other):
        host.reach(B)
        ((_, message),) = host.claim(1, 9).sent
        assert isinstance(message, AddressRequest)
        asks.append(message.id)
    assert asks[0] != asks[1]
    assert isinstance(one.ipam, Ipam)
