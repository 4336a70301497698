"""What is said about policies that are legal and look wrong."""

import pytest

from policy.core.lint import LOOKS_PER_STEP, findings
from policy.core.objects import Pod
from tests.policy.interpreter import policies_of
from tests.policy.model import Document
from tests.policy.objects import labels, namespace, pod, policy

PODS = [
    namespace("y", team="b"),
    pod("web", "10.1.0.1", ports={"http": 80, "dns": ("UDP", 53)}, app="web"),
    pod("client", "10.1.0.2", app="client"),
    pod("y/away", "10.1.0.3", ports={"admin": 8080}, app="client"),
    pod("proxy", "192.0.2.1", host_network=True, app="proxy"),
    pod("job", "10.1.0.4", phase="Succeeded", app="job"),
]


def found(*documents: Document, namespace: str = "") -> list[str]:
    policies = policies_of([*PODS, *documents], lambda pod: True)
    return [one for one in findings(policies, namespace) if one]


def test_or_instead_of_and() -> None:
    peers = [{"namespaceSelector": labels(team="b")}, {"podSelector": labels(app="client")}]
    (finding,) = found(policy("p", labels(app="web"), ingress=[{"from": peers}]))
    assert finding.startswith(
        "x/p: ingress rule 1: lets through all pods of namespaces with team=b"
    )


def test_selectors_that_match_nothing_and_peers_of_the_wrong_namespace() -> None:
    rules = [{"from": [{"podSelector": labels(app="web")}]}]
    assert found(policy("y/p", labels(app="db"), ingress=rules)) == [
        "y/p: selects no pod (app=db)",
        (
            "y/p: ingress rule 1: a peer without namespaceSelector means pods of y alone, and none"
            " has app=web; there are such pods in x"
        ),
    ]


def test_a_peer_in_namespaces_that_nobody_has() -> None:
    peer = {"namespaceSelector": labels(team="a"), "podSelector": labels(app="client")}
    assert found(policy("p", labels(app="web"), ingress=[{"from": [peer]}])) == [
        "x/p: ingress rule 1: a peer matches no pod (pods with app=client where team=a)"
    ]


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("proxy", "those with these labels use the host's network, which no policy selects"),
        ("job", "those with these labels have finished"),
    ],
)
def test_pods_that_no_policy_selects_whatever_their_labels(app: str, why: str) -> None:
    assert found(policy("p", labels(app=app))) == [f"x/p: selects no pod (app={app}); {why}"]


def test_a_named_port_that_no_selected_pod_has() -> None:
    ports = [{"port": "http"}, {"port": "admin"}, {"port": "dns"}]
    assert found(policy("p", labels(app="web"), ingress=[{"ports": ports}])) == [
        "x/p: ingress rule 1: no pod it is for has a port 'admin' for TCP",
        "x/p: ingress rule 1: no pod it is for has a port 'dns' for TCP; there are such for UDP",
    ]


def test_a_named_port_going_out_is_looked_for_at_the_peers() -> None:
    away = [{"namespaceSelector": labels(team="b")}]
    rules = [{"to": away, "ports": [{"port": "admin"}, {"port": "http"}]}]
    assert found(policy("p", labels(app="web"), policyTypes=["Egress"], egress=rules)) == [
        "x/p: egress rule 1: no pod it is for has a port 'http' for TCP"
    ]
    anywhere = [{"ports": [{"port": "admin"}, {"port": "http"}]}]
    assert found(policy("p", labels(app="web"), policyTypes=["Egress"], egress=anywhere)) == []


def test_a_range_of_ports_in_which_nobody_declares_one() -> None:
    def ranged(first: int, last: int) -> Document:
        rules = [{"ports": [{"port": first, "endPort": last}]}]
        return policy("p", labels(app="web"), ingress=rules)

    assert found(ranged(8000, 8080)) == [
        "x/p: ingress rule 1: no pod it is for declares a port between 8000 and 8080 for TCP"
    ]
    assert found(ranged(80, 81)) == []
    assert found(ranged(79, 80)) == []


def test_pods_that_declare_no_port_may_have_any() -> None:
    rules = [{"ports": [{"port": 8000, "endPort": 8080}]}]
    assert found(policy("p", labels(app="client"), ingress=rules)) == []


def test_rules_for_a_direction_that_the_policy_does_not_restrict() -> None:
    deny = policy("p", labels(app="web"), policyTypes=["Egress"], ingress=[{}])
    assert found(deny) == [
        "x/p: has ingress rules, which do nothing: its policyTypes leave Ingress out"
    ]


def test_a_rule_for_everything_makes_the_others_idle() -> None:
    rules = [{"from": [{"podSelector": labels(app="client")}]}, {}]
    assert found(policy("p", labels(app="web"), ingress=rules)) == [
        "x/p: ingress rule 2: lets everything through, so the others add nothing"
    ]


