"""Which pods are isolated, in which direction, and what isolation by itself means."""

import pytest

from tests.policy.judges import Judge
from tests.policy.objects import OPEN, labels, pod, policy

A, B, OUTSIDE = "10.1.0.1", "10.1.0.2", "192.0.2.1"
PODS = [pod("a", A, app="client"), pod("b", B, app="web")]


@pytest.mark.checklist(1)
def test_a_pod_that_no_policy_selects_is_open_in_both_directions(judge: Judge) -> None:
    world = [*PODS, policy("other", labels(app="nobody"), policyTypes=["Ingress", "Egress"])]
    assert judge.lets(world, A, B)
    assert judge.lets(world, B, OUTSIDE)
    assert judge.lets(world, OUTSIDE, B)


@pytest.mark.checklist(2)
def test_an_ingress_policy_does_not_restrict_egress(judge: Judge) -> None:
    world = [*PODS, policy("p", labels(app="web"), policyTypes=["Ingress"])]
    assert not judge.lets(world, A, B)
    assert judge.lets(world, B, A)


@pytest.mark.checklist(2)
def test_an_egress_policy_does_not_restrict_ingress(judge: Judge) -> None:
    world = [*PODS, policy("p", labels(app="web"), policyTypes=["Egress"])]
    assert judge.lets(world, A, B)
    assert not judge.lets(world, B, A)


@pytest.mark.checklist(3)
def test_without_policy_types_ingress_is_always_isolated(judge: Judge) -> None:
    for spec in ({}, {"ingress": None}, {"egress": []}, {"egress": None}, {"policyTypes": []}):
        world = [*PODS, policy("p", labels(app="web"), **spec)]
        assert not judge.lets(world, A, B)
        assert judge.lets(world, B, A)


@pytest.mark.checklist(3)
def test_without_policy_types_egress_is_isolated_only_if_it_has_rules(judge: Judge) -> None:
    rules = [{"to": [{"podSelector": labels(app="nobody")}]}]
    world = [*PODS, policy("p", labels(app="web"), egress=rules)]
    assert not judge.lets(world, B, A)
    assert not judge.lets(world, A, B)


@pytest.mark.checklist(4)
def test_egress_alone_in_policy_types_leaves_ingress_open_whatever_it_lists(judge: Judge) -> None:
    world = [*PODS, policy("p", labels(app="web"), policyTypes=["Egress"], ingress=[])]
    assert judge.lets(world, A, B)


def test_rules_of_a_direction_that_is_not_in_policy_types_mean_nothing(judge: Judge) -> None:
    world = [
        *PODS,
        policy("closed", policyTypes=["Ingress"]),
        policy("p", policyTypes=["Egress"], ingress=OPEN, egress=OPEN),
    ]
    assert not judge.lets(world, A, B)


@pytest.mark.checklist(5)
def test_policies_add_up_in_any_order(judge: Judge) -> None:
    closed = policy("closed", labels(app="web"))
    http = policy("http", labels(app="web"), ingress=[{"ports": [{"port": 80}]}])
    admin = policy("admin", labels(app="web"), ingress=[{"ports": [{"port": 81}]}])
    for order in ([closed, http, admin], [admin, closed, http], [http, admin, closed]):
        world = [*PODS, *order]
        assert judge.lets(world, A, B, 80)
        assert judge.lets(world, A, B, 81)
        assert not judge.lets(world, A, B, 82)


@pytest.mark.checklist(6)
def test_a_connection_needs_the_egress_of_one_and_the_ingress_of_the_other(judge: Judge) -> None:
    closed = [policy("in", labels(app="web")), policy("out", policyTypes=["Egress"])]
    to_web = policy(
        "to-web",
        labels(app="client"),
        policyTypes=["Egress"],
        egress=[{"to": [{"podSelector": labels(app="web")}]}],
    )
    from_client = policy(
        "from-client",
        labels(app="web"),
        ingress=[{"from": [{"podSelector": labels(app="client")}]}],
    )
    assert not judge.lets([*PODS, *closed, to_web], A, B)
    assert not judge.lets([*PODS, *closed, from_client], A, B)
    assert judge.lets([*PODS, *closed, to_web, from_client], A, B)


@pytest.mark.checklist(7)
def test_a_policy_selects_in_its_own_namespace_only(judge: Judge) -> None:
    world = [pod("x/a", A, app="web"), pod("y/b", B, app="web"), policy("x/p", labels(app="web"))]
    assert judge.lets(world, OUTSIDE, B)
    assert not judge.lets(world, OUTSIDE, A)


@pytest.mark.checklist(7)
def test_an_empty_selector_selects_every_pod_there_later_ones_too(judge: Judge) -> None:
    closed = policy("p", {})
    assert not judge.lets([*PODS, closed], A, B)
    assert not judge.lets([*PODS, closed, pod("late", "10.1.0.9")], A, "10.1.0.9")


@pytest.mark.checklist(21)
def test_a_pod_of_the_hosts_network_is_never_selected(judge: Judge) -> None:
    world = [PODS[0], pod("b", B, host_network=True), policy("p", policyTypes=["Ingress"])]
    assert judge.lets(world, A, B)


@pytest.mark.checklist(26)
def test_a_finished_pod_is_not_selected_and_its_address_may_be_anothers(judge: Judge) -> None:
    for phase in ("Succeeded", "Failed"):
        done = pod("done", B, phase=phase, app="web")
        world = [PODS[0], done, policy("p", labels(app="web"))]
        assert judge.lets(world, A, B)
        assert not judge.lets([*world, pod("next", B, app="web")], A, B)
        assert judge.lets([*world, pod("next", B, app="other")], A, B)


@pytest.mark.checklist(29)
def test_a_pod_without_an_address_yet_hinders_nobody(judge: Judge) -> None:
    world = [*PODS, pod("new"), policy("p", labels(app="nobody"))]
    assert judge.lets(world, A, B)


@pytest.mark.checklist(29)
def test_both_families_of_a_pod_are_isolated(judge: Judge) -> None:
    world = [pod("a", A, "fd00:1::1"), pod("b", B, "fd00:1::2"), policy("p")]
    assert not judge.lets(world, A, B)
    assert not judge.lets(world, "fd00:1::1", "fd00:1::2")
