"""Network policies on Kubernetes: namespaces, pods and policies are those of the API server.

They are watched, all of them, as any pod may be a peer; what they come to for the pods of this host
is `policy.core.cluster`. While the server is away, for however long, its last word stays: here, in
the kernel, and on disk (`weavepy.daemon.snapshot`), so that a restart changes nothing.

**No pod is open for want of knowledge.** An ADD is answered when the pod's isolation is in force.
If the server has not said yet what pod that is, it is closed both ways; the ADD waits a little
for the word, and then goes on with a closed pod that opens when the word comes. A router that has
just started and has no answer yet leaves alone what the kernel has for pods that were there before
it, and closes new ones. It is the answer that comes into force then, and what is on disk only when
there is none: the kernel may know something newer than the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import assert_never, cast

from kube.core.kinds import Kind, Thing
from kube.core.pods import NAMESPACES, PODS, POLICIES, Namespace, NetworkPolicy, Pod
from kube.core.watch import Change, Watch
from kube.shell.api import Api
from policy.core.cluster import NO_POD, Cluster, Runtime
from policy.core.objects import Address
from policy.core.parsing import Unreadable
from policy.core.roster import Identity
from router.shell.attach import AttachmentFacts
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.client import schema
from weavepy.daemon.options import KubernetesOptions
from weavepy.daemon.policies import HERE, PolicyService
from weavepy.daemon.requested import RequestedAddresses
from weavepy.daemon.snapshot import AnyChange, Keeper, Snapshot, load
from weavepy.daemon.translation import namespace_of, pod_of, policy_of
from weavepy.daemon.watching import Follower, ServerSeen

log = logging.getLogger(__name__)

KNOWN_WITHIN_S = 2.0
"""So long an ADD waits for the API server's word about its pod."""

LOOK_S = 0.25
AT_ONCE = 500
"""So many changes are worked in before others have their turn on the event loop."""

REMEMBER_S = 10.0
"""So long a new router waits for the server's word at most, before it takes what is on disk."""

BY_HAND = (
    "on Kubernetes policies come from the API server: use `kubectl apply` and `kubectl delete`"
)


