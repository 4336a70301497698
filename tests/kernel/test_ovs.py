"""Tunnels by Open vSwitch's kernel datapath, and what frames do when its daemons die."""

import signal
import time

import pytest

from tests.e2e.broadcasts import assert_each_broadcast_arrives_once
from tests.e2e.conftest import MakeLab
from tests.e2e.switches import Switches
from tests.e2e.traffic import Stream
from tests.e2e.tunnels import AUTO, both_ways, sleeve_standing_still, wait_for_overlay
from tests.e2e.waiting import connection, wait_for
from tests.openvswitch import DATABASE, SWITCH, OpenVSwitch, load_kernel_datapath, why_not
from weavepy.lab.lab import Lab

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")

ALL = both_ways(("h1", "h2"), ("h1", "h3"), ("h2", "h3"))
OF_H2 = both_ways(("h1", "h2"), ("h2", "h3"))


def test_two_hosts_with_it_and_one_without_are_a_mesh_that_survives_its_daemons(
    make_lab: MakeLab,
) -> None:
    """`auto` takes it on two hosts, and the kernel's VXLAN device on the third."""
    load_kernel_datapath()
    switches = Switches(["h1", "h2"], underlay=False)
    lab = make_lab(hosts=3, containers=1, launch_options=AUTO, before_routers=switches.set_up)
    wait_for_overlay(lab, ALL, "fastdp", 30)
    with sleeve_standing_still(lab, but=10):
        assert lab.ping().ok
    assert_each_broadcast_arrives_once(lab)
    assert driver(lab, "h1") == driver(lab, "h2") == ("ovs, kernel datapath", "")
    made_by, better = driver(lab, "h3")
    assert made_by == "vxlan"
    assert better.startswith("not ovs: Open vSwitch is not running")

    with Stream(lab, "h1c1", "h2c1") as there:
        lab.router("h2", "kill")
        lab.router("h2", "start")
        wait_for_overlay(lab, ALL, "fastdp", 30)
    assert there.lost == there.duplicated == [], "tunnels are adopted"
    database_dies_in_mid_change(lab, switches["h2"])
    switch_dies(lab, switches["h2"])


def database_dies_in_mid_change(lab: Lab, of_h2: OpenVSwitch) -> None:
    with Stream(lab, "h1c1", "h2c1") as there:
        of_h2.signal(DATABASE, signal.SIGKILL)
        lab.router("h3", "stop")
        lab.router("h3", "start")
        wait_for(lambda: info(lab, "h2", "h3"), lambda said: NOT_RUNNING in said, 20)
    assert there.lost == there.duplicated == [], "what has a tunnel does not even notice"
    wait_for(lambda: lab.ping(count=1).ok, lambda ok: ok, 20)
    of_h2.start_daemon(DATABASE)
    wait_for_overlay(lab, ALL, "fastdp", 30)


def switch_dies(lab: Lab, of_h2: OpenVSwitch) -> None:
    with Stream(lab, "h1c1", "h2c1") as there:
        of_h2.signal(SWITCH, signal.SIGKILL)
        wait_for_overlay(lab, OF_H2, "sleeve", 15)
        assert NOT_RUNNING in info(lab, "h2", "h1")
        wait_for(lambda: lab.ping(count=1).ok, lambda ok: ok, 10)
        gap_s, sent = there.longest_gap_s, there.sent
        of_h2.start_daemon(SWITCH)
        wait_for_overlay(lab, OF_H2, "fastdp", 30)
        time.sleep(1.0)
    print(f"stood still for {gap_s:.2f} s")
    assert there.duplicated == []
    assert [number for number in there.lost if number >= sent] == [], "on the way back"
    log = lab.store.launch_log("h2").read_text()
    assert 1 <= log.count("tunnels cannot be looked after: Open vSwitch is not running") <= 4, log


NOT_RUNNING = "Open vSwitch is not running"


def info(lab: Lab, host: str, to: str) -> str:
    found = connection(lab, host, to)
    return "" if found is None else found.info


def driver(lab: Lab, host: str) -> tuple[str, str]:
    found = lab.api(host).status().fastdp
    assert found is not None
    return found.driver, found.better
