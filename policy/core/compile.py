"""From the rules that concern one local pod to its chain, one direction and family at a time.

Rules are unions, so all that matters is which ports each peer may use: per peer the ports of all
rules are joined into one set. A pod's chain thus has one match per distinct peer, however many
policies select the pod, and the same chain serves all pods for which the same comes out.

A named port stands for a number only at a destination. Going in, that is the local pod, so the
number is known here. Going out, it depends on each peer: then addresses and numbers are in one set.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from policy.core import ranges
from policy.core.objects import (
    PROTOCOLS,
    Block,
    Direction,
    Family,
    NamedPort,
    PodPeer,
    PortName,
    PortRange,
    Protocol,
    Rule,
)
from policy.core.selectors import EVERYTHING
from policy.core.table import Chain, Element, Match, content_name

EVERY_POD = PodPeer(EVERYTHING, EVERYTHING)


@dataclass(frozen=True, slots=True)
class PodSet:
    """Addresses of the pods that a peer means."""

    peer: PodPeer
    family: Family


@dataclass(frozen=True, slots=True)
class NamedSet:
    """Addresses with the number that each pod gives a port's name, of pods that a peer means."""

    peer: PodPeer
    within: Block | None
    """Only addresses in here."""
    port: PortName
    family: Family


@dataclass(frozen=True, slots=True)
class BlockSet:
    block: Block


@dataclass(frozen=True, slots=True)
class PortSet:
    elements: tuple[Element, ...]


SetSource = PodSet | NamedSet | BlockSet | PortSet
PREFIXES = {PodSet: "pods", NamedSet: "named", BlockSet: "blocks", PortSet: "ports"}


def set_name(source: SetSource) -> str:
    match source:
        case PodSet() | NamedSet():
            family = str(source.family)
        case BlockSet():
            family = str(source.block.family)
        case PortSet():
            family = ""
    return content_name(PREFIXES[type(source)] + family, source)


@dataclass(frozen=True, slots=True)
class Compiled:
    name: str
    chain: Chain
    sources: dict[str, SetSource]
    """What the sets are made of that the chain refers to, by name."""


class Compiler:
    """Remembers the names that it gave, as making them costs more than anything else here."""

    def __init__(self) -> None:
        self._names: dict[SetSource, str] = {}

    def forget(self, source: SetSource) -> None:
        self._names.pop(source, None)

    def chain(
        self,
        rules: Iterable[Rule],
        own_ports: Iterable[NamedPort],
        direction: Direction,
        family: Family,
    ) -> Compiled:
        numeric: dict[PodPeer | Block | None, dict[Protocol, list[ranges.Range]] | None] = {}
        named: dict[NamedSet, None] = {}
        for rule in rules:
            ports, names = _resolved(rule, own_ports, direction)
            for peer in _peers(rule, family):
                if ports is None:
                    numeric[peer] = None
                elif ports and (known := numeric.setdefault(peer, {})) is not None:
                    for port in ports:
                        known.setdefault(port.protocol, []).append((port.first, port.last))
                for name in names:
                    named[_named_set(peer, name, family)] = None
        sources: dict[str, SetSource] = {}
        matches: dict[Match, None] = {}
        for peer, spans in numeric.items():
            peers = None if peer is None else self._use(_peer_set(peer, family), sources)
            allowed = None if spans is None else self._use(_port_set(spans), sources)
            matches[Match(peers, allowed)] = None
        for source in named:
            matches[Match(named=self._use(source, sources))] = None
        if Match() in matches:
            sources, matches = {}, {Match(): None}
        ordered = tuple(sorted(matches, key=lambda one: tuple(map(str, one.sets()))))
        chain = Chain(direction, family, ordered)
        return Compiled(content_name(f"{direction}{family}", ordered), chain, sources)

    def _use(self, source: SetSource, sources: dict[str, SetSource]) -> str:
        name = self._names.get(source)
        if name is None:
            name = self._names[source] = set_name(source)
        sources[name] = source
        return name


def _resolved(
    rule: Rule, own_ports: Iterable[NamedPort], direction: Direction
) -> tuple[list[PortRange] | None, list[PortName]]:
    """Ports as numbers (None: all of them), and the names that cannot be numbers yet."""
    if rule.ports is None:
        return None, []
    numbers, names = [], []
    for port in rule.ports:
        if isinstance(port, PortRange):
            numbers.append(port)
        elif direction == "egress":
            names.append(port)
        else:
            numbers += [
                PortRange(port.protocol, own.number, own.number)
                for own in own_ports
                if own.name == port.name and own.protocol == port.protocol
            ]
    return numbers, names


def _peers(rule: Rule, family: Family) -> list[PodPeer | Block | None]:
    """One rule's blocks are one set; None is everybody."""
    if rule.peers is None:
        return [None]
    peers: list[PodPeer | Block | None] = [one for one in rule.peers if isinstance(one, PodPeer)]
    spans = [
        span
        for one in rule.peers
        if isinstance(one, Block) and one.family == family
        for span in one.ranges
    ]
    if spans:
        peers.append(Block(family, ranges.union(spans)))
    return peers


def _peer_set(peer: PodPeer | Block, family: Family) -> SetSource:
    return BlockSet(peer) if isinstance(peer, Block) else PodSet(peer, family)


def _named_set(peer: PodPeer | Block | None, port: PortName, family: Family) -> NamedSet:
    match peer:
        case PodPeer():
            return NamedSet(peer, None, port, family)
        case Block():
            return NamedSet(EVERY_POD, peer, port, family)
        case None:
            return NamedSet(EVERY_POD, None, port, family)


def _port_set(spans: dict[Protocol, list[ranges.Range]]) -> PortSet:
    return PortSet(
        tuple(
            (protocol, first, last)
            for protocol in PROTOCOLS
            for first, last in ranges.union(spans.get(protocol, ()))
        )
    )
