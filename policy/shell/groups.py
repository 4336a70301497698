"""What reaches a container though it is not addressed to it: broadcast and multicast.

The policies' table asks by a pod's address, and such a packet has none. It goes to every port of
the bridge, and only there, in the bridge's own packet filter, one sees to which. So a table of the
family bridge marks such frames, per port of a pod whose ingress is isolated, with the port's
number. By that the policies' table (`script.py`), to which br_netfilter brings them next, has the
chain of the pod's ingress (`ingress4_groups`): it asks that before anything else, for each packet,
and takes the mark away.

A frame for one container with a packet for all in it, or one for all with a packet for one, would
get around that. Nothing sends such in earnest, so they are dropped, the latter here where an
isolated pod would hear it: `everybody` has the broadcast addresses of the containers' subnets.

Numbers are given here, kept in the kernel, and found there by a router that starts. A pod with
several addresses of one family on its port is asked by the first that is isolated. The bridge's
chain of one rule is what all other frames pay: beginning with a match of the port it cost 8 % of
the small packets, with the MAC address 3 %, and as it is no more than an empty chain, 2 %.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from policy.core.objects import Address
from policy.core.table import Changes, Table
from policy.shell.script import (
    DROPS,
    EVERYBODY,
    GROUP_WAYS,
    GROUPS,
    GROUPS4,
    GROUPS6,
    MARK,
    MARK_MASK,
    MARKED,
    comment_of,
    emptied,
    signed,
    table_name,
    way_name,
)
from weavepy.kernel.netlink import IpInterface
from weavepy.kernel.nftables import set_elements

Addresses = Iterable[IpInterface]
Ports = Callable[[], Mapping[str, Addresses]]
"""Ports of containers, with what is assigned to them."""

PRIORITY = -10
"""Before br_netfilter brings the frame to the other table."""

TO_ALL, FORWARDED = "to_all", "forwarded"
CHAINS = {
    TO_ALL: signed(
        [
            "ether type { ip, ip6 } meta mark set oifname map @marks",
            f"{MARKED} ip daddr != {GROUPS4} ip daddr != @{EVERYBODY} drop",
            f"{MARKED} ip6 daddr != {GROUPS6} drop",
        ]
    ),
    FORWARDED: signed([f"meta pkttype != other meta pkttype != host jump {TO_ALL}"]),
}

Content = dict[str, dict[str, str]]
""""FAMILY SET" to elements, each with what follows it where it is added."""


class Groups:
    def __init__(self, bridge: str, ports: Ports) -> None:
        self._name = table_name(bridge)
        self._ports = ports
        self._known: dict[str, list[IpInterface]] = {}
        self._numbers: dict[str, int] = {}
        self._chains: dict[str, str] = {}
        """Of the ingress of isolated pods, by address."""
        self._present: Content = {}

    def addresses(self, mark: int) -> list[Address]:
        """Of the port whose number this is."""
        ports = [port for port, number in [*self._numbers.items()] if MARK | number == mark]
        return [one.ip for port in ports for one in self._known.get(port, ())]

    def place(self, port: str, addresses: Addresses) -> None:
        """What is assigned to this port from now on; nothing, if it is gone."""
        self._known[port] = sorted(addresses, key=str)
        if not self._known[port]:
            del self._known[port]

    def follow(self, wanted: Table) -> None:
        """Which pods are isolated from now on."""
        self._chains = {
            address: chain for way in GROUP_WAYS for address, chain in wanted.verdicts[way].items()
        }

    def changes(self) -> list[str]:
        """What makes of the present state what is known; it is taken to succeed."""
        isolated = self._isolated()
        self._numbers = {port: one for port, one in self._numbers.items() if port in isolated}
        wanted = self._content(isolated)
        lines = self._lines("delete", self._present, wanted)
        lines += self._lines("add", wanted, self._present)
        self._present = wanted
        return lines

    def isolate(self, changes: Changes) -> None:
        """These pods, too."""
        for way in GROUP_WAYS:
            self._chains.update(changes.given.get(way, {}))

    def additions(self) -> list[str]:
        """For those that are known to be isolated; what else there is stays."""
        return self._lines("add", self._content(self._isolated()), self._present)

    # --- the bridge's table ----------------------------------------------------------------------

    def read(self, bridge: list[dict[str, Any]], inet: list[dict[str, Any]]) -> bool:
        """Take what both tables say for the present state. False if it is not of our making."""
        self._known = {port: sorted(own, key=str) for port, own in self._ports().items()}
        self._numbers, self._present = {}, {}
        try:
            return self._read(bridge, inet)
        except (KeyError, IndexError, ValueError, TypeError):
            return False

    def _read(self, bridge: list[dict[str, Any]], inet: list[dict[str, Any]]) -> bool:
        hooks = {one["chain"]["name"]: one["chain"].get("hook") for one in bridge if "chain" in one}
        if hooks != {TO_ALL: None, FORWARDED: "forward"}:
            return False
        for chain, rules in CHAINS.items():
            there = [one["rule"] for one in bridge if "rule" in one]
            there = [one.get("comment", "") for one in there if one["chain"] == chain]
            if there != [comment_of(rule) for rule in rules]:
                return False
        found = self._present["bridge marks"] = {}
        for (port, mark), _ in set_elements(bridge, "marks", "map"):
            self._numbers[port] = mark & ~MARK_MASK
            found[f'"{port}"'] = f" : {mark:#x}"
        for family, table in (("bridge", bridge), ("inet", inet)):
            everybody = set_elements(table, EVERYBODY)
            self._present[f"{family} {EVERYBODY}"] = {str(address): "" for address, _ in everybody}
        for way in GROUP_WAYS:
            name = way_name(way) + GROUPS
            verdicts = set_elements(inet, name, "map")
            self._present[f"inet {name}"] = {
                f"{value[0]:#x}": f" : jump {value[1]['jump']['target']}" for value, _ in verdicts
            }
            name += DROPS
            self._present[f"inet {name}"] = {
                f"{value:#x}": f' comment "{comment}"'
                for value, comment in set_elements(inet, name)
            }
        return True

    def whole(self, present: Iterable[dict[str, Any]] | None) -> list[str]:
        """The bridge's table anew, with no marks in it; the other one must be as empty."""
        name = f"bridge {self._name}"
        lines = emptied(name, present)
        lines.append(f"add map {name} marks {{ type ifname : mark; }}")
        lines.append(f"add set {name} {EVERYBODY} {{ type ipv4_addr; }}")
        hook = f"type filter hook forward priority {PRIORITY}; policy accept;"
        lines += [f"add chain {name} {TO_ALL}", f"add chain {name} {FORWARDED} {{ {hook} }}"]
        lines += [f"add rule {name} {chain} {rule}" for chain in CHAINS for rule in CHAINS[chain]]
        self._present = {}
        return lines

    def _isolated(self) -> dict[str, list[IpInterface]]:
        return {
            port: own
            for port, own in self._known.items()
            if any(str(one.ip) in self._chains for one in own)
        }

    def _content(self, isolated: dict[str, list[IpInterface]]) -> Content:
        self._give_numbers(isolated)
        marks = {port: f"{MARK | self._numbers[port]:#x}" for port in isolated}
        content: Content = {"bridge marks": {f'"{port}"': f" : {marks[port]}" for port in isolated}}
        content[f"bridge {EVERYBODY}"] = content[f"inet {EVERYBODY}"] = {
            str(one.network.broadcast_address): ""
            for own in isolated.values()
            for one in own
            if one.version == 4 and one.network.prefixlen < 31
        }
        for way in GROUP_WAYS:
            verdicts = content[f"inet {way_name(way)}{GROUPS}"] = {}
            drops = content[f"inet {way_name(way)}{GROUPS}{DROPS}"] = {}
            for port, own in isolated.items():
                asked = [str(one.ip) for one in own if one.version == way[1]]
                asked = [one for one in asked if one in self._chains]
                if asked:
                    verdicts[marks[port]] = f" : jump {self._chains[asked[0]]}"
                    drops[marks[port]] = f' comment "{asked[0]}"'
        return content

    def _give_numbers(self, ports: Iterable[str]) -> None:
        """The lowest that are free."""
        taken = set(self._numbers.values())
        number = 0
        for port in ports:
            if port not in self._numbers:
                while number in taken:
                    number += 1
                self._numbers[port] = number
                taken.add(number)

    def _lines(self, command: str, some: Content, others: Content) -> list[str]:
        """For the elements of `some` that are not so in `others`."""
        lines = []
        for place, elements in some.items():
            there = others.get(place, {})
            texts = [
                element + (more if command == "add" else "")
                for element, more in elements.items()
                if there.get(element) != more
            ]
            family, _, name = place.partition(" ")
            if texts:
                target = f"{family} {self._name} {name}"
                lines.append(f"{command} element {target} {{ {', '.join(texts)} }}")
        return lines
