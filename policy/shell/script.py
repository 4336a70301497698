"""A table of `policy.core.table` in nft's language: one table of the family inet, for one bridge.

What a frame meets that the bridge forwards (br_netfilter brings it here) or the host routes:

    forwarded   A connection that was judged under the present policies: passes, before anything
                else is asked, as that is what nearly all packets are. Not by our bridge: none of
                our business. Neighbour discovery, errors about connections: pass.
                Otherwise the source's egress and the destination's ingress are asked.
    groups      what goes to everybody is asked, per packet, of the ingress of each who gets it
    replies     the same, for packets that go back: addresses and ports change places
    allowed     whatever came to the end is marked, so that its connection is asked no more
    unjudged    what belongs to no connection must not reach or leave a pod that is isolated at all

What the host itself sends and gets is not forwarded, so a pod's own node always reaches it.

**The mark is the generation of the policies** (the upper 24 bits of the connection's mark). A
change that forbids anything comes with a new generation in the same transaction: from then on every
connection is judged anew, by its next packet in whichever direction, and goes on or is cut.
Nothing has to be searched for and deleted, and between two changes a packet costs one comparison,
however many policies there are.

All this rests on knowing who opened a connection. A TCP connection whose beginning was not seen
might be a forbidden one that now looks as if its other end had opened it: it is unjudged.

What passes is counted where it does, by the match (`policy.core.attribution`): once for each
connection under each generation. A pod's drops are counted by the elements of `..._drops`, which
are the isolated addresses. Some of what is dropped is logged (`weavepy.kernel.nflog`), in the words
of `policy.core.drops`: so much per pod and direction (`LOG_RATE`) that one under fire does not keep
the others from being heard.
Each rule has a digest of its text as a comment: that is how a rule that somebody changed is found.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from policy.core.drops import label
from policy.core.objects import Family
from policy.core.table import (
    WAYS,
    Chain,
    Changes,
    Element,
    Match,
    SetContent,
    SetKind,
    Table,
    Way,
)

REMOVABLE = ("map", "set", "chain", "flowtable", "counter", "quota", "limit")
"""What can be in a table, in the order in which it can go: maps hold the chains they name."""

PRIORITY = -5
"""Before the rules of others in the same hook, who may accept but not bring back what we drop."""

GENERATIONS = 1 << 24
_MASK = 0xFFFFFF00
_REST = 0x000000FF

_NEIGHBOURS = (
    "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, "
    "mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report"
)
EVERYBODY = "everybody"
GROUPS4, GROUPS6 = "{ 224.0.0.0/4, 255.255.255.255 }", "ff00::/8"
_ALL = {"ip": (f"@{EVERYBODY}", GROUPS4), "ip6": (GROUPS6,)}
_FOR_ALL = [f"{ip} daddr {every}" for ip in _ALL for every in _ALL[ip]]
_FROM_ALL = [f"{ip} saddr {every}" for ip in _ALL for every in _ALL[ip]]
_EXEMPT = (f"icmpv6 type {{ {_NEIGHBOURS} }}", "ip protocol igmp")
"""Of packets to groups: what a network cannot do without."""
_IP = {4: "ip", 6: "ip6"}
_ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
REPLIES = "_replies"
DROPS = "_drops"
LOGGED = "_logged"
GROUPS = "_groups"
GROUP_WAYS: tuple[Way, ...] = tuple(way for way in WAYS if way[0] == "ingress")
MARK, MARK_MASK = 0x57000000, 0xFF000000
"""Of packets that are not addressed to the pod to which the bridge takes them (`groups.py`)."""
MARKED = f"meta mark & {MARK_MASK:#x} == {MARK:#x}"

LOG_RATE = "limit rate 5/second burst 10 packets"
LOGGED_PODS = 4096
"""Of one direction, at once; a pod that is beyond is dropped from without a word."""
_LOGGED = f"size {LOGGED_PODS}; flags dynamic, timeout; timeout 1m;"
LOG_BYTES = 128
LOG_GROUP = 6783
"""Of the default bridge; others have groups of their own."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the fixed rules depend on besides the generation."""

    bridge: str
    log_group: int | None
    """None where the kernel cannot log packets."""


