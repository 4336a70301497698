"""Network policies on a host without Kubernetes: what was applied, and who is attached.

Objects are kept in one file, replaced whole before a change is in force, so a router that starts
knows them before it opens its doors, and goes on with the packet filter that it finds. While no
policy is applied there is no filter, and packets are not looked at.

An attachment is a pod before its interface exists: `placed` returns when what policies say about it
is in the kernel.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from policy.core.explain import Service, explain, lines
from policy.core.lint import findings
from policy.core.objects import DIRECTIONS, Address, Key, Namespace, Pod, Policy, Protocol
from policy.core.parsing import parse
from policy.core.policies import Policies
from policy.core.roster import DEFAULT_NAMESPACE, Attached, Identity, roster
from policy.core.sharing import Entry, SharedPods
from policy.shell.filter import PolicyFilter
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.gossip import Announce
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon.api import NotFound
from weavepy.daemon.files import replace_file

log = logging.getLogger(__name__)

Document = dict[str, Any]
Tell = Callable[[list[Announce]], None]
Named = tuple[str, str, str]
"""Kind, namespace, name."""
Drops = dict[tuple[str, str], int]
"""Packets by direction and address."""
DROPS_S = 1.0
MAX_OBJECTS = 20_000
MAX_MATRIX_PODS = 200
"""Its answer has the square of that."""

HERE = "here"


class PolicyService:
    def __init__(
        self,
        file: Path,
        packet_filter: PolicyFilter,
        thread: Executor,
        ourself: PeerName,
        nickname: str,
        tell: Tell,
    ) -> None:
        self._file = file
        self._filter = packet_filter
        self._thread = thread
        self._tell = tell
        self.shared = SharedPods(ourself, nickname)
        """What hosts tell each other; the mesh carries it."""
        self._documents: dict[Named, Document] = {}
        self._applied: dict[Key, Pod] = {}
        self._identities: dict[str, Identity] = {}
        """By owner; kept until it is detached."""
        self._attached: dict[str, Attached] = {}
        self._policies = Policies(lambda pod: pod.node == HERE)
        self._in_force = False
        """Whether there is a packet filter, as far as we know."""
        self._repairs = 0
        self._drops_known: Drops = {}
        self._drops_until = 0.0
        self._changing = asyncio.Lock()
        self._learning: asyncio.Task[None] | None = None
        self._news = False
        """Whether other hosts said something that is not in force yet."""

    # --- life ------------------------------------------------------------------------------------

    async def start(self, attached: Iterable[tuple[str, Sequence[Address]]]) -> None:
        """Read what was applied, and bring it into force for who is attached."""
        self._load()
        for owner, addresses in attached:
            self._attached[owner] = Attached(owner, tuple(addresses), self._identities.get(owner))
        self._identities = {
            owner: one for owner, one in self._identities.items() if owner in self._attached
        }
        # The mesh, which is not there yet, will find by itself whether others know it.
        self.shared.set_own([one for _, one in sorted(self._attached.items())])
        await self.repair()
        if not self._enforced:
            await self._on_host(self._filter.remove)

    async def repair(self) -> None:
        """Compare what is in force with what should be, and put it right."""
        async with self._changing:
            was_in_force = self._in_force
            await self._enforce()
            if not was_in_force or not self._enforced:
                return
            table = self._policies.table
            if await self._on_host(lambda: self._filter.restore(table)):
                self._repairs += 1
                log.warning("restored network policies: somebody had changed the packet filter")

    async def placed(
        self, owner: str, addresses: Sequence[Address], identity: Identity | None
    ) -> None:
        """This attachment has these addresses, too, and nobody else has them any more.

        Without an identity, what is known about it stays.
        """
        async with self._changing:
            if identity is not None:
                self._identities[owner] = identity
            for other in [*self._attached]:
                self._take(other, addresses)
            before = self._attached.get(owner, Attached(owner, ())).addresses
            self._attached[owner] = Attached(
                owner,
                tuple(dict.fromkeys((*before, *addresses))),
                self._identities.get(owner),
            )
            await self._described_changed(identity is not None)

    async def left(self, owner: str, addresses: Sequence[Address] = ()) -> None:
        """It has these addresses no more, or none at all."""
        async with self._changing:
            known = self._attached.get(owner, Attached(owner, ()))
            self._take(owner, addresses or known.addresses)
            described = self._identities.get(owner) is not None
            if owner not in self._attached:
                self._identities.pop(owner, None)
            await self._described_changed(described)

    def handle_gossip(self, source: PeerName, update: bytes) -> None:
        """From the mesh. What it says is in force soon; what comes meanwhile, with it."""
        announced = self.shared.handle_gossip(source, update)
        if announced:
            self._tell(announced)
            self._news = True
            if self._learning is None or self._learning.done():
                self._learning = asyncio.create_task(self._learn(), name="policies")

    async def _learn(self) -> None:
        while self._news:
            async with self._changing:
                self._news = False
                try:
                    self._save()
                    await self._enforce()
                except WeavepyError as error:
                    log.error("what other hosts attached is not in force here: %s", error)

    # --- requests --------------------------------------------------------------------------------

    async def apply(self, request: schema.PolicyObjects) -> schema.PolicyAnswer:
        """All or nothing. A policy with a fault is applied, and closes what it selects."""
        read = [(document, parse(document)) for document in request.objects]
        if len(self._documents) + len(read) > MAX_OBJECTS:
            raise UsageError(f"more than {MAX_OBJECTS} objects are too many")
        changes = []
        async with self._changing:
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
            await self._enforce()
        for change in changes:
            if change.fault:
                log.warning("policy %s/%s: %s", change.namespace, change.name, change.fault)
        return schema.PolicyAnswer(changes=changes)

    async def delete(self, request: schema.PolicyObjects) -> schema.PolicyAnswer:
        read = [parse(document) for document in request.objects]
        changes = []
        async with self._changing:
            documents = dict(self._documents)
            for thing in read:
                known = documents.pop(_named(thing), None) is not None
                changes.append(_change(_named(thing), "deleted" if known else "absent", None))
            self._save(documents)
            for thing in read:
                self._forget(_named(thing))
            await self._enforce()
        return schema.PolicyAnswer(changes=changes)

    async def status(self) -> schema.PolicyStatus:
        policies = self._policies
        drops = await self._drops() if self._enforced else {}
        return schema.PolicyStatus(
            enforced=self._enforced,
            policies=[self._policy_row(policy) for _, policy in sorted(policies.policies.items())],
            pods=[self._pod_row(pod, drops) for _, pod in sorted(policies.pods.items())],
            repairs=self._repairs,
        )

    async def summary(self) -> schema.PolicySummary | None:
        if not self._enforced:
            return None
        counts = await self._drops()
        return schema.PolicySummary(
            policies=len(self._policies.policies),
            faulty=sum(bool(policy.fault) for policy in self._policies.policies.values()),
            repairs=self._repairs,
            drops=[
                _drops_of(pod, counts)
                for _, pod in sorted(self._policies.pods.items())
                if pod.node == HERE and [*self._policies.selecting(pod)]
            ],
        )

    async def explain(self, request: schema.ExplainRequest) -> schema.ExplainAnswer:
        service = parse_service(request.port)
        source = self._address(request.source, None)
        destination = self._address(request.destination, source.version)
        answer = explain(
            self._policies, self._address(request.source, destination.version), destination, service
        )
        return schema.ExplainAnswer(allowed=answer.allowed, lines=lines(answer))

    async def matrix(self, request: schema.MatrixRequest) -> schema.MatrixAnswer:
        service = parse_service(request.port)
        pods = [pod for _, pod in sorted(self._policies.pods.items()) if pod.addresses]
        if len(pods) > MAX_MATRIX_PODS:
            raise UsageError(
                f"a matrix of {len(pods)} pods is too large to read: `weavepy policy explain` asks"
                " about two"
            )
        return schema.MatrixAnswer(
            pods=[f"{pod.namespace}/{pod.name}" for pod in pods],
            allowed=[
                [
                    explain(self._policies, one.addresses[0], other.addresses[0], service).allowed
                    for other in pods
                ]
                for one in pods
            ],
        )

    async def lint(self) -> schema.LintAnswer:
        return schema.LintAnswer(findings=findings(self._policies))

    # --- objects ---------------------------------------------------------------------------------

    @property
    def _enforced(self) -> bool:
        return bool(self._policies.policies)

    async def _drops(self) -> Drops:
        """`DROPS_S` old at most: it takes a tool, and status is asked for often."""
        now = asyncio.get_running_loop().time()
        if now >= self._drops_until:
            self._drops_known = await self._on_host(self._filter.drops)
            self._drops_until = now + DROPS_S
        return self._drops_known

    async def _enforce(self) -> None:
        self._follow_pods()
        changes = self._policies.settle()
        table = self._policies.table
        if self._enforced and self._in_force:
            await self._on_host(lambda: self._filter.apply(changes, table))
        elif self._enforced:
            await self._on_host(lambda: self._filter.restore(table))
        elif self._in_force:
            await self._on_host(self._filter.remove)
        self._in_force = self._enforced

    async def _described_changed(self, described: bool) -> None:
        """Others learn of it only when it is in force here."""
        announced = self.shared.set_own([one for _, one in sorted(self._attached.items())])
        if described or announced:
            self._save()
        await self._enforce()
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
        wanted = roster(
            HERE, self._applied.values(), self._attached.values(), self.shared.elsewhere()
        )
        for key in [key for key in self._policies.pods if key not in wanted]:
            self._policies.handle_pod_removed(key)
        for pod in wanted.values():
            self._policies.handle_pod(pod)

    def _handle(self, thing: Namespace | Pod | Policy) -> None:
        match thing:
            case Namespace():
                self._policies.handle_namespace(thing)
            case Pod():
                self._applied[thing.key] = thing
            case Policy():
                self._policies.handle_policy(thing)

    def _forget(self, named: Named) -> None:
        kind, namespace, name = named
        match kind:
            case "Namespace":
                self._policies.handle_namespace_removed(name)
            case "Pod":
                self._applied.pop((namespace, name), None)
            case _:
                self._policies.handle_policy_removed((namespace, name))

    def _address(self, text: str, version: int | None) -> Address:
        try:
            return ip_address(text)
        except ValueError:
            pass
        namespace, _, name = text.rpartition("/")
        pod = self._policies.pods.get((namespace or DEFAULT_NAMESPACE, name))
        if pod is None:
            raise NotFound(f"there is no pod {text}: `weavepy policy status` lists them")
        for address in pod.addresses:
            if version in (None, address.version):
                return address
        raise NotFound(f"{text} has no address{'' if version is None else f' of IPv{version}'}")

    def _policy_row(self, policy: Policy) -> schema.PolicyRow:
        return schema.PolicyRow(
            namespace=policy.namespace,
            name=policy.name,
            selector=str(policy.selector),
            directions=[*policy.rules],
            pods=sum(
                pod.node == HERE and policy in self._policies.selecting(pod)
                for pod in self._policies.pods.values()
            ),
            fault=policy.fault,
        )

    def _pod_row(self, pod: Pod, drops: Drops) -> schema.PolicyPod:
        isolated = {
            direction for policy in self._policies.selecting(pod) for direction in policy.rules
        }
        dropped = _drops_of(pod, drops)
        return schema.PolicyPod(
            namespace=pod.namespace,
            name=pod.name,
            addresses=[str(address) for address in pod.addresses],
            labels=dict(pod.labels),
            local=pod.node == HERE,
            isolated=sorted(isolated),
            drops=dropped.ingress + dropped.egress,
        )

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
        replace_file(self._file, json.dumps(content).encode())
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

    async def _on_host(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


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


def parse_service(text: str) -> Service:
    """Read "80/tcp", "80" (which is TCP) or "icmp"."""
    if text == "icmp":
        return Service()
    number, _, protocol = text.partition("/")
    protocols: dict[str, Protocol] = {"": "tcp", "tcp": "tcp", "udp": "udp", "sctp": "sctp"}
    if protocol not in protocols or not number.isdecimal() or not 1 <= int(number) <= 65535:
        raise UsageError(f"{text!r} is no port: write 80/tcp, 53/udp, 5000/sctp or icmp")
    return Service(protocols[protocol], int(number))


def _drops_of(pod: Pod, drops: Drops) -> schema.PodDrops:
    ingress, egress = (
        sum(drops.get((way, str(address)), 0) for address in pod.addresses) for way in DIRECTIONS
    )
    return schema.PodDrops(namespace=pod.namespace, name=pod.name, ingress=ingress, egress=egress)


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
