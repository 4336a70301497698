"""Taking a dead peer's ranges over."""

from itertools import combinations

import pytest

from ipam.core.consent import _electorate_hash, _raw, is_majority
from ipam.core.effects import Persist, Unicast
from ipam.core.messages import ConsentAnswer, ConsentRequest, decode_message, encode_message
from tests.ipam.core.mesh import TestMesh, peer_name


def started(count: int, universe: str = "10.32.0.0/24", **options: object) -> TestMesh:
    mesh = TestMesh(count, universe=universe, **options)  # type: ignore[arg-type]
    mesh.prime(0)
    mesh.run(8)
    mesh.gossip_round()
    return mesh


def share(mesh: TestMesh, at: int, of: int) -> int:
    ring = mesh.peers[mesh.names[at]].ring
    assert ring is not None
    return ring.owners().get(mesh.names[of], 0)


def test_a_majority_lets_a_dead_peers_ranges_be_taken_over() -> None:
    mesh = started(3)
    mesh.crash(mesh.names[2])
    request = mesh.take_over(0, 2)
    assert mesh.text(request) == "host3 is taken over: its addresses went to this host"
    assert share(mesh, 0, 2) == share(mesh, 1, 2) == 0
    assert share(mesh, 1, 0) == 256 - share(mesh, 1, 1)
    mesh.check_converged()


def test_what_was_taken_over_can_be_allocated_at_once() -> None:
    mesh = started(3, universe="10.32.0.0/28")
    mesh.crash(mesh.names[2])
    mesh.take_over(1, 2)
    given = [mesh.given(mesh.allocate(1, f"c{n}")) for n in range(14)]
    assert None not in given
    assert len(set(given)) == 14


def test_an_owner_that_sees_it_alive_objects() -> None:
    mesh = started(4)
    mesh.partition((0, 1, 2), (3,))
    name = mesh.names[2]
    reach = mesh.reach(name)
    sees = mesh.peers[name].handle_peers_changed(reach, mesh.now, [mesh.names[3]])
    mesh.perform(name, sees)
    request = mesh.take_over(0, 3)
    assert mesh.error(request).startswith("host3 still sees host4 alive")
    assert share(mesh, 0, 3) == 64


def test_a_minority_is_told_who_is_missing() -> None:
    mesh = started(5)
    mesh.partition((0, 1), (2, 3, 4))
    error = mesh.error(mesh.take_over(0, 4))
    assert error.startswith("2 of 3 peers needed are reachable")
    assert "start or reconnect host3, host4" in error
    assert "--force" in error


def test_two_halves_cannot_take_each_other_over() -> None:
    mesh = started(4)
    mesh.partition((0, 1), (2, 3))
    first, second = mesh.take_over(0, 2), mesh.take_over(2, 0)
    assert mesh.text(first)
    assert mesh.error(second).startswith("2 of 3 peers needed are reachable")


@pytest.mark.parametrize(
    ("asked", "error"),
    [(1, "host2 is alive, as this host sees it"), (0, "this host cannot take itself over")],
)
def test_the_living_are_left_alone(asked: int, error: str) -> None:
    mesh = started(3)
    assert mesh.error(mesh.take_over(0, asked)).startswith(error)
    assert mesh.error(mesh.take_over(0, asked, force=True)).startswith(error)


def test_it_can_be_repeated() -> None:
    mesh = started(3)
    mesh.crash(mesh.names[2])
    mesh.take_over(0, 2)
    entries = mesh.peers[mesh.names[0]].ring.entries()
    assert mesh.text(mesh.take_over(0, 2)).startswith("host3 is taken over")
    assert mesh.text(mesh.take_over(1, 2)) == "host3 is taken over: its addresses went to host1"
    assert mesh.peers[mesh.names[0]].ring.entries() == entries


