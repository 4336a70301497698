"""What is legal in a policy and seldom meant.

It looks at policies together with the pods that there are, and says in a sentence what it found.
"""

from collections.abc import Iterator

from policy.core.objects import Direction, PodPeer, Policy, Rule
from policy.core.policies import Policies
from policy.core.selectors import EVERYTHING


def findings(policies: Policies) -> list[str]:
    return [
        f"{policy.namespace}/{policy.name}: {finding}"
        for _, policy in sorted(policies.policies.items())
        for finding in _of_policy(policies, policy)
    ]


def _of_policy(policies: Policies, policy: Policy) -> Iterator[str]:
    if policy.fault:
        yield f"cannot be compiled, so it allows nothing: {policy.fault}"
    if not any(
        pod.participates
        and pod.namespace == policy.namespace
        and policy.selector.matches(pod.labels)
        for pod in policies.pods.values()
    ):
        yield f"selects no pod ({policy.selector})"
    for direction, rules in policy.rules.items():
        for number, rule in enumerate(rules):
            for finding in _of_rule(policies, policy, rule):
                yield f"{_place(direction, number)}: {finding}"


def _of_rule(policies: Policies, policy: Policy, rule: Rule) -> Iterator[str]:
    peers = [one for one in rule.peers or () if isinstance(one, PodPeer)]
    whole_namespaces = [one for one in peers if _is_whole_namespaces(one)]
    own_pods = [one for one in peers if isinstance(one.namespaces, str)]
    if whole_namespaces and own_pods:
        yield (
            f"lets through all pods of namespaces with {whole_namespaces[0].namespaces}, OR pods"
            f" with {own_pods[0].pods} of {policy.namespace}: to ask for both at once, write both"
            " selectors in one element (one '-')"
        )
    for peer in peers:
        if any(policies.means(peer, pod) for pod in policies.pods.values()):
            continue
        if not isinstance(peer.namespaces, str):
            yield f"a peer matches no pod (pods with {peer.pods} where {peer.namespaces})"
            continue
        others = sorted(
            {pod.namespace for pod in policies.pods.values() if peer.pods.matches(pod.labels)}
        )
        hint = f"; there are such pods in {', '.join(others)}" if others else ""
        yield (
            f"a peer without namespaceSelector means pods of {peer.namespaces} alone, and none has"
            f" {peer.pods}{hint}"
        )


def _is_whole_namespaces(peer: PodPeer) -> bool:
    return not isinstance(peer.namespaces, str) and peer.pods == EVERYTHING


def _place(direction: Direction, number: int) -> str:
    return f"{direction} rule {number + 1}"
