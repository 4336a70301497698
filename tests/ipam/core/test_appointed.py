"""With a register outside of the mesh: the first ring, and who takes over from whom."""

from __future__ import annotations

from ipaddress import ip_network
from random import Random

import pytest

from ipam.core.effects import AnswerRequest, IpamEffect, SettleTakeOver
from ipam.core.election import Appointed
from ipam.core.ipam import Ipam
from ipam.core.restart import GRACE_S, MAX_ASKED, WORD_S, RestartCheck
from tests.ipam.core.mesh import TestMesh, peer_name
from weavepy.base.names import PeerName

RING = b"12345678"


class Registered(TestMesh):
    """Peers with a register beside them. What they ask of it waits in `wanted`."""

    __test__ = False

    def __init__(self, count: int, **options: object) -> None:
        self.wanted: list[SettleTakeOver] = []
        self.decided: dict[PeerName, tuple[int, PeerName]] = {}
        super().__init__(count, init=Appointed(), **options)  # type: ignore[arg-type]
        for name in self.names:
            self.perform(name, self.peers[name].handle_verdicts({}, self.now))
            self.perform(name, self.peers[name].appoint(RING, self.names, True, self.now))
        self.deliver()
        self.run(8)

    def perform(self, name: PeerName, effects: list[IpamEffect]) -> None:  # type: ignore[override]
        self.wanted += [effect for effect in effects if isinstance(effect, SettleTakeOver)]
        super().perform(name, [one for one in effects if not isinstance(one, SettleTakeOver)])

    def reclaim(self, at: int, dead: int, *gone: int) -> int:
        number, peer = self._next(at)
        names = [self.names[each] for each in (dead, *gone)]
        effects = peer.reclaim(number, self.names[dead], names, self.now + 10, self.now)
        self.perform(self.names[at], effects)
        self.deliver()
        return number

    def settle(self) -> None:
        """The register decides, for whoever comes first, and tells who asked."""
        for one in self.wanted:
            epoch, _ = self.decided.get(one.peer, (0, one.taker))
            if epoch <= one.after:
                self.decided[one.peer] = (one.epoch, one.taker)
            verdict = {one.peer: self.decided[one.peer]}
            for name, peer in self.peers.items():
                if one.request in peer._consent.under_way:
                    self.perform(name, peer.handle_verdicts(verdict, self.now))
        self.wanted.clear()
        self.deliver()

    def share(self, at: int, of: int) -> int:
        ring = self.peers[self.names[at]].ring
        assert ring is not None
        return ring.owners().get(self.names[of], 0)


def answer(mesh: TestMesh, request: int) -> AnswerRequest:
    return mesh.answers[request]


def test_the_first_ring_is_what_the_register_says() -> None:
    mesh = Registered(4)
    assert [mesh.share(at, at) for at in range(4)] == [64] * 4
    mesh.check_converged()


def test_nobody_makes_a_ring_while_the_register_has_not_spoken() -> None:
    peer = Ipam(
        ourself=peer_name(1),
        nickname="host1",
        universe=ip_network("10.32.0.0/24"),
        default_subnet=None,
        init=Appointed(),
        saved=None,
        rng=Random(1),
        now=0.0,
    )
    peer.prime(1, 100.0, 0.0)
    peer.handle_timeout(50.0)
    assert peer.ring is None
    assert "Kubernetes API server" in peer.status(50.0).reason


def test_one_of_two_can_take_over_the_other_that_is_gone() -> None:
    mesh = Registered(2)
    mesh.crash(mesh.names[0])
    assert mesh.error(mesh.take_over(1, 0)).startswith("1 of 2 peers needed are reachable")
    request = mesh.reclaim(1, 0)
    mesh.settle()
    assert mesh.text(request) == "host1 is taken over: its addresses went to this host"
    assert mesh.share(1, 1) == 256


