"""Kubernetes mode: the router's peers and truth come from the nodes of an API server.

Decisions are in `kube.core`; this is what carries them out, one thing after another. Nothing here
is needed to carry frames or to give out addresses: while the API server is away, for hours, all
goes on with what was known, which the mesh and the ring have on disk themselves.

What a router does, whenever a node has changed and every `TICK_S`: dials the nodes there are,
keeps itself on record in the register, sees to it that there is a first ring, puts the host on the
network as its pods' gateway, takes away the node's condition NetworkUnavailable, and takes its
turn at reclaiming the ranges of those who are gone (`kube.core.truth`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from ipam.core.effects import SettleTakeOver
from kube.core import truth
from kube.core.register import RING_KEY, FirstRing, Home, Register, encode, peer_key
from kube.core.watch import ListNodes, NodeWatch, Wait, WatchNodes
from kube.shell.api import Api, ApiConflict
from weavepy.base.errors import WeavepyError
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon.options import KubernetesOptions

if TYPE_CHECKING:
    from weavepy.daemon.router import Router

log = logging.getLogger(__name__)

TICK_S = 2.0

REGISTER_S = 600.0
"""After how long it is read anew, up to half as long again."""

LOOK_AROUND_S = 5.0
"""So long a new router waits for a peer that has a ring, before it has the first one decided."""

RECLAIM_S = 20.0
PUT_OFF_S = 30.0
"""After a reclaim that came to nothing, if nothing changes."""

MAX_GONE = 64
"""Nodes that are looked up at once; with more there are more rounds."""

RING_ID_BYTES = 8


class Kubernetes:
    def __init__(self, router: Router, options: KubernetesOptions, rng: Random) -> None:
        self._router = router
        self._options = options
        self._rng = rng
        self._api = Api(options.server, options.register)
        self._watch = NodeWatch(rng)
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._settling: set[asyncio.Task[None]] = set()
        self._register: Register | None = None
        self._register_due_at = 0.0
        self._home: Home | None = None
        """As we have put it on record."""
        self._targets: tuple[str, ...] = ()
        self._is_gateway = False
        self._absent_since: dict[PeerName, float] = {}
        """Owners that may be gone, and since when."""
        self._reclaim_at = 0.0
        self._problem = ""
        """What went wrong when we last tried."""
        self._disbelief = ""

    def start(self) -> None:
        self._started_at = self._now()
        for name, work in (("watch", self._watch_for_ever()), ("work", self._work_for_ever())):
            self._tasks.append(asyncio.create_task(work, name=f"kubernetes-{name}"))

    async def close(self) -> None:
        for task in (*self._tasks, *self._settling):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._settling, return_exceptions=True)
        await self._api.close()

    def warnings(self) -> list[str]:
        found = [self._watch.problem, self._problem]
        if self._disbelief:
            found.append(f"no addresses are reclaimed on the API server's word: {self._disbelief}")
        return [f"Kubernetes: {text}" for text in dict.fromkeys(found) if text]

    def settle(self, effect: SettleTakeOver) -> None:
        """Have the register decide; what it says goes to the ring."""
        task = asyncio.create_task(self._settle(effect), name="kubernetes-settle")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    # --- the nodes -------------------------------------------------------------------------

    async def _watch_for_ever(self) -> None:
        step = self._watch.next_step()
        while True:
            error: Exception | None = None
            try:
                match step:
                    case Wait(seconds=seconds):
                        await asyncio.sleep(seconds)
                        step = self._watch.handle_waited()
                        continue
                    case ListNodes():
                        self._watch.handle_listed(*await self._api.list_nodes())
                        self._woken.set()
                        step = self._watch.next_step()
                        continue
                    case WatchNodes(resource_version=version):
                        await self._follow(version)
            except WeavepyError as failure:
                error = failure
            if error is not None and str(error) != self._watch.problem:
                log.warning("the nodes of the cluster: %s", error)
            self._watch.handle_ended(error, self._now())
            step = self._watch.next_step()

    async def _follow(self, version: str) -> None:
        async with self._api.watch_nodes(version) as lines:
            self._watch.handle_watching(self._now())
            async for line in lines:
                if self._watch.handle_line(line):
                    self._woken.set()

    # --- the work --------------------------------------------------------------------------

    async def _work_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._woken.wait()
            self._woken.clear()
            problem = ""
            try:
                await self._work()
            except WeavepyError as error:
                problem = str(error)
                if problem != self._problem:
                    log.warning("Kubernetes: %s", problem)
            self._problem = problem

    async def _work(self) -> None:
        if not self._watch.listed:
            return
        self._dial()
        await self._keep_register()
        assert self._register is not None
        await self._see_to_first_ring(self._register)
        await self._be_gateway()
        await self._take_turn(self._register)

    def _dial(self) -> None:
        options = self._router.options
        wanted = truth.targets(self._watch.nodes, self._options.node_name, options.connection_limit)
        if wanted == self._targets:
            return
        self._targets = wanted
        mesh = self._router.node.mesh
        log.info("the cluster has %d nodes, of which we dial %s", len(self._watch.nodes), wanted)
        self._router.node.run(mesh.connect(wanted, True, self._now()), self._now())
        self._router.changed()

    async def _keep_register(self) -> None:
        """Stand in it, and know what it says of take-overs: of ours above all."""
        node = self._watch.nodes.get(self._options.node_name)
        home = None if node is None else Home(node.name, node.uid)
        if (
            self._register is not None
            and home == self._home
            and self._now() < self._register_due_at
        ):
            return
        if home is None:
            register = await self._api.read_register()
        else:
            ourself = self._router.node.mesh.ourself
            register = await self._api.write_register({peer_key(ourself): encode(home)})
        self._home = home
        self._know(register)

    def _know(self, register: Register) -> None:
        self._register = register
        self._register_due_at = self._now() + REGISTER_S * (1 + self._rng.random() / 2)
        ipam = self._router.node.ipam
        assert ipam is not None
        self._router.node.run_ring(
            ipam.handle_verdicts(register.verdicts(), self._now()), self._now()
        )
        self._router.changed()

    async def _see_to_first_ring(self, register: Register) -> None:
        router = self._router
        ipam = router.node.ipam
        assert ipam is not None
        universe = str(router.options.universe)
        if ipam.ring is not None:
            ours = ipam.ring.ring_id.hex()
            if register.ring is None:
                await self._decide_ring(FirstRing(ours, (), universe), register)
            elif register.ring.id != ours:
                raise WeavepyError(
                    f"this host lives with the ring {ours}, and the cluster with"
                    f" {register.ring.id}: if this host is not needed by another cluster, run"
                    " `weavepy reset` on it"
                )
            return
        decided, new = register.ring, False
        if decided is None:
            if self._now() < self._started_at + LOOK_AROUND_S:
                return
            mesh = router.node.mesh
            peers = tuple(sorted({mesh.ourself, *mesh.reachable_peers}))
            ring = FirstRing(self._rng.randbytes(RING_ID_BYTES).hex(), peers, universe)
            decided = await self._decide_ring(ring, register)
            new = decided == ring
        if decided is None or not decided.peers or ipam.ring is not None:
            return
        if decided.universe != universe:
            raise WeavepyError(
                f"the addresses of the cluster are {decided.universe}, and of this host {universe}:"
                " give all hosts the same --ipalloc-range"
            )
        peers = tuple(PeerName(peer) for peer in decided.peers)
        now = self._now()
        router.node.run_ring(ipam.appoint(bytes.fromhex(decided.id), peers, new, now), now)
        router.changed()

    async def _decide_ring(self, ring: FirstRing, seen: Register) -> FirstRing | None:
        """Return the one that the register has now: this one, or somebody was faster."""
        try:
            register = await self._api.write_register({RING_KEY: encode(ring)}, seen.version)
        except ApiConflict:
            register = await self._api.read_register()
        self._know(register)
        return register.ring

    async def _be_gateway(self) -> None:
        """Pods leave the network by the address of their host, and nodes reach pods from it."""
        ipam = self._router.node.ipam
        if ipam is None or ipam.ring is None:
            return
        if not self._is_gateway:
            request = schema.ExposeRequest(addresses=[], masquerade=True)
            answer = await self._router.attachments.expose(request)
            self._is_gateway = True
            log.info("this node is on the network as %s", ", ".join(answer.addresses))
        node = self._watch.nodes.get(self._options.node_name)
        if node is not None and not node.network_is_up:
            await self._api.say_network_is_up(node.name)

    # --- those who are gone ----------------------------------------------------------------

    async def _take_turn(self, known: Register) -> None:
        """Begin with those whose turn is ours; at most one at a time."""
        mesh, ipam = self._router.node.mesh, self._router.node.ipam
        assert ipam is not None
        now = self._now()
        if ipam.ring is None or not ipam.is_up_to_date or self._watch.problem:
            return
        alive = {mesh.ourself, *mesh.reachable_peers, *mesh.routes.unicast}
        owners = [peer for peer in ipam.ring.owners() if peer not in alive]
        # Of whom we have not read where it lives, that may be on record by now.
        unknown = [peer for peer in owners if peer not in known.homes]
        absent = [*truth.suspects(owners, alive, known, self._watch.nodes), *unknown]
        self._absent_since = {peer: self._absent_since.get(peer, now) for peer in absent}
        due = [
            peer
            for peer, since in self._absent_since.items()
            if now >= since + truth.turn_s(peer, mesh.ourself, mesh.reachable_peers)
        ]
        if not due or now < self._reclaim_at:
            return
        self._reclaim_at = now + PUT_OFF_S
        register = await self._api.read_register()
        self._know(register)
        self._disbelief = truth.why_not_believed(
            self._watch.nodes, self._options.node_name, mesh.reachable_peers, register
        )
        if self._disbelief:
            log.warning("the API server is not believed: %s", self._disbelief)
            return
        gone = await self._confirmed(register, owners, alive)
        for peer in due:
            if peer in gone:
                told = await self._router.ring.reclaim(peer, gone, RECLAIM_S)
                log.info("reclaimed: %s", told)
                self._reclaim_at = 0.0

    async def _confirmed(
        self, register: Register, owners: list[PeerName], alive: set[PeerName]
    ) -> list[PeerName]:
        """Have the API server say once more, from its database, of whom the node is gone."""
        gone: list[PeerName] = []
        suspects = truth.suspects(owners, alive, register, self._watch.nodes)
        for peer in suspects[:MAX_GONE]:
            node = await self._api.get_node(register.homes[peer].node)
            if truth.is_gone(peer, register, node):
                gone.append(peer)
        return gone

    async def _settle(self, effect: SettleTakeOver) -> None:
        try:
            verdict = await self._decided(effect)
        except WeavepyError as error:
            log.warning("the take-over of %s is not decided: %s", effect.peer, error)
            return
        ipam = self._router.node.ipam
        assert ipam is not None
        now = self._now()
        self._router.node.run_ring(ipam.handle_verdicts({effect.peer: verdict}, now), now)
        self._router.changed()

    async def _decided(self, effect: SettleTakeOver) -> tuple[int, PeerName]:
        while True:
            register = await self._api.read_register()
            found = truth.judge(register, effect.peer, effect.after, effect.epoch, effect.taker)
            if isinstance(found, truth.Write):
                try:
                    await self._api.write_register(found.changes, found.version)
                except ApiConflict:
                    continue
            return found.epoch, found.taker

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
