"""Containers, and the host itself, on the network."""

from weavepy.client.schema.base import Struct


class AttachRequest(Struct):
    """Exactly one of `namespace`, `pid` and `container` is given."""

    namespace: str = ""
    """The name of a network namespace (as `ip netns` lists it) or a path to one."""
    pid: int = 0
    container: str = ""
    """A containerd or Docker id, or an unambiguous beginning of one."""
    addresses: list[str] = []
    """Each "net:default", "net:CIDR", "ip:ADDRESS/LENGTH"; none means "net:default"."""
    interface: str = "ethwe"
    """The interface's name inside the namespace."""
    labels: dict[str, str] = {}
    """What network policies know it by, with the next two; none of them leaves what is known."""
    pod_namespace: str = ""
    pod_name: str = ""
    timeout_s: float = 30.0


class DetachRequest(Struct):
    namespace: str = ""
    pid: int = 0
    container: str = ""
    addresses: list[str] = []
    """Only these; none means all, and the interface goes too."""


class DetachAnswer(Struct):
    released: list[str]


class Attachment(Struct):
    id: str
    """What the addresses belong to in the ring: a container id, or the namespace's path."""
    namespace: str
    interface: str
    host_interface: str
    mac: str
    addresses: list[str]
    """Each "ADDRESS/LENGTH"."""
    pod: str = ""
    """The pod that it was made for, as "NAMESPACE/NAME", if a CNI runtime named one."""


class AttachmentList(Struct):
    attachments: list[Attachment]


class ExposeRequest(Struct):
    addresses: list[str] = []
    masquerade: bool = True


class HideRequest(Struct):
    addresses: list[str] = []


class ExposeAnswer(Struct):
    addresses: list[str]
