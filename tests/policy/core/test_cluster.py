"""Pods as an API server says them, joined with what is attached here."""

from collections.abc import Iterable
from ipaddress import ip_address
from random import Random

import pytest

from policy.core.cluster import Cluster, Runtime
from policy.core.explain import Service, explain, lines
from policy.core.objects import DIRECTIONS, Address, Pod
from policy.core.parsing import parse
from policy.core.policies import Policies
from policy.core.table import Table
from tests.policy.interpreter import Packet, passes, tell
from tests.policy.model import Document
from tests.policy.objects import OPEN, labels, namespace, pod, policy

A, B, C = (ip_address(f"10.32.0.{number}") for number in (1, 2, 3))
WEB = Runtime(("x", "web"), "u1")
DENY = policy("deny", labels(app="web"))
FROM_CLIENTS = policy(
    "clients", labels(app="web"), ingress=[{"from": [{"podSelector": labels(app="client")}]}]
)


class Host:
    def __init__(self) -> None:
        self.policies = Policies(lambda pod: pod.node == "here")
        self.cluster = Cluster(self.policies, "here")

    def tell(self, document: Document, uid: str = "u1") -> None:
        thing = parse(document)
        if isinstance(thing, Pod):
            self.cluster.handle_pod(thing, uid)
        else:
            tell(self.policies, document)

    @property
    def table(self) -> Table:
        self.policies.settle()
        return self.policies.table

    def passes(self, source: Address, destination: Address) -> bool:
        return passes(self.table, Packet(str(source), str(destination), "TCP", 80))

    def isolated(self, address: Address) -> list[str]:
        return [
            way for way in DIRECTIONS if str(address) in self.table.verdicts[way, address.version]
        ]


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_pod_is_isolated_by_its_attachment_before_the_server_knows_its_address(
    host: Host,
) -> None:
    host.tell(DENY)
    host.tell(pod("web", app="web"))
    assert host.isolated(A) == []
    host.cluster.handle_attached("cni:one", [A], WEB)
    assert host.isolated(A) == ["ingress"]
    host.cluster.handle_detached("cni:one")
    assert host.isolated(A) == []


def test_what_is_attached_here_counts_and_not_what_the_server_says(host: Host) -> None:
    """It says the address of the sandbox before, and somebody else has that by now."""
    host.tell(FROM_CLIENTS)
    host.tell(pod("web", app="web"))
    host.cluster.handle_attached("cni:web", [A], WEB)
    host.tell(pod("client", str(C), app="client"), "u2")
    host.cluster.handle_attached("cni:client", [B], Runtime(("x", "client"), "u2"))
    assert host.passes(B, A)
    assert not host.passes(C, A)


def test_what_is_attached_here_is_not_elsewhere_however_young_that_is(host: Host) -> None:
    host.tell(FROM_CLIENTS)
    host.tell(pod("web", app="web"))
    host.tell(pod("client", str(A), node="far", app="client", created="2030-01-01T00:00:00Z"))
    host.cluster.handle_attached("cni:web", [A], WEB)
    host.tell(pod("other", app="client"), "u2")
    host.cluster.handle_attached("cni:other", [B], Runtime(("x", "other"), "u2"))
    assert not host.passes(A, A)
    assert host.passes(B, A)


def test_an_attachment_without_a_pod_that_is_known_is_closed_until_it_is(host: Host) -> None:
    host.cluster.handle_attached("cni:one", [A], WEB)
    assert host.cluster.is_unknown("cni:one")
    assert not host.passes(A, C)
    assert not host.passes(C, A)
    host.tell(pod("web", app="web"))
    assert not host.cluster.is_unknown("cni:one")
    assert host.passes(A, C)
    assert host.passes(C, A)


def test_an_unknown_pod_is_no_peer_of_anybody(host: Host) -> None:
    host.tell(policy("p", labels(app="web"), ingress=[{"from": [{"namespaceSelector": {}}]}]))
    host.tell(pod("web", app="web"))
    host.cluster.handle_attached("cni:web", [A], WEB)
    host.cluster.handle_attached("cni:one", [B], Runtime(("x", "late"), "u2"))
    listed = [one for content in host.table.sets.values() for one in content.elements]
    assert (str(A),) in listed
    assert (str(B),) not in listed


def test_a_pod_of_the_same_name_that_was_there_before_is_another(host: Host) -> None:
    host.tell(pod("web", app="web"), "u0")
    host.cluster.handle_attached("cni:one", [A], WEB)
    assert host.cluster.is_unknown("cni:one")
    host.cluster.handle_pod_removed(("x", "web"))
    assert host.cluster.is_unknown("cni:one")
    host.tell(pod("web", app="web"), "u1")
    assert not host.cluster.is_unknown("cni:one")


def test_a_record_that_has_only_the_uid_finds_its_pod(host: Host) -> None:
    """As of a pod with a name that is too long for the kernel's record."""
    host.tell(DENY)
    host.cluster.handle_attached("cni:one", [A], Runtime(None, "u1"))
    assert host.isolated(A) == ["ingress", "egress"]
    host.tell(pod("web", app="web"))
    assert host.isolated(A) == ["ingress"]
    host.cluster.handle_pod_removed(("x", "web"))
    assert host.isolated(A) == ["ingress", "egress"]
    host.tell(pod("web", app="web"))
    host.cluster.handle_detached("cni:one")
    assert host.isolated(A) == []


def test_one_that_has_only_the_name_takes_the_pod_of_that_name(host: Host) -> None:
    host.tell(DENY)
    host.tell(pod("web", app="web"), "whatever")
    host.cluster.handle_attached("cni:one", [A], Runtime.named("x/web"))
    assert host.isolated(A) == ["ingress"]


