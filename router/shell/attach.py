"""Putting a container on the bridge: a veth pair, its filter, its addresses.

The order is what makes it safe and repeatable. First the filter for the host end's name, then
the pair (the kernel makes the far end right inside the container), addresses and routes, then
the port on the bridge, last the announcements. Whatever fails, everything done so far
is undone in reverse, so an attachment is there whole or not at all.

Nothing is remembered here. The host end's name is a hash of bridge, namespace and interface,
so attaching again finds what is there; its alias holds owner, MAC, interface and path, and
the filter's sets hold the addresses. A restarted router reads them back with `attachments()`.
"""

import errno
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from router.shell import namespaces
from router.shell.announce import announce
from router.shell.bridge import (
    InterfaceTaken,
    NoSuchInterface,
    add_port,
    check_interface_name,
    random_mac,
    required,
    required_bridge,
)
from router.shell.filters import Filters, Port
from router.shell.netlink import (
    HostError,
    IpInterface,
    Link,
    add_address,
    addresses,
    explained,
    find_link,
    links,
    netlink,
    remove_address,
    set_sysctl,
)
from weavepy.base.errors import UsageError

PREFIX = "vethw"
ALIAS_PREFIX = "weavepy:"
MAX_ALIAS_BYTES = 254
"""The kernel's IFALIASZ, less the terminating zero that pyroute2 adds."""

FORWARDING_TIMEOUT_S = 2.0
"""How long a new port may take to come up; normally it is a few milliseconds."""

MULTICAST = "224.0.0.0"


class NotAttached(HostError):
    pass


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


def attach(
    bridge: str,
    filters: Filters | None,
    namespace: Path,
    owner: str,
    interface: str,
    mac: str | None,
    wanted: Sequence[IpInterface],
    mtu_bytes: int,
) -> AttachmentFacts:
    """All or nothing. Repeated, it adds the addresses that are missing and changes no other."""
    check_interface_name(interface)
    with (
        namespaces.opened(namespace) as descriptor,
        explained(f"attaching {owner}"),
        netlink() as route,
        ExitStack() as undo,
    ):
        master = required_bridge(route, bridge)
        host_interface = host_interface_name(bridge, descriptor, interface)
        link = find_link(route, host_interface)
        if link is not None and (not link.alias or link.master != master.index):
            # What an attach that was killed half way has left.
            route.link("del", index=link.index)
            link = None
        assigned: frozenset[IpInterface] = frozenset()
        if link is None:
            mac = mac or random_mac()
            alias = _alias(owner, interface, mac, namespace)
        else:
            known = _parse_alias(link.alias)
            if known is None or known[0] != owner:
                raise InterfaceTaken(
                    f"{namespace} is attached already"
                    + (f", for {known[0]}: detach that first" if known else " by something else")
                )
            mac = known[2]
            assigned = _assigned(filters, host_interface, descriptor, interface)
            if _leads_to(route, known[3], link):
                namespace = known[3]
            else:
                alias = _alias(owner, interface, mac, namespace)
                route.link("set", index=link.index, ifalias=alias)
        _check_lengths(assigned, wanted)
        port = Port(host_interface, mac, assigned | frozenset(wanted))
        if filters is not None:
            before = Port(host_interface, mac, assigned) if link is not None else None
            undo.callback(_restore, filters, host_interface, before)
            filters.allow(port)
        if link is None:
            undo.callback(_delete_link, host_interface)
            _make_pair(route, descriptor, host_interface, interface, mac, mtu_bytes)
            link = required(route, host_interface)
            route.link("set", index=link.index, ifalias=alias)
        added: list[IpInterface] = []
        undo.callback(_remove_inside, descriptor, interface, added)
        namespaces.run_inside(descriptor, lambda: _configure(interface, port.addresses, added))
        add_port(route, master, link)
        _await_forwarding(route, host_interface)
        new = [address.ip for address in _sorted(added)]
        namespaces.run_inside(descriptor, lambda: announce(interface, port.mac, new))
        undo.pop_all()
    return AttachmentFacts(
        owner,
        namespace,
        interface,
        host_interface,
        mac,
        _sorted(port.addresses),
        alive=True,
        filtered=filters is not None,
    )


