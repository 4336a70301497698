"""`python -m tests.sim.cluster.scale --nodes 1000`: as many nodes join, idle, lose the API server
for a while, and are upgraded.

All routers are the real cores (`tests.sim.cluster.light` says what stands around them) with one
API server, on one virtual clock; so a run takes as much processor time as all nodes together, and
more. What is printed, as it comes, is per node and phase; the processor time of a phase is shared
among nodes, and what is around them, by the wall time that each took. Not in it: system calls, TCP
and TLS, asyncio, the datapath, netlink. Heartbeats are left out unless asked for, as they are
known: one per second and connection each way when nothing else is said.
"""

import argparse
import gc
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from resource import RUSAGE_SELF, getrusage

from ipam.core.election import Appointed
from router.mesh.records import Record
from tests.sim.cluster.light import FewCheckers, LightMember, Traffic, percentile
from tests.sim.cluster.server import ApiServer
from tests.sim.network import Network
from tests.sim.peers import Settings
from tests.sim.world import SimulationFailure, World

NODE_BYTES = 6000
"""Of the object of a node: images, conditions, managed fields."""

HEARTBEAT_S = 300.0
"""How often a kubelet writes its node's status if nothing changed."""

SETTLED_WITHIN_S = 300.0
RESTART_S = 3.0
SERVER_AWAY_S = 10.0
SERVER_BACK_S = 60.0
READY_WITHIN_S = 120.0
UNIVERSE = IPv4Network("10.32.0.0/12")


@dataclass
class Phase:
    name: str
    seconds: float
    cpu_s: list[float]
    """Of each node."""
    sent: dict[str, tuple[int, int]]
    requests: dict[str, int]
    peak: int
    """API requests in the busiest second."""
    conflicts: int

    def kilobytes_per_node(self) -> float:
        return sum(size for _, size in self.sent.values()) / len(self.cpu_s) / 1000

    def lines(self) -> list[str]:
        nodes = len(self.cpu_s)
        sent_kb = self.kilobytes_per_node()
        cpu_s = sum(self.cpu_s) / nodes
        head = (
            f"{self.name}: {self.seconds:.0f} s; CPU per node {1000 * cpu_s:.0f} ms"
            f" = {100 * cpu_s / self.seconds:.2f} %, p99"
            f" {100 * percentile(self.cpu_s, 0.99) / self.seconds:.2f} %; sent per node"
            f" {sent_kb:.0f} kB = {1000 * sent_kb / self.seconds:.0f} B/s"
        )
        rows = [
            f"    {kind:28} {count / nodes:10.1f} messages {size / nodes / 1000:10.1f} kB per node"
            for kind, (count, size) in self.sent.items()
            if count
        ]
        asked = ", ".join(f"{verb} {count}" for verb, count in sorted(self.requests.items()))
        return [head, *rows, f"    API: {asked}; at most {self.peak}/s; {self.conflicts} conflicts"]


