"""What the rules of a policy let in and out: peers, ports, and how they combine."""

import pytest

from tests.policy.judges import Judge
from tests.policy.model import Document
from tests.policy.objects import OPEN, expression, labels, namespace, pod, policy

X1, X2, Y1, Z1 = "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"
OUTSIDE = "192.0.2.1"
WORLD = [
    namespace("x", team="a"),
    namespace("y", team="b"),
    namespace("z"),
    pod("x/web", X1, "fd00:1::1", ports={"web": 80, "dns": ("UDP", 53)}, app="web"),
    pod("x/client", X2, "fd00:1::2", app="client"),
    pod("y/client", Y1, "fd00:1::3", ports={"web": 8080}, app="client"),
    pod("z/other", Z1, "fd00:1::4", app="other"),
]
ALL = (X2, Y1, Z1, OUTSIDE)


def who_gets_in(judge: Judge, rules: object, port: int = 80) -> tuple[str, ...]:
    world = [*WORLD, policy("x/p", labels(app="web"), ingress=rules)]
    return tuple(source for source in ALL if judge.lets(world, source, X1, port))


def where_web_gets(judge: Judge, rules: object, port: int = 80) -> tuple[str, ...]:
    spec = {"policyTypes": ["Egress"], "egress": rules}
    world = [*WORLD, policy("x/p", labels(app="web"), **spec)]
    return tuple(target for target in ALL if judge.lets(world, X1, target, port))


@pytest.mark.parametrize("rules", [None, []])
@pytest.mark.checklist(8)
def test_no_rules_let_nobody_through(judge: Judge, rules: object) -> None:
    assert who_gets_in(judge, rules) == ()
    assert where_web_gets(judge, rules) == ()


@pytest.mark.checklist(8)
def test_an_empty_rule_lets_everybody_through(judge: Judge) -> None:
    assert who_gets_in(judge, OPEN) == ALL
    assert where_web_gets(judge, OPEN) == ALL


@pytest.mark.parametrize("peers", [None, []])
@pytest.mark.checklist(9)
def test_missing_and_empty_peers_are_everybody_inside_and_outside(
    judge: Judge, peers: object
) -> None:
    assert who_gets_in(judge, [{"from": peers}]) == ALL
    assert where_web_gets(judge, [{"to": peers}]) == ALL


@pytest.mark.parametrize("ports", [None, []])
@pytest.mark.checklist(9)
def test_missing_and_empty_ports_are_every_port_and_protocol(judge: Judge, ports: object) -> None:
    world = [*WORLD, policy("x/p", labels(app="web"), ingress=[{"ports": ports}])]
    for protocol in ("TCP", "UDP", "SCTP"):
        assert judge.lets(world, Y1, X1, 9, protocol)


@pytest.mark.checklist(10)
def test_peers_are_alternatives_and_ports_are_and_both_must_match(judge: Judge) -> None:
    rule = {
        "from": [{"podSelector": labels(app="client")}, {"ipBlock": {"cidr": f"{Z1}/32"}}],
        "ports": [{"port": 80}, {"port": 81}],
    }
    for port in (80, 81):
        assert who_gets_in(judge, [rule], port) == (X2, Z1)
    assert who_gets_in(judge, [rule], 82) == ()


@pytest.mark.checklist(10)
def test_rules_are_alternatives_and_do_not_mix(judge: Judge) -> None:
    rules = [
        {"from": [{"podSelector": {}}], "ports": [{"port": 80}]},
        {"from": [{"namespaceSelector": labels(team="b")}], "ports": [{"port": 81}]},
    ]
    assert who_gets_in(judge, rules, 80) == (X2,)
    assert who_gets_in(judge, rules, 81) == (Y1,)


@pytest.mark.checklist(11)
def test_a_pod_selector_alone_means_the_policys_own_namespace(judge: Judge) -> None:
    assert who_gets_in(judge, [{"from": [{"podSelector": labels(app="client")}]}]) == (X2,)
    assert where_web_gets(judge, [{"to": [{"podSelector": labels(app="client")}]}]) == (X2,)


@pytest.mark.checklist(11)
def test_a_namespace_selector_alone_means_all_pods_there(judge: Judge) -> None:
    assert who_gets_in(judge, [{"from": [{"namespaceSelector": labels(team="b")}]}]) == (Y1,)


@pytest.mark.checklist(11)
def test_both_selectors_in_one_element_must_match(judge: Judge) -> None:
    both = {"namespaceSelector": labels(team="b"), "podSelector": labels(app="client")}
    assert who_gets_in(judge, [{"from": [both]}]) == (Y1,)
    other = {"namespaceSelector": labels(team="b"), "podSelector": labels(app="other")}
    assert who_gets_in(judge, [{"from": [other]}]) == ()


@pytest.mark.checklist(11)
def test_selectors_in_two_elements_are_alternatives(judge: Judge) -> None:
    peers = [{"namespaceSelector": labels(team="b")}, {"podSelector": labels(app="client")}]
    assert who_gets_in(judge, [{"from": peers}]) == (X2, Y1)


@pytest.mark.checklist(12)
def test_an_empty_namespace_selector_means_all_pods_and_not_the_world(judge: Judge) -> None:
    assert who_gets_in(judge, [{"from": [{"namespaceSelector": {}}]}]) == (X2, Y1, Z1)


@pytest.mark.checklist(12)
def test_an_empty_pod_selector_means_the_own_namespace_and_not_the_world(judge: Judge) -> None:
    assert who_gets_in(judge, [{"from": [{"podSelector": {}}]}]) == (X2,)


