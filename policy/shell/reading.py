"""Back from the kernel: the table as nft lists it, as a value to compare with.

Chains are known by their names, which are digests of what they hold, and rules by their comments,
which are digests of their text. So only sets and verdicts have to be understood; what else is not
word for word as it was made here (`Foreign`) is a reason to make the whole table anew.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from policy.core.objects import FAMILIES, Family
from policy.core.table import WAYS, Chain, Element, SetContent, SetKind, Table
from policy.shell.script import (
    DROPS,
    EVERYBODY,
    GROUP_WAYS,
    GROUPS,
    LOGGED,
    REPLIES,
    Setting,
    chain_rules,
    comment_of,
    fixed_chains,
    way_name,
)

KINDS: dict[str, tuple[SetKind, Family | None]] = {
    "ports": ("ports", None),
    **{f"pods{family}": ("pods", family) for family in FAMILIES},
    **{f"blocks{family}": ("blocks", family) for family in FAMILIES},
    **{f"named{family}": ("named", family) for family in FAMILIES},
}


class Foreign(Exception):
    """Somebody else has had a hand in this."""


@dataclass(slots=True)
class _Listed:
    elements: dict[str, list[Any]] = field(default_factory=dict)
    """Of sets and maps, by name."""
    comments: dict[str, list[str]] = field(default_factory=dict)
    """Of the rules of each chain, in order."""
    hooks: dict[str, tuple[str, str]] = field(default_factory=dict)


def understood(
    objects: Iterable[dict[str, Any]], setting: Setting, wanted: Table
) -> tuple[Table, int]:
    """The table and its generation. Raises `Foreign`.

    Chains that are wanted are compared rule by rule; of others only the name is kept.
    """
    objects = [*objects]
    _check_awake(objects)
    listed = _listed(objects)
    if not listed.comments:
        raise Foreign("there is nothing in it")
    try:
        generation = int(listed.comments["allowed"][0].split()[1])
        fixed = {
            name: [comment_of(rule) for rule in rules]
            for name, (_, rules) in fixed_chains(setting, generation).items()
        }
        if any(listed.comments[name] != comments for name, comments in fixed.items()):
            raise Foreign("fixed rules")
        if listed.hooks != {"forwarded": ("forward", "accept")}:
            raise Foreign("hooks")
        table = Table(_sets(listed), _chains(listed, fixed, wanted), _verdicts(listed))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise Foreign(repr(error)) from error
    return table, generation


@dataclass(frozen=True, slots=True)
class Counts:
    drops: dict[tuple[str, str], int]
    """Packets that went no further, by direction and address of the isolated pod."""
    passed: dict[tuple[str, int], int]
    """Connections by chain and number of the match that let them through."""
    rules: int


def counts(objects: Iterable[dict[str, Any]]) -> Counts:
    objects = [*objects]
    listed = _listed(objects)
    dropped: Counter[tuple[str, str]] = Counter()
    for way in WAYS:
        for name in (way_name(way) + DROPS, way_name(way) + GROUPS + DROPS):
            for element in listed.elements.get(name, ()):
                if isinstance(element, dict) and "counter" in element.get("elem", {}):
                    one = element["elem"]
                    dropped[way[0], one.get("comment", one["val"])] += one["counter"]["packets"]
    passed: Counter[tuple[str, int]] = Counter()
    seen: Counter[str] = Counter()
    rules = [entry["rule"] for entry in objects if "rule" in entry]
    for rule in rules:
        number = seen[rule["chain"]]
        seen[rule["chain"]] += 1
        for part in rule["expr"]:
            if isinstance(part, dict) and isinstance(part.get("counter"), dict):
                passed[rule["chain"].removesuffix(REPLIES), number] += part["counter"]["packets"]
    return Counts(dict(dropped), dict(passed), len(rules))


def _check_awake(objects: Iterable[dict[str, Any]]) -> None:
    for entry in objects:
        flags = entry.get("table", {}).get("flags")
        if flags and not (isinstance(flags, list) and "owner" in flags):
            # A single flag is not always told right (nft 1.0.6), and might be "dormant".
            raise Foreign("a table that may sleep")


def _listed(objects: Iterable[dict[str, Any]]) -> _Listed:
    listed = _Listed()
    for entry in objects:
        for kind in ("set", "map"):
            if kind in entry:
                listed.elements[entry[kind]["name"]] = entry[kind].get("elem", [])
        if "chain" in entry:
            chain = entry["chain"]
            listed.comments[chain["name"]] = []
            if "hook" in chain:
                listed.hooks[chain["name"]] = chain["hook"], chain["policy"]
        if "rule" in entry:
            rule = entry["rule"]
            listed.comments[rule["chain"]].append(rule.get("comment", ""))
    return listed


def _chains(listed: _Listed, fixed: dict[str, list[str]], wanted: Table) -> dict[str, Chain]:
    found = {}
    for name in listed.comments:
        if name in fixed or name.endswith(REPLIES):
            continue
        chain = wanted.chains.get(name)
        if chain is None:
            found[name] = Chain("ingress", 4, ())
            continue
        for real_name, rules in chain_rules(name, chain).items():
            if listed.comments[real_name] != [comment_of(rule) for rule in rules]:
                raise Foreign(f"chain {real_name}")
        found[name] = chain
    return found


def _sets(listed: _Listed) -> dict[str, SetContent]:
    found = {}
    fixed = [way_name(way) + suffix for way in WAYS for suffix in ("", REPLIES, DROPS, LOGGED)]
    fixed += [EVERYBODY]
    fixed += [
        way_name(way) + GROUPS + suffix for way in GROUP_WAYS for suffix in ("", DROPS, LOGGED)
    ]
    for name, elements in listed.elements.items():
        if name not in fixed:
            kind, family = KINDS[name.partition("_")[0]]
            found[name] = SetContent(kind, family, {_element(kind, one): None for one in elements})
    return found


def _element(kind: SetKind, element: Any) -> Element:
    match kind:
        case "pods":
            return (_address(element),)
        case "blocks":
            return _span(element)
        case "ports":
            protocol, port = element["concat"]
            return protocol, *_span(port)
        case "named":
            address, protocol, port = element["concat"]
            return _address(address), protocol, port


def _span(value: Any) -> tuple[int, int]:
    if isinstance(value, dict) and "range" in value:
        first, last = value["range"]
        return _span(first)[0], _span(last)[0]
    if isinstance(value, dict):
        prefix = value["prefix"]
        network = ip_network((prefix["addr"], prefix["len"]))
        return int(network.network_address), int(network.broadcast_address)
    number = value if isinstance(value, int) else int(ip_address(value))
    return number, number


def _verdicts(listed: _Listed) -> dict[tuple[Any, Any], dict[str, str]]:
    """The two maps of a way and its counters must say the same."""
    found = {}
    for way in WAYS:
        name = way_name(way)
        there, back = (
            {
                _address(address): verdict["jump"]["target"].removesuffix(suffix)
                for address, verdict in listed.elements[name + suffix]
            }
            for suffix in ("", REPLIES)
        )
        counted = {_address(element) for element in listed.elements[name + DROPS]}
        if there != back or counted != there.keys():
            raise Foreign(f"verdicts of {name}")
        found[way] = there
    return found


def _address(value: Any) -> str:
    if isinstance(value, dict):
        value = value["elem"]["val"]
    return str(ip_address(value))
