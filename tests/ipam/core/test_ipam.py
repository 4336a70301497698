"""Several whole cores together: requests, donations, claims, partitions, restarts."""

from ipaddress import ip_network
from math import inf

import pytest

from ipam.core.effects import RunningAddress, Unicast
from ipam.core.election import Consensus, Observer, Seed
from ipam.core.ipam import Ipam
from ipam.core.messages import SpaceRequest, decode_message, encode_message
from tests.ipam.core.mesh import TestMesh, address, peer_name
from weavepy.base.errors import UsageError, WeavepyError


def test_a_single_host_without_peers_allocates_at_once() -> None:
    mesh = TestMesh(1, init=Consensus(1), expects_peers=False)
    assert mesh.given(mesh.allocate(0, "a")) == "10.32.0.1"


def test_a_single_host_allocates_at_once_after_a_restart() -> None:
    mesh = TestMesh(1, init=Consensus(1), expects_peers=False)
    mesh.allocate(0, "a")
    mesh.restart(mesh.names[0])
    assert mesh.given(mesh.allocate(0, "a")) == "10.32.0.1"
    assert mesh.given(mesh.allocate(0, "b")) == "10.32.0.2"


def test_the_same_owner_gets_the_same_address_again() -> None:
    mesh = TestMesh(3)
    first = mesh.given(mesh.allocate(1, "a"))
    assert first is not None
    assert mesh.given(mesh.allocate(1, "a")) == first


def test_network_and_broadcast_addresses_are_not_given_out() -> None:
    mesh = TestMesh(1, universe="10.32.0.0/29", init=Consensus(1), expects_peers=False)
    given = [mesh.given(mesh.allocate(0, f"c{number}")) for number in range(6)]
    assert given == [f"10.32.0.{number}" for number in range(1, 7)]
    full = mesh.allocate(0, "c7")
    assert mesh.answers[full].kind == "no-space"
    assert "no free address in 10.32.0.0/29 on this host" in mesh.error(full)


def test_a_peer_without_space_gets_it_from_another() -> None:
    mesh = TestMesh(2, universe="10.32.0.0/28")
    given = [mesh.given(mesh.allocate(0, f"c{number}")) for number in range(14)]
    assert sorted(map(str, given)) == sorted(f"10.32.0.{number}" for number in range(1, 15))
    mesh.check_no_duplicates()
    mesh.gossip_round()
    mesh.check_converged()
    full = mesh.allocate(0, "one more")
    assert "no free address in 10.32.0.0/28 on this host: release" in mesh.error(full)


def test_when_all_hosts_are_full_the_error_says_how_many_were_asked() -> None:
    mesh = TestMesh(2, universe="10.32.0.0/28")
    for at in (0, 1):
        for number in range(7):
            mesh.allocate(at, f"c{at}-{number}")
    full = mesh.allocate(0, "one more")
    assert "no free address in 10.32.0.0/28 on this host and 1 others" in mesh.error(full)
    assert mesh.answers[full].kind == "no-space"


def test_subnets_are_served_by_whoever_owns_addresses_in_them() -> None:
    mesh = TestMesh(4)
    last = mesh.given(mesh.allocate(0, "a", "10.32.0.240/28"))
    assert last is not None
    assert last.startswith("10.32.0.2")
    assert mesh.answers[mesh.allocate(0, "a", "10.33.0.0/24")].kind == "usage"
    assert mesh.answers[mesh.allocate(0, "a", "10.32.0.0/31")].kind == "usage"


def test_a_freed_address_rests_and_is_taken_early_only_when_nothing_else_is_left() -> None:
    mesh = TestMesh(1, universe="10.32.0.0/30", init=Consensus(1), expects_peers=False)
    assert mesh.given(mesh.allocate(0, "a")) == "10.32.0.1"
    released = mesh.release(0, "a")
    assert mesh.answers[released].released == (address("10.32.0.1"),)
    assert mesh.given(mesh.allocate(0, "b")) == "10.32.0.2"
    assert mesh.given(mesh.allocate(0, "c")) == "10.32.0.1"


