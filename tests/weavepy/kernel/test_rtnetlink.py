"""What is said to the kernel in bytes, and what `ip` and pyroute2 say that it understood."""

import errno
import json
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import Namespaces, run
from weavepy.kernel import netlink as by_pyroute2
from weavepy.kernel.behind import MAX_THREADS
from weavepy.kernel.rtnetlink import (
    BRIDGE_FORWARD_DELAY,
    BRIDGE_SNOOPING,
    BRIDGE_STP,
    PORT_HAIRPIN,
    PORT_ISOLATED,
    Rtnetlink,
)
from weavepy.kernel.unlinking import unlink

pytestmark = pytest.mark.root

MAC, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


def shown(namespace: Path, *words: str) -> Any:
    return json.loads(run("ip", "-n", namespace.name, "-j", "-d", *words))


def test_a_pair_is_made_with_its_other_end_elsewhere(namespaces: Namespaces) -> None:
    host, container = namespaces.add("host"), namespaces.add("container")

    def make() -> tuple[int, int | None]:
        with Rtnetlink() as route, container.open() as there:
            descriptor = there.fileno()
            route.make_veth("v0", 1400, peer="eth0", peer_mac=PEER_MAC, peer_namespace=descriptor)
            made = route.find_link("v0")
            assert made is not None
            return route.namespace_id(descriptor), made.peer_namespace_id

    asked, seen = namespaces.inside(host, make)
    assert asked == seen
    (near,), (far,) = shown(host, "link", "show", "v0"), shown(container, "link", "show", "eth0")
    assert (near["mtu"], near["linkinfo"]["info_kind"]) == (1400, "veth")
    assert (far["mtu"], far["address"], far["operstate"]) == (1400, PEER_MAC, "DOWN")


def test_a_link_is_as_pyroute2_sees_it(namespaces: Namespaces) -> None:
    host = namespaces.add("host")

    def make_and_compare() -> None:
        with Rtnetlink() as route, by_pyroute2.netlink() as other, host.open() as here:
            route.make_bridge("br0", MAC)
            master = route.find_link("br0")
            assert master is not None
            route.make_veth("v0", 1400, peer="v1", peer_mac=PEER_MAC, peer_namespace=here.fileno())
            for name in ("v0", "v1"):
                found = route.find_link(name)
                assert found is not None
                route.change_link(
                    found.index, up=True, master=master.index, mtu_bytes=1300, alias="ä ü"
                )
            assert {link.name for link in route.links()} >= {"lo", "br0", "v0", "v1"}
            for link in route.links():
                assert route.find_link(link.name) == by_pyroute2.find_link(other, link.name)
            changed = route.find_link("v0")
            assert changed is not None
            assert (changed.up, changed.master, changed.alias) == (True, master.index, "ä ü")

    namespaces.inside(host, make_and_compare)


def test_what_is_not_there_or_no_name_is_none(namespaces: Namespaces) -> None:
    def look() -> None:
        with Rtnetlink() as route:
            assert route.find_link("nothere") is None
            assert route.find_link("far too long a name for a link") is None
            assert route.find_link("") is None
            assert route.delete_link(4711) is False

    namespaces.inside(namespaces.add("host"), look)


def test_a_bridge_and_its_ports_are_set(namespaces: Namespaces) -> None:
    host = namespaces.add("host")

    def make() -> None:
        with Rtnetlink() as route, host.open() as here:
            route.make_bridge("br0", MAC)
            bridge = route.find_link("br0")
            assert bridge is not None
            route.set_bridge(bridge.index, {BRIDGE_STP: 0})
            route.set_bridge(bridge.index, {BRIDGE_FORWARD_DELAY: 0, BRIDGE_SNOOPING: 0})
            route.make_veth("v0", 1400, peer="v1", peer_mac=PEER_MAC, peer_namespace=here.fileno())
            port = route.find_link("v0")
            assert port is not None
            route.change_link(port.index, master=bridge.index)
            route.set_port(port.index, PORT_HAIRPIN, 1)
            route.set_port(port.index, PORT_ISOLATED, 1)

    namespaces.inside(host, make)
    (bridge,), (port,) = shown(host, "link", "show", "br0"), shown(host, "link", "show", "v0")
    data = bridge["linkinfo"]["info_data"]
    assert (bridge["address"], data["forward_delay"], data["mcast_snooping"]) == (MAC, 0, 0)
    slave = port["linkinfo"]["info_slave_data"]
    assert (slave["hairpin"], slave["isolated"]) == (True, True)


