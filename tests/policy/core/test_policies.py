"""Events one at a time: what each changes in what is compiled."""

from policy.core.parsing import parse_pod
from policy.core.policies import Policies
from tests.policy.interpreter import policies_of, tell
from tests.policy.model import Document
from tests.policy.objects import labels, namespace, pod, policy

A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"
FROM_CLIENTS = [{"from": [{"podSelector": labels(app="client")}]}]
FROM_B = [{"from": [{"namespaceSelector": labels(team="b")}]}]


def is_here(pod: object) -> bool:
    return getattr(pod, "node", "") == "here"


def settled(policies: Policies, *documents: Document) -> Policies:
    for document in documents:
        tell(policies, document)
    policies.settle()
    return policies


def isolated(policies: Policies) -> set[str]:
    return {*policies.table.verdicts["ingress", 4]}


def peers(policies: Policies) -> set[str]:
    sets = policies.table.sets.values()
    return {str(one) for content in sets if content.kind == "pods" for (one,) in content.elements}


def test_a_policy_that_goes_opens_what_it_isolated() -> None:
    policies = policies_of([pod("web", A), policy("p", ingress=FROM_CLIENTS)], is_here)
    assert isolated(policies) == {A}
    policies.handle_policy_removed(("x", "p"))
    policies.settle()
    assert isolated(policies) == set()
    assert not policies.table.sets


def test_a_policy_that_changes_what_it_selects_lets_go_of_what_it_did() -> None:
    pods = [pod("web", A, app="web"), pod("db", B, app="db")]
    policies = policies_of([*pods, policy("p", labels(app="web"))], is_here)
    settled(policies, policy("p", labels(app="db")))
    assert isolated(policies) == {B}
    policies.handle_policy_removed(("x", "p"))
    settled(policies, pod("web", A, app="web", more="labels"))
    assert isolated(policies) == set()


def test_a_pod_that_moves_to_another_node_is_isolated_here_no_more() -> None:
    policies = policies_of([pod("web", A), policy("p")], is_here)
    settled(policies, pod("web", A, node="there"))
    assert isolated(policies) == set()
    settled(policies, pod("web", A))
    assert isolated(policies) == {A}


def test_a_pod_that_changes_its_labels_here_is_compiled_anew() -> None:
    policies = policies_of([pod("web", A, app="web"), policy("p", labels(app="web"))], is_here)
    settled(policies, pod("web", A, app="db"))
    assert isolated(policies) == set()


def test_an_address_goes_back_to_who_claimed_it_before() -> None:
    old = pod("old", A, app="client", created="2026-01-01T00:00:00Z", node="there")
    new = pod("new", A, app="other", created="2026-01-02T00:00:00Z", node="there")
    policies = policies_of([pod("web", B), old, new, policy("p", ingress=FROM_CLIENTS)], is_here)
    assert peers(policies) == set()
    settled(policies, new | {"status": {"podIP": C}})
    assert peers(policies) == {A}


def test_pods_stay_in_a_namespace_whose_object_is_gone() -> None:
    by_name = [{"from": [{"namespaceSelector": labels(**{"kubernetes.io/metadata.name": "y"})}]}]
    documents = [pod("web", A), namespace("y", team="b"), pod("y/client", B)]
    policies = policies_of([*documents, policy("p", ingress=by_name)], is_here)
    assert peers(policies) == {B}
    policies.handle_namespace_removed("y")
    policies.settle()
    assert peers(policies) == {B}


def test_a_namespace_comes_back_with_other_labels_after_its_pods_went() -> None:
    documents = [pod("web", A), namespace("y", team="b"), policy("p", ingress=FROM_B)]
    policies = policies_of([*documents, pod("y/client", B)], is_here)
    assert peers(policies) == {B}
    policies.handle_pod_removed(("y", "client"))
    policies.handle_namespace_removed("y")
    settled(policies, pod("y/client", B))
    assert peers(policies) == set()
    settled(policies, namespace("y", team="b"))
    assert peers(policies) == {B}


def test_nothing_of_a_group_is_left_when_its_namespace_and_its_policy_went() -> None:
    documents = [pod("web", A), namespace("y", team="b"), policy("p", ingress=FROM_B)]
    policies = policies_of(documents, is_here)
    policies.handle_namespace_removed("y")
    policies.handle_policy_removed(("x", "p"))
    settled(policies, namespace("y", team="b"), pod("y/client", B))
    assert not policies.table.sets
    settled(policies, policy("p", ingress=FROM_B))
    assert peers(policies) == {B}


def test_pods_that_take_no_part_are_selected_by_nobody() -> None:
    policies = policies_of([policy("p")], is_here)
    for document in (pod("web", A, phase="Failed"), pod("web", A, host_network=True)):
        assert not [*policies.selecting(parse_pod(document))]
    assert [one.name for one in policies.selecting(parse_pod(pod("web", A)))] == ["p"]
