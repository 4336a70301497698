"""Namespaces, pods and policies as values, independent of how they were written.

`policy.core.parsing` makes them from Kubernetes' shapes. Rules are in a normal form here: what
`null`, empty and absent mean has been decided, so that nothing behind this has to know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from policy.core.selectors import Selector

Direction = Literal["ingress", "egress"]
DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")
Protocol = Literal["tcp", "udp", "sctp"]
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")
Family = Literal[4, 6]
FAMILIES: tuple[Family, ...] = (4, 6)
Address = IPv4Address | IPv6Address
Key = tuple[str, str]
"""Namespace and name."""

NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def all_labels(self) -> dict[str, str]:
        """With the one that every namespace has, whatever else it claims."""
        return {**self.labels, NAME_LABEL: self.name}


@dataclass(frozen=True, slots=True)
class NamedPort:
    name: str
    protocol: Protocol
    number: int


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[Address, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    node: str = ""
    host_network: bool = False
    finished: bool = False
    """Succeeded or Failed: its addresses may be another pod's by now."""
    created: str = ""
    """Decides whose an address is that two pods claim: the younger one's."""
    unknown: bool = False
    """Somebody is there, and nobody knows yet who: closed, and no selector selects it."""

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    @property
    def participates(self) -> bool:
        """Whether selectors see it at all."""
        return not self.host_network and not self.finished


@dataclass(frozen=True, slots=True, order=True)
class PodPeer:
    """Pods by their labels, in one namespace or in those that a selector selects."""

    namespaces: str | Selector
    pods: Selector


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Whole numbers rather than networks: an exception leaves ranges that are no prefixes."""

    family: Family
    ranges: tuple[tuple[int, int], ...]
    """Both ends included; sorted, neither touching nor overlapping."""


Peer = PodPeer | Block


@dataclass(frozen=True, slots=True)
class PortRange:
    protocol: Protocol
    first: int = 0
    last: int = 65535


@dataclass(frozen=True, slots=True)
class PortName:
    """Whatever number the destination pod gives this name."""

    protocol: Protocol
    name: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the peers and one of the ports; None is all of them, empty is none."""

    peers: tuple[Peer, ...] | None = None
    ports: tuple[PortRange | PortName, ...] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    namespace: str
    name: str
    selector: Selector
    rules: Mapping[Direction, tuple[Rule, ...]]
    """Directions that are missing are not restricted by this policy."""
    fault: str = ""
    """Why it could not be compiled: then it isolates what it selects, and allows nothing."""
    unused: tuple[Direction, ...] = ()
    """Directions that it has rules for and does not restrict."""

    @property
    def key(self) -> Key:
        return self.namespace, self.name
