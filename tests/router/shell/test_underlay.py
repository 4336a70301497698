import pytest

from router.shell.underlay import (
    VXLAN_OVERHEAD_BYTES,
    NoUnderlay,
    dialable_addresses,
    meets_by_ipv6,
    overlay_mtu,
    underlay_mtu,
)
from tests.namespaces import run
from tests.router.shell.conftest import World


@pytest.mark.parametrize(
    ("underlay", "overlay"), [(1500, 1400), (9000, 8900), (1400, 1300), (1380, 1280)]
)
def test_the_overlay_is_a_hundred_bytes_smaller(underlay: int, overlay: int) -> None:
    assert overlay_mtu(underlay).mtu_bytes == overlay
    assert overlay_mtu(underlay).warning == ""


def test_the_overlay_is_never_too_small_for_ipv6_but_warns() -> None:
    assert overlay_mtu(1379).mtu_bytes == 1280
    assert "below 1380" in overlay_mtu(1379).warning


def test_the_overlay_fits_a_datagram_over_the_loopback() -> None:
    assert overlay_mtu(65536).mtu_bytes == 65435


@pytest.mark.parametrize(("version", "overlay"), [(4, 1450), (6, 1430)])
def test_an_overlay_for_vxlan_leaves_room_for_its_headers(version: int, overlay: int) -> None:
    assert overlay_mtu(1500, VXLAN_OVERHEAD_BYTES[version]).mtu_bytes == overlay


@pytest.fixture
def wired(world: World) -> World:
    """The host has two ways out: 9000 bytes to 198.51.100/24, 1500 to everything else."""
    far, host = world.add("far").name, world.host.name
    for name, mtu, prefix in (("up0", 9000, "198.51.100"), ("up1", 1500, "203.0.113")):
        run("ip", "-n", host, "link", "add", name, "type", "veth", "peer", name, "netns", far)
        run("ip", "-n", host, "addr", "add", f"{prefix}.1/24", "dev", name)
        for namespace in (host, far):
            run("ip", "-n", namespace, "link", "set", name, "mtu", str(mtu), "up")
    run("ip", "-n", host, "route", "add", "default", "via", "203.0.113.2")
    return world


@pytest.mark.root
def test_the_underlays_mtu_is_that_of_the_way_to_the_peers(wired: World) -> None:
    assert wired.on_host(lambda: underlay_mtu(["198.51.100.2"])) == 9000
    assert wired.on_host(lambda: underlay_mtu(["192.0.2.77"])) == 1500
    assert wired.on_host(lambda: underlay_mtu(["198.51.100.2", "192.0.2.77"])) == 1500


@pytest.mark.root
def test_a_route_may_know_of_a_smaller_mtu(wired: World) -> None:
    run("ip", "-n", wired.host.name, "route", "add", "192.0.2.0/24", "via", "203.0.113.2",
        "mtu", "1420")  # fmt: skip

    assert wired.on_host(lambda: underlay_mtu(["192.0.2.77"])) == 1420


@pytest.mark.root
def test_without_peers_it_is_that_of_the_default_route(wired: World) -> None:
    assert wired.on_host(underlay_mtu) == 1500


@pytest.mark.root
def test_hardware_counts_before_virtual_interfaces(wired: World) -> None:
    """A VLAN stands in for hardware here: it leads out too."""
    run("ip", "-n", wired.host.name, "link", "add", "link", "up0", "name", "up0.7", "type",
        "macvlan")  # fmt: skip
    run("ip", "-n", wired.host.name, "link", "set", "up0.7", "mtu", "4000", "up")

    assert wired.on_host(underlay_mtu) == 4000


@pytest.mark.root
def test_a_host_without_any_interface_says_so(world: World) -> None:
    with pytest.raises(NoUnderlay, match="--mtu"):
        world.on_host(lambda: underlay_mtu(ours=("weave",)))


@pytest.mark.root
def test_hosts_meet_by_ipv6_if_a_peer_or_this_host_has_such_an_address(wired: World) -> None:
    """Each host has link-local ones, by which no peer is dialled."""
    assert not wired.on_host(lambda: meets_by_ipv6(["198.51.100.2", "a.example"]))
    assert wired.on_host(lambda: meets_by_ipv6(["198.51.100.2", "fd01::2"]))

    run("ip", "-n", wired.host.name, "addr", "add", "fd01::1/64", "dev", "up1", "nodad")

    assert wired.on_host(lambda: meets_by_ipv6([]))
    assert not wired.on_host(lambda: meets_by_ipv6([], ours=["up1"]))


@pytest.mark.root
def test_a_host_may_be_dialled_at_what_leads_out_and_not_at_bridges_of_containers(
    wired: World,
) -> None:
    host = wired.host.name
    run("ip", "-n", host, "addr", "add", "10.32.0.1/12", "dev", "weave")
    run("ip", "-n", host, "link", "add", "docker0", "up", "type", "bridge")
    run("ip", "-n", host, "addr", "add", "172.17.0.1/16", "dev", "docker0")
    run("ip", "-n", host, "addr", "add", "fd01::1/64", "dev", "up1", "nodad")
    run("ip", "-n", host, "addr", "add", "fd01::2/64", "dev", "up1", "nodad", "preferred_lft", "0")
    inside = wired.on_host(lambda: dialable_addresses(["weave"]))
    assert sorted(inside) == ["198.51.100.1", "203.0.113.1", "fd01::1"]

    # With hardware (or what is like it) veths lead to containers. A bridge may be over hardware.
    run("ip", "-n", host, "link", "add", "br0", "up", "type", "bridge")
    run("ip", "-n", host, "addr", "add", "192.0.2.1/24", "dev", "br0")
    run("ip", "-n", host, "link", "add", "mac0", "link", "up0", "type", "macvlan")
    run("ip", "-n", host, "link", "set", "mac0", "up", "master", "br0")
    assert wired.on_host(lambda: dialable_addresses(["weave"])) == ["192.0.2.1"]