@dataclass
class Scale:
    nodes: int
    join_s: float = 300.0
    connection_limit: int = 100
    heartbeats: bool = False
    at_a_time: int = 10
    tell: Callable[[str], None] = print
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(f"scale {self.nodes}")
        self.network = Network(self.world, latency_s=0.001, high_water_bytes=1 << 20)
        self.checkers = FewCheckers(self.world)
        self.server = ApiServer(self.world, padding_bytes=NODE_BYTES)
        self.traffic = Traffic()
        self.hosts = [self._host(number) for number in range(self.nodes)]
        self._begun = [0.0]
        self._busy_ns = [0] * self.nodes
        self._clocks = time.perf_counter(), time.process_time()
        self._asked = {"": 0}
        self._seconds_seen = 0

    def _host(self, number: int) -> LightMember:
        settings = Settings(UNIVERSE, Appointed(), (), connection_limit=self.connection_limit)
        host = LightMember(self.world, self.network, self.checkers, number, settings, self.server)
        host.kernel = None
        return host

    # --- the story ---------------------------------------------------------------------------

    def run(self, idle_s: float = 120.0, upgrade: bool = True) -> None:
        with self.traffic.counted(self.heartbeats):
            self.join()
            self._idle("idle", idle_s)
            self.restart_server()
            if upgrade:
                self.upgrade()
                self._idle("idle after the upgrade", idle_s)
            self.check()

    def join(self) -> None:
        rng = self.world.random("join")
        for host in self.hosts:
            at = rng.uniform(0.0, self.join_s)
            self.world.at(at, host.register_node)
            self.world.at(at + rng.uniform(0.5, 3.0), host.start)
            self.world.at(at + rng.uniform(0.0, HEARTBEAT_S), self._kubelet, host)
        done = 0.0
        while done < self.join_s:
            done = min(self.join_s, done + 10.0)
            self.world.run(done)
            self.tell(f"  {self.progress()}")
        self.world.run(self.join_s + 3.0)
        self._end_phase("join")
        took = self._until(self.why_not_settled, SETTLED_WITHIN_S, 1.0)
        self.tell(f"settled {took:.0f} s after the last had joined")
        self._end_phase("settle")

    def restart_server(self) -> None:
        """Everybody's watch breaks in one moment."""
        self.server.stop(hangs=False)
        self.world.later(SERVER_AWAY_S, self.server.start)
        self.world.run(self.world.now + SERVER_AWAY_S)
        self._end_phase("API server away")
        self.world.run(self.world.now + SERVER_BACK_S)
        self._end_phase("API server back")
        watching = sum(not host.watch_problem for host in self.hosts)
        if watching < self.nodes:
            raise SimulationFailure(f"only {watching} of {self.nodes} watch again")

    def upgrade(self) -> None:
        """So many at a time; the next when these are ready. Their datapaths stay."""
        for first in range(0, self.nodes, self.at_a_time):
            batch = self.hosts[first : first + self.at_a_time]
            for host in batch:
                host.stop_router(keep_datapath=True)
                self.world.later(RESTART_S, host.start)
            self.world.run(self.world.now + RESTART_S + 0.5)
            self._until(
                lambda batch=batch: next(filter(None, map(self.why_not_ready, batch)), ""),  # type: ignore[misc]
                READY_WITHIN_S,
                0.5,
            )
            if first // self.at_a_time % 10 == 0 or self.at_a_time > 10:
                self.tell(f"  {self.progress()}")
        self._end_phase("upgrade")
        took = self._until(self.why_not_settled, SETTLED_WITHIN_S, 1.0)
        self.tell(f"settled {took:.0f} s after the last was upgraded")
        self._end_phase("settle")

    def check(self) -> None:
        if any(key.startswith("reclaimed") for key in self.server.data):
            raise SimulationFailure("addresses of nodes that live were reclaimed")
        in_use = self.checkers.in_use()
        if len(in_use) != self.nodes:
            raise SimulationFailure(f"{len(in_use)} addresses for {self.nodes} nodes")
        problems = [text for host in self.hosts for text in host.problems]
        self.tell(f"problems: {len(problems)} {problems[:3]}")

    # --- what is so --------------------------------------------------------------------------

    def why_not_ready(self, host: LightMember) -> str:
        """As `/readyz` and the condition NetworkUnavailable have it."""
        if host.ipam is None or host.ipam.ring is None or not host.ipam.is_up_to_date:
            return f"{host.label} has no ring"
        return "" if "weave:expose" in host.containers else f"{host.label} has no address"

    def why_not_settled(self) -> str:
        for host in self.hosts:
            mesh = host.mesh
            if mesh is None or len(mesh.reachable_peers) != self.nodes - 1:
                reached = 0 if mesh is None else len(mesh.reachable_peers)
                return f"{host.label} reaches {reached} of {self.nodes - 1}"
            why = self.why_not_ready(host)
            if why:
                return why
        rings = {
            (host.ipam.ring.ring_id, host.ipam.ring.digest())
            for host in self.hosts
            if host.ipam is not None and host.ipam.ring is not None
        }
        return "" if len(rings) == 1 else f"there are {len(rings)} rings"

    def progress(self) -> str:
        running = [host for host in self.hosts if host.mesh is not None]
        degrees = [len(host.mesh.connected_peers) for host in running if host.mesh] or [0]
        versions = [record.version for host in running[:1] for record in _records(host)] or [0]
        return (
            f"{self.world.now:6.0f} s: {len(running)} run, degree {sum(degrees) / len(degrees):.0f}"
            f" (most {max(degrees)}), {sum(versions) / len(versions):.0f} versions per record,"
            f" {self.world.events} events, {time.process_time():.0f} s of processor time,"
            f" {getrusage(RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
        )

    def summary(self) -> list[str]:
        rings = [host.ipam.ring for host in self.hosts if host.ipam is not None]
        entries = max((len(ring.entries()) for ring in rings if ring is not None), default=0)
        return [
            self.progress(),
            f"ring: {entries} entries; register: {self.server.register_bytes()} bytes",
            *(line for phase in self.phases for line in phase.lines()),
        ]

    # --- how ---------------------------------------------------------------------------------

    def _kubelet(self, host: LightMember) -> None:
        if host.has_node:
            self.server.touch_node(host.node_name)
        self.world.later(HEARTBEAT_S, self._kubelet, host)

    def _idle(self, name: str, seconds: float) -> None:
        self.world.run(self.world.now + seconds)
        self._end_phase(name)

    def _until(self, why_not: Callable[[], str], within_s: float, step_s: float) -> float:
        begun = self.world.now
        while reason := why_not():
            if self.world.now - begun > within_s:
                raise SimulationFailure(f"after {within_s:g} s: {reason}")
            self.world.run(self.world.now + step_s)
        return self.world.now - begun

    def _end_phase(self, name: str) -> None:
        counts, self.server.counts = self.server.counts, type(self.server.counts)()
        clocks, before = (time.perf_counter(), time.process_time()), self._clocks
        share = (clocks[1] - before[1]) / max(1e-9, clocks[0] - before[0])
        self._clocks = clocks
        phase = Phase(
            name,
            max(1.0, self.world.now - self._begun[-1]),
            [
                share * (host.busy_ns - busy_ns) / 1e9
                for host, busy_ns in zip(self.hosts, self._busy_ns, strict=True)
            ],
            self.traffic.take(),
            counts.requests,
            max(counts.by_second.values(), default=0),
            counts.conflicts,
        )
        self._begun.append(self.world.now)
        self._busy_ns = [host.busy_ns for host in self.hosts]
        self.phases.append(phase)
        for line in phase.lines():
            self.tell(line)


def _records(host: LightMember) -> list[Record]:
    return [] if host.mesh is None else list(host.mesh.records.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.sim.cluster.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--join-s", type=float, default=300.0)
    parser.add_argument("--idle-s", type=float, default=120.0)
    parser.add_argument("--connection-limit", type=int, default=100)
    parser.add_argument("--at-a-time", type=int, default=10)
    parser.add_argument("--heartbeats", action="store_true")
    parser.add_argument("--no-upgrade", action="store_true")
    arguments = parser.parse_args()
    gc.disable()  # Of a million records each collection would look at all.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    scale = Scale(
        arguments.nodes,
        arguments.join_s,
        arguments.connection_limit,
        arguments.heartbeats,
        arguments.at_a_time,
        lambda text: print(text, flush=True),
    )
    try:
        scale.run(arguments.idle_s, not arguments.no_upgrade)
    finally:
        print("\n".join(scale.summary()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
