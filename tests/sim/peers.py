"""A host: its disk, its router, its datapath, its containers, and all that can befall them.

The router is the real `Node` with the real mesh, ring and negotiator, built as the daemon builds
it. A host is the node's world: it performs effects on simulated sockets and disks, and may die at
any of them. Containers are what the whole is for: they live on when a router dies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Network, ip_network

from fastdp.core.effects import (
    Arrange,
    Carry,
    Point,
    ReadMacs,
    Retire,
    SendHeartbeat,
    Tunnel,
)
from fastdp.core.paths import FastPaths
from fastdp.core.policy import Mode, Policy
from ipam.core.effects import AnswerRequest, IpamEffect, Persist, RunningAddress, SettleTakeOver
from ipam.core.election import InitMode
from ipam.core.ipam import Ipam
from router.mesh.effects import CloseLink, Dial, LinkId, RememberTargets, SendBytes
from router.mesh.identity import Identity
from router.mesh.mesh import Mesh
from router.sleeve.messages import FromDatapath
from router.sleeve.negotiation import Negotiator, TellDatapath
from tests.sim.checkers import Checkers
from tests.sim.datapath import Datapath
from tests.sim.disk import Disk
from tests.sim.kernel import TAP, Driver, Input, Kernel
from tests.sim.network import PORT, End, Network
from tests.sim.world import World
from weavepy.base.effects import LogLine
from weavepy.base.names import PeerName, PeerUid, ShortId
from weavepy.daemon.datapath import adopted_peers
from weavepy.daemon.node import Node, WorldEffect

UNDERLAY = ip_network("10.0.0.0/8")
SECRET = b"secret of simulated meshes......"
MIN_SLEEP_S = 0.001
"""As in `weavepy.daemon.clock`."""

DATAPATH_START_S = 0.3

MAX_FIRED_PER_S = 400
"""Far more than heartbeats and gossip need."""


class Crash(BaseException):
    """The process is killed at this very effect. Nobody catches it but the host."""


@dataclass
class Settings:
    """How routers are launched on this host."""

    universe: IPv4Network
    init: InitMode
    given: tuple[str, ...]
    discovery: bool = True
    connection_limit: int = 100
    knows_owners: bool = False
    """Whether a starting router is told which attachments still exist."""
    first_short_id: int = 0
    fastdp: Mode | None = None
    """None: this host's frames go straight to its datapath, as if there were no bridge."""


@dataclass
class Request:
    number: int
    kind: str
    owner: str
    deadline: float
    """On the world's clock."""
    asked_at: float = 0.0
    subnet: IPv4Network | None = None
    paused_s: float = 0.0
    abandoned: bool = False
    """The container went while the router had not answered yet."""


@dataclass
class Container:
    owner: str
    addresses: dict[int, int] = field(default_factory=dict)
    """Address to prefix length."""


