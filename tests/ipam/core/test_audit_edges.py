"""What a check finds, one difference at a time."""

from dataclasses import replace

import pytest

from ipam.core.audit import audit
from ipam.core.effects import RunningAddress, Saved
from ipam.core.replica import Replica
from ipam.core.ring import Entry, Ring
from ipam.core.space import Space
from tests.ipam.core.parts import B, replica_of, replica_without_ring, row, space_of


def agreeing() -> tuple[Replica, Space, Saved]:
    """Two addresses in use and one that cools down, all of it on disk."""
    replica = replica_of(2)
    space = space_of(replica)
    first = replica.universe.first
    for offset, owner in ((1, "web"), (2, "db"), (3, "old")):
        space.use(row(first + offset, owner))
    space.cool(first + 3, 50.0)
    saved = Saved(replica.snapshot(), (*space.rows(), *space.cooling_rows()))
    return replica, space, saved


def texts(replica: Replica, space: Space, saved: Saved | None, *live: RunningAddress) -> list[str]:
    return [f"{one.what}: {one.text}" for one in audit(replica, space, saved, live, ())]


def test_where_all_agree_nothing_is_found() -> None:
    assert texts(*agreeing()) == []


def test_when_an_address_was_freed_is_not_compared_as_it_is_counted_anew_at_each_start() -> None:
    replica, space, saved = agreeing()
    aged = [replace(one, freed_at=one.freed_at and 7.0) for one in saved.addresses]
    assert texts(replica, space, Saved(saved.ring, tuple(aged))) == []


def test_whether_an_address_cools_down_is_compared() -> None:
    replica, space, saved = agreeing()
    used = tuple(replace(one, freed_at=None) for one in saved.addresses)
    assert texts(replica, space, Saved(saved.ring, used)) == [
        "store: 10.32.0.3 is cooling after old in memory and used by old on disk"
    ]


@pytest.mark.parametrize("change", [{"owner": "x"}, {"prefix_length": 20}, {"kind": "attachment"}])
def test_all_of_a_row_is_compared(change: dict[str, object]) -> None:
    replica, space, saved = agreeing()
    first, *others = saved.addresses
    changed = Saved(saved.ring, (replace(first, **change), *others))  # type: ignore[arg-type]
    assert len(texts(replica, space, changed)) == 1


def test_differences_are_listed_by_address() -> None:
    replica, space, saved = agreeing()
    strangers = [row(replica.universe.first + offset, "x") for offset in (200, 9, 77, 5)]
    found = texts(replica, space, Saved(saved.ring, (*saved.addresses, *strangers)))
    assert [text.split()[1] for text in found] == [
        "10.32.0.5",
        "10.32.0.9",
        "10.32.0.77",
        "10.32.0.200",
    ]


def test_without_a_disk_everything_is_missing_there() -> None:
    replica, space, _ = agreeing()
    found = texts(replica, space, None)
    assert len(found) == 4
    assert found[-1] == "store: the ring is not on disk"


def test_ranges_of_this_host_that_are_not_on_disk_are_counted_and_others_are_not() -> None:
    replica, space, saved = agreeing()
    assert replica.ring is not None
    replica.ring.donate(B, replica.universe.first + 200, 3, "02:00:00:00:00:09", 1)  # type: ignore[arg-type]
    assert texts(replica, space, saved) == []
    replica.ring.donate(B, replica.universe.first + 128, 3, replica.ourself, 1)
    assert texts(replica, space, saved) == ["store: 1 ranges of this host are not on disk"]


def test_without_a_ring_there_must_be_no_addresses_in_use() -> None:
    replica = replica_without_ring()
    space = Space()
    assert texts(replica, space, None) == []
    space.use(row(replica.universe.first + 1))
    saved = Saved(None, tuple(space.rows()))
    assert texts(replica, space, saved) == ["ring: 1 addresses are in use, but there is no ring"]


def test_contradictions_and_gaps_are_found_and_addresses_in_others_ranges() -> None:
    replica, space, _ = agreeing()
    ring = Ring(b"12345678", replica.universe)
    first = replica.universe.first
    ring.join([Entry(first + 2, 8, B, 1, 0), Entry(first + 4, 252, B, 1, 0)])
    replica.ring = ring
    space.drain_changes()
    saved = Saved(replica.snapshot(), (*space.rows(), *space.cooling_rows()))
    assert texts(replica, space, saved) == [
        "ring: 10.32.0.4-10.32.0.9 is claimed by two peers, and frozen",
        "ring: 2 addresses have no owner that this host knows of: news is missing",
        "ring: 10.32.0.1 is used by web here, but lies in the range of nobody we know",
        "ring: 10.32.0.2 is used by db here, but lies in the range of host2",
    ]


def test_what_runs_outside_the_universe_is_left_alone_and_the_next_is_looked_at() -> None:
    replica, space, saved = agreeing()
    outside = RunningAddress(5, "far", 24)
    stranger = RunningAddress(replica.universe.first + 9, "near", 24)
    assert texts(replica, space, saved, outside, stranger) == [
        "interface: near runs with 10.32.0.9, which is not recorded"
    ]


def test_what_was_given_by_hand_needs_no_interface_and_the_next_is_looked_at() -> None:
    replica, space, _ = agreeing()
    space.use(replace(row(replica.universe.first + 6, "pod"), kind="attachment"))
    saved = Saved(replica.snapshot(), (*space.rows(), *space.cooling_rows()))
    assert texts(replica, space, saved) == [
        "interface: 10.32.0.6 is recorded for pod, which has no interface"
    ]


def test_owners_that_are_being_attached_are_left_alone() -> None:
    replica, space, _ = agreeing()
    space.use(replace(row(replica.universe.first + 6, "pod"), kind="attachment"))
    saved = Saved(replica.snapshot(), (*space.rows(), *space.cooling_rows()))
    live = [RunningAddress(replica.universe.first + 9, "new", 24)]
    assert audit(replica, space, saved, live, ["pod", "new"]) == []
