"""Which pods there are on hosts without Kubernetes."""

from ipaddress import ip_address
from random import Random

import pytest

from policy.core.objects import Address, Key, Pod
from policy.core.roster import Attached, Identity, Roster, plain_name
from tests.policy.roster import everything


def roster(
    here: str,
    applied: list[Pod],
    attached: list[Attached],
    elsewhere: dict[str, list[Attached]],
) -> dict[Key, Pod]:
    made = Roster(here)
    for pod in applied:
        made.handle_applied(pod)
    made.follow_attached({one.owner: one for one in attached})
    made.follow_elsewhere(elsewhere)
    return {key: pod for key, pod in made.take_changed().items() if pod is not None}


A, B, C, D = (ip_address(f"10.0.0.{number}") for number in range(1, 5))


def test_an_attachment_is_a_pod_of_the_default_namespace_named_like_it() -> None:
    pods = roster("here", [], [Attached("/run/netns/Web_1", (A,))], {})
    assert [*pods] == [("default", "web-1")]
    assert pods["default", "web-1"].node == "here"


def test_what_attach_was_told_counts() -> None:
    identity = Identity("shop", "front", {"app": "web"})
    (pod,) = roster("here", [], [Attached("/run/netns/web", (A,), identity)], {}).values()
    assert (pod.key, pod.labels, pod.addresses) == (("shop", "front"), {"app": "web"}, (A,))


def test_pods_of_other_hosts_carry_their_nickname_and_are_not_here() -> None:
    elsewhere = {"host2": [Attached("web", (B,), Identity())]}
    pods = roster("here", [], [Attached("web", (A,))], elsewhere)
    assert [(key, pod.node) for key, pod in pods.items()] == [
        (("default", "web"), "here"),
        (("default", "web@host2"), ""),
    ]


def test_an_applied_pod_stands_for_an_attachment_of_which_nothing_was_said() -> None:
    applied = Pod("shop", "front", {"app": "web"}, (A,), node="elsewhere")
    (pod,) = roster("here", [applied], [Attached("web", (A,))], {}).values()
    assert (pod.key, pod.node) == (("shop", "front"), "here")


def test_an_applied_pod_with_another_address_is_not_here() -> None:
    applied = Pod("shop", "front", {}, (B,), node="here")
    pods = roster("here", [applied], [Attached("web", (A,))], {})
    assert pods["shop", "front"].node == ""
    assert ("default", "web") in pods


def test_an_address_that_is_here_is_not_elsewhere() -> None:
    elsewhere = {"host2": [Attached("old", (A, B), Identity())]}
    pods = roster("here", [], [Attached("web", (A,))], elsewhere)
    assert pods["default", "old@host2"].addresses == (B,)


def test_one_of_its_addresses_is_enough_to_know_a_pod_by() -> None:
    applied = Pod("shop", "front", {"app": "web"}, (A, B))
    attached = [Attached("web", (A, C)), Attached("other", (D,))]
    pods = roster("here", [applied], attached, {})
    assert [(key, pod.node) for key, pod in pods.items()] == [
        (("shop", "front"), "here"),
        (("default", "other"), "here"),
    ]


def test_what_was_described_is_younger_than_what_only_has_an_address() -> None:
    described, plain = Attached("a", (A,), Identity()), Attached("b", (B,))
    pods = roster("here", [], [described, plain], {})
    assert pods["default", "a"].created > pods["default", "b"].created


def test_the_order_of_hosts_does_not_matter() -> None:
    hosts = {"h2": [Attached("a", (A,), Identity())], "h1": [Attached("b", (B,), Identity())]}
    assert [*roster("here", [], [], hosts)] == [("default", "b@h1"), ("default", "a@h2")]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("/run/netns/web", "web"),
        ("3f2a91", "3f2a91"),
        ("/proc/42/ns/net", "net"),
        ("/_", "unnamed"),
        ("cni:weavepy/3F2a91/eth0", "3f2a91-eth0"),
    ],
)
def test_a_name_is_made_of_what_there_is(owner: str, name: str) -> None:
    assert plain_name(owner) == name


def test_after_any_changes_it_is_as_if_all_were_said_at_once() -> None:
    rng = Random(1)
    addresses = [ip_address(f"10.0.1.{number}") for number in range(6)]

    def some() -> tuple[Address, ...]:
        return tuple(rng.sample(addresses, rng.choice((0, 1, 1, 2))))

    def an_attachment(owner: str) -> Attached:
        name = rng.choice(("", "a", "b"))
        return Attached(owner, some(), rng.choice((None, None, Identity("default", name))))

    for _ in range(100):
        made, applied, known = Roster("here"), dict[Key, Pod](), dict[Key, Pod]()
        attached, elsewhere = dict[str, Attached](), dict[str, list[Attached]]()
        for _ in range(30):
            name = rng.choice("abc")
            match rng.randrange(6):
                case 0:
                    pod = Pod("default", name, {"v": rng.choice("12")}, some())
                    applied[pod.key] = pod
                    made.handle_applied(pod)
                case 1:
                    applied.pop(("default", name), None)
                    made.handle_withdrawn(("default", name))
                case 2:
                    attached[name] = an_attachment(name)
                case 3:
                    attached.pop(name, None)
                    made.follow_attached(attached)
                case 4:
                    listed = [an_attachment(one) for one in rng.sample("abc", rng.randrange(4))]
                    elsewhere[f"h{rng.randrange(2)}"] = listed
                case 5:
                    elsewhere.pop(f"h{rng.randrange(2)}", None)
            if rng.random() < 0.7:
                continue
            made.follow_attached(attached)
            made.follow_elsewhere(elsewhere)
            for key, now in made.take_changed().items():
                if now is None:
                    known.pop(key, None)
                else:
                    known[key] = now
            assert known == everything("here", applied.values(), attached.values(), elsewhere)
            assert made.take_changed() == {}


def test_a_change_touches_only_who_has_its_addresses() -> None:
    made = Roster("here")
    for number in range(100):
        made.handle_applied(Pod("default", f"p{number}", {}, (ip_address(number + 1),)))
    made.take_changed()
    made.follow_attached({"web": Attached("web", (ip_address(7),))})
    assert [*made.take_changed()] == [("default", "p6")]
    made.follow_attached({})
    assert [*made.take_changed()] == [("default", "p6")]


def test_an_address_that_is_listed_twice_is_one() -> None:
    made = Roster("here")
    for twice in ([Attached("web", (B, B), Identity())], []):
        made.handle_applied(Pod("shop", "front", {}, (A, A)))
        made.follow_elsewhere({"host2": twice})
        made.handle_withdrawn(("shop", "front"))
        assert made.take_changed() == {
            ("shop", "front"): None,
            ("default", "web@host2"): made.pod(("default", "web@host2")),
        }
    assert made.pod(("default", "web@host2")) is None
