"""What an operator is told unasked."""

from __future__ import annotations

from ipam.core.consent import _raw
from ipam.core.messages import (
    ConsultAnswer,
    Update,
)
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import RING, B, C, Host, replica_of

F = peer_name(6)


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
    empty.do(empty.ipam.claim_running([empty.running(9)], empty.now))
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
