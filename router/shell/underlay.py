"""What the hosts' own network offers: its MTU, and so the overlay's; our own addresses.

All hosts of a mesh should come to the same overlay MTU, so it follows from the link MTU by
a fixed step. The step leaves room for the largest header that any way of carrying frames
needs, with some to spare: outer IPv6 40 + UDP 8 + record header and tag + inner Ethernet 14.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from weavepy.kernel.netlink import SCOPE_LINK, HostError, Link, explained
from weavepy.kernel.rtnetlink import MAIN_TABLE, Assigned, Rtnetlink

OVERHEAD_BYTES = 100
VXLAN_OVERHEAD_BYTES = {4: 50, 6: 70}
"""By IP version: outer IP 20 or 40 + UDP 8 + VXLAN 8 + inner Ethernet 14."""
ESP_OVERHEAD_BYTES = 38
"""With AES-GCM: header 8 + nonce 8 + trailer 2 and up to 3 of padding + tag 16; made even."""
MINIMUM_OVERLAY_MTU_BYTES = 1280
"""What IPv6 requires of every link. On a smaller underlay sleeve fragments."""

MAXIMUM_OVERLAY_MTU_BYTES = 65535 - OVERHEAD_BYTES

HARDWARE_LIKE_KINDS = frozenset({"", "bond", "team", "vlan", "macvlan", "ipvlan"})
"""Kinds of link that lead out of the machine; no kind means a driver for hardware."""

TUNNEL_KINDS = frozenset({"wireguard", "tun"})
"""They may lead to hosts of ours, and their addresses are only this host's."""

UNSETTLED_IPV6 = 0x01 | 0x08 | 0x20 | 0x40
"""Flags of addresses not to be told to anyone: temporary ones, which are for going out, those that
another host has as well, deprecated ones, and those that the kernel still asks about."""


class NoUnderlay(HostError):
    """No interface leads anywhere."""


@dataclass(frozen=True, slots=True)
class OverlayMtu:
    mtu_bytes: int
    warning: str
    """Why it costs something; empty if it does not."""


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    kind: str
    up: bool
    mtu_bytes: int
    addresses: tuple[str, ...]


def overlay_mtu(underlay_mtu_bytes: int, overhead_bytes: int = OVERHEAD_BYTES) -> OverlayMtu:
    """1500 gives 1400, 9000 gives 8900, unless only what is made for VXLAN has to fit."""
    mtu_bytes = min(underlay_mtu_bytes - overhead_bytes, MAXIMUM_OVERLAY_MTU_BYTES)
    if mtu_bytes >= MINIMUM_OVERLAY_MTU_BYTES:
        return OverlayMtu(mtu_bytes, "")
    return OverlayMtu(
        MINIMUM_OVERLAY_MTU_BYTES,
        f"the underlay's MTU of {underlay_mtu_bytes} is below "
        f"{MINIMUM_OVERLAY_MTU_BYTES + overhead_bytes}: full-size packets travel in two pieces, "
        "which costs throughput",
    )


def underlay_mtu(peers: Iterable[str] = (), *, ours: Sequence[str] = ()) -> int:
    """The smallest MTU on the way to these peers, or of all interfaces that lead out.

    `peers` are IP addresses; those without a route do not count. `ours` names interfaces that
    belong to the overlay itself.
    """
    with explained("reading the underlay's MTU"), Rtnetlink() as route:
        all_links = route.links()
        towards = [mtu_towards(route, all_links, peer) for peer in peers]
        known = [mtu_bytes for mtu_bytes in towards if mtu_bytes is not None]
        if known:
            return min(known)
        out = _leading_out(route, all_links, ours)
        if not out:
            raise NoUnderlay(
                "no network interface is up besides the loopback: bring one up, or set --mtu"
            )
        return min(link.mtu_bytes for link in out)


def meets_by_ipv6(peers: Iterable[str], *, ours: Sequence[str] = ()) -> bool:
    """Whether the mesh may use IPv6 between hosts: a peer's address is one, or we have one.

    Ours counts even if the peers that we were given have IPv4 addresses: all hosts of a mesh should
    come to the same answer, the first one as well, which was given none.
    """
    if any(":" in peer for peer in peers):
        return True
    with explained("reading the underlay's addresses"), Rtnetlink() as route:
        by_ipv6 = {one.index for one in _configured(route) if one.interface.version == 6}
        return any(link.index in by_ipv6 for link in _leading_out(route, route.links(), ours))


def mtu_towards(route: Rtnetlink, all_links: Sequence[Link], peer: str) -> int | None:
    """Of the interface that the kernel would send by, or of the route if that says less."""
    try:
        entry = route.route_to(ip_address(peer))
    except ValueError:
        return None
    if entry is None:
        return None
    mtu_bytes = {link.index: link.mtu_bytes for link in all_links}.get(entry.index)
    own = entry.mtu_bytes
    return min(mtu_bytes, own) if mtu_bytes and own else mtu_bytes


def dialable_addresses(ours: Sequence[str]) -> list[str]:
    """Those by which somebody on another host may reach this one, as far as this host can tell.

    Not those of bridges that only containers hang on, which many hosts have alike, and not those
    of the overlay, whose interfaces `ours` names.
    """
    with explained("listing addresses"), Rtnetlink() as route:
        outward = {link.index for link in _outward(route.links(), ours)}
        return [
            str(one.interface.ip)
            for one in route.all_addresses()
            if one.index in outward
            and one.scope < SCOPE_LINK
            and not (one.interface.version == 6 and one.flags & UNSETTLED_IPV6)
        ]


def _outward(all_links: Sequence[Link], ours: Sequence[str]) -> list[Link]:
    """Hardware, bridges over hardware, tunnels; inside a container, where is none, its veths."""
    usable = [link for link in all_links if not link.loopback and link.name not in ours]
    hardware = [link for link in usable if link.kind in HARDWARE_LIKE_KINDS]
    bridged = {link.master for link in hardware}
    kinds = TUNNEL_KINDS if hardware else TUNNEL_KINDS | {"veth"}
    return [
        link
        for link in usable
        if link.up
        and not link.master
        and (link in hardware or link.index in bridged or link.kind in kinds)
    ]


def interfaces() -> list[Interface]:
    with explained("listing interfaces"), Rtnetlink() as route:
        configured = _configured(route)
        return [
            Interface(
                link.name,
                link.kind,
                link.up,
                link.mtu_bytes,
                tuple(str(one.interface) for one in configured if one.index == link.index),
            )
            for link in route.links()
        ]


def _leading_out(route: Rtnetlink, all_links: Sequence[Link], ours: Sequence[str]) -> list[Link]:
    """Hardware that is up; else, as inside a container, what has a default route; else any."""
    up = [
        link
        for link in all_links
        if link.up and not link.loopback and link.name not in ours and link.mtu_bytes > 0
    ]
    hardware = [link for link in up if link.kind in HARDWARE_LIKE_KINDS]
    if hardware:
        return hardware
    default = {
        entry.index
        for version in (4, 6)
        for entry in route.routes(version)
        if entry.destination.prefixlen == 0 and entry.table == MAIN_TABLE
    }
    routed = [link for link in up if link.index in default]
    with_address = {one.index for one in _configured(route)}
    return routed or [link for link in up if link.index in with_address]


def _configured(route: Rtnetlink) -> list[Assigned]:
    """Addresses of this host that it did not give itself."""
    return [one for one in route.all_addresses() if one.scope != SCOPE_LINK]
