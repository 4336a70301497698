"""What is in the kernel outlives who put it there, and what others do to it is undone."""

import json
from typing import Any

import pytest

from tests.policy.model import Document
from tests.policy.nodes import Node
from tests.policy.objects import labels, namespace, pod, policy
from tests.policy.reach import Cell
from tests.policy.shell.conftest import Cluster, ReachMaker

pytestmark = pytest.mark.root

A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"
OBJECTS: list[Document] = [
    namespace("x", team="a"),
    pod("a", A, "fd00:1::1", node="one", app="client"),
    pod("b", B, "fd00:1::2", node="one", ports={"web": 80}, app="web"),
    pod("c", C, node="two", ports={"web": 81}, app="web"),
    policy(
        "p",
        labels(app="web"),
        policyTypes=["Ingress", "Egress"],
        ingress=[
            {
                "from": [
                    {"podSelector": labels(app="client")},
                    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.1/32"]}},
                    {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}},
                ],
                "ports": [{"port": "web"}, {"port": 1000, "endPort": 2047}, {"protocol": "SCTP"}],
            }
        ],
        egress=[{"ports": [{"port": "web"}]}, {"to": [{"ipBlock": {"cidr": "::/0"}}]}],
    ),
]


STRANGE = "add chain inet weavepy_policy strange { type filter hook forward priority 0; }"


def handles(listed: list[dict[str, Any]], kind: str) -> list[int]:
    return [one[kind]["handle"] for one in listed if kind in one]


def ruleset(node: Node) -> list[dict[str, Any]]:
    """As nft lists it, with the handles, which tell what was made anew."""
    listed = json.loads(node.run("nft", "-j", "list", "ruleset"))["nftables"]
    return [one for one in listed if "metainfo" not in one]


@pytest.fixture
def one(cluster: Cluster) -> Node:
    cluster.tell(*OBJECTS)
    return cluster.nodes["one"]


@pytest.fixture
def open_one(open_cluster: Cluster) -> Node:
    open_cluster.tell(*OBJECTS)
    open_cluster.nodes["one"].place("pod2", [B])
    return open_cluster.nodes["one"]


def test_what_was_made_is_read_back_as_the_same(one: Node) -> None:
    assert not one.restore()
    assert {content.kind for content in one.policies.table.sets.values()} == {
        "pods",
        "blocks",
        "ports",
        "named",
    }


@pytest.mark.checklist(30)
def test_a_restart_adopts_and_changes_nothing(one: Node) -> None:
    before = ruleset(one)
    one.restart()
    for document in OBJECTS:
        one.tell(document)
    assert not one.restore()
    assert ruleset(one) == before


@pytest.mark.checklist(30)
def test_a_restart_removes_what_is_wanted_no_more_and_adds_what_is_new(one: Node) -> None:
    one.restart()
    for document in (*OBJECTS[:4], policy("q", labels(app="client"))):
        one.tell(document)
    assert one.restore()
    assert not one.restore()
    assert one.policies.table.verdicts["ingress", 4].keys() == {A}


@pytest.mark.parametrize(
    "harm",
    [
        "flush ruleset",
        "delete table inet weavepy_policy",
        "add table inet weavepy_policy { flags dormant; }",
        "flush chain inet weavepy_policy forwarded",
        "insert rule inet weavepy_policy forwarded accept",
        "insert rule inet weavepy_policy unjudged accept",
        "add chain inet weavepy_policy strange { type filter hook forward priority 0; }",
        "flush map inet weavepy_policy ingress4",
        "flush map inet weavepy_policy egress6_replies",
        "flush set inet weavepy_policy ingress4_drops",
        "insert rule inet weavepy_policy CHAIN accept",
        "flush chain inet weavepy_policy CHAIN",
        "flush set inet weavepy_policy PODS",
        "add element inet weavepy_policy PODS { 192.0.2.9 }",
        "add set inet weavepy_policy strange { type ipv4_addr; }",
        "add element inet weavepy_policy ingress4_groups { 5 : accept }",
        "delete table bridge weavepy_policy",
        "flush map bridge weavepy_policy marks",
        "insert rule bridge weavepy_policy forwarded accept",
    ],
)
@pytest.mark.checklist(30)
def test_what_somebody_else_does_to_the_table_is_undone(open_one: Node, harm: str) -> None:
    one, table = open_one, open_one.policies.table
    names = {
        "CHAIN": next(name for name in table.chains if name.startswith("ingress4")),
        "PODS": next(name for name in table.sets if name.startswith("pods4")),
    }
    for word, name in names.items():
        harm = harm.replace(word, name)
    one.run("nft", harm)
    assert one.restore()
    assert not one.restore()


def test_a_change_after_a_flush_brings_back_all_of_it(
    open_cluster: Cluster, open_one: Node
) -> None:
    open_one.run("nft", "flush", "ruleset")
    open_cluster.tell(pod("d", "10.1.0.4", node="two", app="client"))
    assert not open_one.restore()


def test_nobody_else_changes_the_table_while_its_filter_lives(
    owned_cluster: Cluster, one: Node
) -> None:
    before = ruleset(one)
    one.run("nft", "flush", "ruleset")
    for harm in ("delete table inet weavepy_policy", "flush chain inet weavepy_policy forwarded"):
        with pytest.raises(AssertionError, match="Operation not permitted"):
            one.run("nft", harm)
    assert ruleset(one) == before
    assert not one.restore()


def test_a_table_whose_filter_died_is_taken_over_as_it_is_and_closed_to_others_again(
    owned_cluster: Cluster, one: Node
) -> None:
    before = ruleset(one)
    pods = next(name for name in one.policies.table.sets if name.startswith("pods4"))
    one.restart()
    one.run("nft", f"add element inet weavepy_policy {pods} {{ 192.0.2.9 }}")
    for document in OBJECTS:
        one.tell(document)
    assert one.restore()
    assert handles(ruleset(one), "set") == handles(before, "set")


@pytest.mark.parametrize("harm", ["flush map inet weavepy_policy ingress4", STRANGE])
def test_what_was_done_to_a_table_that_nobody_owned_for_a_while_is_undone(
    one: Node, harm: str
) -> None:
    one.restart()
    one.run("nft", harm)
    for document in OBJECTS:
        one.tell(document)
    assert one.restore()
    one.run("nft", "flush", "ruleset")
    assert not one.restore()


def test_frames_of_the_bridge_are_shown_to_the_filter_again(
    cluster: Cluster, reach: ReachMaker
) -> None:
    node = cluster.nodes["one"]
    a, b = cluster.place(*OBJECTS[1:3])
    cluster.tell(policy("deny", {}))
    node.run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0")
    node.run("ip", "link", "set", "weave", "type", "bridge", "nf_call_iptables", "0")
    table = reach.among(a, b)
    assert table.table([Cell(a, B, "TCP", 80)])
    assert node.restore()
    assert not table.table([Cell(a, B, "TCP", 80)])
    assert not node.restore()
