"""One whole peer: requests, its clock, its disk, and what it shows of itself."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import ip_network
from random import Random

import pytest

from ipam.core.consent import MAX_TAKE_OVERS
from ipam.core.effects import AnswerRequest, PersistedAddress, Saved
from ipam.core.election import Consensus, Observer, Seed
from ipam.core.ipam import Ipam
from ipam.core.messages import (
    AddressRequest,
    ConsentRequest,
    Consult,
    Hint,
    Update,
)
from ipam.core.ring import Entry, Fence
from ipam.core.status import AddressOwner
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import RING, A, B, C, D, E, Host, replica_of
from weavepy.base.errors import UsageError, WeavepyError

F = peer_name(6)


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
    assert host.deadline() == (5.0, "another ballot")
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
    assert host.deadline() == (60.0, "an address has cooled down")
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
    assert host.deadline()[1] == "a take-over"
    host.do(host.ipam.handle_disk("full", 5.0))
    assert host.deadline()[1] != "a take-over"
    assert all(not isinstance(m, ConsentRequest) for _, m in host.wait(3.0).sent)
    host.do(host.ipam.handle_disk("", host.now))
    assert any(isinstance(m, ConsentRequest) for _, m in host.wait(3.0).sent)


# --- its clock and its disk ------------------------------------------------------------------


def test_the_first_thing_that_is_due_is_named() -> None:
    host = Host(2, checked=False)
    assert host.deadline() == (0.0, "a hint to tell")
    host.wait(0.0)
    assert host.deadline() == (5.0, "the check after a restart")
    host.wait(5.0)
    assert host.deadline()[0] == math.inf
    host.claim(1, 3)
    host.do(host.ipam.release(2, "web", None, host.now))
    assert host.deadline() == (host.now + 60.0, "an address has cooled down")
    host.do(host.ipam.hand_over(B, host.now))
    assert host.deadline() == (host.now, "the hand-over is not confirmed")


def test_while_there_is_no_ring_only_requests_are_due() -> None:
    host = Host(0)
    assert host.deadline()[0] == math.inf
    host.allocate(1, until=50.0)
    assert host.deadline() == (50.0, "a waiting request")
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
    assert host.deadline()[1] in ("a hint to tell", "news to save")
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
