"""What a lab consists of, computed from a few numbers and never stored piece by piece.

Hosts are h1, h2, ...; containers h1c1, h1c2, ... . Between two hosts that have a link there is a
point-to-point network of four addresses. The two veth pairs of a link meet in the *wire*, a
namespace that no host can see, on a bridge of their own:

    h1: u2 ======= h1-2 |wire: bridge l1-2| h2-1 ======= u1 :h2

So a link is cut, slowed, measured and tapped in the wire, and the hosts notice only what they
would notice of a real network: nothing, but packets that do not arrive.

A host behind NAT has a *gateway* of its own (h1g), a namespace that masquerades. It has the
host's links in its place, and the host itself has a single interface that leads to it:

    h1: u0 ======= inside :h1g: u2 ======= h1-2 |wire| ...
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from weavepy.base.errors import UsageError

MAX_HOSTS = 32
"""A full mesh of them is 496 links: a few seconds of set-up and 2,000 interfaces."""

MAX_CONTAINERS = 16
"""For each host."""

MAX_NAME_LENGTH = 8

MIN_MTU_BYTES = 576
MAX_MTU_BYTES = 65535
MIN_IPV6_MTU_BYTES = 1280

FAMILIES = ("ipv4", "ipv6", "mixed")

Network = IPv4Network | IPv6Network

UNDERLAYS: dict[str, tuple[Network, Network]] = {
    "ipv4": (IPv4Network("10.99.0.0/16"), IPv4Network("10.98.0.0/16")),
    "ipv6": (IPv6Network("fd99::/64"), IPv6Network("fd98::/64")),
}
"""Exist only inside the lab's namespaces; each link has four addresses of the first. Of the
second are those that a host has after it moved."""

INSIDES: dict[str, Network] = {
    "ipv4": IPv4Network("192.168.0.0/16"),
    "ipv6": IPv6Network("fd97::/64"),
}
"""Between hosts behind NAT and their gateways; each has four addresses."""

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


def parse_hosts(text: str) -> list[int]:
    """Read "h1,h3", or nothing; raises `UsageError`."""
    numbers = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        match = _NODE_PATTERN.fullmatch(name)
        if match is None or match[2]:
            raise UsageError(f"{name!r} is not a host: write h1, or several as h1,h3")
        numbers.append(int(match[1]))
    return numbers


def namespace_name(lab: str, node: str) -> str:
    return f"weavepy-{lab}-{node}"


def namespace_pattern(lab: str) -> re.Pattern[str]:
    """What matches this lab's namespaces, and not those of a lab whose name begins alike."""
    return re.compile(re.escape(f"weavepy-{lab}-") + r"(wire|h[0-9]+(c[0-9]+|g)?)")


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
    moved_address: str
    """What it has instead after the host moved."""
    mac: str
    """Of the host's interface."""


@dataclass(frozen=True, order=True, slots=True)
class Link:
    """`low` and `high` are the numbers of its hosts, `low` < `high`."""

    low: int
    high: int
    index: int
    """Which four addresses of the underlay it has."""
    family: str = "ipv4"

    @property
    def name(self) -> str:
        return f"h{self.low}-h{self.high}"

    @property
    def bridge(self) -> str:
        return f"l{self.low}-{self.high}"

    @property
    def prefix_length(self) -> int:
        return 30 if self.family == "ipv4" else 126

    @property
    def ends(self) -> tuple[LinkEnd, LinkEnd]:
        return self._end(self.low, self.high, 1), self._end(self.high, self.low, 2)

    def end_at(self, host: int) -> LinkEnd:
        return self.ends[0 if host == self.low else 1]

    def _end(self, host: int, other: int, offset: int) -> LinkEnd:
        home, away = (
            str(network.network_address + (4 * self.index + offset))
            for network in UNDERLAYS[self.family]
        )
        mac = f"02:99:00:00:{host:02x}:{other:02x}"
        return LinkEnd(host, f"u{other}", f"h{host}-{other}", home, away, mac)


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
    family: str = "ipv4"
    """One of `FAMILIES`; "mixed": the links take turns."""
    nat: tuple[int, ...] = ()
    """Hosts behind a gateway that masquerades, each behind one of its own."""

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
        gateways = [self.gateway(host) for host in self.nat]
        return [self.wire, *gateways, *(self.namespace(node) for node in nodes)]

    def gateway(self, host: int) -> str:
        """The namespace that does NAT for a host."""
        return namespace_name(self.name, f"h{host}g")

    def outside(self, host: int) -> str:
        """The namespace that has the host's ends of links: its gateway's or its own."""
        return self.gateway(host) if host in self.nat else namespace_name(self.name, f"h{host}")

    def links_of(self, host: int) -> Iterator[Link]:
        return (link for link in self.links if host in (link.low, link.high))

    def neighbours(self, host: int) -> list[int]:
        """Those that it can have a connection with: not two that are both behind NAT."""
        return sorted(
            link.high if link.low == host else link.low
            for link in self.links_of(host)
            if self.dialler(link)
        )

    def dialler(self, link: Link) -> int:
        """The host whose router dials over this link; 0 if neither can reach the other."""
        if link.low in self.nat and link.high in self.nat:
            return 0
        return link.low if link.low in self.nat else link.high

    def targets(self, host: int) -> list[str]:
        """Underlay addresses of the neighbours that this host's router is told to dial.

        Only those of lower number: one dial for each link is enough to form the mesh, and the
        other end of a link never depends on being dialled back. A host behind NAT cannot be
        dialled, so it dials all others.
        """
        return [
            link.end_at(link.low + link.high - host).address
            for link in self.links_of(host)
            if self.dialler(link) == host
        ]

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
    family: str = "ipv4",
    nat: Sequence[int] = (),
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
    if family not in FAMILIES:
        raise UsageError(f"{family!r} is no family of the underlay: {', '.join(FAMILIES)}")
    if family != "ipv4" and mtu_bytes < MIN_IPV6_MTU_BYTES:
        raise UsageError(f"IPv6 needs an MTU of {MIN_IPV6_MTU_BYTES} at least, not {mtu_bytes}")
    strange = [host for host in nat if not 1 <= host <= hosts]
    if strange:
        raise UsageError(f"there is no host h{strange[0]} to be put behind NAT")
    links = tuple(
        Link(low, high, index, ("ipv4", "ipv6")[index % 2] if family == "mixed" else family)
        for index, (low, high) in enumerate(sorted(pairs))
    )
    return Plan(
        name, hosts, containers, topology, mtu_bytes, links, family, tuple(sorted(set(nat)))
    )


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
