"""Why a packet passes or not, in terms of the policies that somebody wrote.

It asks policies and rules themselves, not the compiled table: so it can name them, and what it says
is checked against the table (and real packets) in the tests.
"""

from dataclasses import dataclass
from typing import Literal

from policy.core import ranges
from policy.core.objects import (
    DIRECTIONS,
    Address,
    Block,
    Direction,
    NamedPort,
    Peer,
    Pod,
    Policy,
    PortName,
    PortRange,
    Protocol,
    Rule,
)
from policy.core.policies import Policies

Lack = Literal["peer", "port"]


@dataclass(frozen=True, slots=True)
class End:
    """Of a connection: an address, and the pod that has it, if one has."""

    address: Address
    pod: Pod | None = None

    def __str__(self) -> str:
        if self.pod is None:
            return str(self.address)
        return f"{self.pod.namespace}/{self.pod.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class Service:
    """What the connection is to; without protocol it is ICMP."""

    protocol: Protocol | None = None
    port: int | None = None

    def __str__(self) -> str:
        return "icmp" if self.protocol is None else f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    policy: Policy
    number: int
    """Of the rule, in the policy's list for that direction."""
    lacks: tuple[Lack, ...]
    """What of it does not match; nothing, if it allows."""


@dataclass(frozen=True, slots=True)
class Side:
    """One direction: the source's egress, or the destination's ingress."""

    direction: Direction
    end: End
    isolating: tuple[Policy, ...]
    verdicts: tuple[RuleVerdict, ...]

    @property
    def closed(self) -> bool:
        """Whoever is there, it is not known yet what may pass."""
        return self.end.pod is not None and self.end.pod.unknown

    @property
    def allowed(self) -> bool:
        if self.closed:
            return False
        return not self.isolating or any(not one.lacks for one in self.verdicts)


@dataclass(frozen=True, slots=True)
class Explanation:
    source: End
    destination: End
    service: Service
    sides: tuple[Side, ...]
    """Empty where a pod speaks with itself: that never leaves it."""

    @property
    def allowed(self) -> bool:
        return all(side.allowed for side in self.sides)


def explain(
    policies: Policies, source: Address, destination: Address, service: Service
) -> Explanation:
    ends = End(source, policies.owner(source)), End(destination, policies.owner(destination))
    if source == destination or (ends[0].pod is not None and ends[0].pod == ends[1].pod):
        return Explanation(*ends, service, ())
    sides = tuple(_side(policies, direction, *ends, service) for direction in reversed(DIRECTIONS))
    return Explanation(*ends, service, sides)


def lines(explanation: Explanation) -> list[str]:
    """The same in sentences."""
    word = "passes" if explanation.allowed else "is blocked"
    told = [
        f"{explanation.source} -> {explanation.destination} {explanation.service}: {word}",
    ]
    if not explanation.sides:
        told.append("  a pod reaches itself without leaving its network namespace")
    for side in explanation.sides:
        told += _side_lines(side)
    return told


def _side(
    policies: Policies,
    direction: Direction,
    source: End,
    destination: End,
    service: Service,
) -> Side:
    end, other = (source, destination) if direction == "egress" else (destination, source)
    if end.pod is None:
        return Side(direction, end, (), ())
    selecting = sorted(policies.selecting(end.pod), key=lambda one: one.key)
    isolating = tuple(one for one in selecting if direction in one.rules)
    ports = destination.pod.ports if destination.pod is not None else ()
    verdicts = tuple(
        RuleVerdict(policy, number, _lacks(policies, rule, other, ports, service))
        for policy in isolating
        for number, rule in enumerate(policy.rules[direction])
    )
    return Side(direction, end, isolating, verdicts)


def _lacks(
    policies: Policies, rule: Rule, other: End, ports: tuple[NamedPort, ...], service: Service
) -> tuple[Lack, ...]:
    lacks: list[Lack] = []
    if rule.peers is not None and not any(_means(policies, one, other) for one in rule.peers):
        lacks.append("peer")
    if rule.ports is not None and not any(_opens(one, ports, service) for one in rule.ports):
        lacks.append("port")
    return tuple(lacks)


def _means(policies: Policies, peer: Peer, other: End) -> bool:
    if isinstance(peer, Block):
        return peer.family == other.address.version and ranges.contains(
            peer.ranges, int(other.address)
        )
    return other.pod is not None and policies.means(peer, other.pod)


def _opens(wanted: PortRange | PortName, ports: tuple[NamedPort, ...], service: Service) -> bool:
    if wanted.protocol != service.protocol or service.port is None:
        return False
    if isinstance(wanted, PortRange):
        return wanted.first <= service.port <= wanted.last
    return NamedPort(wanted.name, wanted.protocol, service.port) in ports


def _side_lines(side: Side) -> list[str]:
    what = f"  {side.direction} of {side.end}"
    if side.end.pod is None:
        return [f"{what}: no pod that is known here, so no policy"]
    if side.closed:
        return [f"{what}: closed until it is known what pod that is"]
    if not side.isolating:
        return [f"{what}: no policy selects it, so it is open"]
    told = [f"{what}: isolated by {', '.join(_named(one) for one in side.isolating)}"]
    told += [
        f"    {_named(one)} cannot be compiled and allows nothing: {one.fault}"
        for one in side.isolating
        if one.fault
    ]
    allowing = [one for one in side.verdicts if not one.lacks]
    if allowing:
        told += [f"    allowed by {_rule(one)}" for one in allowing]
        return told
    if not side.verdicts:
        told.append("    and no rule allows anything")
    for one in side.verdicts:
        peer = "from" if side.direction == "ingress" else "to"
        missing = " and ".join(f"`{peer}`" if lack == "peer" else "`ports`" for lack in one.lacks)
        told.append(f"    not by {_rule(one)}: {missing} does not match")
    return told


def _named(policy: Policy) -> str:
    return f"{policy.namespace}/{policy.name}"


def _rule(verdict: RuleVerdict) -> str:
    return f"rule {verdict.number + 1} of {_named(verdict.policy)}"
