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
from pathlib import Path

from router.shell import namespaces
from router.shell.announce import Announcer
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
from weavepy.kernel.netlink import HostError, IpAddress, IpInterface, explained
from weavepy.kernel.rtnetlink import PORT_HAIRPIN, IpNetwork, Rtnetlink


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
    """As "NAMESPACE/NAME"."""
    uid: str = ""


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
    record = Record(
        wish.owner, wish.interface, wish.mac or random_mac(), wish.namespace, wish.pod, wish.uid
    )
    alias = record.alias()
    with (
        namespaces.opened(wish.namespace) as descriptor,
        explained(f"attaching {wish.owner}"),
        Rtnetlink() as route,
        ExitStack() as done,
        ExitStack() as undo,
    ):
        master = required_bridge(route, bridge)
        left = route.find_link(name)
        if left is not None and left.alias:
            raise InterfaceTaken(f"{wish.owner} is attached already: DEL it first")
        if left is not None:
            route.delete_link(left.index)
        if filters is not None:
            undo.callback(filters.forbid, [name])
            filters.allow(Port(name, record.mac, frozenset(wish.addresses)))
        reached("add-filtered")
        # After the pair is known to be ours: what fails before must not delete another's.
        make_pair(route, descriptor, name, wish.interface, record.mac, wish.mtu_bytes)
        undo.callback(delete_link, name)
        reached("add-paired")
        with namespaces.visited(descriptor):
            announcer, added = _configure(wish)
        done.callback(announcer.close)
        reached("add-configured")
        link = required(route, name)
        add_port(route, master, link)
        if wish.hairpin:
            route.set_port(link.index, PORT_HAIRPIN, 1)
        reached("add-on-bridge")
        coalesce(name, link.index)
        await_forwarding(route, name)
        route.change_link(link.index, alias=alias)
        reached("add-recorded")
        announcer.announce(record.mac, [address.ip for address in wish.addresses])
        undo.pop_all()
    return PodFacts(name, link.mac, record.mac, added)


def remove(bridge: str, filters: Filters | None, owner: str) -> bool:
    """Idempotent, and needs no namespace; False if there was no interface."""
    name = pod_interface_name(bridge, owner)
    with explained(f"detaching {owner}"), Rtnetlink() as route:
        link = route.find_link(name)
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
    with explained("sweeping"), Rtnetlink() as route:
        present = {link.name: link for link in route.links()}
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
    with explained(f"checking {owner}"), Rtnetlink() as route:
        master = required_bridge(route, bridge)
        link = route.find_link(name)
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


def _configure(wish: PodWish) -> tuple[Announcer, tuple[Route, ...]]:
    """All that needs to be inside: who speaks from there later is made now."""
    with Rtnetlink() as route:
        link = configure(route, wish.interface, wish.addresses, [])
        added = [each for each in wish.routes if _add_route(route, link.index, each)]
    return Announcer(wish.interface), tuple(added)


def _add_route(route: Rtnetlink, index: int, wanted: Route) -> bool:
    """False if there is one already: with several networks the first is the way out."""
    try:
        return route.add_route(wanted.destination, index, wanted.gateway)
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EINVAL, errno.EHOSTUNREACH):
            raise HostError(f"no route to {wanted} is possible from {wanted.gateway}") from error
        raise


def _findings_inside(
    known: Record, wanted: Sequence[IpInterface], wanted_routes: Sequence[Route]
) -> list[str]:
    with Rtnetlink() as route:
        link = route.find_link(known.interface)
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
        for version in sorted({each.destination.version for each in wanted_routes}):
            there = {(entry.destination, entry.gateway) for entry in route.routes(version)}
            found += [
                f"there is no route to {each}"
                for each in wanted_routes
                if each.destination.version == version
                and (each.destination, each.gateway) not in there
            ]
    return found
