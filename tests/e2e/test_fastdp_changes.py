"""The fast path breaks and comes back, or a router does, under traffic that misses nothing."""

import os
import signal
import time

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.flow import Flow
from tests.e2e.traffic import Stream
from tests.e2e.tunnels import (
    AUTO,
    VXLAN,
    block_vxlan,
    both_ways,
    unblock_vxlan,
    wait_for_overlay,
)
from tests.e2e.waiting import connection, wait_for, wait_for_route
from weavepy.lab import routers
from weavepy.lab.lab import Lab, LinkChange

PAIR = both_ways(("h1", "h2"))

ON_SLEEVE_WITHIN_S = 5.0
BACK_WITHIN_S = 10.0

KILLS = int(os.environ.get("WEAVEPY_KILLS", "3"))
RATE = float(os.environ.get("WEAVEPY_KILLS_RATE", "3000"))
"""Datagrams per second while a router is killed again and again."""


def test_a_blocked_port_costs_five_seconds_and_no_connection(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=AUTO)
    wait_for_overlay(lab, PAIR, "fastdp")
    address = lab.address("h2c1")
    with (
        Flow(lab, "h1c1", "h2c1", address) as flow,
        Stream(lab, "h1c1", "h2c1") as there,
        Stream(lab, "h2c1", "h1c1") as back,
    ):
        wait_for(lambda: flow.bytes_received, lambda count: count > 1_000_000, 10)
        began = time.monotonic()
        block_vxlan(lab, "h1", "h2")
        wait_for_overlay(lab, PAIR, "sleeve", ON_SLEEVE_WITHIN_S + 1)
        fallback_s = time.monotonic() - began
        wait_for(lambda: len(there.counts), lambda count: count > 0, 1)
        time.sleep(1.0)
        there_gap_s, back_gap_s = there.longest_gap_s, back.longest_gap_s
        found = connection(lab, "h1", "h2")
        assert found is not None
        assert "UDP 6784 blocked?" in found.info
        sent = there.sent, back.sent

        began = time.monotonic()
        unblock_vxlan(lab, "h1", "h2")
        wait_for_overlay(lab, PAIR, "fastdp", BACK_WITHIN_S)
        print(f"sleeve after {fallback_s:.2f} s, back after {time.monotonic() - began:.2f} s")
        time.sleep(1.0)
    print(f"stood still for {there_gap_s:.2f} s and {back_gap_s:.2f} s")
    assert there.lost, "the block must have bitten"
    assert max(there_gap_s, back_gap_s) < ON_SLEEVE_WITHIN_S
    for stream, before in ((there, sent[0]), (back, sent[1])):
        assert [number for number in stream.lost if number >= before] == [], "on the way back"
    assert there.duplicated == back.duplicated == []
    assert flow.failure == ""
    assert not flow.damaged


@pytest.mark.alone
def test_no_frame_is_lost_while_a_router_is_killed_and_restarted(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=VXLAN)
    wait_for_overlay(lab, PAIR, "fastdp")
    with Stream(lab, "h1c1", "h2c1", rate=RATE) as there, Stream(lab, "h2c1", "h1c1") as back:
        for _ in range(KILLS):
            lab.router("h2", "kill")
            time.sleep(0.5)
            lab.router("h2", "start")
            time.sleep(1.5)
        wait_for_overlay(lab, PAIR, "fastdp", 20)
    assert there.sent > 5000
    for stream in (there, back):
        assert stream.lost == []
        assert stream.duplicated == []


def test_a_router_that_stays_away_loses_nothing_either(make_lab: MakeLab) -> None:
    """Its peer takes it for dead and goes by sleeve, whose datapath lives on."""
    lab = make_lab(hosts=2, containers=1, launch_options=AUTO)
    wait_for_overlay(lab, PAIR, "fastdp")
    with Stream(lab, "h1c1", "h2c1") as there, Stream(lab, "h2c1", "h1c1") as back:
        lab.router("h2", "kill")
        wait_for_overlay(lab, [("h1", "h2")], "sleeve", 6)
        lab.router("h2", "start")
        wait_for_overlay(lab, PAIR, "fastdp", 20)
    for stream in (there, back):
        assert stream.lost == []
        assert stream.duplicated == []


def test_a_datapath_that_dies_is_not_even_noticed(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=AUTO)
    wait_for_overlay(lab, PAIR, "fastdp")
    before = routers.datapath_pid(lab.store, lab.plan, lab.plan.node("h2"))
    assert before is not None
    with Stream(lab, "h1c1", "h2c1") as there, Stream(lab, "h2c1", "h1c1") as back:
        os.kill(before, signal.SIGKILL)
        wait_for(
            lambda: [session.up for session in lab.api("h2").status().datapath.sessions],
            lambda up: up == [True],
            15,
        )
        time.sleep(1.0)
    assert routers.datapath_pid(lab.store, lab.plan, lab.plan.node("h2")) != before
    for stream in (there, back):
        assert stream.lost == []
        assert stream.duplicated == []