@pytest.mark.checklist(13)
def test_labels_and_expressions_must_all_match(judge: Judge) -> None:
    selector = labels(app="client") | expression("tier", "DoesNotExist")
    peers = [{"namespaceSelector": {}, "podSelector": selector}]
    assert who_gets_in(judge, [{"from": peers}]) == (X2, Y1)
    selector = labels(app="client") | expression("tier", "Exists")
    peers = [{"namespaceSelector": {}, "podSelector": selector}]
    assert who_gets_in(judge, [{"from": peers}]) == ()


@pytest.mark.parametrize(
    ("selector", "who"),
    [
        (expression("team", "In", "a", "b"), (X2, Y1)),
        (expression("team", "NotIn", "a"), (Y1, Z1)),
        (expression("team", "Exists"), (X2, Y1)),
        (expression("team", "DoesNotExist"), (Z1,)),
    ],
)
@pytest.mark.checklist(13)
def test_the_four_operators_select_and_not_in_selects_what_lacks_the_key(
    judge: Judge, selector: Document, who: tuple[str, ...]
) -> None:
    assert who_gets_in(judge, [{"from": [{"namespaceSelector": selector}]}]) == who


@pytest.mark.checklist(28)
def test_every_namespace_has_its_name_as_a_label_described_or_not(judge: Judge) -> None:
    selector = labels(**{"kubernetes.io/metadata.name": "y"})
    assert who_gets_in(judge, [{"from": [{"namespaceSelector": selector}]}]) == (Y1,)
    world = [
        *(one for one in WORLD if one["kind"] == "Pod"),
        policy("x/p", ingress=[{"from": [{"namespaceSelector": selector}]}]),
    ]
    assert judge.lets(world, Y1, X1)
    assert not judge.lets(world, Z1, X1)


def test_a_namespace_cannot_take_anothers_name_label(judge: Judge) -> None:
    name = "kubernetes.io/metadata.name"
    rules = [{"from": [{"namespaceSelector": labels(**{name: "y"})}]}]
    world = [*WORLD, namespace("z", **{name: "y"}), policy("x/p", ingress=rules)]
    assert judge.lets(world, Y1, X1)
    assert not judge.lets(world, Z1, X1)


@pytest.mark.checklist(14)
def test_a_block_matches_addresses_outside_and_of_pods(judge: Judge) -> None:
    assert who_gets_in(judge, [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]) == ALL
    assert who_gets_in(judge, [{"from": [{"ipBlock": {"cidr": "10.1.0.2/31"}}]}]) == (X2, Y1)
    assert where_web_gets(judge, [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]) == (OUTSIDE,)


def test_a_block_of_one_family_says_nothing_about_the_other(judge: Judge) -> None:
    world = [
        *WORLD,
        policy("x/p", labels(app="web"), ingress=[{"from": [{"ipBlock": {"cidr": "::/0"}}]}]),
    ]
    assert judge.lets(world, "fd00:1::4", "fd00:1::1")
    assert not judge.lets(world, Z1, X1)


@pytest.mark.checklist(14)
def test_an_except_removes_from_its_own_block_only(judge: Judge) -> None:
    block = {"ipBlock": {"cidr": "10.1.0.0/24", "except": [f"{Y1}/32"]}}
    assert who_gets_in(judge, [{"from": [block]}]) == (X2, Z1)
    again = {"ipBlock": {"cidr": f"{Y1}/32"}}
    assert who_gets_in(judge, [{"from": [block, again]}]) == (X2, Y1, Z1)
    assert who_gets_in(judge, [{"from": [block]}, {"from": [again]}]) == (X2, Y1, Z1)


@pytest.mark.checklist(14)
def test_another_policy_may_allow_what_a_block_excepts(judge: Judge) -> None:
    block = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"{Y1}/32"]}}
    one = policy("x/one", labels(app="web"), ingress=[{"from": [block]}])
    two = policy("x/two", labels(app="web"), ingress=[{"from": [{"namespaceSelector": {}}]}])
    assert not judge.lets([*WORLD, one], Y1, X1)
    assert judge.lets([*WORLD, one, two], Y1, X1)


@pytest.mark.checklist(21)
def test_the_address_of_a_host_network_pod_is_matched_by_blocks_only(judge: Judge) -> None:
    node = "10.9.0.1"
    host = pod("x/agent", node, host_network=True, app="client")
    selectors = [{"podSelector": {}}, {"namespaceSelector": {}}]
    world = [*WORLD, host, policy("x/p", labels(app="web"), ingress=[{"from": selectors}])]
    assert not judge.lets(world, node, X1)
    block = [{"from": [{"ipBlock": {"cidr": f"{node}/32"}}]}]
    assert judge.lets([*WORLD, host, policy("x/p", labels(app="web"), ingress=block)], node, X1)


@pytest.mark.checklist(26)
def test_a_finished_pods_address_is_no_peer_any_more(judge: Judge) -> None:
    rules = [{"from": [{"podSelector": labels(app="client")}]}]
    world = [*WORLD, policy("x/p", labels(app="web"), ingress=rules)]
    assert judge.lets(world, X2, X1)
    assert not judge.lets([*world, pod("x/client", X2, phase="Failed", app="client")], X2, X1)


def test_an_address_that_two_pods_claim_is_the_younger_ones(judge: Judge) -> None:
    rules = [{"from": [{"podSelector": labels(app="client")}]}]
    old = pod("x/old", X2, created="2026-01-01T00:00:00Z", app="client")
    new = pod("x/new", X2, created="2026-01-01T00:00:01Z", app="other")
    world = [WORLD[3], policy("x/p", labels(app="web"), ingress=rules)]
    assert judge.lets([*world, old], X2, X1)
    for order in ([old, new], [new, old]):
        assert not judge.lets([*world, *order], X2, X1)
