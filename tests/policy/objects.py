"""Kubernetes objects in few words, as the tests of single sentences need them."""

from typing import Any

from tests.policy.model import Document

OPEN: list[Document] = [{}]


def namespace(name: str, **labels: str) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(
    name: str,
    *addresses: str,
    ports: dict[str, int | tuple[str, int]] | None = None,
    node: str = "here",
    phase: str = "Running",
    host_network: bool = False,
    created: str = "",
    **labels: str,
) -> Document:
    """`name` is NAMESPACE/NAME, or a name in namespace `x`; of `ports`, a number alone is TCP."""
    own_namespace, _, own_name = name.rpartition("/")
    listed = []
    for port_name, number in (ports or {}).items():
        protocol, plain = number if isinstance(number, tuple) else ("TCP", number)
        listed.append({"name": port_name, "protocol": protocol, "containerPort": plain})
    status: Document = {"phase": phase}
    if addresses:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": one} for one in addresses]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": own_namespace or "x",
            "name": own_name,
            "labels": labels,
            "creationTimestamp": created or None,
        },
        "spec": {
            "nodeName": node,
            "hostNetwork": host_network,
            "containers": [{"name": "main", "ports": listed}],
        },
        "status": status,
    }


def policy(name: str, selector: Document | None = None, **spec: Any) -> Document:
    """`name` as for a pod; `policyTypes`, `ingress` and `egress` as they are written."""
    own_namespace, _, own_name = name.rpartition("/")
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": own_namespace or "x", "name": own_name},
        "spec": {"podSelector": selector or {}, **spec},
    }


def labels(**pairs: str) -> Document:
    return {"matchLabels": pairs}


def expression(key: str, operator: str, *values: str) -> Document:
    one: Document = {"key": key, "operator": operator}
    return {"matchExpressions": [one | ({"values": list(values)} if values else {})]}
