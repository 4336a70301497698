"""The veth pair of a container: the steps of attaching, each of which does one thing.

One end is a port of the host's bridge, the other lies in the container. Which steps are taken, in
which order, and what undoes them, is decided in `attach.py`.
"""

import errno
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from router.shell import namespaces
from router.shell.bridge import InterfaceTaken, NoSuchInterface, required
from weavepy.kernel.netlink import (
    IpInterface,
    add_address,
    addresses,
    find_link,
    netlink,
    remove_address,
    routes,
    set_sysctl,
)

FORWARDING_TIMEOUT_S = 2.0
"""How long a new port may take to come up; normally it is a few milliseconds."""

MULTICAST = "224.0.0.0"


def make_pair(
    route: Any, descriptor: int, host_interface: str, interface: str, mac: str, mtu_bytes: int
) -> None:
    """Offloads stay as veth has them (all on): large frames reach the tap in one piece."""
    peer = {"ifname": interface, "net_ns_fd": descriptor, "address": mac, "mtu": mtu_bytes}
    try:
        route.link("add", ifname=host_interface, kind="veth", mtu=mtu_bytes, peer=peer)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            raise InterfaceTaken(
                f"the container already has an interface {interface} that is not ours: choose "
                "another name"
            ) from error
        raise


def configure(interface: str, wanted: Iterable[IpInterface], added: list[IpInterface]) -> None:
    """Runs inside the container. Notes in `added` what it adds, also if it then fails."""
    if any(isinstance(address, IPv6Interface) for address in wanted):
        set_sysctl(f"ipv6/conf/{interface}/disable_ipv6", 0)
    for setting, value in (("accept_dad", 0), ("dad_transmits", 0), ("addr_gen_mode", 0)):
        set_sysctl(f"ipv6/conf/{interface}/{setting}", value)
    set_sysctl(f"ipv4/conf/{interface}/promote_secondaries", 1)
    with netlink() as route:
        link = find_link(route, interface)
        if link is None:
            raise NoSuchInterface(
                f"the interface {interface} has vanished from the container: try again"
            )
        for address in in_order(wanted):
            if add_address(route, link.index, address):
                added.append(address)
        if not link.up:
            route.link("set", index=link.index, state="up")
        if any(isinstance(address, IPv4Interface) for address in wanted):
            _add_multicast_route(route, link.index)


def _add_multicast_route(route: Any, index: int) -> None:
    """Multicast goes over the overlay, unless the container already sends some elsewhere."""
    for entry in routes(route, socket.AF_INET):
        destination = entry.get_attr("RTA_DST") or ""
        if entry["dst_len"] >= 4 and 224 <= int(destination.split(".")[0]) <= 239:
            return
    route.route("add", dst=f"{MULTICAST}/4", oif=index, scope="link")


def await_forwarding(route: Any, host_interface: str) -> None:
    """A port passes frames a moment after it is up. If it never does, ping will tell."""
    give_up_at = time.monotonic() + FORWARDING_TIMEOUT_S
    while not required(route, host_interface).operational and time.monotonic() < give_up_at:
        time.sleep(0.002)


def addresses_of(interface: str) -> list[IpInterface]:
    with netlink() as route:
        link = find_link(route, interface)
        return addresses(route, link.index) if link is not None else []


def set_link_mtu(name: str, mtu_bytes: int, before: int) -> None:
    with netlink() as route:
        link = find_link(route, name)
        if link is not None and (link.mtu_bytes > mtu_bytes or link.mtu_bytes == before):
            route.link("set", index=link.index, mtu=mtu_bytes)


def delete_link(name: str) -> None:
    with netlink() as route:
        link = find_link(route, name)
        if link is not None:
            _ignoring_absence(lambda: route.link("del", index=link.index))


def remove_inside(descriptor: int, interface: str, unwanted: Iterable[IpInterface]) -> None:
    def remove() -> None:
        with netlink() as route:
            link = find_link(route, interface)
            if link is not None:
                for address in unwanted:
                    remove_address(route, link.index, address)

    namespaces.run_inside(descriptor, remove)


def _ignoring_absence(work: Callable[[], object]) -> None:
    try:
        work()
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def in_order(unsorted: Iterable[IpInterface]) -> tuple[IpInterface, ...]:
    return tuple(sorted(unsorted, key=lambda it: (it.version, int(it.ip), it.network.prefixlen)))
