"""Several peers, all that can happen to them, and what must hold after every step."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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

    @rule(peer=peers)
    def crash(self, peer: int) -> None:
        self.down[peer] = None
        self.mesh.crash(self.mesh.names[peer])

    @rule(peer=peers)
    def restart_from_store(self, peer: int) -> None:
        self.down.pop(peer, None)
        self.mesh.restart(self.mesh.names[peer])

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
            self.mesh.check_no_duplicates()

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
            assert all(owned.get(row.address) == name for row in peer.addresses())

    def teardown(self) -> None:
        if not hasattr(self, "mesh"):
            return
        self.mesh.loss = 0.0
        for at in range(PEERS):
            if at in self.down:
                self.restart_from_store(at)
        self.mesh.heal()
        self.mesh.run(12, step=0.5)
        self.mesh.check_no_duplicates()
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
