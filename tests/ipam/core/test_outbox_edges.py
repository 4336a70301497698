"""What is said, and what is on disk before it."""

from __future__ import annotations

import math

from ipam.core.outbox import Outbox
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import Host

F = peer_name(6)


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
