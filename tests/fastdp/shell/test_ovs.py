"""Tunnels by Open vSwitch's userspace datapath, in real namespaces."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fastdp.core.effects import AdoptedTunnel, Tunnel
from fastdp.shell.ovs import OvsDriver
from tests.fastdp.shell.conftest import BRIDGE, TAP, Host, World, joined
from tests.namespaces import ping
from tests.openvswitch import DATABASE, SWITCH, OpenVSwitch, why_not
from weavepy.base.names import PeerName
from weavepy.kernel.netlink import HostError

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can"),
]

PEER = PeerName("00:00:00:00:00:99")
"""Far away."""
MAC = bytes.fromhex("020000000099")

MakeHosts = Callable[[int], list[Host]]


@pytest.fixture
def make_hosts(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeHosts]:
    """Hosts with an Open vSwitch each."""
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
    hosts: list[Host] = []

    def make(count: int) -> list[Host]:
        for host in world.hosts(count):
            hosts.append(host.with_open_vswitch(tmp_path / f"h{host.number}"))
        return hosts

    try:
        yield make
    finally:
        for host in hosts:
            switch_of(host).stop()


def switch_of(host: Host) -> OpenVSwitch:
    assert host.switch is not None
    return host.switch


def test_containers_of_two_hosts_reach_each_other(make_hosts: MakeHosts) -> None:
    one, two = make_hosts(2)
    assert one.on(one.driver.available) == ""
    assert one.driver.title == "ovs, userspace datapath"  # type: ignore[attr-defined]
    joined(one, two)

    ping(one.container, two.container_address)

    assert one.fdb()[two.container_mac().hex(":")] == "wov002"
    traffic = one.on(one.driver.counters).tunnels[two.peer]
    assert traffic.frames_sent >= 2
    assert traffic.frames_received >= 2


def test_hosts_with_and_without_it_are_one_mesh(world: World, make_hosts: MakeHosts) -> None:
    (one,) = make_hosts(1)
    two = world.host(2)
    # What real interfaces do: complete checksums before packets leave the host.
    two.run("ethtool -K eth0 tx off")
    joined(one, two)
    ping(one.container, two.container_address)

    joined(one, two, ipv6=True)
    ping(one.container, two.container_address)


def test_a_tunnel_is_quiet_until_it_carries_and_after_it_is_retired(make_hosts: MakeHosts) -> None:
    (one,) = make_hosts(1)
    tunnel = Tunnel(PEER, 2, 4098, "10.0.0.2")
    arranged = one.arrange(tunnel)
    assert arranged.errors == {}
    assert arranged.ports[PEER].interface == "wov002"
    assert not one.flag("wov002", "flood")
    assert one.flag("wov002", "isolated")
    assert one.flag(TAP, "isolated")

    one.on(partial(one.driver.carry, PEER, [MAC]))
    assert one.flag("wov002", "flood")
    assert one.fdb()[MAC.hex(":")] == "wov002"
    assert one.on(partial(one.driver.macs, PEER)) == [MAC]

    one.arrange(replace(tunnel, remote_host="10.0.0.3"))
    assert not one.flag("wov002", "flood"), "to a new address it is another tunnel"
    assert one.fdb() == {}

    one.on(partial(one.driver.carry, PEER, [MAC]))
    switch_of(one).signal(SWITCH, signal.SIGSTOP)
    one.on(partial(one.driver.retire, PEER, [MAC]))
    assert not one.flag("wov002", "flood"), "that needs no word to OVS"
    assert one.fdb()[MAC.hex(":")] == TAP
    switch_of(one).signal(SWITCH, signal.SIGCONT)


HARMS = {
    "ovs-vsctl del-br weave-ovs": "weave-ovs was changed or deleted",
    "ovs-vsctl del-port weave-ovs wov002": "wov002 was deleted",
    "ovs-vsctl del-port weave-ovs wovtun": "wovtun was changed or deleted",
    "ovs-vsctl set-fail-mode weave-ovs standalone": "weave-ovs was changed or deleted",
    "ovs-vsctl set interface wovtun options:dst_port=4789": "wovtun was changed or deleted",
    "ovs-ofctl -O OpenFlow14 del-flows weave-ovs": "weave-ovs had other flows",
    "ovs-ofctl -O OpenFlow14 add-flow weave-ovs action=normal": "weave-ovs had other flows",
    "ip link set wov002 nomaster": "wov002 was taken out of weave",
    "ip link set wov002 type bridge_slave isolated off": "wov002 had other port flags",
}


def test_what_others_break_is_mended(make_hosts: MakeHosts) -> None:
    """One after the other, between the same hosts: daemons cost more than repairs."""
    one, two = make_hosts(2)
    joined(one, two)
    ping(one.container, two.container_address)
    switch = switch_of(one)
    flows = flows_of(one)
    for harm, repair in HARMS.items():
        environment = f"OVS_RUNDIR={switch.directory}"
        one.run(f"env {environment} {harm}")

        repairs = one.arrange(one.tunnel(two)).repairs

        assert any(repair in line for line in repairs), (harm, repairs)
        assert flows_of(one) == flows, harm
        assert one.flag("wov002", "isolated"), harm
        assert one.flag("wov002", "flood"), harm
        assert one.arrange(one.tunnel(two)).repairs == [], harm
        ping(one.container, two.container_address)


def test_a_router_that_comes_after_us_adopts_carrying_tunnels(make_hosts: MakeHosts) -> None:
    one, two = make_hosts(2)
    joined(one, two)
    one.arrange(one.tunnel(two), Tunnel(PEER, 3, 4099, "10.0.0.3"))
    index = one.run("cat /sys/class/net/wov002/ifindex")
    flows = flows_of(one)

    one.driver = OvsDriver(BRIDGE, TAP)
    adopted = one.on(one.driver.adopt)
    assert one.on(one.driver.available) == ""
    assert flows_of(one) == flows
    arranged = one.arrange(one.tunnel(two))

    assert adopted == [
        AdoptedTunnel(two.peer, 2, 1 << 12 | 2, two.address, True),
        AdoptedTunnel(PEER, 3, 1 << 12 | 3, "10.0.0.3", False),
    ]
    assert (list(arranged.ports), arranged.errors, arranged.repairs) == ([two.peer], {}, [])
    assert one.run("cat /sys/class/net/wov002/ifindex") == index
    assert "wov003" not in one.run("ip link")
    ping(one.container, two.container_address)

    one.on(one.driver.remove_all)
    assert switch_of(one).vsctl("list-br").split() == ["p-eth0"]
    assert "wov" not in one.run("ip link")
    assert one.run("nft list ruleset") == ""
    assert not one.on(one.driver.left)


def test_what_comes_from_no_tunnel_is_dropped_and_counted(make_hosts: MakeHosts) -> None:
    one, two = make_hosts(2)
    joined(one, two)
    ping(one.container, two.container_address)  # The first frame waits for the underlay's ARP.
    before = one.refused()
    # A peer with another's network id, then a host that is no peer.
    two.arrange(replace(two.tunnel(one), network_id=77))
    two.carry(one)
    shout(two)
    wait_until(lambda: one.refused()["forged_id"] >= before["forged_id"] + 3)
    one.arrange(Tunnel(PEER, 3, 4099, "10.0.0.3"))
    shout(two)
    wait_until(lambda: one.refused()["forged_source"] >= before["forged_source"] + 3)


def test_daemons_that_do_not_answer_are_one_clear_error_and_soon_said(
    make_hosts: MakeHosts,
) -> None:
    one, two = make_hosts(2)
    joined(one, two)
    switch = switch_of(one)

    switch.signal(SWITCH, signal.SIGSTOP)
    began = time.monotonic()
    arranged = one.arrange(one.tunnel(two))
    assert time.monotonic() - began < 15
    assert arranged.ports == {}, "no heartbeat says that frames pass"
    assert "Open vSwitch does not answer" in arranged.errors[two.peer]
    switch.signal(SWITCH, signal.SIGCONT)
    assert one.arrange(one.tunnel(two)).errors == {}

    switch.signal(DATABASE, signal.SIGKILL)
    with pytest.raises(HostError, match="Open vSwitch is not running"):
        one.arrange(one.tunnel(two))
    switch.start_daemon(DATABASE)
    wait_until(lambda: one.arrange(one.tunnel(two)).errors == {})

    switch.stop()
    assert "Open vSwitch is not running" in one.arrange(one.tunnel(two)).errors[two.peer]
    assert one.on(one.driver.left)
    with pytest.raises(HostError, match="Open vSwitch is not running"):
        one.on(one.driver.remove_all)
    assert "wov" not in one.run("ip link"), "what it left is taken away without it"


def test_what_stands_in_the_way_is_one_clear_line(
    make_hosts: MakeHosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (one,) = make_hosts(1)
    switch = switch_of(one)

    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(without_rights(tmp_path / "tools")), prepend=os.pathsep)
        assert one.on(one.driver.available).startswith("Open vSwitch: not permitted")

    switch.vsctl("add-br", "weave-ovs", "--", "set", "bridge", "weave-ovs", "datapath_type=netdev")
    assert "a bridge weave-ovs that is not ours" in one.on(one.driver.available)
    one.on(one.driver.remove_all)
    assert "weave-ovs" in switch.vsctl("list-br").split()
    switch.vsctl("del-br", "weave-ovs")

    auto = OvsDriver(BRIDGE, TAP, kernel_only=True)
    assert one.on(auto.available).startswith("Open vSwitch has no kernel datapath here")
    assert "weave-ovs" not in switch.vsctl("list-br").split()

    far = one.arrange(Tunnel(PEER, 3, 4099, "192.0.2.1"))
    assert far.errors[PEER] == "there is no route to 192.0.2.1"
    one.run("ip addr flush dev p-eth0")
    assert "needs the underlay on a bridge of its own" in one.on(one.driver.available)

    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("fastdp.shell.openvswitch.SYSTEM_PATH", "/nonexistent")
    assert one.on(one.driver.available).startswith("Open vSwitch is not installed")


def without_rights(directory: Path) -> Path:
    """A place with an `ovs-vsctl` that is the real one, run by somebody who may not."""
    directory.mkdir()
    tool = directory / "ovs-vsctl"
    setpriv = "setpriv --reuid=65534 --clear-groups"
    tool.write_text(f'#!/bin/sh\nexec {setpriv} /usr/bin/ovs-vsctl "$@"\n')
    tool.chmod(0o755)
    return directory


def shout(host: Host) -> None:
    """Three broadcasts that nobody answers."""
    command = ["ping", "-c", "3", "-i", "0.2", "-W", "0.2", "-b", "10.32.0.255"]
    subprocess.run(
        ["ip", "netns", "exec", host.container.name, *command], capture_output=True, check=False
    )


def flows_of(host: Host) -> str:
    return switch_of(host).ofctl("--no-stats", "dump-flows", "weave-ovs")


def wait_until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """A refusal is as good as no."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if holds():
                return
        except HostError as error:
            print(error)
        assert time.monotonic() < deadline
        time.sleep(0.1)
