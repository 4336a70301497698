"""Ports: numbers, names, ranges and protocols, each by itself."""

from collections.abc import Callable

import pytest

from tests.policy.judges import Judge
from tests.policy.model import Document
from tests.policy.objects import labels, pod, policy

CLIENT, WEB, OLD, BARE, OUTSIDE = "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "192.0.2.1"
PODS = [
    pod("client", CLIENT, app="client"),
    pod("web", WEB, ports={"web": 80, "dns": ("UDP", 53)}, app="web"),
    pod("old", OLD, ports={"web": 8080, "dns": 53}, app="web"),
    pod("bare", BARE, app="web"),
]


def into(*ports: Document) -> list[Document]:
    return [*PODS, policy("p", labels(app="web"), ingress=[{"ports": list(ports)}])]


def out_to(*ports: Document, **rule: object) -> list[Document]:
    rules = [{"ports": list(ports), **rule}]
    return [*PODS, policy("p", labels(app="client"), policyTypes=["Egress"], egress=rules)]


@pytest.mark.parametrize("protocol", [{}, {"protocol": None}])
@pytest.mark.checklist(16)
def test_no_protocol_means_tcp(judge: Judge, protocol: Document) -> None:
    world = into({"port": 80} | protocol)
    assert judge.lets(world, CLIENT, WEB, 80, "TCP")
    assert not judge.lets(world, CLIENT, WEB, 80, "UDP")


@pytest.mark.checklist(16)
def test_a_protocol_without_port_is_all_its_ports(judge: Judge) -> None:
    world = into({"protocol": "UDP"})
    assert all(judge.lets(world, CLIENT, WEB, port, "UDP") for port in (1, 53, 65535))
    assert not judge.lets(world, CLIENT, WEB, 53, "TCP")


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
@pytest.mark.checklist(19)
def test_a_rule_for_one_protocol_opens_no_other(judge: Judge, protocol: str) -> None:
    for other in ("TCP", "UDP", "SCTP"):
        for world in (into({"protocol": protocol, "port": 80}), into({"protocol": protocol})):
            assert judge.lets(world, CLIENT, WEB, 80, other) == (other == protocol)


@pytest.mark.checklist(16)
def test_the_port_is_the_destinations(judge: Judge) -> None:
    world = into({"port": 80})
    assert judge.lets(world, CLIENT, BARE, 80)
    assert not judge.lets(world, CLIENT, BARE, 8080)


@pytest.mark.parametrize("wanted", [into, out_to], ids=["ingress", "egress"])
@pytest.mark.checklist(17)
def test_a_name_is_what_each_destination_calls_so(
    judge: Judge, wanted: Callable[..., list[Document]]
) -> None:
    world = wanted({"port": "web"})
    assert judge.lets(world, CLIENT, WEB, 80)
    assert not judge.lets(world, CLIENT, WEB, 8080)
    assert judge.lets(world, CLIENT, OLD, 8080)
    assert not judge.lets(world, CLIENT, OLD, 80)


@pytest.mark.checklist(17)
def test_a_name_that_a_pod_lacks_matches_nothing_there(judge: Judge) -> None:
    for world in (into({"port": "web"}), out_to({"port": "web"})):
        for port in (80, 8080):
            assert not judge.lets(world, CLIENT, BARE, port)
    assert not judge.lets(out_to({"port": "web"}), CLIENT, OUTSIDE, 80)


@pytest.mark.checklist(17)
def test_a_name_is_looked_up_for_its_protocol(judge: Judge) -> None:
    for wanted in (into, out_to):
        world = wanted({"port": "dns", "protocol": "UDP"})
        assert judge.lets(world, CLIENT, WEB, 53, "UDP")
        assert not judge.lets(world, CLIENT, WEB, 53, "TCP")
        assert not judge.lets(world, CLIENT, OLD, 53, "UDP")
        world = wanted({"port": "dns"})
        assert judge.lets(world, CLIENT, OLD, 53, "TCP")
        assert not judge.lets(world, CLIENT, WEB, 53, "TCP")


@pytest.mark.checklist(17)
def test_a_name_and_peers_going_out_must_both_match(judge: Judge) -> None:
    for peer in (
        {"podSelector": {"matchLabels": {"app": "web"}}},
        {"ipBlock": {"cidr": "10.1.0.0/24", "except": [f"{OLD}/32"]}},
    ):
        world = out_to({"port": "web"}, to=[peer])
        assert judge.lets(world, CLIENT, WEB, 80)
        assert judge.lets(world, CLIENT, OLD, 8080) == ("podSelector" in peer)


@pytest.mark.checklist(18)
def test_an_end_port_allows_the_whole_range(judge: Judge) -> None:
    world = into({"port": 32000, "endPort": 32768})
    for port, passes in ((31999, False), (32000, True), (32400, True), (32768, True)):
        assert judge.lets(world, CLIENT, WEB, port) == passes
    assert not judge.lets(world, CLIENT, WEB, 32769)
    assert not judge.lets(world, CLIENT, WEB, 32400, "UDP")


@pytest.mark.checklist(19)
def test_icmp_passes_with_a_rule_without_ports_and_not_otherwise(judge: Judge) -> None:
    without = [*PODS, policy("p", labels(app="web"), ingress=[{"from": [{"podSelector": {}}]}])]
    assert judge.lets(without, CLIENT, WEB, None, "ICMP")
    assert not judge.lets(without, OUTSIDE, WEB, None, "ICMP")
    for world in (into({"port": 80}), into({"protocol": "UDP"}), out_to({"port": "web"})):
        assert not judge.lets(world, CLIENT, WEB, None, "ICMP")
