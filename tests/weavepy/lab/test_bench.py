import shutil
from collections.abc import Callable

import pytest

from tests.weavepy.lab.conftest import needs_root
from weavepy.lab import bench, impair
from weavepy.lab.plan import Plan
from weavepy.lab.state import Impairment
from weavepy.lab.system import LabError, processes_in, run, wait_until

needs_iperf3 = pytest.mark.skipif(shutil.which("iperf3") is None, reason="needs iperf3")


def ends_of(plan: Plan) -> bench.Ends:
    one, other = (plan.namespace(host) for host in plan.host_nodes[:2])
    return bench.Ends(one, other, "10.99.0.2")


def nobody_in(ends: bench.Ends) -> bool:
    return wait_until(lambda: processes_in([ends.source, ends.destination]) == [], 5)


@needs_root
@needs_iperf3
def test_tcp_is_measured_in_both_directions_of_a_limited_link(
    built: Callable[..., Plan],
) -> None:
    plan = built(hosts=2, containers=0)
    impair.apply(plan, plan.links[0], Impairment(rate_bits=50_000_000))
    ends = ends_of(plan)
    for options in ([], ["-R"]):
        measured = bench.tcp(ends, 1, options)
        assert 0.02 < measured.gbps < 0.06
        assert measured.bytes_received > 2_000_000
    assert nobody_in(ends)


@needs_root
@needs_iperf3
def test_small_packets_are_counted_where_little_is_lost(built: Callable[..., Plan]) -> None:
    plan = built(hosts=2, containers=0)
    impair.apply(plan, plan.links[0], Impairment(rate_bits=20_000_000))
    expected = 20_000_000 / 8 / (64 + 28 + 14)
    assert expected * 0.7 < bench.udp_small(ends_of(plan)) < expected * 1.1


@needs_root
@needs_iperf3
def test_no_server_is_left_when_the_client_fails(built: Callable[..., Plan]) -> None:
    plan = built(hosts=2, containers=0)
    ends = ends_of(plan)
    run(["ip", "-n", ends.source, "link", "set", "u2", "down"])
    with pytest.raises(LabError, match=r"iperf3 to 10\.99\.0\.2"):
        bench.tcp(ends, 1)
    assert nobody_in(ends)


@needs_root
def test_ping_percentiles_are_of_the_answered_ones(built: Callable[..., Plan]) -> None:
    plan = built(hosts=2, containers=0)
    found = bench.ping_percentiles(ends_of(plan), 1)
    assert 0 < found["p50"] <= found["p99"]
    assert found["lost"] == 0