def test_what_is_no_pod_is_let_alone(host: Host) -> None:
    host.tell(DENY)
    host.cluster.handle_attached("/run/netns/tool", [A], Runtime.named("tool"))
    assert not host.cluster.is_unknown("/run/netns/tool")
    assert host.isolated(A) == []


def test_an_address_is_taken_over_by_who_is_attached_with_it_next(host: Host) -> None:
    host.tell(DENY)
    host.tell(pod("web", app="web"))
    host.tell(pod("next", app="other"), "u2")
    host.cluster.handle_attached("cni:web", [A, B], WEB)
    host.cluster.handle_attached("cni:next", [A], Runtime(("x", "next"), "u2"))
    assert host.isolated(A) == []
    assert host.isolated(B) == ["ingress"]


def test_a_pod_that_ended_leaves_all_sets_while_it_is_still_attached(host: Host) -> None:
    host.tell(FROM_CLIENTS)
    host.tell(pod("web", app="web"))
    host.cluster.handle_attached("cni:web", [A], WEB)
    host.tell(pod("client", app="client"), "u2")
    host.cluster.handle_attached("cni:client", [B], Runtime(("x", "client"), "u2"))
    assert host.passes(B, A)
    host.tell(pod("client", str(B), app="client", phase="Succeeded"), "u2")
    assert not host.passes(B, A)


def test_explain_says_that_nobody_knows_yet_who_it_is(host: Host) -> None:
    host.cluster.handle_attached("cni:weave/c1/eth0", [A], WEB)
    answer = explain(host.policies, B, A, Service("tcp", 80))
    assert not answer.allowed
    assert "closed until it is known what pod that is" in lines(answer)[-1]


# --- any order ------------------------------------------------------------------------------------

NAMES = ("web", "client", "other")


def random_fact(rng: Random) -> tuple[str, object]:
    """A kind with its name, and what is so of it from now on; None for gone."""
    gone = rng.random() < 0.25
    name = rng.choice(NAMES)
    uid = f"{name}-{rng.randrange(2)}"
    address = str(rng.choice((A, B, C)))
    match rng.randrange(4):
        case 0:
            phase = rng.choice(("Running", "Running", "Succeeded"))
            app = rng.choice(("web", "client"))
            created = f"2026-01-0{rng.randrange(1, 4)}"
            document = pod(name, address, app=app, phase=phase, created=created)
            return f"pod {name}", None if gone else (document, uid)
        case 1:
            said = rng.choice(((("x", name), uid), (("x", name), ""), (None, uid), (None, "")))
            addresses = tuple(one for one in (A, B, C) if rng.random() < 0.5) or (A,)
            return f"attached {rng.randrange(3)}", None if gone else (addresses, Runtime(*said))
        case 2:
            return "namespace x", None if gone else namespace("x", team=rng.choice("ab"))
        case _:
            peer = {"namespaceSelector": labels(team=rng.choice("ab"))}
            rules = rng.choice(([], OPEN, [{"from": [peer]}]))
            app = rng.choice(("web", "client"))
            return f"policy {rng.choice('pq')}", None if gone else (app, rules)


def say(host: Host, key: str, fact: object) -> None:
    kind, _, name = key.partition(" ")
    match kind, fact:
        case "pod", None:
            host.cluster.handle_pod_removed(("x", name))
        case "pod", (document, uid):
            host.tell(document, uid)
        case "attached", None:
            host.cluster.handle_detached(f"cni:{name}")
        case "attached", (addresses, runtime):
            host.cluster.handle_detached(f"cni:{name}")
            host.cluster.handle_attached(f"cni:{name}", addresses, runtime)
        case "namespace", None:
            host.policies.handle_namespace_removed(name)
        case "namespace", document:
            host.tell(document)  # type: ignore[arg-type]  # it is no other
        case "policy", None:
            host.policies.handle_policy_removed(("x", name))
        case "policy", (app, rules):
            host.tell(policy(name, labels(app=app), ingress=rules))


def present(history: Iterable[tuple[str, object]]) -> dict[str, object]:
    """What is so in the end. An address is the last one's that was attached with it."""
    facts: dict[str, object] = {}
    for key, fact in history:
        facts.pop(key, None)
        if fact is not None:
            facts[key] = fact
        if key.startswith("attached") and fact is not None:
            taken = fact[0]  # type: ignore[index]  # of attachments
            for other in [one for one in facts if one.startswith("attached") and one != key]:
                addresses, runtime = facts[other]  # type: ignore[misc]
                left = tuple(one for one in addresses if one not in taken)
                if left:
                    facts[other] = (left, runtime)
                else:
                    del facts[other]
    return facts


def closed_of(host: Host) -> set[Address]:
    return {
        address for one in host.policies.pods.values() if one.unknown for address in one.addresses
    }


@pytest.mark.parametrize("seed", range(150))
def test_whatever_the_order_of_events_the_same_comes_out(seed: int) -> None:
    rng = Random(seed)
    history = [random_fact(rng) for _ in range(rng.randrange(5, 60))]
    lived = Host()
    for key, fact in history:
        say(lived, key, fact)
        _ = lived.table
        for address in closed_of(lived):
            assert lived.isolated(address) == ["ingress", "egress"]
    shuffled = [*present(history).items()]
    rng.shuffle(shuffled)
    fresh = Host()
    for key, fact in shuffled:
        say(fresh, key, fact)
    assert fresh.table.verdicts == lived.table.verdicts
    assert fresh.table.chains == lived.table.chains
    assert {name: set(one.elements) for name, one in fresh.table.sets.items()} == {
        name: set(one.elements) for name, one in lived.table.sets.items()
    }
