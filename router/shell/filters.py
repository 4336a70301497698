"""What a container may send: only as itself. One nftables table of the bridge family.

The rules are fixed; what is particular to a container lies in sets keyed by its port on the
bridge, so a packet costs a few hash lookups however many containers there are:

    ports    our veths' host ends; other ports (the tap) are none of this table's business
    macs     port . MAC
    own4     port . MAC . IPv4 address
    own6     port . MAC . IPv6 address, the link-local one of that MAC included
    target6  the same as numbers, for what neighbour advertisements claim
    storms   ports that sent to a group lately, each with how much of it is left to it; only where
             the kernel can count so

Elements go in before a veth exists and out after it is gone. Each address carries its prefix
length as a comment, so a restarted router reads from here what each port was assigned; the
container itself cannot change that. A VLAN tag would hide a packet from these rules, so
only bare ARP, IPv4 and IPv6 pass.

The first change, and each that finds a rule missing, states all rules anew in its transaction,
so an upgrade, or a hand that flushed them, is put right by the next one, and no packet meets half a
rule set. Otherwise a change is its elements: stating all takes most of an attachment's time.

A second table (family inet) closes the mesh's own ports to everything that comes in over the
bridge, from containers here and elsewhere: the overlay must not carry its own control traffic.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface

from weavepy.kernel.netlink import IpInterface
from weavepy.kernel.nfqueries import elements_of, has_element, rules_per_chain
from weavepy.kernel.nftables import (
    NftFailed,
    counters,
    list_table,
    run_transaction,
    set_elements,
)

log = logging.getLogger(__name__)

MESH_PORTS = (6783, 6784)

STORM_FRAMES_PER_S = 10_000
"""To groups, from one container. A storm ends here, before its neighbours on this host get it all;
`router.overlay.flood` then limits what of it goes to other hosts."""

SETS = {
    "ports": "type ifname",
    "macs": "type ifname . ether_addr",
    "own4": "type ifname . ether_addr . ipv4_addr",
    "own6": "type ifname . ether_addr . ipv6_addr",
    "target6": "typeof iifname . ether saddr . @th,64,128",
}

COUNTERS = (
    "source_mac",
    "arp_sender",
    "source_address",
    "router_advertisement",
    "neighbour_advertisement",
    "dhcp_server",
    "other_protocol",
    "storm",
)
"""Why a container's frame was dropped."""

CHAINS = {
    "from_container": [
        "type filter hook prerouting priority -300; policy accept;",
        "iifname @ports meta pkttype { broadcast, multicast } jump to_groups",
        "iifname @ports goto check",
    ],
    "to_groups": [],
    "check": [
        "iifname . ether saddr != @macs counter name source_mac drop",
        "ether type vmap { ip : goto check_ip4, arp : goto check_arp, ip6 : goto check_ip6 }",
        "counter name other_protocol drop",
    ],
    # A probe (RFC 5227) comes from 0.0.0.0 and asks only; it changes nobody's cache.
    "check_arp": [
        "iifname . arp saddr ether . arp saddr ip @own4 accept",
        "arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether @macs accept",
        "counter name arp_sender drop",
    ],
    "check_ip4": [
        "udp sport 67 counter name dhcp_server drop",
        "iifname . ether saddr . ip saddr @own4 accept",
        "counter name source_address drop",
    ],
    # From the unspecified address comes only what a host says before it has one.
    "check_ip6": [
        "icmpv6 type { nd-router-advert, nd-redirect } counter name router_advertisement drop",
        "udp sport 547 counter name dhcp_server drop",
        (
            "icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @target6 "
            "counter name neighbour_advertisement drop"
        ),
        "iifname . ether saddr . ip6 saddr @own6 accept",
        (
            "ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, "
            "mld-listener-report, mld2-listener-report } accept"
        ),
        "counter name source_address drop",
    ],
}
"""Chain to its rules; a base chain begins with its hook. `to_groups` gets its rule last."""

