"""Containers and the host itself: addresses from the ring, interfaces from the kernel, together.

An attachment is whole or not at all. Addresses come first; if the kernel then refuses, those that
this request had brought are given back. What is there already is found, not made again, so a
caller that lost the answer can simply repeat.

Kernel work is synchronous and runs on one thread of its own, in order.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from ipam.core.effects import OwnerKind
from policy.core.cluster import NO_POD, Runtime
from policy.core.objects import Address
from policy.core.roster import Identity
from router.shell import containers, namespaces
from router.shell.attach import AttachmentFacts
from router.shell.host import Host, Seen
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.client import schema
from weavepy.daemon.addresses import (
    AnyIn,
    Exactly,
    Interface,
    Network,
    parse_interface,
    parse_wanted,
)
from weavepy.daemon.api import NotFound
from weavepy.daemon.applied import identity_of

log = logging.getLogger(__name__)

EXPOSE_OWNER = "weave:expose"
"""Whom the host's own addresses belong to in the ring."""

FILTER_DROPS_S = 5.0

Result = TypeVar("Result")


class Addresses(Protocol):
    """The ring, as far as attachments need it."""

    default_subnet: Network

    async def allocate(
        self, owner: str, subnet: Network, timeout_s: float, kind: OwnerKind = "attachment"
    ) -> Interface: ...

    async def claim(
        self, owner: str, interface: Interface, timeout_s: float, kind: OwnerKind = "attachment"
    ) -> Interface:
        """Make an address of the universe ours; one outside it is free for the taking."""
        ...

    def release(self, owner: str, address: Interface | None) -> list[Interface]: ...

    def of_owner(self, owner: str) -> list[Interface]: ...

    def owners(self) -> list[str]: ...

    def had_any(self, owner: str, before: float) -> bool:
        """Whether it has an address since before that time of the wall clock."""
        ...

    def manages(self, interface: Interface) -> bool:
        """Whether the address is of the universe."""
        ...

    def why_no_address(self, subnet: Network) -> str:
        """Why no address can be had there now; "" if one can, or others may have some."""
        ...


class Gate(Protocol):
    """Network policies, as far as attachments have to tell them who is there."""

    async def placed(
        self,
        owner: str,
        addresses: Sequence[Address],
        identity: Identity | None,
        runtime: Runtime = NO_POD,
    ) -> None:
        """Returns when policies are in force for these addresses."""
        ...

    async def left(self, owner: str, addresses: Sequence[Address] = ()) -> None:
        """These are gone, or all."""
        ...


