"""What the kernel decides, with real packets: on one node, across nodes, in both families."""

import pytest

from policy.core.attribution import Attribution
from tests.policy.objects import OPEN, labels, pod, policy
from tests.policy.reach import Cell, has_sctp
from tests.policy.shell.conftest import Cluster, ReachMaker
from weavepy.lab.system import in_namespace

pytestmark = pytest.mark.root

A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"
A6, B6, C6 = "fd00:1::1", "fd00:1::2", "fd00:1::3"
PODS = [
    pod("a", A, A6, node="one", app="client"),
    pod("b", B, B6, node="one", ports={"web": 80}, app="web"),
    pod("c", C, C6, node="two", ports={"web": 81}, app="web"),
]
FROM_CLIENT = {"from": [{"podSelector": labels(app="client")}]}


@pytest.mark.checklist(1)
def test_without_policies_everything_passes(cluster: Cluster, reach: ReachMaker) -> None:
    a, b, c = cluster.place(*PODS)
    cells = [
        Cell(source, to, protocol, 80)
        for source in (a, c)
        for to in (B, B6)
        for protocol in ("TCP", "UDP", "ICMP")
    ]
    assert reach.among(a, b, c).table(cells, cells) == set(cells)


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "ICMP"])
@pytest.mark.checklist(2, 8, 29)
def test_an_isolated_pod_is_reached_by_nobody_and_reaches_everybody(
    cluster: Cluster, reach: ReachMaker, protocol: str
) -> None:
    a, b, c = cluster.place(*PODS)
    cluster.tell(policy("deny", labels(app="web")))
    table = reach.among(a, b, c)
    closed = [Cell(source, to, protocol, 80) for source, to in ((a, B), (a, C6), (c, B), (b, C))]
    opened = [Cell(source, to, protocol, 80) for source, to in ((b, A), (c, A6))]
    assert table.table([*closed, *opened], opened) == set(opened)


@pytest.mark.checklist(11, 16, 17)
def test_ports_names_and_peers_are_told_apart(cluster: Cluster, reach: ReachMaker) -> None:
    a, b, c = cluster.place(*PODS)
    cluster.tell(
        policy("web", labels(app="web"), ingress=[FROM_CLIENT | {"ports": [{"port": "web"}]}])
    )
    table = reach.among(a, b, c)
    opened = {Cell(a, to, "TCP", port) for to, port in ((B, 80), (B6, 80), (C, 81), (C6, 81))}
    cells = [
        Cell(source, to, protocol, port)
        for source in (a, b, c)
        for to in (B, B6, C, C6)
        for protocol in ("TCP", "UDP")
        for port in (80, 81)
        if (source, to) not in ((b, B), (b, B6), (c, C), (c, C6))
    ]
    assert table.table(cells, opened) == opened


@pytest.mark.checklist(4, 17)
def test_egress_is_told_apart_by_the_names_of_the_destinations(
    cluster: Cluster, reach: ReachMaker
) -> None:
    a, b, c = cluster.place(*PODS)
    rules = [{"ports": [{"port": "web"}]}]
    cluster.tell(policy("out", labels(app="client"), policyTypes=["Egress"], egress=rules))
    opened = {Cell(a, to, "TCP", port) for to, port in ((B, 80), (B6, 80), (C, 81), (C6, 81))}
    cells = [Cell(a, to, "TCP", port) for to in (B, B6, C, C6) for port in (80, 81)]
    assert reach.among(a, b, c).table(cells, opened) == opened


@pytest.mark.checklist(19)
def test_sctp_is_told_apart(cluster: Cluster, reach: ReachMaker) -> None:
    if not has_sctp():
        pytest.skip("this kernel has no SCTP")
    a, b, c = cluster.place(*PODS)
    rules = [{"ports": [{"protocol": "SCTP", "port": 80}]}]
    cluster.tell(policy("sctp", labels(app="web"), ingress=rules))
    opened = {Cell(a, B, "SCTP", 80), Cell(a, C, "SCTP", 80)}
    cells = [*opened, Cell(a, B, "SCTP", 81), Cell(a, B, "TCP", 80), Cell(a, C, "TCP", 80)]
    assert reach.among(a, b, c, sctp=True).table(cells, opened) == opened


