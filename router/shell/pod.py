"""The interface of a container that a CNI runtime starts: made new, found again, taken away.

Other than `attach.py`, which gives a container what it lacks, this makes something new or fails.
The host's end is named by the owner and not by the namespace, as a DEL may come when that is gone.
The record in its alias comes last: what has none is half made, by a router that was killed, and the
next one clears it away (`sweep`). It knows which are ours by their filters, which come first.
"""

import errno
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from router.shell import namespaces
from router.shell.announce import announce
from router.shell.attach import PREFIX, leads_to, pod_interface_name
from router.shell.bridge import (
    InterfaceTaken,
    add_port,
    check_mac,
    random_mac,
    required,
    required_bridge,
)
from router.shell.coalescing import coalesce
from router.shell.filters import Filters, Port
from router.shell.record import Record, parse_record
from router.shell.veth import addresses_of, await_forwarding, configure, delete_link, make_pair
from weavepy.kernel.faults import reached
from weavepy.kernel.netlink import (
    HostError,
    IpInterface,
    explained,
    find_link,
    links,
    netlink,
    routes,
)

IpNetwork = IPv4Network | IPv6Network
IpAddress = IPv4Address | IPv6Address
FAMILIES = {4: 2, 6: 10}
"""AF_INET and AF_INET6, by IP version."""


@dataclass(frozen=True, slots=True)
class Route:
    destination: IpNetwork
    gateway: IpAddress | None

    def __str__(self) -> str:
        return f"{self.destination} via {self.gateway}" if self.gateway else str(self.destination)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodWish:
    owner: str
    namespace: Path
    interface: str
    addresses: tuple[IpInterface, ...]
    routes: tuple[Route, ...] = ()
    mac: str = ""
    """Empty for a random one."""
    mtu_bytes: int
    hairpin: bool = False
    pod: str = ""


@dataclass(frozen=True, slots=True)
class PodFacts:
    host_interface: str
    host_mac: str
    mac: str
    routes: tuple[Route, ...]
    """Those that were added; a default route that is there already stays."""


def make(bridge: str, filters: Filters | None, wish: PodWish) -> PodFacts:
    """All or nothing; `InterfaceTaken` if this owner, or the container, has the interface."""
    if wish.mac:
        check_mac(wish.mac)
    name = pod_interface_name(bridge, wish.owner)
    record = Record(wish.owner, wish.interface, wish.mac or random_mac(), wish.namespace, wish.pod)
    alias = record.alias()
    with (
        namespaces.opened(wish.namespace) as descriptor,
        explained(f"attaching {wish.owner}"),
        netlink() as route,
        ExitStack() as undo,
    ):
        master = required_bridge(route, bridge)
        left = find_link(route, name)
        if left is not None and left.alias:
            raise InterfaceTaken(f"{wish.owner} is attached already: DEL it first")
        if left is not None:
            route.link("del", index=left.index)
        if filters is not None:
            undo.callback(filters.forbid, [name])
            filters.allow(Port(name, record.mac, frozenset(wish.addresses)))
        reached("add-filtered")
        # After the pair is known to be ours: what fails before must not delete another's.
        make_pair(route, descriptor, name, wish.interface, record.mac, wish.mtu_bytes)
        undo.callback(delete_link, name)
        reached("add-paired")
        added = namespaces.run_inside(descriptor, lambda: _configure(wish))
        reached("add-configured")
        link = required(route, name)
        add_port(route, master, link)
        if wish.hairpin:
            route.brport("set", index=link.index, mode=1)
        reached("add-on-bridge")
        coalesce(name, link.index)
        await_forwarding(route, name)
        route.link("set", index=link.index, ifalias=alias)
        reached("add-recorded")
        ips = [address.ip for address in wish.addresses]
        namespaces.run_inside(descriptor, lambda: announce(wish.interface, record.mac, ips))
        undo.pop_all()
    return PodFacts(name, link.mac, record.mac, added)


def remove(bridge: str, filters: Filters | None, owner: str) -> bool:
    """Idempotent, and needs no namespace; False if there was no interface."""
    name = pod_interface_name(bridge, owner)
    with explained(f"detaching {owner}"), netlink() as route:
        link = find_link(route, name)
        if link is not None:
            known = parse_record(link.alias)
            if known is not None and known.owner != owner:
                return False
            delete_link(name)
    reached("del-unlinked")
    if filters is not None:
        filters.forbid([name])
    reached("del-unfiltered")
    return link is not None


