"""Who is gone, whom to believe, who acts, and what the register decides."""

from collections.abc import Collection, Mapping
from random import Random

import pytest

from kube.core import truth
from kube.core.objects import Node
from kube.core.register import (
    MAX_RECLAIMED,
    FirstRing,
    Home,
    Reclaimed,
    Register,
    UnreadableRing,
    encode,
    peer_key,
    reclaimed_key,
)
from tests.ipam.core.mesh import peer_name
from weavepy.base.names import PeerName

A, B, C = (peer_name(number) for number in (1, 2, 3))
NODES = {name: Node(name, f"u-{name}", (f"10.0.0.{name[1:]}",)) for name in ("n1", "n2", "n3")}
HOMES = {A: Home("n1", "u-n1"), B: Home("n2", "u-n2"), C: Home("n3", "u-n3")}
REGISTER = Register("1", homes=HOMES)


def without(name: str) -> dict[str, Node]:
    return {each: node for each, node in NODES.items() if each != name}


def test_the_other_nodes_are_dialled() -> None:
    assert truth.targets(NODES, "n1", 100) == ("10.0.0.2", "10.0.0.3")


def many(count: int) -> dict[str, Node]:
    return {f"n{at:04}": Node(f"n{at:04}", "", (f"n{at:04}",)) for at in range(count)}


def layers(dialled: Mapping[str, Collection[str]], without: Collection[str] = ()) -> list[int]:
    """How many nodes are at each distance from the first one, over links of either direction."""
    links: dict[str, set[str]] = {name: set() for name in dialled if name not in without}
    for name in links:
        for other in dialled[name]:
            if other in links:
                links[name].add(other)
                links[other].add(name)
    layer, met, found = {next(iter(links))}, set[str](), list[int]()
    while layer:
        found.append(len(layer))
        met |= layer
        layer = {other for name in layer for other in links[name]} - met
    return found


@pytest.mark.parametrize("count", [101, 128, 1000])
def test_of_many_nodes_each_dials_few_and_all_are_connected(count: int) -> None:
    dialled = {name: truth.targets(many(count), name, 50) for name in many(count)}
    assert max(map(len, dialled.values())) <= count.bit_length() + truth.SUCCESSORS
    distances = layers(dialled)
    assert sum(distances) == count
    assert len(distances) - 1 <= 5


def test_half_of_a_thousand_nodes_are_down_and_the_others_are_connected() -> None:
    dialled = {name: truth.targets(many(1000), name, 50) for name in many(1000)}
    down = Random(1).sample(sorted(dialled), 500)
    assert sum(layers(dialled, without=down)) == 500


def test_a_node_that_joins_a_thousand_changes_whom_a_few_dial() -> None:
    before = {name: truth.targets(many(1000), name, 50) for name in many(1000)}
    after = {name: truth.targets(many(1001), name, 50) for name in many(1000)}
    assert 0 < sum(before[name] != after[name] for name in before) < 40


def test_an_owner_whose_node_is_not_there_and_whom_nobody_reaches_is_suspect() -> None:
    assert truth.suspects([A, B, C], [A], REGISTER, without("n3")) == [C]
    assert truth.suspects([A, B, C], [A, C], REGISTER, without("n3")) == []


def test_a_node_that_is_only_down_is_not_gone() -> None:
    assert truth.suspects([A, B, C], [A], REGISTER, NODES) == []


def test_a_peer_that_never_was_on_record_is_never_gone() -> None:
    register = Register("1", homes={A: HOMES[A]})
    assert truth.suspects([A, C], [A], register, {"n1": NODES["n1"]}) == []


def test_a_machine_that_took_over_a_name_is_another_only_when_its_router_says_so() -> None:
    again = Node("n3", "u-new")
    assert not truth.is_gone(C, REGISTER, again), "the same machine may just have come back"
    successor = Register("1", homes=HOMES | {peer_name(9): Home("n3", "u-new")})
    assert truth.is_gone(C, successor, again)
    returned = Register("1", homes=HOMES | {C: Home("n3", "u-new")})
    assert not truth.is_gone(C, returned, again)


def test_a_server_that_does_not_know_us_or_who_lives_is_not_believed() -> None:
    assert not truth.why_not_believed(without("n3"), "n1", [A, B], REGISTER)
    assert "does not know this node" in truth.why_not_believed(without("n1"), "n1", [], REGISTER)
    restored = truth.why_not_believed({"n1": NODES["n1"]}, "n1", [A, B], REGISTER)
    assert "n2" in restored
    assert "alive" in restored


def test_one_peer_has_the_first_turn_and_the_others_wait_longer() -> None:
    peers = [A, B, peer_name(4), peer_name(5)]
    turns = sorted(truth.turn_s(C, each, peers) for each in peers)
    assert turns == [0, truth.TURN_S, 2 * truth.TURN_S, 3 * truth.TURN_S]


def test_the_register_decides_once_on_each_death() -> None:
    written = truth.judge(REGISTER, C, 0, 1, A)
    assert isinstance(written, truth.Write)
    record = Reclaimed(1, A, "n3")
    assert dict(written.changes) == {reclaimed_key(C): encode(record)}
    decided = Register("2", homes=HOMES, reclaimed={C: record})
    assert truth.judge(decided, C, 0, 5, B) == truth.Adopt(1, A)
    # It came back and died again.
    assert isinstance(truth.judge(decided, C, 1, 5, B), truth.Write)


def test_the_record_of_take_overs_is_bounded() -> None:
    many = {peer_name(number): Reclaimed(number, A) for number in range(10, 10 + MAX_RECLAIMED)}
    homes = {peer: Home(f"n{peer}", "u") for peer in many}
    written = truth.judge(Register("1", homes=homes, reclaimed=many), C, 0, 9999, A)
    assert isinstance(written, truth.Write)
    oldest = peer_name(10)
    assert [key for key, value in written.changes.items() if value is None] == [
        reclaimed_key(oldest),
        peer_key(oldest),
    ]
    # Until its own take-over is done it must be known where it lived.
    again = truth.judge(Register("1", homes=homes, reclaimed=many), oldest, 10, 9999, A)
    assert isinstance(again, truth.Write)
    assert [*again.changes] == [reclaimed_key(oldest)]


def test_a_register_is_read_as_it_was_written() -> None:
    ring = FirstRing("0102", (A, B), "10.32.0.0/12")
    data = {
        "ring": encode(ring),
        peer_key(A): encode(HOMES[A]),
        reclaimed_key(B): encode(Reclaimed(3, A, "n2")),
    }
    register = Register.parse("7", data)
    assert register == Register("7", ring, {A: HOMES[A]}, {B: Reclaimed(3, A, "n2")})
    assert register.verdicts() == {B: (3, A)}


def test_what_somebody_else_wrote_into_it_is_left_out_but_never_a_ring() -> None:
    junk = {"peer.": "{}", "peer.00000000000x": "{}", "peer.000000000001": "no", "README": "hi"}
    assert Register.parse("7", junk) == Register("7")
    for text in ("", "{}", '{"id": "xyz", "peers": []}'):
        with pytest.raises(UnreadableRing):
            Register.parse("7", {"ring": text})


def test_names_of_peers_survive_being_keys() -> None:
    assert peer_key(PeerName("0a:1b:2c:3d:4e:5f")) == "peer.0a1b2c3d4e5f"
