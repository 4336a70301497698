"""Pods, namespaces and network policies: of each, what network policies need to know.

They are small and compare as values, so that the many changes of a pod that do not matter here are
none, and they are what a router keeps on disk (`weavepy.daemon.snapshot`).
"""

from __future__ import annotations

import msgspec

from kube.core.kinds import Kind, Shape

PAGE_SIZE = 500
"""A page of pods is a few megabytes."""

MIRRORED = "kubernetes.io/config.mirror"
"""On the object that kubelet makes of a static pod: by which uid it names that pod to plugins."""

WANTED = "weavepy.io/addresses"
MAX_WANTED_LENGTH = 512


class Namespace(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]

    @property
    def key(self) -> str:
        return self.name


class Port(msgspec.Struct, frozen=True, array_like=True):
    name: str
    number: int
    protocol: str


class Pod(msgspec.Struct, frozen=True, array_like=True):
    namespace: str
    name: str
    uid: str
    labels: dict[str, str] = {}
    addresses: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    """Those that have a name."""
    node: str = ""
    host_network: bool = False
    finished: bool = False
    """Succeeded or Failed."""
    created: str = ""
    wanted: str = ""
    """The annotation that asks for addresses; what is too long is cut, and then means nothing."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class NetworkPolicy(msgspec.Struct, frozen=True, array_like=True):
    namespace: str
    name: str
    specification: str
    """As JSON: `policy.core.parsing` understands it."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class _Port(msgspec.Struct, rename="camel"):
    name: str = ""
    container_port: int = 0
    protocol: str = "TCP"


class _Container(msgspec.Struct, rename="camel"):
    ports: list[_Port] | None = None
    restart_policy: str = ""


class _Specification(msgspec.Struct, rename="camel"):
    node_name: str = ""
    host_network: bool = False
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None


class _Address(msgspec.Struct):
    ip: str = ""


class _Status(msgspec.Struct):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[_Address] | None = msgspec.field(name="podIPs", default=None)


class _Pod(Shape):
    spec: _Specification = msgspec.field(default_factory=_Specification)
    status: _Status = msgspec.field(default_factory=_Status)


class _Policy(Shape):
    spec: msgspec.Raw = msgspec.Raw(b"{}")


def _as_namespace(found: Shape) -> Namespace:
    return Namespace(found.metadata.name, found.metadata.labels or {})


def _as_pod(found: _Pod) -> Pod:
    meta, spec, status = found.metadata, found.spec, found.status
    annotations = meta.annotations or {}
    listed = [status.pod_ip, *(one.ip for one in status.pod_ips or ())]
    containers = [
        *(spec.containers or ()),
        # Sidecars go on running, and their ports are the pod's as well.
        *(one for one in spec.init_containers or () if one.restart_policy == "Always"),
    ]
    ports = [
        Port(port.name, port.container_port, port.protocol)
        for container in containers
        for port in container.ports or ()
        if port.name
    ]
    wanted = annotations.get(WANTED, "")
    return Pod(
        meta.namespace,
        meta.name,
        annotations.get(MIRRORED, meta.uid),
        meta.labels or {},
        tuple(dict.fromkeys(filter(None, listed))),
        tuple(dict.fromkeys(ports)),
        spec.node_name,
        spec.host_network,
        status.phase in ("Succeeded", "Failed"),
        meta.creation_timestamp or "",
        wanted if len(wanted) <= MAX_WANTED_LENGTH else f"{wanted[:MAX_WANTED_LENGTH]}...",
    )


def _as_policy(found: _Policy) -> NetworkPolicy:
    return NetworkPolicy(found.metadata.namespace, found.metadata.name, bytes(found.spec).decode())


NAMESPACES = Kind("namespaces", "/api/v1/namespaces", Shape, _as_namespace, PAGE_SIZE)
PODS = Kind("pods", "/api/v1/pods", _Pod, _as_pod, PAGE_SIZE)
POLICIES = Kind(
    "networkpolicies",
    "/apis/networking.k8s.io/v1/networkpolicies",
    _Policy,
    _as_policy,
    PAGE_SIZE,
)
