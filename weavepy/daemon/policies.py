"""Network policies in force: what is known about pods and policies, brought into the kernel.

Where that knowledge comes from is another's business, its *source*: `weavepy.daemon.applied` on
bare hosts, `weavepy.daemon.cluster` on Kubernetes. It feeds `policies` while it holds `changing`,
and has it enforced. Questions about the present state are answered here.

On bare hosts there is no filter while no policy is known, and packets are not looked at. On
Kubernetes there `always` is one: connections that are older than the first policy are then known.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from ipaddress import ip_address
from typing import TypeVar

from policy.core.explain import Service, explain, lines
from policy.core.lint import findings
from policy.core.objects import DIRECTIONS, Address, Pod, Policy, Protocol
from policy.core.policies import Policies
from policy.core.roster import DEFAULT_NAMESPACE
from policy.shell.filter import PolicyFilter
from policy.shell.reading import Counts
from weavepy.base.errors import UsageError
from weavepy.client import schema
from weavepy.daemon.api import NotFound
from weavepy.daemon.tallies import Durations, Passed

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Drops = dict[tuple[str, str], int]
"""Packets by direction and address."""
COUNTS_S = 1.0
MAX_LISTED = 1000
"""With more pods, those of other hosts are only counted; with more policies, those that neither
select a pod of this host nor have a fault."""

MAX_MATRIX_PODS = 200
"""Its answer has the square of that."""
MATRIX_STEP = 10
"""So many of its fields are found out before others have their turn on the event loop."""

MAX_FINDINGS = 1000
MAX_LINT_S = 60.0

HERE = "here"
"""The node of a pod that is attached to this host."""


class PolicyService:
    def __init__(
        self, packet_filter: PolicyFilter, thread: Executor, *, always: bool = False
    ) -> None:
        self._filter = packet_filter
        self._thread = thread
        self.policies = Policies(lambda pod: pod.node == HERE)
        self.changing = asyncio.Lock()
        """Held by who changes `policies`, until that is enforced."""
        self._always = always
        self.is_partial = False
        """What is known is not all: what the kernel has stays meanwhile, and is only added to."""
        self._in_force = False
        """Whether there is a packet filter, as far as we know."""
        self._repairs = 0
        self._passed = Passed()
        self._durations = Durations()
        self._counts = Counts({}, {}, 0)
        self._counts_until = 0.0

    async def start(self) -> None:
        """Bring into force what is known, or see to it that nothing is."""
        await self.repair()
        if not self._enforced and not self.is_partial:
            await self._on_host(self._filter.remove)

    async def enforce(self, since: float | None = None) -> None:
        """Returns when what is known is in force. Hold `changing`.

        `since` is when the loop's clock showed that there was news.
        """
        await self._enforce()
        if since is not None:
            self._durations.handle(asyncio.get_running_loop().time() - since)

    async def _enforce(self) -> None:
        changes = self.policies.settle()
        table = self.policies.table
        if self.is_partial:
            await self._on_host(lambda: self._filter.add(changes))
            return
        if self._enforced and self._in_force:
            await self._on_host(lambda: self._filter.apply(changes, table))
        elif self._enforced:
            await self._on_host(lambda: self._filter.restore(table))
        elif self._in_force:
            await self._on_host(self._filter.remove)
        self._in_force = self._enforced

    async def repair(self) -> None:
        """Compare what is in force with what should be, and put it right."""
        async with self.changing:
            was_in_force = self._in_force
            await self.enforce()
            if not was_in_force or not self._enforced:
                return
            table = self.policies.table
            if await self._on_host(lambda: self._filter.restore(table)):
                self._repairs += 1
                log.warning("restored network policies: somebody had changed the packet filter")

    # --- questions -------------------------------------------------------------------------------

    async def status(self) -> schema.PolicyStatus:
        drops = (await self._count()).drops if self._enforced else {}
        known = self.policies
        pods = known.local_pods()
        selected = Counter(policy.key for pod in pods for policy in known.selecting(pod))
        if len(known.pods) <= MAX_LISTED:
            pods = [pod for _, pod in sorted(known.pods.items())]
        listed = [*known.policies.values()]
        if len(listed) > MAX_LISTED:
            listed = [one for one in listed if one.fault or one.key in selected]
        return schema.PolicyStatus(
            enforced=self._enforced,
            policies=[
                _policy_row(policy, selected[policy.key])
                for policy in sorted(listed, key=lambda one: one.key)
            ],
            policies_left_out=len(known.policies) - len(listed),
            pods=[self._pod_row(pod, drops) for pod in pods],
            pods_left_out=len(known.pods) - len(pods),
            repairs=self._repairs,
        )

    async def summary(self) -> schema.PolicySummary | None:
        if not self._enforced:
            return None
        counts = await self._count()
        return schema.PolicySummary(
            policies=len(self.policies.policies),
            faulty=sum(bool(policy.fault) for policy in self.policies.policies.values()),
            repairs=self._repairs,
            drops=[
                _drops_of(pod, counts.drops)
                for pod in self.policies.local_pods()
                if pod.unknown or [*self.policies.selecting(pod)]
            ],
            passed=self._passed.rows(),
            rules=counts.rules,
            enforced=self._durations.shown(),
        )

    async def explain(self, request: schema.ExplainRequest) -> schema.ExplainAnswer:
        service = parse_service(request.port)
        source = self._address(request.source, None)
        destination = self._address(request.destination, source.version)
        answer = explain(
            self.policies, self._address(request.source, destination.version), destination, service
        )
        return schema.ExplainAnswer(allowed=answer.allowed, lines=lines(answer))

    async def matrix(self, request: schema.MatrixRequest) -> schema.MatrixAnswer:
        """Each field is true of the moment in which it was found out."""
        service = parse_service(request.port)
        pods = [
            pod
            for pod in self.policies.pods.values()
            if pod.addresses and request.namespace in ("", pod.namespace)
        ]
        if len(pods) > MAX_MATRIX_PODS:
            raise UsageError(
                f"a matrix of {len(pods)} pods is too large to read: --namespace shows those of"
                " one, and `weavepy policy explain` asks about two pods"
            )
        pods.sort(key=lambda pod: pod.key)
        allowed: list[list[bool]] = []
        for one in pods:
            allowed.append([])
            for number, other in enumerate(pods):
                answer = explain(self.policies, one.addresses[0], other.addresses[0], service)
                allowed[-1].append(answer.allowed)
                if number % MATRIX_STEP == 0:
                    await asyncio.sleep(0)
        return schema.MatrixAnswer(
            pods=[f"{pod.namespace}/{pod.name}" for pod in pods], allowed=allowed
        )

    async def lint(self, request: schema.LintRequest) -> schema.LintAnswer:
        loop = asyncio.get_running_loop()
        until = loop.time() + MAX_LINT_S
        found: list[str] = []
        for finding in findings(self.policies, request.namespace):
            if finding is not None:
                found.append(finding)
            if len(found) == MAX_FINDINGS:
                break
            if loop.time() > until:
                raise UsageError(
                    f"{len(self.policies.policies)} policies among {len(self.policies.pods)} pods"
                    f" take longer than {MAX_LINT_S:g} s: --namespace looks at those of one"
                )
            await asyncio.sleep(0)
        return schema.LintAnswer(findings=found, is_cut=len(found) == MAX_FINDINGS)

    # ---------------------------------------------------------------------------------------------

    @property
    def _enforced(self) -> bool:
        return self._always or bool(self.policies.policies)

    async def _count(self) -> Counts:
        """`COUNTS_S` old at most: it takes a tool, and status is asked for often."""
        now = asyncio.get_running_loop().time()
        if now >= self._counts_until:
            self._counts = await self._on_host(self._filter.counts)
            self._counts_until = now + COUNTS_S
            self._passed.handle(self.policies, self._counts.passed)
        return self._counts

    def _address(self, text: str, version: int | None) -> Address:
        try:
            return ip_address(text)
        except ValueError:
            pass
        namespace, _, name = text.rpartition("/")
        pod = self.policies.pods.get((namespace or DEFAULT_NAMESPACE, name))
        if pod is None:
            raise NotFound(f"there is no pod {text}: `weavepy policy status` lists them")
        for address in pod.addresses:
            if version in (None, address.version):
                return address
        raise NotFound(f"{text} has no address{'' if version is None else f' of IPv{version}'}")

    def _pod_row(self, pod: Pod, drops: Drops) -> schema.PolicyPod:
        isolated: set[str] = {
            direction for policy in self.policies.selecting(pod) for direction in policy.rules
        }
        if pod.unknown:
            isolated.update(DIRECTIONS)
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

    async def _on_host(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def parse_service(text: str) -> Service:
    """Read "80/tcp", "80" (which is TCP) or "icmp"."""
    if text == "icmp":
        return Service()
    number, _, protocol = text.partition("/")
    protocols: dict[str, Protocol] = {"": "tcp", "tcp": "tcp", "udp": "udp", "sctp": "sctp"}
    if protocol not in protocols or not number.isdecimal() or not 1 <= int(number) <= 65535:
        raise UsageError(f"{text!r} is no port: write 80/tcp, 53/udp, 5000/sctp or icmp")
    return Service(protocols[protocol], int(number))


def _policy_row(policy: Policy, pods: int) -> schema.PolicyRow:
    return schema.PolicyRow(
        namespace=policy.namespace,
        name=policy.name,
        selector=str(policy.selector),
        directions=[*policy.rules],
        pods=pods,
        fault=policy.fault,
    )


def _drops_of(pod: Pod, drops: Drops) -> schema.PodDrops:
    ingress, egress = (
        sum(drops.get((way, str(address)), 0) for address in pod.addresses) for way in DIRECTIONS
    )
    return schema.PodDrops(namespace=pod.namespace, name=pod.name, ingress=ingress, egress=egress)
