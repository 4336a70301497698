"""Counts of matches become counts of policies, and do not go back when chains are made anew."""

from policy.core.attribution import Attribution
from tests.policy.interpreter import policies_of, tell
from tests.policy.objects import labels, pod, policy
from weavepy.daemon.tallies import BOUNDS_S, Durations, Passed

CLIENT = {"from": [{"podSelector": labels(app="client")}]}
WORLD = [
    pod("a", "10.1.0.1", app="client"),
    pod("b", "10.1.0.2", app="web"),
    policy("p", labels(app="web"), ingress=[CLIENT]),
]


def test_what_matches_counted_is_added_up_over_changes_and_ends_with_its_policy() -> None:
    policies = policies_of(WORLD, lambda _: True)
    passed = Passed()
    (place,) = Attribution().causes(policies)

    def ingress() -> list[int]:
        return [row.ingress for row in passed.rows()]

    passed.handle(policies, {place: 3})
    passed.handle(policies, {place: 5})
    assert ingress() == [5]
    passed.handle(policies, {place: 2})
    assert ingress() == [7]
    passed.handle(policies, {("unjudged", 0): 9})
    passed.handle(policies, {place: 1})
    assert ingress() == [8]
    policies.handle_policy_removed(("x", "p"))
    tell(policies, policy("q", labels(app="web")))
    policies.settle()
    passed.handle(policies, {})
    assert ingress() == []


def test_durations_are_counted_by_their_bounds() -> None:
    durations = Durations()
    for duration_s in (0.001, 0.005, 0.02, 99.0):
        durations.handle(duration_s)
    shown = durations.shown()
    assert shown.counts == [2, 0, 1, *[0] * (len(BOUNDS_S) - 3), 1]
    assert shown.sum_s == 0.001 + 0.005 + 0.02 + 99.0
