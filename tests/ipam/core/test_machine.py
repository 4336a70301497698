"""Several peers, all that can happen to them, and what must hold after every step."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ipam.core.compactor import COMPACT_AFTER_S
from ipam.core.messages import Update, UpdateCodec
from ipam.core.ranges import Universe
from ipam.core.ring import Entry
from tests.ipam.core.mesh import Disk, TestMesh

PEERS = 4
peers = st.integers(0, PEERS - 1)
containers = st.integers(0, 12)


class PeersOfOneRing(RuleBasedStateMachine):
    """Rings arise only through what peers do: legal histories, loss and reordering included."""

    @initialize(
        universe=st.sampled_from(["10.32.0.0/28", "10.32.0.0/27", "fd00::/124", "10.32.0.0/24"]),
        loss=st.sampled_from([0.0, 0.1, 0.4]),
        seed=st.integers(0, 2**16),
    )
    def begin(self, universe: str, loss: float, seed: int) -> None:
        self.mesh = TestMesh(PEERS, universe=universe, seed=seed, reorder=True)
        self.mesh.prime(seed % PEERS)
        self.mesh.run(8)
        assert all(peer.ring is not None for peer in self.mesh.peers.values())
        self.mesh.loss = loss
        self.down: dict[int, None] = {}
        self.taken: dict[int, None] = {}
        self.seen: dict[Entry, None] = {}
        """Every entry that ever stood in a ring."""

    def running(self, at: int) -> bool:
        return at not in self.down

    @rule(taker=peers, container=containers)
    def allocate(self, taker: int, container: int) -> None:
        if self.running(taker):
            self.mesh.allocate(taker, f"c{taker}-{container}", timeout_s=10)

    @rule(taker=peers, container=containers, offset=st.integers(1, 14))
    def claim(self, taker: int, container: int, offset: int) -> None:
        if self.running(taker):
            where = str(self.mesh.universe[offset])
            self.mesh.claim(taker, f"c{taker}-{container}", where, timeout_s=10)

    @rule(giver=peers, container=containers)
    def release(self, giver: int, container: int) -> None:
        if self.running(giver):
            self.mesh.release(giver, f"c{giver}-{container}")

    @rule(left=st.sets(peers, min_size=1, max_size=PEERS - 1))
    def partition(self, left: set[int]) -> None:
        right = [at for at in range(PEERS) if at not in left]
        self.mesh.partition(sorted(left), right)

    @rule()
    def heal(self) -> None:
        self.mesh.heal()

    @rule(seconds=st.sampled_from([0.5, 3, 12, 70]))
    def wait(self, seconds: float) -> None:
        self.mesh.run(seconds, step=0.5)

    @rule()
    def merge_adjacent_entries(self) -> None:
        """Which happens as soon as all owners have been together for a while."""
        loss, self.mesh.loss = self.mesh.loss, 0.0
        for at in sorted(self.down):
            self.restart_from_store(at)
        self.mesh.heal()
        self.mesh.run(6 + 2 * COMPACT_AFTER_S, step=0.5)
        for name, peer in self.mesh.peers.items():
            assert peer.ring is not None
            assert not peer.ring.mergeable(name)
        self.mesh.loss = loss

    @rule(peer=peers, source=peers, which=st.integers(0, 2**16), count=st.integers(1, 4))
    def stale_entries_return(self, peer: int, source: int, which: int, count: int) -> None:
        """From a link that was slow, or a peer that was away."""
        if not self.running(peer) or peer == source or not self.seen:
            return
        entries = list(self.seen)
        core = self.mesh.peers[self.mesh.names[peer]]
        assert core.ring is not None
        at = which % len(entries)
        update = Update(ring_id=core.ring.ring_id, entries=entries[at : at + count])
        data = UpdateCodec(Universe.of(self.mesh.universe)).encode(update)
        effects = core.handle_gossip(self.mesh.names[source], data, self.mesh.now)
        self.mesh.perform(self.mesh.names[peer], effects)
        self.mesh.deliver()

    @rule(peer=peers)
    def crash(self, peer: int) -> None:
        self.down[peer] = None
        self.mesh.crash(self.mesh.names[peer])

    @rule(peer=peers)
    def restart_from_store(self, peer: int) -> None:
        """The old self of a peer that was taken over learns of it before it can do anything."""
        if peer in self.taken and peer in self.down:
            loss, self.mesh.loss = self.mesh.loss, 0.0
            self.mesh.heal()
            self.down.pop(peer)
            self.mesh.restart(self.mesh.names[peer])
            self.mesh.gossip_round()
            self.mesh.loss = loss
            return
        self.down.pop(peer, None)
        self.mesh.restart(self.mesh.names[peer])

    @rule(taker=peers, rival=peers, dead=peers)
    def take_over(self, taker: int, rival: int, dead: int) -> None:
        """One or two operators at once; whoever else is left is up, and has heard everything."""
        if dead in (taker, rival):
            return
        self.mesh.loss = 0.0
        for at in sorted(self.down):
            if at != dead:
                self.restart_from_store(at)
        self.mesh.heal()
        self.mesh.run(6)
        self.crash(dead)
        first = self.mesh.take_over(taker, dead, deliver=False)
        second = self.mesh.take_over(rival, dead, deliver=False)
        self.mesh.deliver()
        self.mesh.run(11)
        for request in (first, second):
            answer = self.mesh.answers[request]
            if answer.kind == "no-majority":
                # The dead one was the only owner, or the one of two with the lower name.
                assert self.mesh.error(request).startswith(("0 of 1 ", "1 of 2 "))
                self.mesh.take_over(taker, dead, force=True)
            else:
                assert answer.error is None or answer.kind == "unknown", answer.error
        self.taken[dead] = None
        for at in range(PEERS):
            ring = self.mesh.peers[self.mesh.names[at]].ring if self.running(at) else None
            assert ring is None or self.mesh.names[dead] not in ring.owners()

    @rule(peer=peers)
    def lose_the_disk_and_learn_anew(self, peer: int) -> None:
        """With all others up, and with no container of its own: nothing else could know of it."""
        name = self.mesh.names[peer]
        self.mesh.loss = 0.0
        for at in sorted(self.down):
            self.restart_from_store(at)
        self.mesh.heal()
        self.mesh.run(6)
        for container in range(13):
            self.mesh.release(peer, f"c{peer}-{container}")
        self.mesh.crash(name)
        self.mesh.disks[name] = Disk()
        self.mesh.restart(name)
        self.mesh.gossip_round()

    @invariant()
    def no_address_is_used_twice(self) -> None:
        if hasattr(self, "mesh"):
            self.mesh.check_no_duplicates(besides_displaced=True)

    @invariant()
    def what_was_seen_is_remembered(self) -> None:
        if hasattr(self, "mesh"):
            for peer in self.mesh.peers.values():
                self.seen.update(dict.fromkeys(peer.ring.entries() if peer.ring else ()))

    @invariant()
    def what_answers_said_is_on_disk(self) -> None:
        if not hasattr(self, "mesh"):
            return
        for name, peer in self.mesh.peers.items():
            rows = {row.address: row for row in peer.addresses()}
            stored = {a: r for a, r in self.mesh.disks[name].rows.items() if r.freed_at is None}
            assert rows == stored

    @invariant()
    def nobody_holds_what_it_does_not_own(self) -> None:
        if not hasattr(self, "mesh"):
            return
        owned: dict[int, str] = {}
        for name, peer in self.mesh.peers.items():
            assert peer.ring is not None or not peer.addresses()
            for piece in peer.ring.ranges_of(name) if peer.ring else ():
                for address in range(piece.start, piece.end):
                    assert address not in owned, f"{owned[address]} and {name} own {address}"
                    owned[address] = name
        for at, (name, peer) in enumerate(self.mesh.peers.items()):
            if self.mesh.names.index(name) in self.taken:
                continue  # its containers may run with what is another's by now
            assert all(owned.get(row.address) == name for row in peer.addresses()), at

    def teardown(self) -> None:
        if not hasattr(self, "mesh"):
            return
        self.mesh.loss = 0.0
        for at in range(PEERS):
            if at in self.down:
                self.restart_from_store(at)
        self.mesh.heal()
        self.mesh.run(12, step=0.5)
        self.mesh.check_no_duplicates(besides_displaced=True)
        self.mesh.check_converged()
        for name, peer in self.mesh.peers.items():
            status = peer.status(self.mesh.now)
            assert not status.frozen, name
            assert not status.waiting or self.mesh.answers


TestPeersOfOneRing = PeersOfOneRing.TestCase
TestPeersOfOneRing.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
