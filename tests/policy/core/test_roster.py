"""Which pods there are on hosts without Kubernetes."""

from ipaddress import ip_address

import pytest

from policy.core.objects import Pod
from policy.core.roster import Attached, Identity, plain_name, roster

A, B = ip_address("10.0.0.1"), ip_address("10.0.0.2")


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