@pytest.mark.parametrize("seed", range(30))
def test_two_operators_at_once_get_one_outcome(seed: int) -> None:
    mesh = started(5, seed=seed, reorder=True)
    mesh.crash(mesh.names[4])
    mesh.loss = 0.3 if seed % 2 else 0.0
    first = mesh.take_over(0, 4, deliver=False)
    second = mesh.take_over(1, 4, deliver=False)
    mesh.deliver()
    mesh.run(12)
    mesh.loss = 0.0
    mesh.heal()
    texts = [mesh.answers[request].text for request in (first, second)]
    taken = [at for at in range(4) if share(mesh, 2, at) > 52]
    assert len(taken) <= 1
    if any(texts):
        assert len(taken) == 1
    mesh.check_converged()
    if not seed % 2:
        assert all(texts)


def test_force_asks_nobody() -> None:
    mesh = started(3)
    mesh.crash(mesh.names[1])
    mesh.crash(mesh.names[2])
    assert mesh.error(mesh.take_over(0, 2)).startswith("1 of 2 peers needed are reachable")
    assert mesh.text(mesh.take_over(0, 2, force=True))
    assert share(mesh, 0, 2) == 0


def test_a_peer_that_returns_is_told_and_comes_back_empty() -> None:
    mesh = started(3)
    for number in range(4):
        mesh.allocate(2, f"c{number}")
    held = {row.address for row in mesh.peers[mesh.names[2]].addresses()}
    mesh.crash(mesh.names[2])
    mesh.take_over(0, 2)
    mesh.restart(mesh.names[2])
    mesh.gossip_round()
    mesh.run(8)
    returned = mesh.peers[mesh.names[2]]
    status = returned.status(mesh.now)
    assert any("host1 took its addresses over" in line for line in status.warnings)
    # Its containers keep their addresses, which it has claimed one by one; it has no other.
    assert {row.address for row in returned.addresses()} == held
    assert status.free == 0
    assert share(mesh, 0, 2) == 4
    assert mesh.given(mesh.allocate(2, "new")) is not None
    mesh.run(3)
    mesh.gossip_round()
    mesh.check_converged()
    mesh.check_no_duplicates()


def test_an_address_that_was_given_away_meanwhile_is_not_taken_back() -> None:
    mesh = started(3)
    old = mesh.given(mesh.allocate(2, "old"))
    assert old is not None
    mesh.crash(mesh.names[2])
    mesh.take_over(0, 2)
    assert mesh.given(mesh.claim(0, "new", old)) == old
    mesh.restart(mesh.names[2])
    mesh.gossip_round()
    mesh.run(8)
    assert any(
        f"old runs with {old}" in line for line in mesh.peers[mesh.names[2]].status(0).warnings
    )
    assert [row.owner for row in mesh.peers[mesh.names[0]].addresses()] == ["new"]


def test_a_donation_that_nobody_asked_had_heard_of_loses() -> None:
    mesh = started(5, universe="10.32.0.0/27")
    dead, friend = mesh.names[4], mesh.names[3]
    mesh.partition((0, 1, 2), (3, 4))
    while mesh.peers[friend].ring.owners()[friend] < 8:
        mesh.allocate(3, f"c{mesh.rng.random()}")
    mesh.crash(dead)
    assert "host4 could not be asked" in mesh.text(mesh.take_over(0, 4))
    mesh.heal()
    mesh.run(3)
    mesh.gossip_round()
    mesh.check_converged()
    # All but the one address with which a container of host4 runs, which host4 has claimed.
    assert share(mesh, 3, 0) == share(mesh, 0, 0) == 12
    mesh.check_no_duplicates()
    assert not mesh.peers[friend].status(mesh.now).frozen


def test_promises_survive_a_restart() -> None:
    mesh = started(3)
    mesh.crash(mesh.names[2])
    mesh.take_over(0, 2, deliver=False)
    mesh.deliver(1, partly=True)
    mesh.crash(mesh.names[0])
    mesh.restart(mesh.names[1])
    mesh.run(6)
    assert mesh.names[2] in mesh.peers[mesh.names[1]]._replica.promises