def test_addresses_come_once_and_go_once(namespaces: Namespaces) -> None:
    host = namespaces.add("host")
    wanted = [ip_interface(text) for text in ("10.32.0.5/12", "10.99.0.1/32", "fd00::5/64")]

    def work() -> None:
        with Rtnetlink() as route:
            loopback = route.find_link("lo")
            assert loopback is not None
            assert [route.add_address(loopback.index, it) for it in wanted] == [True] * 3
            assert [route.add_address(loopback.index, it) for it in wanted] == [False] * 3
            assert set(wanted) <= set(route.addresses(loopback.index))
            assert route.remove_address(loopback.index, wanted[0]) is True
            assert route.remove_address(loopback.index, wanted[0]) is False
            assert wanted[0] not in route.addresses(loopback.index)

    namespaces.inside(host, work)
    (link,) = shown(host, "addr", "show", "lo")
    assert "10.99.0.1" in [each["local"] for each in link["addr_info"]]


def test_an_ipv4_address_has_its_subnets_broadcast_address_and_no_detection(
    namespaces: Namespaces,
) -> None:
    host = namespaces.add("host")

    def work() -> None:
        with Rtnetlink() as route:
            route.make_bridge("br0", MAC)
            bridge = route.find_link("br0")
            assert bridge is not None
            route.add_address(bridge.index, ip_interface("10.32.0.5/12"))
            route.add_address(bridge.index, ip_interface("fd00::5/64"))

    namespaces.inside(host, work)
    (link,) = shown(host, "addr", "show", "br0")
    four, six = sorted(link["addr_info"], key=lambda each: each["family"])
    assert four["broadcast"] == "10.47.255.255"
    assert six["nodad"] is True


def test_routes_are_added_once_and_read_back(namespaces: Namespaces) -> None:
    host = namespaces.add("host")

    def work() -> None:
        with Rtnetlink() as route:
            route.make_bridge("br0", MAC)
            bridge = route.find_link("br0")
            assert bridge is not None
            route.change_link(bridge.index, up=True)
            route.add_address(bridge.index, ip_interface("10.32.0.5/12"))
            route.add_address(bridge.index, ip_interface("fd00::5/64"))
            for text, gateway in (
                ("0.0.0.0/0", "10.32.0.1"),
                ("224.0.0.0/4", ""),
                ("::/0", "fd00::1"),
                ("fd01::/64", ""),
            ):
                way = ip_address(gateway) if gateway else None
                destination = ip_network(text)
                assert route.add_route(destination, bridge.index, way) is True
                assert route.add_route(destination, bridge.index, way) is False
                found = [
                    (it.gateway, it.index, it.table)
                    for it in route.routes(destination.version)
                    if it.destination == destination and it.index == bridge.index
                ]
                assert (way, bridge.index, 254) in found
            with pytest.raises(OSError) as refused:
                route.add_route(ip_network("10.1.0.0/16"), bridge.index, ip_address("192.0.2.1"))
            assert refused.value.errno == errno.ENETUNREACH

    namespaces.inside(host, work)
    assert {"dst": "default", "gateway": "10.32.0.1"}.items() <= shown(host, "route")[0].items()


def test_an_unlinked_interface_is_gone_when_that_is_told(namespaces: Namespaces) -> None:
    """And at both ends, more often than threads may wait for the kernel's answers."""
    host, container = namespaces.add("host"), namespaces.add("container")

    def come_and_go() -> None:
        with Rtnetlink() as route, container.open() as there:
            for _ in range(MAX_THREADS // 2):
                for name in ("v0", "v1", "v2"):
                    route.make_veth(
                        name, 1400, peer=name, peer_mac=MAC, peer_namespace=there.fileno()
                    )
                for name in ("v0", "v1", "v2"):
                    link = route.find_link(name)
                    assert link is not None
                    assert unlink(link.index) is True
                    assert route.find_link(name) is None
            assert unlink(link.index) is False
            with pytest.raises(OSError):
                unlink(1)

    namespaces.inside(host, come_and_go)
    assert [link["ifname"] for link in shown(container, "link")] == ["lo"]
