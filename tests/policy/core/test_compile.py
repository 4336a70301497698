"""What the rules of one pod become."""

from policy.core.compile import Compiler
from policy.core.objects import PodPeer, PortRange, Rule
from policy.core.selectors import Requirement, Selector
from policy.core.table import Match

CLIENTS = PodPeer("x", Selector((Requirement("app", "In", ("client",)),)))
WEB = PodPeer("x", Selector((Requirement("app", "In", ("web",)),)))
HTTP, DNS = PortRange("tcp", 80, 80), PortRange("udp", 53, 53)


def test_the_order_of_rules_peers_and_ports_makes_no_other_chain() -> None:
    rules = [Rule((CLIENTS, WEB), (HTTP, DNS)), Rule((WEB,))]
    again = [Rule((WEB,)), Rule((WEB, CLIENTS), (DNS, HTTP))]
    one, other = (Compiler().chain(each, (), "ingress", 4) for each in (rules, again))
    assert one == other
    assert len(one.chain.matches) == 2


def test_a_rule_for_everything_leaves_no_other_match_and_no_sets() -> None:
    compiled = Compiler().chain([Rule((CLIENTS,), (HTTP,)), Rule()], (), "egress", 6)
    assert compiled.chain.matches == (Match(),)
    assert compiled.sources == {}


def test_the_ports_of_all_rules_that_name_a_peer_are_one_set() -> None:
    touching = PortRange("tcp", 81, 90)
    compiled = Compiler().chain(
        [Rule((CLIENTS,), (HTTP,)), Rule((CLIENTS,), (touching, DNS))], (), "ingress", 4
    )
    (match,) = compiled.chain.matches
    (ports,) = (source for name, source in compiled.sources.items() if name == match.ports)
    assert getattr(ports, "elements", None) == (("tcp", 80, 90), ("udp", 53, 53))
