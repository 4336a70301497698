"""What is counted about policies besides drops: what passed, and how soon changes are in force."""

from bisect import bisect_left
from collections import Counter

from policy.core.attribution import Attribution, Cause, Place
from policy.core.policies import Policies
from weavepy.client import schema

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Passed:
    """Connections by the policies that let them through.

    The kernel counts by matches, which go when policies change: what was not read before that is
    not counted.
    """

    def __init__(self) -> None:
        self._attribution = Attribution()
        self._last: dict[Place, int] = {}
        self._totals: Counter[Cause] = Counter()

    def handle(self, policies: Policies, counts: dict[Place, int]) -> None:
        causes = self._attribution.causes(policies)
        for place, count in counts.items():
            before = self._last.get(place, 0)
            more = count - before if count >= before else count
            for cause in causes.get(place, ()):
                self._totals[cause] += more
        self._last = counts
        for key, direction in [one for one in self._totals if one[0] not in policies.policies]:
            del self._totals[key, direction]

    def rows(self) -> list[schema.PolicyPassed]:
        return [
            schema.PolicyPassed(
                namespace=key[0],
                name=key[1],
                ingress=self._totals[key, "ingress"],
                egress=self._totals[key, "egress"],
            )
            for key in sorted({key for key, _ in self._totals})
        ]


class Durations:
    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def handle(self, duration_s: float) -> None:
        self._counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self._sum_s += duration_s

    def shown(self) -> schema.Durations:
        return schema.Durations(
            bounds_s=list(BOUNDS_S), counts=list(self._counts), sum_s=self._sum_s
        )
