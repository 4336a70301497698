"""Tunnels in real namespaces: made, adopted, repaired, and what they carry."""

import re
import time
from collections.abc import Callable
from functools import partial

import pytest

from fastdp.core.choice import MAX_TUNNELS
from fastdp.core.effects import AdoptedTunnel, Tunnel
from fastdp.shell.device import device_name
from fastdp.shell.vxlan import OVERHEAD_BYTES, VxlanDriver
from tests.fastdp.shell.conftest import BRIDGE, MTU_BYTES, TAP, Host, World, joined
from tests.namespaces import ping
from weavepy.base.names import PeerName
from weavepy.kernel.netlink import HostError

pytestmark = pytest.mark.root


def flag(host: Host, interface: str, name: str) -> bool:
    text = host.run(f"ip -d link show {interface}")
    return re.search(rf" {name} on ", text) is not None


def fdb(host: Host) -> dict[str, str]:
    """MAC to port, of what was learnt."""
    found = {}
    for line in host.run(f"bridge fdb show br {BRIDGE} dynamic").splitlines():
        mac, _, port, *rest = line.split()
        if "master" in rest:
            found[mac] = port
    return found


def test_this_host_has_what_it_takes(world: World) -> None:
    (host,) = world.hosts(1)
    before = host.run("ip -br link")

    assert host.on(host.driver.available) == ""

    assert host.run("ip -br link") == before


@pytest.mark.parametrize("ipv6", [False, True])
def test_containers_of_two_hosts_reach_each_other(world: World, ipv6: bool) -> None:
    one, two = world.hosts(2)
    joined(one, two, ipv6=ipv6)

    ping(one.container, two.container_address)

    assert fdb(one)[two.container_mac().hex(":")] == device_name(2)
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
        assert not flag(one, "wvx002", name)
    assert flag(one, "wvx002", "isolated")
    assert flag(one, TAP, "isolated")
    assert "df set" in one.run("ip -d link show wvx002")

    mac = two.container_mac()
    one.carry(two, mac)
    assert flag(one, "wvx002", "flood")
    assert flag(one, "wvx002", "learning")
    assert fdb(one)[mac.hex(":")] == "wvx002"
    assert one.on(partial(one.driver.macs, two.peer)) == [mac]

    one.retire(two, mac)
    for name in ("flood", "mcast_flood", "bcast_flood", "learning"):
        assert not flag(one, "wvx002", name)
    assert fdb(one)[mac.hex(":")] == TAP
    assert one.on(partial(one.driver.macs, two.peer)) == []


