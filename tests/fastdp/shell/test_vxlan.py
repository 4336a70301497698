"""Tunnels in real namespaces: made, carrying, retired, removed."""

import time
from collections.abc import Callable
from functools import partial

import pytest

from fastdp.core.choice import MAX_TUNNELS
from fastdp.core.effects import Tunnel
from fastdp.shell.device import device_name
from fastdp.shell.vxlan import OVERHEAD_BYTES
from tests.fastdp.shell.conftest import BRIDGE, TAP, World, joined
from tests.namespaces import ping
from weavepy.base.names import PeerName

pytestmark = pytest.mark.root


def test_this_host_has_what_it_takes(world: World) -> None:
    (host,) = world.hosts(1)
    before = host.run("ip -br link")

    assert host.on(host.driver.available) == ""

    assert host.run("ip -br link") == before
    # One that was killed as it tried left this behind.
    host.run("ip link add wvxprobe type vxlan id 16777215 dstport 6784")
    assert host.on(host.driver.available) == ""
    assert host.run("ip -br link") == before


@pytest.mark.parametrize("ipv6", [False, True])
def test_containers_of_two_hosts_reach_each_other(world: World, ipv6: bool) -> None:
    one, two = world.hosts(2)
    joined(one, two, ipv6=ipv6)

    ping(one.container, two.container_address)

    assert one.fdb()[two.container_mac().hex(":")] == device_name(2)
    traffic = one.on(one.driver.counters).tunnels[two.peer]
    assert traffic.frames_sent >= 2
    assert traffic.frames_received >= 2


def test_pairs_over_both_ip_versions_work_side_by_side(world: World) -> None:
    one, two, three = world.hosts(3)
    one.arrange(one.tunnel(two), one.tunnel(three, three.address6))
    two.arrange(two.tunnel(one))
    three.arrange(three.tunnel(one, one.address6))
    for host, other in ((one, two), (two, one), (one, three), (three, one)):
        host.carry(other)

    ping(one.container, two.container_address)
    ping(one.container, three.container_address)


def test_a_tunnel_is_quiet_until_it_carries_and_after_it_is_retired(world: World) -> None:
    one, two = world.hosts(2)
    for host, other in ((one, two), (two, one)):
        host.arrange(host.tunnel(other))
    for name in ("flood", "mcast_flood", "bcast_flood", "learning"):
        assert not one.flag("wvx002", name)
    assert one.flag("wvx002", "isolated")
    assert one.flag(TAP, "isolated")
    assert "df set" in one.run("ip -d link show wvx002")

    mac = two.container_mac()
    one.carry(two, mac)
    assert one.flag("wvx002", "flood")
    assert one.flag("wvx002", "learning")
    assert one.fdb()[mac.hex(":")] == "wvx002"
    assert one.on(partial(one.driver.macs, two.peer)) == [mac]

    one.retire(two, mac)
    for name in ("flood", "mcast_flood", "bcast_flood", "learning"):
        assert not one.flag("wvx002", name)
    assert one.fdb()[mac.hex(":")] == TAP
    assert one.on(partial(one.driver.macs, two.peer)) == []


def test_a_tunnel_is_retired_also_while_the_tap_has_no_carrier(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    mac = two.container_mac()
    one.carry(two, mac)
    one.run("ip link set beyond down")

    one.retire(two, mac)

    assert one.fdb() == {}


def test_retiring_a_tunnel_that_was_deleted_still_points_frames_to_the_tap(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    one.run("ip link del wvx002")

    one.retire(two, two.container_mac())

    assert one.fdb() == {two.container_mac().hex(":"): TAP}


def test_a_host_between_two_others_passes_nothing_on(world: World) -> None:
    one, two, three = world.hosts(3)
    for host, others in ((one, [two]), (two, [one, three]), (three, [two])):
        host.arrange(*(host.tunnel(other) for other in others))
        for other in others:
            host.carry(other)
    ping(one.container, two.container_address)
    ping(three.container, two.container_address)

    # Answered, a ping from 1 would have gone through the bridge of 2.
    with pytest.raises(AssertionError, match="100% packet loss"):
        ping(one.container, three.container_address)


def test_a_tunnel_to_a_new_address_is_a_new_one_and_not_yet_carrying(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)

    arranged = one.arrange(one.tunnel(two, "10.0.0.77"))

    assert arranged.errors == {}
    assert arranged.repairs == []
    assert "remote 10.0.0.77" in one.run("ip -d link show wvx002")
    assert not one.flag("wvx002", "flood")


def test_the_macs_of_the_host_itself_are_not_given_away(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    one.run(f"ip addr add 10.32.0.100/24 dev {BRIDGE}")
    own = one.run(f"cat /sys/class/net/{BRIDGE}/address").strip()

    one.carry(two, bytes.fromhex(own.replace(":", "")), b"\xff" * 6, b"\1\0\0\0\0\0")

    assert own not in one.fdb()
    ping(one.container, "10.32.0.100")


def test_nothing_is_left_when_all_is_removed(world: World) -> None:
    one, two = world.hosts(2)
    before = one.run("ip -br link")
    joined(one, two)

    one.on(one.driver.remove_all)

    assert one.run("ip -br link") == before
    assert one.run("nft list ruleset") == ""


@pytest.mark.parametrize("underlay_mtu", [1500, 9000])
def test_a_packet_may_be_as_large_as_the_underlay_less_what_vxlan_adds(
    make_world: Callable[..., World], underlay_mtu: int
) -> None:
    one, two = make_world(underlay_mtu).hosts(2)
    overlay_mtu = underlay_mtu - OVERHEAD_BYTES[4]
    joined(one, two, mtu_bytes=overlay_mtu)

    one.in_container(f"ping -c1 -W2 -M do -s {overlay_mtu - 28} {two.container_address}")


@pytest.mark.slow
def test_as_many_tunnels_as_there_may_be_and_one_that_carries(world: World) -> None:
    one, two = world.hosts(2)
    far = [
        Tunnel(PeerName(f"00:00:00:00:{n >> 8:02x}:{n & 255:02x}"), n, 1 << 12 | n, "10.0.0.9")
        for n in range(3, MAX_TUNNELS + 2)
    ]
    two.arrange(two.tunnel(one))
    two.carry(one)

    arranged = one.arrange(one.tunnel(two), *far)
    one.carry(two)

    assert len(arranged.ports) == MAX_TUNNELS
    assert arranged.errors == {}
    ping(one.container, two.container_address)
    start = time.monotonic()
    assert one.arrange(one.tunnel(two), *far).repairs == []
    looked_s = time.monotonic() - start
    start = time.monotonic()
    one.on(one.driver.remove_all)
    print(f"looking through them {looked_s:.1f} s, removing {time.monotonic() - start:.1f} s")
    assert looked_s < 2.0