def test_a_peer_that_returns_waits_while_the_outcome_is_not_known() -> None:
    mesh = started(3)
    mesh.crash(mesh.names[2])
    mesh.take_over(0, 2, deliver=False)
    # Promise asked and given, value asked and accepted; the taker decides and dies.
    for _ in range(4):
        mesh.deliver(1, partly=True)
    assert share(mesh, 0, 2) == 0
    mesh.lose_all()
    mesh.crash(mesh.names[0])
    mesh.restart(mesh.names[2])
    request = mesh.allocate(2, "c", timeout_s=20)
    mesh.run(12)
    assert request not in mesh.answers
    (waiting,) = mesh.peers[mesh.names[2]].status(mesh.now).waiting
    assert "this host was declared dead" in waiting.reason
    mesh.restart(mesh.names[0])
    mesh.gossip_round()
    mesh.run(9)
    assert mesh.given(request) is not None
    mesh.check_converged()


def asked(
    mesh: TestMesh, voter: int, by: int, dead: int, step: int, taker: int | None = None
) -> ConsentAnswer:
    """Put one step of a take-over, by hand, to a voter; `step` is the ballot's round."""
    core = mesh.peers[mesh.names[voter]]
    assert core.ring is not None
    request = ConsentRequest(
        1,
        core.ring.ring_id,
        _raw(mesh.names[dead]),
        0,
        step,
        _electorate_hash(core._consent.electorate()),
        b"" if taker is None else _raw(mesh.names[taker]),
        1,
        core._replica.encode_entries(()),
    )
    effects = core.handle_unicast(mesh.names[by], encode_message(request), mesh.now)
    answers = [decode_message(one.payload) for one in effects if isinstance(one, Unicast)]
    (answer,) = [one for one in answers if isinstance(one, ConsentAnswer)]
    assert not answer.granted or isinstance(effects[0], Persist), "a promise is on disk first"
    return answer


def test_a_voter_keeps_the_higher_of_two_promises() -> None:
    mesh = started(5)
    mesh.crash(mesh.names[4])
    assert asked(mesh, 2, by=0, dead=4, step=1).granted
    assert asked(mesh, 2, by=1, dead=4, step=1).granted
    refused = asked(mesh, 2, by=0, dead=4, step=1, taker=0)
    assert (refused.granted, refused.kind) == (False, "outbid")
    assert asked(mesh, 2, by=1, dead=4, step=1, taker=1).granted


def test_what_was_accepted_before_is_brought_to_its_end() -> None:
    mesh = started(5)
    mesh.crash(mesh.names[4])
    for voter in (1, 3):
        assert asked(mesh, voter, by=0, dead=4, step=1).granted
        assert asked(mesh, voter, by=0, dead=4, step=1, taker=0).granted
    assert mesh.text(mesh.take_over(2, 4)).startswith(
        "host5 is taken over: its addresses went to host1"
    )
    assert share(mesh, 2, 0) == 256 - 3 * 51


def test_the_asker_learns_what_the_dead_peer_had_given_away() -> None:
    mesh = started(5, universe="10.32.0.0/27")
    dead, friend = mesh.names[4], mesh.names[3]
    ring = mesh.peers[dead].ring
    assert ring is not None
    start = ring.ranges_of(dead)[0].start
    ring.donate(dead, start, 2, dead, 1)
    mesh.gossip_round()
    mesh.partition((1, 2, 3, 4), (0,))
    ring.donate(dead, start, 2, friend, 1)
    mesh.gossip_round()
    mesh.crash(dead)
    mesh.groups = [list(mesh.names)]
    mesh.tell_reachable()
    before = share(mesh, 3, 3)
    assert mesh.text(mesh.take_over(0, 4))
    assert share(mesh, 0, 3) == share(mesh, 3, 3) == before
    mesh.gossip_round()
    mesh.check_converged()


def test_any_two_majorities_have_a_member_in_common() -> None:
    for size in range(1, 7):
        names = [peer_name(number) for number in range(size)]
        sets = [
            frozenset(chosen)
            for count in range(size + 1)
            for chosen in combinations(names, count)
            if is_majority(dict.fromkeys(chosen), names)
        ]
        assert sets
        assert all(one & other for one in sets for other in sets)
