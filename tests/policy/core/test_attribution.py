"""What a match counts is counted for the policies that name its peer."""

from policy.core.attribution import Attribution
from tests.policy.interpreter import policies_of
from tests.policy.model import Document
from tests.policy.objects import OPEN, labels, pod, policy

A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"
PODS = [pod("a", A, app="client"), pod("b", B, app="web"), pod("c", C, app="db")]
CLIENT = {"from": [{"podSelector": labels(app="client")}]}
BLOCK = {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}


def causes(*documents: Document) -> list[list[str]]:
    """Of each match of each chain, by chain and number."""
    policies = policies_of([*PODS, *documents], lambda pod: True)
    found = Attribution().causes(policies)
    matches = {
        (name, number)
        for name, chain in policies.table.chains.items()
        for number, _ in enumerate(chain.matches)
    }
    assert found.keys() == matches
    return sorted(
        sorted(f"{key[1]} {direction}" for key, direction in one) for one in found.values()
    )


def test_each_match_comes_from_the_policies_that_name_its_peer() -> None:
    assert causes(
        policy("one", labels(app="web"), ingress=[CLIENT | {"ports": [{"port": 80}]}]),
        policy("two", labels(app="web"), ingress=[CLIENT | {"ports": [{"port": 81}]}, BLOCK]),
        policy("three", labels(app="web"), ingress=[BLOCK]),
    ) == [["one ingress", "two ingress"], ["three ingress", "two ingress"]]


def test_pods_that_share_a_chain_count_for_the_policies_of_all_of_them() -> None:
    assert causes(
        policy("web", labels(app="web"), ingress=[CLIENT]),
        policy("db", labels(app="db"), ingress=[CLIENT]),
    ) == [["db ingress", "web ingress"]]


def test_what_lets_everybody_in_counts_alone() -> None:
    assert causes(
        policy("all", labels(app="web"), ingress=OPEN),
        policy("some", labels(app="web"), ingress=[CLIENT]),
    ) == [["all ingress"]]


def test_directions_and_names_of_ports_are_told_apart() -> None:
    assert causes(
        policy("in", labels(app="web"), ingress=[{"ports": [{"port": "http"}]} | CLIENT, CLIENT]),
        policy(
            "out",
            labels(app="web"),
            policyTypes=["Egress"],
            egress=[{"ports": [{"port": "http"}]}, {"ports": [{"port": 53}]}],
        ),
    ) == [["in ingress"], ["out egress"], ["out egress"]]


def test_a_policy_that_was_replaced_is_read_anew() -> None:
    attribution = Attribution()
    policies = policies_of(
        [*PODS, policy("p", labels(app="web"), ingress=[CLIENT])], lambda _: True
    )
    assert len(attribution.causes(policies)) == 1
    again = policies_of(
        [*PODS, policy("p", labels(app="web"), ingress=[CLIENT, BLOCK])], lambda _: True
    )
    assert len(attribution.causes(again)) == 2