def test_traffic_goes_round_a_cut_and_comes_back_to_the_fast_path(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1, launch_options=AUTO)
    wait_for_overlay(lab, PAIR, "fastdp")
    with Stream(lab, "h1c1", "h2c1") as cut:
        lab.link("h1", "h2", LinkChange(down=True))
        wait_for_route(lab, "h1", "h2", "relayed via h3", 10)
        time.sleep(1.0)
    assert cut.lost, "the cut must have bitten"
    assert cut.longest_gap_s < ON_SLEEVE_WITHIN_S
    assert cut.duplicated == []
    assert lab.ping(count=1).ok
    for one, other in PAIR:
        shown = lab.exec(one, ["weavepy", "connect", _address_of(lab, other)])
        assert shown.returncode == 0, shown.stderr
    with Stream(lab, "h1c1", "h2c1") as healed:
        lab.link("h1", "h2", LinkChange(down=False))
        wait_for_overlay(lab, PAIR, "fastdp", 40)
        time.sleep(1.0)
    assert healed.lost == []
    assert healed.duplicated == []


def test_a_host_that_moves_gets_another_tunnel(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=AUTO)
    wait_for_overlay(lab, PAIR, "fastdp")
    old = _remote(lab, "h2")
    with Stream(lab, "h1c1", "h2c1") as there, Stream(lab, "h2c1", "h1c1") as back:
        lab.move("h1")
        wait_for(lambda: _remote(lab, "h2"), lambda seen: seen not in ("", old), 15)
        wait_for_overlay(lab, PAIR, "fastdp", 20)
        time.sleep(1.0)
    print(f"stood still for {there.longest_gap_s:.2f} s and {back.longest_gap_s:.2f} s")
    assert max(there.longest_gap_s, back.longest_gap_s) < ON_SLEEVE_WITHIN_S
    assert there.duplicated == back.duplicated == []


def _address_of(lab: Lab, host: str) -> str:
    return lab.plan.link("h1", "h2").end_at(int(host[1:])).address


def _remote(lab: Lab, host: str) -> str:
    fastdp = lab.api(host).status().fastdp
    assert fastdp is not None
    return "".join(tunnel.remote for tunnel in fastdp.tunnels if tunnel.state == "fastdp")


def test_tunnels_are_left_only_by_a_router_that_is_told_to_or_killed(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=AUTO)
    wait_for_overlay(lab, PAIR, "fastdp")
    stop = ["weavepy", "stop"]
    for line, left in (([*stop, "--keep-datapath"], True), (stop, False)):
        shown = lab.exec("h1", line)
        assert shown.returncode == 0, shown.stderr
        assert has_tunnels(lab, "h1") == left, line
    lab.router("h2", "kill")
    assert has_tunnels(lab, "h2")
    shown = lab.exec("h2", stop)
    assert shown.returncode == 0, shown.stderr
    assert not has_tunnels(lab, "h2")


def has_tunnels(lab: Lab, host: str) -> bool:
    """With the guard before them; one without the other is an error."""
    devices = "wvx" in lab.exec(host, ["ip", "-o", "link", "show", "type", "vxlan"]).stdout
    guard = "weavepy_fastdp" in lab.exec(host, ["nft", "list", "tables"]).stdout
    assert devices == guard
    return devices


def test_what_others_break_is_repaired_within_ten_seconds(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=AUTO)
    wait_for_overlay(lab, PAIR, "fastdp")
    with Stream(lab, "h1c1", "h2c1") as there, Stream(lab, "h2c1", "h1c1") as back:
        for command in (
            ["nft", "flush", "ruleset"],
            ["ip", "link", "delete", tunnel_device(lab, "h1")],
            ["ip", "link", "set", tunnel_device(lab, "h1"), "nomaster"],
            ["ip", "link", "set", tunnel_device(lab, "h1"), "down"],
        ):
            assert lab.exec("h1", command).returncode == 0, command
            time.sleep(0.5)
            wait_for(lambda: is_whole(lab, "h1"), lambda whole: whole, BACK_WITHIN_S)
        wait_for_overlay(lab, PAIR, "fastdp", 15)
        time.sleep(1.0)
    print(f"stood still for {there.longest_gap_s:.2f} s and {back.longest_gap_s:.2f} s")
    print(f"lost {len(there.lost)} and {len(back.lost)}")
    assert max(there.longest_gap_s, back.longest_gap_s) < ON_SLEEVE_WITHIN_S
    assert there.duplicated == back.duplicated == []


def is_whole(lab: Lab, host: str) -> bool:
    """The tunnel is an isolated port of the bridge, up, and the guard stands."""
    device = tunnel_device(lab, host)
    shown = lab.exec(host, ["ip", "-d", "link", "show", device]).stdout
    tables = lab.exec(host, ["nft", "list", "tables"]).stdout
    return (
        bool(device)
        and all(word in shown for word in ("isolated on", "master weave", "state UNKNOWN"))
        and "weavepy_fastdp" in tables
    )


def tunnel_device(lab: Lab, host: str) -> str:
    """Its name; empty if there is none."""
    shown = lab.exec(host, ["ip", "-o", "link", "show", "type", "vxlan"]).stdout
    return shown.split(":")[1].strip() if shown else ""
