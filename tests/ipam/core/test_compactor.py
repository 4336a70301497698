"""When a peer merges its neighbouring ranges, and when it must not."""

from dataclasses import replace

from ipam.core.compactor import COMPACT_AFTER_S
from ipam.core.effects import Announce, Persist
from ipam.core.messages import Update, UpdateCodec
from ipam.core.ranges import Universe
from ipam.core.ring import Entry, Ring
from tests.ipam.core.mesh import Disk, TestMesh, address

LONG = 2 * COMPACT_AFTER_S + 4


def ring_at(mesh: TestMesh, at: int) -> Ring:
    ring = mesh.peers[mesh.names[at]].ring
    assert ring is not None
    return ring


def donate(mesh: TestMesh, giver: int, taker: int, start: int, size: int) -> None:
    """By the giver's own hand, told to whoever it reaches. `start` counts from the beginning."""
    core = mesh.peers[mesh.names[giver]]
    ring = ring_at(mesh, giver)
    generation = core._replica.generation
    first = ring.universe.first + start
    written = ring.donate(mesh.names[giver], first, size, mesh.names[taker], generation)
    core._keeper.wrote(written, mesh.now)
    mesh.perform(mesh.names[giver], core._settle(mesh.now))
    mesh.deliver()


def mesh_with_fragments(count: int = 3) -> TestMesh:
    """The first owns two neighbouring entries."""
    mesh = TestMesh(count, universe="10.32.0.0/28")
    mesh.prime(0)
    mesh.run(8)
    share = ring_at(mesh, 0).entries()[0].size
    donate(mesh, 1, 0, share, 2)
    assert len(ring_at(mesh, 0).mergeable(mesh.names[0])) == 1
    return mesh


def test_neighbouring_entries_of_one_owner_become_one_everywhere() -> None:
    mesh = mesh_with_fragments()
    entries = len(ring_at(mesh, 0))
    mesh.run(LONG)
    assert [len(ring_at(mesh, at)) for at in range(3)] == [entries - 1] * 3
    mesh.check_converged()
    stored = mesh.disks[mesh.names[0]].ring
    mesh.restart(mesh.names[0])
    assert len(ring_at(mesh, 0)) == entries - 1
    assert stored is not None


def test_what_is_merged_is_on_disk_before_it_is_told_and_in_the_history() -> None:
    mesh = mesh_with_fragments()
    core = mesh.peers[mesh.names[0]]
    mesh.perform(mesh.names[0], core.handle_timeout(mesh.now))
    at = core._compactor.next_at()
    assert at <= mesh.now + COMPACT_AFTER_S
    persist, *rest = core.handle_timeout(at)
    assert isinstance(persist, Persist)
    assert persist.ring is not None
    (event,) = persist.history
    assert event.kind == "merged"
    assert event.reason == "2 neighbouring entries of this host became 1"
    told = [core._replica.codec.decode(e.update) for e in rest if isinstance(e, Announce)]
    assert [entry.level for update in told for entry in update.entries] == [1]
    assert core._compactor.next_at() == float("inf")


def test_what_came_during_the_wait_waits_longer() -> None:
    mesh = mesh_with_fragments()
    mesh.run(COMPACT_AFTER_S / 2)
    share = ring_at(mesh, 0).entries()[0].size
    donate(mesh, 1, 0, share + 2, 1)
    mesh.run(COMPACT_AFTER_S / 2 + 1)
    (run,) = ring_at(mesh, 0).mergeable(mesh.names[0])
    assert [entry.size for entry in run] == [share + 2, 1]
    mesh.run(LONG)
    assert ring_at(mesh, 0).mergeable(mesh.names[0]) == []


def test_nothing_is_merged_while_an_owner_of_ranges_cannot_be_reached() -> None:
    mesh = mesh_with_fragments()
    mesh.crash(mesh.names[2])
    mesh.run(5 * COMPACT_AFTER_S)
    assert ring_at(mesh, 0).mergeable(mesh.names[0])
    mesh.restart(mesh.names[2])
    mesh.run(LONG)
    assert not ring_at(mesh, 0).mergeable(mesh.names[0])


def test_nothing_is_merged_while_the_disk_takes_nothing_or_the_peer_leaves() -> None:
    mesh = mesh_with_fragments()
    core = mesh.peers[mesh.names[0]]
    mesh.perform(mesh.names[0], core.handle_disk("it is full", mesh.now))
    mesh.run(LONG)
    assert ring_at(mesh, 0).mergeable(mesh.names[0])
    mesh.perform(mesh.names[0], core.handle_disk("", mesh.now))
    mesh.partition([0], [1, 2])
    mesh.perform(mesh.names[0], core.hand_over(mesh.names[1], mesh.now))
    mesh.heal()
    mesh.run(LONG)
    assert mesh.names[0] not in ring_at(mesh, 1).owners()


