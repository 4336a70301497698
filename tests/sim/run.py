"""One seed, from the plan to the verdict.

First faults and work, as planned. Then everything is healed, and the mesh must come to rest in
bounded time: all connected, rings equal, routes complete, each frame delivered once, and each
address that nobody uses to be had again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from ipam.core.election import Consensus, InitMode, Observer, Seed
from router.mesh.gossip import ROUND_JITTER_S, ROUND_S
from tests.sim.checkers import Checkers
from tests.sim.datapath import PROBE_S
from tests.sim.fast import BEYOND_S, FastWatch
from tests.sim.kernel import DRIVER_S, SLOW_DRIVER_S, Kernel
from tests.sim.network import Network
from tests.sim.peers import Host, Settings
from tests.sim.plan import CALM_BEFORE_S, RARE_KINDS, Plan, Step
from tests.sim.world import SimulationFailure, World

LOOK_INTERVAL_S = 1.0

CONNECTED_WITHIN_S = 90.0
"""After healing. Targets that could not be reached are dialled ever more rarely."""

EQUAL_WITHIN_S = 3 * (ROUND_S + ROUND_JITTER_S) + 3.0
"""After everyone is connected: three gossip rounds, and a little for what they set off."""

SETTLED_S = 3.0
FAST_AT_REST_S = 12.0
"""For tunnels to come back, which is then checked."""
TAKE_OVER_WITHIN_S = 8.0
GONE_AFTER_S = 12.0
"""When nobody has a connection or a session with a dead host any more."""

COOLED_WITHIN_S = 62.0
DRAIN_UP_TO = 32
"""Universes of at most so many addresses are used up to the last one at the end."""


@dataclass
class Result:
    plan: Plan
    failure: str = ""
    events: int = 0
    virtual_s: float = 0.0
    connected_after_s: float = 0.0
    equal_after_s: float = 0.0
    answers: dict[str, int] = field(default_factory=dict)
    most_entries: int = 0
    merges: int = 0
    most_unsent_bytes: int = 0
    frames: int = 0


class Run:
    def __init__(self, plan: Plan, tell: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.world = World(str(plan.seed), tell)
        self.network = Network(
            self.world, latency_s=plan.latency_s, high_water_bytes=plan.high_water_bytes
        )
        self.checkers = Checkers(self.world)
        self.universe = IPv4Network((0x0A200000, plan.prefix_length))
        self.hosts: list[Host] = []
        self.fast = FastWatch(self.world, self.network, self.checkers, self.hosts)
        self.result = Result(plan)
        self._healed = False
        self._prepare()

    def _prepare(self) -> None:
        plan = self.plan
        for number in range(plan.peers):
            settings = Settings(
                universe=self.universe,
                init=Observer(),
                given=tuple(f"10.0.0.{other + 1}" for other in plan.given[number]),
                discovery=plan.discovery,
                knows_owners=plan.knows_owners,
                first_short_id=1 + number % 2 if plan.clashing_short_ids else 0,
                fastdp=plan.fastdp[number] if plan.fastdp else None,
            )
            host = Host(self.world, self.network, self.checkers, number, settings)
            self.hosts.append(host)
            host.on_path_change = self._frames_around_a_change
        self.checkers.hosts = self.hosts
        if plan.fastdp:
            self.fast.start()
        for host in self.hosts:
            host.settings.init = self._init_mode(host.number)
        for one, other in plan.unreachable:
            self.network.block(one, other)
            self.network.block(other, one)
        for host in self.hosts:
            later = host.number >= plan.initial
            at = self.world.rng.uniform(0.0, plan.faults_s / 2 if later else 3.0)
            self.world.at(at, host.start)
        for step in plan.steps:
            self.world.at(step.at, self._take_step, step)
        if plan.calm_at < 1e9:
            self.world.at(plan.calm_at - CALM_BEFORE_S, self._heal)
        self.world.at(LOOK_INTERVAL_S, self._look)

    def _init_mode(self, number: int) -> InitMode:
        """Counts as a careful operator gives them: any two majorities have a peer in common."""
        plan = self.plan
        initial = [host.name for host in self.hosts[: plan.initial]]
        if plan.init == "seed":
            return Seed(tuple(initial))
        if plan.init == "consensus" and plan.seed % 2:
            return Consensus(plan.peers)
        if number >= plan.initial or (plan.init == "observer" and number % 2):
            return Observer()
        return Consensus((len(initial) + 1) // 2 if plan.init == "observer" else len(initial))

    def _look(self) -> None:
        self.checkers.look_around()
        self.world.later(LOOK_INTERVAL_S, self._look)

    # --- the two phases ------------------------------------------------------------------------

    def run(self) -> Result:
        """Never raises: what went wrong is in the result."""
        try:
            self._go()
        except SimulationFailure as failure:
            self.result.failure = str(failure)
        except Exception as error:
            place = _place(error)
            self.result.failure = (
                f"at {self.world.now:.3f} s: {type(error).__name__}: {error} ({place})"
            )
        result = self.result
        result.events = self.world.events
        result.virtual_s = self.world.now
        result.answers = self.checkers.answers
        result.most_entries = self.checkers.most_entries
        result.merges = self.checkers.merges
        result.most_unsent_bytes = self.network.most_unsent_bytes
        result.frames = len(self.checkers.deliveries)
        return result

    def _go(self) -> None:
        self.world.run(self.plan.faults_s)
        self.world.trace("", "everything is healed")
        self._healed = True
        self._heal()
        start = self.world.now
        self.result.connected_after_s = self._until(self._why_not_connected, CONNECTED_WITHIN_S)
        self._make_a_ring()
        self.result.equal_after_s = self._until(self._why_not_equal, EQUAL_WITHIN_S)
        self._until(self._why_not_settled, CONNECTED_WITHIN_S)
        if self.plan.fastdp:
            self.world.run(self.world.now + FAST_AT_REST_S)
            self._until(self._why_not_settled, CONNECTED_WITHIN_S)
        self._check_frames()
        self._check_nothing_is_lost()
        self.world.trace("", f"at rest {self.world.now - start:.1f} s after healing")

    def _until(self, why_not: Callable[[], str], within_s: float) -> float:
        """Let time pass until there is no reason left; returns how long it took."""
        start = self.world.now
        while True:
            reason = why_not()
            if not reason:
                return self.world.now - start
            if self.world.now - start > within_s:
                self.checkers.fail(f"{within_s:g} s after healing: {reason}")
            self.world.run(self.world.now + 0.5)

    def _heal(self) -> None:
        for host in self.hosts:
            host.crash_after = None
            if host.powered:
                host.start()
            else:
                host.power_on()

    @property
    def live(self) -> list[Host]:
        return [host for host in self.hosts if not host.gone]

    # --- at rest -------------------------------------------------------------------------------

    def _why_not_connected(self) -> str:
        names = {host.name: host for host in self.live}
        for host in self.live:
            mesh = host.mesh
            if mesh is None or host.datapath is None:
                return f"{host.label} does not run"
            if host.disk.refuses or host.paused_until > self.world.now:
                return f"{host.label} is not healed"
            others = [name for name in names if name != host.name]
            missing = [name for name in others if name not in mesh.reachable_peers]
            if missing:
                return f"{host.label} does not reach {names[missing[0]].label}"
            strangers = [name for name in mesh.peers if name not in names]
            if strangers:
                return f"{host.label} still remembers {strangers}"
            routes = host.datapath.routes
            routed = {routes.short_ids[short_id] for short_id in routes.unicast}
            unrouted = [name for name in others if name not in routed]
            if unrouted:
                return f"{host.label} has no route to {names[unrouted[0]].label}"
            if set(routes.short_ids.values()) != set(names):
                return f"{host.label} names {len(routes.short_ids)} peers in its routes"
            if len(routes.broadcast) != len(names):
                return f"{host.label} has {len(routes.broadcast)} broadcast trees"
        return self._why_views_differ() or self._why_routes_loop()

    def _why_not_settled(self) -> str:
        """Frames may get lost while routes change, or are about to as a session is found dead."""
        for host in self.live:
            datapath = host.datapath
            if datapath is None:
                continue
            if self.world.now < datapath.changed_at + SETTLED_S:
                return f"the routes of {host.label} changed just now"
            if host.kernel and self.world.now < host.kernel.changed_at + SETTLED_S:
                return f"a tunnel of {host.label} changed just now"
            for session in datapath.sessions.values():
                if session.up and self.world.now > session.proved_at + 2 * PROBE_S:
                    return f"the session of {host.label} with {session.peer} is not proved"
        return self._why_not_connected()

    def _why_views_differ(self) -> str:
        """Everyone has everyone's own, newest record."""
        for host in self.live:
            assert host.mesh is not None
            for other in self.live:
                assert other.mesh is not None
                ours, theirs = host.mesh.peer(other.name), other.mesh.peer(other.name)
                if ours is None or theirs is None:
                    return f"{host.label} does not know {other.label}"
                if (ours.uid, ours.version) != (theirs.uid, theirs.version):
                    return f"{host.label} has another record of {other.label} than itself"
        return ""

    def _why_routes_loop(self) -> str:
        """Follow what the datapaths have installed, hop by hop."""
        by_name = {host.name: host for host in self.live}
        for giver in self.live:
            for taker in self.live:
                at, hops = giver, 0
                while at is not taker:
                    assert at.datapath is not None
                    routes = at.datapath.routes
                    short_id = next(
                        (s for s, name in routes.short_ids.items() if name == taker.name), 0
                    )
                    hop = routes.unicast.get(short_id, 0)
                    following = by_name.get(routes.short_ids.get(hop, ""))  # type: ignore[call-overload]
                    hops += 1
                    if following is None or hops > len(by_name):
                        return f"the route from {giver.label} to {taker.label} leads nowhere"
                    at = following
            copies = {giver.label: 1}
            todo = [giver]
            while todo:
                at = todo.pop()
                assert at.datapath is not None
                routes = at.datapath.routes
                source = next((s for s, n in routes.short_ids.items() if n == giver.name), 0)
                for child in routes.broadcast.get(source, ()):
                    other = by_name.get(routes.short_ids.get(child, ""))  # type: ignore[call-overload]
                    if other is None:
                        return f"a broadcast of {giver.label} goes to nobody at {at.label}"
                    copies[other.label] = copies.get(other.label, 0) + 1
                    if copies[other.label] > 1:
                        return f"a broadcast of {giver.label} comes to {other.label} twice"
                    todo.append(other)
            if len(copies) != len(by_name):
                return f"a broadcast of {giver.label} reaches {len(copies)} of {len(by_name)}"
        return ""

    def _make_a_ring(self) -> None:
        """If nobody ever wanted an address, somebody does now."""
        for host in self.live:
            if host.ipam is not None and host.ipam.ring is None:
                host.prime(30.0)

    def _why_not_equal(self) -> str:
        rings = []
        for host in self.live:
            if host.ipam is None or host.ipam.ring is None:
                return f"{host.label} has no ring"
            rings.append((host.ipam.ring.ring_id, host.ipam.ring.entries()))
        for host, ring in zip(self.live, rings, strict=True):
            if ring != rings[0]:
                difference = {*ring[1]} ^ {*rings[0][1]}
                return (
                    f"the rings of {self.live[0].label} ({rings[0][0].hex()}) and {host.label}"
                    f" ({ring[0].hex()}) differ in {len(difference)} entries:"
                    f" {sorted(difference, key=str)[:4]}"
                )
        return ""

    def _check_frames(self) -> None:
        """Each host's broadcast reaches each other one once, and then unicast does as well."""
        sent: dict[int, list[str]] = {}
        self.network.udp_loss = 0.0
        labels = [host.label for host in self.live]
        for host in self.live:
            number = self.fast.send(host, None)
            sent[number] = [label for label in labels if label != host.label]
        self.world.run(self.world.now + 1.0)
        for host in self.live:
            for other in self.live:
                if other is not host:
                    sent[self.fast.send(host, other)] = [other.label]
        self.world.run(self.world.now + 1.0)
        for number, takers in sent.items():
            got = self.checkers.deliveries.get(number, {})
            if sorted(got) != sorted(takers):
                self.checkers.fail(f"at rest, a frame went to {sorted(got)} instead of {takers}")

    def _check_nothing_is_lost(self) -> None:
        """All addresses are somewhere; and once everything is detached and cool, all are free."""
        size = self.universe.num_addresses
        free, allocated, cooling = self._count_addresses()
        if free + allocated + cooling != size:
            self.checkers.fail(
                f"of {size} addresses {free} are free, {allocated} in use, {cooling} cooling"
            )
        if not self.plan.used_up_at_end:
            return
        for host in self.live:
            for owner in list(host.containers):
                host.detach(owner)
            # Those that went with the power as well: the router cannot know of them.
            for owner in host.owners:
                host.release(owner)
        # Whatever else the requests of the first phase may still bring up goes as well.
        self.world.run(self.world.now + 35.0)
        for host in self.live:
            for owner in list(host.containers):
                host.detach(owner)
        self.world.run(self.world.now + COOLED_WITHIN_S)
        self._until(self._why_not_equal, EQUAL_WITHIN_S)
        free, allocated, cooling = self._count_addresses()
        if (free, allocated, cooling) != (size, 0, 0):
            self.checkers.fail(
                f"of {size} addresses {free} are free, {allocated} in use, {cooling} cooling,"
                " and nobody uses any"
            )
        if size <= DRAIN_UP_TO:
            self._drain()

    def _count_addresses(self) -> tuple[int, int, int]:
        """Of each host's own ranges: free as it says itself, in use and cooling on its disk."""
        free = allocated = cooling = 0
        for host in self.live:
            assert host.ipam is not None
            assert host.ipam.ring is not None
            status = host.ipam.status(host.now)
            if status.frozen:
                self.checkers.fail(f"{host.label}: frozen at rest: {status.frozen}")
            free += status.free
            ranges = host.ipam.ring.ranges_of(host.name)
            for row in host.disk.content.rows.values():
                if any(row.address in piece for piece in ranges):
                    allocated += row.freed_at is None
                    cooling += row.freed_at is not None
        return free, allocated, cooling

    def _drain(self) -> None:
        wanted = self.universe.num_addresses - 2
        for number in range(wanted):
            host = self.world.rng.choice(self.live)
            host.attach(f"drain{number}", None, 25.0)
            self.world.run(self.world.now + 0.2)
        self.world.run(self.world.now + 30.0)
        had = len(self.checkers.in_use())
        if had != wanted:
            self.checkers.fail(f"only {had} of {wanted} free addresses could be had")

    # --- steps ---------------------------------------------------------------------------------

    def _take_step(self, step: Step) -> None:
        host, other = self.hosts[step.host], self.hosts[step.other]
        if self._healed:
            return
        self.world.trace("step", str(step))
        if step.kind in RARE_KINDS:
            self._take_rare_step(step, host, other)
            return
        end = min(self.world.now + step.duration_s, self._next_calm())
        work = {
            "attach": lambda: self._attach(host, step),
            "attach-again": lambda: self._attach_again(host, step),
            "detach": lambda: self._detach(host, step),
            "claim": lambda: self._claim(host, step),
            "prime": lambda: host.prime(step.duration_s),
            "frame": lambda: self._frame(host, other, step),
        }
        if step.kind in work:
            if host.powered:
                work[step.kind]()
            return
        self._take_fault(step, host, other, end)

    def _next_calm(self) -> float:
        """No fault lasts into a time that is to be calm."""
        calm = self.plan.calm_at - CALM_BEFORE_S
        return calm if self.world.now < calm < 1e8 else self.plan.faults_s

    def _attach(self, host: Host, step: Step) -> None:
        subnet = None
        if step.number % 5 == 0:
            subnets = list(self.universe.subnets(new_prefix=self.plan.prefix_length + 1))
            subnet = subnets[step.number % len(subnets)]
        host.attach(f"c{step.number}", subnet, step.duration_s)

    def _attach_again(self, host: Host, step: Step) -> None:
        if host.containers:
            owner = list(host.containers)[step.number % len(host.containers)]
            host.attach(owner, None, step.duration_s)

    def _detach(self, host: Host, step: Step) -> None:
        if host.containers:
            host.detach(list(host.containers)[step.number % len(host.containers)])

    def _claim(self, host: Host, step: Step) -> None:
        """Any address, or one that somebody has."""
        taken = self.checkers.in_use()
        if taken and step.number % 2:
            address = taken[step.number % len(taken)]
        else:
            offset = 1 + step.number * 7 % (self.universe.num_addresses - 2)
            address = int(self.universe[offset])
        host.claim(f"k{step.number}", address, step.duration_s)

    def _frame(self, host: Host, other: Host, step: Step) -> None:
        self.fast.send(host, None if step.number % 2 or other is host else other)

    def _take_fault(self, step: Step, host: Host, other: Host, end: float) -> None:
        world, network = self.world, self.network
        match step.kind:
            case "cut":
                self._block([(host, other), (other, host)], end)
            case "cut-one-way":
                self._block([(host, other)], end)
            case "cut-udp":
                network.block_udp(host.number, other.number)
                world.at(end, network.unblock_udp, host.number, other.number)
            case "partition":
                one = [host for host in self.hosts if step.number >> host.number & 1]
                two = [host for host in self.hosts if host not in one]
                self._block([(a, b) for a in one for b in two], end)
                self._block([(b, a) for a in one for b in two], end)
            case "addresses":
                gained = network.gain_address(host, step.number)
                host.change_addresses([host.address, gained, other.address])
                world.at(end, network.lose_address, gained)
                world.at(end, host.change_addresses, [host.address])
            case "reset":
                network.reset(host, other)
            case "stall":
                network.stall(host, other, end - world.now)
            case "slow":
                host.slow_bytes_per_s = 2000.0
                world.at(end, setattr, host, "slow_bytes_per_s", 0.0)
            case "loss":
                network.udp_loss = 0.3
                world.at(end, setattr, network, "udp_loss", 0.0)
            case "kill":
                host.kill_router()
                world.at(end, host.start)
            case "crash":
                if host.running:
                    host.crash_after = step.number
                world.at(end, host.start)
            case "power":
                host.power_off()
                world.at(end, host.power_on)
            case "pause":
                host.pause(end - world.now)
            case "stop" | "stop-keep":
                host.stop_router(step.kind == "stop-keep")
                world.at(end, host.start)
            case "datapath":
                host.kill_datapath()
            case "cut-vxlan":
                self._block_vxlan([(host, other), (other, host)], end)
            case "cut-vxlan-one-way":
                self._block_vxlan([(host, other)], end)
            case "device-error" | "device-deleted" | "slow-driver":
                if host.kernel is not None:
                    self._trouble_kernel(step, host, host.kernel, end)
            case "disk-error":
                host.disk.refuses += 1
                world.at(end, self._mend_disk, host)

    def _mend_disk(self, host: Host) -> None:
        host.disk.refuses -= 1

    def _block(self, pairs: Sequence[tuple[Host, Host]], end: float) -> None:
        for giver, taker in pairs:
            self.network.block(giver.number, taker.number)
            self.world.at(end, self.network.unblock, giver.number, taker.number)

    def _block_vxlan(self, pairs: Sequence[tuple[Host, Host]], end: float) -> None:
        for giver, taker in pairs:
            self.network.block_vxlan(giver.number, taker.number)
            self.world.at(end, self.network.block_vxlan, giver.number, taker.number, -1)

    def _trouble_kernel(self, step: Step, host: Host, kernel: Kernel, end: float) -> None:
        if step.kind == "device-deleted":
            kernel.lose_one(step.number)
        elif step.kind == "slow-driver":
            kernel.driver_s = SLOW_DRIVER_S
            self.world.at(end, setattr, kernel, "driver_s", DRIVER_S)
        else:
            kernel.error = "No such device"
            self.world.at(end, setattr, kernel, "error", "")

    def _frames_around_a_change(self, host: Host) -> None:
        """From both sides of it: what is sent before it may still wait while it is made."""
        self.fast.send(host, None)
        for delay_s in (0.0, 0.01, 0.05):
            self.world.later(delay_s, self.fast.send, host, None)

    def _take_rare_step(self, step: Step, host: Host, other: Host) -> None:
        """Nobody can save a host from an old disk if all who know better are out of reach."""
        if self._why_not_connected() or self._why_not_equal():
            self.world.trace("step", "skipped: the mesh is not at rest")
            return
        if step.kind != "quiet-kill":
            self.checkers.forget_cooling()
        match step.kind:
            case "roll-back" | "lose-disk":
                host.kill_router()
                if step.kind == "roll-back":
                    host.disk.roll_back()
                else:
                    host.disk.lose()
                self.checkers.disk_forgot(host)
                self.checkers.excused[host.label] = self.world.now + 15.0
                host.start()
                rows = host.disk.content.rows.values()
                stale = [row.owner for row in rows if row.owner not in host.containers]
                # Before it has heard from anybody, and under names that its disk remembers.
                for owner in [*(f"early{number}" for number in range(4)), *stale[:3]]:
                    host.attach(owner, None, 20.0)
            case "forget-sessions":
                host.kill_router()
                host.kill_datapath()
                host.start()
            case "leave":
                self._leave(host, other)
            case "quiet-kill":
                self._kill_quietly(host)
            case "clone":
                self._clone(host, other)
            case "rmpeer":
                self._lose_for_good(host, step)

    def _leave(self, host: Host, other: Host) -> None:
        if len(self.live) < 3 or host is other or not self.plan.full_mesh:
            return  # it may be what holds the mesh together
        for owner in list(host.containers):
            host.detach(owner)
        host.hand_over(other.name)
        self.checkers.forget_cooling()
        self.world.later(5.0, self._left, host)

    def _clone(self, host: Host, other: Host) -> None:
        """Another host is started with a copy of this one's state directory.

        Where the first host is what holds the mesh together, its copy could meet peers which it
        does not reach, and nobody could know.
        """
        if len(self.live) < 3 or host is other or not self.plan.full_mesh:
            return
        for owner in list(other.containers):
            other.detach(owner)
        other.hand_over(host.name)
        self.checkers.forget_cooling()
        self.world.later(3.0, self._become_clone, host, other)

    def _become_clone(self, host: Host, other: Host) -> None:
        self._left(other)
        other.gone = False
        other.identity = host.identity
        other.disk.content = host.disk.content
        self.checkers.excused[other.label] = 1e9
        other.start()
        for number in range(6):
            other.attach(f"copied{number}", None, 10.0)
            host.attach(f"first{number}", None, 10.0)
            self.world.later(2.0 * number, other.attach, f"late-copied{number}", None, 10.0)
            self.world.later(2.0 * number, host.attach, f"late-first{number}", None, 10.0)
        self.world.later(14.0, self._end_clone, host, other)

    def _end_clone(self, host: Host, other: Host) -> None:
        """The operator has read the warning."""
        told = [*self._warnings_of(other), *self._warnings_of(host)]
        if not any("identity" in text for text in told):
            self.checkers.fail(f"nobody says that {other.label} is a clone of {host.label}")
        for owner in list(other.containers):
            other.detach(owner)
        other.stop_router(keep_datapath=False)
        other.gone = True
        other.disk.lose()
        other.journal.clear()

    def _lose_for_good(self, host: Host, step: Step) -> None:
        """A host is gone, as far as anyone knows; operators on two others take it over at once.

        It comes back when all is healed, with the disk that it had, or with none.
        """
        host.power_off()
        if step.number % 2:
            host.disk.lose()
            self.checkers.disk_forgot(host)
        self.checkers.excused[host.label] = 1e9
        others = [other for other in self.live if other is not host]
        for other in self.world.rng.sample(others, min(2, len(others))):
            self.world.later(GONE_AFTER_S, other.take_over, host.name, TAKE_OVER_WITHIN_S)
        self.world.later(GONE_AFTER_S + TAKE_OVER_WITHIN_S + 5.0, self._check_taken_over, host)

    def _check_taken_over(self, host: Host) -> None:
        """Whoever was told that it is done knows the outcome, and so does whom it reaches."""
        for taker in self.checkers.told_of_take_over:
            reached = [] if taker.mesh is None else taker.mesh.reachable_peers
            for other in self.live:
                if other.ipam is None or other.ipam.ring is None:
                    continue
                left = other.ipam.ring.ranges_of(host.name)
                if left and (other is taker or other.name in reached):
                    self.checkers.fail(f"{other.label} thinks that {host.label} has {left}")
        self.checkers.excused[host.label] = self.world.now + 20.0

    def _warnings_of(self, host: Host) -> list[str]:
        if host.mesh is None or host.ipam is None:
            return []
        rows = [f"{row}" for row in host.mesh.target_rows(host.now)]
        return [*host.mesh.warnings(host.now), *host.ipam.status(host.now).warnings, *rows]

    def _kill_quietly(self, host: Host) -> None:
        """A router dies and comes back, and no frame is lost: its datapath goes on."""
        self.network.udp_loss = 0.0
        host.kill_router()
        for delay_s in (0.5, 2.0, 3.9, 4.5, 6.0, 8.0):
            self.world.later(delay_s, self._send_frames_that_must_arrive)
        self.world.later(4.0, host.start)

    def _send_frames_that_must_arrive(self) -> None:
        for host in self.live:
            number = self.fast.send(host, None)
            takers = sorted(other.label for other in self.live if other is not host)
            self.world.later(0.5, self._check_frame, number, takers, self.world.now)

    def _check_frame(self, number: int, takers: list[str], sent_at: float) -> None:
        got = sorted(self.checkers.deliveries[number])
        if got != takers and not (self.plan.fastdp and self.fast.changed_since(sent_at - BEYOND_S)):
            self.checkers.fail(f"with a router dead, a frame went to {got} instead of {takers}")

    def _left(self, host: Host) -> None:
        ipam = host.ipam
        if ipam is None or not ipam.handed_over:
            self.checkers.fail(f"{host.label} has not handed over in 5 s in a mesh at rest")
        host.journal.clear()
        self.checkers.forget_cooling()
        host.stop_router(keep_datapath=False)
        host.gone = True
        host.new_life()
        host.journal.clear()


def _place(error: BaseException) -> str:
    """Where it was raised: the innermost two calls."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(places[-3:]))


def run_plan(plan: Plan, tell: Callable[[str], None] | None = None) -> Result:
    return Run(plan, tell).run()
