"""One seed of a cluster, from the plan to the verdict.

First faults, as planned; then the API server is well, nodes that died are deleted, all others run.
In bounded time all must be as promised: one ring, the register's; no address on two containers;
who is gone owns nothing, who lives was never reclaimed, and nobody more often than it died; and
what nobody uses can be had by whoever asks. The checkers of `tests.sim.checkers` watch all along.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from ipam.core.election import Appointed
from kube.core.register import Register
from kube.core.watch import MAX_RETRY_S
from kube.shell.api import SILENCE_S
from router.mesh.gossip import ROUND_JITTER_S, ROUND_S
from tests.sim.checkers import Checkers
from tests.sim.cluster.member import GATEWAY, Member
from tests.sim.cluster.plan import Plan, Step
from tests.sim.cluster.server import ApiServer
from tests.sim.network import Network
from tests.sim.peers import Settings
from tests.sim.world import SimulationFailure, World

LOOK_INTERVAL_S = 1.0
CONNECTED_WITHIN_S = SILENCE_S + 1.5 * MAX_RETRY_S + 10.0
"""After healing: a server that hung leaves watches that say nothing, and those that notice ask
again after up to a minute and a half."""

RECLAIMED_WITHIN_S = 150.0
RESERVED = 2
"""Addresses of the whole range that nobody is given: its first and its last."""

EQUAL_WITHIN_S = 3 * (ROUND_S + ROUND_JITTER_S) + 3.0
REST_S = 40.0
UPGRADE_GAP_S = 6.0
RESTART_S = 3.0
ASK_S = 25.0


@dataclass
class Result:
    plan: Plan
    failure: str = ""
    events: int = 0
    virtual_s: float = 0.0
    deaths: int = 0
    reclaims: int = 0
    requests: int = 0


class Run:
    def __init__(self, plan: Plan, tell: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.world = World(f"cluster {plan.seed}", tell)
        self.network = Network(self.world, latency_s=plan.latency_s, high_water_bytes=1 << 20)
        self.checkers = Checkers(self.world)
        self.server = ApiServer(self.world, latency_s=plan.server_latency_s)
        self.server.on_write = self._register_written
        self.universe = IPv4Network((0x0A200000, plan.prefix_length))
        self.hosts = [self._host(number) for number in range(plan.nodes)]
        self.checkers.hosts = [*self.hosts]
        self.result = Result(plan)
        self._healed = False
        self._rng = self.world.random("steps")
        self._deaths: dict[str, int] = {}
        """How often each peer's node was deleted, by the peer's name."""
        self._reclaims: dict[str, int] = {}
        for host, at in zip(self.hosts, plan.joins, strict=True):
            self.world.at(at, host.register_node)
            self.world.at(at + self._rng.uniform(0.0, 2.0), host.start)
        for step in plan.steps:
            self.world.at(step.at, self._take, step)
        for number, host in enumerate(self.hosts):
            self.world.at(plan.rolling + number * UPGRADE_GAP_S, self._upgrade, host, RESTART_S)
        self.world.at(LOOK_INTERVAL_S, self._look)

    def _host(self, number: int) -> Member:
        settings = Settings(
            self.universe, Appointed(), (), connection_limit=self.plan.connection_limit
        )
        return Member(self.world, self.network, self.checkers, number, settings, self.server)

    def run(self) -> Result:
        """Never raises: what went wrong is in the result."""
        try:
            self._go()
        except SimulationFailure as failure:
            self.result.failure = str(failure)
        except Exception as error:
            self.result.failure = f"at {self.world.now:.3f} s: {type(error).__name__}: {error}"
        result = self.result
        result.events, result.virtual_s = self.world.events, self.world.now
        result.deaths = sum(self._deaths.values())
        result.reclaims = sum(self._reclaims.values())
        result.requests = sum(self.server.counts.requests.values())
        return result

    def _go(self) -> None:
        self.world.run(self.plan.faults_s)
        self._heal()
        self._until(self._why_not_connected, CONNECTED_WITHIN_S)
        self._until(self._why_not_reclaimed, RECLAIMED_WITHIN_S)
        self._until(self._why_not_equal, EQUAL_WITHIN_S)
        self._check_register()
        self.world.run(self.world.now + REST_S)
        self._check_addresses()

    def _look(self) -> None:
        self.checkers.look_around()
        self.world.later(LOOK_INTERVAL_S, self._look)

    def _until(self, why_not: Callable[[], str], within_s: float) -> None:
        begun = self.world.now
        while reason := why_not():
            if self.world.now - begun > within_s:
                self.checkers.fail(f"{within_s:g} s after healing: {reason}")
            self.world.run(self.world.now + 0.5)

    # --- the register, from outside ------------------------------------------------------------

    def _register_written(self, changes: Mapping[str, str | None]) -> None:
        """Whoever is declared gone has to be, and once for each time that it was deleted."""
        for key, value in changes.items():
            if not key.startswith("reclaimed.") or value is None:
                continue
            peer = ":".join(key.split(".")[1][at : at + 2] for at in range(0, 12, 2))
            self._reclaims[peer] = self._reclaims.get(peer, 0) + 1
            if self._reclaims[peer] > self._deaths.get(peer, 0):
                self.checkers.fail(
                    f"{peer} is reclaimed {self._reclaims[peer]} times, and its node was deleted"
                    f" {self._deaths.get(peer, 0)} times"
                )

    # --- healing, and what must be then ----------------------------------------------------------

    @property
    def live(self) -> list[Member]:
        return [host for host in self.hosts if not host.gone]

    def _heal(self) -> None:
        self._healed = True
        self.world.trace("", "everything is healed")
        server = self.server
        server.start()
        server.slow_s = server.fail_chance = server.lose_answer_chance = 0.0
        for host in self.hosts:
            host.crash_after = None
            if not host.gone and not host.has_node:
                host.register_node()
            if not host.gone:
                host.start() if host.powered else host.power_on()

    def _why_not_connected(self) -> str:
        names = {host.name for host in self.live}
        is_full = len(self.checkers.in_use()) >= self.universe.num_addresses - RESERVED
        for host in self.live:
            if host.mesh is None or host.paused_until > self.world.now:
                return f"{host.label} does not run"
            if names != {host.name, *host.mesh.reachable_peers}:
                return f"{host.label} reaches {len(host.mesh.reachable_peers)} of {len(names) - 1}"
            if is_full:
                continue
            if GATEWAY not in host.containers:
                return f"{host.label} is no gateway; {list(host.problems)[-1:]}"
            if not self.server.nodes[host.node_name]["status"]["conditions"]:
                return f"{host.label} has not said that its network is up"
        return ""

    def _why_not_reclaimed(self) -> str:
        names = {host.name for host in self.live}
        for host in self.live:
            if host.ipam is None or host.ipam.ring is None:
                return f"{host.label} has no ring"
            dead = [owner for owner in host.ipam.ring.owners() if owner not in names]
            if dead:
                return f"{host.label} says that {dead} own something; {list(host.problems)[-1:]}"
        return ""

    def _why_not_equal(self) -> str:
        rings = [
            (host.ipam.ring.ring_id, host.ipam.ring.entries())
            for host in self.live
            if host.ipam is not None and host.ipam.ring is not None
        ]
        return "" if all(ring == rings[0] for ring in rings) else "the rings differ"

    def _check_register(self) -> None:
        register = Register.parse("", self.server.data)
        ring = self.hosts_ring()
        if register.ring is None or register.ring.id != ring:
            self.checkers.fail(f"the register has {register.ring}, and the cluster {ring}")
        for host in self.live:
            home = register.homes.get(host.name)
            if home is None or home.node != host.node_name:
                self.checkers.fail(f"{host.label} is not on record: {home}")

    def hosts_ring(self) -> str:
        ipam = self.live[0].ipam
        assert ipam is not None
        assert ipam.ring is not None
        return ipam.ring.ring_id.hex()

    def _check_addresses(self) -> None:
        """All that nobody uses can be had, down to the last one."""
        for host in self.live:
            for owner in [*host.containers, *host.owners]:
                host.detach(owner)
        self.world.run(self.world.now + ASK_S)
        wanted = self.universe.num_addresses - 2
        for number in range(wanted):
            self._rng.choice(self.live).attach(f"last{number}", None, ASK_S)
            self.world.run(self.world.now + 0.1)
        self.world.run(self.world.now + 2 * ASK_S)
        if len(self.checkers.in_use()) != wanted:
            self.checkers.fail(f"only {len(self.checkers.in_use())} of {wanted} could be had")

    # --- steps ---------------------------------------------------------------------------------

    def _take(self, step: Step) -> None:
        if self._healed:
            return
        self.world.trace("step", str(step))
        host, end = self.hosts[step.node], self.world.now + step.duration_s
        if step.kind in ("outage", "hang", "slow", "flaky", "lose", "forget"):
            self._trouble_server(step, end)
        elif host.powered and not host.gone:
            self._trouble_node(step, host, end)

    def _trouble_server(self, step: Step, end: float) -> None:
        server, world = self.server, self.world
        match step.kind:
            case "outage" | "hang":
                server.stop(hangs=step.kind == "hang")
                world.at(end, server.start)
            case "slow":
                server.slow_s = 2.0
                world.at(end, setattr, server, "slow_s", 0.0)
            case "flaky":
                server.fail_chance = 0.4
                world.at(end, setattr, server, "fail_chance", 0.0)
            case "lose":
                server.lose_answer_chance = 0.4
                world.at(end, setattr, server, "lose_answer_chance", 0.0)
            case "forget":
                server.forget()

    def _trouble_node(self, step: Step, host: Member, end: float) -> None:
        world = self.world
        match step.kind:
            case "upgrade":
                self._upgrade(host, step.duration_s)
            case "kill":
                host.kill_router()
                world.at(end, host.start)
            case "crash":
                if host.running:
                    host.crash_after = step.number % 60
                world.at(end, host.start)
            case "reboot":
                host.power_off()
                world.at(end, self._power_on, host)
            case "die" | "replace":
                self._die(step, host)
            case "delete":
                if host.has_node and self._is_reached(host):
                    self.server.delete_node(host.node_name)
                    world.later(min(step.duration_s, 5.0), self._register_again, host)
            case "pause":
                host.pause(min(3.0, step.duration_s))
            case "cut":
                other = self.hosts[step.number % len(self.hosts)]
                for pair in ((host.number, other.number), (other.number, host.number)):
                    self.network.block(*pair)
                    world.at(end, self.network.unblock, *pair)
            case "attach":
                host.attach(f"c{step.number}", None, step.duration_s)
            case "detach":
                others = [owner for owner in host.containers if owner != GATEWAY]
                if others:
                    host.detach(others[step.number % len(others)])

    def _upgrade(self, host: Member, pause_s: float) -> None:
        if host.running and not self._healed:
            host.stop_router(keep_datapath=self.plan.seed % 2 == 0)
            self.world.later(min(pause_s, 10.0), host.start)

    def _power_on(self, host: Member) -> None:
        if not host.gone:
            host.power_on()

    def _register_again(self, host: Member) -> None:
        if not host.gone and not host.has_node:
            host.register_node()

    def _is_reached(self, host: Member) -> bool:
        """By all, on whom a decision could fall."""
        return all(
            other.mesh is not None and host.name in other.mesh.reachable_peers
            for other in self.live
            if other is not host
        )

    def _die(self, step: Step, host: Member) -> None:
        """At least two others stay; then its object goes."""
        if len([other for other in self.live if other.powered]) <= 2 or not host.has_node:
            return
        host.power_off()
        host.gone = True
        self.checkers.forget_cooling()
        self.world.later(self._rng.uniform(1.0, 20.0), self._delete, step, host)

    def _delete(self, step: Step, host: Member) -> None:
        self.server.delete_node(host.node_name)
        self._deaths[host.name] = self._deaths.get(host.name, 0) + 1
        if self._healed:
            return
        if step.kind == "replace":
            self.world.later(self._rng.uniform(0.0, 10.0), self._replaced, host)
        elif step.number % 2:
            self.world.later(self._rng.uniform(0.0, 60.0), self._returns, host)

    def _replaced(self, host: Member) -> None:
        """Another machine, which nobody has seen before."""
        host.new_life()
        host.owners.clear()
        host.journal.clear()
        self.checkers.disk_forgot(host)
        self._come(host)

    def _returns(self, host: Member) -> None:
        """The same, with its disk. Whatever it takes for its own may be another's by now."""
        self.checkers.excused[host.label] = self.world.now + 60.0
        self._come(host)

    def _come(self, host: Member) -> None:
        if not self._healed:
            host.gone = False
            host.register_node()
            host.power_on()


def run_plan(plan: Plan, tell: Callable[[str], None] | None = None) -> Result:
    return Run(plan, tell).run()
