"""Kubernetes mode: the router's peers and truth come from the nodes of an API server.

Decisions are in `kube.core`; this is what carries them out. `Membership.work` is held whenever a
node has changed and every `TICK_S`: it dials the nodes there are, keeps the router on record in the
register, sees to it that there is a first ring, puts the host on the network as its pods' gateway,
takes away the node's condition NetworkUnavailable, and takes its turn at reclaiming the ranges of
those who are gone. Nothing of this is needed to carry frames or to give out addresses: while the
API server is away, for hours, all goes on with what was known, which the mesh and the ring have on
disk themselves.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing, suppress
from random import Random
from typing import TYPE_CHECKING, assert_never

from ipam.core.effects import SettleTakeOver
from kube.core import membership
from kube.core.membership import TICK_S, Membership, Sight, Talk
from kube.core.objects import NODES, Node
from kube.core.register import Register
from kube.core.watch import Change, Watch
from kube.shell.api import ApiConflict
from weavepy.base.effects import LogLine
from weavepy.base.errors import WeavepyError
from weavepy.client import schema
from weavepy.daemon.cluster import ClusterObjects
from weavepy.daemon.watching import Follower

if TYPE_CHECKING:
    from weavepy.daemon.router import Router

log = logging.getLogger(__name__)


class Kubernetes:
    def __init__(self, router: Router, objects: ClusterObjects, rng: Random) -> None:
        self._router = router
        self._objects = objects
        self._api = objects.api
        self._watch = Watch(NODES, rng)
        self._nodes = Follower(objects.api, self._watch, objects.seen, self._nodes_changed)
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._settling: set[asyncio.Task[None]] = set()
        self._membership = Membership(
            ourself=router.node.mesh.ourself,
            node_name=objects.node_name,
            universe=str(router.options.universe),
            connection_limit=router.options.connection_limit,
            rng=rng,
            now=self._now(),
        )

    def start(self) -> None:
        following, working = self._nodes.follow_for_ever(), self._work_for_ever()
        for name, work in (("nodes", following), ("work", working)):
            self._tasks.append(asyncio.create_task(work, name=f"kubernetes-{name}"))

    async def close(self) -> None:
        for task in (*self._tasks, *self._settling):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._settling, return_exceptions=True)

    def warnings(self) -> list[str]:
        found = dict.fromkeys(
            [self._watch.problem, *self._membership.warnings(), *self._objects.warnings()]
        )
        return [f"Kubernetes: {text}" for text in found if text]

    def settle(self, effect: SettleTakeOver) -> None:
        """Have the register decide; what it says goes to the ring."""
        task = asyncio.create_task(self._settle(effect), name="kubernetes-settle")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    # --- the work --------------------------------------------------------------------------

    def _nodes_changed(self, _: list[Change[Node]]) -> None:
        self._woken.set()

    async def _work_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._woken.wait()
            self._woken.clear()
            problem = ""
            try:
                await self._hold(self._membership.work())
            except WeavepyError as error:
                problem = str(error)
            for line in self._membership.handle_over(problem):
                await self._carry_out(line)
            await asyncio.sleep(self._membership.rest_s)

    async def _settle(self, effect: SettleTakeOver) -> None:
        try:
            await self._hold(
                self._membership.settle(effect.peer, effect.after, effect.epoch, effect.taker)
            )
        except WeavepyError as error:
            log.warning("the take-over of %s is not decided: %s", effect.peer, error)

    async def _hold(self, talk: Talk[None]) -> None:
        answer: object = None
        with closing(talk):
            while True:
                try:
                    effect = talk.send(answer)
                except StopIteration:
                    return
                answer = await self._carry_out(effect)

    async def _carry_out(self, effect: membership.Effect) -> Sight | Register | Node | None:
        match effect:
            case membership.Look():
                return self._sight()
            case membership.ReadRegister():
                return await self._api.read_register()
            case membership.WriteRegister(changes=changes, version=version):
                try:
                    return await self._api.write_register(changes, version)
                except ApiConflict:
                    if version is None:
                        raise
            case membership.GetNode(name=name):
                return await self._api.get_node(name)
            case membership.SayNetworkUp(node=name):
                await self._api.say_network_is_up(name)
            case membership.BeGateway():
                await self._be_gateway()
            case membership.Reclaim(peer=peer, gone=gone, timeout_s=timeout_s):
                log.info("reclaimed: %s", await self._router.ring.reclaim(peer, gone, timeout_s))
            case membership.DialNodes() | membership.TellVerdicts() | membership.Appoint():
                self._tell_router(effect)
            case LogLine(level=level, message=text):
                log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", text)
            case _:
                assert_never(effect)
        return None

    def _sight(self) -> Sight:
        mesh, ipam = self._router.node.mesh, self._router.node.ipam
        assert ipam is not None
        return Sight(
            now=self._now(),
            nodes=self._watch.things if self._watch.listed else None,
            changes=self._watch.changes,
            outdated=self._watch.problem,
            reachable=mesh.reachable_peers,
            sessions=list(mesh.routes.unicast),
            ring="" if ipam.ring is None else ipam.ring.ring_id.hex(),
            owners=[] if ipam.ring is None else list(ipam.ring.owners()),
            is_up_to_date=ipam.is_up_to_date,
        )

    def _tell_router(
        self, effect: membership.DialNodes | membership.TellVerdicts | membership.Appoint
    ) -> None:
        node, now = self._router.node, self._now()
        assert node.ipam is not None
        match effect:
            case membership.DialNodes(targets=targets):
                node.run(node.mesh.connect(targets, True, now), now)
            case membership.TellVerdicts(verdicts=verdicts, on_record=on_record):
                node.run_ring(node.ipam.handle_verdicts(verdicts, now, on_record), now)
            case membership.Appoint(ring_id=ring_id, peers=peers, new=new):
                node.run_ring(node.ipam.appoint(ring_id, peers, new, now), now)
        self._router.changed()

    async def _be_gateway(self) -> None:
        request = schema.ExposeRequest(addresses=[], masquerade=True)
        answer = await self._router.attachments.expose(request)
        log.info("this node is on the network as %s", ", ".join(answer.addresses))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
