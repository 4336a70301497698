"""A policy is read whole or not at all, and what cannot be read is closed."""

import pytest

from policy.core.objects import Policy
from policy.core.parsing import Unreadable, parse
from tests.policy.interpreter import Packet, passes, policies_of
from tests.policy.model import Document
from tests.policy.objects import expression, labels, pod, policy

WEB, CLIENT, OTHER = "10.1.0.1", "10.1.0.2", "10.1.0.3"
PODS = [pod("web", WEB, app="web"), pod("client", CLIENT), pod("other", OTHER, app="other")]


def rule(**parts: object) -> Document:
    return policy("p", labels(app="web"), ingress=[{}, parts])


def port(**parts: object) -> Document:
    return rule(ports=[parts])


def peer(**parts: object) -> Document:
    return rule(**{"from": [parts]})


FAULTY = {
    "a rule with a field that nobody knows": rule(form=[]),
    "a rule that is null": policy("p", labels(app="web"), ingress=[{}, None]),
    "rules that are no list": policy("p", labels(app="web"), ingress={"from": []}),
    "a peer that names nothing": peer(),
    "a peer that is null": rule(**{"from": [None]}),
    "a peer with a block and a selector": peer(ipBlock={"cidr": "10.0.0.0/8"}, podSelector={}),
    "a block that is none": peer(ipBlock={"cidr": "10.0.0.0"}),
    "a block too long": peer(ipBlock={"cidr": "10.0.0.0/33"}),
    "a block with a mask": peer(ipBlock={"cidr": "10.0.0.0/255.0.0.0"}),
    "an exception outside its block": peer(
        ipBlock={"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}
    ),
    "an exception of the other family": peer(
        ipBlock={"cidr": "0.0.0.0/0", "except": ["fd00::/64"]}
    ),
    "a protocol that there is not": port(protocol="ICMP"),
    "a protocol in small letters": port(protocol="tcp"),
    "port 0": port(port=0),
    "a port that is too large": port(port=65536),
    "a number as text": port(port="80"),
    "a port that is true": port(port=True),
    "an end without a port": port(endPort=80),
    "an end before its port": port(port=80, endPort=79),
    "an end of a name": port(port="http", endPort=80),
    "In without values": peer(podSelector=expression("a", "In")),
    "Exists with values": peer(podSelector=expression("a", "Exists", "b")),
    "an operator that there is not": peer(podSelector=expression("a", "Is")),
    "an expression with values that are no list": peer(
        podSelector={"matchExpressions": [{"key": "a", "operator": "In", "values": "b"}]}
    ),
    "a label that is a list": peer(podSelector={"matchLabels": {"a": []}}),
    "a label that is a number": peer(podSelector={"matchLabels": {"a": 1}}),
    "an expression without key": peer(podSelector={"matchExpressions": [{"operator": "Exists"}]}),
    "a key with a space": peer(podSelector=labels(**{"a b": "c"})),
    "a value with a space": peer(podSelector=labels(a="b c")),
    "a block that is a list": peer(ipBlock={"cidr": ["10.0.0.0/8"]}),
    "a block of no address": peer(ipBlock={"cidr": "10.0.0/8"}),
    "a block with a zone": peer(ipBlock={"cidr": "fe80::1%eth0/64"}),
    "a peer with a field that nobody knows": peer(podSelector={}, services={}),
    "a block with a field that nobody knows": peer(ipBlock={"cidr": "10.0.0.0/8", "to": ""}),
    "a port with a field that nobody knows": port(port=80, name="http"),
    "a selector with a field that nobody knows": peer(podSelector={"matchNames": {}}),
    "an expression with a field that nobody knows": peer(
        podSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "value": "b"}]}
    ),
    "a field beside the known ones": policy("p", labels(app="web"), Ingress=[]),
}


@pytest.mark.parametrize("document", FAULTY.values(), ids=FAULTY.keys())
@pytest.mark.checklist(32)
def test_a_policy_with_a_fault_closes_its_own_pods_and_no_others(document: Document) -> None:
    table = policies_of([*PODS, document], lambda pod: True).table
    assert not passes(table, Packet(CLIENT, WEB, "TCP", 80))
    assert passes(table, Packet(WEB, CLIENT, "TCP", 80))
    assert passes(table, Packet(CLIENT, OTHER, "TCP", 80))
    read = parse(document)
    assert isinstance(read, Policy)
    assert read.fault


