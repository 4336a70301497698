"""All objects of a cluster as one node needs them, and what its packet filter should be.

Objects come in any order, each replaces the one of its name, and what comes out depends on the
present objects alone. Every node takes all pods, as any may be a peer; chains are made for
*local* pods only. A change touches what it must: changed pods move between groups (`groups`), and
the chains of local pods are compiled anew whose policies, labels, addresses or ports changed.

`handle_...` notes what happened, `settle` compiles and returns the difference since it was called
last: a burst of events costs one transaction. There are no deadlines in here.

An address belongs to one pod at a time. While two claim it (one of them is news that is late) it
is the younger one's alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from policy.core.compile import Compiled, Compiler
from policy.core.groups import Groups, Member
from policy.core.index import LabelledThings, Selections
from policy.core.objects import (
    DIRECTIONS,
    FAMILIES,
    Address,
    Family,
    Key,
    Namespace,
    Pod,
    PodPeer,
    Policy,
)
from policy.core.table import Changes, RecordedTable, Table, Way


@dataclass(slots=True)
class _Local:
    """What a local pod has in the table."""

    verdicts: dict[tuple[Way, str], str] = field(default_factory=dict)


class Policies:
    def __init__(self, is_local: Callable[[Pod], bool]) -> None:
        self._is_local = is_local
        self.namespaces: dict[str, Namespace] = {}
        self.pods: dict[Key, Pod] = {}
        self.policies: dict[Key, Policy] = {}
        self._recorded = RecordedTable()
        self._groups = Groups(self._recorded)
        self._compiler = Compiler()
        self._claims: dict[Address, dict[Key, None]] = {}
        self._population: dict[str, int] = {}
        self._locals: dict[Key, _Local] = {}
        self._locals_by_labels: LabelledThings[Key] = LabelledThings()
        self._selections: Selections[Key] = Selections()
        self._dirty: dict[Key, None] = {}
        self._chain_uses: dict[str, int] = {}
        self._owners: dict[tuple[Way, str], Key] = {}

    @property
    def table(self) -> Table:
        """As of the last `settle`."""
        return self._recorded.table

    # --- events ----------------------------------------------------------------------------------

    def handle_namespace(self, namespace: Namespace) -> None:
        self.namespaces[namespace.name] = namespace
        self._groups.set_namespace(namespace.name, namespace.all_labels())

    def handle_namespace_removed(self, name: str) -> None:
        """Its pods and policies are objects of their own, and go by themselves."""
        if self.namespaces.pop(name, None) is None:
            return
        if name in self._population:
            self._groups.set_namespace(name, Namespace(name).all_labels())
        else:
            self._groups.remove_namespace(name)

    def handle_pod(self, pod: Pod) -> None:
        if self.pods.get(pod.key) == pod:
            return
        self._replace_pod(pod.key, pod)

    def handle_pod_removed(self, key: Key) -> None:
        if key in self.pods:
            self._replace_pod(key, None)

    def handle_policy(self, policy: Policy) -> None:
        if self.policies.get(policy.key) == policy:
            return
        self.handle_policy_removed(policy.key)
        self.policies[policy.key] = policy
        self._selections.add(policy.namespace, policy.selector, policy.key)
        self._touch_selected(policy)

    def handle_policy_removed(self, key: Key) -> None:
        policy = self.policies.pop(key, None)
        if policy is not None:
            self._selections.remove(policy.namespace, policy.selector, key)
            self._touch_selected(policy)

    def settle(self) -> Changes:
        """Compile what is due. Returns what has to change in the packet filter, maybe nothing."""
        dirty, self._dirty = self._dirty, {}
        for key in dirty:
            self._compile(key)
        return self._recorded.take_changes()

    # --- questions -------------------------------------------------------------------------------

    def local_pods(self) -> list[Pod]:
        """Those that chains are made for, in order; there may be many more elsewhere."""
        return [self.pods[key] for key in sorted(self._locals)]

    def selecting(self, pod: Pod) -> Iterator[Policy]:
        """The policies that select this pod, in the order in which they came."""
        if not pod.participates or pod.unknown:
            return
        for key in self._selections.candidates(pod.namespace, pod.labels):
            policy = self.policies[key]
            if policy.selector.matches(pod.labels):
                yield policy

    def means(self, peer: PodPeer, pod: Pod) -> bool:
        """Whether this pod is one of those that the peer selects."""
        if not pod.participates or pod.unknown or not peer.pods.matches(pod.labels):
            return False
        if isinstance(peer.namespaces, str):
            return pod.namespace == peer.namespaces
        namespace = self.namespaces.get(pod.namespace, Namespace(pod.namespace))
        return peer.namespaces.matches(namespace.all_labels())

    def owner(self, address: Address) -> Pod | None:
        """The pod that has this address now."""
        claimants = [self.pods[key] for key in self._claims.get(address, ())]
        return max(claimants, key=lambda pod: (pod.created, pod.key), default=None)

    # --- pods ------------------------------------------------------------------------------------

    def _replace_pod(self, key: Key, pod: Pod | None) -> None:
        before = self.pods.pop(key, None)
        addresses: dict[Address, None] = {}
        if before is not None and before.participates:
            addresses.update(dict.fromkeys(before.addresses))
            for address in before.addresses:
                self._unclaim(address, key)
        if pod is not None:
            self.pods[key] = pod
            if pod.participates:
                addresses.update(dict.fromkeys(pod.addresses))
                for address in pod.addresses:
                    self._claims.setdefault(address, {})[key] = None
        self._count(key[0], (pod is not None) - (before is not None))
        affected = {key: None}
        for address in addresses:
            affected.update(self._claims.get(address, {}))
        for one in affected:
            self._groups.remove(one)
        for one in affected:
            self._place(one, before if one == key else self.pods[one])

    def _place(self, key: Key, before: Pod | None) -> None:
        """Into groups, and among the local ones, as it is now."""
        pod = self.pods.get(key)
        if key in self._locals:
            assert before is not None
            self._locals_by_labels.remove(before.namespace, before.labels, key)
        if pod is None or not pod.participates:
            if key in self._locals:
                self._withdraw(key)
            return
        addresses = self._addresses(pod)
        if any(addresses.values()) and not pod.unknown:
            self._groups.put(key, Member(pod.namespace, pod.labels, addresses, pod.ports))
        if self._is_local(pod):
            self._locals.setdefault(key, _Local())
            self._locals_by_labels.add(pod.namespace, pod.labels, key)
            self._dirty[key] = None
        elif key in self._locals:
            self._withdraw(key)

    def _addresses(self, pod: Pod) -> dict[Family, tuple[str, ...]]:
        own = [one for one in pod.addresses if self.owner(one) == pod]
        return {
            family: tuple(str(one) for one in own if one.version == family) for family in FAMILIES
        }

    def _unclaim(self, address: Address, key: Key) -> None:
        claimants = self._claims[address]
        claimants.pop(key, None)
        if not claimants:
            del self._claims[address]

    def _count(self, namespace: str, difference: int) -> None:
        """A namespace that nobody has described yet is there because of its pods."""
        before = self._population.pop(namespace, 0)
        now = before + difference
        if now:
            self._population[namespace] = now
        if namespace in self.namespaces:
            return
        if now and not before:
            self._groups.set_namespace(namespace, Namespace(namespace).all_labels())
        elif before and not now:
            self._groups.remove_namespace(namespace)

    # --- chains ----------------------------------------------------------------------------------

    def _touch_selected(self, policy: Policy) -> None:
        for key in self._locals_by_labels.candidates(policy.namespace, policy.selector):
            if policy.selector.matches(self.pods[key].labels):
                self._dirty[key] = None

    def _compile(self, key: Key) -> None:
        local = self._locals.get(key)
        if local is None:
            return
        pod = self.pods[key]
        addresses = self._addresses(pod)
        policies = list(self.selecting(pod))
        wanted: dict[tuple[Way, str], Compiled] = {}
        for direction in DIRECTIONS:
            isolating = [policy for policy in policies if direction in policy.rules]
            if not isolating and not pod.unknown:
                continue
            rules = [rule for policy in isolating for rule in policy.rules[direction]]
            for family in FAMILIES:
                if addresses[family]:
                    compiled = self._compiler.chain(rules, pod.ports, direction, family)
                    for address in addresses[family]:
                        wanted[(direction, family), address] = compiled
        before, local.verdicts = local.verdicts, {}
        for (way, address), compiled in wanted.items():
            self._acquire(compiled)
            local.verdicts[way, address] = compiled.name
            self._owners[way, address] = key
            self._recorded.set_verdict(way, address, compiled.name)
        for (way, address), chain in before.items():
            self._revoke(key, way, address, still=(way, address) in wanted)
            self._release(chain)

    def _withdraw(self, key: Key) -> None:
        local = self._locals.pop(key)
        for (way, address), chain in local.verdicts.items():
            self._revoke(key, way, address, still=False)
            self._release(chain)

    def _revoke(self, key: Key, way: Way, address: str, still: bool) -> None:
        """Unless the address has gone to another pod, which has said so before us."""
        if not still and self._owners.get((way, address)) == key:
            del self._owners[way, address]
            self._recorded.set_verdict(way, address, None)

    def _acquire(self, compiled: Compiled) -> None:
        uses = self._chain_uses.get(compiled.name, 0)
        self._chain_uses[compiled.name] = uses + 1
        if not uses:
            for name, source in compiled.sources.items():
                self._groups.acquire(name, source)
            self._recorded.add_chain(compiled.name, compiled.chain)

    def _release(self, name: str) -> None:
        self._chain_uses[name] -= 1
        if self._chain_uses[name]:
            return
        del self._chain_uses[name]
        sets = {one: None for match in self.table.chains[name].matches for one in match.sets()}
        self._recorded.remove_chain(name)
        for one in sets:
            source = self._groups.release(one)
            if source is not None:
                self._compiler.forget(source)
