"""The desired state of the packet filter as a value: sets, chains, and whose packets go where.

    verdicts  (direction, family) -> address of a local, isolated pod -> its chain; an address that
              is in none is open in that direction
    chains    what passes: one of the matches, in both parts; whatever comes to the end is dropped
    sets      addresses, ranges of addresses, protocols with ranges of ports, and addresses with a
              port (which is what a port's name comes to)

A chain and the sets of ranges and ports are named by their content, so equal ones are one, and they
never change; sets of pods are named by what selects the pods, and change as pods do.

`Changes` is the difference of two tables, and what a transaction is made of.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, TypeVar

from policy.core.objects import DIRECTIONS, FAMILIES, Direction, Family

Value = TypeVar("Value")

SetKind = Literal["pods", "blocks", "ports", "named"]
Element = tuple[str | int, ...]
"""pods: (address,). blocks: (first, last), as numbers. ports: (protocol, first, last). named:
(address, protocol, port)."""
Way = tuple[Direction, Family]
WAYS: tuple[Way, ...] = tuple(
    (direction, family) for direction in DIRECTIONS for family in FAMILIES
)


@dataclass(frozen=True, slots=True)
class Match:
    """What passes: the other end's address in one set, the destination's port in the other.

    None matches all. `named` stands for both. Values are names of sets.
    """

    peers: str | None = None
    ports: str | None = None
    named: str | None = None

    def sets(self) -> tuple[str, ...]:
        return tuple(name for name in (self.peers, self.ports, self.named) if name is not None)


@dataclass(frozen=True, slots=True)
class Chain:
    direction: Direction
    family: Family
    matches: tuple[Match, ...]


@dataclass(slots=True)
class SetContent:
    kind: SetKind
    family: Family | None
    elements: dict[Element, None] = field(default_factory=dict)


@dataclass(slots=True)
class Table:
    sets: dict[str, SetContent] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    verdicts: dict[Way, dict[str, str]] = field(default_factory=lambda: {way: {} for way in WAYS})


@dataclass(slots=True)
class ElementChanges:
    kind: SetKind
    family: Family | None
    added: dict[Element, None] = field(default_factory=dict)
    removed: dict[Element, None] = field(default_factory=dict)


@dataclass(slots=True)
class Changes:
    """From one table to another. In this order it is safe: nothing refers to what is not there."""

    new_sets: dict[str, SetContent] = field(default_factory=dict)
    elements: dict[str, ElementChanges] = field(default_factory=dict)
    new_chains: dict[str, Chain] = field(default_factory=dict)
    withdrawn: dict[Way, dict[str, str]] = field(default_factory=dict)
    """Verdicts that go: address to the chain that it had."""
    given: dict[Way, dict[str, str]] = field(default_factory=dict)
    old_chains: dict[str, Chain] = field(default_factory=dict)
    old_sets: dict[str, SetContent] = field(default_factory=dict)

    def __bool__(self) -> bool:
        verdicts = self.withdrawn or self.given
        chains = self.new_chains or self.old_chains
        return bool(verdicts or chains or self.new_sets or self.old_sets or self.elements)

    @property
    def forbids(self) -> bool:
        """Whether a connection that was allowed may not be any more."""
        return bool(self.given or any(one.removed for one in self.elements.values()))


def difference(old: Table, new: Table) -> Changes:
    changes = Changes()
    for name, wanted in new.sets.items():
        present = old.sets.get(name)
        if present is None:
            changes.new_sets[name] = wanted
            continue
        added = {one: None for one in wanted.elements if one not in present.elements}
        removed = {one: None for one in present.elements if one not in wanted.elements}
        if added or removed:
            changes.elements[name] = ElementChanges(wanted.kind, wanted.family, added, removed)
    changes.old_sets = {name: one for name, one in old.sets.items() if name not in new.sets}
    changes.new_chains = {name: one for name, one in new.chains.items() if name not in old.chains}
    changes.old_chains = {name: one for name, one in old.chains.items() if name not in new.chains}
    for way in WAYS:
        present_verdicts, wanted_verdicts = old.verdicts[way], new.verdicts[way]
        gone = {
            address: chain
            for address, chain in present_verdicts.items()
            if wanted_verdicts.get(address) != chain
        }
        come = {
            address: chain
            for address, chain in wanted_verdicts.items()
            if present_verdicts.get(address) != chain
        }
        if gone:
            changes.withdrawn[way] = gone
        if come:
            changes.given[way] = come
    return changes


def content_name(prefix: str, content: object) -> str:
    """The same for equal contents, here and after a restart."""
    return f"{prefix}_{blake2b(repr(content).encode(), digest_size=8).hexdigest()}"


class RecordedTable:
    """A table that is changed in place, and remembers what it was when it was last asked.

    What is recorded is how each touched part was at first, so coming back to it is no change.
    """

    def __init__(self) -> None:
        self.table = Table()
        self._first_sets: dict[str, SetContent | None] = {}
        self._first_chains: dict[str, Chain | None] = {}
        self._first_elements: dict[str, dict[Element, bool]] = {}
        self._first_verdicts: dict[Way, dict[str, str | None]] = {way: {} for way in WAYS}

    def add_set(self, name: str, content: SetContent) -> None:
        assert name not in self.table.sets
        self._first_sets.setdefault(name, None)
        self.table.sets[name] = content

    def remove_set(self, name: str) -> None:
        content = self.table.sets.pop(name)
        first = self._first_elements.pop(name, {})
        if name not in self._first_sets:
            # As it was: a set of this name that comes back is compared with that.
            for element, was_there in first.items():
                if was_there:
                    content.elements[element] = None
                else:
                    content.elements.pop(element, None)
            self._first_sets[name] = content

    def add_element(self, name: str, element: Element) -> None:
        self._touch(name, element)
        self.table.sets[name].elements[element] = None

    def remove_element(self, name: str, element: Element) -> None:
        self._touch(name, element)
        self.table.sets[name].elements.pop(element, None)

    def add_chain(self, name: str, chain: Chain) -> None:
        self._first_chains.setdefault(name, None)
        self.table.chains[name] = chain

    def remove_chain(self, name: str) -> None:
        chain = self.table.chains.pop(name)
        self._first_chains.setdefault(name, chain)

    def set_verdict(self, way: Way, address: str, chain: str | None) -> None:
        verdicts = self.table.verdicts[way]
        self._first_verdicts[way].setdefault(address, verdicts.get(address))
        if chain is None:
            verdicts.pop(address, None)
        else:
            verdicts[address] = chain

    def take_changes(self) -> Changes:
        """Since this was called last."""
        old, new = Table(), Table()
        for name, first in self._first_sets.items():
            _put(old.sets, name, first)
            _put(new.sets, name, self.table.sets.get(name))
        for name, was in self._first_elements.items():
            assert name not in self._first_sets
            now = self.table.sets[name]
            old.sets[name] = SetContent(
                now.kind, now.family, {one: None for one, there in was.items() if there}
            )
            new.sets[name] = SetContent(
                now.kind, now.family, {one: None for one in was if one in now.elements}
            )
        for name, first_chain in self._first_chains.items():
            _put(old.chains, name, first_chain)
            _put(new.chains, name, self.table.chains.get(name))
        for way, firsts in self._first_verdicts.items():
            for address, chain in firsts.items():
                _put(old.verdicts[way], address, chain)
                _put(new.verdicts[way], address, self.table.verdicts[way].get(address))
        self._first_sets, self._first_chains, self._first_elements = {}, {}, {}
        self._first_verdicts = {way: {} for way in WAYS}
        return _detached(difference(old, new))

    def _touch(self, name: str, element: Element) -> None:
        if name not in self._first_sets:
            present = element in self.table.sets[name].elements
            self._first_elements.setdefault(name, {}).setdefault(element, present)


def _put(mapping: dict[str, Value], name: str, value: Value | None) -> None:
    if value is not None:
        mapping[name] = value


def _detached(changes: Changes) -> Changes:
    """New sets as they are now, whatever happens to the table before these are applied."""
    changes.new_sets = {
        name: SetContent(one.kind, one.family, dict(one.elements))
        for name, one in changes.new_sets.items()
    }
    return changes
