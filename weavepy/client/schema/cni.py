"""What the CNI plugin asks on behalf of a container runtime, one request for each of its verbs."""

from weavepy.client.schema.base import Struct


class CniAttachment(Struct):
    """What names an attachment: a network, a container and an interface in it."""

    network: str
    container: str
    interface: str
    kind: str
    """Either "interface", or "addresses" if another plugin makes the interface."""


class CniRoute(Struct):
    dst: str
    gw: str = ""
    """Empty for the gateway of the addresses of that family, or for none."""


class CniAddress(Struct):
    address: str
    """As "ADDRESS/LENGTH"."""
    gateway: str = ""


class CniAddRequest(CniAttachment):
    namespace: str
    """The path of the container's network namespace."""
    subnet: str = ""
    """Within the universe; empty means the default subnet."""
    ips: list[str] = []
    """These very addresses, each as "ADDRESS" (with the subnet's length) or "ADDRESS/LENGTH"."""
    given: list[CniAddress] = []
    """Addresses that another IPAM plugin gave; then none are taken from the ring."""
    mac: str = ""
    mtu: int = 0
    """0 means the overlay's."""
    hairpin: bool = False
    """The bridge may send a frame back to the container that it came from."""
    is_default_gateway: bool = True
    """The host is on the network as well, and the container's way to everywhere else."""
    masquerade: bool = True
    """What leaves the network by the gateway has the host's own address."""
    gateway: str = ""
    """Another one than this host."""
    routes: list[CniRoute] = []
    """In addition to the default route."""
    pod: str = ""
    """As "NAMESPACE/NAME", if it is for a pod of Kubernetes."""
    pod_uid: str = ""
    timeout_s: float = 30.0


class CniAddAnswer(Struct):
    host_interface: str
    """Empty, as are the MACs, for "addresses"."""
    host_mac: str
    mac: str
    mtu: int
    addresses: list[CniAddress]
    routes: list[CniRoute]


class CniDelRequest(CniAttachment):
    """Succeeds for what is not attached."""

    namespace: str = ""


class CniDelAnswer(Struct):
    released: list[str]


class CniPrevious(Struct):
    """What ADD answered, as far as it concerns this interface."""

    mac: str = ""
    addresses: list[str] = []
    routes: list[CniRoute] = []


class CniCheckRequest(CniAttachment):
    namespace: str
    previous: CniPrevious


class CniCheckAnswer(Struct):
    findings: list[str]
    """What is not as ADD had left it; things that were added since are no finding."""


class CniValid(Struct):
    container: str
    interface: str


class CniGcRequest(Struct):
    """Free what this network has for any other attachment than these."""

    network: str
    kind: str
    valid: list[CniValid]


class CniGcAnswer(Struct):
    freed: list[str]
    """The attachments, each as "CONTAINER/INTERFACE"."""
    errors: list[str]
    """Of those that could not be freed; the others were."""


class CniStatusRequest(Struct):
    network: str
    subnet: str = ""


class CniStatusAnswer(Struct):
    code: int
    """0 if an attachment would succeed, 50 if none can, 51 if running containers suffer as well."""
    message: str
