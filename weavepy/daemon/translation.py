"""What the API server says (`kube.core.pods`) as what policies are made of (`policy.core.objects`).

The two do not know each other: one knows Kubernetes' API, the other what its objects mean.
"""

import json
from ipaddress import ip_address

from kube.core.pods import Namespace, NetworkPolicy, Pod
from policy.core import objects
from policy.core.objects import PROTOCOLS
from policy.core.parsing import parse_policy
from weavepy.base.names import is_ip_address


def namespace_of(thing: Namespace) -> objects.Namespace:
    return objects.Namespace(thing.name, thing.labels)


def policy_of(thing: NetworkPolicy) -> objects.Policy:
    """Raises `Unreadable` if its name is none that could be."""
    metadata = {"namespace": thing.namespace, "name": thing.name}
    return parse_policy({"metadata": metadata, "spec": json.loads(thing.specification)})


def pod_of(thing: Pod) -> objects.Pod:
    ports = [
        objects.NamedPort(port.name, protocol, port.number)
        for port in thing.ports
        for protocol in PROTOCOLS
        if port.protocol.lower() == protocol
    ]
    return objects.Pod(
        thing.namespace,
        thing.name,
        thing.labels,
        tuple(ip_address(text) for text in thing.addresses if is_ip_address(text)),
        tuple(ports),
        thing.node,
        thing.host_network,
        thing.finished,
        thing.created,
    )