STORM_SET = "type ifname; size 4096; flags dynamic, timeout; timeout 1m"
STORM_RULE = (
    f"add @storms {{ iifname limit rate over {STORM_FRAMES_PER_S}/second "
    f"burst {STORM_FRAMES_PER_S} packets }} counter name storm drop"
)
"""In `to_groups`, where the kernel has limits per element; else a storm only ends at the datapath
(`weavepy doctor` says so)."""


@dataclass(frozen=True, slots=True)
class Port:
    """What one veth is allowed to send as."""

    host_interface: str
    mac: str
    addresses: frozenset[IpInterface]


def table_name(bridge: str) -> str:
    """`weavepy` for the default bridge; routers with other bridges have tables of their own."""
    return "weavepy" if bridge == "weave" else f"weavepy_{bridge}"


def link_local(mac: str) -> IPv6Address:
    """The address that an interface with this MAC gives itself (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 0x02
    return IPv6Address(b"\xfe\x80" + bytes(6) + octets[:3] + b"\xff\xfe" + octets[3:])


Listener = Callable[[str, Iterable[IpInterface]], None]
"""Is told which addresses a port has from now on, before it is on the bridge; none: it is gone."""


class Filters:
    def __init__(self, bridge: str, mesh_ports: Sequence[int] = MESH_PORTS) -> None:
        self._bridge = bridge
        self._table = table_name(bridge)
        self._mesh_ports = mesh_ports
        self._limits_storms = True
        self._stated = False
        """Whether the rules that are there are of this version."""

        self.listener: Listener = _tell_nobody

    def ports(self) -> dict[str, Port]:
        """Every port that has filters, by host interface, as the kernel has them."""
        objects = list_table("bridge", self._table) or []
        macs = {port: mac for (port, mac), _ in set_elements(objects, "macs")}
        assigned: dict[str, set[IpInterface]] = {}
        for set_name in ("own4", "own6"):
            for (port, _, address), comment in set_elements(objects, set_name):
                if comment.startswith("/"):
                    assigned.setdefault(port, set()).add(ip_interface(address + comment))
        return {
            port: Port(port, macs.get(port, ""), frozenset(assigned.get(port, ())))
            for port, _ in set_elements(objects, "ports")
        }

    def dropped(self) -> dict[str, int]:
        """Frames dropped since the table was made, by reason."""
        return counters(list_table("bridge", self._table) or [])

    def install(self) -> None:
        """Rules and sets, without a change to who may send what."""
        self._commit([])

    def allow(self, port: Port) -> None:
        """Let this port send as this and nothing else, whatever it could before. Atomic."""
        wanted = _elements(port)
        present = self._present([port.host_interface])
        self._change(
            [f"delete element {self._in(name, value)}" for name, value in present - wanted]
            + [f"add element {self._in(name, value)}" for name, value in sorted(wanted - present)],
        )
        self.listener(port.host_interface, port.addresses)

    def forbid(self, host_interfaces: Iterable[str]) -> None:
        """Forget these ports. The interfaces should be gone: without a filter, all may pass."""
        names = list(host_interfaces)
        gone = self._present(names)
        if gone:
            self._change([f"delete element {self._in(name, value)}" for name, value in gone])
        for name in names:
            self.listener(name, ())

    def remove(self) -> None:
        """Both tables, at once."""
        run_transaction(
            "".join(
                f"add table {family} {self._table}\ndelete table {family} {self._table}\n"
                for family in ("bridge", "inet")
            )
        )

    def _present(self, interfaces: Sequence[str]) -> set[tuple[str, str]]:
        """The elements of these ports, as (set, element). They come and go together."""
        known = [it for it in interfaces if has_element(self._table, "ports", it)]
        return {
            (name, _element([interface, *_fields(name, rest)], comment))
            for name in ((*SETS, "storms") if known else ())
            for interface, rest, comment in elements_of(self._table, name, known)
        }

    def _change(self, changes: list[str]) -> None:
        if self._stated and self._has_all_rules():
            if changes:
                run_transaction("\n".join(changes) + "\n")
        else:
            self._commit(changes)

    def _has_all_rules(self) -> bool:
        there = rules_per_chain(self._table)
        wanted = Counter(
            chain for chain, rules in CHAINS.items() for rule in rules if not _is_hook(rule)
        )
        wanted["to_groups"] += self._limits_storms
        return there == wanted

    def _in(self, name: str, element: str) -> str:
        return f"bridge {self._table} {name} {{ {element} }}"

    def _commit(self, changes: list[str]) -> None:
        wanted = [*self._rules(), *self._guard(), *changes]
        if self._limits_storms:
            try:
                run_transaction("\n".join([*wanted, *self._storm_limit()]) + "\n")
                self._stated = True
                return
            except NftFailed as error:
                failure = error
        run_transaction("\n".join(wanted) + "\n")
        self._stated = True
        if self._limits_storms:
            self._limits_storms = False
            log.warning("storms of containers are not limited by their filters: %s", failure)

    def _storm_limit(self) -> list[str]:
        table = f"bridge {self._table}"
        return [
            f"add set {table} storms {{ {STORM_SET}; }}",
            f"add rule {table} to_groups {STORM_RULE}",
        ]

    def _rules(self) -> list[str]:
        table = f"bridge {self._table}"
        lines = [f"add table {table}"]
        lines += [f"add set {table} {name} {{ {kind}; }}" for name, kind in SETS.items()]
        lines += [f"add counter {table} {name}" for name in COUNTERS]
        lines += _chains(table, CHAINS)
        return lines

    def _guard(self) -> list[str]:
        ports = ", ".join(str(port) for port in self._mesh_ports)
        chain = [
            "type filter hook input priority -10; policy accept;",
            f'iifname "{self._bridge}" tcp dport {{ {ports} }} drop',
            f'iifname "{self._bridge}" udp dport {{ {ports} }} drop',
        ]
        table = f"inet {self._table}"
        return [f"add table {table}", *_chains(table, {"mesh_ports": chain})]


def _fields(set_name: str, rest: bytes) -> list[str]:
    """What follows the port in an element, from the kernel's form: a MAC has 6 bytes of 8."""
    mac, address = rest[:6], rest[8:]
    if not rest:
        return []
    if not address:
        return [mac.hex(":")]
    if set_name == "target6":
        return [mac.hex(":"), hex(int.from_bytes(address))]
    return [mac.hex(":"), str(ip_address(address))]


