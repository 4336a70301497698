"""What is legal in a policy and seldom meant.

It looks at policies together with the pods that there are, and says in a sentence what it found.
"""

from collections.abc import Iterable, Iterator

from policy.core import ranges
from policy.core.objects import Block, Direction, Pod, PodPeer, Policy, PortName, PortRange, Rule
from policy.core.policies import Policies
from policy.core.selectors import EVERYTHING


def findings(policies: Policies) -> list[str]:
    linter = _Linter(policies)
    return [
        f"{policy.namespace}/{policy.name}: {finding}"
        for _, policy in sorted(policies.policies.items())
        for finding in linter.of_policy(policy)
    ]


class _Linter:
    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._pods: dict[str, list[Pod]] = {}
        """By namespace, of which most selectors mean one."""
        for _, pod in sorted(policies.pods.items()):
            self._pods.setdefault(pod.namespace, []).append(pod)

    def of_policy(self, policy: Policy) -> Iterator[str]:
        if policy.fault:
            yield f"cannot be compiled, so it allows nothing: {policy.fault}"
        labelled = [
            pod
            for pod in self._pods.get(policy.namespace, ())
            if policy.selector.matches(pod.labels)
        ]
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
                    yield f"{place}: {finding}"
                if rule == Rule() and len(rules) > 1:
                    yield f"{place}: lets everything through, so the others add nothing"

    def _of_rule(
        self, policy: Policy, direction: Direction, rule: Rule, selected: list[Pod]
    ) -> Iterator[str]:
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
            if not any(self._policies.means(peer, pod) for pod in self._candidates(peer)):
                yield self._nobody(peer)
        for block in rule.peers or ():
            if isinstance(block, Block) and not block.ranges:
                yield "an ipBlock means no address at all: its `except` takes everything away"
        receivers = selected if direction == "ingress" else self._receivers(rule)
        for port in rule.ports or ():
            yield from _of_port(port, receivers)

    def _nobody(self, peer: PodPeer) -> str:
        if not isinstance(peer.namespaces, str):
            return f"a peer matches no pod (pods with {peer.pods} where {peer.namespaces})"
        others = [
            name
            for name, pods in self._pods.items()
            if any(pod.participates and peer.pods.matches(pod.labels) for pod in pods)
        ]
        hint = f"; there are such pods in {', '.join(others)}" if others else ""
        return (
            f"a peer without namespaceSelector means pods of {peer.namespaces} alone, and none has"
            f" {peer.pods}{hint}"
        )

    def _receivers(self, rule: Rule) -> list[Pod]:
        """Whose ports a rule for egress speaks of: none, if it is for more than pods."""
        peers = [one for one in rule.peers or () if isinstance(one, PodPeer)]
        if rule.peers is not None and len(peers) < len(rule.peers):
            return []
        return [
            pod
            for pods in self._pods.values()
            for pod in pods
            if pod.participates
            and (rule.peers is None or any(self._policies.means(peer, pod) for peer in peers))
        ]

    def _candidates(self, peer: PodPeer) -> Iterable[Pod]:
        if isinstance(peer.namespaces, str):
            return self._pods.get(peer.namespaces, ())
        return (pod for pods in self._pods.values() for pod in pods)


def _of_port(port: PortRange | PortName, receivers: list[Pod]) -> Iterator[str]:
    declared = [one for pod in receivers for one in pod.ports]
    if isinstance(port, PortName):
        if receivers and not any(
            (one.name, one.protocol) == (port.name, port.protocol) for one in declared
        ):
            others = sorted({one.protocol.upper() for one in declared if one.name == port.name})
            hint = f"; there are such for {' and '.join(others)}" if others else ""
            yield f"no pod it is for has a port {port.name!r} for {port.protocol.upper()}{hint}"
        return
    numbers = [one.number for one in declared if one.protocol == port.protocol]
    span = ((port.first, port.last),)
    if numbers and port.first < port.last and not any(ranges.contains(span, n) for n in numbers):
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