def sweep(bridge: str, filters: Filters | None) -> list[str]:
    """Clear away what killed routers have left half made; return the interfaces."""
    if filters is None:
        return []
    with explained("sweeping"), netlink() as route:
        present = {link.name: link for link in links(route)}
        left = [
            name
            for name in sorted(filters.ports())
            if name not in present or not present[name].alias
        ]
        for name in left:
            if name in present and name.startswith(PREFIX):
                delete_link(name)
    filters.forbid(left)
    return left


def findings(
    bridge: str,
    filters: Filters | None,
    owner: str,
    namespace: Path,
    mac: str,
    wanted: Sequence[IpInterface],
    wanted_routes: Iterable[Route],
) -> list[str]:
    """Return what is not as `make` left it. What others added since is no finding."""
    name = pod_interface_name(bridge, owner)
    with explained(f"checking {owner}"), netlink() as route:
        master = required_bridge(route, bridge)
        link = find_link(route, name)
        known = parse_record(link.alias) if link is not None else None
        if link is None or known is None or known.owner != owner:
            return [f"the host's interface {name} is gone"]
        found = []
        if link.master != master.index:
            found.append(f"{name} is not a port of {bridge}")
        if not link.up:
            found.append(f"{name} is down")
        if not leads_to(route, namespace, link):
            return [*found, f"{known.interface} is not in {namespace} (any more)"]
        if mac and mac != known.mac:
            found.append(f"the MAC was {known.mac}, not {mac}")
    if filters is not None:
        port = filters.ports().get(name)
        if port is None:
            found.append(f"the filter of {name} is gone")
        else:
            found += [
                f"{address} is not in the filter of {name}"
                for address in wanted
                if address not in port.addresses
            ]
    with namespaces.opened(namespace) as descriptor:
        found += namespaces.run_inside(
            descriptor, lambda: _findings_inside(known, wanted, list(wanted_routes))
        )
    return found


# --- inside the container ------------------------------------------------------------------------


def _configure(wish: PodWish) -> tuple[Route, ...]:
    configure(wish.interface, wish.addresses, [])
    added = []
    with netlink() as route:
        link = required(route, wish.interface)
        for each in wish.routes:
            if _add_route(route, link.index, each):
                added.append(each)
    return tuple(added)


def _add_route(route: Any, index: int, wanted: Route) -> bool:
    """False if there is one already: with several networks the first is the way out."""
    where = {"gateway": str(wanted.gateway)} if wanted.gateway else {"scope": "link"}
    try:
        route.route("add", dst=str(wanted.destination), oif=index, **where)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            return False
        if error.code in (errno.ENETUNREACH, errno.EINVAL, errno.EHOSTUNREACH):
            raise HostError(f"no route to {wanted} is possible from {wanted.gateway}") from error
        raise
    return True


def _findings_inside(
    known: Record, wanted: Sequence[IpInterface], wanted_routes: Sequence[Route]
) -> list[str]:
    with netlink() as route:
        link = find_link(route, known.interface)
        if link is None:
            return [f"the interface {known.interface} is gone from the container"]
        found = []
        if link.mac != known.mac:
            found.append(f"the MAC of {known.interface} is {link.mac}, not {known.mac}")
        if not link.up:
            found.append(f"{known.interface} is down")
        present = addresses_of(known.interface)
        found += [
            f"{known.interface} has not {address}" for address in wanted if address not in present
        ]
        for version, family in FAMILIES.items():
            of_family = [each for each in wanted_routes if each.destination.version == version]
            if not of_family:
                continue
            there = {_key(message) for message in routes(route, family)}
            found += [
                f"there is no route to {each}"
                for each in of_family
                if (str(each.destination), str(each.gateway or "")) not in there
            ]
    return found


def _key(message: Any) -> tuple[str, str]:
    default = "0.0.0.0" if message["family"] == FAMILIES[4] else "::"
    destination = message.get_attr("RTA_DST") or default
    return f"{destination}/{message['dst_len']}", message.get_attr("RTA_GATEWAY") or ""
