"""Which pods there are where no Kubernetes says so: attachments, here and elsewhere, and objects.

Every attachment is a pod: of the namespace `default`, named like its network namespace, without
labels, unless `attach` was told otherwise. What other hosts attached carries their nickname
(`web@host2`), so that hosts need not agree on names. A Pod that an operator applied by hand stands
for the address it lists: an attachment of which nothing was said is that pod then.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, zip_longest

from policy.core.objects import Address, Key, Pod

_Place = tuple[int, str, str, int]
"""Of a source: which kind, and what distinguishes it among these. Later ones go before earlier."""
_APPLIED, _HERE, _ELSEWHERE = range(3)

DEFAULT_NAMESPACE = "default"
RUNTIME = "cni:"
"""What owners begin with that a container runtime attached."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What `attach` was told that an attachment is."""

    namespace: str = DEFAULT_NAMESPACE
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attached:
    owner: str
    addresses: tuple[Address, ...]
    identity: Identity | None = None


class Roster:
    """All pods; those whose node is `here` have their address on this host.

    What an attachment or an applied Pod is depends on others with the same addresses, and on
    nobody else. So a change is felt where its addresses are, however many pods there are.
    """

    def __init__(self, here: str) -> None:
        self._here = here
        self._sources: dict[_Place, Pod | Attached] = {}
        self._at: dict[Address, dict[_Place, None]] = {}
        self._pods: dict[Key, dict[_Place, Pod]] = {}
        """What each source is; of several with one key the last place counts."""
        self._keys: dict[_Place, Key] = {}
        self._changed: dict[Key, None] = {}
        self._attached: dict[str, tuple[_Place, Attached | None]] = {}
        self._arrivals = count()
        self._elsewhere: dict[str, Sequence[Attached]] = {}

    # --- events ----------------------------------------------------------------------------------

    def handle_applied(self, pod: Pod) -> None:
        self._put((_APPLIED, *pod.key, 0), pod)

    def handle_withdrawn(self, key: Key) -> None:
        self._put((_APPLIED, *key, 0), None)

    def follow_attached(self, attached: Mapping[str, Attached]) -> None:
        """What is attached here now, by owner, in the order in which it came."""
        for owner in [owner for owner in self._attached if owner not in attached]:
            place, _ = self._attached.pop(owner)
            self._put(place, None)
        for owner, one in attached.items():
            if owner not in self._attached:
                self._attached[owner] = (_HERE, "", "", next(self._arrivals)), None
            place, before = self._attached[owner]
            if one is not before:
                self._attached[owner] = place, one
                self._put(place, one)

    def follow_elsewhere(self, elsewhere: Mapping[str, Sequence[Attached]]) -> None:
        """What other hosts have attached, by their nickname."""
        for nickname in sorted({**self._elsewhere, **elsewhere}):
            before, now = self._elsewhere.get(nickname, ()), elsewhere.get(nickname, ())
            if now is not before:
                for number, one in zip_longest(range(max(len(before), len(now))), now):
                    self._put((_ELSEWHERE, nickname, "", number), one)
        self._elsewhere = {**elsewhere}

    def take_changed(self) -> dict[Key, Pod | None]:
        """What may be another pod now than when this was asked last; None is gone."""
        changed, self._changed = self._changed, {}
        return {key: self.pod(key) for key in changed}

    def pod(self, key: Key) -> Pod | None:
        claims = self._pods.get(key)
        return claims[max(claims)] if claims else None

    # ---------------------------------------------------------------------------------------------

    def _put(self, place: _Place, source: Pod | Attached | None) -> None:
        before = self._sources.pop(place, None)
        old, new = (one.addresses if one is not None else () for one in (before, source))
        for address in old:
            self._at[address].pop(place, None)
        if source is not None:
            self._sources[place] = source
        for address in new:
            self._at.setdefault(address, {})[place] = None
        touched = {place: None}
        for address in dict.fromkeys((*old, *new)):  # a peer may list one twice
            touched.update(self._at[address])
            if not self._at[address]:
                del self._at[address]
        for each in touched:
            self._settle(each)

    def _settle(self, place: _Place) -> None:
        """Make of a source the pod that it is now."""
        source = self._sources.get(place)
        pod = None if source is None else self._made_of(place, source)
        key = self._keys.pop(place, None)
        if key is not None:
            del self._pods[key][place]
            if not self._pods[key]:
                del self._pods[key]
            self._changed[key] = None
        if pod is not None:
            self._keys[place] = pod.key
            self._pods.setdefault(pod.key, {})[place] = pod
            self._changed[pod.key] = None

    def _made_of(self, place: _Place, source: Pod | Attached) -> Pod | None:
        if isinstance(source, Pod):
            is_here = any(self._is_claimed(one, _HERE) for one in source.addresses)
            return replace(source, node=self._here if is_here else "")
        kind, nickname, *_ = place
        if kind == _ELSEWHERE:
            # What is here cannot be there, whatever an old entry says.
            away = tuple(one for one in source.addresses if not self._is_claimed(one, _HERE))
            source = replace(source, addresses=away)
        if source.identity is None and any(
            self._is_claimed(one, _APPLIED) for one in source.addresses
        ):
            return None
        return pod_of(source, nickname, self._here)

    def _is_claimed(self, address: Address, kind: int) -> bool:
        return any(place[0] == kind for place in self._at.get(address, ()))


@lru_cache(maxsize=65_536)
def plain_name(owner: str) -> str:
    """What an attachment is called as a pod: the last part of its path, or its container's id.

    What a container runtime attached ("cni:NETWORK/CONTAINER/INTERFACE") is a pod per interface.
    """
    last = owner.rpartition("/")[2]
    if owner.startswith(RUNTIME):
        last = "-".join(owner.split("/")[1:])
    return re.sub(r"[^a-z0-9.-]", "-", last.lower()).strip("-.") or "unnamed"


def pod_of(one: Attached, nickname: str, here: str) -> Pod:
    identity = one.identity or Identity()
    name = identity.name or plain_name(one.owner)
    return Pod(
        identity.namespace,
        f"{name}@{nickname}" if nickname else name,
        identity.labels,
        one.addresses,
        node="" if nickname else here,
        created="attached" if one.identity is not None else "",
    )
