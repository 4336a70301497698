"""Mending what others did to the bridge: deleted it, or took ports out of it.

A bridge that is deleted takes its addresses along and lets go of its ports; veths, TAP and filters
stay, each by itself. So a bridge is made again, with the MAC which peers and containers have in
their ARP caches, and all that was on it is put back. The order is what makes it safe: filters
stand before there is a bridge that they are for, and a veth goes in only if its own is there.
"""

from contextlib import suppress
from dataclasses import dataclass

from router.shell.attach import attachments
from router.shell.bridge import NoSuchInterface, enslave, ensure_bridge
from router.shell.expose import expose, masqueraded
from router.shell.filters import Filters
from weavepy.kernel.netlink import IpInterface, explained
from weavepy.kernel.rtnetlink import IpNetwork, Rtnetlink

MAX_NAMED = 5
"""Containers named in what is said; the others are counted."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What cannot be found out of a bridge once it is gone."""

    index: int
    mac: str
    exposed: tuple[IpInterface, ...]
    masqueraded: tuple[IpNetwork, ...]
    """Subnets."""


def look(bridge: str) -> Seen | None:
    """None if there is no such bridge."""
    with explained(f"looking at {bridge}"), Rtnetlink() as route:
        link = route.find_link(bridge)
        if link is None or link.kind != "bridge":
            return None
        exposed = tuple(route.addresses(link.index))
    return Seen(link.index, link.mac, exposed, masqueraded(bridge) if exposed else ())


def mend(
    bridge: str,
    filters: Filters | None,
    before: Seen,
    tap: str,
    mtu_bytes: int,
    is_node: bool = False,
) -> list[str]:
    """Have bridge, filtered veths, TAP and the host's addresses as they were; say what was not so.

    Repeated after an error, with the same `before`, it goes on where that one came to.
    """
    mended = []
    wrong = _wrong_with(bridge, before, mtu_bytes)
    if wrong:
        if filters is not None:
            filters.install()
        ensure_bridge(bridge, mtu_bytes, before.mac)
        mended.append(f"{bridge} {wrong}")
    taken_out = [it for it in attachments(bridge, filters) if it.filtered and not it.on_bridge]
    for facts in taken_out:
        enslave(bridge, facts.host_interface)
    if taken_out:
        named = ", ".join(facts.owner for facts in taken_out[:MAX_NAMED])
        more = f" and {len(taken_out) - MAX_NAMED} more" if len(taken_out) > MAX_NAMED else ""
        mended.append(f"not on it: {named}{more}")
    # Without a TAP there is no datapath; its next start puts the TAP there.
    with suppress(NoSuchInterface):
        if enslave(bridge, tap, isolated=True):
            mended.append(f"not on it: {tap}")
    if _expose_again(bridge, filters, before, is_node):
        mended.append("addresses of this host or their masquerading were gone")
    return mended


def _wrong_with(bridge: str, before: Seen, mtu_bytes: int) -> str:
    with explained(f"looking at {bridge}"), Rtnetlink() as route:
        link = route.find_link(bridge)
    if link is None:
        return "was deleted"
    if link.index != before.index:
        return "was replaced"
    if not link.up:
        return "was down"
    return "had another MTU" if link.mtu_bytes != mtu_bytes else ""


def _expose_again(bridge: str, filters: Filters | None, before: Seen, is_node: bool) -> bool:
    """Somebody who takes one address off a bridge that stays will have meant it."""
    now = look(bridge)
    if now is None or not before.exposed:
        return False
    wanted = now.exposed
    if now.index != before.index:
        wanted += tuple(address for address in before.exposed if address not in now.exposed)
    lost = [subnet for subnet in before.masqueraded if subnet not in now.masqueraded]
    if wanted == now.exposed and not (wanted and lost):
        return False
    if filters is not None:
        filters.install()
    expose(bridge, wanted, lost, is_node)
    return True
