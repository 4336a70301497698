"""What reaches a container though it is not addressed to it: broadcast and multicast.

The policies' table asks by a pod's address, and such a packet has none. It goes to every port of
the bridge, and only there, in the bridge's own packet filter, one sees to which. So a table of the
family bridge marks it, per port of an isolated pod:

    isolated   ports of pods whose ingress is isolated
    own4, own6 port . address that is assigned there: what goes to it is judged by the address
    marks      port to its number, which becomes the packet's mark

and the policies' table (`script.py`), to which br_netfilter brings it next, has by that number the
chain of the pod's ingress (`ingress4_groups`), asks it before anything else, for each packet, and
takes the mark away. A packet for somebody else in a frame to this pod is judged alike: which
addresses besides its own a container takes for its own (its subnet's broadcast, for one) is not
known here.

Numbers are given here, kept in the kernel, and found there by a router that starts. A pod with
several addresses of one family on its port is asked by the first that is isolated.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from policy.core.table import Changes, Table
from policy.shell.script import (
    DROPS,
    GROUP_WAYS,
    GROUPS,
    MARK,
    MARK_MASK,
    comment_of,
    emptied,
    signed,
    table_name,
    way_name,
)
from weavepy.kernel.nftables import set_elements

Addresses = Sequence[str]
Ports = Callable[[], Mapping[str, Addresses]]
"""Ports of containers, with what is assigned to them."""

PRIORITY = -10
"""Before br_netfilter brings the frame to the other table."""

SETS = {
    "isolated": ("set", "type ifname;"),
    "own4": ("set", "type ifname . ipv4_addr;"),
    "own6": ("set", "type ifname . ipv6_addr;"),
    "marks": ("map", "type ifname : mark;"),
}
RULES = signed(
    [
        "oifname != @isolated accept",
        "ether type ip oifname . ip daddr @own4 accept",
        "ether type ip6 oifname . ip6 daddr @own6 accept",
        "ether type { ip, ip6 } meta mark set oifname map @marks",
    ]
)

Content = dict[str, dict[str, str]]
""""FAMILY SET" to elements, each with what follows it where it is added."""


class Groups:
    def __init__(self, bridge: str, ports: Ports) -> None:
        self._name = table_name(bridge)
        self._ports = ports
        self._known: dict[str, Addresses] = {}
        self._numbers: dict[str, int] = {}
        self._chains: dict[str, str] = {}
        """Of the ingress of isolated pods, by address."""
        self._present: Content = {}

    def addresses(self, mark: int) -> Addresses:
        """Of the port whose number this is."""
        ports = [port for port, number in [*self._numbers.items()] if MARK | number == mark]
        return self._known.get(ports[0], ()) if ports else ()

    def place(self, port: str, addresses: Addresses) -> None:
        """What is assigned to this port from now on; nothing, if it is gone."""
        self._known.pop(port, None)
        if addresses:
            self._known[port] = addresses

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

    def additions(self, changes: Changes) -> list[str]:
        """For pods that are isolated now as well; what else there is stays."""
        for way in GROUP_WAYS:
            self._chains.update(changes.given.get(way, {}))
        return self._lines("add", self._content(self._isolated()), self._present)

    # --- the bridge's table ----------------------------------------------------------------------

    def read(self, bridge: list[dict[str, Any]], inet: list[dict[str, Any]]) -> bool:
        """Take what both tables say for the present state. False if it makes no sense."""
        self._known = dict(self._ports())
        self._numbers, self._present = {}, {}
        rules = [one["rule"].get("comment", "") for one in bridge if "rule" in one]
        if rules != [comment_of(rule) for rule in RULES]:
            return False
        hooks = [one["chain"].get("hook") for one in bridge if "chain" in one]
        if hooks != ["forward"]:
            return False
        for name in SETS:
            elements = set_elements(bridge, name, SETS[name][0])
            found = self._present[f"bridge {name}"] = {}
            for value, _ in elements:
                if name == "marks":
                    port, mark = value
                    self._numbers[port] = mark & ~MARK_MASK
                    found[f'"{port}"'] = f" : {mark:#x}"
                else:
                    port, *address = [value] if isinstance(value, str) else value
                    found[" . ".join([f'"{port}"', *address])] = ""
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
        """The bridge's table anew, with empty sets; so must be those of the other one."""
        name = f"bridge {self._name}"
        lines = emptied(name, present)
        lines += [f"add {kind} {name} {one} {{ {what} }}" for one, (kind, what) in SETS.items()]
        hook = f"type filter hook forward priority {PRIORITY}; policy accept;"
        lines.append(f"add chain {name} forwarded {{ {hook} }}")
        lines += [f"add rule {name} forwarded {rule}" for rule in RULES]
        self._present = {}
        return lines

    def _isolated(self) -> dict[str, Addresses]:
        return {
            port: addresses
            for port, addresses in self._known.items()
            if any(one in self._chains for one in addresses)
        }

    def _content(self, isolated: dict[str, Addresses]) -> Content:
        content: Content = {f"bridge {name}": {} for name in SETS}
        self._give_numbers(isolated)
        for way in GROUP_WAYS:
            verdicts = content[f"inet {way_name(way)}{GROUPS}"] = {}
            drops = content[f"inet {way_name(way)}{GROUPS}{DROPS}"] = {}
            for port, addresses in isolated.items():
                mark = f"{MARK | self._numbers[port]:#x}"
                own = [one for one in addresses if (6 if ":" in one else 4) == way[1]]
                for one in own:
                    content[f"bridge own{way[1]}"][f'"{port}" . {one}'] = ""
                asked = [one for one in own if one in self._chains]
                if asked:
                    verdicts[mark] = f" : jump {self._chains[asked[0]]}"
                    drops[mark] = f' comment "{asked[0]}"'
        for port in isolated:
            content["bridge isolated"][f'"{port}"'] = ""
            content["bridge marks"][f'"{port}"'] = f" : {MARK | self._numbers[port]:#x}"
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
