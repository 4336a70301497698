"""Hosts behind NAT: dialled by nobody, and their gateways forget."""

import time

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.flow import Flow
from tests.e2e.traffic import Stream
from tests.e2e.waiting import connection, route, wait_for, wait_for_all_pings, wait_for_route
from weavepy.lab.lab import Lab

pytestmark = pytest.mark.alone

ROAMED_S = 2.0
"""F24."""


def test_sessions_of_a_host_behind_nat_survive_that_its_gateway_forgets_them(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=2, containers=1, nat=[1])
    assert lab.ping().ok
    before = endpoint(lab, "h2", "h1")
    assert not before.endswith(":6783"), "the gateway gave it another port"
    for source, destination in (("h1c1", "h2c1"), ("h2c1", "h1c1")):
        with Stream(lab, source, destination, rate=200) as arrivals:
            wait_for(lambda: len(arrivals.counts), lambda count: count > 100, 10)
            lab.rebind("h1")
            time.sleep(4.0)
        print(f"{source}: stood still for {arrivals.longest_gap_s:.2f} s")
        assert arrivals.longest_gap_s < ROAMED_S
        assert arrivals.duplicated == []
        assert endpoint(lab, "h2", "h1") != before
    wait_for(
        lambda: [found.state for found in lab.api("h1").status().connections],
        lambda states: "established" in states,
        10,
    )


def test_a_gateway_that_forgets_does_not_break_a_flow_towards_the_host_behind_it(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=2, containers=1, nat=[1])
    with Flow(lab, "h2c1", "h1c1", lab.address("h1c1")) as progress:
        wait_for(lambda: progress.bytes_received, lambda count: count > 1_000_000, 10)
        began = time.monotonic()
        lab.rebind("h1")
        time.sleep(5.0)
        print(f"stood still for {progress.longest_gap_s(began):.2f} s")
        assert progress.longest_gap_s(began) < 2 * ROAMED_S
        wait_for(
            lambda: connection(lab, "h2", "h1"),
            lambda seen: seen is not None and seen.state == "established",
            15,
        )
    assert progress.failure == ""
    assert not progress.damaged


def test_two_hosts_behind_nat_talk_through_a_third_and_directly_once_one_can_be_reached(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=3, containers=1, nat=[1, 2])
    assert lab.ping().ok
    assert route(lab, "h1", "h2") == "relayed via h3"
    assert route(lab, "h2", "h1") == "relayed via h3"
    with Flow(lab, "h1c1", "h2c1", lab.address("h2c1")) as progress:
        wait_for(lambda: progress.bytes_received, lambda count: count > 1_000_000, 10)
        began = time.monotonic()
        lab.open_port("h2")
        link = lab.plan.link("h1", "h2")
        shown = lab.exec("h1", ["weavepy", "connect", link.end_at(2).address])
        assert shown.returncode == 0, shown.stderr
        wait_for_route(lab, "h1", "h2", "direct", 10)
        wait_for_route(lab, "h2", "h1", "direct", 10)
        time.sleep(1.0)
        print(f"to a direct path: stood still for {progress.longest_gap_s(began):.2f} s")
        assert progress.longest_gap_s(began) < 1.0
        received = progress.bytes_received
        wait_for(lambda: progress.bytes_received, lambda count: count > received, 5)
    assert progress.failure == ""
    assert not progress.damaged
    wait_for_all_pings(lab, 10)


def test_a_host_behind_nat_is_met_directly_as_soon_as_it_gains_a_reachable_address(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=3, containers=1, nat=[1, 2])
    assert lab.ping().ok
    assert route(lab, "h1", "h2") == route(lab, "h2", "h1") == "relayed via h3"
    with (
        Flow(lab, "h1c1", "h2c1", lab.address("h2c1")) as progress,
        Stream(lab, "h2c1", "h1c1", rate=500) as arrivals,
    ):
        wait_for(lambda: progress.bytes_received, lambda count: count > 1_000_000, 10)
        began = time.monotonic()
        lab.plug_in("h2", "h1")
        wait_until_direct(lab, "h1", "h2")
        took_s = time.monotonic() - began
        time.sleep(1.0)
        gap_s = progress.longest_gap_s(began)
        received = progress.bytes_received
        wait_for(lambda: progress.bytes_received, lambda count: count > received, 5)
    print(f"direct after {took_s:.1f} s: stood still for {gap_s:.2f} s, {len(arrivals.lost)} lost")
    assert gap_s < 1.0
    assert (progress.failure, progress.damaged) == ("", False)
    assert len(arrivals.lost) < 0.01 * arrivals.sent
    assert arrivals.duplicated == []
    (told,) = (peer for peer in lab.api("h1").status().peers if peer.nickname == "h2")
    gained = lab.plan.link("h1", "h2").end_at(2).moved_address
    assert told.addresses[0] == f"{gained}:6783", "what is new comes first"


def test_a_host_behind_nat_is_met_directly_where_it_advertises_that_its_gateway_forwards_to_it(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=3, containers=1, nat=[1, 2])
    assert lab.ping().ok
    forwarded = lab.plan.link("h1", "h2").end_at(2).address
    with Flow(lab, "h1c1", "h2c1", lab.address("h2c1")) as progress:
        wait_for(lambda: progress.bytes_received, lambda count: count > 1_000_000, 10)
        began = time.monotonic()
        lab.open_port("h2")
        lab.router("h2", "kill")
        with lab.store.changing() as state:
            state.launch_options += ["--advertise", forwarded]
        lab.router("h2", "start")
        wait_until_direct(lab, "h1", "h2")
        time.sleep(1.0)
        gap_s = progress.longest_gap_s(began)
        received = progress.bytes_received
        wait_for(lambda: progress.bytes_received, lambda count: count > received, 5)
    print(f"stood still for {gap_s:.2f} s")
    assert gap_s < 1.0
    assert (progress.failure, progress.damaged) == ("", False)
    (told,) = (peer for peer in lab.api("h1").status().peers if peer.nickname == "h2")
    assert told.addresses == [f"{forwarded}:6783"], "and nowhere else"


def wait_until_direct(lab: Lab, one: str, other: str) -> None:
    """Nobody does anything for it."""
    wait_for_route(lab, one, other, "direct", 20)
    wait_for_route(lab, other, one, "direct", 5)


def endpoint(lab: Lab, host: str, peer: str) -> str:
    """Where a host's datapath sends what is for a peer."""
    for session in lab.api(host).status().datapath.sessions:
        if session.nickname == peer and session.up:
            return session.endpoint
    return ""