def test_a_rested_address_is_given_out_again() -> None:
    mesh = TestMesh(1, init=Consensus(1), expects_peers=False)
    mesh.allocate(0, "a")
    mesh.release(0, "a")
    assert mesh.given(mesh.allocate(0, "b")) == "10.32.0.2"
    mesh.run(61)
    assert mesh.given(mesh.allocate(0, "c")) == "10.32.0.1"
    assert mesh.disks[mesh.names[0]].rows.keys() == {address("10.32.0.1"), address("10.32.0.2")}


def test_a_claim_in_the_range_of_another_peer_moves_exactly_that_address() -> None:
    mesh = TestMesh(2)
    mesh.prime(0)
    assert mesh.given(mesh.claim(0, "a", "10.32.0.200")) == "10.32.0.200"
    ring = mesh.peers[mesh.names[1]].ring
    assert ring is not None
    entry = ring.covering(address("10.32.0.200"))
    assert entry is not None
    assert (entry.owner, entry.size) == (mesh.names[0], 1)


def test_a_claim_of_an_address_in_use_names_container_and_host() -> None:
    mesh = TestMesh(2)
    mesh.claim(1, "abc", "10.32.0.200")
    refused = mesh.claim(0, "def", "10.32.0.200")
    assert mesh.error(refused) == "10.32.0.200 is in use by container abc on host2"
    assert mesh.answers[refused].kind == "in-use"
    here = mesh.claim(1, "def", "10.32.0.200")
    assert mesh.error(here) == "10.32.0.200 is in use by container abc on host2"


def test_a_claim_outside_the_universe_or_of_a_reserved_address_says_so() -> None:
    mesh = TestMesh(1, init=Consensus(1))
    assert mesh.answers[mesh.claim(0, "a", "192.168.1.1")].kind == "outside-universe"
    assert mesh.answers[mesh.claim(0, "a", "10.32.0.0")].kind == "reserved"
    assert mesh.answers[mesh.claim(0, "a", "10.32.0.255")].kind == "reserved"


def test_a_claim_of_an_address_whose_owner_is_away_waits_with_a_reason_and_ends() -> None:
    mesh = TestMesh(2)
    mesh.prime(0)
    mesh.crash(mesh.names[1])
    request = mesh.claim(0, "a", "10.32.0.200", timeout_s=5)
    status = mesh.peers[mesh.names[0]].status(mesh.now)
    assert "10.32.0.200 lies in the range of host2, which is not reachable" in (
        status.waiting[0].reason
    )
    mesh.run(6)
    assert mesh.answers[request].kind == "timeout"
    assert "host2" in mesh.error(request)


def test_waiting_for_consensus_says_how_many_are_missing_and_what_to_do() -> None:
    mesh = TestMesh(3)
    mesh.partition([0], [1], [2])
    request = mesh.allocate(0, "a", timeout_s=5)
    waiting = mesh.peers[mesh.names[0]].status(mesh.now).waiting
    assert "1 of 2 peers needed are reachable; start more hosts" in waiting[0].reason
    mesh.run(6)
    assert "1 of 2 peers needed are reachable" in mesh.error(request)
    again = mesh.allocate(0, "a")
    mesh.heal()
    mesh.run(5)
    assert mesh.given(again) is not None


def test_two_partitions_go_on_and_heal_without_duplicates() -> None:
    mesh = TestMesh(4)
    mesh.prime(0)
    mesh.partition([0, 1], [2, 3])
    given = [mesh.given(mesh.allocate(at, f"c{at}-{n}")) for n in range(50) for at in (0, 2)]
    assert None not in given
    assert len(set(given)) == 100
    mesh.heal()
    mesh.check_no_duplicates()
    mesh.check_converged()


def test_a_partition_without_space_waits_for_the_rest_and_is_served_after_healing() -> None:
    mesh = TestMesh(2, universe="10.32.0.0/29")
    mesh.prime(0)
    mesh.partition([0], [1])
    for number in range(3):
        assert mesh.given(mesh.allocate(0, f"c{number}")) is not None
    request = mesh.allocate(0, "one more")
    assert "waiting for host2" in mesh.peers[mesh.names[0]].status(mesh.now).waiting[0].reason
    mesh.heal()
    assert mesh.given(request) is not None