def test_of_those_that_are_not_gone_a_majority_is_needed() -> None:
    mesh = Registered(5)
    mesh.partition((0, 1), (2, 3))
    mesh.crash(mesh.names[4])
    error = mesh.error(mesh.reclaim(2, 4))
    assert error.startswith("2 of 3 peers needed are reachable")
    assert mesh.wanted == []
    # Three are gone for good: of the other two both are here.
    request = mesh.reclaim(2, 4, 0, 1)
    assert [one.peer for one in mesh.wanted] == [mesh.names[4]]
    mesh.settle()
    assert mesh.text(request)


def test_whoever_lives_is_left_alone_whatever_the_register_thinks() -> None:
    mesh = Registered(3)
    assert mesh.error(mesh.reclaim(0, 1)).startswith("host2 is alive")
    assert mesh.wanted == []


def test_two_that_ask_at_once_with_other_peers_each_get_one_outcome() -> None:
    mesh = Registered(5)
    mesh.crash(mesh.names[4])
    mesh.partition((0, 1), (2, 3))
    # Each side takes the other for gone, so that both have their majority.
    first, second = mesh.reclaim(0, 4, 2, 3), mesh.reclaim(2, 4, 0, 1)
    assert len(mesh.wanted) == 2
    mesh.settle()
    taker = mesh.names[0]
    assert mesh.text(first) == "host5 is taken over: its addresses went to this host"
    assert mesh.text(second) == "host5 is taken over: its addresses went to host1"
    mesh.heal()
    assert {peer.ring.owners()[taker] for peer in mesh.peers.values() if peer.ring} == {103}
    mesh.check_converged()


def test_a_decision_whose_taker_died_at_once_is_brought_to_its_end_by_another() -> None:
    mesh = Registered(4)
    mesh.crash(mesh.names[3])
    mesh.reclaim(0, 3)
    (one,) = mesh.wanted
    mesh.decided[one.peer] = (one.epoch, one.taker)
    mesh.crash(mesh.names[0])
    request = mesh.reclaim(1, 3)
    mesh.settle()
    assert mesh.text(request) == "host4 is taken over: its addresses went to host1"
    mesh.restart(mesh.names[0])
    mesh.run(8)
    assert mesh.share(0, 0) == mesh.share(1, 0) == 128
    mesh.check_converged()


def test_who_was_reclaimed_comes_back_empty_by_the_registers_word_alone() -> None:
    mesh = Registered(3)
    mesh.crash(mesh.names[2])
    mesh.reclaim(0, 2)
    mesh.settle()
    mesh.partition((0, 1), (2,))
    returned = mesh.restart(mesh.names[2])
    mesh.run(30)
    request = mesh.allocate(2, "web", timeout_s=5.0)
    assert mesh.given(request) is None, "alone, and the register not read, it gives out nothing"
    mesh.perform(mesh.names[2], returned.handle_verdicts(mesh.decided, mesh.now))
    assert mesh.share(2, 2) == 0
    mesh.heal()
    mesh.run(8)
    assert mesh.given(mesh.allocate(2, "web")) is not None
    mesh.check_converged()
    mesh.check_no_duplicates()


def test_who_is_not_on_record_gets_no_space_that_nobody_could_reclaim() -> None:
    mesh = Registered(3)
    mesh.crash(mesh.names[2])
    mesh.reclaim(0, 2)
    mesh.settle()
    returned = mesh.restart(mesh.names[2])
    mesh.heal()
    mesh.perform(mesh.names[2], returned.handle_verdicts(mesh.decided, mesh.now, False))
    request = mesh.allocate(2, "web", timeout_s=5.0)
    mesh.run(6)
    assert mesh.given(request) is None
    assert mesh.share(0, 2) == 0
    mesh.perform(mesh.names[2], returned.handle_verdicts(mesh.decided, mesh.now, True))
    assert mesh.given(mesh.allocate(2, "web")) is not None


