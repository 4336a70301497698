"""The bridge that a host's containers and its tap hang on.

It is an ordinary Linux bridge with three settings that matter: a MAC of its own (otherwise it
takes over a port's and changes it as ports come and go, under the feet of everyone who has it
in an ARP cache), no spanning tree (the overlay has no loops, and ports must not wait 30 s), and
no multicast snooping (without a querier in the mesh it would, after a while, stop multicast).

An existing bridge of this name is adopted as it is, ports and addresses included.
"""

import re
import secrets

from weavepy.base.errors import UsageError
from weavepy.kernel.netlink import (
    MAX_INTERFACE_NAME_LENGTH,
    HostError,
    Link,
    explained,
    set_sysctl,
)
from weavepy.kernel.rtnetlink import (
    BRIDGE_FORWARD_DELAY,
    BRIDGE_SNOOPING,
    BRIDGE_STP,
    PORT_ISOLATED,
    Rtnetlink,
)

_UNICAST_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")


class NotABridge(HostError):
    """The interface with the bridge's name is something else."""


class NoBridge(HostError):
    """The bridge is not there (yet, or any more)."""


class NoSuchInterface(HostError):
    pass


class InterfaceTaken(HostError):
    """The interface is a port of something else."""


def check_interface_name(name: str) -> None:
    """Names reach the kernel and nft's language, so only harmless characters pass."""
    characters = name.replace("-", "").replace("_", "").replace(".", "")
    if not (
        0 < len(name) <= MAX_INTERFACE_NAME_LENGTH
        and characters.isalnum()
        and name.isascii()
        and name[0].isalnum()
    ):
        raise UsageError(
            f"{name!r} cannot name an interface: up to {MAX_INTERFACE_NAME_LENGTH} letters, "
            "digits, '-', '_' and '.', starting with a letter or digit"
        )


def check_mac(mac: str) -> None:
    if not _UNICAST_MAC.fullmatch(mac):
        raise UsageError(
            f"{mac!r} is not a unicast MAC address, like 02:00:00:00:00:01 (lower case)"
        )


def random_mac() -> str:
    """Unicast, locally administered: 46 random bits."""
    octets = bytearray(secrets.token_bytes(6))
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def ensure_bridge(name: str, mtu_bytes: int, mac: str = "") -> None:
    """One that is made here gets this MAC, or a random one."""
    with explained(f"setting up the bridge {name}"), Rtnetlink() as route:
        link = route.find_link(name)
        if link is None:
            route.make_bridge(name, mac or random_mac())
            link = required(route, name)
        if link.kind != "bridge":
            raise NotABridge(
                f"the interface {name} exists and is not a bridge: remove it or choose another "
                "name with --bridge"
            )
        # First of all: with a spanning tree the kernel refuses to do without a delay.
        route.set_bridge(link.index, {BRIDGE_STP: 0})
        route.set_bridge(link.index, {BRIDGE_FORWARD_DELAY: 0, BRIDGE_SNOOPING: 0})
        _quiet_ipv6(name)
        set_sysctl(f"ipv4/conf/{name}/promote_secondaries", 1)
        if link.mtu_bytes != mtu_bytes:
            route.change_link(link.index, mtu_bytes=mtu_bytes)
        if not link.up:
            route.change_link(link.index, up=True)


def enslave(bridge: str, interface: str, *, isolated: bool = False) -> bool:
    """Make the interface a port of the bridge, up, without addresses; False if it was one already.

    An isolated port passes frames to and from ports that are not. So the TAP and the tunnels of the
    fast path must be, and the interface is down until it is.
    """
    with explained(f"making {interface} a port of {bridge}"), Rtnetlink() as route:
        master = required_bridge(route, bridge)
        port = route.find_link(interface)
        if port is None:
            raise NoSuchInterface(f"there is no interface {interface}")
        if port.master not in (0, master.index):
            raise InterfaceTaken(
                f"{interface} is already a port of another bridge or bond: take it out first "
                f"(`ip link set {interface} nomaster`)"
            )
        joins = port.master == 0
        if joins and isolated:
            set_sysctl(f"ipv6/conf/{port.name}/disable_ipv6", 1)
            route.change_link(port.index, master=master.index, up=False)
            route.set_port(port.index, PORT_ISOLATED, 1)
            port = required(route, interface)
        add_port(route, master, port)
        return joins


def add_port(route: Rtnetlink, master: Link, port: Link) -> None:
    """The port needs no IPv6 address: it would only add multicast noise."""
    set_sysctl(f"ipv6/conf/{port.name}/disable_ipv6", 1)
    if port.master != master.index or not port.up:
        route.change_link(port.index, master=master.index, up=True)


def master_of(interface: str) -> str:
    """The bridge that the interface is a port of; empty if it is none, or is not there."""
    with explained(f"looking at {interface}"), Rtnetlink() as route:
        port = route.find_link(interface)
        if port is None:
            return ""
        return next((link.name for link in route.links() if link.index == port.master), "")


def remove_bridge(name: str) -> bool:
    """False if there was none. Its ports stay, without a bridge."""
    with explained(f"removing the bridge {name}"), Rtnetlink() as route:
        link = route.find_link(name)
        if link is None:
            return False
        if link.kind != "bridge":
            raise NotABridge(f"the interface {name} is not a bridge: it is left alone")
        route.delete_link(link.index)
        return True


def required(route: Rtnetlink, name: str) -> Link:
    link = route.find_link(name)
    if link is None:
        raise NoSuchInterface(f"the interface {name} has just vanished: try again")
    return link


def required_bridge(route: Rtnetlink, name: str) -> Link:
    link = route.find_link(name)
    if link is None or link.kind != "bridge":
        raise NoBridge(f"there is no bridge {name}: is the router running? (`weavepy launch`)")
    return link


def _quiet_ipv6(name: str) -> None:
    """The host takes no advice on routing from the overlay, and probes no addresses on it."""
    for setting, value in (("accept_ra", 0), ("accept_dad", 0), ("accept_redirects", 0)):
        set_sysctl(f"ipv6/conf/{name}/{setting}", value)
