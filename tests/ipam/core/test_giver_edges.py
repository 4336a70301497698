"""What is cut off for a peer in want, and what it is told if nothing is."""

import pytest

from ipam.core import giver as giver_module
from ipam.core.giver import MAX_REMEMBERED, Giver
from ipam.core.messages import AddressRequest, SpaceRequest
from ipam.core.replica import Replica
from ipam.core.ring import MAX_ENTRIES, Entry
from ipam.core.space import Space
from tests.ipam.core.parts import A, B, C, replica_of, row, space_of

RING = b"12345678"


def started(owners: int = 2, universe: str = "10.32.0.0/28") -> tuple[Giver, Replica, Space]:
    replica = replica_of(owners, universe)
    space = space_of(replica)
    return Giver(replica, space), replica, space


def given(replica: Replica, entries: tuple[Entry, ...], taker: str) -> list[tuple[int, int]]:
    first = replica.universe.first
    return [(entry.token - first, entry.size) for entry in entries if entry.owner == taker]


def space_request(
    offset: int = 0, size: int = 16, *, id: int = 1, pressed: bool = False
) -> SpaceRequest:
    return SpaceRequest(id, RING, offset, size - 1, pressed)


@pytest.mark.parametrize(
    ("offset", "size", "piece"),
    [(0, 16, (4, 4)), (0, 8, (4, 4)), (1, 5, (3, 3)), (2, 1, (2, 1)), (0, 7, (3, 4))],
)
def test_the_upper_half_of_what_is_free_is_given(
    offset: int, size: int, piece: tuple[int, int]
) -> None:
    giver, replica, _ = started()
    verdict = giver.give_space(B, space_request(offset, size))
    assert verdict.kind == ""
    assert given(replica, verdict.written, B) == [piece]
    assert verdict.told == verdict.written


@pytest.mark.parametrize(
    ("offset", "size", "kind"), [(0, 16, ""), (0, 17, "usage"), (16, 1, "usage")]
)
def test_a_subnet_beyond_the_end_of_the_universe_is_refused(
    offset: int, size: int, kind: str
) -> None:
    giver, _, _ = started(1)
    assert giver.give_space(B, space_request(offset, size)).kind == kind


def test_what_cools_down_is_given_only_under_pressure() -> None:
    giver, replica, space = started(2, "10.32.0.0/30")
    first = replica.universe.first
    for address in (first, first + 1):
        space.use(row(address))
    space.cool(first + 1, 5.0)
    assert giver.give_space(B, space_request(size=4)).kind == "no-space"
    verdict = giver.give_space(B, space_request(size=4, id=2, pressed=True))
    assert given(replica, verdict.written, B) == [(1, 1), (2, 2)][:1]
    assert not space.is_cooling(first + 1)
    space.set_ranges(replica.ring.ranges_of(A), [])  # type: ignore[union-attr]
    assert giver.give_space(B, space_request(size=4, id=3, pressed=True)).kind == "no-space"


def test_the_same_request_gets_the_same_again_and_writes_nothing() -> None:
    giver, replica, space = started()
    first = giver.give_space(B, space_request())
    again = giver.give_space(B, space_request())
    assert (again.told, again.written, again.kind) == (first.told, (), "")
    space.set_ranges(replica.ring.ranges_of(A), [])  # type: ignore[union-attr]
    assert giver.give_space(C, space_request()).written, "another's request of the same number"


def test_the_same_address_asked_for_twice_is_given_once() -> None:
    giver, replica, _ = started()
    first = giver.give_address(B, AddressRequest(1, RING, 3))
    assert given(replica, first.written, B) == [(3, 1)]
    again = giver.give_address(B, AddressRequest(1, RING, 3))
    assert (again.told, again.written, again.kind) == (first.told, (), "")


def test_a_bounded_number_of_requests_is_remembered() -> None:
    giver, replica, space = started(1, "10.32.0.0/16")
    for number in range(MAX_REMEMBERED + 1):
        giver.give_address(B, AddressRequest(number, RING, 4 * number))
    space.set_ranges(replica.ring.ranges_of(A), [])  # type: ignore[union-attr]
    assert giver.give_address(B, AddressRequest(0, RING, 0)).kind == "moved", "forgotten"
    assert giver.give_address(B, AddressRequest(1, RING, 4)).kind == "", "remembered"
    assert MAX_REMEMBERED == 256


def test_an_address_that_is_in_use_here_is_not_given() -> None:
    giver, replica, space = started()
    space.use(row(replica.universe.first + 3, "web"))
    verdict = giver.give_address(B, AddressRequest(1, RING, 3))
    assert (verdict.kind, verdict.written) == ("in-use", ())
    assert "container web on host1" in verdict.error


def test_an_address_that_cools_down_here_is_given_and_its_row_is_gone() -> None:
    giver, replica, space = started()
    address = replica.universe.first + 3
    space.use(row(address))
    space.cool(address, 1.0)
    assert giver.give_address(B, AddressRequest(1, RING, 3)).kind == ""
    assert not space.is_cooling(address)


@pytest.mark.parametrize("offset", [16, -1])
def test_an_address_beyond_the_end_of_the_universe_is_refused(offset: int) -> None:
    giver, _, _ = started(1)
    assert giver.give_address(B, AddressRequest(1, RING, offset)).kind == "usage"


def test_who_asks_for_what_is_anothers_is_told_whose_it_is() -> None:
    giver, replica, _ = started()
    assert replica.ring is not None
    verdict = giver.give_address(B, AddressRequest(1, RING, 9))
    assert (verdict.kind, verdict.written) == ("moved", ())
    assert verdict.told == (replica.ring.get(replica.universe.first + 8),)


def test_who_asks_for_what_is_nobodys_as_far_as_we_know_is_told_just_that() -> None:
    giver, replica, space = started()
    replica.ring = type(replica.ring)(RING, replica.universe)  # type: ignore[misc]
    space.set_ranges([], [])
    verdict = giver.give_address(B, AddressRequest(1, RING, 9))
    assert (verdict.kind, verdict.told) == ("moved", ())


def test_a_contested_address_is_frozen() -> None:
    giver, replica, space = started()
    assert replica.ring is not None
    space.set_ranges(replica.ring.ranges_of(A), replica.ring.ranges_of(A))
    assert giver.give_address(B, AddressRequest(1, RING, 3)).kind == "frozen"


@pytest.mark.parametrize(("more", "kinds"), [(2, ("", "")), (1, ("no-space", "frozen"))])
def test_a_ring_that_two_more_entries_would_overfill_is_not_split(
    monkeypatch: pytest.MonkeyPatch, more: int, kinds: tuple[str, str]
) -> None:
    assert MAX_ENTRIES == 65_536
    for at, ask in enumerate((space_request(), AddressRequest(1, RING, 3))):
        giver, replica, _ = started()
        assert replica.ring is not None
        monkeypatch.setattr(giver_module, "MAX_ENTRIES", len(replica.ring) + more)
        give = giver.give_space if isinstance(ask, SpaceRequest) else giver.give_address
        assert give(B, ask).kind == kinds[at]  # type: ignore[arg-type]