@pytest.mark.parametrize("again", [1, 3])
def test_a_verdict_is_idempotent(again: int) -> None:
    mesh = Registered(3)
    mesh.crash(mesh.names[2])
    mesh.reclaim(0, 2)
    mesh.settle()
    before = mesh.peers[mesh.names[1]].ring.entries()  # type: ignore[union-attr]
    for _ in range(again):
        for name, peer in mesh.peers.items():
            mesh.perform(name, peer.handle_verdicts(mesh.decided, mesh.now))
        mesh.deliver()
    assert mesh.peers[mesh.names[1]].ring.entries() == before  # type: ignore[union-attr]


def test_being_alone_proves_nothing_until_the_register_was_read() -> None:
    check = RestartCheck(Random(1), awaits_word=True)
    check.begin([peer_name(2)], True, 0.0)
    for at in range(0, 60, 5):
        check.ask({}, float(at))
    assert not check.passed
    assert "Kubernetes API server" in check.reason(60.0)
    check.handle_word()
    check.ask({}, 60.0 + GRACE_S)
    assert check.passed


def test_a_peers_answer_will_do_without_the_register() -> None:
    check = RestartCheck(Random(1), awaits_word=True)
    check.begin([peer_name(2)], True, 0.0)
    reachable = {peer_name(2): None}
    assert check.ask(reachable, 1.0, neighbours=reachable) == [peer_name(2)]
    check.handle_heard(peer_name(2))
    check.ask(reachable, 1.1, neighbours=reachable)
    assert check.passed


OWNERS = [peer_name(number) for number in range(2, 102)]
EVERYBODY = dict.fromkeys(OWNERS)


def hundred_owners() -> RestartCheck:
    check = RestartCheck(Random(1), awaits_word=True)
    check.begin(OWNERS, True, 0.0)
    return check


def test_with_the_registers_word_sixteen_neighbours_will_do_of_a_hundred_owners() -> None:
    check = hundred_owners()
    check.handle_word()
    near = OWNERS[:3]
    asked = list(check.ask(EVERYBODY, 0.1, near))
    assert sorted(asked) == near, "others' answers would not find us yet"
    for peer in asked:
        check.handle_heard(peer)
    near = OWNERS[:40]
    more = list(check.ask(EVERYBODY, 0.2, near))
    assert not check.passed, "three of a hundred are few"
    assert len(more) == MAX_ASKED - 3
    assert set(more) < set(near)
    for peer in more:
        check.handle_heard(peer)
    check.ask(EVERYBODY, 0.3, near)
    assert check.passed


def test_who_has_few_neighbours_asks_others_a_little_later() -> None:
    check = hundred_owners()
    check.handle_word()
    (near,) = check.ask(EVERYBODY, 0.1, OWNERS[:1])
    check.handle_heard(near)
    assert check.ask(EVERYBODY, 0.2, OWNERS[:1]) == ()
    at = check.next_at()
    assert at == 0.1 + WORD_S
    assert len(check.ask(EVERYBODY, at, OWNERS[:1])) == MAX_ASKED - 1


def test_without_the_registers_word_a_majority_of_the_owners_has_to_answer() -> None:
    check = hundred_owners()
    for peer in check.ask(EVERYBODY, 0.1, OWNERS):
        check.handle_heard(peer)
    check.ask(EVERYBODY, 0.2, OWNERS)
    assert not check.passed
    more = check.ask(EVERYBODY, 0.1 + WORD_S, OWNERS)
    assert len(more) == 51 - MAX_ASKED
    for peer in more:
        check.handle_heard(peer)
    check.ask(EVERYBODY, 0.2 + WORD_S, OWNERS)
    assert check.passed


def test_the_word_that_comes_later_ends_the_wait_for_a_majority() -> None:
    check = hundred_owners()
    for peer in check.ask(EVERYBODY, 0.1, OWNERS):
        check.handle_heard(peer)
    check.handle_word()
    check.ask(EVERYBODY, 0.5, OWNERS)
    assert check.passed
