"""Addresses and ports are those at the pod: after a Service's DNAT, before masquerading."""

import pytest

from tests.policy.objects import labels, pod, policy
from tests.policy.reach import Cell
from tests.policy.shell.conftest import Cluster, ReachMaker

pytestmark = pytest.mark.root

A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"
SERVICE = "10.96.0.1"
PODS = [
    pod("a", A, node="one", app="client"),
    pod("b", B, node="one", app="web"),
    pod("c", C, node="two", app="web"),
]
CLIENT = {"from": [{"podSelector": labels(app="client")}]}


def a_service(cluster: Cluster, *namespaces: str, to: str) -> None:
    """As kube-proxy makes it: port 80 of the Service is port 81 of a pod."""
    cluster.nodes["one"].run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    cluster.nodes["one"].run(
        "nft",
        "table ip services { chain arriving {"
        " type nat hook prerouting priority dstnat;"
        f" ip daddr {SERVICE} tcp dport 80 dnat to {to}:81\n }}\n }}",
    )
    for namespace in namespaces:
        cluster.run_in(namespace, "ip", "route", "add", f"{SERVICE}/32", "via", "10.1.255.1")


@pytest.mark.checklist(15, 16)
def test_the_port_of_a_rule_is_the_pods_and_not_the_services(
    cluster: Cluster, reach: ReachMaker
) -> None:
    a, b, c = cluster.place(*PODS)
    table = reach.among(a, b, c)
    cell = Cell(a, SERVICE, "TCP", 80)
    for target in (B, C):
        a_service(cluster, *([a] if target == B else []), to=target)
        cluster.tell(policy("p", labels(app="web"), ingress=[CLIENT | {"ports": [{"port": 81}]}]))
        assert table.table([cell], [cell]) == {cell}
        cluster.tell(policy("p", labels(app="web"), ingress=[CLIENT | {"ports": [{"port": 80}]}]))
        assert table.table([cell]) == set()
        cluster.nodes["one"].run("nft", "delete", "table", "ip", "services")


@pytest.mark.checklist(15)
def test_egress_to_a_service_needs_the_pod_and_not_its_address(
    cluster: Cluster, reach: ReachMaker
) -> None:
    a, b, c = cluster.place(*PODS)
    a_service(cluster, a, to=C)
    table, cell = reach.among(a, b, c), Cell(a, SERVICE, "TCP", 80)
    to_service = [{"to": [{"ipBlock": {"cidr": "10.96.0.0/16"}}]}]
    to_pod = [{"to": [{"podSelector": labels(app="web")}]}]
    cluster.tell(policy("p", labels(app="client"), policyTypes=["Egress"], egress=to_service))
    assert table.table([cell]) == set()
    cluster.tell(policy("p", labels(app="client"), policyTypes=["Egress"], egress=to_pod))
    assert table.table([cell], [cell]) == {cell}


@pytest.mark.checklist(24)
def test_a_pod_reaches_itself_by_its_own_service_only_if_policies_let_it(
    cluster: Cluster, reach: ReachMaker
) -> None:
    """As kube-proxy has it: what comes back to its sender comes from the node's address."""
    a, *_ = cluster.place(*PODS)
    a_service(cluster, a, to=A)
    cluster.nodes["one"].run("ip", "link", "set", "pod1", "type", "bridge_slave", "hairpin", "on")
    cluster.nodes["one"].run(
        "nft",
        "table ip hairpin { chain leaving {\n type nat hook postrouting priority srcnat\n"
        f" ip saddr {A} ip daddr {A} masquerade\n }}\n }}",
    )
    table, cell, loopback = reach.among(a), Cell(a, SERVICE, "TCP", 80), Cell(a, A, "TCP", 81)
    assert table.table([cell, loopback], [cell, loopback]) == {cell, loopback}
    cluster.tell(policy("p", labels(app="client")))
    assert table.table([cell, loopback], [loopback]) == {loopback}
    cluster.tell(policy("p", labels(app="client"), ingress=[CLIENT]))
    assert table.table([cell, loopback], [cell, loopback]) == {cell, loopback}