def table_name(bridge: str) -> str:
    return "weavepy_policy" if bridge == "weave" else f"weavepy_policy_{bridge}"


def log_group(bridge: str) -> int:
    if bridge == "weave":
        return LOG_GROUP
    return int.from_bytes(blake2b(bridge.encode(), digest_size=2).digest()) | 1 << 15


def way_name(way: Way) -> str:
    return f"{way[0]}{way[1]}"


def whole(
    setting: Setting,
    table: Table,
    generation: int,
    present: Iterable[dict[str, Any]] | None,
    groups: Iterable[str],
) -> str:
    """In place of whatever is there. Atomic: no packet meets anything in between.

    A table that is to stay itself, as it is owned, is emptied of what is `present` in it.
    """
    lines = emptied(f"inet {table_name(setting.bridge)}", present)
    first = Changes(new_sets=table.sets, new_chains=table.chains, given=table.verdicts)
    return "\n".join([*lines, change(setting, first, generation, groups)])


def emptied(name: str, present: Iterable[dict[str, Any]] | None) -> list[str]:
    if present is None:
        return [f"add table {name}", f"delete table {name}", f"add table {name}"]
    listed = [(kind, one[kind]["name"]) for one in present for kind in REMOVABLE if kind in one]
    listed.sort(key=lambda one: REMOVABLE.index(one[0]))
    return [f"flush table {name}", *(f"delete {kind} {name} {one}" for kind, one in listed)]


def change(setting: Setting, changes: Changes, generation: int, groups: Iterable[str] = ()) -> str:
    """On top of what is there. All fixed rules are stated anew, the generation with them.

    `groups` is what changes with this in `Groups`.
    """
    name = f"inet {table_name(setting.bridge)}"
    lines = _fixed(name, setting, generation)
    for set_name, content in changes.new_sets.items():
        lines.append(f"add set {name} {set_name} {{ {_set_type(content.kind, content.family)} }}")
        lines += _elements(f"add element {name} {set_name}", content, content.elements)
    for set_name, one in changes.elements.items():
        content = SetContent(one.kind, one.family)
        lines += _elements(f"delete element {name} {set_name}", content, one.removed)
        lines += _elements(f"add element {name} {set_name}", content, one.added)
    for chain_name, chain in changes.new_chains.items():
        for real_name, rules in chain_rules(chain_name, chain).items():
            lines.append(f"add chain {name} {real_name}")
            lines += [f"add rule {name} {real_name} {rule}" for rule in rules]
    for way, withdrawn in changes.withdrawn.items():
        again = changes.given.get(way, {})
        gone = [address for address in withdrawn if address not in again]
        lines += _verdicts("delete", name, way, withdrawn)
        lines += _listed(f"delete element {name} {way_name(way)}{DROPS}", gone)
    for way, given in changes.given.items():
        before = changes.withdrawn.get(way, {})
        new = [address for address in given if address not in before]
        lines += _listed(f"add element {name} {way_name(way)}{DROPS}", new)
        lines += _verdicts("add", name, way, given)
    lines += groups
    for chain_name in changes.old_chains:
        lines += [
            f"delete chain {name} {real_name}" for real_name in (chain_name, chain_name + REPLIES)
        ]
    lines += [f"delete set {name} {set_name}" for set_name in changes.old_sets]
    return "\n".join(lines) + "\n"


def chain_rules(name: str, chain: Chain) -> dict[str, list[str]]:
    """The two chains that one is made of, for packets there and back."""
    way = f"{chain.direction}{chain.family}"
    there = "saddr" if chain.direction == "ingress" else "daddr"
    back = "daddr" if chain.direction == "ingress" else "saddr"
    ip = _IP[chain.family]
    return {
        name: signed(
            [_match(one, f"{ip} {there}", "th dport") for one in chain.matches]
            + [f"goto {way}_denied"]
        ),
        name + REPLIES: signed(
            [_match(one, f"{ip} {back}", "th sport") for one in chain.matches]
            + [f"goto {way}_denied{REPLIES}"]
        ),
    }