@pytest.mark.checklist(18, 19)
def test_a_range_of_ports_is_open_to_its_end_and_icmp_needs_a_rule_without_ports(
    cluster: Cluster, reach: ReachMaker
) -> None:
    a, b, c = cluster.place(*PODS)
    both = {"ports": [{"port": 80, "endPort": 81}, {"protocol": "UDP", "port": 81}]}
    cluster.tell(policy("p", labels(app="web"), ingress=[both]))
    table = reach.among(a, b, c)
    opened = {Cell(a, to, "TCP", port) for to in (B, C6) for port in (80, 81)}
    opened |= {Cell(a, B, "UDP", 81), Cell(a, C6, "UDP", 81)}
    ping = {Cell(a, B, "ICMP"), Cell(a, C6, "ICMP")}
    closed = {Cell(a, B, "TCP", 5353), Cell(a, C6, "UDP", 80), *ping}
    assert table.table([*opened, *closed], opened) == opened
    cluster.tell(policy("p", labels(app="web"), ingress=[both, FROM_CLIENT]))
    assert table.table([*ping, Cell(c, B, "ICMP")], ping) == ping


@pytest.mark.checklist(20)
def test_a_pods_own_node_reaches_it_and_another_node_does_not(
    cluster: Cluster, reach: ReachMaker
) -> None:
    a, b, c = cluster.place(*PODS)
    cluster.tell(policy("deny", policyTypes=["Ingress", "Egress"]))
    one, two = (node.namespace for node in cluster.nodes.values())
    opened = {Cell(one, B, "TCP", 80), Cell(one, B6, "ICMP"), Cell(two, C, "UDP", 80)}
    closed = {Cell(two, B, "TCP", 80), Cell(two, B6, "ICMP"), Cell(one, C, "UDP", 80)}
    assert reach.among(a, b, c).table([*opened, *closed], opened) == opened


@pytest.mark.checklist(14)
def test_a_block_with_a_hole_lets_the_others_in(cluster: Cluster, reach: ReachMaker) -> None:
    a, b, c = cluster.place(*PODS)
    block = {"ipBlock": {"cidr": "10.1.0.0/16", "except": [f"{A}/32"]}}
    cluster.tell(policy("p", labels(app="web"), ingress=[{"from": [block]}]))
    opened = {Cell(c, B, "TCP", 80), Cell(c, B, "ICMP")}
    cells = [*opened, Cell(a, B, "TCP", 80), Cell(c, B6, "TCP", 80)]
    assert reach.among(a, b, c).table(cells, opened) == opened


def test_drops_are_counted_for_the_pod_and_direction_that_caused_them(
    cluster: Cluster, reach: ReachMaker
) -> None:
    a, b, c = cluster.place(*PODS)
    cluster.tell(policy("in", labels(app="web")), policy("out", labels(app="client"), egress=OPEN))
    assert reach.among(a, b, c).table([Cell(a, B, "UDP", 80), Cell(c, A, "UDP", 80)]) == set()
    drops = cluster.nodes["one"].drops()
    assert drops["ingress", B] >= 1
    assert drops["ingress", A] >= 1
    assert drops["egress", A] == 0


def test_connections_are_counted_by_the_match_that_let_them_through(
    cluster: Cluster, reach: ReachMaker
) -> None:
    a, b, c = cluster.place(*PODS)
    rule = FROM_CLIENT | {"ports": [{"port": 80}]}
    cluster.tell(
        policy("web", labels(app="web"), ingress=[rule]),
        policy("too", labels(app="web"), ingress=[rule]),
    )
    table, cell = reach.among(a, b, c), Cell(a, B, "TCP", 80)
    for _ in range(3):
        assert table.table([cell, Cell(a, B, "TCP", 81)], [cell]) == {cell}
    node = cluster.nodes["one"]
    counts = in_namespace(node.namespace, node.filter.counts)
    causes = Attribution().causes(node.policies)
    counted = {
        (key[1], direction): counts.passed[place]
        for place, found in causes.items()
        for key, direction in found
        if "4_" in place[0]
    }
    assert counted == {("web", "ingress"): 3, ("too", "ingress"): 3}
    assert counts.rules > 40
