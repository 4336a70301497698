"""The ring as the daemon uses it: addresses as `ipaddress` objects, waiting as awaiting."""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Sequence

from ipam.core.effects import AnswerRequest, IpamEffect, OwnerKind, RunningAddress
from ipam.core.election import Appointed, Consensus, InitMode, Observer, Seed
from ipam.core.ipam import Ipam
from ipam.shell.store import Store
from router.shell.attach import AttachmentFacts
from weavepy.base.errors import UsageError
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon import status
from weavepy.daemon.addresses import Interface, Network, parse_interface, parse_subnet
from weavepy.daemon.api import Conflict, NotFound, NotReady
from weavepy.daemon.attachments import EXPOSE_OWNER
from weavepy.daemon.node import Node
from weavepy.daemon.options import Options
from weavepy.daemon.requests import OutsideUniverse, Requests

HAND_OVER_POLL_S = 0.1
MAX_HISTORY_SHOWN = 200


def init_mode(options: Options) -> InitMode:
    """Without a number, consensus is of the peers that we were given, and ourself."""
    if options.kubernetes is not None:
        return Appointed()
    start = options.ring_start
    match start.mode:
        case "seed":
            return Seed(start.seeds)
        case "observer":
            return Observer()
        case _:
            return Consensus(start.initial_peers or len(options.peers) + 1)


def running_addresses(
    attachments: Iterable[AttachmentFacts], exposed: Iterable[Interface]
) -> list[RunningAddress]:
    """What the kernel shows to be in use on this host, whatever the disk says."""
    held = [
        RunningAddress(int(address.ip), facts.owner, address.network.prefixlen)
        for facts in attachments
        if facts.alive
        for address in facts.addresses
    ]
    held += [
        RunningAddress(int(address.ip), EXPOSE_OWNER, address.network.prefixlen)
        for address in exposed
    ]
    return held


