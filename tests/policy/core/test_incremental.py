"""However the present came about, it is compiled to the same; and what changed is what is reported.

Random histories of all that can happen to objects. After each event the state that was kept, the
state made from the changes that it reported, and one compiled from scratch must be equal.
"""

from random import Random

import pytest

from policy.core.parsing import parse
from policy.core.policies import Policies
from policy.core.table import Changes, SetContent, Table
from tests.policy.interpreter import policies_of, tell
from tests.policy.model import World
from tests.policy.objects import labels, namespace, pod, policy
from tests.policy.worlds import (
    NAMESPACES,
    random_labels,
    random_namespace,
    random_pod,
    random_policy,
    random_world,
)


def is_local(pod: object) -> bool:
    return getattr(pod, "node", "") in ("one", "here")


def apply(table: Table, changes: Changes) -> None:
    """As the kernel would: each step must make sense where it stands."""
    for name, content in changes.new_sets.items():
        assert name not in table.sets
        table.sets[name] = SetContent(content.kind, content.family, dict(content.elements))
    for name, change in changes.elements.items():
        elements = table.sets[name].elements
        for element in change.removed:
            del elements[element]
        for element in change.added:
            assert element not in elements
            elements[element] = None
    for name, chain in changes.new_chains.items():
        assert name not in table.chains
        assert all(one in table.sets for match in chain.matches for one in match.sets())
        table.chains[name] = chain
    for way, gone in changes.withdrawn.items():
        for address in gone:
            del table.verdicts[way][address]
    for way, given in changes.given.items():
        for address, name in given.items():
            assert address not in table.verdicts[way]
            assert name in table.chains
            table.verdicts[way][address] = name
    used = {name for verdicts in table.verdicts.values() for name in verdicts.values()}
    for name in changes.old_chains:
        assert name not in used
        del table.chains[name]
    referred = {
        one for chain in table.chains.values() for match in chain.matches for one in match.sets()
    }
    for name in changes.old_sets:
        assert name not in referred
        del table.sets[name]


def one_event(rng: Random, world: World, policies: Policies) -> None:
    match rng.randrange(7):
        case 0 if world.pods:
            key = rng.choice(sorted(world.pods))
            del world.pods[key]
            policies.handle_pod_removed(key)
            return
        case 1 if world.policies:
            key = rng.choice(sorted(world.policies))
            del world.policies[key]
            policies.handle_policy_removed(key)
            return
        case 2 if world.namespaces:
            name = rng.choice(sorted(world.namespaces))
            del world.namespaces[name]
            policies.handle_namespace_removed(name)
            return
        case 3 if world.pods:
            before = world.pods[rng.choice(sorted(world.pods))]
            document = before | {
                "metadata": before["metadata"] | {"labels": random_labels(rng)},
            }
        case 4:
            document = random_namespace(rng, rng.choice(NAMESPACES))
        case 5:
            document = random_policy(rng, f"policy-{rng.randrange(6)}")
        case _:
            document = random_pod(rng, rng.randrange(9))
    world.put(document)
    tell(policies, document)


def run(seed: int, events: int) -> None:
    rng = Random(seed)
    world = random_world(rng, policies=4)
    policies = policies_of([], is_local)
    for document in world.documents():
        tell(policies, document)
    followed = Table()
    apply(followed, policies.settle())
    for _ in range(events):
        for _ in range(rng.choice([1, 1, 1, 4])):
            one_event(rng, world, policies)
        apply(followed, policies.settle())
        documents = world.documents()
        rng.shuffle(documents)
        scratch = policies_of(documents, is_local).table
        assert policies.table == scratch
        assert followed == scratch


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.checklist(27)
def test_after_any_history_the_state_is_as_compiled_from_scratch(seed: int) -> None:
    run(seed, events=25)


