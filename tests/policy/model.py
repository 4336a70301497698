"""NetworkPolicy, read directly: the slow, plain function that everything else is compared with.

It works on the objects as they are written (Kubernetes' JSON), shares nothing with `policy.core`,
and keeps no state: each question goes through all policies and asks what the specification says
about this one packet.
"""

from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

Document = dict[str, Any]
BROKEN = "broken"
"""An annotation by which a generator says that this policy's rules are not to be understood."""


@dataclass
class World:
    namespaces: dict[str, Document] = field(default_factory=dict)
    pods: dict[tuple[str, str], Document] = field(default_factory=dict)
    policies: dict[tuple[str, str], Document] = field(default_factory=dict)

    def put(self, document: Document) -> None:
        metadata = document["metadata"]
        match document["kind"]:
            case "Namespace":
                self.namespaces[metadata["name"]] = document
            case "Pod":
                self.pods[metadata["namespace"], metadata["name"]] = document
            case "NetworkPolicy":
                self.policies[metadata["namespace"], metadata["name"]] = document

    def documents(self) -> list[Document]:
        return [*self.namespaces.values(), *self.pods.values(), *self.policies.values()]


def allowed(world: World, source: str, destination: str, protocol: str, port: int | None) -> bool:
    """May `source` open a connection to `destination`? Both are addresses; `port` is None for ICMP.

    What the pod's own node sends never comes here: it always passes.
    """
    sender, receiver = pod_at(world, source), pod_at(world, destination)
    return (
        sender is None
        or direction_allows(world, "egress", sender, destination, receiver, protocol, port)
    ) and (
        receiver is None
        or direction_allows(world, "ingress", receiver, source, receiver, protocol, port)
    )


def direction_allows(
    world: World,
    direction: str,
    pod: Document,
    other_address: str,
    receiver: Document | None,
    protocol: str,
    port: int | None,
) -> bool:
    """`pod` is the one whose policies are asked, `receiver` the one whose port is named."""
    isolating = [
        policy
        for policy in world.policies.values()
        if selects(policy, pod) and direction.capitalize() in types_of(policy)
    ]
    if not isolating:
        return True
    return any(
        rule_allows(world, policy, rule, direction, other_address, receiver, protocol, port)
        for policy in isolating
        if BROKEN not in policy["metadata"].get("annotations", {})
        for rule in policy["spec"].get(direction) or []
    )


def types_of(policy: Document) -> list[str]:
    """ "If this field is not specified, it will default based on the existence of ingress or egress
    rules; policies that contain an egress section are assumed to affect egress, and all policies
    (whether or not they contain an ingress section) are assumed to affect ingress." """
    types = policy["spec"].get("policyTypes")
    if types:
        return list(types)
    return ["Ingress", "Egress"] if policy["spec"].get("egress") else ["Ingress"]


def selects(policy: Document, pod: Document) -> bool:
    return bool(
        policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and selector_matches(policy["spec"].get("podSelector"), labels_of(pod))
    )


def rule_allows(
    world: World,
    policy: Document,
    rule: Document,
    direction: str,
    other_address: str,
    receiver: Document | None,
    protocol: str,
    port: int | None,
) -> bool:
    peers = rule.get("from" if direction == "ingress" else "to") or []
    ports = rule.get("ports") or []
    peer_matches = not peers or any(
        is_peer(world, policy["metadata"]["namespace"], peer, other_address) for peer in peers
    )
    port_matches = not ports or any(is_port(one, receiver, protocol, port) for one in ports)
    return peer_matches and port_matches


def is_peer(world: World, own_namespace: str, peer: Document, address: str) -> bool:
    block = peer.get("ipBlock")
    if block is not None:
        return in_network(address, block["cidr"]) and not any(
            in_network(address, hole) for hole in block.get("except") or []
        )
    pod = pod_at(world, address)
    if pod is None:
        return False
    namespace = pod["metadata"]["namespace"]
    if peer.get("namespaceSelector") is None:
        in_namespace = namespace == own_namespace
    else:
        in_namespace = selector_matches(
            peer["namespaceSelector"], namespace_labels(world, namespace)
        )
    return in_namespace and selector_matches(peer.get("podSelector"), labels_of(pod))


def is_port(wanted: Document, receiver: Document | None, protocol: str, port: int | None) -> bool:
    if (wanted.get("protocol") or "TCP") != protocol:
        return False
    number = wanted.get("port")
    if number is None:
        return True
    if isinstance(number, str):
        return receiver is not None and any(
            one.get("name") == number
            and (one.get("protocol") or "TCP") == protocol
            and one["containerPort"] == port
            for container in lasting_containers(receiver)
            for one in container.get("ports", [])
        )
    assert port is not None
    end = wanted.get("endPort")
    return bool(number <= port <= (number if end is None else end))


def lasting_containers(pod: Document) -> list[Document]:
    """With sidecars, which are init containers that go on running."""
    init = pod["spec"].get("initContainers") or []
    sidecars = [one for one in init if one.get("restartPolicy") == "Always"]
    return [*pod["spec"].get("containers", []), *sidecars]


def selector_matches(selector: Document | None, labels: dict[str, str]) -> bool:
    """Absent or empty: everything. Of the rest, all must hold."""
    selector = selector or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if key not in labels or labels[key] != value:
            return False
    for one in selector.get("matchExpressions") or []:
        key = one["key"]
        match one["operator"]:
            case "In":
                holds = key in labels and labels[key] in one["values"]
            case "NotIn":
                holds = key not in labels or labels[key] not in one["values"]
            case "Exists":
                holds = key in labels
            case "DoesNotExist":
                holds = key not in labels
            case other:
                raise AssertionError(other)
        if not holds:
            return False
    return True


def pod_at(world: World, address: str) -> Document | None:
    """The pod that has this address: neither of the host's network nor finished; the youngest."""
    found = [
        pod
        for pod in world.pods.values()
        if not pod["spec"].get("hostNetwork")
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        and address in addresses_of(pod)
    ]

    def age(pod: Document) -> tuple[str, str, str]:
        metadata = pod["metadata"]
        return metadata.get("creationTimestamp") or "", metadata["namespace"], metadata["name"]

    return max(found, key=age, default=None)


def addresses_of(pod: Document) -> list[str]:
    status = pod.get("status") or {}
    listed = [one["ip"] for one in status.get("podIPs") or []]
    return [*listed, status["podIP"]] if status.get("podIP") else listed


def labels_of(document: Document) -> dict[str, str]:
    return document["metadata"].get("labels") or {}


def namespace_labels(world: World, name: str) -> dict[str, str]:
    described = world.namespaces.get(name, {"metadata": {}})
    return {**labels_of(described), "kubernetes.io/metadata.name": name}


@cache
def in_network(address: str, block: str) -> bool:
    one, network = ip_address(address), ip_network(block, strict=False)
    return one.version == network.version and one in network
