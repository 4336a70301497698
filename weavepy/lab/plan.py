"""What a lab consists of, computed from a few numbers and never stored piece by piece.

Hosts are h1, h2, ...; containers h1c1, h1c2, ... . Between two hosts that have a link there is a
point-to-point network of four addresses. The two veth pairs of a link meet in the *wire*, a
namespace that no host can see, on a bridge of their own:

    h1: u2 ======= h1-2 |wire: bridge l1-2| h2-1 ======= u1 :h2

So a link is cut, slowed, measured and tapped in the wire, and the hosts notice only what they
would notice of a real network: nothing, but packets that do not arrive.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from weavepy.base.errors import UsageError

MAX_HOSTS = 32
"""A full mesh of them is 496 links: a few seconds of set-up and 2,000 interfaces."""

MAX_CONTAINERS = 16
"""For each host."""

MAX_NAME_LENGTH = 8

MIN_MTU_BYTES = 576
MAX_MTU_BYTES = 65535

UNDERLAY = IPv4Network("10.99.0.0/16")
"""Exists only inside the lab's namespaces; each link has a /30 of it."""

_NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_PAIR_PATTERN = re.compile(r"h([0-9]{1,2})-h([0-9]{1,2})")
_NODE_PATTERN = re.compile(r"h([1-9][0-9]?)(?:c([1-9][0-9]?))?")


def check_name(name: str) -> str:
    if len(name) > MAX_NAME_LENGTH or _NAME_PATTERN.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} cannot be a lab's name: at most {MAX_NAME_LENGTH} characters of a-z, 0-9 and"
            " '-', beginning and ending with a letter or digit"
        )
    return name


def namespace_name(lab: str, node: str) -> str:
    return f"weavepy-{lab}-{node}"


def namespace_pattern(lab: str) -> re.Pattern[str]:
    """What matches this lab's namespaces, and not those of a lab whose name begins alike."""
    return re.compile(re.escape(f"weavepy-{lab}-") + r"(wire|h[0-9]+(c[0-9]+)?)")


@dataclass(frozen=True, order=True, slots=True)
class Node:
    """A host (`container` is 0) or a container on it."""

    host: int
    container: int = 0

    @property
    def name(self) -> str:
        return f"h{self.host}" + (f"c{self.container}" if self.container else "")

    @property
    def host_name(self) -> str:
        return f"h{self.host}"


@dataclass(frozen=True, order=True, slots=True)
class LinkEnd:
    """One side of a link: an interface in a host, and the port of the wire it leads to."""

    host: int
    interface: str
    port: str
    address: str
    mac: str
    """Of the host's interface."""