def test_a_rule_for_everything_alone_is_meant() -> None:
    assert found(policy("p", labels(app="web"), ingress=[{}])) == []


def test_all_pods_of_the_own_namespace_beside_some_are_no_whole_namespaces() -> None:
    peers = [{"podSelector": {}}, {"podSelector": labels(app="client")}]
    assert found(policy("p", labels(app="web"), ingress=[{"from": peers}])) == []


def test_it_is_enough_if_one_peer_or_one_port_fits() -> None:
    by_name = labels(**{"kubernetes.io/metadata.name": "x"})
    away = {"namespaceSelector": labels(team="b")}
    here = {"namespaceSelector": by_name, "podSelector": labels(app="web")}
    ports = [{"port": "admin"}, {"port": "http"}, {"port": 80, "endPort": 90}]
    rules = [{"to": [away, here], "ports": ports}]
    assert found(policy("p", labels(app="web"), policyTypes=["Egress"], egress=rules)) == []


def test_findings_come_in_the_order_of_names() -> None:
    said = found(policy("b", labels(app="none")), policy("a", labels(app="none")))
    assert [line.partition(":")[0] for line in said] == ["x/a", "x/b"]


def test_a_block_of_which_nothing_is_left() -> None:
    block = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/25", "192.0.2.128/25"]}}
    (finding,) = found(policy("p", labels(app="web"), ingress=[{"from": [block]}]))
    assert finding.startswith("x/p: ingress rule 1: an ipBlock means no address at all")


def test_what_cannot_be_compiled_is_said_first() -> None:
    (finding,) = found(policy("p", labels(app="web"), ingress=[{"form": []}]))
    assert finding.startswith("x/p: cannot be compiled, so it allows nothing: spec.ingress[0] has")


def test_nothing_is_said_about_what_is_fine() -> None:
    both = {"namespaceSelector": labels(team="b"), "podSelector": labels(app="client")}
    outside = {"ipBlock": {"cidr": "192.0.2.0/24"}}
    rules = [{"from": [both, outside], "ports": [{"port": "http"}, {"port": 443}]}]
    out = [{"to": [outside], "ports": [{"port": "anything"}]}]
    assert found(policy("p", labels(app="web"), ingress=rules, egress=out)) == []


def test_of_one_namespace_only_its_policies_are_looked_at() -> None:
    both = policy("p", labels(app="none")), policy("y/p", labels(app="none"))
    assert found(*both, namespace="y") == ["y/p: selects no pod (app=none)"]
    assert found(*both, namespace="nowhere") == []


def test_a_finding_does_not_name_a_thousand_namespaces() -> None:
    away = [pod(f"n{number}/web", f"10.2.0.{number}", app="there") for number in range(1, 8)]
    rules = [{"from": [{"podSelector": labels(app="there")}]}]
    (finding,) = found(*away, policy("p", labels(app="web"), ingress=rules))
    assert finding.endswith("there are such pods in n1, n2, n3, n4, n5 and 2 more")


class Looked(dict[str, str]):
    """Labels that count how often anybody asks for one."""

    times = 0

    def get(self, *arguments: str) -> str | None:  # type: ignore[override]
        Looked.times += 1
        return super().get(*arguments)


def test_however_many_pods_there_are_each_step_looks_at_a_few() -> None:
    rules = [{"to": [{"namespaceSelector": {}, "podSelector": labels(app="none")}]}]
    ports: list[Document] = [{"ports": [{"port": "http"}]}]
    policies = policies_of(
        [
            policy(
                "own", labels(app="web"), ingress=[{"from": [{"podSelector": labels(app="x")}]}]
            ),
            policy("wide", labels(app="web"), policyTypes=["Egress"], egress=[*rules, *ports]),
        ],
        lambda pod: False,
    )
    for number in range(5000):
        policies.handle_pod(Pod(f"n{number % 3}", f"p{number}", Looked(app="x")))
        policies.handle_pod(Pod("x", f"p{number}", Looked(app="web")))
    Looked.times = 0
    most = steps = 0
    for _ in findings(policies):
        most, Looked.times, steps = max(most, Looked.times), 0, steps + 1
    assert 0 < most <= LOOKS_PER_STEP
    assert steps > 2 * 10_000 / LOOKS_PER_STEP


def test_what_changes_meanwhile_does_not_disturb_it() -> None:
    policies = policies_of([*PODS, policy("p", labels(app="none"))], lambda pod: True)
    for number in range(2 * LOOKS_PER_STEP):
        policies.handle_pod(Pod("x", f"p{number}"))
    going = findings(policies)
    assert next(going) is None
    policies.handle_policy_removed(("x", "p"))
    for number in range(LOOKS_PER_STEP):
        policies.handle_pod_removed(("x", f"p{number}"))
    assert [one for one in going if one] == ["x/p: selects no pod (app=none)"]
