"""Network policies on Kubernetes: namespaces, pods and policies are those of the API server.

They are watched, all of them, as any pod may be a peer; what they come to for the pods of this host
is `policy.core.cluster`. While the server is away, for however long, its last word stays: here, in
the kernel, and on disk (`weavepy.daemon.snapshot`), so that a restart changes nothing.

**No pod is open for want of knowledge.** An ADD is answered when the pod's isolation is in force.
If the server has not said yet what pod that is, it is closed both ways; the ADD waits a little
for the word, and then goes on with a closed pod that opens when the word comes. A router that knows
nothing at all yet (no answer, and no file) leaves alone what the kernel has for pods that
were there before it, and closes new ones.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import assert_never, cast

from kube.core.kinds import Kind, Thing
from kube.core.pods import NAMESPACES, PODS, POLICIES, Namespace, NetworkPolicy, Pod
from kube.core.watch import Change, Watch
from kube.shell.api import Api
from policy.core import objects
from policy.core.cluster import NO_POD, Cluster, Runtime
from policy.core.objects import PROTOCOLS, Address
from policy.core.parsing import Unreadable, parse_policy
from policy.core.roster import Identity
from router.shell.attach import AttachmentFacts
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.names import is_ip_address
from weavepy.client import schema
from weavepy.daemon import snapshot
from weavepy.daemon.options import KubernetesOptions
from weavepy.daemon.policies import HERE, PolicyService
from weavepy.daemon.requested import RequestedAddresses
from weavepy.daemon.snapshot import Snapshot
from weavepy.daemon.watching import Follower, ServerSeen

log = logging.getLogger(__name__)

KNOWN_WITHIN_S = 2.0
"""So long an ADD waits for the API server's word about its pod."""

AT_ONCE = 500
"""So many changes are worked in before others have their turn on the event loop."""

SAVE_S = 5.0
"""What changed is on disk so much later."""
SAVE_SHARE = 50
"""Or this many times as long as saving took, if that is longer."""