def fixed_chains(setting: Setting, generation: int) -> dict[str, tuple[str, list[str]]]:
    """Name to hook and rules, called chains first."""
    mark = generation << 8
    chains: dict[str, tuple[str, list[str]]] = {}
    asked: dict[str, list[str]] = {"": [], REPLIES: []}
    unjudged = []
    groups = [f"{exempt} meta mark set 0 return" for exempt in _EXEMPT]
    for way in sorted(WAYS):
        ip, name = _IP[way[1]], way_name(way)
        own, other = ("daddr", "saddr") if way[0] == "ingress" else ("saddr", "daddr")
        to_group = []
        if way in GROUP_WAYS:
            chains[f"{name}_denied{GROUPS}"] = (
                "",
                [
                    *_log(setting, name + GROUPS, "meta mark", label(way[0], "group")),
                    f"meta mark @{name}{GROUPS}{DROPS} drop",
                    "drop",
                ],
            )
            to_group = [f"{MARKED} goto {name}_denied{GROUPS}"]
            groups.append(f"meta nfproto ipv{way[1]} meta mark vmap @{name}{GROUPS}")
        for suffix, field in (("", own), (REPLIES, other)):
            chains[f"{name}_denied{suffix}"] = (
                "",
                [
                    *([] if suffix else to_group),
                    *_log(
                        setting,
                        name,
                        f"{ip} {field}",
                        label(way[0], "reply" if suffix else "new"),
                    ),
                    f"{ip} {field} @{name}{DROPS} drop",
                    "drop",
                ],
            )
            asked[suffix].append(f"{ip} {field} vmap @{name}{suffix}")
        for field in (own, other):
            isolated = f"{ip} {field} @{name}{DROPS}"
            logged = _log(setting, name, f"{ip} {field}", label(way[0], "unjudged"))
            unjudged += [f"{isolated} {rule}" for rule in (*logged, "drop")]
    chains["allowed"] = ("", [f"ct mark set ct mark & {_REST:#x} | {mark:#x} accept"])
    chains["unjudged"] = ("", [*unjudged, "accept"])
    chains["replies"] = ("", [*asked[REPLIES], "goto allowed"])
    chains["groups"] = ("", [*groups, "meta mark set 0"])
    chains["forwarded"] = (
        f"{{ type filter hook forward priority {PRIORITY}; policy accept; }}",
        [
            # No connection of a marked packet is: see `allowed`, and `groups.py`.
            f"ct mark & {_MASK:#x} == {mark:#x} accept",
            f"{MARKED} jump groups",
            f'iifname != "{setting.bridge}" oifname != "{setting.bridge}" accept',
            f"icmpv6 type {{ {_NEIGHBOURS} }} accept",
            *(f"meta pkttype host {for_all} drop" for for_all in _FOR_ALL),
            # Nobody has such an address; a reply to it would go to all, as one that was judged.
            *(f"{from_all} drop" for from_all in _FROM_ALL),
            "ct state related meta l4proto { icmp, ipv6-icmp } accept",
            "ct state { invalid, untracked } goto unjudged",
            "ct state new tcp flags & (fin | syn | rst | ack) != syn goto unjudged",
            "ct direction reply goto replies",
            *asked[""],
            # Not `allowed`: each packet to all has to be asked of each who gets it.
            "meta pkttype { broadcast, multicast } accept",
            "goto allowed",
        ],
    )
    told = {name: (hook, signed(rules)) for name, (hook, rules) in chains.items()}
    told["allowed"] = ("", [f'{rule[:-1]} {generation}"' for rule in told["allowed"][1]])
    return told


