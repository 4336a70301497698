"""The fast path by Open vSwitch, in its userspace datapath; tests/kernel has the other one.

That datapath carries the hosts' own traffic, too, as their addresses are on it: so here a daemon
that dies takes sleeve along, and what sleeve does then is a test of the kernel datapath.
"""

import subprocess
import time

import pytest

from tests.e2e.broadcasts import assert_each_broadcast_arrives_once
from tests.e2e.conftest import MakeLab
from tests.e2e.flow import Flow
from tests.e2e.switches import Switches
from tests.e2e.test_fastdp_used import iperf
from tests.e2e.traffic import Stream
from tests.e2e.tunnels import (
    OVS,
    block_vxlan,
    both_ways,
    sleeve_standing_still,
    unblock_vxlan,
    wait_for_overlay,
)
from tests.e2e.waiting import wait_for
from tests.openvswitch import why_not
from weavepy.client import schema
from weavepy.lab.lab import Lab
from weavepy.lab.plan import Plan

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")

PAIR = both_ways(("h1", "h2"))
ALL = both_ways(("h1", "h2"), ("h1", "h3"), ("h2", "h3"))


def test_three_hosts_use_it_for_every_pair_and_sleeve_stands_still(make_lab: MakeLab) -> None:
    switches = Switches()
    lab = make_lab(hosts=3, containers=1, launch_options=OVS, before_routers=switches.set_up)
    wait_for_overlay(lab, ALL, "fastdp", 30)
    assert lab.ping().ok
    shown = lab.exec("h1", ["weavepy", "status", "connections"]).stdout
    assert shown.count("fastdp, not encrypted") == 2, shown
    with sleeve_standing_still(lab):
        gbps = iperf(lab, "h1c1", "h2c1")
    print(f"{gbps:.2f} Gbit/s")
    assert_each_broadcast_arrives_once(lab)
    fast = fastdp(lab, "h1")
    assert fast.driver == "ovs, userspace datapath"
    assert all(counter.value == 0 for counter in fast.refused), fast.refused
    lab.router("h2", "kill")
    assert "weave-ovs" in switches["h2"].vsctl("list-br")
    for host in ("h1", "h2"):
        stopped = lab.exec(host, ["weavepy", "stop"])
        assert stopped.returncode == 0, stopped.stderr
        assert "weave-ovs" not in switches[host].vsctl("list-br")
        assert "wov" not in lab.exec(host, ["ip", "link"]).stdout


def test_a_blocked_port_costs_five_seconds_and_no_connection(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=OVS, before_routers=Switches().set_up)
    wait_for_overlay(lab, PAIR, "fastdp", 30)
    with (
        Flow(lab, "h1c1", "h2c1", lab.address("h2c1")) as flow,
        Stream(lab, "h1c1", "h2c1") as there,
        Stream(lab, "h2c1", "h1c1") as back,
    ):
        wait_for(lambda: flow.bytes_received, lambda count: count > 1_000_000, 20)
        block_vxlan(lab, "h1", "h2")
        wait_for_overlay(lab, PAIR, "sleeve", 6)
        time.sleep(1.0)
        longest_gap_s = max(there.longest_gap_s, back.longest_gap_s)
        unblock_vxlan(lab, "h1", "h2")
        wait_for_overlay(lab, PAIR, "fastdp", 10)
        time.sleep(1.0)
    assert there.lost, "the block must have bitten"
    assert longest_gap_s < 5.0
    assert there.duplicated == back.duplicated == []
    assert flow.failure == ""
    assert not flow.damaged


def test_what_stands_in_its_way_is_one_clear_line_and_sleeve_goes_on(make_lab: MakeLab) -> None:
    """On h1 it is not installed, on h2 there is a foreign bridge, on h3 the underlay is on no
    bridge of its own, and on h4 no daemon runs, which can change."""
    switches = Switches(["h2", "h3"], underlay=False)

    def set_up(plan: Plan) -> None:
        switches.set_up(plan)
        foreign = ["set", "bridge", "weave-ovs", "datapath_type=netdev"]
        switches["h2"].vsctl("add-br", "weave-ovs", "--", *foreign)

    lab = make_lab(hosts=4, containers=1, launch_options=OVS, before_routers=set_up)
    lab.router("h1", "stop")
    launch_without_open_vswitch(lab, "h1")
    wait_for(lambda: lab.ping(count=1).ok, lambda ok: ok, 30)
    lines = {
        "h1": "Open vSwitch is not installed (no ovs-vsctl): `apt-get install openvswitch-switch`",
        "h2": "Open vSwitch has a bridge weave-ovs that is not ours",
        "h3": "Open vSwitch has only its userspace datapath here",
    }
    for host, line in lines.items():
        assert line in fastdp(lab, host).reason
        assert log_of(lab, host).count(line) == 1
        assert fastdp(lab, host).driver == ""
    assert fastdp(lab, "h4").reason == ""
    others = fastdp(lab, "h4").tunnels
    assert {tunnel.state for tunnel in others} == {"sleeve"}
    assert all("the other end does not want a fast path: not ovs: " in it.reason for it in others)
    assert log_of(lab, "h4").count("Open vSwitch is not running") == 1
    assert "weave-ovs" in switches["h2"].vsctl("list-br"), "it is not ours to remove"


def launch_without_open_vswitch(lab: Lab, host: str) -> None:
    """Nothing to be executed is where its tool was, for this router alone."""
    hide = 'mount --bind /dev/null /usr/bin/ovs-vsctl && exec "$@"'
    options = [*OVS, "--nickname", host, *lab.plan.targets(1)]
    launch = ["sh", "-c", hide, "sh", "weavepy", "launch", "--detach", *options]
    command, environment = lab.command(host, ["unshare", "-m", *launch])
    # Without pipes, which the router would keep open.
    started = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    assert started.returncode == 0


def log_of(lab: Lab, host: str) -> str:
    files = lab.store.launch_log(host), lab.store.directories(host).log_file
    return "".join(file.read_text() for file in files if file.exists())


def fastdp(lab: Lab, host: str) -> schema.FastdpStatus:
    found = lab.api(host).status().fastdp
    assert found is not None
    return found