class Attachments:
    def __init__(
        self,
        host: Host,
        addresses: Addresses,
        thread: Executor,
        mtu_bytes: int,
        tap: str,
        gate: Gate,
    ) -> None:
        self.mtu_bytes = mtu_bytes
        self._host = host
        self._tap = tap
        self._bridge: Seen | None = None
        """As it was when we last looked; None before the first look."""
        self._addresses = addresses
        self._thread = thread
        self._gate = gate
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()
        """How many hold or await each lock: with its last user a lock goes."""
        self._touched: set[str] = set()
        """Owners whose attachment was worked on since `look` began."""
        self._filter_drops: dict[str, int] = {}
        self._filter_drops_until = 0.0

    async def on_host(self, work: Callable[[], Result]) -> Result:
        """Run kernel work on its thread; whoever is cancelled leaves it to finish."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def attach(self, request: schema.AttachRequest) -> schema.Attachment:
        owner, namespace = await self._resolve(request.namespace, request.pid, request.container)
        wanted = parse_wanted(request.addresses, self._addresses.default_subnet)
        identity = identity_of(request)
        async with self.one_at_a_time(owner):
            before = set(self._addresses.of_owner(owner))
            interfaces: list[Interface] = []
            try:
                for one in wanted:
                    match one:
                        case AnyIn(subnet=subnet):
                            taking = self._addresses.allocate(owner, subnet, request.timeout_s)
                        case Exactly(interface=interface):
                            taking = self._addresses.claim(owner, interface, request.timeout_s)
                    interfaces.append(await taking)
                await self._gate.placed(owner, [one.ip for one in interfaces], identity)
                facts = await self.on_host(
                    lambda: self._host.attach(
                        namespace, owner, interfaces, self.mtu_bytes, interface=request.interface
                    )
                )
            except BaseException:
                new = [interface for interface in interfaces if interface not in before]
                for interface in new:
                    self._addresses.release(owner, interface)
                if new:
                    await self._gate.left(owner, [interface.ip for interface in new])
                raise
            return attachment(facts)

    async def detach(self, request: schema.DetachRequest) -> schema.DetachAnswer:
        unwanted = [parse_interface(text) for text in _plain(request.addresses)]
        try:
            owner, _ = await self._resolve(request.namespace, request.pid, request.container)
        except WeavepyError:
            # What is detached is often gone already; its name is then all we have.
            owner = await self._known_owner(request.namespace or request.container)
        async with self.one_at_a_time(owner):
            removed = await self.on_host(lambda: self._host.detach(owner=owner, addresses=unwanted))
            released = self._addresses.release(owner, None) if not unwanted else []
            for interface in unwanted:
                released += self._addresses.release(owner, interface)
            await self._gate.left(owner, [interface.ip for interface in unwanted])
            gone = sorted({str(interface) for interface in (*removed, *released)})
            if not gone and not unwanted:
                raise NotFound(f"{owner} is not attached: `weavepy ps` lists what is")
            return schema.DetachAnswer(released=gone)

    async def repair(self) -> bool:
        """Undo what others did to bridge, ports and filters; return whether ports were affected.

        A filter is restored with the ring's addresses.
        """
        mended = await self.on_host(self._mend)
        if mended:
            log.warning("mended what somebody had changed: %s", "; ".join(mended))
        for facts in await self.on_host(self._host.attachments):
            if facts.filtered or not facts.alive:
                continue
            interfaces = self._addresses.of_owner(facts.owner) or list(facts.addresses)
            async with self.one_at_a_time(facts.owner):
                again = partial(
                    self._host.attach,
                    facts.namespace,
                    facts.owner,
                    interfaces,
                    self.mtu_bytes,
                    interface=facts.interface,
                    host_interface=facts.host_interface,
                )
                await self.on_host(again)
            log.warning("restored the filter of %s: somebody had removed it", facts.owner)
        return bool(mended)

    def _mend(self) -> list[str]:
        """On the thread, so in between requests."""
        before = self._bridge or self._host.look()
        mended = self._host.mend(before, self._tap, self.mtu_bytes) if before is not None else []
        self._bridge = self._host.look()
        return mended

    async def look(self) -> tuple[Sequence[AttachmentFacts], Sequence[Interface], Sequence[str]]:
        """Return what the kernel shows, containers and host, and the owners that were busy."""
        self._touched = {owner for owner, lock in self._locks.items() if lock.locked()}
        facts = await self.on_host(self._host.attachments)
        exposed = await self.on_host(self._host.exposed)
        return facts, exposed, sorted(self._touched)

    async def filter_drops(self) -> dict[str, int]:
        """Frames of containers that filters dropped, by reason, `FILTER_DROPS_S` old at most.

        It takes some milliseconds of a tool, and status is asked for often.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._filter_drops_until:
            self._filter_drops_until = now + FILTER_DROPS_S
            self._filter_drops = await self.on_host(self._host.dropped)
        return self._filter_drops

    async def list(self) -> schema.AttachmentList:
        facts = await self.on_host(self._host.attachments)
        return schema.AttachmentList(attachments=[attachment(each) for each in facts])

    async def expose(self, request: schema.ExposeRequest) -> schema.ExposeAnswer:
        wanted = parse_wanted(request.addresses, self._addresses.default_subnet)
        async with self.one_at_a_time(EXPOSE_OWNER):
            interfaces = []
            for one in wanted:
                match one:
                    case AnyIn(subnet=subnet):
                        taking = self._addresses.allocate(EXPOSE_OWNER, subnet, 30.0)
                    case Exactly(interface=interface):
                        taking = self._addresses.claim(EXPOSE_OWNER, interface, 30.0)
                interfaces.append(await taking)
            await self.on_host(lambda: self._host.expose(interfaces, request.masquerade))
            self._bridge = await self.on_host(self._host.look) or self._bridge
            return await self.exposed()

    async def hide(self, request: schema.HideRequest) -> schema.ExposeAnswer:
        unwanted = [parse_interface(text) for text in _plain(request.addresses)]
        async with self.one_at_a_time(EXPOSE_OWNER):
            await self.on_host(lambda: self._host.hide(unwanted))
            self._bridge = await self.on_host(self._host.look) or self._bridge
            for interface in unwanted or self._addresses.of_owner(EXPOSE_OWNER):
                self._addresses.release(EXPOSE_OWNER, interface)
            return await self.exposed()

    async def exposed(self) -> schema.ExposeAnswer:
        interfaces = await self.on_host(self._host.exposed)
        return schema.ExposeAnswer(addresses=[str(interface) for interface in interfaces])

    @asynccontextmanager
    async def one_at_a_time(self, owner: str) -> AsyncIterator[None]:
        """Two requests for one container must not see each other's halves."""
        self._touched.add(owner)
        lock = self._locks.setdefault(owner, asyncio.Lock())
        self._users[owner] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[owner] -= 1
            if not self._users[owner]:
                del self._users[owner], self._locks[owner]

    async def _resolve(self, namespace: str, pid: int, container: str) -> tuple[str, Path]:
        """Return whom addresses belong to, and the namespace's path."""
        given = [bool(namespace), bool(pid), bool(container)]
        if sum(given) != 1:
            raise UsageError("name exactly one of a network namespace, a PID and a container id")
        if container:
            found = await self.on_host(lambda: containers.find_container(container))
            return found.id, found.namespace
        if pid:
            path = await self.on_host(lambda: namespaces.resolve_pid(pid))
        else:
            path = await self.on_host(lambda: namespaces.resolve_name(namespace))
        return str(path), path

    async def _known_owner(self, text: str) -> str:
        """Find the attachment that an operator means by the name of what is gone."""
        facts = await self.on_host(self._host.attachments)
        for each in facts:
            if text and text in (each.owner, str(each.namespace), each.namespace.name):
                return each.owner
        if text and self._addresses.of_owner(text):
            return text
        for directory in ("/run/netns", "/var/run/netns"):
            if text and self._addresses.of_owner(f"{directory}/{text}"):
                return f"{directory}/{text}"
        raise NotFound(f"{text or 'that process'} is not attached: `weavepy ps` lists what is")


def attachment(facts: AttachmentFacts) -> schema.Attachment:
    return schema.Attachment(
        id=facts.owner,
        namespace=str(facts.namespace),
        interface=facts.interface,
        host_interface=facts.host_interface,
        mac=facts.mac,
        addresses=[str(address) for address in facts.addresses],
        pod=facts.pod,
    )


def _plain(texts: list[str]) -> list[str]:
    return [text.removeprefix("ip:") for text in texts]
