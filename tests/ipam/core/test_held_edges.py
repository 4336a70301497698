"""What runs on this host, whatever the ring says about it."""

from __future__ import annotations

import math
from dataclasses import replace

from ipam.core.effects import PersistedAddress, RunningAddress, Saved
from ipam.core.messages import (
    AddressRequest,
)
from ipam.core.ring import Entry
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import A, B, C, Host, replica_of

F = peer_name(6)


def test_what_runs_in_our_range_is_in_use_whatever_was_recorded() -> None:
    host = Host(2)
    host.claim(1, 3, "old")
    said = host.do(
        host.ipam.claim_running([host.running(3), host.running(4), host.running(99)], host.now)
    )
    assert host.offsets() == {3: "web", 4: "web"}
    assert [one.kind for one in host.ipam.addresses()] == ["attachment"] * 2
    assert said.logs == ["10.32.0.3 was stored as old's, but web runs with it"]
    assert host.warnings() == ()


def test_what_runs_in_anothers_range_is_claimed_from_it_every_minute_and_listed() -> None:
    host = Host(2)
    host.reach(B)
    said = host.do(host.ipam.claim_running([host.running(9)], host.now))
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
    assert host.deadline() == (65.0, "addresses held elsewhere")
    assert host.wait(29.9).sent == []
    ((peer, again),) = host.wait(0.1).sent
    assert isinstance(again, AddressRequest)
    assert again.id > message.id
    assert host.offsets() == {}


def test_answers_to_our_own_claims_are_for_nobody() -> None:
    host = Host(2)
    host.do(host.ipam.claim_running([host.running(9)], host.now))
    assert host.wait(30.0).answers == []


def test_before_the_check_is_over_nothing_is_claimed() -> None:
    host = Host(2, checked=False)
    host.reach(B)
    said = host.do(host.ipam.claim_running([host.running(9)], host.now))
    assert all(not isinstance(message, AddressRequest) for _, message in said.sent)
    host.wait(0.0)
    assert host.deadline()[0] > 0.0
    without_ring = Host(0)
    without_ring.do(without_ring.ipam.claim_running([without_ring.running(9)], 5.0))
    assert without_ring.deadline()[0] == math.inf


def test_a_held_address_that_is_released_is_not_claimed_any_more() -> None:
    for owner, offset, left in (
        ("web", None, 0),
        ("web", 9, 0),
        ("web", 8, 1),
        ("db", None, 1),
        ("db", 9, 1),
    ):
        host = Host(2)
        host.do(host.ipam.claim_running([host.running(9)], host.now))
        address = None if offset is None else host.first + offset
        host.do(host.ipam.release(1, owner, address, host.now))
        assert len(host.warnings()) == left


def test_reconciling_takes_up_what_runs_and_forgets_what_does_not() -> None:
    host = Host(2)
    host.do(host.ipam.claim_running([host.running(9)], host.now))
    host.do(host.ipam.reconcile([host.running(9), host.running(4)], (), host.now))
    assert host.offsets() == {4: "web"}
    assert len(host.warnings()) == 1
    host.do(host.ipam.reconcile([host.running(9, "other"), host.running(4)], ["web"], host.now))
    (warning,) = host.warnings()
    assert warning.startswith("web runs with 10.32.0.9"), "web is just being attached"
    host.do(host.ipam.reconcile([host.running(4)], (), host.now))
    assert host.warnings() == ()
    host.do(host.ipam.reconcile([host.running(5, "new"), host.running(99)], ["new"], host.now))
    assert host.offsets() == {4: "web"}


def test_an_attachment_that_is_gone_for_two_sightings_is_freed_and_cools_down() -> None:
    host = Host(2)
    host.do(host.ipam.claim_running([host.running(4)], host.now))
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
    said = host.do(host.ipam.reconcile([host.running(9)], (), host.now))
    assert [peer for peer, _ in said.sent] == [B]
    said = host.do(host.ipam.reconcile([host.running(9), host.running(10)], (), host.now))
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
    assert host.deadline()[0] <= host.now + 60.0
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
