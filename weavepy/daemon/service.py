"""What the control API does: each method is one row of the table in `weavepy.client.schema`."""

import asyncio
import os
import platform
import sys
import time
from typing import TYPE_CHECKING

from fastdp.core.paths import PORT as FASTDP_PORT
from router.mesh.targets import parse_address
from weavepy import __version__
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon import listener, metrics, status
from weavepy.daemon.api import NotFound, NotReady

if TYPE_CHECKING:
    from weavepy.daemon.router import Router


class RouterService:
    """Implements `api.Service` for one router."""

    def __init__(self, router: "Router") -> None:
        self._router = router
        self.allocate = router.ring.allocate_request
        self.claim = router.ring.claim_request
        self.release = router.ring.release_request
        self.lookup = router.ring.lookup_request
        self.rmpeer = router.ring.remove_peer
        self.attach = router.attachments.attach
        self.detach = router.attachments.detach
        self.attachments = router.attachments.list
        self.expose = router.attachments.expose
        self.hide = router.attachments.hide
        self.cni_add = router.pods.add
        self.cni_del = router.pods.delete
        self.cni_check = router.pods.check
        self.cni_gc = router.pods.gc
        self.cni_status = router.pods.status
        self.capture = router.capturing.capture
        self.bench = router.benching.bench
        self.policy_status = router.policies.status
        self.policy_apply = router.objects.apply
        self.policy_delete = router.objects.delete
        self.policy_explain = router.policies.explain
        self.policy_matrix = router.policies.matrix
        self.policy_lint = router.policies.lint
        self.policy_trace = router.drops.trace

    # --- showing -----------------------------------------------------------------------------

    async def status(self) -> schema.Status:
        router = self._router
        mesh = router.node.mesh
        snapshot = await router.datapath.report()
        now = asyncio.get_running_loop().time()
        fast_rows = router.paths.rows(now) if router.options.fastdp != "off" else []
        connections = status.connections(mesh.connection_rows(now), snapshot, fast_rows)
        peers = status.peers(mesh)
        targets = status.targets(mesh, now)
        ipam = await self.ipam()
        warnings = [*mesh.warnings(now), *ipam.warnings]
        if router.kubernetes is not None:
            warnings += router.kubernetes.warnings()
        if not router.options.encrypted:
            warnings.append("traffic is NOT encrypted (--insecure)")
        if snapshot is None:
            why = f" ({router.datapath.why_missing})" if router.datapath.why_missing else ""
            warnings.append(
                f"the datapath is not running{why}: containers of other hosts are cut off"
            )
        elif router.datapath.is_silent:
            warnings.append("the datapath does not answer: it hangs, or is kept from running")
        policy = await router.policies.summary()
        if policy is not None and policy.faulty:
            warnings.append(
                f"{policy.faulty} network policies cannot be compiled, so what they select is"
                " closed: `weavepy policy status` says why"
            )
        options = router.options
        return schema.Status(
            router=schema.RouterStatus(
                version=__version__,
                name=mesh.ourself,
                nickname=options.nickname,
                uid=mesh.uid,
                short_id=next((peer.short_id for peer in peers if peer.ourself), 0),
                pid=os.getpid(),
                uptime_s=time.monotonic() - router.started_at,
                port=options.port,
                encrypted=options.encrypted,
                discovery=options.discovery,
                connection_limit=options.connection_limit,
                peers=len(peers),
                established=sum(
                    connection.state in ("established", "orphaned") for connection in connections
                ),
                targets=len(targets),
                refused=[
                    schema.CounterStatus(name=reason, value=count)
                    for reason, count in sorted(mesh.refusals.counts.items())
                ],
                warnings=warnings,
            ),
            connections=connections,
            peers=peers,
            targets=targets,
            ipam=ipam,
            datapath=status.datapath(
                snapshot, options.bridge, mesh, await router.attachments.filter_drops()
            ),
            policy=policy,
            fastdp=status.fastdp(
                router.chosen, FASTDP_PORT, fast_rows, await router.tunnels.counters(), mesh
            ),
        )

    async def metrics(self) -> bytes:
        return metrics.render_metrics(await self.status())

    async def why_not_ready(self) -> str:
        return listener.not_ready(await self.status())

    async def report(self) -> schema.Report:
        router = self._router
        mesh = router.node.mesh
        listed = await self.attachments()
        exposed = await router.attachments.exposed()

        def shown(peer: PeerName) -> str:
            return f"{peer}({mesh.nickname(peer)})"

        return schema.Report(
            status=await self.status(),
            attachments=listed.attachments,
            exposed=exposed.addresses,
            routes={shown(peer): shown(hop) for peer, hop in mesh.routes.unicast.items()},
            broadcast={
                shown(source): [shown(hop) for hop in hops]
                for source, hops in mesh.routes.broadcast.items()
            },
            options=router.options.shown(),
            kernel=" ".join(platform.uname()[0:4:2]),
            python=sys.version.split()[0],
        )

    async def ipam(self) -> schema.IpamStatus:
        return self._router.ring.status()

    async def addresses(self) -> schema.AddressList:
        facts, _, _ = await self._router.attachments.look()
        return self._router.ring.in_use(facts)

    async def history(self) -> schema.HistoryAnswer:
        return self._router.ring.history()

    async def check(self) -> schema.CheckAnswer:
        return self._router.ring.check(*await self._router.attachments.look())

    # --- mesh --------------------------------------------------------------------------------

    async def connect(self, request: schema.ConnectRequest) -> schema.TargetsAnswer:
        mesh = self._router.node.mesh
        now = asyncio.get_running_loop().time()
        self._router.node.run(mesh.connect(request.targets, request.replace, now), now)
        self._router.changed()
        return self._targets(now)

    async def forget(self, request: schema.ForgetRequest) -> schema.TargetsAnswer:
        mesh = self._router.node.mesh
        now = asyncio.get_running_loop().time()
        known = {row.target for row in mesh.target_rows(now)}
        for text in request.targets:
            if str(parse_address(text, self._router.options.port)) not in known:
                raise NotFound(f"{text} is not a target: `weavepy status targets` lists them")
        self._router.node.run(mesh.forget(request.targets, now), now)
        self._router.changed()
        return self._targets(now)

    def _targets(self, now: float) -> schema.TargetsAnswer:
        rows = self._router.node.mesh.target_rows(now)
        return schema.TargetsAnswer(targets=[row.target for row in rows if row.origin == "given"])

    # --- ring and life -----------------------------------------------------------------------

    async def prime(self, request: schema.PrimeRequest) -> schema.IpamStatus:
        await self._router.ring.prime(request.timeout_s)
        return await self.ipam()

    async def stop(self, request: schema.StopRequest) -> schema.Done:
        self._router.ask_to_stop(request.keep_datapath)
        return schema.Done(message="stopping")

    async def reset(self, request: schema.ResetRequest) -> schema.Done:
        """Containers must go first: their addresses would belong to somebody else."""
        router = self._router
        attached = (await self.attachments()).attachments
        if attached:
            raise NotReady(
                f"{len(attached)} containers are attached, {attached[0].id} for one: detach them"
                " first (`weavepy ps` lists them), as their addresses go to other hosts"
            )
        await self.hide(schema.HideRequest())
        handed = await router.ring.hand_over(request.timeout_s)
        router.ask_to_forget()
        return schema.Done(message=handed)
