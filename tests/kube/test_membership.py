"""What one router asks of the API server, in which order, and what it does when that fails."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest

from kube.core import membership
from kube.core.membership import (
    LOOK_AROUND_S,
    PUT_OFF_S,
    REGISTER_S,
    STRANGE_S,
    Effect,
    Membership,
    Sight,
    Talk,
)
from kube.core.objects import Node
from kube.core.register import FirstRing, Home, Reclaimed, Register, encode, peer_key
from kube.core.truth import turn_s
from tests.ipam.core.mesh import peer_name
from weavepy.base.effects import LogLine
from weavepy.base.errors import WeavepyError

A, B, C = (peer_name(number) for number in (1, 2, 3))
NODES = {
    name: Node(name, f"u-{name}", (f"10.0.0.{name[1:]}",), network_is_up=True)
    for name in ("n1", "n2", "n3")
}
HOMES = {A: Home("n1", "u-n1"), B: Home("n2", "u-n2"), C: Home("n3", "u-n3")}
RING = FirstRing("0102", (A, B), "10.32.0.0/12")
REGISTER = Register("1", RING, HOMES)
SIGHT = Sight(
    now=0.0,
    nodes=NODES,
    reachable=(B, C),
    sessions=(B, C),
    ring="0102",
    owners=(A, B, C),
    is_up_to_date=True,
)


@pytest.fixture
def member() -> Membership:
    return Membership(
        ourself=A,
        node_name="n1",
        universe="10.32.0.0/12",
        connection_limit=100,
        rng=Random(1),
        now=0.0,
    )


def held(talk: Talk[None], sight: Sight, answers: Iterable[object] = ()) -> list[Effect]:
    """What a talk does, looks and lines for the log left out; questions get these answers."""
    waiting, done = iter(answers), list[Effect]()
    answer: object = None
    while True:
        try:
            effect = talk.send(answer)
        except StopIteration:
            assert next(waiting, "nothing") == "nothing", "not all answers were asked for"
            return done
        answer = None
        if isinstance(effect, membership.Look):
            answer = sight
        elif not isinstance(effect, LogLine):
            done.append(effect)
        if isinstance(
            effect, membership.ReadRegister | membership.WriteRegister | membership.GetNode
        ):
            answer = next(waiting)


def test_nothing_is_done_before_the_api_server_has_answered_once(member: Membership) -> None:
    assert held(member.work(), replace(SIGHT, nodes=None)) == []


def test_a_router_goes_on_record_and_on_the_network_once(member: Membership) -> None:
    assert held(member.work(), SIGHT, [REGISTER]) == [
        membership.DialNodes(("10.0.0.2", "10.0.0.3")),
        membership.WriteRegister({peer_key(A): encode(HOMES[A])}),
        membership.TellVerdicts({}),
        membership.BeGateway(),
    ]
    assert held(member.work(), replace(SIGHT, now=REGISTER_S - 1)) == []
    later = replace(SIGHT, now=1.6 * REGISTER_S)
    assert membership.TellVerdicts({}) in held(member.work(), later, [REGISTER])


def test_what_failed_is_begun_anew_and_told_once(member: Membership) -> None:
    talk = member.work()
    assert isinstance(talk.send(None), membership.Look)
    talk.close()
    assert member.handle_over("it is away") == [LogLine("warning", "Kubernetes: it is away")]
    assert member.handle_over("it is away") == []
    assert member.warnings() == ["it is away"]
    assert membership.BeGateway() in held(member.work(), SIGHT, [REGISTER])


def test_a_new_cluster_gets_the_ring_that_the_register_took_first(member: Membership) -> None:
    sight = replace(SIGHT, ring="", owners=(), is_up_to_date=False)
    nothing = Register("1", homes=HOMES)
    early = held(member.work(), sight, [nothing])
    assert not any(isinstance(each, membership.Appoint) for each in early)
    after = replace(sight, now=LOOK_AROUND_S)
    lost = held(member.work(), after, [None, REGISTER])
    assert isinstance(lost[0], membership.WriteRegister)
    assert lost[0].version == "1"
    assert lost[-1] == membership.Appoint(b"\x01\x02", (A, B), new=False)


def test_who_is_not_on_record_yet_gets_no_part_in_the_first_ring(member: Membership) -> None:
    nothing = Register("1", homes={A: HOMES[A], B: HOMES[B]})
    sight = replace(SIGHT, ring="", owners=(), now=LOOK_AROUND_S)
    done = held(member.work(), sight, [nothing, REGISTER])
    [text] = [
        each.changes["ring"]
        for each in done
        if isinstance(each, membership.WriteRegister) and "ring" in each.changes
    ]
    assert text is not None
    assert A in text
    assert B in text
    assert C not in text


def test_a_ring_of_another_range_or_cluster_is_refused(member: Membership) -> None:
    other = FirstRing(RING.id, RING.peers, "10.0.0.0/8")
    with pytest.raises(WeavepyError, match="--ipalloc-range"):
        held(member.work(), replace(SIGHT, ring=""), [replace(REGISTER, ring=other)])
    with pytest.raises(WeavepyError, match="weavepy reset"):
        held(member.work(), replace(SIGHT, ring="ffff"))


def test_who_is_gone_is_looked_up_again_before_it_is_reclaimed(member: Membership) -> None:
    without = {name: node for name, node in NODES.items() if name != "n3"}
    sight = replace(SIGHT, nodes=without, reachable=(B,), sessions=(B,))
    assert turn_s(C, A, [B]) == 0
    first = held(member.work(), sight, [REGISTER, REGISTER, NODES["n3"]])
    assert not _reclaims(first), "what was watched is old: it is there again"
    again = replace(sight, now=PUT_OFF_S)
    found = held(member.work(), again, [REGISTER, None])
    assert _reclaims(found) == [membership.Reclaim(C, (C,))]
    assert not _reclaims(held(member.work(), replace(again, outdated="it is away")))


def test_an_owner_that_nobody_knows_yet_has_a_while_to_be_heard_of(member: Membership) -> None:
    held(member.work(), SIGHT, [REGISTER])
    newcomer = peer_name(4)
    strange = replace(SIGHT, owners=(A, B, C, newcomer))
    turn = turn_s(newcomer, A, (B, C))
    assert held(member.work(), replace(strange, now=5.0), []) == []
    assert held(member.work(), replace(strange, now=9.9), []) == []
    asked = held(member.work(), replace(strange, now=5.0 + max(STRANGE_S, turn)), [REGISTER])
    assert membership.ReadRegister() in asked


def test_targets_are_chosen_anew_when_a_node_has_changed_and_not_else(member: Membership) -> None:
    first = held(member.work(), replace(SIGHT, changes=1), [REGISTER])
    assert membership.DialNodes(("10.0.0.2", "10.0.0.3")) in first
    fewer = {name: NODES[name] for name in ("n1", "n2")}
    assert held(member.work(), replace(SIGHT, changes=1, nodes=fewer), []) == []
    second = held(member.work(), replace(SIGHT, changes=2, nodes=fewer), [])
    assert second == [membership.DialNodes(("10.0.0.2",))]


def test_a_take_over_is_decided_anew_if_the_register_changed_meanwhile(
    member: Membership,
) -> None:
    decided = replace(REGISTER, version="2", reclaimed={C: Reclaimed(1, B)})
    done = held(member.settle(C, 0, 1, A), SIGHT, [REGISTER, None, decided])
    assert done[-1] == membership.TellVerdicts({C: (1, B)})
    assert [type(each) for each in done[:3]] == [
        membership.ReadRegister,
        membership.WriteRegister,
        membership.ReadRegister,
    ]


def _reclaims(done: list[Effect]) -> list[Effect]:
    return [each for each in done if isinstance(each, membership.Reclaim)]


def test_it_rests_between_two_times_only_once_all_stands(member: Membership) -> None:
    assert member.rest_s == 0.0
    held(member.work(), SIGHT, [REGISTER])
    assert member.rest_s == membership.REST_S


def test_the_dead_are_reclaimed_before_an_address_is_waited_for(member: Membership) -> None:
    """They may have all that there are."""
    without = {name: node for name, node in NODES.items() if name != "n3"}
    sight = replace(SIGHT, nodes=without, reachable=(B,), sessions=(B,), owners=(C,))
    done = held(member.work(), sight, [REGISTER, REGISTER, None])
    kinds = [type(effect) for effect in done]
    assert kinds.index(membership.Reclaim) < kinds.index(membership.BeGateway)


def test_that_another_router_lives_on_a_replaced_machine_is_read_in_time(
    member: Membership,
) -> None:
    held(member.work(), SIGHT, [REGISTER])
    replaced = {**NODES, "n3": replace(NODES["n3"], uid="another")}
    sight = replace(SIGHT, nodes=replaced, reachable=(B,), sessions=(B,))
    assert held(member.work(), replace(sight, now=1.0)) == [], (
        "it may be on its way to the register"
    )
    newcomer = peer_name(4)
    register = replace(REGISTER, homes={**HOMES, newcomer: Home("n3", "another")})
    later = replace(sight, now=1.0 + max(STRANGE_S, turn_s(C, A, (B,))))
    found = held(member.work(), later, [register, replaced["n3"]])
    assert _reclaims(found) == [membership.Reclaim(C, (C,))]
