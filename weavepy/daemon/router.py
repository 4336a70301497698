"""The router process: everything is built here, and every long-lived task is made here by name.

`Router` is the world of a `Node`: it performs effects, and turns what happens (bytes, timers,
datapath messages, API calls) into inputs with the time. It decides nothing about protocol.

The order of starting matters. State from disk first, then what the kernel and the datapath still
have from a router before us, then the cores on top of that, and only then the doors: TCP, the
API, the read-only listener. So nobody ever meets a router that does not yet know what it holds.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, closing
from pathlib import Path
from random import SystemRandom
from typing import TypeVar

from fastdp.core.effects import (
    AddAssociation,
    Arrange,
    Carry,
    KeepAssociations,
    Point,
    ReadMacs,
    Retire,
    SendHeartbeat,
)
from fastdp.core.paths import PORT as FASTDP_PORT
from fastdp.core.paths import FastPaths
from ipam.core.effects import AnswerRequest, Persist, SettleTakeOver
from ipam.core.ipam import Ipam
from ipam.shell.store import Store
from policy.core.sharing import CHANNEL as PODS_CHANNEL
from policy.shell.filter import PolicyFilter
from policy.shell.script import log_group
from router.mesh.effects import (
    CloseLink,
    Dial,
    GossipReceived,
    LinkId,
    RememberTargets,
    SendBytes,
    UnicastReceived,
)
from router.mesh.mesh import Mesh
from router.shell import underlay
from router.shell.address_watch import AddressWatch
from router.shell.datapath import DatapathOptions
from router.shell.host import Host
from router.shell.tcp import TcpShell
from router.sleeve.messages import FromDatapath
from router.sleeve.negotiation import Negotiator, TellDatapath
from weavepy import __version__
from weavepy.base.effects import LogLine
from weavepy.base.errors import WeavepyError
from weavepy.base.gossip import Announce, Channel, Unicast
from weavepy.base.names import PeerName, PeerUid, ShortId
from weavepy.daemon import api, benching, files, listener, mtus
from weavepy.daemon.applied import AppliedObjects
from weavepy.daemon.attachments import Attachments
from weavepy.daemon.capture import Capturing
from weavepy.daemon.clock import Timer
from weavepy.daemon.cluster import ClusterObjects
from weavepy.daemon.datapath import RunningDatapath, adopted_peers
from weavepy.daemon.drivers import choose, drivers, wanted_policy
from weavepy.daemon.drops import Drops
from weavepy.daemon.kubernetes import Kubernetes
from weavepy.daemon.lobby import Lobby
from weavepy.daemon.node import RING_CHANNEL, Node, WorldEffect
from weavepy.daemon.options import Options
from weavepy.daemon.pods import Pods
from weavepy.daemon.policies import PolicyService
from weavepy.daemon.requests import Requests
from weavepy.daemon.ring import RingService, init_mode, running_addresses
from weavepy.daemon.service import RouterService
from weavepy.daemon.tampering import Tampering
from weavepy.daemon.tunnels import Input, Tunnels
from weavepy.kernel.thread import KernelThread

log = logging.getLogger(__name__)

TAP = "weavetap"

REPAIR_INTERVAL_S = 5.0
RECONCILE_INTERVAL_S = 60.0

Result = TypeVar("Result")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Router:
    """Build it, `start()` it, wait `until_stopped()`, `stop()` it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.requests = Requests()
        self.started_at = time.monotonic()
        self.keep_datapath = options.separate_datapath
        self._forgets: tuple[Path, ...] = ()
        self._stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._undo = AsyncExitStack()
        self._thread = KernelThread()
        self._undo.callback(self._thread.shutdown)
        self._tunnel_thread = KernelThread()
        """Of its own: Open vSwitch can keep it waiting, and containers must not wait for that."""
        self._undo.callback(self._tunnel_thread.shutdown)

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises `WeavepyError` for whatever is in the way; what was begun is undone by `stop`."""
        options = self.options
        directories = options.directories
        loop = asyncio.get_running_loop()
        rng = SystemRandom()
        identity = files.load_identity(directories.identity_file)
        self.store = Store.open(directories.database_file, identity.name)
        self._undo.callback(self.store.close)

        self.host = Host(
            options.bridge,
            mesh_ports=(options.port, FASTDP_PORT),
            is_node=options.kubernetes is not None,
        )
        self._wanted = wanted = await self._on_host(lambda: wanted_policy(options))
        self.mtus = await self._on_host(self._look_at_mtus)
        if self.mtus.warning:
            log.warning("%s", self.mtus.warning)
        await self._on_host(lambda: self.host.ensure_bridge(self.mtus.overlay_bytes))
        await self._fit_containers()

        datapath_options = DatapathOptions(
            socket=directories.datapath_socket,
            pid_file=directories.datapath_pid_file,
            log_file=directories.datapath_log_file,
            tap=TAP,
            port=options.port,
            mtu_bytes=self.mtus.overlay_bytes,
            underlay_mtu_bytes=self.mtus.underlay_bytes,
            encrypted=options.encrypted,
            offload=options.offload,
            separate=options.separate_datapath,
        )
        self.datapath = RunningDatapath(
            datapath_options,
            prepare=lambda: self._on_host(lambda: self.host.enslave(TAP)),
            said=self._datapath_said,
            lost=self._datapath_lost,
        )
        async with Lobby(options) as lobby:
            snapshot, hear_datapath, adopted = await self.datapath.meet(lobby.wait_for)
        found = drivers(options.fastdp, options.bridge, TAP, FASTDP_PORT, esp=wanted.has_esp)
        self.chosen = await self._on_host(lambda: choose(found, wanted))
        self.fastdp = self.chosen.policy
        self.tunnels = Tunnels(self.chosen.driver, self._tunnel_thread, self._tell_paths)

        packet_filter = PolicyFilter(options.bridge, rng, ports=self.host.assigned)
        self.host.on_assigned(packet_filter.place)
        self._undo.callback(packet_filter.close)
        self.policies = PolicyService(
            packet_filter, self._thread, always=options.kubernetes is not None
        )
        self._tampering = Tampering(packet_filter.watch, self.policies.repair)
        self._tampering.start()
        self._undo.callback(self._tampering.close)
        self.drops = Drops(
            log_group(options.bridge), self.policies.policies, packet_filter.addresses
        )
        self.drops.start()
        self._undo.callback(self.drops.close)
        facts = await self._on_host(self.host.attachments)
        channels: dict[str, Channel] = {benching.CHANNEL: benching.Stateless()}
        self.objects: AppliedObjects | ClusterObjects
        if options.kubernetes is None:
            self.objects = AppliedObjects(
                self.policies,
                directories.policies_file,
                identity.name,
                options.nickname,
                self._tell_mesh,
            )
            channels[PODS_CHANNEL] = self.objects.shared
        else:
            self.objects = ClusterObjects(
                self.policies, options.kubernetes, rng, directories.cluster_file
            )
            self._undo.push_async_callback(self.objects.close)
        await self.objects.start(facts)
        now = loop.time()
        remembered = files.load_targets(directories.targets_file) if options.resume else ()
        ipam = None
        if options.ipam:
            exposed = await self._on_host(self.host.exposed)
            ipam = Ipam(
                ourself=identity.name,
                nickname=options.nickname,
                universe=options.universe,
                default_subnet=options.default_subnet,
                init=init_mode(options),
                saved=self.store.load(),
                rng=rng,
                now=now,
                known_owners=None,
                expects_peers=bool(options.peers or remembered or options.kubernetes),
            )
        if ipam is not None:
            channels[RING_CHANNEL] = ipam
        mesh = Mesh(
            identity=identity,
            uid=PeerUid(rng.getrandbits(62) + 1),
            nickname=options.nickname,
            secret=options.secret,
            encrypted=options.encrypted,
            port=options.port,
            udp_port=options.port,
            version=__version__,
            channels=channels,
            rng=rng,
            now=now,
            discovery=options.discovery,
            connection_limit=options.connection_limit,
            short_id=ShortId(snapshot.ourself) if snapshot.ourself else None,
            mtu_bytes=self.mtus.overlay_bytes,
            given=options.peers,
            remembered=remembered,
            advertised=options.advertise,
            adopted=adopted_peers(snapshot),
        )
        negotiator = Negotiator(snapshot.sessions, rng)
        self.paths = FastPaths(
            rng,
            now,
            policy=self.fastdp,
            mtu_bytes=self.mtus.overlay_bytes,
            port=FASTDP_PORT,
            ourself=identity.name,
            underlay_mtu_bytes=self.mtus.underlay_bytes,
            rekey_s=options.esp_rekey_s,
            adopted=self.chosen.adopted,
        )
        self.node = Node(mesh, ipam, negotiator, self, self.paths)
        self.ring = RingService(self.node, self.requests, options, self.changed, self.store)
        self.attachments = Attachments(
            self.host, self.ring, self._thread, self.mtus.overlay_bytes, TAP, self.objects
        )
        self.pods = Pods(
            self.host,
            self.attachments,
            self.ring,
            self.objects,
            journal_directory=str(directories.cni_journal),
            has_datapath=lambda: self.datapath.snapshot is not None,
            requested=self.objects.requested,
        )
        self.capturing = Capturing(mesh, lambda: self.datapath.link)
        self.benching = benching.Benching(mesh, self.attachments, self._tell_bench)
        self.kubernetes: Kubernetes | None = None
        if isinstance(self.objects, ClusterObjects):
            self.kubernetes = Kubernetes(self, self.objects, rng)
        self._timer = Timer(self.node.next_deadline, self._fire)
        self._tcp = TcpShell(self)
        hear_datapath()
        self._undo.push_async_callback(self._release_datapath)
        self._undo.push_async_callback(self._release_tunnels)
        self._undo.push_async_callback(self._leave)
        self._undo.push_async_callback(self.benching.close)
        if self.kubernetes is not None:
            self._undo.push_async_callback(self.kubernetes.close)

        if ipam is not None:
            self.node.run_ring(ipam.claim_running(running_addresses(facts, exposed), now), now)
        self.node.handle_datapath(snapshot, now)
        await self.pods.begin()
        await self._listen()
        self.node.handle_timeout(loop.time())
        self._timer.arm()
        self._start_task("repair", self._repair_for_ever())
        self._start_task("tampering", self._tampering.repair_for_ever())
        self._start_task("reconcile", self._reconcile_for_ever())
        self._start_task("addresses", self._watch_addresses_for_ever())
        if self.kubernetes is not None:
            self.kubernetes.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        log.info(
            "%s (%s) is up on port %d, overlay MTU %d, %s, datapath %s",
            identity.name,
            options.nickname,
            options.port,
            self.mtus.overlay_bytes,
            "encrypted" if options.encrypted else "NOT ENCRYPTED",
            f"adopted (pid {snapshot.pid})" if adopted else f"started (pid {snapshot.pid})",
        )

    async def _listen(self) -> None:
        options = self.options
        try:
            await self._tcp.listen(options.port)
        except OSError as error:
            raise WeavepyError(
                f"cannot listen on TCP port {options.port}: {error.strerror}; another router, or"
                " choose another with --port"
            ) from error
        service = RouterService(self)
        socket = options.directories.api_socket
        self._undo.callback(socket.unlink, missing_ok=True)
        runner = await api.serve(api.application(service), socket)
        self._undo.push_async_callback(runner.cleanup)
        if options.http_address is not None:
            runner = await listener.serve(
                service.metrics, service.why_not_ready, *options.http_address
            )
            self._undo.push_async_callback(runner.cleanup)

    async def until_stopped(self) -> None:
        await self._stopping.wait()

    def ask_to_stop(self, keep_datapath: bool) -> None:
        self.keep_datapath = keep_datapath or self.options.separate_datapath
        self._stopping.set()

    def ask_to_forget(self) -> None:
        """Stop, and leave nothing behind: no identity, secret, ring, peers or bridge."""
        directories = self.options.directories
        self._forgets = (
            directories.identity_file,
            directories.secret_file,
            directories.targets_file,
            directories.policies_file,
            directories.cluster_file,
            *sorted(directories.state.glob(directories.database_file.name + "*")),
        )
        self.keep_datapath = False
        self._stopping.set()

    async def stop(self) -> None:
        """Undo, newest first, what `start` did, however far it came."""
        self._stopping.set()
        if self._forgets:
            await self._on_host(self.host.remove_bridge)
        await self._undo.aclose()
        for path in self._forgets:
            path.unlink(missing_ok=True)

    async def _leave(self) -> None:
        """Say goodbye to the mesh, and close the doors."""
        self._timer.stop()
        now = self._now()
        self.node.run(self.node.mesh.leave(now, keep_overlay=self.keep_datapath), now)
        await self._tcp.stop()

    async def _release_tunnels(self) -> None:
        """Like the datapath: they carry on if containers are to go on talking."""
        await self.tunnels.close(keep=self.keep_datapath or not self.fastdp.enabled)

    async def _release_datapath(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await self.datapath.close(keep=self.keep_datapath)

    # --- inputs ------------------------------------------------------------------------------

    def changed(self) -> None:
        """Whoever gave the node an input calls this: what it waits for may be another now."""
        self._timer.arm()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _fire(self) -> None:
        self.node.handle_timeout(self._now())
        self._timer.arm()

    def _tell_mesh(self, announced: list[Announce]) -> None:
        self.node.run(announced, self._now())
        self._timer.arm()

    def _tell_bench(self, peer: PeerName, payload: bytes) -> None:
        self.node.run([Unicast(benching.CHANNEL, peer, payload)], self._now())
        self._timer.arm()

    def _tell_paths(self, tell: Input) -> None:
        now = self._now()
        self.node.run(tell(self.paths, now), now)
        self._timer.arm()

    def new_link_id(self) -> LinkId:
        return self.node.mesh.new_link_id()

    def link_accepted(self, link: LinkId, host: str, port: int) -> None:
        now = self._now()
        self.node.run(self.node.mesh.handle_link_accepted(link, host, port, now), now)
        self._timer.arm()

    def link_opened(self, link: LinkId, host: str, port: int) -> None:
        now = self._now()
        self.node.run(self.node.mesh.handle_link_opened(link, host, port, now), now)
        self._timer.arm()

    def dial_failed(self, link: LinkId, reason: str) -> None:
        now = self._now()
        self.node.run(self.node.mesh.handle_dial_failed(link, reason, now), now)
        self._timer.arm()

    def bytes_received(self, link: LinkId, data: bytes) -> None:
        now = self._now()
        self.node.run(self.node.mesh.handle_bytes(link, data, now), now)
        self._timer.arm()

    def link_closed(self, link: LinkId, reason: str) -> None:
        now = self._now()
        self.node.run(self.node.mesh.handle_link_closed(link, reason, now), now)
        self._timer.arm()

    def link_paused(self, link: LinkId) -> None:
        now = self._now()
        self.node.run(self.node.mesh.handle_link_paused(link, now), now)

    def link_resumed(self, link: LinkId) -> None:
        now = self._now()
        self.node.run(self.node.mesh.handle_link_resumed(link, now), now)
        self._timer.arm()

    def _datapath_said(self, message: FromDatapath) -> None:
        self.node.handle_datapath(message, self._now())
        self._timer.arm()

    def _datapath_lost(self, reason: str) -> None:
        if self._stopping.is_set():
            return
        log.error("the datapath is gone: %s; starting another", reason)
        self.node.handle_datapath_lost(f"the datapath is gone: {reason}", self._now())
        self._timer.arm()
        self._start_task("datapath", self.datapath.replace())

    def _start_task(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def _repair_for_ever(self) -> None:
        """Now and then, and at once after a start: others change what is ours."""
        said = ""
        while True:
            try:
                if await self.attachments.repair():
                    self._tell_paths(FastPaths.handle_ports_changed)
                await self.pods.replay()
                await self._follow_underlay()
                await self.objects.repair()
                said = ""
            except WeavepyError as error:
                if str(error) != said:
                    log.error("containers are not as they should be: %s", error)
                said = str(error)
            await asyncio.sleep(REPAIR_INTERVAL_S)

    async def _follow_underlay(self) -> None:
        """Have the overlay's MTU follow the underlay's, and tell whoever counts on it.

        Containers that run follow as well, both ways: one that stayed smaller would drop what
        others are told that they may send to this host. Only a pod that asked for less keeps it.
        """
        try:
            now_are = await self._on_host(self._look_at_mtus)
        except underlay.NoUnderlay:
            return  # it may come back as it was
        before = self.mtus
        if now_are == before:
            return
        self.mtus = now_are
        underlay_mtu_bytes, mtu_bytes = now_are.underlay_bytes, now_are.overlay_bytes
        log.info("the underlay's MTU is %d now, the overlay's %d", underlay_mtu_bytes, mtu_bytes)
        if now_are.warning:
            log.warning("%s", now_are.warning)
        if mtu_bytes != before.overlay_bytes:
            self.attachments.mtu_bytes = mtu_bytes
            await self._fit_containers(before.overlay_bytes)
            self._tell_paths(
                lambda paths, now: paths.handle_mtu(mtu_bytes, underlay_mtu_bytes, now)
            )
            now = self._now()
            self.node.run(self.node.mesh.set_mtu(mtu_bytes, now), now)
            self._timer.arm()
        self.datapath.set_mtus(mtu_bytes, underlay_mtu_bytes)

    def _look_at_mtus(self) -> mtus.Mtus:
        return mtus.look(self.options, self._wanted, TAP)

    async def _fit_containers(self, before: int = 0) -> None:
        """None may be larger than the overlay is now. Those that were as large as it was `before`
        grow with it; a smaller one was asked for."""
        try:
            await self._on_host(lambda: self.host.set_mtu(self.mtus.overlay_bytes, before))
        except WeavepyError as error:
            log.error("containers may have another MTU than the overlay: %s", error)

    async def _reconcile_for_ever(self) -> None:
        """At start and every minute: free what attachments that are gone have left in use."""
        while True:
            try:
                self.ring.reconcile(*await self.attachments.look())
            except WeavepyError as error:
                log.error("addresses cannot be compared with interfaces: %s", error)
            await asyncio.sleep(RECONCILE_INTERVAL_S)

    async def _watch_addresses_for_ever(self) -> None:
        """Tell the mesh by which addresses others may reach this host, whenever they change."""
        ours = (self.options.bridge, TAP)
        with closing(AddressWatch()) as watch:
            while True:
                try:
                    hosts = await self._on_host(lambda: underlay.dialable_addresses(ours))
                except WeavepyError as error:
                    log.error("the mesh is not told where this host is: %s", error)
                else:
                    now = self._now()
                    self.node.run(self.node.mesh.handle_own_addresses(hosts, now), now)
                    self._timer.arm()
                await watch.changed()

    # --- the world ---------------------------------------------------------------------------

    def perform(self, effect: WorldEffect, now: float) -> None:
        match effect:
            case Dial():
                self._tcp.dial(effect)
            case SendBytes():
                self._tcp.send(effect)
            case CloseLink():
                self._tcp.close(effect)
            case Persist():
                self.store.persist(effect)
            case AnswerRequest():
                self.requests.answer(effect)
            case SettleTakeOver():
                assert self.kubernetes is not None, "only Kubernetes mode asks for a reclaim"
                self.kubernetes.settle(effect)
            case Arrange() | ReadMacs() | Carry() | Retire() | Point() | SendHeartbeat():
                self.tunnels.perform(effect)
            case AddAssociation() | KeepAssociations():
                self.tunnels.perform(effect)
            case TellDatapath(message=message):
                self.datapath.send(message)
            case UnicastReceived(source=source, payload=payload):
                self.benching.handle(source, payload)
            case GossipReceived(source=source, update=update):
                if isinstance(self.objects, AppliedObjects):
                    self.objects.handle_gossip(source, update)
            case RememberTargets(targets=targets):
                files.save_targets(self.options.directories.targets_file, targets)
            case LogLine(level=level, message=text, fields=fields):
                told = "".join(f" {name}={value}" for name, value in fields)
                log.log(_LEVELS[level], "%s%s", text, told)

    async def _on_host(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
