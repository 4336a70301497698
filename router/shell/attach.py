"""Putting a container on the bridge: a veth pair, its filter, its addresses.

The order is what makes it safe and repeatable. First the filter for the host end's name, then
the pair (the kernel makes the far end right inside the container), addresses and routes, then
the port on the bridge, last the announcements. Whatever fails, everything done so far
is undone in reverse, so an attachment is there whole or not at all.

Nothing is remembered here. The host end's name is a hash of bridge, namespace and interface,
so attaching again finds what is there; its alias holds owner, MAC, interface and path, and
the filter's sets hold the addresses. A restarted router reads them back with `attachments()`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from router.shell import namespaces
from router.shell.announce import announce
from router.shell.bridge import (
    InterfaceTaken,
    add_port,
    check_interface_name,
    check_mac,
    random_mac,
    required,
    required_bridge,
)
from router.shell.coalescing import coalesce
from router.shell.filters import Filters, Port
from router.shell.record import Record, parse_record
from router.shell.veth import (
    addresses_of,
    await_forwarding,
    configure,
    delete_link,
    in_order,
    make_pair,
    remove_inside,
    set_link_mtu,
)
from weavepy.base.errors import UsageError
from weavepy.kernel.netlink import (
    HostError,
    IpInterface,
    Link,
    explained,
)
from weavepy.kernel.rtnetlink import Rtnetlink

PREFIX = "vethw"


@dataclass(frozen=True, slots=True)
class AttachmentFacts:
    owner: str
    """What its addresses belong to: a container id, or the namespace's path."""
    namespace: Path
    interface: str
    host_interface: str
    mac: str
    addresses: tuple[IpInterface, ...]
    """Sorted: IPv4 first."""
    alive: bool
    """The path still leads to the namespace that the veth goes to."""
    filtered: bool
    """Its filter is in force; if not, attaching again restores it."""
    on_bridge: bool = True
    """If not, somebody took it out, or deleted the bridge; attaching again puts it back."""
    pod: str = ""
    """What a CNI runtime said that it is for, as "NAMESPACE/NAME"."""
    uid: str = ""
    """That pod's."""


def attach(
    bridge: str,
    filters: Filters | None,
    namespace: Path,
    owner: str,
    interface: str,
    mac: str | None,
    wanted: Sequence[IpInterface],
    mtu_bytes: int,
    host_interface: str = "",
) -> AttachmentFacts:
    """All or nothing. Repeated, it adds the addresses that are missing and changes no other.

    `host_interface` is for what has another name than its namespace would give it (`pod.py`).
    """
    check_interface_name(interface)
    if mac is not None:
        check_mac(mac)
    with (
        namespaces.opened(namespace) as descriptor,
        explained(f"attaching {owner}"),
        Rtnetlink() as route,
        ExitStack() as undo,
    ):
        master = required_bridge(route, bridge)
        host_interface = host_interface or host_interface_name(bridge, descriptor, interface)
        link = route.find_link(host_interface)
        if link is not None and (not link.alias or link.master not in (0, master.index)):
            # What an attach that was killed half way has left, or somebody gave away.
            route.delete_link(link.index)
            link = None
        assigned: frozenset[IpInterface] = frozenset()
        if link is None:
            _sweep(route, filters, master, owner)
            mac = mac or random_mac()
            alias = Record(owner, interface, mac, namespace).alias()
        else:
            known = parse_record(link.alias)
            if known is None or known.owner != owner:
                raise InterfaceTaken(
                    f"{namespace} is attached already"
                    + (f", for {known.owner}: detach that first" if known else " by something else")
                )
            mac = known.mac
            assigned = _assigned(filters, host_interface, descriptor, interface)
            if leads_to(route, known.namespace, link):
                namespace = known.namespace
            else:
                alias = Record(owner, interface, mac, namespace, known.pod, known.uid).alias()
                route.change_link(link.index, alias=alias)
        _check_lengths(assigned, wanted)
        port = Port(host_interface, mac, assigned | frozenset(wanted))
        if filters is not None:
            before = Port(host_interface, mac, assigned) if link is not None else None
            undo.callback(_restore, filters, host_interface, before)
            filters.allow(port)
        if link is None:
            undo.callback(delete_link, host_interface)
            make_pair(route, descriptor, host_interface, interface, mac, mtu_bytes)
            link = required(route, host_interface)
            route.change_link(link.index, alias=alias)
        added: list[IpInterface] = []
        undo.callback(remove_inside, descriptor, interface, added)
        namespaces.run_inside(descriptor, lambda: _configure(interface, port.addresses, added))
        add_port(route, master, link)
        coalesce(host_interface, link.index)
        await_forwarding(route, host_interface)
        new = [address.ip for address in in_order(added)]
        namespaces.run_inside(descriptor, lambda: announce(interface, port.mac, new))
        undo.pop_all()
    return AttachmentFacts(
        owner,
        namespace,
        interface,
        host_interface,
        mac,
        in_order(port.addresses),
        alive=True,
        filtered=filters is not None,
    )


