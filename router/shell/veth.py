"""The veth pair of a container: the steps of attaching, each of which does one thing.

One end is a port of the host's bridge, the other lies in the container. Which steps are taken, in
which order, and what undoes them, is decided in `attach.py`.
"""

import errno
import time
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface

from router.shell import namespaces
from router.shell.bridge import InterfaceTaken, NoSuchInterface, required
from weavepy.kernel.netlink import IpInterface, Link, set_sysctl
from weavepy.kernel.rtnetlink import Rtnetlink
from weavepy.kernel.unlinking import unlink

FORWARDING_TIMEOUT_S = 2.0
"""How long a new port may take to come up; normally it is a few milliseconds."""

MULTICAST = IPv4Network("224.0.0.0/4")


def make_pair(
    route: Rtnetlink, descriptor: int, host_interface: str, interface: str, mac: str, mtu_bytes: int
) -> None:
    """Offloads stay as veth has them (all on): large frames reach the tap in one piece."""
    try:
        route.make_veth(
            host_interface, mtu_bytes, peer=interface, peer_mac=mac, peer_namespace=descriptor
        )
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise InterfaceTaken(
                f"the container already has an interface {interface} that is not ours: choose "
                "another name"
            ) from error
        raise


def configure(
    route: Rtnetlink, interface: str, wanted: Iterable[IpInterface], added: list[IpInterface]
) -> Link:
    """Runs inside the container. Notes in `added` what it adds, also if it then fails."""
    if any(isinstance(address, IPv6Interface) for address in wanted):
        set_sysctl(f"ipv6/conf/{interface}/disable_ipv6", 0)
    for setting, value in (("accept_dad", 0), ("dad_transmits", 0), ("addr_gen_mode", 0)):
        set_sysctl(f"ipv6/conf/{interface}/{setting}", value)
    set_sysctl(f"ipv4/conf/{interface}/promote_secondaries", 1)
    link = route.find_link(interface)
    if link is None:
        raise NoSuchInterface(
            f"the interface {interface} has vanished from the container: try again"
        )
    for address in in_order(wanted):
        if route.add_address(link.index, address):
            added.append(address)
    if not link.up:
        route.change_link(link.index, up=True)
    if any(isinstance(address, IPv4Interface) for address in wanted):
        _add_multicast_route(route, link.index)
    return link


def _add_multicast_route(route: Rtnetlink, index: int) -> None:
    """Multicast goes over the overlay, unless the container already sends some elsewhere."""
    for entry in route.routes(4):
        destination = entry.destination
        if isinstance(destination, IPv4Network) and destination.subnet_of(MULTICAST):
            return
    route.add_route(MULTICAST, index, None)


def await_forwarding(route: Rtnetlink, host_interface: str) -> None:
    """A port passes frames a moment after it is up. If it never does, ping will tell."""
    give_up_at = time.monotonic() + FORWARDING_TIMEOUT_S
    while not required(route, host_interface).operational and time.monotonic() < give_up_at:
        time.sleep(0.002)


def addresses_of(interface: str) -> list[IpInterface]:
    with Rtnetlink() as route:
        link = route.find_link(interface)
        return route.addresses(link.index) if link is not None else []


def set_link_mtu(name: str, mtu_bytes: int, before: int) -> None:
    with Rtnetlink() as route:
        link = route.find_link(name)
        if link is not None and (link.mtu_bytes > mtu_bytes or link.mtu_bytes == before):
            route.change_link(link.index, mtu_bytes=mtu_bytes)


def delete_link(name: str) -> None:
    with Rtnetlink() as route:
        link = route.find_link(name)
        if link is not None:
            unlink(link.index)


def remove_inside(descriptor: int, interface: str, unwanted: Iterable[IpInterface]) -> None:
    def remove() -> None:
        with Rtnetlink() as route:
            link = route.find_link(interface)
            if link is not None:
                for address in unwanted:
                    route.remove_address(link.index, address)

    namespaces.run_inside(descriptor, remove)


def in_order(unsorted: Iterable[IpInterface]) -> tuple[IpInterface, ...]:
    return tuple(sorted(unsorted, key=lambda it: (it.version, int(it.ip), it.network.prefixlen)))
