"""Storms are cut, and nothing else."""

from router.overlay.flood import (
    HOST_COPIES_PER_S,
    MAX_SOURCES,
    PEER_COPIES_PER_S,
    PEERS_COPIES_PER_S,
    SOURCE_COPIES_PER_S,
    FloodLimiter,
)
from router.overlay.mac_table import MacTable
from router.overlay.switch import Switch

ONE = b"\x02\0\0\0\0\x01"
OTHER = b"\x02\0\0\0\0\x02"


def admitted(limiter: FloodLimiter, source: bytes, count: int, now: float, copies: int = 1) -> int:
    return sum(limiter.admit(source, copies, now) for _ in range(count))


def test_a_burst_passes_and_then_the_rate():
    limiter = FloodLimiter(SOURCE_COPIES_PER_S, HOST_COPIES_PER_S)
    assert admitted(limiter, ONE, 20_000, 100.0) == SOURCE_COPIES_PER_S
    assert admitted(limiter, ONE, 20_000, 100.5) == SOURCE_COPIES_PER_S / 2
    assert admitted(limiter, ONE, 20_000, 200.0) == SOURCE_COPIES_PER_S


def test_one_source_leaves_as_much_for_the_others():
    limiter = FloodLimiter(SOURCE_COPIES_PER_S, HOST_COPIES_PER_S)
    admitted(limiter, ONE, 20_000, 100.0)
    assert admitted(limiter, OTHER, 5_000, 100.0) == 5_000


def test_many_sources_together_have_a_limit_too():
    limiter = FloodLimiter(SOURCE_COPIES_PER_S, HOST_COPIES_PER_S)
    passed = sum(
        admitted(limiter, number.to_bytes(6, "big"), 100, 100.0) for number in range(1_000)
    )
    assert passed == HOST_COPIES_PER_S


def test_a_frame_of_more_copies_than_a_burst_has_passes_when_the_bucket_is_full():
    limiter = FloodLimiter(SOURCE_COPIES_PER_S, HOST_COPIES_PER_S)
    assert limiter.admit(ONE, 10 * int(SOURCE_COPIES_PER_S), 100.0) is True
    assert limiter.admit(ONE, 1, 100.0) is False
    assert limiter.admit(ONE, 1, 102.0) is False, "it is paid for by and by"


def test_sources_that_are_invented_take_no_more_memory():
    limiter = FloodLimiter(SOURCE_COPIES_PER_S, HOST_COPIES_PER_S)
    for number in range(5 * MAX_SOURCES):
        limiter.admit(number.to_bytes(6, "big"), 1, 100.0)
    assert len(limiter) == MAX_SOURCES


def test_a_frame_counts_once_for_each_neighbour_and_not_at_all_without_any():
    switch = Switch(MacTable())
    switch.install_routes(1, {}, {1: []})
    assert all(switch.may_flood(ONE, 1, 100.0) for _ in range(100_000))
    switch.install_routes(1, {2: 2, 3: 3}, {1: [2, 3]})
    passed = sum(switch.may_flood(ONE, 1, 100.0) for _ in range(100_000))
    assert passed == SOURCE_COPIES_PER_S / 2


def test_a_peer_gets_what_an_honest_one_needs_and_no_more_and_leaves_some_to_the_others():
    switch = Switch(MacTable())
    honest = int(SOURCE_COPIES_PER_S)
    assert all(switch.may_spread(7, 1, 100.0 + n / honest) for n in range(3 * honest))
    assert sum(switch.may_spread(8, 99, 104.0) for _ in range(100_000)) == PEER_COPIES_PER_S / 100
    assert all(switch.may_spread(9, 0, 105.0) for _ in range(honest))
    passed = sum(switch.may_spread(peer, 0, 200.0) for peer in range(10, 20) for _ in range(9_000))
    assert passed == PEERS_COPIES_PER_S