def comment_of(rule: str) -> str:
    """The digest that a rule made here carries, and the generation in the rule that marks."""
    return rule.rpartition(' comment "')[2].rstrip('"')


def _fixed(name: str, setting: Setting, generation: int) -> list[str]:
    lines = [f"add set {name} {EVERYBODY} {{ type ipv4_addr; }}"]
    for way in WAYS:
        kind = _ADDRESS[way[1]]
        for suffix in ("", REPLIES):
            lines.append(f"add map {name} {way_name(way)}{suffix} {{ type {kind} : verdict; }}")
        lines.append(f"add set {name} {way_name(way)}{DROPS} {{ type {kind}; counter; }}")
        lines.append(f"add set {name} {way_name(way)}{LOGGED} {{ type {kind}; {_LOGGED} }}")
        if way in GROUP_WAYS:
            groups = f"{name} {way_name(way)}{GROUPS}"
            lines.append(f"add map {groups} {{ type mark : verdict; }}")
            lines.append(f"add set {groups}{DROPS} {{ type mark; counter; }}")
            lines.append(f"add set {groups}{LOGGED} {{ type mark; {_LOGGED} }}")
    for chain, (hook, rules) in fixed_chains(setting, generation).items():
        lines += [f"add chain {name} {chain} {hook}".rstrip(), f"flush chain {name} {chain}"]
        lines += [f"add rule {name} {chain} {rule}" for rule in rules]
    return lines


def _log(setting: Setting, name: str, key: str, prefix: str) -> list[str]:
    if setting.log_group is None:
        return []
    limit = f"update @{name}{LOGGED} {{ {key} {LOG_RATE} }}"
    to = f"group {setting.log_group} snaplen {LOG_BYTES}"
    return [f'{limit} log prefix "{prefix}" {to}']


def _match(match: Match, address: str, port: str) -> str:
    parts = []
    if match.named is not None:
        parts.append(f"{address} . meta l4proto . {port} @{match.named}")
    if match.peers is not None:
        parts.append(f"{address} @{match.peers}")
    if match.ports is not None:
        parts.append(f"meta l4proto . {port} @{match.ports}")
    return " ".join([*parts, "counter return"])


def signed(rules: Iterable[str]) -> list[str]:
    return [
        f'{rule} comment "{blake2b(rule.encode(), digest_size=8).hexdigest()}"' for rule in rules
    ]


def _set_type(kind: SetKind, family: Family | None) -> str:
    match kind:
        case "pods":
            assert family is not None
            return f"type {_ADDRESS[family]};"
        case "blocks":
            assert family is not None
            return f"type {_ADDRESS[family]}; flags interval;"
        case "ports":
            return "type inet_proto . inet_service; flags interval;"
        case "named":
            assert family is not None
            return f"type {_ADDRESS[family]} . inet_proto . inet_service;"


def _elements(command: str, content: SetContent, elements: Iterable[Element]) -> list[str]:
    return _listed(command, [_element(content, one) for one in elements])


def _element(content: SetContent, element: Element) -> str:
    match content.kind:
        case "pods":
            return str(element[0])
        case "blocks":
            kind = IPv4Address if content.family == 4 else IPv6Address
            first, last = (kind(int(one)) for one in element)
            return str(first) if first == last else f"{first}-{last}"
        case "ports":
            protocol, first_port, last_port = element
            span = first_port if first_port == last_port else f"{first_port}-{last_port}"
            return f"{protocol} . {span}"
        case "named":
            return " . ".join(str(part) for part in element)


def _verdicts(command: str, name: str, way: Way, verdicts: dict[str, str]) -> list[str]:
    lines = []
    for suffix in ("", REPLIES):
        listed = [f"{address} : jump {chain}{suffix}" for address, chain in verdicts.items()]
        lines += _listed(f"{command} element {name} {way_name(way)}{suffix}", listed)
    return lines


def _listed(command: str, elements: list[str]) -> list[str]:
    return [f"{command} {{ {', '.join(elements)} }}"] if elements else []