@dataclass(frozen=True, order=True, slots=True)
class Link:
    """`low` and `high` are the numbers of its hosts, `low` < `high`."""

    low: int
    high: int
    index: int
    """Which /30 of the underlay it has."""

    @property
    def name(self) -> str:
        return f"h{self.low}-h{self.high}"

    @property
    def bridge(self) -> str:
        return f"l{self.low}-{self.high}"

    @property
    def prefix_length(self) -> int:
        return 30

    @property
    def ends(self) -> tuple[LinkEnd, LinkEnd]:
        return self._end(self.low, self.high, 1), self._end(self.high, self.low, 2)

    def end_at(self, host: int) -> LinkEnd:
        return self.ends[0 if host == self.low else 1]

    def _end(self, host: int, other: int, offset: int) -> LinkEnd:
        address = IPv4Address(int(UNDERLAY.network_address) + 4 * self.index + offset)
        mac = f"02:99:00:00:{host:02x}:{other:02x}"
        return LinkEnd(host, f"u{other}", f"h{host}-{other}", str(address), mac)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a lab of these dimensions is made of."""

    name: str
    hosts: int
    containers: int
    """On each host."""
    topology: str
    """As it was asked for."""
    mtu_bytes: int
    links: tuple[Link, ...]

    @property
    def host_nodes(self) -> list[Node]:
        return [Node(number) for number in range(1, self.hosts + 1)]

    @property
    def container_nodes(self) -> list[Node]:
        return [
            Node(host, container)
            for host in range(1, self.hosts + 1)
            for container in range(1, self.containers + 1)
        ]

    @property
    def wire(self) -> str:
        return namespace_name(self.name, "wire")

    def namespace(self, node: Node) -> str:
        return namespace_name(self.name, node.name)

    @property
    def namespaces(self) -> list[str]:
        nodes = [*self.host_nodes, *self.container_nodes]
        return [self.wire, *(self.namespace(node) for node in nodes)]

    def links_of(self, host: int) -> Iterator[Link]:
        return (link for link in self.links if host in (link.low, link.high))

    def neighbours(self, host: int) -> list[int]:
        return sorted(link.high if link.low == host else link.low for link in self.links_of(host))

    def targets(self, host: int) -> list[str]:
        """Underlay addresses of the neighbours that this host's router is told to dial.

        Only those of lower number: one dial for each link is enough to form the mesh, and the
        other end of a link never depends on being dialled back.
        """
        return [link.end_at(link.low).address for link in self.links_of(host) if link.high == host]

    def node(self, text: str) -> Node:
        """The host or container that an operator means; raises `UsageError`."""
        match = _NODE_PATTERN.fullmatch(text)
        if match is not None:
            node = Node(int(match[1]), int(match[2] or 0))
            if node.host <= self.hosts and node.container <= self.containers:
                return node
        raise UsageError(f"there is no {text!r} in lab {self.name!r}: it has {self._extent()}")

    def host(self, text: str) -> Node:
        node = self.node(text)
        if node.container:
            raise UsageError(f"{text!r} is a container; name a host, such as {node.host_name!r}")
        return node

    def container(self, text: str) -> Node:
        node = self.node(text)
        if not node.container:
            raise UsageError(f"{text!r} is a host; name a container, such as '{text}c1'")
        return node

    def link(self, one: str, other: str) -> Link:
        pair = sorted((self.host(one).host, self.host(other).host))
        for link in self.links:
            if [link.low, link.high] == pair:
                return link
        raise UsageError(
            f"there is no link between {one} and {other}; this lab has "
            + (", ".join(link.name for link in self.links) or "none")
        )

    def _extent(self) -> str:
        hosts = "h1" if self.hosts == 1 else f"h1 to h{self.hosts}"
        if self.containers == 0:
            return hosts
        last = "c1" if self.containers == 1 else f"c1 to c{self.containers}"
        return f"{hosts}, each with {last}"


def make_plan(
    name: str = "lab",
    hosts: int = 3,
    containers: int = 2,
    topology: str = "full",
    mtu_bytes: int = 1500,
) -> Plan:
    """Check what was asked for and compute the lab; raises `UsageError`."""
    check_name(name)
    if not 1 <= hosts <= MAX_HOSTS:
        raise UsageError(f"a lab has 1 to {MAX_HOSTS} hosts, not {hosts}")
    if not 0 <= containers <= MAX_CONTAINERS:
        raise UsageError(f"a host of a lab has 0 to {MAX_CONTAINERS} containers, not {containers}")
    if not MIN_MTU_BYTES <= mtu_bytes <= MAX_MTU_BYTES:
        raise UsageError(f"--mtu must be {MIN_MTU_BYTES} to {MAX_MTU_BYTES}, not {mtu_bytes}")
    pairs = _pairs(topology, hosts)
    links = tuple(Link(low, high, index) for index, (low, high) in enumerate(sorted(pairs)))
    return Plan(name, hosts, containers, topology, mtu_bytes, links)


def _pairs(topology: str, hosts: int) -> set[tuple[int, int]]:
    numbers = range(1, hosts + 1)
    if topology == "full":
        return {(low, high) for low in numbers for high in numbers if low < high}
    if topology == "chain":
        return {(low, low + 1) for low in range(1, hosts)}
    if topology == "star":
        return {(1, high) for high in range(2, hosts + 1)}
    pairs = set()
    for text in topology.split(","):
        match = _PAIR_PATTERN.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"{topology!r} is not a topology: expected full, chain, star, or a list of links"
                " such as h1-h2,h2-h3"
            )
        low, high = sorted((int(match[1]), int(match[2])))
        if low == high or low < 1 or high > hosts:
            raise UsageError(
                f"link {text.strip()!r} does not join two of the hosts h1 to h{hosts};"
                " --hosts sets how many there are"
            )
        pairs.add((low, high))
    return pairs