@pytest.mark.checklist(32)
def test_other_policies_still_allow_what_a_faulty_one_does_not() -> None:
    http = policy("http", labels(app="web"), ingress=[{"ports": [{"port": 80}]}])
    table = policies_of([*PODS, port(port=0), http], lambda pod: True).table
    assert passes(table, Packet(CLIENT, WEB, "TCP", 80))
    assert not passes(table, Packet(CLIENT, WEB, "TCP", 81))


def test_a_selector_that_cannot_be_read_selects_the_whole_namespace() -> None:
    faulty = policy("p", {"matchLabels": {"app": 1}})
    elsewhere = pod("y/away", "10.1.0.9")
    table = policies_of([*PODS, elsewhere, faulty], lambda pod: True).table
    for closed in (WEB, CLIENT, OTHER):
        assert not passes(table, Packet("10.1.0.9", closed, "TCP", 80))
    assert passes(table, Packet(WEB, "10.1.0.9", "TCP", 80))


@pytest.mark.parametrize("types", ["Ingress", ["ingress"], [None], ["Ingress", "All"]])
def test_directions_that_cannot_be_read_are_both(types: object) -> None:
    table = policies_of(
        [*PODS, policy("p", labels(app="web"), policyTypes=types, ingress=[{}])], lambda pod: True
    ).table
    assert not passes(table, Packet(CLIENT, WEB, "TCP", 80))
    assert not passes(table, Packet(WEB, CLIENT, "TCP", 80))


@pytest.mark.checklist(18, 32)
def test_a_fault_says_where_it_is() -> None:
    read = parse(port(port=80, endPort=79))
    assert isinstance(read, Policy)
    assert read.fault == "spec.ingress[1].ports[0]: endPort 79 is less than port 80"


def test_null_fields_are_absent_fields() -> None:
    spelled = policy(
        "p",
        {"matchLabels": None, "matchExpressions": None},
        policyTypes=None,
        ingress=[{"from": None, "ports": [{"protocol": None, "port": 80, "endPort": None}]}],
        egress=None,
    )
    assert parse(spelled) == parse(policy("p", ingress=[{"ports": [{"port": 80}]}]))


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"kind": "Deployment", "apiVersion": "apps/v1"},
        {"kind": "NetworkPolicy", "apiVersion": "extensions/v1beta1", "metadata": {"name": "a"}},
        {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": {}},
        {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1"},
        {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a/b"}},
        {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"a": 1}}},
        pod("p", "10.0.0.256"),
    ],
)
def test_what_has_no_name_or_is_no_such_object_is_refused(document: object) -> None:
    with pytest.raises(Unreadable):
        parse(document)


def test_ports_of_sidecars_have_names_too_and_those_of_other_init_containers_have_not() -> None:
    document = pod("p", WEB, ports={"http": 80})
    document["spec"]["initContainers"] = [
        {"name": "once", "ports": [{"name": "setup", "containerPort": 1}]},
        {
            "name": "proxy",
            "restartPolicy": "Always",
            "ports": [{"name": "proxy", "containerPort": 2}],
        },
    ]
    read = parse(document)
    assert [one.name for one in read.ports] == ["http", "proxy"]  # type: ignore[union-attr]


def test_equal_selectors_are_equal_values_however_they_are_written() -> None:
    pairs = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]
    written = {"matchLabels": dict(pairs)}
    again = {
        "matchLabels": dict(reversed(pairs[:2])),
        "matchExpressions": [
            {"key": key, "operator": "In", "values": [value, value]} for key, value in pairs[1:]
        ],
    }
    several = expression("e", "NotIn", "x", "y", "z")
    others = expression("e", "NotIn", "z", "y", "x")
    assert parse(policy("p", written)) == parse(policy("p", again))
    assert parse(policy("p", several)) == parse(policy("p", others))


def test_the_first_and_the_last_port_are_ports() -> None:
    for number in (1, 65535):
        read = parse(port(port=number, endPort=number))
        assert isinstance(read, Policy)
        assert not read.fault


def test_an_address_is_read_from_either_place_and_counts_once() -> None:
    document = pod("p", WEB, CLIENT)
    one_only = pod("p", WEB)
    del one_only["status"]["podIPs"]
    read, old = parse(document), parse(one_only)
    assert [str(one) for one in read.addresses] == [WEB, CLIENT]  # type: ignore[union-attr]
    assert [str(one) for one in old.addresses] == [WEB]  # type: ignore[union-attr]


def test_rules_for_a_direction_that_is_not_restricted_are_noted() -> None:
    read = parse(policy("p", policyTypes=["Egress"], ingress=[{}]))
    assert isinstance(read, Policy)
    assert (read.unused, [*read.rules]) == (("ingress",), ["egress"])