def test_a_restarted_peer_keeps_its_addresses_and_goes_on_while_others_are_down() -> None:
    mesh = TestMesh(2)
    first = mesh.given(mesh.allocate(0, "a"))
    mesh.crash(mesh.names[1])
    mesh.restart(mesh.names[0])
    request = mesh.allocate(0, "b")
    assert mesh.given(request) is None
    assert mesh.given(mesh.allocate(0, "a")) == first
    mesh.run(6)
    assert mesh.given(request) is not None


def test_a_restarted_peer_asks_others_and_then_goes_on_at_once() -> None:
    mesh = TestMesh(3)
    mesh.allocate(0, "a")
    mesh.restart(mesh.names[0])
    assert mesh.given(mesh.allocate(0, "b")) is not None


def test_a_peer_whose_disk_was_rolled_back_learns_anew_before_it_gives_anything_out() -> None:
    mesh = TestMesh(2, universe="10.32.0.0/28")
    mesh.prime(0)
    old = mesh.disks[mesh.names[0]].copy()
    for number in range(12):
        mesh.allocate(1, f"c{number}")
    mesh.disks[mesh.names[0]] = old
    mesh.restart(mesh.names[0])
    for number in range(2):
        mesh.allocate(0, f"d{number}")
    mesh.run(10)
    mesh.check_no_duplicates()
    mesh.check_converged()
    assert any("has learnt the ring anew" in line for line in mesh.logs)


def test_a_peer_that_lost_its_disk_learns_the_ring_and_keeps_what_containers_hold() -> None:
    mesh = TestMesh(3)
    held = mesh.given(mesh.allocate(0, "a"))
    assert held is not None
    mesh.disks[mesh.names[0]].ring = None
    mesh.disks[mesh.names[0]].rows.clear()
    mesh.crash(mesh.names[0])
    peer = mesh.start(mesh.names[0])
    rows = [RunningAddress(address(held), "a", 24)]
    mesh.perform(mesh.names[0], peer.claim_running(rows, mesh.now))
    mesh.tell_reachable()
    mesh.gossip_round()
    assert mesh.given(mesh.allocate(0, "b")) not in (held, None)
    assert mesh.given(mesh.allocate(0, "a")) == held


def test_addresses_of_attachments_that_are_gone_are_freed_at_start() -> None:
    mesh = TestMesh(1, init=Consensus(1), expects_peers=False)
    mesh.allocate(0, "a")
    mesh.allocate(0, "b")
    peer = mesh.start(mesh.names[0], known_owners={"b"})
    assert [row.owner for row in peer.addresses()] == ["b"]


def test_seeds_make_the_same_ring_without_a_word() -> None:
    init = Seed((peer_name(1), peer_name(2)))
    mesh = TestMesh(3, init=init)
    mesh.peers[mesh.names[0]].ring.check_tiles()
    mesh.partition([0], [1], [2])
    assert mesh.given(mesh.allocate(0, "a")) == "10.32.0.1"
    assert mesh.given(mesh.allocate(1, "b")) == "10.32.0.128"
    mesh.heal()
    mesh.check_converged()


def test_an_observer_waits_for_a_ring_and_then_asks_for_space() -> None:
    mesh = TestMesh(2, init=Consensus(1), expects_peers=False)
    mesh.crash(mesh.names[1])
    mesh.start(mesh.names[1], init=Observer())
    mesh.tell_reachable()
    request = mesh.allocate(1, "a")
    waiting = mesh.peers[mesh.names[1]].status(mesh.now).waiting
    assert "as an observer" in waiting[0].reason
    mesh.partition([0], [1])
    mesh.prime(0)
    mesh.heal()
    mesh.run(3)
    assert mesh.given(request) is not None
    mesh.check_converged()


def test_rings_of_two_ids_never_merge_and_both_stay_usable() -> None:
    mesh = TestMesh(2, init=Consensus(1), expects_peers=False)
    mesh.partition([0], [1])
    mesh.prime(0)
    mesh.prime(1)
    mesh.heal()
    rings = [mesh.peers[name].ring for name in mesh.names]
    assert rings[0].ring_id != rings[1].ring_id
    assert mesh.given(mesh.allocate(0, "a")) is not None
    assert mesh.given(mesh.allocate(1, "b")) is not None
    for name in mesh.names:
        warning = mesh.peers[name].status(mesh.now).warnings[0]
        assert "weavepy reset" in warning


