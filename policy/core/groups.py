"""Who is in which set: the pods that each peer in use means, kept as pods and namespaces change.

A group is one distinct peer selector, however many policies use it, and holds the pods that it
means. The sets of the table that are made of it follow: addresses, and addresses with the number
that a port's name has there. Groups exist only while a chain of a local pod uses one of their sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from policy.core import ranges
from policy.core.compile import BlockSet, NamedSet, PodSet, PortSet, SetSource
from policy.core.index import LabelledThings, Selections
from policy.core.objects import Family, Key, NamedPort, PodPeer
from policy.core.selectors import Selector
from policy.core.table import Element, RecordedTable, SetContent, SetKind


@dataclass(frozen=True, slots=True)
class Member:
    """What of a pod goes into sets; a pod in no namespace, or without address, is none."""

    namespace: str
    labels: Mapping[str, str]
    addresses: Mapping[Family, tuple[str, ...]]
    ports: tuple[NamedPort, ...]


@dataclass(slots=True)
class _Group:
    peer: PodPeer
    members: dict[Key, None] = field(default_factory=dict)
    sets: dict[str, PodSet | NamedSet] = field(default_factory=dict)


class Groups:
    def __init__(self, table: RecordedTable) -> None:
        self._table = table
        self._uses: dict[str, int] = {}
        self._sources: dict[str, SetSource] = {}
        self._groups: dict[PodPeer, _Group] = {}
        self._members: dict[Key, Member] = {}
        self._groups_of: dict[Key, list[PodPeer]] = {}
        self._by_labels: LabelledThings[Key] = LabelledThings()
        self._wanted: Selections[PodPeer] = Selections()
        self._namespaces: dict[str, dict[str, str]] = {}
        self._wide: dict[PodPeer, Selector] = {}
        """Groups whose namespaces are selected, with that selector."""

    # --- members ---------------------------------------------------------------------------------

    def put(self, key: Key, member: Member) -> None:
        assert key not in self._members
        self._members[key] = member
        self._by_labels.add(member.namespace, member.labels, key)
        for peer in self._wanted.candidates(member.namespace, member.labels):
            if peer.pods.matches(member.labels):
                self._join(self._groups[peer], key, member)

    def remove(self, key: Key) -> None:
        member = self._members.pop(key, None)
        if member is None:
            return
        self._by_labels.remove(member.namespace, member.labels, key)
        for peer in self._groups_of.pop(key, ()):
            self._leave(self._groups[peer], key, member)

    # --- namespaces ------------------------------------------------------------------------------

    def set_namespace(self, name: str, labels: dict[str, str]) -> None:
        before = self._namespaces.get(name)
        if before == labels:
            return
        self._namespaces[name] = labels
        for peer, selector in self._wide.items():
            was = before is not None and selector.matches(before)
            now = selector.matches(labels)
            if now and not was:
                self._widen(self._groups[peer], name)
            elif was and not now:
                self._narrow(self._groups[peer], name)

    def remove_namespace(self, name: str) -> None:
        labels = self._namespaces.pop(name)
        for peer, selector in self._wide.items():
            if selector.matches(labels):
                self._narrow(self._groups[peer], name)

    # --- sets ------------------------------------------------------------------------------------

    def acquire(self, name: str, source: SetSource) -> None:
        self._uses[name] = self._uses.get(name, 0) + 1
        if self._uses[name] > 1:
            return
        self._sources[name] = source
        match source:
            case PortSet():
                elements = dict.fromkeys(source.elements)
                self._table.add_set(name, SetContent("ports", None, elements))
            case BlockSet():
                spans: dict[Element, None] = dict.fromkeys(source.block.ranges)
                self._table.add_set(name, SetContent("blocks", source.block.family, spans))
            case PodSet() | NamedSet():
                group = self._group(source.peer)
                group.sets[name] = source
                kind: SetKind = "pods" if isinstance(source, PodSet) else "named"
                found: dict[Element, None] = {}
                for key in group.members:
                    found.update(dict.fromkeys(_elements(source, self._members[key])))
                self._table.add_set(name, SetContent(kind, source.family, found))

    def release(self, name: str) -> SetSource | None:
        """What the set was made of, if this was its last use."""
        self._uses[name] -= 1
        if self._uses[name]:
            return None
        del self._uses[name]
        source = self._sources.pop(name)
        self._table.remove_set(name)
        if isinstance(source, PodSet | NamedSet):
            group = self._groups[source.peer]
            del group.sets[name]
            if not group.sets:
                self._dissolve(group)
        return source

    # --- groups ----------------------------------------------------------------------------------

    def _group(self, peer: PodPeer) -> _Group:
        if peer in self._groups:
            return self._groups[peer]
        group = self._groups[peer] = _Group(peer)
        if isinstance(peer.namespaces, str):
            self._widen(group, peer.namespaces)
        else:
            self._wide[peer] = peer.namespaces
            for name, labels in self._namespaces.items():
                if peer.namespaces.matches(labels):
                    self._widen(group, name)
        return group

    def _dissolve(self, group: _Group) -> None:
        peer = group.peer
        if isinstance(peer.namespaces, str):
            self._narrow(group, peer.namespaces)
        else:
            for name, labels in self._namespaces.items():
                if peer.namespaces.matches(labels):
                    self._narrow(group, name)
            del self._wide[peer]
        assert not group.members
        del self._groups[peer]

    def _widen(self, group: _Group, namespace: str) -> None:
        selector = group.peer.pods
        self._wanted.add(namespace, selector, group.peer)
        for key in self._by_labels.candidates(namespace, selector):
            member = self._members[key]
            if selector.matches(member.labels):
                self._join(group, key, member)

    def _narrow(self, group: _Group, namespace: str) -> None:
        self._wanted.remove(namespace, group.peer.pods, group.peer)
        for key in [key for key in group.members if key[0] == namespace]:
            self._leave(group, key, self._members[key])
            self._groups_of[key].remove(group.peer)

    def _join(self, group: _Group, key: Key, member: Member) -> None:
        if key in group.members:
            return
        group.members[key] = None
        self._groups_of.setdefault(key, []).append(group.peer)
        for name, source in group.sets.items():
            for element in _elements(source, member):
                self._table.add_element(name, element)

    def _leave(self, group: _Group, key: Key, member: Member) -> None:
        group.members.pop(key, None)
        for name, source in group.sets.items():
            for element in _elements(source, member):
                self._table.remove_element(name, element)


def _elements(source: PodSet | NamedSet, member: Member) -> list[Element]:
    addresses = member.addresses.get(source.family, ())
    if isinstance(source, PodSet):
        return [(address,) for address in addresses]
    numbers = [
        port.number
        for port in member.ports
        if port.name == source.port.name and port.protocol == source.port.protocol
    ]
    return [
        (address, source.port.protocol, number)
        for address in addresses
        if numbers
        and (
            source.within is None or ranges.contains(source.within.ranges, int(ip_address(address)))
        )
        for number in numbers
    ]
