"""What is said about a connection, in words."""

from ipaddress import ip_address

import pytest

from policy.core.explain import Service, explain, lines
from policy.core.policies import Policies
from tests.policy.interpreter import policies_of
from tests.policy.model import Document
from tests.policy.objects import labels, namespace, pod, policy

WEB, CLIENT, AWAY = "10.1.0.1", "10.1.0.2", "10.1.0.3"
PODS = [
    namespace("y", team="b"),
    pod("web", WEB, app="web"),
    pod("client", CLIENT, app="client"),
    pod("y/away", AWAY, app="client"),
]
HTTP_FROM_CLIENTS = {
    "from": [{"podSelector": labels(app="client")}],
    "ports": [{"port": 80}],
}

PORTS = [{"port": 80}, {"protocol": "UDP", "port": 53}]
NAMED = [{"port": "http"}]


def cluster(*documents: Document) -> Policies:
    return policies_of([*PODS, *documents], lambda pod: True)


def said(policies: Policies, source: str, destination: str, port: int = 80) -> list[str]:
    service = Service("tcp", port)
    return lines(explain(policies, ip_address(source), ip_address(destination), service))


def test_the_rule_that_allows_is_named() -> None:
    policies = cluster(policy("p", labels(app="web"), ingress=[HTTP_FROM_CLIENTS]), policy("deny"))
    assert said(policies, CLIENT, WEB) == [
        "x/client (10.1.0.2) -> x/web (10.1.0.1) 80/tcp: passes",
        "  egress of x/client (10.1.0.2): no policy selects it, so it is open",
        "  ingress of x/web (10.1.0.1): isolated by x/deny, x/p",
        "    allowed by rule 1 of x/p",
    ]


def test_what_is_missing_is_named() -> None:
    policies = cluster(policy("p", labels(app="web"), ingress=[HTTP_FROM_CLIENTS]))
    assert said(policies, CLIENT, WEB, 81)[-1] == "    not by rule 1 of x/p: `ports` does not match"
    assert said(policies, AWAY, WEB)[-1] == "    not by rule 1 of x/p: `from` does not match"
    assert said(policies, AWAY, WEB, 81)[-1].endswith("`from` and `ports` does not match")


def test_a_policy_without_rules_and_one_with_a_fault_are_told_apart() -> None:
    assert said(cluster(policy("p")), CLIENT, WEB)[-1] == "    and no rule allows anything"
    faulty = said(cluster(policy("p", ingress=[{"form": []}])), CLIENT, WEB)
    assert any(
        "x/p cannot be compiled and allows nothing: spec.ingress[0]" in one for one in faulty
    )


@pytest.mark.checklist(24)
def test_outside_and_loopback_are_said_to_be_what_they_are() -> None:
    policies = cluster(policy("p", policyTypes=["Egress"]))
    assert "no pod that is known here" in said(policies, "192.0.2.1", WEB)[1]
    assert "without leaving its network namespace" in said(policies, WEB, WEB)[1]
    assert len(said(policies, "192.0.2.1", "192.0.2.2")) == 3


def test_a_pod_reaches_itself_by_any_of_its_addresses() -> None:
    policies = cluster(pod("both", "10.1.0.7", "10.1.0.8"), policy("p"))
    assert "without leaving its network namespace" in said(policies, "10.1.0.7", "10.1.0.8")[1]


def test_policies_are_named_in_the_order_of_their_names() -> None:
    policies = cluster(policy("b"), policy("a"))
    assert said(policies, CLIENT, WEB)[2].endswith("isolated by x/a, x/b")


def allowed(policies: Policies, source: str, destination: str, service: Service) -> bool:
    return explain(policies, ip_address(source), ip_address(destination), service).allowed


def test_one_peer_and_one_port_that_match_are_enough() -> None:
    block = {"ipBlock": {"cidr": "192.0.2.0/24"}}
    rules = [{"from": [{"podSelector": labels(app="client")}, block], "ports": PORTS}]
    policies = cluster(policy("p", labels(app="web"), ingress=rules))
    for source in (CLIENT, "192.0.2.7"):
        assert allowed(policies, source, WEB, Service("tcp", 80))
        assert allowed(policies, source, WEB, Service("udp", 53))
        assert not allowed(policies, source, WEB, Service("udp", 80))
        assert not allowed(policies, source, WEB, Service())
    assert not allowed(policies, "192.0.3.7", WEB, Service("tcp", 80))


def test_a_block_means_no_address_of_the_other_family() -> None:
    low = "::c000:207"
    rules = [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]
    policies = cluster(pod("six", "fd00::1", app="six"), policy("p", ingress=rules))
    assert not allowed(policies, low, "fd00::1", Service("tcp", 80))


def test_a_ports_name_is_the_destinations() -> None:
    named = pod("named", "10.1.0.9", ports={"http": 8080}, app="named")
    policies = cluster(
        named,
        policy("in", labels(app="named"), ingress=[{"ports": [{"port": "http"}]}]),
        policy("out", labels(app="web"), policyTypes=["Egress"], egress=[{"ports": NAMED}]),
    )
    assert allowed(policies, WEB, "10.1.0.9", Service("tcp", 8080))
    assert not allowed(policies, WEB, "10.1.0.9", Service("tcp", 80))
    assert not allowed(policies, WEB, CLIENT, Service("tcp", 8080))
    assert not allowed(policies, WEB, "192.0.2.1", Service("tcp", 8080))
