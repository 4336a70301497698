"""Leaving for good, and getting what somebody who leaves had."""

from __future__ import annotations

from dataclasses import replace

from ipam.core.messages import (
    HandOver,
    HandOverDone,
    SpaceRequest,
    Update,
)
from ipam.core.ring import Entry, Fence
from tests.ipam.core.parts import RING, A, B, C, Host

ASK = SpaceRequest(1, RING, 0, 15, False)


def theirs(host: Host, owner: str = B) -> Entry:
    (entry,) = host.ring.owned_by(owner)  # type: ignore[arg-type]
    return entry


def update_of(host: Host, *entries: Entry) -> bytes:
    return host.codec.encode(Update(ring_id=RING, entries=entries))


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
