"""The host itself on the overlay: addresses on the bridge, and the way out for containers.

With masquerading, what containers send beyond the overlay (they need a route via the
exposed address) leaves with this host's own address, and what enters the overlay from outside
gets the exposed one, so that answers find their way back. The subnets are elements of two sets in
the table `weavepy` of family inet, and the rules are the same two lines for all of them.

Each subnet is masqueraded or not. Forwarding is switched on either way, for the bridge and for the
interfaces by which the host has a route, as answers come in by those. It is never switched off
again: others may have come to rely on it.

On a node of Kubernetes (`is_node`) what enters with a destination that this host has changed, as
Services and hostPorts have it, keeps its source: kube-proxy itself masquerades what goes on to
another node, and an answer from a pod of this host comes by here, as we are its way out.
"""

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Interface,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import Any

from router.shell.announce import announce
from router.shell.bridge import required_bridge
from router.shell.filters import table_name
from weavepy.kernel.netlink import IpInterface, explained, get_sysctl, set_sysctl
from weavepy.kernel.nftables import NftMissing, list_table, run_transaction, set_elements
from weavepy.kernel.rtnetlink import MAIN_TABLE, IpNetwork, Rtnetlink

SETS = {4: "masquerade4", 6: "masquerade6"}
PROTOCOLS = {4: "ip", 6: "ip6"}
KINDS = {4: "ipv4_addr", 6: "ipv6_addr"}
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
LINK_LOCAL6 = IPv6Network("fe80::/10")


def expose(
    bridge: str,
    wanted: Sequence[IpInterface],
    masquerade: Iterable[IpNetwork],
    is_node: bool = False,
) -> None:
    """Idempotent; adds to what is exposed, and these subnets to those that are masqueraded.

    On failure the addresses it added are gone again.
    """
    with explained(f"exposing {bridge}"), Rtnetlink() as route:
        link = required_bridge(route, bridge)
        added = []
        try:
            for address in wanted:
                if isinstance(address, IPv6Interface):
                    set_sysctl(f"ipv6/conf/{bridge}/disable_ipv6", 0)
                if route.add_address(link.index, address):
                    added.append(address)
            more = list(masquerade)
            if more:
                _masquerade(bridge, [*masqueraded(bridge), *more], is_node)
            _enable_forwarding(route, bridge, wanted)
        except BaseException:
            for address in added:
                route.remove_address(link.index, address)
            raise
        announce(bridge, link.mac, [address.ip for address in added])


def hide(
    bridge: str, unwanted: Iterable[IpInterface], is_node: bool = False
) -> tuple[IpInterface, ...]:
    """Take these off the bridge; returns those that were there. With the last, no masquerade."""
    with explained(f"hiding {bridge}"), Rtnetlink() as route:
        link = route.find_link(bridge)
        if link is None:
            return ()
        gone = tuple(it for it in unwanted if route.remove_address(link.index, it))
        before = masqueraded(bridge)
        if before:
            present = [address.network for address in route.addresses(link.index)]
            _masquerade(bridge, [each for each in present if _covered(each, before)], is_node)
        return gone


def exposed(bridge: str) -> tuple[IpInterface, ...]:
    """Every address on the bridge, whoever put it there."""
    with explained(f"listing the addresses of {bridge}"), Rtnetlink() as route:
        link = route.find_link(bridge)
        return tuple(route.addresses(link.index)) if link is not None else ()


def masqueraded(bridge: str) -> tuple[IpNetwork, ...]:
    """The subnets; nftables makes one of neighbours."""
    try:
        objects = list_table("inet", table_name(bridge)) or []
    except NftMissing:
        return ()
    values = [value for name in SETS.values() for value, _ in set_elements(objects, name)]
    return tuple(network for value in values for network in _networks(value))


def _networks(value: Any) -> Iterable[IpNetwork]:
    """Of one element of a set of intervals, as nft's JSON has it."""
    match value:
        case {"prefix": {"addr": address, "len": length}}:
            return [ip_network(f"{address}/{length}")]
        case {"range": [first, last]}:
            return summarize_address_range(ip_address(first), ip_address(last))
        case _:
            return [ip_network(value)]


def _covered(network: IpNetwork, by: Iterable[IpNetwork]) -> bool:
    return any(network.network_address in each and network.broadcast_address in each for each in by)


def _masquerade(bridge: str, networks: Iterable[IpNetwork], is_node: bool) -> None:
    """State rules and subnets anew, in one transaction; established flows are not touched."""
    table = f"inet {table_name(bridge)}"
    lines = [f"add table {table}"]
    chain = "postrouting"
    unless_sent_here = "ct status & dnat == 0 " if is_node else ""
    lines.append(
        f"add chain {table} {chain} {{ type nat hook postrouting priority 100; policy accept; }}"
    )
    lines.append(f"flush chain {table} {chain}")
    for version, name in SETS.items():
        ip = PROTOCOLS[version]
        subnets = sorted({str(it) for it in networks if it.version == version})
        lines.append(
            f"add set {table} {name} {{ type {KINDS[version]}; flags interval; auto-merge; }}"
        )
        lines.append(f"flush set {table} {name}")
        if subnets:
            lines.append(f"add element {table} {name} {{ {', '.join(subnets)} }}")
        lines += [
            (
                f"add rule {table} {chain} {ip} saddr @{name} {ip} daddr != @{name} "
                f'{ip} daddr != {MULTICAST[version]} oifname != "{bridge}" masquerade'
            ),
            # Only what is routed in: locally made packets and, where br_netfilter shows them
            # here, bridged ones have no incoming interface.
            (
                f"add rule {table} {chain} {ip} daddr @{name} {ip} saddr != @{name} "
                f'{unless_sent_here}meta iif != 0 iifname != "{bridge}" oifname "{bridge}"'
                " masquerade"
            ),
        ]
    run_transaction("\n".join(lines) + "\n")


def _enable_forwarding(route: Rtnetlink, bridge: str, wanted: Iterable[IpInterface]) -> None:
    names = {link.index: link.name for link in route.links()}
    if any(isinstance(address, IPv4Interface) for address in wanted):
        for name in _forwarding_interfaces(route, bridge, 4, names):
            set_sysctl(f"ipv4/conf/{name}/forwarding", 1)
    if any(isinstance(address, IPv6Interface) for address in wanted):
        _enable_forwarding6(_forwarding_interfaces(route, bridge, 6, names), names.values())


def _enable_forwarding6(wanted: Iterable[str], all_names: Iterable[str]) -> None:
    """Linux 6.17 can forward from single interfaces; before, it is all of them or none.

    With forwarding on for all, an interface stops believing router advertisements, by which
    it may have got its own default route, unless told to go on (accept_ra 2).
    """
    if get_sysctl("ipv6/conf/all/forwarding") == 1:
        return
    forced = [set_sysctl(f"ipv6/conf/{name}/force_forwarding", 1) for name in wanted]
    if all(forced):
        return
    for name in all_names:
        if get_sysctl(f"ipv6/conf/{name}/accept_ra") == 1:
            set_sysctl(f"ipv6/conf/{name}/accept_ra", 2)
    set_sysctl("ipv6/conf/all/forwarding", 1)


def _forwarding_interfaces(
    route: Rtnetlink, bridge: str, version: int, names: dict[int, str]
) -> list[str]:
    """The bridge, and those by which the host has a route to anywhere beyond a link."""
    found = {bridge: None}
    for entry in route.routes(version):
        link_local = entry.destination.network_address in LINK_LOCAL6
        if entry.table == MAIN_TABLE and entry.index in names and not link_local:
            found[names[entry.index]] = None
    return [name for name in found if name != "lo"]
