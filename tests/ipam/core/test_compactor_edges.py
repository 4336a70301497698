"""The wait before neighbours are merged, step by step."""

import math
from dataclasses import replace

from ipam.core.compactor import COMPACT_AFTER_S, Compactor
from ipam.core.effects import HistoryEvent
from ipam.core.history import History
from ipam.core.replica import Replica
from ipam.core.ring import Entry, Ring
from tests.ipam.core.parts import RING, A, B, C, replica_without_ring


class Owner:
    """`A` with four neighbouring entries of four addresses, and `B` with the rest."""

    def __init__(self) -> None:
        self.replica: Replica = replica_without_ring("10.32.0.0/27")
        self.first = self.replica.universe.first
        self.ring = self.replica.ring = Ring(RING, self.replica.universe)
        self.ring.join(Entry(self.first + 4 * at, 4, A, 1, 1) for at in range(4))
        self.ring.join([Entry(self.first + 16, 16, B, 1, 1)])
        self.history = History(self.replica)
        self.compactor = Compactor(self.replica, self.history)
        self.compactor.handle_peers({B: None})

    def work(self, now: float, *, may_write: bool = True) -> list[tuple[int, int]]:
        """Return offset and size of what was merged."""
        written = self.compactor.work(may_write, now)
        return [(entry.token - self.first, entry.size) for entry in written]


def test_neighbours_are_merged_when_they_were_there_for_half_a_minute() -> None:
    owner = Owner()
    assert owner.compactor.next_at() == math.inf
    assert owner.work(100.0) == []
    assert owner.compactor.next_at() == 130.0
    assert COMPACT_AFTER_S == 30.0
    assert owner.work(129.9) == []
    assert owner.history.drain() == ()
    assert owner.work(130.0) == [(0, 16)]
    assert owner.history.drain() == (
        HistoryEvent("merged", (), 0, "", "4 neighbouring entries of this host became 1"),
    )
    assert owner.compactor.next_at() == math.inf
    assert owner.work(200.0) == []
    owner.ring.check_tiles()


def test_nobody_looks_for_neighbours_while_nothing_has_changed() -> None:
    owner = Owner()
    owner.compactor.handle_peers({})
    owner.ring.merge(owner.ring.mergeable(A)[0], 1)
    assert owner.work(0.0) == []
    owner.ring.donate(A, owner.first, 4, A, 1)
    assert owner.work(1.0) == []
    assert owner.compactor.next_at() == math.inf
    owner.compactor.handle_ranges_changed()
    assert owner.work(2.0) == []
    assert owner.compactor.next_at() == 32.0


def test_a_change_of_ranges_does_not_begin_the_wait_anew() -> None:
    owner = Owner()
    owner.work(100.0)
    owner.compactor.handle_ranges_changed()
    assert owner.work(110.0) == []
    assert owner.compactor.next_at() == 130.0


def test_what_changed_during_the_wait_is_left_out_and_waits_anew() -> None:
    owner = Owner()
    owner.work(100.0)
    (second,) = [one for one in owner.ring.entries() if one.token == owner.first + 8]
    owner.ring.join([replace(second, version=2)])
    assert owner.work(130.0) == [(0, 8)]
    assert owner.compactor.next_at() == 160.0
    assert owner.work(160.0) == [(0, 16)]


def test_of_two_parts_that_were_there_both_are_merged() -> None:
    owner = Owner()
    entries = [Entry(owner.first + at, 2, A, 2, 1) for at in range(0, 16, 2)]
    owner.ring.join(entries)
    owner.work(100.0)
    owner.ring.join([replace(entries[3], version=3)])
    assert owner.work(130.0) == [(0, 6), (8, 8)]
    (event,) = owner.history.drain()
    assert event.reason == "7 neighbouring entries of this host became 2"


def test_when_peers_come_or_go_the_wait_begins_anew() -> None:
    owner = Owner()
    owner.work(100.0)
    owner.compactor.handle_peers({B: None})
    assert owner.compactor.next_at() == 130.0
    owner.compactor.handle_peers({B: None, C: None})
    assert owner.compactor.next_at() == math.inf
    assert owner.work(120.0) == []
    assert owner.compactor.next_at() == 150.0


def test_while_nothing_may_be_written_the_wait_begins_anew() -> None:
    owner = Owner()
    owner.work(100.0)
    assert owner.work(130.0, may_write=False) == []
    assert owner.compactor.next_at() == math.inf
    assert owner.work(131.0) == []
    assert owner.compactor.next_at() == 161.0


def test_without_all_owners_in_reach_nothing_is_merged_and_the_wait_goes_on() -> None:
    owner = Owner()
    owner.compactor.handle_peers({C: None})
    owner.work(100.0)
    assert owner.work(130.0) == []
    assert owner.compactor.next_at() == 160.0
    owner.compactor.handle_peers({B: None, C: None})
    owner.work(160.0)
    assert owner.work(190.0) == [(0, 16)]


def test_without_a_ring_there_is_nothing_to_merge() -> None:
    replica = replica_without_ring()
    compactor = Compactor(replica, History(replica))
    compactor.handle_ranges_changed()
    assert compactor.work(True, 0.0) == []
    assert compactor.next_at() == math.inf