def attachments(bridge: str, filters: Filters | None) -> list[AttachmentFacts]:
    """Every attachment of this bridge, from the kernel alone, sorted by owner.

    Those as well that are on no bridge, if they were made for this one: what runs in a container
    goes on using its addresses.
    """
    ports = filters.ports() if filters is not None else {}
    found = []
    with explained("listing attachments"), Rtnetlink() as route:
        master = route.find_link(bridge)
        for link in route.links():
            known = parse_record(link.alias)
            if known is None:
                continue
            port = ports.get(link.name)
            on_bridge = master is not None and link.master == master.index
            if not on_bridge and (
                link.master or (port is None and not _made_for(bridge, known, link.name))
            ):
                continue
            found.append(
                AttachmentFacts(
                    known.owner,
                    known.namespace,
                    known.interface,
                    link.name,
                    known.mac,
                    in_order(port.addresses if port else _inside(known.namespace, known.interface)),
                    alive=leads_to(route, known.namespace, link),
                    filtered=port is not None,
                    on_bridge=on_bridge,
                    pod=known.pod,
                    uid=known.uid,
                )
            )
    return sorted(found, key=lambda facts: (facts.owner, facts.interface, facts.host_interface))


def detach(
    filters: Filters | None, facts: AttachmentFacts, unwanted: Iterable[IpInterface]
) -> tuple[IpInterface, ...]:
    """Take addresses away, and with the last one the interface; return those that went."""
    remaining = [address for address in facts.addresses if address not in set(unwanted)]
    leaving = tuple(address for address in facts.addresses if address not in remaining)
    with explained(f"detaching {facts.owner}"):
        if not remaining:
            delete_link(facts.host_interface)
            if filters is not None:
                filters.forbid([facts.host_interface])
        elif leaving:
            if facts.alive:
                with namespaces.opened(facts.namespace) as descriptor:
                    remove_inside(descriptor, facts.interface, leaving)
            if filters is not None:
                filters.allow(Port(facts.host_interface, facts.mac, frozenset(remaining)))
    return leaving


def set_mtu(facts: AttachmentFacts, mtu_bytes: int, before: int) -> None:
    """Both ends; only the host's where the path does not lead to the namespace any more."""
    with explained(f"setting the MTU of {facts.owner}"):
        set_link_mtu(facts.host_interface, mtu_bytes, before)
        if facts.alive:
            with namespaces.opened(facts.namespace) as descriptor:
                namespaces.run_inside(
                    descriptor, partial(set_link_mtu, facts.interface, mtu_bytes, before)
                )


def host_interface_name(bridge: str, descriptor: int, interface: str) -> str:
    """The same for each attempt; a namespace's inode is its own for as long as it lives."""
    device, inode = namespaces.identity(descriptor)
    return _name(f"{bridge} {device} {inode} {interface}")


def pod_interface_name(bridge: str, owner: str) -> str:
    """Of an attachment that is found without its namespace, which may be gone."""
    return _name(f"{bridge} {owner}")


def _name(text: str) -> str:
    return PREFIX + hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


# --- steps of attaching ------------------------------------------------------------------------


def _sweep(route: Rtnetlink, filters: Filters | None, master: Link, owner: str) -> None:
    """Before something new comes, clear away what has had its day.

    That is filters of veths that vanished with their namespaces, and an attachment of this owner
    in a namespace that its path has left (it may still run, and would have the same addresses).
    """
    present = route.links()
    names = {link.name for link in present}
    for link in present:
        known = parse_record(link.alias)
        if (
            known is not None
            and known.owner == owner
            and link.master == master.index
            and not leads_to(route, known.namespace, link)
        ):
            delete_link(link.name)
            names.discard(link.name)
    if filters is not None:
        filters.forbid(sorted(filters.ports().keys() - names))


def _check_lengths(assigned: Iterable[IpInterface], wanted: Iterable[IpInterface]) -> None:
    lengths = {address.ip: address for address in assigned}
    for address in wanted:
        if lengths.setdefault(address.ip, address) != address:
            raise UsageError(
                f"{lengths[address.ip]} is attached already, so {address} cannot be: detach it "
                "first"
            )


# --- undoing -----------------------------------------------------------------------------------


def _configure(interface: str, wanted: Iterable[IpInterface], added: list[IpInterface]) -> None:
    with Rtnetlink() as route:
        configure(route, interface, wanted, added)


def _restore(filters: Filters, host_interface: str, before: Port | None) -> None:
    if before is None:
        filters.forbid([host_interface])
    else:
        filters.allow(before)


# --- reading back ------------------------------------------------------------------------------


def _assigned(
    filters: Filters | None, host_interface: str, descriptor: int, interface: str
) -> frozenset[IpInterface]:
    port = filters.ports().get(host_interface) if filters is not None else None
    if port is not None:
        return port.addresses
    return frozenset(namespaces.run_inside(descriptor, lambda: addresses_of(interface)))


def _inside(namespace: Path, interface: str) -> list[IpInterface]:
    """For lack of a filter that knows, what the container has; nothing if it is gone."""
    try:
        with namespaces.opened(namespace) as descriptor:
            return namespaces.run_inside(descriptor, lambda: addresses_of(interface))
    except HostError:
        return []


def _made_for(bridge: str, known: Record, host_interface: str) -> bool:
    if host_interface == pod_interface_name(bridge, known.owner):
        return True
    try:
        with namespaces.opened(known.namespace) as descriptor:
            return host_interface_name(bridge, descriptor, known.interface) == host_interface
    except HostError:
        return False


def leads_to(route: Rtnetlink, namespace: Path, link: Link) -> bool:
    try:
        with namespaces.opened(namespace) as descriptor:
            return route.namespace_id(descriptor) == link.peer_namespace_id
    except HostError:
        return False