def test_peers_of_two_universes_say_so_and_do_not_mix() -> None:
    mesh = TestMesh(2, init=Consensus(1))
    mesh.crash(mesh.names[1])
    mesh.start(mesh.names[1], universe=ip_network("10.99.0.0/24"))
    mesh.tell_reachable()
    mesh.prime(0)
    mesh.prime(1)
    mesh.gossip_round()
    assert "10.99.0.0/24" in mesh.peers[mesh.names[0]].status(mesh.now).warnings[0]


def test_a_reset_hands_everything_over() -> None:
    mesh = TestMesh(3)
    mesh.allocate(0, "a")
    leaver = mesh.peers[mesh.names[0]]
    mesh.perform(mesh.names[0], leaver.hand_over(mesh.names[1], mesh.now))
    mesh.run(2)
    assert leaver.handed_over
    assert mesh.answers[mesh.allocate(0, "b")].kind == "leaving"
    mesh.check_converged()
    assert mesh.names[0] not in mesh.peers[mesh.names[2]].ring.owners()


def test_a_cancelled_request_is_answered_and_forgotten() -> None:
    mesh = TestMesh(3)
    mesh.partition([0], [1], [2])
    request = mesh.allocate(0, "a")
    peer = mesh.peers[mesh.names[0]]
    mesh.perform(mesh.names[0], peer.cancel(request, mesh.now))
    assert mesh.answers[request].kind == "cancelled"
    assert peer.status(mesh.now).waiting == ()


def test_a_ring_for_another_range_is_refused_at_start_with_the_way_out() -> None:
    mesh = TestMesh(1, init=Consensus(1), expects_peers=False)
    mesh.prime(0)
    with pytest.raises(WeavepyError, match=r"--ipalloc-range 10\.32\.0\.0/24"):
        mesh.start(mesh.names[0], universe=ip_network("10.99.0.0/24"))