def test_an_old_disk_does_not_take_back_by_merging_what_was_given_away() -> None:
    """The first gives half of two neighbours away, and its disk forgets that. Alone with one that
    has not heard of it, it must not merge: the merged entry would win over the taker's."""
    mesh = mesh_with_fragments()
    share = ring_at(mesh, 0).entries()[0].size
    old = mesh.disks[mesh.names[0]].copy()
    mesh.partition([0, 2], [1])
    donate(mesh, 0, 2, share, 2)
    where = str(mesh.universe[share])
    assert mesh.given(mesh.claim(2, "c", where)) == where
    mesh.crash(mesh.names[0])
    mesh.disks[mesh.names[0]] = old
    mesh.partition([0, 1], [2])
    mesh.restart(mesh.names[0])
    mesh.run(5 * COMPACT_AFTER_S)
    mesh.heal()
    assert not [log for log in mesh.logs if log.startswith("host3:") and "took for its own" in log]
    assert mesh.peers[mesh.names[2]].owner_of(address(where)).peer == mesh.names[2]
    mesh.run(LONG)
    mesh.check_converged()


def test_a_taker_that_has_not_heard_what_a_dead_peer_merged_leaves_no_gap() -> None:
    """The second gives the first a neighbouring range, unheard by the others, and the first dies:
    had it merged that, nobody would own the rest when the take-over comes to light."""
    mesh = TestMesh(5, universe="10.32.0.0/27")
    mesh.prime(0)
    mesh.run(8)
    share = ring_at(mesh, 0).entries()[0].size
    mesh.partition([0, 1], [2, 3, 4])
    donate(mesh, 1, 0, share, 2)
    mesh.run(5 * COMPACT_AFTER_S)
    mesh.crash(mesh.names[0])
    mesh.text(mesh.take_over(2, 0))
    mesh.heal()
    mesh.run(LONG)
    mesh.check_converged()
    assert mesh.names[0] not in ring_at(mesh, 1).owners()
    assert mesh.peers[mesh.names[3]].owner_of(address("10.32.0.0") + share).peer == mesh.names[2]


def merged_meanwhile(mesh: TestMesh) -> tuple[Disk, str]:
    """Let the first merge what it has, and return its disk of before, and an address in it."""
    old = mesh.disks[mesh.names[0]].copy()
    share = ring_at(mesh, 0).entries()[0].size
    mesh.run(LONG)
    assert not ring_at(mesh, 0).mergeable(mesh.names[0])
    return old, str(mesh.universe[share])


def test_an_old_disk_learns_that_its_entries_were_merged_and_says_so() -> None:
    mesh = mesh_with_fragments()
    old, _ = merged_meanwhile(mesh)
    mesh.crash(mesh.names[0])
    mesh.disks[mesh.names[0]] = old
    mesh.restart(mesh.names[0])
    mesh.run(6)
    mesh.check_converged()
    warnings = mesh.peers[mesh.names[0]].status(mesh.now).warnings
    assert any(text.startswith("1 ranges that this host took for its own") for text in warnings)


def test_who_was_given_space_by_an_old_disk_claims_what_its_containers_run_with() -> None:
    """What the old self gives away is absorbed by what the new one had merged."""
    mesh = mesh_with_fragments()
    old, where = merged_meanwhile(mesh)
    mesh.partition([0, 2], [1])
    mesh.crash(mesh.names[2])
    mesh.crash(mesh.names[0])
    before, mesh.disks[mesh.names[0]] = mesh.disks[mesh.names[0]], old
    mesh.disks[mesh.names[2]] = Disk()
    mesh.restart(mesh.names[0])
    mesh.restart(mesh.names[2])
    mesh.run(12)
    mesh.gossip_round()
    assert mesh.given(mesh.claim(2, "c", where)) == where
    assert before.ring != old.ring
    mesh.heal()
    mesh.run(LONG)
    assert any(log.startswith("host3: 1 ranges that this host took") for log in mesh.logs)
    mesh.run(65)
    mesh.check_converged()
    assert mesh.peers[mesh.names[2]].owner_of(address(where)).peer == mesh.names[2]
    assert mesh.error(mesh.claim(0, "d", where)).startswith(f"{where} is in use by container c")
    assert not any(where in text for text in mesh.peers[mesh.names[2]].status(mesh.now).warnings)


def test_a_hole_survives_a_restart() -> None:
    mesh = mesh_with_fragments()
    mesh.run(LONG)
    name = mesh.names[1]
    merged = ring_at(mesh, 1).entries()[0]
    cut = replace(merged, size=2, version=merged.version + 1)
    stale = Entry(merged.token + 4, 2, name, 9, 1)
    codec = UpdateCodec(Universe.of(mesh.universe))
    mesh.partition([0], [1], [2])

    def tell(entry: Entry) -> None:
        data = codec.encode(Update(ring_id=ring_at(mesh, 1).ring_id, entries=[entry]))
        mesh.perform(name, mesh.peers[name].handle_gossip(mesh.names[2], data, mesh.now))

    tell(cut)
    mesh.run(2)
    mesh.restart(name)
    tell(stale)
    assert mesh.peers[name].owner_of(stale.token).peer is None
    assert [hole.range.size for hole in ring_at(mesh, 1).holes.all()] == [merged.size - 2]
