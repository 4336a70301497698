"""Which policies a match of a chain comes from: what is counted by the match is counted for them.

A chain is made of what all policies of a pod allow together, and serves all pods for which the same
comes out. So a match comes from each policy that names its peer, of any of these pods. What a
match for everybody takes in is not looked for by narrower ones, and does not count for their
policies.
"""

from dataclasses import dataclass

from policy.core.compile import Compiler
from policy.core.objects import DIRECTIONS, FAMILIES, Direction, Key, NamedPort, Pod, Policy
from policy.core.policies import Policies
from policy.core.table import Match, Way

Cause = tuple[Key, Direction]
Place = tuple[str, int]
"""A chain and the number of a match in it."""


@dataclass(frozen=True, slots=True)
class _Named:
    """What one policy has in a chain by itself, besides the ports."""

    policy: Policy
    peers: frozenset[str | None]


class Attribution:
    """Remembers what each policy names, as long as it stays as it is."""

    def __init__(self) -> None:
        self._named: dict[tuple[Key, Way, tuple[NamedPort, ...]], _Named] = {}

    def causes(self, policies: Policies) -> dict[Place, dict[Cause, None]]:
        """As of the last `settle`, for what local pods have."""
        found: dict[Place, dict[Cause, None]] = {}
        used: dict[tuple[Key, Way, tuple[NamedPort, ...]], _Named] = {}
        seen: set[tuple[str, Key, tuple[NamedPort, ...]]] = set()
        table = policies.table
        for pod in policies.local_pods():
            selecting: list[Policy] | None = None
            for way in [(one, other) for one in DIRECTIONS for other in FAMILIES]:
                for name in _chains(policies, pod, way):
                    if selecting is None:
                        selecting = [*policies.selecting(pod)]
                    ports = pod.ports if way[0] == "ingress" else ()
                    for policy in selecting:
                        if way[0] not in policy.rules or (name, policy.key, ports) in seen:
                            continue
                        seen.add((name, policy.key, ports))
                        named = self._what(policy, way, ports)
                        used[policy.key, way, ports] = named
                        for number, match in enumerate(table.chains[name].matches):
                            if _peer(match) in named.peers:
                                found.setdefault((name, number), {})[policy.key, way[0]] = None
        self._named = used
        return found

    def _what(self, policy: Policy, way: Way, ports: tuple[NamedPort, ...]) -> _Named:
        known = self._named.get((policy.key, way, ports))
        if known is not None and known.policy is policy:
            return known
        direction, family = way
        alone = Compiler().chain(policy.rules[direction], ports, direction, family)
        return _Named(policy, frozenset(_peer(match) for match in alone.chain.matches))


def _chains(policies: Policies, pod: Pod, way: Way) -> list[str]:
    verdicts = policies.table.verdicts[way]
    found = (verdicts.get(str(one)) for one in pod.addresses if one.version == way[1])
    return [name for name in found if name is not None]


def _peer(match: Match) -> str | None:
    return match.named if match.named is not None else match.peers
