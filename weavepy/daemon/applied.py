"""Network policies on a host without Kubernetes: what was applied, and who is attached.

Objects are kept in one file, replaced whole before a change is in force, so a router that starts
knows them before it opens its doors, and goes on with the packet filter that it finds.

An attachment is a pod before its interface exists: `placed` returns when what policies say about it
is in the kernel.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from policy.core.cluster import NO_POD, Runtime
from policy.core.objects import Address, Namespace, Pod, Policy
from policy.core.parsing import parse
from policy.core.roster import DEFAULT_NAMESPACE, Attached, Identity, Roster
from policy.core.sharing import Entry, SharedPods
from router.shell.attach import AttachmentFacts
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.gossip import Announce
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon.files import replace_file
from weavepy.daemon.policies import HERE, PolicyService

log = logging.getLogger(__name__)

Document = dict[str, Any]
Tell = Callable[[list[Announce]], None]
Named = tuple[str, str, str]
"""Kind, namespace, name."""
MAX_OBJECTS = 20_000


class AppliedObjects:
    requested: None = None
    """Nobody annotates pods here."""

    def __init__(
        self, service: PolicyService, file: Path, ourself: PeerName, nickname: str, tell: Tell
    ) -> None:
        self._service = service
        self._policies = service.policies
        self._file = file
        self._tell = tell
        self.shared = SharedPods(ourself, nickname)
        """What hosts tell each other; the mesh carries it."""
        self._documents: dict[Named, Document] = {}
        self._roster = Roster(HERE)
        self._identities: dict[str, Identity] = {}
        """By owner; kept until it is detached."""
        self._attached: dict[str, Attached] = {}
        self._learning: asyncio.Task[None] | None = None
        self._news = False
        """Whether other hosts said something that is not in force yet."""
        self._news_since = 0.0

    # --- life ------------------------------------------------------------------------------------

    async def start(self, attached: Iterable[AttachmentFacts]) -> None:
        """Read what was applied, and bring it into force for who is attached."""
        self._load()
        for facts in attached:
            addresses = tuple(one.ip for one in facts.addresses)
            identity = self._identities.get(facts.owner)
            self._attached[facts.owner] = Attached(facts.owner, addresses, identity)
        self._identities = {
            owner: one for owner, one in self._identities.items() if owner in self._attached
        }
        # The mesh, which is not there yet, will find by itself whether others know it.
        self.shared.set_own([one for _, one in sorted(self._attached.items())])
        self._follow_pods()
        await self._service.start()

    async def repair(self) -> None:
        """What is in force becomes what should be, also after a change that failed half way."""
        async with self._service.changing:
            self._follow_pods()
        await self._service.repair()

    async def placed(
        self,
        owner: str,
        addresses: Sequence[Address],
        identity: Identity | None,
        _: Runtime = NO_POD,
    ) -> None:
        """This attachment has these addresses, too, and nobody else has them any more.

        Without an identity, what is known about it stays.
        """
        since = _now()
        async with self._service.changing:
            if identity is not None:
                self._identities[owner] = identity
            taken = set(addresses)
            for other, known in [*self._attached.items()]:
                if not taken.isdisjoint(known.addresses):
                    self._take(other, addresses)
            before = self._attached.get(owner, Attached(owner, ())).addresses
            self._attached[owner] = Attached(
                owner,
                tuple(dict.fromkeys((*before, *addresses))),
                self._identities.get(owner),
            )
            await self._described_changed(identity is not None, since)

    async def left(self, owner: str, addresses: Sequence[Address] = ()) -> None:
        """It has these addresses no more, or none at all."""
        since = _now()
        async with self._service.changing:
            known = self._attached.get(owner, Attached(owner, ()))
            self._take(owner, addresses or known.addresses)
            described = self._identities.get(owner) is not None
            if owner not in self._attached:
                self._identities.pop(owner, None)
            await self._described_changed(described, since)

    def handle_gossip(self, source: PeerName, update: bytes) -> None:
        """From the mesh. What it says is in force soon; what comes meanwhile, with it."""
        announced = self.shared.handle_gossip(source, update)
        if announced:
            self._tell(announced)
            if not self._news:
                self._news_since = _now()
            self._news = True
            if self._learning is None or self._learning.done():
                self._learning = asyncio.create_task(self._learn(), name="policies")

    async def _learn(self) -> None:
        while self._news:
            async with self._service.changing:
                self._news = False
                since = self._news_since
                try:
                    self._save()
                    await self._enforce(since)
                except WeavepyError as error:
                    log.error("what other hosts attached is not in force here: %s", error)

    # --- requests --------------------------------------------------------------------------------

    async def apply(self, request: schema.PolicyObjects) -> schema.PolicyAnswer:
        """All or nothing. A policy with a fault is applied, and closes what it selects."""
        read = [(document, parse(document)) for document in request.objects]
        if len(self._documents) + len(read) > MAX_OBJECTS:
            raise UsageError(f"more than {MAX_OBJECTS} objects are too many")
        changes, since = [], _now()
        async with self._service.changing:
            documents = dict(self._documents)
            for document, thing in read:
                named = _named(thing)
                before = documents.get(named)
                done = "created" if before is None else "changed"
                changes.append(_change(named, "unchanged" if before == document else done, thing))
                documents[named] = document
            self._save(documents)
            for _, thing in read:
                self._handle(thing)
            await self._enforce(since)
        for change in changes:
            if change.fault:
                log.warning("policy %s/%s: %s", change.namespace, change.name, change.fault)
        return schema.PolicyAnswer(changes=changes)

    async def delete(self, request: schema.PolicyObjects) -> schema.PolicyAnswer:
        read = [parse(document) for document in request.objects]
        changes, since = [], _now()
        async with self._service.changing:
            documents = dict(self._documents)
            for thing in read:
                known = documents.pop(_named(thing), None) is not None
                changes.append(_change(_named(thing), "deleted" if known else "absent", None))
            self._save(documents)
            for thing in read:
                self._forget(_named(thing))
            await self._enforce(since)
        return schema.PolicyAnswer(changes=changes)

    # --- objects ---------------------------------------------------------------------------------

    async def _enforce(self, since: float) -> None:
        self._follow_pods()
        await self._service.enforce(since)

    async def _described_changed(self, described: bool, since: float) -> None:
        """Others learn of it only when it is in force here."""
        announced = self.shared.set_own([one for _, one in sorted(self._attached.items())])
        if described or announced:
            self._save()
        await self._enforce(since)
        if announced:
            self._tell(announced)

    def _take(self, owner: str, addresses: Iterable[Address]) -> None:
        known = self._attached.get(owner)
        if known is None:
            return
        gone = set(addresses)
        left = tuple(one for one in known.addresses if one not in gone)
        if left:
            self._attached[owner] = replace(known, addresses=left)
        else:
            del self._attached[owner]

    def _follow_pods(self) -> None:
        self._roster.follow_attached(self._attached)
        self._roster.follow_elsewhere(self.shared.elsewhere())
        for key, pod in self._roster.take_changed().items():
            if pod is None:
                self._policies.handle_pod_removed(key)
            else:
                self._policies.handle_pod(pod)

    def _handle(self, thing: Namespace | Pod | Policy) -> None:
        match thing:
            case Namespace():
                self._policies.handle_namespace(thing)
            case Pod():
                self._roster.handle_applied(thing)
            case Policy():
                self._policies.handle_policy(thing)

    def _forget(self, named: Named) -> None:
        kind, namespace, name = named
        match kind:
            case "Namespace":
                self._policies.handle_namespace_removed(name)
            case "Pod":
                self._roster.handle_withdrawn((namespace, name))
            case _:
                self._policies.handle_policy_removed((namespace, name))

    # --- disk ------------------------------------------------------------------------------------

    def _save(self, documents: dict[Named, Document] | None = None) -> None:
        """Perhaps with other objects, which are then ours; nothing changes if the disk refuses."""
        documents = self._documents if documents is None else documents
        content = {
            "objects": [*documents.values()],
            "attachments": {
                owner: [one.namespace, one.name, dict(one.labels)]
                for owner, one in self._identities.items()
            },
            "hosts": [msgspec.to_builtins(entry) for entry in self.shared.entries.values()],
        }
        replace_file(self._file, msgspec.json.encode(content))
        self._documents = documents

    def _load(self) -> None:
        """Raises `WeavepyError`: without its policies a router must not let packets through."""
        try:
            content = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise WeavepyError(
                f"network policies in {self._file} are unreadable: {error}; remove the file to"
                " start without policies, and apply them again"
            ) from error
        for document in content["objects"]:
            thing = parse(document)
            self._documents[_named(thing)] = document
            self._handle(thing)
        for owner, (namespace, name, labels) in content["attachments"].items():
            self._identities[owner] = Identity(namespace, name, labels)
        self.shared.restore(msgspec.convert(content["hosts"], list[Entry]))


def identity_of(request: schema.AttachRequest) -> Identity | None:
    """What the request says about the pod, if anything. Raises `Unreadable`."""
    if not (request.labels or request.pod_namespace or request.pod_name):
        return None
    namespace = request.pod_namespace or DEFAULT_NAMESPACE
    pod = parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": namespace,
                "name": request.pod_name or "unnamed",
                "labels": request.labels,
            },
        }
    )
    assert isinstance(pod, Pod)
    return Identity(namespace, request.pod_name, pod.labels)


def _named(thing: Namespace | Pod | Policy) -> Named:
    match thing:
        case Namespace():
            return "Namespace", "", thing.name
        case Pod():
            return "Pod", thing.namespace, thing.name
        case Policy():
            return "NetworkPolicy", thing.namespace, thing.name


def _change(named: Named, done: str, thing: Namespace | Pod | Policy | None) -> schema.PolicyChange:
    fault = thing.fault if isinstance(thing, Policy) else ""
    return schema.PolicyChange(
        kind=named[0], namespace=named[1], name=named[2], done=done, fault=fault
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