def attachments(bridge: str, filters: Filters | None) -> list[AttachmentFacts]:
    """Every attachment of this bridge, from the kernel alone, sorted by owner."""
    ports = filters.ports() if filters is not None else {}
    found = []
    with explained("listing attachments"), netlink() as route:
        master = find_link(route, bridge)
        if master is None:
            return []
        for link in links(route):
            known = _parse_alias(link.alias)
            if known is None or link.master != master.index:
                continue
            owner, interface, mac, namespace = known
            port = ports.get(link.name)
            found.append(
                AttachmentFacts(
                    owner,
                    namespace,
                    interface,
                    link.name,
                    mac,
                    _sorted(port.addresses if port else _inside(namespace, interface)),
                    alive=_leads_to(route, namespace, link),
                    filtered=port is not None,
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
            _delete_link(facts.host_interface)
            if filters is not None:
                filters.forbid([facts.host_interface])
        elif leaving:
            if facts.alive:
                with namespaces.opened(facts.namespace) as descriptor:
                    _remove_inside(descriptor, facts.interface, leaving)
            if filters is not None:
                filters.allow(Port(facts.host_interface, facts.mac, frozenset(remaining)))
    return leaving


def set_mtu(facts: AttachmentFacts, mtu_bytes: int) -> None:
    """Both ends; only the host's where the path does not lead to the namespace any more."""
    with explained(f"setting the MTU of {facts.owner}"):
        _set_link_mtu(facts.host_interface, mtu_bytes)
        if facts.alive:
            with namespaces.opened(facts.namespace) as descriptor:
                namespaces.run_inside(descriptor, lambda: _set_link_mtu(facts.interface, mtu_bytes))


def host_interface_name(bridge: str, descriptor: int, interface: str) -> str:
    """The same for each attempt; a namespace's inode is its own for as long as it lives."""
    device, inode = namespaces.identity(descriptor)
    text = f"{bridge} {device} {inode} {interface}"
    return PREFIX + hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


# --- steps of attaching ------------------------------------------------------------------------


def _check_lengths(assigned: Iterable[IpInterface], wanted: Iterable[IpInterface]) -> None:
    lengths = {address.ip: address for address in assigned}
    for address in wanted:
        if lengths.setdefault(address.ip, address) != address:
            raise UsageError(
                f"{lengths[address.ip]} is attached already, so {address} cannot be: detach it "
                "first"
            )


def _make_pair(
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


def _configure(interface: str, wanted: Iterable[IpInterface], added: list[IpInterface]) -> None:
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
        for address in _sorted(wanted):
            if add_address(route, link.index, address):
                added.append(address)
        if not link.up:
            route.link("set", index=link.index, state="up")
        if any(isinstance(address, IPv4Interface) for address in wanted):
            _add_multicast_route(route, link.index)


def _add_multicast_route(route: Any, index: int) -> None:
    """Multicast goes over the overlay, unless the container already sends some elsewhere."""
    for entry in route.get_routes(family=2):
        destination = entry.get_attr("RTA_DST") or ""
        if entry["dst_len"] >= 4 and 224 <= int(destination.split(".")[0]) <= 239:
            return
    route.route("add", dst=f"{MULTICAST}/4", oif=index, scope="link")


def _await_forwarding(route: Any, host_interface: str) -> None:
    """A port passes frames a moment after it is up. If it never does, ping will tell."""
    give_up_at = time.monotonic() + FORWARDING_TIMEOUT_S
    while not required(route, host_interface).operational and time.monotonic() < give_up_at:
        time.sleep(0.002)


# --- undoing -----------------------------------------------------------------------------------


def _restore(filters: Filters, host_interface: str, before: Port | None) -> None:
    if before is None:
        filters.forbid([host_interface])
    else:
        filters.allow(before)


def _delete_link(name: str) -> None:
    with netlink() as route:
        link = find_link(route, name)
        if link is not None:
            _ignoring_absence(lambda: route.link("del", index=link.index))


def _remove_inside(descriptor: int, interface: str, unwanted: Iterable[IpInterface]) -> None:
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


# --- reading back ------------------------------------------------------------------------------


def _alias(owner: str, interface: str, mac: str, namespace: Path) -> str:
    """An owner that is the namespace's path is left out, to fit the kernel's 256 bytes."""
    fields = [owner if owner != str(namespace) else "", interface, mac, str(namespace)]
    alias = ALIAS_PREFIX + json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    if len(alias.encode()) > MAX_ALIAS_BYTES:
        raise UsageError(
            f"owner and namespace path are too long together ({len(alias.encode())} of "
            f"{MAX_ALIAS_BYTES} bytes): use a shorter id or path"
        )
    return alias


def _parse_alias(alias: str) -> tuple[str, str, str, Path] | None:
    if not alias.startswith(ALIAS_PREFIX):
        return None
    try:
        owner, interface, mac, namespace = json.loads(alias[len(ALIAS_PREFIX) :])
    except ValueError:
        return None
    return owner or namespace, interface, mac, Path(namespace)


def _assigned(
    filters: Filters | None, host_interface: str, descriptor: int, interface: str
) -> frozenset[IpInterface]:
    port = filters.ports().get(host_interface) if filters is not None else None
    if port is not None:
        return port.addresses
    return frozenset(namespaces.run_inside(descriptor, lambda: _addresses_of(interface)))


def _inside(namespace: Path, interface: str) -> list[IpInterface]:
    """For lack of a filter that knows, what the container has; nothing if it is gone."""
    try:
        with namespaces.opened(namespace) as descriptor:
            return namespaces.run_inside(descriptor, lambda: _addresses_of(interface))
    except HostError:
        return []


def _addresses_of(interface: str) -> list[IpInterface]:
    with netlink() as route:
        link = find_link(route, interface)
        return addresses(route, link.index) if link is not None else []


def _leads_to(route: Any, namespace: Path, link: Link) -> bool:
    try:
        with namespaces.opened(namespace) as descriptor:
            answer = route.get_netnsid(fd=descriptor)
    except HostError:
        return False
    return bool(answer["nsid"] == link.peer_namespace_id)


def _set_link_mtu(name: str, mtu_bytes: int) -> None:
    with netlink() as route:
        link = find_link(route, name)
        if link is not None and link.mtu_bytes != mtu_bytes:
            route.link("set", index=link.index, mtu=mtu_bytes)


def _sorted(unsorted: Iterable[IpInterface]) -> tuple[IpInterface, ...]:
    return tuple(sorted(unsorted, key=lambda it: (it.version, int(it.ip), it.network.prefixlen)))