@pytest.mark.parametrize("network", ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127", "fd00::/48"])
def test_universes_that_make_no_ring_are_refused(network: str) -> None:
    with pytest.raises(UsageError):
        TestMesh(1, universe=network)


@pytest.mark.parametrize("network", ["10.0.0.0/30", "10.0.0.0/8", "fd00::/126", "fd00::/64"])
def test_the_smallest_and_the_largest_universes_work(network: str) -> None:
    mesh = TestMesh(3, universe=network)
    given = [mesh.given(mesh.allocate(at, f"c{at}")) for at in range(2)]
    assert len({*given} - {None}) == 2
    mesh.gossip_round()
    mesh.check_converged()


def test_garbage_from_peers_is_counted_and_changes_nothing() -> None:
    mesh = TestMesh(2)
    mesh.prime(0)
    before = mesh.peers[mesh.names[0]].digest()
    peer = mesh.peers[mesh.names[0]]
    for garbage in (b"", b"\xff" * 40, b"\x98" + b"\x00" * 8):
        mesh.perform(mesh.names[0], peer.handle_gossip(mesh.names[1], garbage, mesh.now))
        mesh.perform(mesh.names[0], peer.handle_unicast(mesh.names[1], garbage, mesh.now))
        peer.answer(garbage)
        assert peer.combine(garbage, garbage) == garbage
    assert peer.digest() == before


def test_while_the_disk_fails_nothing_is_given_and_nothing_told() -> None:
    mesh = TestMesh(2)
    mesh.prime(0)
    peer = mesh.peers[mesh.names[0]]
    mesh.perform(mesh.names[0], peer.handle_disk("disk full: free some space", mesh.now))
    refused = mesh.allocate(0, "a")
    assert (mesh.answers[refused].kind, mesh.error(refused)) == (
        "disk",
        "disk full: free some space",
    )
    assert peer.answer(b"V") is None
    mesh.perform(mesh.names[0], peer.handle_disk("", mesh.now))
    assert mesh.given(mesh.allocate(0, "a")) is not None


def test_what_a_running_container_holds_in_the_range_of_a_peer_is_listed_then_fetched() -> None:
    mesh = TestMesh(2)
    mesh.prime(0)
    mesh.crash(mesh.names[1])
    peer = mesh.peers[mesh.names[0]]
    row = RunningAddress(address("10.32.0.200"), "stray", 24)
    mesh.perform(mesh.names[0], peer.claim_running([row], mesh.now))
    warnings = peer.status(mesh.now).warnings
    assert any("stray runs with 10.32.0.200, which belongs to host2" in line for line in warnings)
    mesh.restart(mesh.names[1])
    mesh.run(3)
    assert [(row.address, row.owner) for row in peer.addresses()] == [(row.address, "stray")]
    assert not peer.status(mesh.now).warnings


def test_an_address_that_is_cooling_here_may_be_claimed_on_another_host() -> None:
    mesh = TestMesh(2)
    mesh.claim(1, "moving", "10.32.0.200")
    mesh.release(1, "moving")
    assert mesh.given(mesh.claim(0, "moving", "10.32.0.200")) == "10.32.0.200"
    mesh.run(70)
    assert address("10.32.0.200") not in mesh.disks[mesh.names[1]].rows
    mesh.check_no_duplicates()


def roll_back_a_donor(mesh: TestMesh, *, others_know: bool) -> None:
    """Let the first peer give to the second, forget it, and meet only the third afterwards."""
    mesh.prime(0)
    old = mesh.disks[mesh.names[0]].copy()
    if not others_know:
        mesh.partition([0, 1], [2])
    for number in range(9):
        assert mesh.given(mesh.allocate(1, f"c{number}")) is not None
    mesh.crash(mesh.names[0])
    mesh.disks[mesh.names[0]] = old
    mesh.start(mesh.names[0])
    mesh.partition([0, 2], [1])
    for number in range(8):
        mesh.allocate(2, f"d{number}", timeout_s=3)
    mesh.heal()
    mesh.run(10)


def test_a_donor_that_was_rolled_back_hears_from_others_what_it_gave() -> None:
    mesh = TestMesh(3, universe="10.32.0.0/28")
    roll_back_a_donor(mesh, others_know=True)
    mesh.check_no_duplicates()
    mesh.check_converged()


def test_what_was_given_twice_because_nobody_could_know_is_frozen_and_listed() -> None:
    """A rolled-back disk, and the one peer that knew away: nothing can prevent this."""
    mesh = TestMesh(3, universe="10.32.0.0/28")
    roll_back_a_donor(mesh, others_know=False)
    for name in mesh.names:
        status = mesh.peers[name].status(mesh.now)
        assert status.frozen
        assert status.warnings or name != mesh.names[0]
    frozen = mesh.allocate(1, "another", "10.32.0.0/28", timeout_s=3)
    assert "frozen" in mesh.error(frozen)


def test_a_donor_whose_check_after_a_restart_is_not_over_says_it_is_busy() -> None:
    mesh = TestMesh(2, universe="10.32.0.0/28")
    mesh.prime(0)
    before = mesh.peers[mesh.names[0]].digest()
    mesh.crash(mesh.names[0])
    donor = mesh.start(mesh.names[0])
    ring = donor.ring
    assert ring is not None
    ask = encode_message(SpaceRequest(1, ring.ring_id, 0, 15, False))
    effects = donor.handle_unicast(mesh.names[1], ask, mesh.now)
    answers = [decode_message(e.payload) for e in effects if isinstance(e, Unicast)]
    assert [(answer.granted, answer.kind) for answer in answers] == [(False, "busy")]
    assert donor.digest() == before


def test_what_only_an_old_disk_takes_for_in_use_is_not_given_to_its_owner_again() -> None:
    """It was released, and given away, after that disk was copied."""
    mesh = TestMesh(2, universe="10.32.0.0/29")
    first = mesh.given(mesh.allocate(0, "a"))
    assert first is not None
    old = mesh.disks[mesh.names[0]].copy()
    mesh.release(0, "a")
    mesh.run(61)
    taken = [mesh.given(mesh.allocate(1, f"c{number}")) for number in range(6)]
    assert first in taken
    mesh.disks[mesh.names[0]] = old
    peer = mesh.restart(mesh.names[0])
    mesh.perform(mesh.names[0], peer.claim_running([], mesh.now))
    request = mesh.allocate(0, "a")
    mesh.run(10)
    assert mesh.given(request) != first
    assert [row.owner for row in mesh.peers[mesh.names[0]].addresses()] == []


def test_a_seed_that_lost_its_disk_learns_anew_before_it_gives_anything_out() -> None:
    names = tuple(peer_name(number) for number in (1, 2))
    mesh = TestMesh(2, universe="10.32.0.0/29", init=Seed(names))
    mesh.run(6)
    given = [mesh.given(mesh.allocate(1, f"c{number}")) for number in range(6)]
    assert None not in given
    mesh.run(3)
    mesh.disks[mesh.names[0]].ring = None
    mesh.disks[mesh.names[0]].rows.clear()
    mesh.crash(mesh.names[0])
    mesh.start(mesh.names[0])
    request = mesh.allocate(0, "early")
    mesh.tell_reachable()
    mesh.run(10)
    assert mesh.given(request) is None
    mesh.check_no_duplicates()


def test_a_first_host_that_lost_its_disk_makes_no_second_ring_while_its_peers_may_come() -> None:
    mesh = TestMesh(2, init=Consensus(1))
    mesh.run(6)
    held = mesh.given(mesh.allocate(0, "a"))
    mesh.run(3)
    ring = mesh.peers[mesh.names[1]].ring
    assert ring is not None
    mesh.disks[mesh.names[0]].ring = None
    mesh.disks[mesh.names[0]].rows.clear()
    mesh.crash(mesh.names[0])
    peer = mesh.start(mesh.names[0])
    assert held is not None
    peer.claim_running([RunningAddress(address(held), "a", 24)], mesh.now)
    request = mesh.allocate(0, "b")
    assert request not in mesh.answers
    assert "looking for peers" in peer.status(mesh.now).waiting[0].reason
    mesh.tell_reachable()
    mesh.run(10)
    again = peer.ring
    assert again is not None
    assert again.ring_id == ring.ring_id
    assert mesh.given(request) not in (None, held)


def test_a_claim_whose_owner_went_away_after_it_was_asked_does_not_keep_the_router_busy() -> None:
    mesh = TestMesh(2, universe="10.32.0.0/28")
    mesh.prime(0)
    mesh.run(15)
    taken = [address(f"10.32.0.{number}") for number in range(1, 15)]
    peer = mesh.peers[mesh.names[0]]
    theirs = next(at for at in taken if peer.owner_of(at).peer == mesh.names[1])
    peer.claim(99, "a", theirs, None, mesh.now + 30.0, mesh.now)  # its question gets lost
    peer.handle_peers_changed([], mesh.now + 0.1)
    keeps_still(peer, mesh.now)


def test_a_search_for_space_that_nobody_waits_for_any_more_does_not_keep_the_router_busy() -> None:
    mesh = TestMesh(2, universe="10.32.0.0/28")
    for number in range(7):
        assert mesh.given(mesh.allocate(0, f"c{number}")) is not None
    mesh.run(15)
    peer = mesh.peers[mesh.names[0]]
    for number in range(8):
        peer.allocate(90 + number, f"d{number}", None, mesh.now + 60.0, mesh.now)
    for number in range(8):
        peer.cancel(90 + number, mesh.now + 0.1)  # before an answer came
    keeps_still(peer, mesh.now)


def test_a_restarted_peer_whose_helper_went_away_does_not_keep_the_router_busy() -> None:
    mesh = TestMesh(3)
    mesh.prime(0)
    mesh.run(5)
    mesh.crash(mesh.names[0])
    peer = mesh.start(mesh.names[0])
    peer.handle_peers_changed([mesh.names[1]], mesh.now)
    peer.handle_peers_changed([], mesh.now + 0.01)
    peer.handle_peers_changed([mesh.names[2]], mesh.now + 0.02)
    keeps_still(peer, mesh.now + 0.02)


def keeps_still(peer: Ipam, now: float) -> None:
    """Each time that it wants to be called again lies ahead, once it was called."""
    for _ in range(20):
        at = peer.next_deadline().at
        if at == inf:
            return
        now = max(now, at)
        peer.handle_timeout(now)
        assert peer.next_deadline().at > now, peer.next_deadline().reason