class RingService:
    """Requests of the API and of attachments, put to `Ipam` through the node."""

    def __init__(
        self,
        node: Node,
        requests: Requests,
        options: Options,
        changed: Callable[[], None],
        store: Store,
    ) -> None:
        self.default_subnet: Network = options.default_subnet
        self._node = node
        self._requests = requests
        self._universe = options.universe
        self._is_appointed = options.kubernetes is not None
        self._bridge = options.bridge
        self._changed = changed
        self._store = store

    # --- for attachments ---------------------------------------------------------------------

    async def allocate(
        self, owner: str, subnet: Network, timeout_s: float, kind: OwnerKind = "attachment"
    ) -> Interface:
        ipam = self._ipam()
        answer = await self._ask(
            lambda number, deadline, now: ipam.allocate(number, owner, subnet, deadline, now, kind),
            timeout_s,
        )
        return self._interface(answer)

    async def claim(
        self, owner: str, interface: Interface, timeout_s: float, kind: OwnerKind = "attachment"
    ) -> Interface:
        """An address outside the universe is the asker's own business."""
        if self._node.ipam is None or interface.version != self._universe.version:
            return interface
        ipam = self._node.ipam
        prefix = interface.network.prefixlen
        try:
            answer = await self._ask(
                lambda number, deadline, now: ipam.claim(
                    number, owner, int(interface.ip), prefix, deadline, now, kind
                ),
                timeout_s,
            )
        except OutsideUniverse:
            return interface
        return self._interface(answer)

    def release(self, owner: str, address: Interface | None) -> list[Interface]:
        """Free one address or all of an owner; what is not the owner's is left alone."""
        ipam = self._node.ipam
        if ipam is None or (address is not None and address.version != self._universe.version):
            return []
        rows = [
            row for row in ipam.lookup(owner) if address is None or row.address == int(address.ip)
        ]
        now = asyncio.get_running_loop().time()
        for row in rows:
            self._node.run_ring(ipam.release(0, owner, row.address, now), now)
        self._changed()
        return [self._as_interface(row.address, row.prefix_length) for row in rows]

    def of_owner(self, owner: str) -> list[Interface]:
        ipam = self._node.ipam
        rows = ipam.lookup(owner) if ipam is not None else ()
        return [self._as_interface(row.address, row.prefix_length) for row in rows]

    def had_any(self, owner: str, before: float) -> bool:
        ipam = self._node.ipam
        if ipam is None:
            return False
        since = self._store.since()
        return any(since.get(row.address, before) < before for row in ipam.lookup(owner))

    def owners(self) -> list[str]:
        """Everybody who has an address in use on this host, sorted."""
        ipam = self._node.ipam
        return sorted({row.owner for row in ipam.addresses()}) if ipam is not None else []

    def manages(self, interface: Interface) -> bool:
        return self._node.ipam is not None and interface.ip in self._universe

    def why_no_address(self, subnet: Network) -> str:
        if self._node.ipam is None:
            return "this router was started with --no-ipam: it manages no addresses"
        return self._node.ipam.why_no_address(subnet)

    # --- for the API -------------------------------------------------------------------------

    def status(self) -> schema.IpamStatus:
        ipam = self._node.ipam
        now = asyncio.get_running_loop().time()
        answer = status.ipam(ipam.status(now) if ipam is not None else None)
        if self._store.warning:
            answer.warnings.insert(0, self._store.warning)
        return answer

    def in_use(self, attachments: Iterable[AttachmentFacts]) -> schema.AddressList:
        """All addresses in use on this host, with the interfaces that have them."""
        interfaces = {
            (int(address.ip), facts.owner): facts.host_interface
            for facts in attachments
            for address in facts.addresses
        }
        since = self._store.since()
        rows = sorted(self._ipam().addresses(), key=lambda row: row.address)
        return schema.AddressList(
            addresses=[
                schema.AddressInUse(
                    address=str(self._as_interface(row.address, row.prefix_length)),
                    owner=row.owner,
                    kind=row.kind,
                    interface=self._bridge
                    if row.owner == EXPOSE_OWNER
                    else interfaces.get((row.address, row.owner), ""),
                    since=since.get(row.address, 0.0),
                )
                for row in rows
            ]
        )

    def history(self) -> schema.HistoryAnswer:
        self._ipam()
        return schema.HistoryAnswer(
            events=[
                schema.HistoryEntry(
                    at=at,
                    kind=event.kind,
                    ranges=list(event.ranges),
                    addresses=event.addresses,
                    peer=event.peer,
                    reason=event.reason,
                )
                for at, event in self._store.history(MAX_HISTORY_SHOWN)
            ]
        )

    def check(
        self,
        attachments: Iterable[AttachmentFacts],
        exposed: Iterable[Interface],
        busy: Sequence[str],
    ) -> schema.CheckAnswer:
        """Compare ring, store and interfaces."""
        ipam = self._ipam()
        live = running_addresses(attachments, exposed)
        findings = ipam.audit(self._store.load(), live, busy)
        return schema.CheckAnswer(
            findings=[schema.CheckFinding(what=one.what, text=one.text) for one in findings],
            addresses=len(ipam.addresses()),
        )

    def reconcile(
        self,
        attachments: Iterable[AttachmentFacts],
        exposed: Iterable[Interface],
        busy: Sequence[str],
    ) -> None:
        """Free what attachments that are gone left in use; take up what runs unrecorded."""
        if self._node.ipam is None:
            return
        live = running_addresses(attachments, exposed)
        now = asyncio.get_running_loop().time()
        self._node.run_ring(self._node.ipam.reconcile(live, busy, now), now)
        self._changed()

    async def remove_peer(self, request: schema.RmpeerRequest) -> schema.RmpeerAnswer:
        """Take over the ranges of a peer that is gone for good."""
        ipam = self._ipam()
        found = ipam.find_peers(request.peer)
        if not found:
            raise NotFound(
                f"the ring knows no peer {request.peer!r}: `weavepy ipam status` lists them"
            )
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} peers are called {request.peer}: say which by name, one of"
                f" {', '.join(found)}"
            )
        if self._is_appointed and not request.force:
            raise Conflict(
                f"Kubernetes says who is gone for good: delete the node of {request.peer}, and its"
                " addresses are taken over within seconds; or, if you know that it is dead and"
                " will not return with containers, repeat this with --force"
            )
        answer = await self._ask(
            lambda number, deadline, now: ipam.take_over(
                number, found[0], request.force, deadline, now
            ),
            request.timeout_s,
        )
        return schema.RmpeerAnswer(peer=found[0], message=answer.text)

    async def reclaim(self, peer: PeerName, gone: Sequence[PeerName], timeout_s: float) -> str:
        """The same because a register outside says that all of `gone` are gone for good."""
        ipam = self._ipam()
        answer = await self._ask(
            lambda number, deadline, now: ipam.reclaim(number, peer, gone, deadline, now),
            timeout_s,
        )
        return answer.text

    async def allocate_request(self, request: schema.AllocateRequest) -> schema.AddressAnswer:
        owner = _owner(request.owner)
        subnet = parse_subnet(request.subnet, self.default_subnet)
        interface = await self.allocate(owner, subnet, request.timeout_s, "manual")
        return schema.AddressAnswer(owner=owner, address=str(interface))

    async def claim_request(self, request: schema.ClaimRequest) -> schema.AddressAnswer:
        ipam = self._ipam()
        owner = _owner(request.owner)
        interface = self._parse(request.address)
        answer = await self._ask(
            lambda number, deadline, now: ipam.claim(
                number, owner, int(interface.ip), interface.network.prefixlen, deadline, now
            ),
            request.timeout_s,
        )
        return schema.AddressAnswer(owner=owner, address=str(self._interface(answer)))

    async def release_request(self, request: schema.ReleaseRequest) -> schema.ReleaseAnswer:
        ipam = self._ipam()
        if not request.owner and not request.address:
            raise UsageError("name an owner, an address, or both")
        owner = request.owner
        address = self._parse(request.address) if request.address else None
        if address is not None and not owner:
            owner = ipam.owner_of(int(address.ip)).owner
        released = self.release(owner, address) if owner else []
        return schema.ReleaseAnswer(released=[str(interface) for interface in released])

    async def lookup_request(self, request: schema.LookupRequest) -> schema.LookupAnswer:
        ipam = self._ipam()
        if bool(request.owner) == bool(request.address):
            raise UsageError("look up either an owner or an address")
        if request.owner:
            return schema.LookupAnswer(
                addresses=[str(interface) for interface in self.of_owner(request.owner)],
                owner=request.owner,
                peer=ipam.ourself,
                nickname=self._node.mesh.nickname(ipam.ourself),
            )
        address = int(self._parse(request.address).ip)
        found = ipam.owner_of(address)
        return schema.LookupAnswer(
            addresses=[
                str(interface)
                for interface in self.of_owner(found.owner)
                if int(interface.ip) == address
            ],
            owner=found.owner,
            peer=found.peer or "",
            nickname=found.nickname,
        )

    async def prime(self, timeout_s: float) -> None:
        ipam = self._ipam()
        await self._ask(lambda number, deadline, now: ipam.prime(number, deadline, now), timeout_s)

    async def hand_over(self, timeout_s: float) -> str:
        """Give all ranges to a reachable peer, for good; return what was done, in words."""
        ipam = self._node.ipam
        if ipam is None or ipam.ring is None:
            return "reset: there was no ring to hand over"
        copies = self._node.mesh.copies(asyncio.get_running_loop().time())
        if copies:
            raise Conflict(f"a reset would give away what the other still uses: {copies[0]}")
        strangers = {ipam.ourself, *ipam.foreigners()}
        heirs = [peer for peer in self._node.mesh.reachable_peers if peer not in strangers]
        owners = [peer for peer in heirs if peer in ipam.ring.owners()]
        if not heirs:
            if set(ipam.ring.owners()) <= {ipam.ourself}:
                return "reset: nobody else has a part in this ring"
            raise NotReady(
                "no peer is reachable to hand this host's addresses to: reconnect first (`weavepy"
                " status connections`), or stop this host and take them over elsewhere"
            )
        heir = min(owners or heirs)
        loop = asyncio.get_running_loop()
        self._node.run_ring(ipam.hand_over(heir, loop.time()), loop.time())
        self._changed()
        give_up_at = loop.time() + timeout_s
        while not ipam.handed_over:
            if loop.time() > give_up_at:
                raise NotReady(
                    f"{self._node.mesh.nickname(heir)} did not confirm within {timeout_s:g} s that"
                    " it has this host's addresses: repeat `weavepy reset`"
                )
            await asyncio.sleep(HAND_OVER_POLL_S)
        return f"reset: this host's addresses went to {self._node.mesh.nickname(heir)}"

    # ---------------------------------------------------------------------------------------------

    def _ipam(self) -> Ipam:
        if self._node.ipam is None:
            raise UsageError("this router was started with --no-ipam: it manages no addresses")
        return self._node.ipam

    async def _ask(
        self, request: Callable[[int, float, float], Sequence[IpamEffect]], timeout_s: float
    ) -> AnswerRequest:
        loop = asyncio.get_running_loop()

        def start(number: int) -> None:
            now = loop.time()
            self._node.run_ring(request(number, now + timeout_s, now), now)
            self._changed()

        def cancel(number: int) -> None:
            self._node.run_ring(self._ipam().cancel(number, loop.time()), loop.time())

        def why_late() -> str:
            warnings = self._ipam().status(loop.time()).warnings
            return "; ".join(warnings) or "see `weavepy status ipam`"

        return await self._requests.ask(start, cancel, timeout_s, why_late)

    def _parse(self, text: str) -> Interface:
        """An address, with the length of the default subnet if none is given."""
        if "/" not in text:
            text = f"{text}/{self.default_subnet.prefixlen}"
        interface = parse_interface(text)
        if interface.version != self._universe.version:
            raise UsageError(f"{text} is not of the family of {self._universe}")
        return interface

    def _interface(self, answer: AnswerRequest) -> Interface:
        assert answer.address is not None
        return self._as_interface(answer.address, answer.prefix_length)

    def _as_interface(self, address: int, prefix_length: int | None) -> Interface:
        length = self.default_subnet.prefixlen if prefix_length is None else prefix_length
        if self._universe.version == 4:
            return ipaddress.IPv4Interface((address, length))
        return ipaddress.IPv6Interface((address, length))


def _owner(text: str) -> str:
    if not text or len(text) > 255 or not text.isprintable():
        raise UsageError("an owner is a name of 1 to 255 printable characters")
    return text