class Host:
    def __init__(
        self, world: World, network: Network, checkers: Checkers, number: int, settings: Settings
    ) -> None:
        self.world = world
        self.network = network
        self.number = number
        self.address = f"10.0.{(number + 1) >> 8}.{(number + 1) & 255}"
        self.addresses = [self.address]
        """All that its interfaces have. Only the first leads here from everywhere."""
        self.label = f"h{number + 1}"
        self.settings = settings
        self.disk = Disk(world.random(f"disk {number}"))
        self.node: Node | None = None
        self.datapath: Datapath | None = None
        self.kernel = self._new_kernel()
        self.driver: Driver | None = None
        self.powered = True
        self.run = 0
        self.identities = 0
        self.identity = self._new_identity()
        self.links: dict[LinkId, End] = {}
        self.dials: dict[LinkId, End] = {}
        self.containers: dict[str, Container] = {}
        self.owners: dict[str, None] = {}
        """All that ever got an address here, with this identity."""
        self.journal: list[str] = []
        """Owners whose containers went, or never came up, while no router could be told."""
        self.requests: dict[int, Request] = {}
        self.slow_bytes_per_s = 0.0
        self.paused_until = 0.0
        self.crash_after: int | None = None
        """How many effects from now the router dies."""
        self.gone = False
        """It left the mesh for good."""
        self.clock_offset = world.rng.uniform(0.0, 1e5)
        """Monotonic clocks of different hosts have nothing to do with each other."""
        self._checkers = checkers
        self._inbox: list[tuple[int, Callable[..., None], tuple[object, ...]]] = []
        self._next_request = 0
        self._wake_at = float("inf")
        self._wakes = 0
        self._second = 0
        self._fired = 0
        """How often the timer went off within this second."""
        self._datapaths = 0
        self._leaving = False
        self._in_input = False
        self.on_path_change: Callable[[Host], None] = lambda host: None
        network.add(self)

    def _new_kernel(self) -> Kernel | None:
        return None if self.settings.fastdp is None else Kernel(self)

    def _new_identity(self) -> Identity:
        self.identities += 1
        text = f"{self.world.seed} key {self.number} {self.identities}"
        return Identity(sha256(text.encode()).digest())

    # --- queries -----------------------------------------------------------------------------

    @property
    def name(self) -> PeerName:
        return self.identity.name

    @property
    def now(self) -> float:
        return self.world.now + self.clock_offset

    @property
    def running(self) -> bool:
        return self.node is not None

    @property
    def mesh(self) -> Mesh | None:
        return None if self.node is None else self.node.mesh

    @property
    def ipam(self) -> Ipam | None:
        return None if self.node is None else self.node.ipam

    @property
    def mac(self) -> bytes:
        """Of the one container that frames come from."""
        return bytes([2, 0, 0, 0, *self.number.to_bytes(2, "big")])

    @property
    def lives(self) -> tuple[int, int]:
        """Of the router and of the datapath."""
        return self.run, self._datapaths

    @property
    def leaving(self) -> bool:
        return self._leaving

    def trace(self, what: str) -> None:
        self.world.trace(self.label, what)

    # --- life of the router --------------------------------------------------------------------

    def start(self) -> None:
        """As `weavepy.daemon.router.Router.start` does it."""
        if self.running or not self.powered or self.gone:
            return
        self.run += 1
        self._leaving = False
        if self.datapath is None:
            self._start_datapath()
        assert self.datapath is not None
        snapshot = self.datapath.snapshot()
        rng = self.world.random(f"router {self.number} {self.run}")
        keys = self.world.random(f"ephemeral keys {self.number} {self.run}")
        settings, now = self.settings, self.now
        remembered = self.disk.content.targets
        known = [*self.containers] if settings.knows_owners else None
        ipam = Ipam(
            ourself=self.name,
            nickname=self.label,
            universe=settings.universe,
            default_subnet=None,
            init=settings.init,
            saved=self.disk.load(),
            rng=rng,
            now=now,
            known_owners=known,
            expects_peers=bool(settings.given or remembered),
        )
        mesh = Mesh(
            identity=self.identity,
            uid=PeerUid(rng.getrandbits(62) + 1),
            nickname=self.label,
            secret=SECRET,
            encrypted=True,
            port=PORT,
            udp_port=PORT,
            channels={"ring": self._checkers.watch_channel(self, ipam)},
            rng=rng,
            now=now,
            discovery=settings.discovery,
            connection_limit=settings.connection_limit,
            short_id=ShortId(snapshot.ourself) if snapshot.ourself else None,
            given=settings.given,
            remembered=remembered,
            adopted=adopted_peers(snapshot),
            draw_ephemeral=lambda: keys.randbytes(32),
        )
        self._checkers.watch_mesh(self, mesh)
        negotiator = Negotiator(snapshot.sessions, rng)
        self.node = Node(mesh, ipam, negotiator, self, self._fast_paths())
        self.trace(f"router starts, run {self.run}, {len(self.containers)} containers")
        self._checkers.router_started(self)
        running = [
            RunningAddress(address, container.owner, prefix)
            for container in self.containers.values()
            for address, prefix in container.addresses.items()
        ]
        node = self.node
        journal, self.journal = self.journal, []

        def begin() -> None:
            node.run_ring(ipam.claim_running(running, now), now)
            node.handle_datapath(snapshot, now)
            node.run(mesh.handle_own_addresses(self.addresses, now), now)
            node.handle_timeout(self.now)

        self._guarded(begin)
        for owner in journal:
            self.release(owner)

    def _fast_paths(self) -> FastPaths | None:
        kernel, mode = self.kernel, self.settings.fastdp
        if kernel is None or mode is None:
            return None
        policy = Policy(mode, encrypted=True, trusted=(UNDERLAY,))
        if not policy.enabled:
            kernel.remove_all()
        self.driver = Driver(self, kernel)
        adopted = self.driver.adopt()
        rng = self.world.random(f"fast path {self.number} {self.run}")
        return FastPaths(
            rng, self.now, policy=policy, mtu_bytes=1400, ourself=self.name, adopted=adopted
        )

    def _start_datapath(self) -> None:
        self._datapaths += 1
        pid = 1000 * (self.number + 1) + self._datapaths
        short_id = self.settings.first_short_id if self._datapaths == 1 else 0
        self.datapath = Datapath(self, pid, short_id)

    def kill_router(self, reason: str = "is killed", cut: bool = True) -> None:
        if not self.running:
            return
        self.trace(f"router {reason}")
        self._end_router()
        for end in self.network.ends_of(self):
            self.network.kill(end, cut=cut)
        self.links.clear()

    def stop_router(self, keep_datapath: bool) -> None:
        """As SIGTERM does."""
        node = self.node
        if node is None:
            return
        self.trace("router stops")
        self._guarded(lambda: node.run(node.mesh.leave(self.now, keep_datapath), self.now))
        if self.running:
            for end in self.network.ends_of(self):
                self.network.close(end)
            self._end_router()
        if not keep_datapath:
            self._end_datapath()
            if self.kernel is not None:
                self.kernel.remove_all()

    def power_off(self) -> None:
        if not self.powered:
            return
        self.trace("loses power")
        self.powered = False
        if self.running:
            self._end_router()
        for end in self.network.ends_of(self):
            self.network.vanish(end)
        self.links.clear()
        self._end_datapath()
        self.kernel = self._new_kernel()
        for owner in list(self.containers):
            self._container_gone(owner)
        self.clock_offset = self.world.rng.uniform(0.0, 1e5)

    def power_on(self) -> None:
        if not self.powered:
            self.trace("gets power")
            self.powered = True
            self.start()

    def kill_datapath(self) -> None:
        if self.datapath is None:
            return
        self.trace("datapath is killed")
        self._end_datapath()
        if self.running:
            self.post(self._datapath_lost)

    def new_life(self) -> None:
        """`weavepy reset`: nothing of the old identity is left."""
        self._end_datapath()
        self.disk.lose()
        self.disk.remember(())
        self.identity = self._new_identity()

    def _end_datapath(self) -> None:
        if self.datapath is not None:
            self.datapath.alive = False
            self.datapath = None
            if self.kernel is not None:
                self.kernel.flush(TAP)

    def _end_router(self) -> None:
        """Whatever was under way in the process ends with it."""
        self._checkers.router_ended(self)
        self.node = None
        self.run += 1
        self._inbox.clear()
        self.paused_until = 0.0
        self.crash_after = None
        self._wake_at = float("inf")
        for end in self.dials.values():
            end.open = False
        self.dials.clear()
        for request in self.requests.values():
            if request.kind in ("allocate", "claim", "release"):
                self.journal.append(request.owner)
        self.requests.clear()

    def pause(self, duration_s: float) -> None:
        """The router's process stands still: SIGSTOP, a swapped-out machine, a frozen VM."""
        if not self.running:
            return
        until = self.world.now + duration_s
        self.trace(f"router stands still for {duration_s:.1f} s")
        self.paused_until = max(self.paused_until, until)
        for request in self.requests.values():
            request.paused_s += duration_s
        self.world.at(until, self._resume, self.run)

    def _resume(self, run: int) -> None:
        if run != self.run or self.world.now < self.paused_until:
            return
        self.trace("router goes on")
        inbox, self._inbox = self._inbox, []
        for of_run, action, arguments in inbox:
            if of_run == self.run:
                action(*arguments)
        if run == self.run:
            self._fire(run, self._wakes)

    # --- inputs ------------------------------------------------------------------------------

    def post(self, action: Callable[..., None], *arguments: object) -> None:
        """The process reads it when it can: at once, unless it stands still."""
        if not self.running:
            return
        if self.world.now < self.paused_until or self._in_input:
            self._inbox.append((self.run, action, arguments))
            if self._in_input:
                self.world.later(0.0, self._drain, self.run)
        else:
            action(*arguments)

    def _drain(self, run: int) -> None:
        if run == self.run and self.world.now >= self.paused_until:
            inbox, self._inbox = self._inbox, []
            for of_run, action, arguments in inbox:
                if of_run == self.run:
                    action(*arguments)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Give the node an input; it may die of it."""
        self._in_input = True
        try:
            action()
        except Crash:
            self._in_input = False
            self.kill_router("crashes")
            return
        finally:
            self._in_input = False
        self._checkers.after_input(self)
        self._arm()

    def _arm(self) -> None:
        if self.node is None:
            return
        at = self.node.next_deadline().at - self.clock_offset
        if at < self._wake_at:
            self._wake_at = at
            self._wakes += 1
            when = max(at, self.world.now + MIN_SLEEP_S)
            self.world.at(when, self._fire, self.run, self._wakes)

    def _fire(self, run: int, wake: int) -> None:
        node = self.node
        if node is None or run != self.run or wake != self._wakes:
            return
        if self.world.now < self.paused_until:
            return
        self._wake_at = float("inf")
        self._check_busy(node)
        self._guarded(lambda: node.handle_timeout(self.now))

    def _check_busy(self, node: Node) -> None:
        """A deadline that is over, and that no core does anything about, is a busy loop."""
        if self._second != int(self.world.now):
            self._second, self._fired = int(self.world.now), 0
        self._fired += 1
        if self._fired > MAX_FIRED_PER_S:
            reason = node.next_deadline().reason
            self._checkers.fail(f"{self.label} is busy with nothing: {reason}")

    def link_accepted(self, link: LinkId, host: str, port: int) -> None:
        node = self._node()
        self.trace(f"link {link} from {host}")
        self._guarded(
            lambda: node.run(node.mesh.handle_link_accepted(link, host, port, self.now), self.now)
        )

    def link_opened(self, link: LinkId, host: str, port: int) -> None:
        node = self._node()
        self.trace(f"link {link} to {host} opened")
        self._guarded(
            lambda: node.run(node.mesh.handle_link_opened(link, host, port, self.now), self.now)
        )

    def dial_failed(self, link: LinkId, reason: str) -> None:
        node = self._node()
        self.trace(f"link {link}: {reason}")
        self._guarded(
            lambda: node.run(node.mesh.handle_dial_failed(link, reason, self.now), self.now)
        )

    def bytes_came(self, link: LinkId, data: bytes) -> None:
        node = self._node()
        if self.world.traced:
            self.trace(f"link {link} got {len(data)} bytes {sha256(data).hexdigest()[:8]}")
        self._guarded(lambda: node.run(node.mesh.handle_bytes(link, data, self.now), self.now))

    def link_closed(self, link: LinkId, reason: str) -> None:
        node = self._node()
        self.trace(f"link {link}: {reason}")
        self._guarded(
            lambda: node.run(node.mesh.handle_link_closed(link, reason, self.now), self.now)
        )

    def link_paused(self, link: LinkId) -> None:
        """As asyncio does it: from within the write."""
        node = self._node()
        self.trace(f"link {link} is full")
        node.run(node.mesh.handle_link_paused(link, self.now), self.now)

    def link_resumed(self, link: LinkId) -> None:
        node = self._node()
        self.trace(f"link {link} has room")
        self._guarded(lambda: node.run(node.mesh.handle_link_resumed(link, self.now), self.now))

    def datapath_said(self, message: FromDatapath) -> None:
        node = self._node()
        self.trace(f"datapath: {type(message).__name__} {getattr(message, 'peer', '')}")
        self._guarded(lambda: node.handle_datapath(message, self.now))

    def fast_input(self, tell: Input) -> None:
        """The driver, or a heartbeat, has something for the fast path."""
        node = self._node()
        paths = node.paths
        if paths is not None:
            self._guarded(lambda: node.run(tell(paths, self.now), self.now))

    def change_addresses(self, addresses: Sequence[str]) -> None:
        self.addresses = [*addresses]

        def tell() -> None:
            node = self._node()
            self.trace(f"has the addresses {self.addresses}")
            self._guarded(
                lambda: node.run(node.mesh.handle_own_addresses(self.addresses, self.now), self.now)
            )

        self.post(tell)

    def _datapath_lost(self) -> None:
        node = self._node()
        self._guarded(lambda: node.handle_datapath_lost("it was killed", self.now))
        self.world.later(DATAPATH_START_S, self._datapath_again, self.run)

    def _datapath_again(self, run: int) -> None:
        if run == self.run and self.powered and self.datapath is None:
            self._start_datapath()
            assert self.datapath is not None
            self.post(self.datapath_said, self.datapath.snapshot())

    def _node(self) -> Node:
        assert self.node is not None
        return self.node

    # --- requests and containers -------------------------------------------------------------

    def ask(
        self,
        kind: str,
        owner: str,
        ask: Callable[[Ipam, int, float, float], Sequence[IpamEffect]],
        timeout_s: float,
        subnet: IPv4Network | None = None,
    ) -> None:
        """What the API does: `ask` is given the ring, a number, a deadline and the time."""
        node = self.node
        if node is None or node.ipam is None:
            return
        self._next_request += 1
        number, ipam = self._next_request, node.ipam
        self.requests[number] = Request(
            number, kind, owner, self.world.now + timeout_s, self.world.now, subnet
        )

        def go() -> None:
            self.trace(f"request {number}: {kind} for {owner}")
            now = self.now
            self._guarded(lambda: node.run_ring(ask(ipam, number, now + timeout_s, now), now))

        if self.world.now < self.paused_until:
            self.requests[number].paused_s += self.paused_until - self.world.now
        self.post(go)

    def attach(self, owner: str, subnet: IPv4Network | None, timeout_s: float) -> None:
        self.ask(
            "allocate",
            owner,
            lambda ipam, number, deadline, now: ipam.allocate(number, owner, subnet, deadline, now),
            timeout_s,
            subnet,
        )

    def claim(self, owner: str, address: int, timeout_s: float) -> None:
        prefix = self.settings.universe.prefixlen
        self.ask(
            "claim",
            owner,
            lambda ipam, number, deadline, now: ipam.claim(
                number, owner, address, prefix, deadline, now
            ),
            timeout_s,
        )

    def prime(self, timeout_s: float) -> None:
        self.ask(
            "prime",
            "",
            lambda ipam, number, deadline, now: ipam.prime(number, deadline, now),
            timeout_s,
        )

    def take_over(self, peer: PeerName, timeout_s: float) -> None:
        self.ask(
            "rmpeer",
            "",
            lambda ipam, number, deadline, now: ipam.take_over(number, peer, False, deadline, now),
            timeout_s,
        )

    def detach(self, owner: str) -> None:
        """The container goes first; its addresses are free when the router has been told."""
        self._container_gone(owner)
        for request in self.requests.values():
            request.abandoned = request.abandoned or request.owner == owner
        self.release(owner)

    def release(self, owner: str) -> None:
        if owner in self.containers:
            return
        if not self.running or self.leaving:
            self.journal.append(owner)
            return
        self.ask(
            "release",
            owner,
            lambda ipam, number, deadline, now: ipam.release(number, owner, None, now),
            float("inf"),
        )

    def hand_over(self, heir: PeerName) -> None:
        node = self.node
        if node is None or node.ipam is None:
            return
        self._leaving = True
        ipam = node.ipam
        self.trace(f"hands over to {heir}")
        self._guarded(lambda: node.run_ring(ipam.hand_over(heir, self.now), self.now))

    def _answered(self, answer: AnswerRequest) -> None:
        request = self.requests.pop(answer.request, None)
        self._checkers.answered(self, request, answer)
        if request is None or request.kind not in ("allocate", "claim"):
            return
        if answer.address is None or self.leaving or request.abandoned:
            if request.owner not in self.containers:
                self.world.later(0.0, self.release, request.owner)
            return
        self.owners[request.owner] = None
        container = self.containers.setdefault(request.owner, Container(request.owner))
        if answer.address not in container.addresses:
            container.addresses[answer.address] = answer.prefix_length or 0
            self._checkers.address_up(self, answer.address, request.owner)

    def _container_gone(self, owner: str) -> None:
        container = self.containers.pop(owner, None)
        if container is not None:
            for address in container.addresses:
                self._checkers.address_down(self, address)

    # --- the world of the node -----------------------------------------------------------------

    def perform(self, effect: WorldEffect, now: float) -> None:
        torn = False
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                # In the middle of a write to the disk, either the old or the new is there.
                torn = isinstance(effect, Persist) and self.world.rng.random() < 0.5
                if not torn:
                    raise Crash
        self._perform(effect)
        if torn:
            raise Crash

    def _perform(self, effect: WorldEffect) -> None:
        match effect:
            case Dial(link=link, host=host, port=port):
                self.trace(f"dial {host}:{port} as link {link}")
                self.network.dial(self, effect)
            case SendBytes(link=link, data=data):
                end = self.links.get(link)
                if end is not None:
                    self.network.send(end, data)
            case CloseLink(link=link, reason=reason):
                self.trace(f"close link {link}: {reason}")
                dial = self.dials.pop(link, None)
                if dial is not None:
                    dial.open = False
                end = self.links.get(link)
                if end is not None:
                    self.network.close(end)
            case Persist():
                self.disk.persist(effect)
                self.trace(
                    f"persist {'ring, ' if effect.ring is not None else ''}"
                    f"{len(effect.allocated)} rows, {len(effect.released)} gone"
                )
                self._checkers.persisted(self)
            case AnswerRequest(request=number, address=address, error=error):
                self.trace(f"answer {number}: {error if address is None else address}")
                self._answered(effect)
            case SettleTakeOver():
                self.settle(effect)
            case TellDatapath(message=message):
                self.trace(f"to datapath: {type(message).__name__}")
                if self.datapath is not None:
                    self.datapath.handle_message(message)
            case Arrange() | ReadMacs() | Carry() | Retire() | Point() | SendHeartbeat():
                assert self.driver is not None
                self.driver.perform(effect)
            case RememberTargets(targets=targets):
                self.disk.remember(targets)
            case LogLine(level=level, message=text, fields=fields):
                self.trace(f"log {level}: {text} {dict(fields)}")

    def settle(self, effect: SettleTakeOver) -> None:
        raise AssertionError("there is no register outside of the mesh")

    # --- frames ------------------------------------------------------------------------------

    def send_frame(self, number: int, destination: bytes) -> None:
        """From its container."""
        if self.kernel is not None:
            if self.powered:
                self.kernel.frame_from_container(number, destination, self.mac)
        elif self.datapath is not None:
            self.datapath.frame_from_bridge(number, destination, self.mac)

    def frame_from_overlay(self, number: int, destination: bytes, source: bytes) -> None:
        if self.kernel is not None:
            self.kernel.frame_from_tap(number, destination, source)
        else:
            self.frame_delivered(number)

    def frame_delivered(self, number: int) -> None:
        self._checkers.frame_delivered(self, number)

    def address_unknown(self, number: int) -> None:
        """Its bridge floods a frame for one host. The datapath may learn, while the frame waits
        in the TAP's queue, whom it is for, and send it there as well."""
        self._checkers.excused_frames[number] = None

    def path_changes(self) -> None:
        """A tunnel of this host is about to carry, or not to: when frames go wrong, if ever."""
        self.on_path_change(self)

    def tunnel_removed(self, tunnel: Tunnel, carrying: bool) -> None:
        if carrying:
            self._checkers.fail(f"{self.label} removes the tunnel to {tunnel.peer} as it carries")
