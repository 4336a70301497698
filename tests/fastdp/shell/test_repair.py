"""Tunnels that are there already: ours are adopted and mended, those of others left alone."""

import pytest

from fastdp.core.effects import AdoptedTunnel
from fastdp.shell.vxlan import VxlanDriver
from tests.fastdp.shell.conftest import BRIDGE, MTU_BYTES, TAP, World, joined
from tests.namespaces import ping
from weavepy.kernel.netlink import HostError

pytestmark = pytest.mark.root


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
        one.flag(TAP, "isolated"),
        one.run("nft -s list ruleset"),
    )
    one.run(harm)

    arranged = one.arrange(one.tunnel(two))

    assert arranged.repairs == ([repair] if repair else [])
    assert one.run("ip -br link show wvx002").split()[0] == device
    assert one.flag(TAP, "isolated") == tap
    assert one.flag("wvx002", "isolated")
    assert one.flag("wvx002", "learning")
    assert f"mtu {MTU_BYTES}" in one.run("ip link show wvx002")
    assert one.run("nft -s list ruleset") == rules
    assert two.arrange(two.tunnel(one)).repairs == []
    ping(one.container, two.container_address)


@pytest.mark.parametrize(
    ("harm", "repair"),
    [
        ("ip link del wvx002", "wvx002 was deleted"),
        ("ip link set wvx002 nomaster", "wvx002 was taken out of weave"),
        ("ip link set wvx002 down", "wvx002 was down"),
    ],
)
def test_a_tunnel_behind_which_the_bridge_has_forgotten_all_is_silent_until_it_is_told(
    world: World, harm: str, repair: str
) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    one.run(harm)

    arranged = one.arrange(one.tunnel(two))

    assert (arranged.repairs, arranged.silent, arranged.errors) == ([repair], [two.peer], {})
    assert not one.flag("wvx002", "flood")
    assert not one.flag("wvx002", "learning")
    assert one.arrange(one.tunnel(two)).silent == []
    one.carry(two, two.container_mac())
    assert one.fdb()[two.container_mac().hex(":")] == "wvx002"
    assert one.arrange(one.tunnel(two)).repairs == []
    assert one.flag("wvx002", "flood")
    ping(one.container, two.container_address)


def test_what_stays_retired_is_mended_as_retired(world: World) -> None:
    one, two = world.hosts(2)
    one.arrange(one.tunnel(two))
    one.run("ip link del wvx002")

    one.arrange(one.tunnel(two))

    assert not one.flag("wvx002", "flood")


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
