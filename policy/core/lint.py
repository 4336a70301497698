"""What is legal in a policy and seldom meant.

It looks at policies together with the pods that there are, and says in a sentence what it found.
Of a large cluster that takes long, so it is done in steps, between which others have their turn.
What it looks at are the objects of the moment when it began. What a peer means is found out once,
however many policies name it.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeVar

from policy.core import ranges
from policy.core.objects import (
    Block,
    Direction,
    Key,
    NamedPort,
    Namespace,
    Pod,
    PodPeer,
    Policy,
    PortName,
    PortRange,
    Rule,
)
from policy.core.policies import Policies
from policy.core.selectors import EVERYTHING, Selector

LOOKS_PER_STEP = 500
"""At pods, namespaces and policies; a millisecond or so."""

MAX_NAMED = 5
"""Namespaces that one finding names."""

Thing = TypeVar("Thing")
Result = TypeVar("Result")
Steps = Generator[None, None, Result]


def findings(policies: Policies, namespace: str = "") -> Iterator[str | None]:
    """None where a step ends without one. With a namespace, only of policies that are there."""
    linter = _Linter({**policies.namespaces})
    pods, listed = {**policies.pods}, {**policies.policies}
    yield from linter.sort(pods)
    by_namespace = yield from linter.by_namespace(listed)
    for name in sorted(by_namespace) if namespace == "" else [namespace]:
        for policy in sorted(by_namespace.get(name, ()), key=attrgetter("name")):
            for finding in linter.of_policy(policy):
                yield finding and f"{policy.namespace}/{policy.name}: {finding}"


@dataclass(slots=True)
class _Meant:
    """Pods that somebody means."""

    anyone: bool = False
    ports: set[NamedPort] = field(default_factory=set)
    """That they declare."""

    def add(self, pod: Pod) -> None:
        self.anyone = True
        self.ports.update(pod.ports)


class _Linter:
    def __init__(self, namespaces: dict[str, Namespace]) -> None:
        self._namespaces = namespaces
        self._pods: dict[str, list[Pod]] = {}
        """By namespace, of which most selectors mean one."""
        self._meant: dict[PodPeer, _Meant] = {}
        self._places: dict[Selector, list[str]] = {}
        self._looks = 0

    def sort(self, pods: dict[Key, Pod]) -> Steps[None]:
        self._pods = yield from self.by_namespace(pods)

    def by_namespace(self, things: dict[Key, Thing]) -> Steps[dict[str, list[Thing]]]:
        found: dict[str, list[Thing]] = {}
        for (namespace, _), thing in things.items():
            found.setdefault(namespace, []).append(thing)
            if self._is_step():
                yield
        return found

    def of_policy(self, policy: Policy) -> Iterator[str | None]:
        if policy.fault:
            yield f"cannot be compiled, so it allows nothing: {policy.fault}"
        labelled: list[Pod] = []
        for pod in self._pods.get(policy.namespace, ()):
            if policy.selector.matches(pod.labels):
                labelled.append(pod)
            if self._is_step():
                yield None
        selected = [pod for pod in labelled if pod.participates]
        if not selected:
            yield f"selects no pod ({policy.selector}){_why_none(labelled)}"
        for direction in policy.unused:
            yield (
                f"has {direction} rules, which do nothing: its policyTypes leave"
                f" {direction.capitalize()} out"
            )
        for direction, rules in policy.rules.items():
            for number, rule in enumerate(rules, 1):
                place = f"{direction} rule {number}"
                for finding in self._of_rule(policy, direction, rule, selected):
                    yield finding and f"{place}: {finding}"
                if rule == Rule() and len(rules) > 1:
                    yield f"{place}: lets everything through, so the others add nothing"
                if self._is_step():
                    yield None

    def _of_rule(
        self, policy: Policy, direction: Direction, rule: Rule, selected: list[Pod]
    ) -> Iterator[str | None]:
        peers = [one for one in rule.peers or () if isinstance(one, PodPeer)]
        whole_namespaces = [one for one in peers if _is_whole_namespaces(one)]
        own_pods = [one for one in peers if isinstance(one.namespaces, str)]
        if whole_namespaces and own_pods:
            yield (
                f"lets through all pods of namespaces with {whole_namespaces[0].namespaces}, OR"
                f" pods with {own_pods[0].pods} of {policy.namespace}: to ask for both at once,"
                " write both selectors in one element (one '-')"
            )
        for peer in peers:
            if not (yield from self._means(peer)).anyone:
                yield (yield from self._nobody(peer))
        for block in rule.peers or ():
            if isinstance(block, Block) and not block.ranges:
                yield "an ipBlock means no address at all: its `except` takes everything away"
        ports = [one for one in rule.ports or () if _depends_on_pods(one)]
        if not ports:
            return
        receivers = _Meant()
        if direction == "egress":
            receivers = yield from self._receivers(rule)
        else:
            for pod in selected:
                receivers.add(pod)
                if self._is_step():
                    yield None
        for port in ports:
            yield from _of_port(port, receivers)

    def _nobody(self, peer: PodPeer) -> Steps[str]:
        if not isinstance(peer.namespaces, str):
            return f"a peer matches no pod (pods with {peer.pods} where {peer.namespaces})"
        others = yield from self._namespaces_with(peer.pods)
        more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
        named = f"; there are such pods in {', '.join(others[:MAX_NAMED])}{more}" if others else ""
        return (
            f"a peer without namespaceSelector means pods of {peer.namespaces} alone, and none has"
            f" {peer.pods}{named}"
        )

    def _namespaces_with(self, selector: Selector) -> Steps[list[str]]:
        if selector not in self._places:
            found: dict[str, None] = {}
            for pod in self._all_pods():
                if pod.participates and selector.matches(pod.labels):
                    found[pod.namespace] = None
                if self._is_step():
                    yield
            self._places[selector] = sorted(found)
        return self._places[selector]

    def _receivers(self, rule: Rule) -> Steps[_Meant]:
        """Whose ports a rule for egress speaks of: none, if it is for more than pods."""
        peers = (PodPeer(EVERYTHING, EVERYTHING),) if rule.peers is None else rule.peers
        found = _Meant()
        for peer in peers:
            if isinstance(peer, Block):
                return _Meant()
            meant = yield from self._means(peer)
            found.anyone |= meant.anyone
            found.ports |= meant.ports
        return found

    def _means(self, peer: PodPeer) -> Steps[_Meant]:
        if peer not in self._meant:
            found = _Meant()
            for pod in self._candidates(peer):
                if pod.participates and not pod.unknown and peer.pods.matches(pod.labels):
                    found.add(pod)
                if self._is_step():
                    yield
            self._meant[peer] = found
        return self._meant[peer]

    def _candidates(self, peer: PodPeer) -> Iterator[Pod]:
        if isinstance(peer.namespaces, str):
            yield from self._pods.get(peer.namespaces, ())
            return
        for name, pods in self._pods.items():
            namespace = self._namespaces.get(name, Namespace(name))
            if peer.namespaces.matches(namespace.all_labels()):
                yield from pods

    def _all_pods(self) -> Iterator[Pod]:
        for pods in self._pods.values():
            yield from pods

    def _is_step(self) -> bool:
        """Counts one look; true if others should have their turn now."""
        self._looks += 1
        return self._looks % LOOKS_PER_STEP == 0


def _depends_on_pods(port: PortRange | PortName) -> bool:
    return isinstance(port, PortName) or port.first < port.last


def _of_port(port: PortRange | PortName, receivers: _Meant) -> Iterator[str]:
    if isinstance(port, PortName):
        same = {one.protocol for one in receivers.ports if one.name == port.name}
        if receivers.anyone and port.protocol not in same:
            others = sorted(protocol.upper() for protocol in same)
            hint = f"; there are such for {' and '.join(others)}" if others else ""
            yield f"no pod it is for has a port {port.name!r} for {port.protocol.upper()}{hint}"
        return
    numbers = [one.number for one in receivers.ports if one.protocol == port.protocol]
    span = ((port.first, port.last),)
    if numbers and not any(ranges.contains(span, number) for number in numbers):
        yield (
            f"no pod it is for declares a port between {port.first} and {port.last} for"
            f" {port.protocol.upper()}"
        )


def _why_none(labelled: list[Pod]) -> str:
    """There may be pods with these labels that policies never select."""
    if any(pod.host_network for pod in labelled):
        return "; those with these labels use the host's network, which no policy selects"
    return "; those with these labels have finished" if labelled else ""


def _is_whole_namespaces(peer: PodPeer) -> bool:
    return not isinstance(peer.namespaces, str) and peer.pods == EVERYTHING
