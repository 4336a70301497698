"""What becomes of a host's ranges is told once, with everything that one asks later."""

from ipaddress import ip_network

from ipam.core.effects import HistoryEvent
from ipam.core.history import History
from ipam.core.ranges import Range, Universe
from ipam.core.replica import Replica
from ipam.core.ring import Entry
from tests.ipam.core.mesh import peer_name

UNIVERSE = Universe.of(ip_network("10.32.0.0/24"))
A, B = peer_name(1), peer_name(2)


def history() -> History:
    replica = Replica(A, "host1", UNIVERSE, 1)
    replica.nicknames[B] = "host2"
    return History(replica)


def at(start: int, end: int) -> Range:
    return Range(UNIVERSE.first + start, UNIVERSE.first + end)


def test_an_event_names_the_ranges_the_peer_and_the_reason() -> None:
    told = history()
    told.note("donated", [at(8, 16), at(4, 8), at(32, 33)], B, "it asked")
    told.note("adopted", [], None, "no ring yet")
    assert told.drain() == (
        HistoryEvent(
            "donated", ("10.32.0.4-10.32.0.15", "10.32.0.32-10.32.0.32"), 13, "host2", "it asked"
        ),
        HistoryEvent("adopted", (), 0, "", "no ring yet"),
    )


def test_of_many_ranges_four_are_named_and_all_are_counted() -> None:
    told = history()
    told.note("lost", [at(2 * number, 2 * number + 1) for number in range(9)], None, "")
    (event,) = told.drain()
    assert len(event.ranges) == 4
    assert event.addresses == 9


def test_events_are_told_once() -> None:
    told = history()
    told.note("adopted", [], None, "")
    assert len(told.drain()) == 1
    assert told.drain() == ()


def test_entries_across_the_end_are_told_and_none_are_no_event() -> None:
    told = history()
    told.note_entries("received", [], B, "")
    assert told.drain() == ()
    told.note_entries("received", [Entry(UNIVERSE.end - 2, 4, A, 1, 1)], B, "")
    (event,) = told.drain()
    assert event.ranges == ("10.32.0.0-10.32.0.1", "10.32.0.254-10.32.0.255")
    assert event.addresses == 4
