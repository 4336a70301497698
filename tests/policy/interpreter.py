"""What a packet filter would do that is in the state which a table describes.

It goes through sets, chains and verdicts as data, as the kernel does: the one reading of a
`Table` besides the script that is made of it for nft.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from policy.core.objects import Direction, Pod
from policy.core.parsing import parse
from policy.core.policies import Policies
from policy.core.table import Match, Table
from tests.policy.model import Document, World


@cache
def address(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text)


@dataclass(frozen=True)
class Packet:
    source: str
    destination: str
    protocol: str
    """TCP, UDP, SCTP or ICMP."""
    port: int | None = None


def passes(table: Table, packet: Packet) -> bool:
    return _way(table, "egress", packet.source, packet.destination, packet) and _way(
        table, "ingress", packet.destination, packet.source, packet
    )


def policies_of(documents: Iterable[Document], is_local: Callable[[Pod], bool]) -> Policies:
    policies = Policies(is_local)
    for document in documents:
        tell(policies, document)
    policies.settle()
    return policies


def tell(policies: Policies, document: Document) -> None:
    match document["kind"]:
        case "Namespace":
            policies.handle_namespace(parse(document))  # type: ignore[arg-type]
        case "Pod":
            policies.handle_pod(parse(document))  # type: ignore[arg-type]
        case "NetworkPolicy":
            policies.handle_policy(parse(document))  # type: ignore[arg-type]


def compiled(world: World) -> Table:
    """One node that has all pods."""
    return policies_of(world.documents(), lambda pod: True).table


def _way(table: Table, direction: Direction, local: str, other: str, packet: Packet) -> bool:
    family = 4 if address(local).version == 4 else 6
    name = table.verdicts[direction, family].get(str(address(local)))
    if name is None:
        return True
    chain = table.chains[name]
    assert (chain.direction, chain.family) == (direction, family)
    return any(_matches(table, match, other, packet) for match in chain.matches)


def _matches(table: Table, match: Match, other: str, packet: Packet) -> bool:
    if match.named is not None:
        element = (str(address(other)), packet.protocol.lower(), packet.port or 0)
        return element in table.sets[match.named].elements
    if match.peers is not None:
        peers = table.sets[match.peers]
        if peers.kind == "pods" and (str(address(other)),) not in peers.elements:
            return False
        if peers.kind == "blocks" and not any(
            int(first) <= int(address(other)) <= int(last) for first, last in peers.elements
        ):
            return False
    if match.ports is None:
        return True
    return any(
        protocol == packet.protocol.lower() and int(first) <= (packet.port or 0) <= int(last)
        for protocol, first, last in table.sets[match.ports].elements
    )