def test_a_tunnel_is_retired_also_while_the_tap_has_no_carrier(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    mac = two.container_mac()
    one.carry(two, mac)
    one.run("ip link set beyond down")

    one.retire(two, mac)

    assert fdb(one) == {}


def test_retiring_a_tunnel_that_was_deleted_still_points_frames_to_the_tap(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    one.run("ip link del wvx002")

    one.retire(two, two.container_mac())

    assert fdb(one) == {two.container_mac().hex(":"): TAP}


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


def test_arranging_again_changes_nothing(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    before = one.run("ip -d link show wvx002")

    arranged = one.arrange(one.tunnel(two))

    assert arranged.repairs == []
    assert one.run("ip -d link show wvx002") == before


@pytest.mark.parametrize(
    ("harm", "repair"),
    [
        ("ip link del wvx002", "wvx002 was deleted"),
        ("ip link set wvx002 nomaster", "wvx002 was taken out of weave"),
        ("ip link set wvx002 down", "wvx002 was down"),
        ("ip link set wvx002 type bridge_slave isolated off", "wvx002 had other port flags"),
        ("ip link set wvx002 type bridge_slave learning off", "wvx002 had other port flags"),
        ("ip link set wvx002 type bridge_slave flood off", "wvx002 had other port flags"),
        ("ip link set weavetap nomaster", "weavetap was taken out of weave"),
        ("ip link set weavetap type bridge_slave isolated off", None),
        ("ip link set wvx002 mtu 1300", None),
        ("nft flush ruleset", None),
        ("nft flush table inet weavepy_fastdp", None),
    ],
)
def test_what_others_break_is_mended(world: World, harm: str, repair: str | None) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    ping(one.container, two.container_address)
    device, tap, rules = (
        one.run("ip -d -br link show wvx002").split()[0],
        flag(one, TAP, "isolated"),
        one.run("nft -s list ruleset"),
    )
    one.run(harm)

    arranged = one.arrange(one.tunnel(two))

    assert arranged.repairs == ([repair] if repair else [])
    assert one.run("ip -br link show wvx002").split()[0] == device
    assert flag(one, TAP, "isolated") == tap
    assert flag(one, "wvx002", "isolated")
    assert flag(one, "wvx002", "learning")
    assert f"mtu {MTU_BYTES}" in one.run("ip link show wvx002")
    assert one.run("nft -s list ruleset") == rules
    assert two.arrange(two.tunnel(one)).repairs == []
    ping(one.container, two.container_address)


def test_what_stays_retired_is_mended_as_retired(world: World) -> None:
    one, two = world.hosts(2)
    one.arrange(one.tunnel(two))
    one.run("ip link del wvx002")

    one.arrange(one.tunnel(two))

    assert not flag(one, "wvx002", "flood")


def test_a_router_that_comes_after_us_adopts_carrying_tunnels(world: World) -> None:
    one, two, three = world.hosts(3)
    joined(one, two)
    one.arrange(one.tunnel(two), one.tunnel(three))
    index = one.run("cat /sys/class/net/wvx002/ifindex")

    one.driver = VxlanDriver(BRIDGE, TAP)
    adopted = one.on(one.driver.adopt)
    arranged = one.arrange(one.tunnel(two))

    assert adopted == [
        AdoptedTunnel(two.peer, 2, 1 << 12 | 2, two.address, True),
        AdoptedTunnel(three.peer, 3, 1 << 12 | 3, three.address, False),
    ]
    assert (list(arranged.ports), arranged.errors, arranged.repairs) == ([two.peer], {}, [])
    assert one.run("cat /sys/class/net/wvx002/ifindex") == index
    assert "wvx003" not in one.run("ip link")
    ping(one.container, two.container_address)


def test_a_device_half_made_by_a_router_that_was_killed_is_made_anew(world: World) -> None:
    one, two = world.hosts(2)
    one.run("ip link add wvx002 master weave type vxlan id 1 dstport 6784")
    one.run("ip link add wvx009 master weave type vxlan id 2 dstport 6784")

    arranged = one.arrange(one.tunnel(two))

    assert arranged.errors == {}
    assert "wvx009" not in one.run("ip link")


@pytest.mark.parametrize(
    ("theirs", "error"),
    [
        ("ip link add wvx002 type bridge", "the interface wvx002 is not ours"),
        ("ip link add wvx002 up type vxlan id 7 dstport 6784", "the interface wvx002 is not ours"),
        ("ip link add theirs type vxlan id 4098 dstport 6784", "another VXLAN device has network"),
    ],
)
def test_what_is_not_ours_is_left_alone_and_named(world: World, theirs: str, error: str) -> None:
    one, two, three = world.hosts(3)
    one.run(theirs)
    name = theirs.split()[3]
    before = one.run(f"ip -d link show {name}")

    arranged = one.arrange(one.tunnel(two), one.tunnel(three))

    assert error in arranged.errors[two.peer]
    assert list(arranged.ports) == [three.peer]
    one.on(one.driver.remove_all)
    assert one.run(f"ip -d link show {name}") == before


def test_a_port_that_another_process_has_is_the_error_of_each_tunnel(world: World) -> None:
    one, two = world.hosts(2)

    def arrange_beside_another() -> object:
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("0.0.0.0", 6784))
            return one.driver.arrange([one.tunnel(two)], MTU_BYTES)

    arranged = one.on(arrange_beside_another)

    assert "Address already in use" in arranged.errors[two.peer]  # type: ignore[attr-defined]
    assert one.arrange(one.tunnel(two)).errors == {}


def test_without_a_bridge_one_clear_error(world: World) -> None:
    one, two = world.hosts(2)
    one.run(f"ip link del {BRIDGE}")

    with pytest.raises(HostError, match="there is no bridge weave"):
        one.arrange(one.tunnel(two))


def test_a_tunnel_to_a_new_address_is_a_new_one_and_not_yet_carrying(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)

    arranged = one.arrange(one.tunnel(two, "10.0.0.77"))

    assert arranged.errors == {}
    assert arranged.repairs == []
    assert "remote 10.0.0.77" in one.run("ip -d link show wvx002")
    assert not flag(one, "wvx002", "flood")


def test_the_macs_of_the_host_itself_are_not_given_away(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    one.run(f"ip addr add 10.32.0.100/24 dev {BRIDGE}")
    own = one.run(f"cat /sys/class/net/{BRIDGE}/address").strip()

    one.carry(two, bytes.fromhex(own.replace(":", "")), b"\xff" * 6, b"\1\0\0\0\0\0")

    assert own not in fdb(one)
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
