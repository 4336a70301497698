"""Between hosts that may use it, the kernel carries the frames, and sleeve carries none."""

import json

import pytest

from tests.e2e.broadcasts import assert_each_broadcast_arrives_once
from tests.e2e.conftest import MakeLab
from tests.e2e.tunnels import (
    AUTO,
    VXLAN,
    block_vxlan,
    both_ways,
    sleeve_frames,
    sleeve_standing_still,
    wait_for_overlay,
)
from tests.e2e.waiting import connection, route, wait_for_all_pings
from weavepy.lab.lab import Lab

IPERF_S = 3

ALL = both_ways(("h1", "h2"), ("h1", "h3"), ("h2", "h3"))


def test_three_hosts_use_it_for_every_pair_and_sleeve_stands_still(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1, launch_options=VXLAN)
    wait_for_overlay(lab, ALL, "fastdp")
    assert lab.ping().ok
    shown = lab.exec("h1", ["weavepy", "status", "connections"]).stdout
    assert shown.count("fastdp, not encrypted") == 2, shown
    for host, other in ALL:
        found = connection(lab, host, other)
        assert found is not None
        assert (found.state, found.info, found.overlay_mtu_bytes) == ("established", "", 1450)
    with sleeve_standing_still(lab):
        gbps = iperf(lab, "h1c1", "h2c1")
    print(f"{gbps:.2f} Gbit/s")
    assert gbps > 0.1
    assert_each_broadcast_arrives_once(lab)
    fastdp = lab.api("h1").status().fastdp
    assert fastdp is not None
    assert [tunnel.state for tunnel in fastdp.tunnels] == ["fastdp", "fastdp"]
    assert max(tunnel.bytes_sent for tunnel in fastdp.tunnels) > 1_000_000
    assert all(counter.value == 0 for counter in fastdp.refused), fastdp.refused


def test_a_mixed_mesh_of_five_reaches_all_and_broadcasts_arrive_once(make_lab: MakeLab) -> None:
    """h1, h2 and h3 reach each other; h4 and h5 are behind NAT, so a third relays between them."""
    lab = make_lab(hosts=5, containers=1, nat=[4, 5], launch_options=AUTO)
    block_vxlan(lab, "h1", "h3")
    fast = both_ways(("h1", "h2"), ("h2", "h3"))
    wait_for_overlay(lab, fast, "fastdp", 20)
    wait_for_overlay(lab, both_ways(("h1", "h3"), ("h1", "h4"), ("h2", "h5")), "sleeve", 20)
    assert route(lab, "h4", "h5").startswith("relayed via ")
    wait_for_all_pings(lab, 10)
    assert_each_broadcast_arrives_once(lab)
    wait_for_overlay(lab, fast, "fastdp", 1)
    blocked = connection(lab, "h1", "h3")
    assert blocked is not None
    assert "UDP 6784 blocked?" in blocked.info
    behind = connection(lab, "h1", "h4")
    assert behind is not None
    assert behind.info.startswith("sleeve: ")


@pytest.mark.parametrize("hosts", [3, 4])
def test_in_a_chain_those_between_pass_broadcasts_on(make_lab: MakeLab, hosts: int) -> None:
    """Neighbours are fast; frames between the others are relayed by sleeve."""
    options = [*AUTO, "--no-discovery"]
    lab = make_lab(hosts=hosts, containers=1, topology="chain", launch_options=options)
    links = [(f"h{number}", f"h{number + 1}") for number in range(1, hosts)]
    wait_for_overlay(lab, both_ways(*links), "fastdp")
    wait_for_all_pings(lab, 10)
    assert_each_broadcast_arrives_once(lab)
    assert iperf(lab, "h1c1", f"h{hosts}c1") > 0.01


def test_it_works_between_ipv6_addresses(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, family="ipv6", launch_options=AUTO)
    wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp")
    before = sleeve_frames(lab, "h1")
    assert passes(lab, 1400)
    assert sleeve_frames(lab, "h1") - before < 20


def test_the_mtu_follows_the_underlay_and_what_the_mesh_is_made_for(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, mtu_bytes=9000, launch_options=AUTO)
    wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp")
    assert lab.api("h1").status().datapath.mtu_bytes == 8900
    assert passes(lab, 8900)
    assert not passes(lab, 8901)


def test_made_for_it_a_mesh_has_the_largest_mtu_and_sleeve_can_still_carry_it(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=VXLAN)
    wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp")
    assert lab.api("h1").status().datapath.mtu_bytes == 1450
    assert passes(lab, 1450)
    block_vxlan(lab, "h1", "h2")
    wait_for_overlay(lab, both_ways(("h1", "h2")), "sleeve", 6)
    assert passes(lab, 1450, fragment="dont")
    assert iperf(lab, "h1c1", "h2c1") > 0.05


def passes(lab: Lab, packet_bytes: int, fragment: str = "do") -> bool:
    shown = lab.exec(
        "h1c1",
        [
            *("ping", "-M", fragment, "-c", "2", "-W", "1", "-s", str(packet_bytes - 28)),
            lab.address("h2c1"),
        ],
    )
    return shown.returncode == 0


def iperf(lab: Lab, source: str, destination: str) -> float:
    """Gbit/s of one stream, as received."""
    address = lab.address(destination)
    started = lab.exec(destination, ["iperf3", "-s", "-1", "-D", "-B", address])
    assert started.returncode == 0, started.stderr
    done = lab.exec(source, ["iperf3", "-J", "-c", address, "-t", str(IPERF_S)])
    assert done.returncode == 0, done.stdout
    measured = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
    assert isinstance(measured, float)
    return measured / 1e9