def _tell_nobody(host_interface: str, addresses: Iterable[IpInterface]) -> None:
    return


def _is_hook(rule: str) -> bool:
    return rule.startswith("type ")


def _chains(table: str, chains: dict[str, list[str]]) -> list[str]:
    lines = []
    for name, rules in chains.items():
        hook = f" {{ {rules[0]} }}" if rules and _is_hook(rules[0]) else ""
        lines += [f"add chain {table} {name}{hook}", f"flush chain {table} {name}"]
    for name, rules in chains.items():
        lines += [f"add rule {table} {name} {rule}" for rule in rules if not _is_hook(rule)]
    return lines


def _elements(port: Port) -> set[tuple[str, str]]:
    name, mac = port.host_interface, port.mac
    wanted = {("ports", _element([name])), ("macs", _element([name, mac]))}
    own6: list[tuple[IPv6Address, str]] = [(link_local(mac), "")]
    for address in port.addresses:
        length = f"/{address.network.prefixlen}"
        match address:
            case IPv4Interface():
                wanted.add(("own4", _element([name, mac, str(address.ip)], length)))
            case IPv6Interface():
                own6.append((address.ip, length))
    for ip, length in own6:
        wanted.add(("own6", _element([name, mac, str(ip)], length)))
        wanted.add(("target6", _element([name, mac, hex(int(ip))])))
    return wanted


def _element(parts: Sequence[str], comment: str = "") -> str:
    text = " . ".join([f'"{parts[0]}"', *parts[1:]])
    return f'{text} comment "{comment}"' if comment else text
