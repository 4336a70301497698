"""Network policies, and why a packet passes or not."""

from typing import Any

from weavepy.client.schema.base import Struct


class PolicyObjects(Struct):
    objects: list[dict[str, Any]]
    """As Kubernetes writes them: NetworkPolicy, Namespace, Pod."""


class PolicyChange(Struct):
    kind: str
    namespace: str
    name: str
    done: str
    """One of "created", "changed", "unchanged", "deleted", "absent"."""
    fault: str
    """Why a policy cannot be compiled: it is in force, and allows nothing."""


class PolicyAnswer(Struct):
    changes: list[PolicyChange]


class PolicyRow(Struct):
    namespace: str
    name: str
    selector: str
    directions: list[str]
    pods: int
    """How many it selects on this host."""
    fault: str


class PodDrops(Struct):
    namespace: str
    name: str
    ingress: int
    """Packets to it that no policy allowed, since it has been isolated."""
    egress: int


class PolicyPassed(Struct):
    """Connections from or to pods of this host that a policy let through.

    Counted when they begin, and again when policies have changed; for each of the policies that
    name the peer.
    """

    namespace: str
    name: str
    ingress: int
    egress: int


class Durations(Struct):
    bounds_s: list[float]
    counts: list[int]
    """Up to each of the bounds and above the one before it; the last is those above all."""
    sum_s: float


class PolicySummary(Struct):
    policies: int
    faulty: int
    """Of them, those that cannot be compiled."""
    repairs: int
    drops: list[PodDrops]
    """Of isolated pods on this host."""
    passed: list[PolicyPassed]
    rules: int
    """In the packet filter."""
    enforced: Durations
    """From when a change was heard of to when it was in the packet filter."""


class PolicyPod(Struct):
    namespace: str
    name: str
    addresses: list[str]
    labels: dict[str, str]
    local: bool
    isolated: list[str]
    """Directions."""
    drops: int
    """Packets from or to it that no policy allowed; only of pods on this host."""


class PolicyStatus(Struct):
    enforced: bool
    """If not, there is no policy, and packets are not looked at."""
    policies: list[PolicyRow]
    pods: list[PolicyPod]
    pods_left_out: int
    """Of other hosts: in a large cluster only the pods of this one are listed."""
    repairs: int
    """How often what somebody had done to the packet filter was undone."""
    policies_left_out: int = 0
    """In a large cluster only those are listed that select pods of this host or have a fault."""


class TraceRequest(Struct):
    """Tell of packets that network policies drop on this host, from now on."""

    source: str = ""
    """Only connections from this pod or address; empty: from anybody."""
    destination: str = ""
    direction: str = ""
    """ "ingress" or "egress": only drops by that isolation."""
    count: int = 0
    """End after so many; 0: when the caller closes the connection."""


class PolicyDrop(Struct):
    time: float
    """Seconds since 1970."""
    direction: str
    source: str
    """Of the connection, as NAMESPACE/NAME (ADDRESS) or as an address."""
    destination: str
    service: str
    """Like "80/tcp"; for what has no ports "icmp", "igmp" or the protocol's number."""
    place: str
    """Of the packet: "new", "reply", "group" (to a group or to everybody) or "unjudged"."""
    policies: list[str]
    """That isolate the pod in this direction, as NAMESPACE/NAME."""
    why: list[str]
    """As `explain` has it."""
    left_out: int = 0
    """So many before this one were dropped faster than they were read."""


class PolicyDrops(Struct):
    """Not one answer but a PolicyDrop per line, as they happen; ends where the connection ends."""


class ExplainRequest(Struct):
    source: str
    """A pod (NAME, NAMESPACE/NAME) or an address."""
    destination: str
    port: str
    """Like "80/tcp", or "icmp"."""


class ExplainAnswer(Struct):
    allowed: bool
    lines: list[str]


class MatrixRequest(Struct):
    port: str
    namespace: str = ""
    """Only pods of this one."""


class MatrixAnswer(Struct):
    pods: list[str]
    allowed: list[list[bool]]
    """From each pod to each."""


class LintRequest(Struct):
    namespace: str = ""
    """Only policies of this one."""


class LintAnswer(Struct):
    findings: list[str]
    is_cut: bool = False
    """There may be more."""