class ClusterObjects:
    def __init__(
        self, service: PolicyService, options: KubernetesOptions, rng: Random, file: Path
    ) -> None:
        self.api = Api(options.server, options.register)
        self.seen = ServerSeen(rng)
        self.node_name = options.node_name
        self.requested = RequestedAddresses(self.requested_addresses, options.requested_addresses)
        self._service = service
        self._rng = rng
        self._remembered = load(file)
        """What is on disk, until that or the server's word is in force."""
        self._cluster = Cluster(service.policies, HERE)
        self._pending: dict[tuple[str, str], AnyChange] = {}
        """What is not worked in yet, the last of each object, by kind and key."""
        self._pending_since = 0.0
        """When the oldest of it came."""
        self._news = asyncio.Event()
        self._keeper = Keeper(file, self._snapshot)
        self._before: dict[str, tuple[tuple[Address, ...], Runtime]] = {}
        """Who was attached before this router began, until then."""
        self._waiting: dict[str, asyncio.Event] = {}
        """ADDs, by owner, for what pod that is."""
        known = self._remembered or Snapshot()
        self._namespaces = self._follow(NAMESPACES, known.namespaces)
        self._policies = self._follow(POLICIES, known.policies)
        self._pods = self._follow(PODS, known.pods)
        self._followers = (self._namespaces, self._policies, self._pods)
        self._tasks: list[asyncio.Task[None]] = []
        self._problem = ""

    # --- life ------------------------------------------------------------------------------------

    async def start(self, attached: Iterable[AttachmentFacts]) -> None:
        """What is in force stays so, until the server's word, or what is remembered of it, is."""
        self._before = {
            it.owner: (tuple(one.ip for one in it.addresses), Runtime.named(it.pod, it.uid))
            for it in attached
        }
        self._started_at = asyncio.get_running_loop().time()
        self._service.is_partial = True
        await self._service.start()
        self._start("learn", self._learn_for_ever())
        self._start("keep", self._keeper.keep_for_ever())
        for one in self._followers:
            self._start(one.kind.resource, one.follow_for_ever())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._keeper.close()
        await self.api.close()

    async def repair(self) -> None:
        await self._service.repair()

    def warnings(self) -> list[str]:
        found = [
            f"network policies may be old, {one.kind.resource} are not heard of: {one.problem}"
            for one in (each.watch for each in self._followers)
            if one.problem
        ]
        return [*found, self._problem] if self._problem else found

    # --- the gate --------------------------------------------------------------------------------

    async def placed(
        self,
        owner: str,
        addresses: Sequence[Address],
        identity: Identity | None,
        runtime: Runtime = NO_POD,
    ) -> None:
        if identity is not None:
            raise UsageError("on Kubernetes labels are those of pods: attach it without")
        since = asyncio.get_running_loop().time()
        async with self._service.changing:
            had, before = self._before.pop(owner, ((), NO_POD))
            self._before = {
                other: (tuple(one for one in its if one not in addresses), whose)
                for other, (its, whose) in self._before.items()
            }
            runtime = runtime if runtime.is_pod else before
            self._cluster.handle_attached(owner, (*had, *addresses), runtime)
            await self._service.enforce(since)
        if self._cluster.is_unknown(owner):
            await self._until_known(owner)

    async def left(self, owner: str, addresses: Sequence[Address] = ()) -> None:
        since = asyncio.get_running_loop().time()
        async with self._service.changing:
            self._before.pop(owner, None)
            self._cluster.handle_detached(owner, addresses)
            await self._service.enforce(since)

    async def _until_known(self, owner: str) -> None:
        known = self._waiting.setdefault(owner, asyncio.Event())
        try:
            async with asyncio.timeout(KNOWN_WITHIN_S):
                await known.wait()
        except TimeoutError:
            log.warning("%s is closed until the API server says what pod it is", owner)
        finally:
            self._waiting.pop(owner, None)

    # --- requests --------------------------------------------------------------------------------

    async def apply(self, _: schema.PolicyObjects) -> schema.PolicyAnswer:
        raise UsageError(BY_HAND)

    async def delete(self, _: schema.PolicyObjects) -> schema.PolicyAnswer:
        raise UsageError(BY_HAND)

    def requested_addresses(self, pod: str, uid: str) -> str | None:
        """What its annotation weavepy.io/addresses says, "" for nothing; None while that pod is not
        known, as when there was another one of its name."""
        known = self._pods.watch.things.get(pod)
        return None if known is None or uid not in ("", known.uid) else known.wanted

    # --- what the server says --------------------------------------------------------------------

    def _follow(self, kind: Kind[Thing], known: Iterable[Thing]) -> Follower[Thing]:
        watch = Watch(kind, self._rng, known)

        def tell(changes: list[Change[Thing]]) -> None:
            if changes and not self._pending:
                self._pending_since = asyncio.get_running_loop().time()
            for change in changes:
                self._pending[kind.resource, change.thing.key] = cast(AnyChange, change)
            self._news.set()

        return Follower(self.api, watch, self.seen, tell)

    async def _learn_for_ever(self) -> None:
        while self._service.is_partial and not self._has_word():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()
            self._news.clear()
        while True:
            try:
                await self._learn()
                self._problem = ""
            except WeavepyError as error:
                self._problem = f"network policies are not in force as they should be: {error}"
                log.error("%s", self._problem)
            await self._news.wait()
            self._news.clear()

    def _has_word(self) -> bool:
        """Whether there is something to bring into force: of the server, or else from the disk."""
        if self._is_listed:
            return True
        late = asyncio.get_running_loop().time() > self._started_at + REMEMBER_S
        return self._remembered is not None and (late or self._is_away)

    @property
    def _is_away(self) -> bool:
        return any(one.watch.has_failed for one in self._followers)

    @property
    def _is_listed(self) -> bool:
        """All kinds: new pods without new policies might be open."""
        return all(one.watch.listed for one in self._followers)

    async def _learn(self) -> None:
        service = self._service
        remembered, self._remembered = self._remembered, None
        if not self._is_listed and remembered is None:
            return
        async with service.changing:
            if remembered is not None:
                await self._work_in_all(remembered.changes())
            since = self._pending_since if self._pending else None
            while self._pending and self._is_listed:
                pending, self._pending = self._pending, {}
                await self._work_in_all(pending.values())
                self._keeper.changed(at_once=any(kind != PODS.resource for kind, _ in pending))
            before, self._before = self._before, {}
            for owner, (addresses, runtime) in before.items():
                self._cluster.handle_attached(owner, addresses, runtime)
            service.is_partial = False
            await service.enforce(since)
        for owner, known in self._waiting.items():
            if not self._cluster.is_unknown(owner):
                known.set()

    async def _work_in_all(self, changes: Iterable[AnyChange]) -> None:
        for number, change in enumerate(changes):
            self._work_in(change)
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)

    def _work_in(self, change: AnyChange) -> None:
        policies = self._service.policies
        match change.thing:
            case Namespace(name=name) as thing:
                if change.gone:
                    policies.handle_namespace_removed(name)
                else:
                    policies.handle_namespace(namespace_of(thing))
            case Pod(namespace=namespace, name=name) as thing:
                if change.gone:
                    self._cluster.handle_pod_removed((namespace, name))
                else:
                    self._cluster.handle_pod(pod_of(thing), thing.uid)
            case NetworkPolicy(namespace=namespace, name=name) as thing:
                if change.gone:
                    policies.handle_policy_removed((namespace, name))
                else:
                    self._handle_policy(thing)
            case _:
                assert_never(change.thing)

    def _handle_policy(self, thing: NetworkPolicy) -> None:
        try:
            policy = policy_of(thing)
        except Unreadable as error:
            log.error("a network policy has no name that can be: %s", error)
            return
        if policy.fault:
            log.warning("policy %s closes what it selects: %s", thing.key, policy.fault)
        self._service.policies.handle_policy(policy)

    # ---------------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            namespaces=tuple(self._namespaces.watch.things.values()),
            policies=tuple(self._policies.watch.things.values()),
            pods=tuple(self._pods.watch.things.values()),
        )

    def _start(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"policies-{name}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """They go on for ever: one that ends has met a mistake of ours, and that is said loudly."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._problem = f"network policies are not followed any more: {error!r}"
            log.critical("%s", self._problem, exc_info=error)
