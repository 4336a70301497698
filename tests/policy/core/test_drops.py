"""Dropped packets in words, and each connection told once."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.core.drops import AGAIN_S, MAX_KINDS, Repeats, explained
from policy.core.packets import Packet, read_packet
from tests.policy.interpreter import policies_of
from tests.policy.objects import OPEN, labels, pod, policy

A, B = "10.1.0.1", "10.1.0.2"
WORLD = [pod("a", A), pod("b", B, app="web"), policy("closed", labels(app="web"))]


def packet(source: str, destination: str, ports: tuple[int, int] = (4000, 80)) -> Packet:
    return Packet(ip_address(source), ip_address(destination), "tcp", *ports)


def test_a_drop_has_the_names_and_the_policies_that_isolate() -> None:
    policies = policies_of(WORLD, lambda pod: True)
    drop = explained(policies, "ingress new", packet(A, B))
    assert drop is not None
    assert str(drop) == f"x/a ({A}) -> x/b ({B}) 80/tcp: ingress of x/b ({B}), isolated by x/closed"
    assert drop.why[-1] == "and no rule allows anything"


def test_a_packet_that_goes_back_is_of_the_connection_that_it_answers() -> None:
    policies = policies_of(WORLD, lambda pod: True)
    drop = explained(policies, "ingress reply", packet(B, A, (80, 4000)))
    assert drop is not None
    assert (str(drop.source.address), drop.service) == (A, "80/tcp")
    assert drop.policies == ("x/closed",)


@pytest.mark.parametrize(
    ("words", "reason"),
    [("ingress unjudged", "was not seen"), ("ingress new", "policies have changed since")],
)
def test_a_drop_that_present_policies_do_not_explain_is_not_explained_by_them(
    words: str, reason: str
) -> None:
    world = [*WORLD, policy("open", labels(app="web"), ingress=OPEN)]
    drop = explained(policies_of(world, lambda pod: True), words, packet(A, B))
    assert drop is not None
    assert reason in drop.why[0]


def test_a_packet_to_a_group_is_told_with_the_pod_that_does_not_get_it() -> None:
    to_all = packet(A, "224.0.0.251")
    drop = explained(
        policies_of(WORLD, lambda pod: True),
        "ingress group",
        to_all,
        (ip_address("fd00::2"), ip_address(B)),
    )
    assert drop is not None
    assert str(drop.destination) == "x/b (224.0.0.251)"
    assert drop.policies == ("x/closed",)


def test_words_of_somebody_else_are_no_drop() -> None:
    policies = policies_of(WORLD, lambda pod: True)
    for words in ("", "ingress", "DROP new", "ingress else"):
        assert explained(policies, words, packet(A, B)) is None


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_is_none(data: bytes) -> None:
    read_packet(data)


def test_ports_are_read_behind_the_headers_that_precede_them() -> None:
    tcp = (4000).to_bytes(2, "big") + (80).to_bytes(2, "big")
    ends = ip_address("fd00::1").packed + ip_address("fd00::2").packed
    options = bytes([6, 0, 0, 0, 0, 0, 0, 0])
    plain = bytes([0x60, 0, 0, 0, 0, 12, 0, 64]) + ends
    assert read_packet(plain + options + tcp) == packet("fd00::1", "fd00::2")
    v4 = bytes([0x46, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0]) + bytes([10, 1, 0, 1, 10, 1, 0, 2])
    assert read_packet(v4 + bytes(4) + tcp) == packet(A, B)


def test_one_kind_is_told_once_a_minute_and_then_how_often_it_came() -> None:
    repeats = Repeats()
    assert [repeats.is_news("a", now) for now in (0.0, 1.0, 2.0)] == [True, False, False]
    assert repeats.is_news("b", 3.0)
    assert repeats.next_deadline() == AGAIN_S
    assert repeats.over(AGAIN_S) == [("a", 2)]
    assert repeats.is_news("a", AGAIN_S)
    assert repeats.over(AGAIN_S + 3.0) == []


def test_what_finds_no_room_is_counted() -> None:
    repeats = Repeats()
    told = sum(repeats.is_news(str(number), 0.0) for number in range(MAX_KINDS + 5))
    assert told == MAX_KINDS
    assert repeats.over(AGAIN_S) == [("", 5)]