AnyChange = Change[Namespace] | Change[NetworkPolicy] | Change[Pod]
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
        self._file = file
        self._cluster = Cluster(service.policies, HERE)
        self._pending: dict[tuple[str, str], AnyChange] = {}
        """What is not worked in yet, the last of each object, by kind and key."""
        self._pending_since = 0.0
        """When the oldest of it came."""
        self._news = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._before: dict[str, tuple[tuple[Address, ...], Runtime]] = {}
        """Who was attached before this router began, while it knows nothing."""
        self._waiting: dict[str, asyncio.Event] = {}
        """ADDs, by owner, for what pod that is."""
        self._tasks: list[asyncio.Task[None]] = []
        self._problem = ""

    # --- life ------------------------------------------------------------------------------------

    async def start(self, attached: Iterable[AttachmentFacts]) -> None:
        """Bring into force what was known last, and ask what is so now."""
        known = snapshot.load(self._file)
        attachments = {
            it.owner: (tuple(one.ip for one in it.addresses), Runtime.named(it.pod, it.uid))
            for it in attached
        }
        service = self._service
        service.is_partial = known is None
        if known is None:
            known = Snapshot(snapshot.VERSION, (), (), ())
            self._before = attachments
        else:
            for namespace in known.namespaces:
                self._work_in(Change(namespace))
            for policy in known.policies:
                self._work_in(Change(policy))
            for pod in known.pods:
                self._work_in(Change(pod))
            for owner, (addresses, runtime) in attachments.items():
                self._cluster.handle_attached(owner, addresses, runtime)
        await service.start()
        self._namespaces = self._follow(NAMESPACES, known.namespaces)
        self._policies = self._follow(POLICIES, known.policies)
        self._pods = self._follow(PODS, known.pods)
        self._start("learn", self._learn_for_ever())
        self._start("save", self._save_for_ever())
        for one in (self._namespaces, self._policies, self._pods):
            self._start(one.kind.resource, one.follow_for_ever())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._unsaved.is_set():
            self._unsaved.clear()
            with suppress(WeavepyError):
                snapshot.save(self._file, self._snapshot())
        await self.api.close()

    async def repair(self) -> None:
        await self._service.repair()

    def warnings(self) -> list[str]:
        found = [
            f"network policies may be old, {one.kind.resource} are not heard of: {one.problem}"
            for one in (self._namespaces.watch, self._policies.watch, self._pods.watch)
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
            self._before = {
                other: (tuple(one for one in known if one not in addresses), its)
                for other, (known, its) in self._before.items()
                if other != owner
            }
            self._cluster.handle_attached(owner, addresses, runtime)
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
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._learn()
                self._problem = ""
            except WeavepyError as error:
                self._problem = f"network policies are not in force as they should be: {error}"
                log.error("%s", self._problem)

    async def _learn(self) -> None:
        service = self._service
        if not all(one.watch.listed for one in (self._namespaces, self._policies, self._pods)):
            return  # new pods without new policies might be open
        async with service.changing:
            since = self._pending_since if self._pending else None
            while self._pending:
                pending, self._pending = self._pending, {}
                for number, change in enumerate(pending.values()):
                    self._work_in(change)
                    if number % AT_ONCE == AT_ONCE - 1:
                        await asyncio.sleep(0)
                self._unsaved.set()
            before, self._before = self._before, {}
            for owner, (addresses, runtime) in before.items():
                self._cluster.handle_attached(owner, addresses, runtime)
            service.is_partial = False
            await service.enforce(since)
        for owner, known in self._waiting.items():
            if not self._cluster.is_unknown(owner):
                known.set()

    def _work_in(self, change: AnyChange) -> None:
        policies = self._service.policies
        match change.thing:
            case Namespace(name=name) as thing:
                if change.gone:
                    policies.handle_namespace_removed(name)
                else:
                    policies.handle_namespace(objects.Namespace(name, thing.labels))
            case Pod(namespace=namespace, name=name) as thing:
                if change.gone:
                    self._cluster.handle_pod_removed((namespace, name))
                else:
                    self._cluster.handle_pod(_pod(thing), thing.uid)
            case NetworkPolicy(namespace=namespace, name=name) as thing:
                if change.gone:
                    policies.handle_policy_removed((namespace, name))
                else:
                    self._handle_policy(thing)
            case _:
                assert_never(change.thing)

    def _handle_policy(self, thing: NetworkPolicy) -> None:
        metadata = {"namespace": thing.namespace, "name": thing.name}
        try:
            read = parse_policy({"metadata": metadata, "spec": json.loads(thing.specification)})
        except Unreadable as error:
            log.error("a network policy has no name that can be: %s", error)
            return
        if read.fault:
            log.warning("policy %s closes what it selects: %s", thing.key, read.fault)
        self._service.policies.handle_policy(read)

    # --- disk ------------------------------------------------------------------------------------

    async def _save_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = SAVE_S
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(pause_s)
            self._unsaved.clear()
            began = loop.time()
            try:
                await asyncio.to_thread(snapshot.save, self._file, self._snapshot())
            except WeavepyError as error:
                log.warning("what the API server said will not be known after a restart: %s", error)
            pause_s = max(SAVE_S, SAVE_SHARE * (loop.time() - began))

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            snapshot.VERSION,
            tuple(self._namespaces.watch.things.values()),
            tuple(self._policies.watch.things.values()),
            tuple(self._pods.watch.things.values()),
        )

    # ---------------------------------------------------------------------------------------------

    def _start(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=f"policies-{name}"))


def _pod(thing: Pod) -> objects.Pod:
    ports = [
        objects.NamedPort(port.name, protocol, port.number)
        for port in thing.ports
        for protocol in PROTOCOLS
        if port.protocol.lower() == protocol
    ]
    return objects.Pod(
        thing.namespace,
        thing.name,
        thing.labels,
        tuple(ip_address(text) for text in thing.addresses if is_ip_address(text)),
        tuple(ports),
        thing.node,
        thing.host_network,
        thing.finished,
        thing.created,
    )