def test_a_label_change_touches_only_the_sets_of_peers_that_mean_the_pod() -> None:
    rules = [{"from": [{"podSelector": labels(app="client")}]}]
    policies = policies_of(
        [
            pod("web", "10.1.0.1", app="web"),
            pod("other", "10.1.0.2", node="there"),
            policy("p", labels(app="web"), ingress=rules),
            policy("q", labels(app="web"), ingress=[{"from": [{"podSelector": {}}]}]),
        ],
        is_local,
    )
    tell(policies, pod("other", "10.1.0.2", node="there", app="client"))
    changes = policies.settle()
    (only,) = changes.elements.values()
    assert [*only.added] == [("10.1.0.2",)]
    changes.elements.clear()
    assert not changes


def test_a_change_that_is_undone_before_it_was_settled_is_none() -> None:
    web = pod("web", "10.1.0.1", app="web")
    policies = policies_of([web, policy("p", labels(app="web"), ingress=[{}])], is_local)
    policies.handle_policy_removed(("x", "p"))
    policies.handle_pod_removed(("x", "web"))
    tell(policies, policy("p", labels(app="web"), ingress=[{}]))
    tell(policies, web)
    assert not policies.settle()


def test_equal_selectors_share_one_set_and_equal_pods_one_chain() -> None:
    rules = [{"from": [{"podSelector": labels(app="client", team="a")}]}]
    again = {
        "matchLabels": {"team": "a"},
        "matchExpressions": [{"key": "app", "operator": "In", "values": ["client"]}],
    }
    policies = policies_of(
        [
            *(pod(f"web-{n}", f"10.1.0.{n}", app="web") for n in range(1, 9)),
            *(policy(f"p-{n}", labels(app="web"), ingress=rules) for n in range(9)),
            policy("q", labels(app="web"), ingress=[{"from": [{"podSelector": again}]}]),
        ],
        is_local,
    )
    assert len(policies.table.sets) == 1
    assert len(policies.table.chains) == 1
    assert len(policies.table.verdicts["ingress", 4]) == 8


@pytest.mark.checklist(31)
def test_nothing_is_compiled_for_pods_of_other_nodes() -> None:
    policies = policies_of(
        [pod("web", "10.1.0.1", node="there", app="web"), policy("p", ingress=[{}])], is_local
    )
    assert policies.table == Table()


@pytest.mark.checklist(26)
def test_a_pod_that_is_gone_leaves_all_sets_at_once() -> None:
    rules = [{"from": [{"podSelector": {}}], "ports": [{"port": "http"}]}]
    documents = [
        pod("web", "10.1.0.1", ports={"http": 80}),
        pod("client", "10.1.0.2", node="there", ports={"http": 81}),
        policy("p", {}, policyTypes=["Ingress", "Egress"], ingress=rules, egress=[{}]),
        policy("q", {}, policyTypes=["Egress"], egress=[{"ports": [{"port": "http"}]}]),
    ]
    policies = policies_of(documents, is_local)
    tell(policies, pod("client", "10.1.0.2", node="there", phase="Succeeded"))
    policies.settle()
    listed = [one for content in policies.table.sets.values() for one in content.elements]
    assert not any("10.1.0.2" in map(str, element) for element in listed)


@pytest.mark.checklist(27)
def test_a_namespaces_labels_come_and_go_with_it() -> None:
    rules = [{"from": [{"namespaceSelector": labels(team="b")}]}]
    policies = policies_of(
        [pod("web", "10.1.0.1"), pod("y/b", "10.1.0.2"), policy("p", ingress=rules)], is_local
    )
    (peers,) = (one for one in policies.table.sets.values() if one.kind == "pods")
    assert not peers.elements
    tell(policies, namespace("y", team="b"))
    assert [*peers.elements] == [("10.1.0.2",)]
    policies.handle_namespace_removed("y")
    assert not peers.elements


def test_what_is_told_twice_changes_nothing() -> None:
    documents = [pod("web", "10.1.0.1"), policy("p"), namespace("x", team="a")]
    policies = policies_of(documents, is_local)
    for document in documents:
        tell(policies, document)
    assert not policies.settle()


def test_objects_that_are_removed_without_having_come_are_no_matter() -> None:
    policies = policies_of([], is_local)
    policies.handle_pod_removed(("x", "a"))
    policies.handle_policy_removed(("x", "a"))
    policies.handle_namespace_removed("x")
    assert not policies.settle()
    assert parse(pod("a")) not in policies.pods.values()
