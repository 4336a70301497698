"""The benchmarks measure what they say; how much is for `script/bench-ipam`."""

import shutil
from pathlib import Path

import pytest

from tests.benchmarks import fast_path, first_start, policy_packets, ring_cost, ring_growth
from tests.namespaces import can_make_namespaces


def test_allocations_are_timed_in_the_core_and_on_disk(tmp_path: Path) -> None:
    core, commits = ring_cost.allocations(50, tmp_path / "weavepy.db")
    assert core.p50_us <= core.p99_us
    assert commits.per_second > 0


def test_a_change_in_a_large_ring_costs_less_than_two_kibibytes() -> None:
    cost = ring_cost.merging(peers=1000, entries_each=10, changes=5)
    assert cost.entries == 10_000
    assert cost.one_bytes < 2048
    assert cost.mend_bytes < 2048


def test_merging_keeps_a_ring_shorter_whose_hosts_give_space_back_and_forth() -> None:
    merged = ring_growth.growth(8, merging=True, universe="10.32.0.0/25")
    plain = ring_growth.growth(8, merging=False, universe="10.32.0.0/25")
    assert merged.containers == plain.containers
    assert merged.entries[-1] < plain.entries[-1]


def test_joining_merged_entries_takes_no_more_than_some_times_as_long() -> None:
    assert ring_cost.joining(4096, merged=True) < 20 * ring_cost.joining(4096, merged=False)


def test_memory_of_a_ring_is_counted() -> None:
    cost = ring_cost.memory(peers=8, entries_each=32)
    assert cost.entries == 256
    assert cost.ring_bytes > cost.encoded_bytes


def test_ten_routers_that_start_at_once_have_addresses_of_one_ring_within_seconds() -> None:
    cost = first_start.measure(10)
    assert cost.rings == 1
    assert cost.first_s < 1
    assert cost.last_s < 3


def test_what_is_said_about_the_first_ring_grows_little_more_than_with_its_peers() -> None:
    """Votes go to who opened the ballot: if all passed on all, it would be 700 messages each."""
    cost = first_start.measure(20)
    assert cost.rings == 1
    assert cost.ring_messages / cost.peers < 250


@pytest.mark.root
@pytest.mark.slow
def test_a_tunnel_and_one_made_by_hand_are_measured_in_turn() -> None:
    if not can_make_namespaces() or shutil.which("iperf3") is None:
        pytest.skip("needs root, to make network namespaces, and iperf3")

    (row,) = fast_path.measure(1, 1, ["TCP, one stream"])

    assert row.ours.gbps > 0
    assert row.hand.cpu_s_per_gb > 0
    assert row.throughput == row.ours.gbps / row.hand.gbps


@pytest.mark.root
@pytest.mark.slow
def test_packets_past_policies_are_measured_on_both_kinds_of_host() -> None:
    programs = ("iptables-nft-restore", "conntrack")
    if not can_make_namespaces() or any(shutil.which(one) is None for one in programs):
        pytest.skip(f"needs root, to make network namespaces, and {' and '.join(programs)}")

    with policy_packets.on_a_bridge() as way:
        made = policy_packets.states(way, [0, 10])
        for what in ("udp", "flows"):
            found = policy_packets.measured(way, what, 1, 0.1, made)
            assert [*found] == [("bare", "0"), ("bare", "10"), ("node", "0"), ("node", "10")]
            assert all(value > 100 for (value,) in found.values())
