"""What the CNI plugin asks: attachments of containers that a runtime starts and ends.

An attachment is named by network, container and interface, and that is also its addresses' owner in
the ring and what names its interface. So all that a DEL or a GC needs is found in the ring and the
kernel, whichever router made it, and nothing is remembered here.

ADD takes in order: what is needed from the ring; what network policies say about these addresses
(the gate, which returns when that is in force); then the interface (`router.shell.pod`). What was
taken goes back if a later step fails. DEL goes the other way, and the addresses come last: nobody
gets one that somebody may still send from.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path

from cni import journal
from ipam.core.effects import OwnerKind
from policy.core.cluster import Runtime
from router.shell.bridge import InterfaceTaken
from router.shell.host import Host, PodWish, Route
from router.shell.namespaces import NoSuchNamespace
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.client import schema
from weavepy.daemon.addresses import Interface, Network, parse_interface, parse_subnet
from weavepy.daemon.api import Conflict, NotFound
from weavepy.daemon.attachments import EXPOSE_OWNER, Addresses, Attachments, Gate
from weavepy.daemon.requested import RequestedAddresses
from weavepy.kernel.faults import reached

log = logging.getLogger(__name__)

PREFIXES = {"interface": "cni:", "addresses": "cni-ipam:"}
"""Of owners in the ring, by the kind of attachment."""

MIN_MTU_BYTES = 576
NOT_READY = 50
SUFFERS = 51
STEADY_S = 5.0
"""What lasts less long is no change of status: a datapath that is started again, a ring check."""


class Pods:
    def __init__(
        self,
        host: Host,
        attachments: Attachments,
        addresses: Addresses,
        gate: Gate,
        *,
        journal_directory: str,
        has_datapath: Callable[[], bool],
        requested: RequestedAddresses | None = None,
    ) -> None:
        """`requested`: what pods themselves ask for; None where they have no way to."""
        self._host = host
        self._attachments = attachments
        self._addresses = addresses
        self._gate = gate
        self._journal = journal_directory
        self._has_datapath = has_datapath
        self._requested = requested
        self._unwell_since: float | None = None
        self._gateways: dict[Network, Interface] = {}
        """Where the host is exposed as far as we saw to it."""

    async def begin(self) -> None:
        """Before anybody can ask: finish what routers before us had begun."""
        swept = await self._attachments.on_host(self._host.sweep_pods)
        if swept:
            log.warning("cleared away what was half made: %s", " ".join(swept))
        await self.replay()

    async def replay(self) -> None:
        """Carry out the DELs that came while no router ran, or that the plugin could not send."""
        for entry in journal.read(self._journal):
            request = schema.CniDelRequest(**{name: entry[name] for name in journal.KEYS})
            try:
                begun = journal.begun(entry)
                if begun is None or not self._addresses.had_any(owner_of(request), before=begun):
                    await self._delete(request)
            except WeavepyError as error:
                log.error("a DEL that waits cannot be carried out: %s", error)
            else:
                journal.forget(self._journal, entry)

    # --- verbs -----------------------------------------------------------------------------------

    async def add(self, request: schema.CniAddRequest) -> schema.CniAddAnswer:
        owner = owner_of(request)
        journal.forget(self._journal, _entry(request))
        async with self._attachments.one_at_a_time(owner):
            before = set(self._addresses.of_owner(owner))
            taken: list[Interface] = []
            try:
                await self._take(request, owner, taken)
                reached("add-allocated")
                return await self._attach(request, owner, taken)
            except BaseException:
                new = [interface for interface in taken if interface not in before]
                for interface in new:
                    self._addresses.release(owner, interface)
                if new and request.kind == "interface":
                    await self._gate.left(owner, [interface.ip for interface in new])
                raise

    async def delete(self, request: schema.CniDelRequest) -> schema.CniDelAnswer:
        released = await self._delete(request)
        journal.forget(self._journal, _entry(request))
        return schema.CniDelAnswer(released=[str(interface) for interface in released])

    async def check(self, request: schema.CniCheckRequest) -> schema.CniCheckAnswer:
        owner, previous = owner_of(request), request.previous
        wanted = [parse_interface(text) for text in previous.addresses]
        recorded = self._addresses.of_owner(owner)
        found = [
            f"{interface} is not {owner}'s in the ring"
            for interface in wanted
            if interface not in recorded and self._addresses.manages(interface)
        ]
        if not wanted and not recorded:
            found.append(f"{owner} has no address")
        if request.kind == "interface":
            routes = [_route(each, None) for each in previous.routes]
            try:
                found += await self._attachments.on_host(
                    lambda: self._host.check_pod(
                        owner, Path(request.namespace), previous.mac, wanted, routes
                    )
                )
            except NoSuchNamespace as error:
                raise NotFound(str(error)) from error
        return schema.CniCheckAnswer(findings=found)

    async def gc(self, request: schema.CniGcRequest) -> schema.CniGcAnswer:
        prefix = f"{_prefix(request.kind)}{request.network}/"
        valid = {f"{prefix}{each.container}/{each.interface}" for each in request.valid}
        owners = {owner for owner in self._addresses.owners() if owner.startswith(prefix)}
        if request.kind == "interface":
            facts = await self._attachments.on_host(self._host.attachments)
            owners |= {each.owner for each in facts if each.owner.startswith(prefix)}
        freed, errors = [], []
        for owner in sorted(owners - valid):
            network, container, interface = owner.removeprefix(_prefix(request.kind)).split("/")
            wanted = schema.CniDelRequest(
                network=network, container=container, interface=interface, kind=request.kind
            )
            try:
                await self.delete(wanted)
            except WeavepyError as error:
                errors.append(f"{container}/{interface}: {error}")
            else:
                freed.append(f"{container}/{interface}")
        return schema.CniGcAnswer(freed=freed, errors=errors)

    async def status(self, request: schema.CniStatusRequest) -> schema.CniStatusAnswer:
        """From memory alone, so that it is quick also while the kernel's thread is busy."""
        subnet = parse_subnet(request.subnet, self._addresses.default_subnet)
        code, reason = 0, self._addresses.why_no_address(subnet)
        if reason:
            code = NOT_READY
        if not self._has_datapath():
            code, reason = SUFFERS, "the datapath is not running: hosts are cut off"
        now = asyncio.get_running_loop().time()
        if not code:
            self._unwell_since = None
        elif self._unwell_since is None:
            self._unwell_since = now
        if self._unwell_since is None or now < self._unwell_since + STEADY_S:
            return schema.CniStatusAnswer(code=0, message="")
        return schema.CniStatusAnswer(code=code, message=reason)

    # --- steps of ADD ----------------------------------------------------------------------------

    async def _take(
        self, request: schema.CniAddRequest, owner: str, taken: list[Interface]
    ) -> None:
        """Get the addresses; those that were got are in `taken`, also if it then fails."""
        kind: OwnerKind = "attachment" if request.kind == "interface" else "manual"
        subnet = parse_subnet(request.subnet, self._addresses.default_subnet)
        exact = [parse_interface(each.address) for each in request.given] or [
            _parse_requested(text, subnet) for text in request.ips
        ]
        if not exact and self._requested is not None:
            exact = await self._requested.of(request, subnet)
        for interface in exact:
            taking = self._addresses.claim(owner, interface, request.timeout_s, kind)
            taken.append(await taking)
        if not exact:
            if self._leads_out(request):
                await self._expose(subnet, request.masquerade)  # so it has the first address
            taken.append(await self._addresses.allocate(owner, subnet, request.timeout_s, kind))

    async def _attach(
        self, request: schema.CniAddRequest, owner: str, taken: list[Interface]
    ) -> schema.CniAddAnswer:
        answer = schema.CniAddAnswer(
            host_interface="", host_mac="", mac="", mtu=0, addresses=[], routes=[]
        )
        gateways = [await self._gateway(request, interface) for interface in taken]
        answer.addresses = [
            schema.CniAddress(address=str(interface), gateway=gateway)
            for interface, gateway in zip(taken, gateways, strict=True)
        ]
        routes = _routes(request, [gateway for gateway in gateways if gateway])
        if request.kind == "addresses":
            answer.routes = [_shown(route) for route in routes]
            return answer
        wish = PodWish(
            owner=owner,
            namespace=Path(request.namespace),
            interface=request.interface,
            addresses=tuple(taken),
            routes=tuple(routes),
            mac=request.mac,
            mtu_bytes=self._mtu(request.mtu),
            hairpin=request.hairpin,
            pod=request.pod,
            uid=request.pod_uid,
        )
        runtime = Runtime.named(request.pod, request.pod_uid)
        await self._gate.placed(owner, [interface.ip for interface in taken], None, runtime)
        try:
            facts = await self._attachments.on_host(lambda: self._host.make_pod(wish))
        except InterfaceTaken as error:
            raise Conflict(str(error)) from error
        except NoSuchNamespace as error:
            raise NotFound(str(error)) from error
        answer.host_interface, answer.host_mac = facts.host_interface, facts.host_mac
        answer.mac, answer.mtu = facts.mac, wish.mtu_bytes
        answer.routes = [_shown(route) for route in facts.routes]
        return answer

    async def _gateway(self, request: schema.CniAddRequest, interface: Interface) -> str:
        """The container's way out of this address's subnet; "" for none."""
        for each in request.given:
            if parse_interface(each.address) == interface:
                return each.gateway
        if request.gateway:
            gateway = _parse_gateway(request.gateway)
            return str(gateway) if gateway in interface.network else ""
        if not self._leads_out(request) or not self._addresses.manages(interface):
            return ""
        return str((await self._expose(interface.network, request.masquerade)).ip)

    @staticmethod
    def _leads_out(request: schema.CniAddRequest) -> bool:
        """Whether the host is to be the container's way to everywhere else."""
        return request.kind == "interface" and request.is_default_gateway and not request.gateway

    async def _expose(self, network: Network, masquerade: bool) -> Interface:
        """Have the host on this subnet, too; nothing is done where that is seen to already."""
        exposed = self._gateways.get(network)
        if exposed is None or exposed not in self._addresses.of_owner(EXPOSE_OWNER):
            await self._attachments.expose(
                schema.ExposeRequest(addresses=[f"net:{network}"], masquerade=masquerade)
            )
            mine = self._addresses.of_owner(EXPOSE_OWNER)
            exposed = next(each for each in mine if each.network == network)
            self._gateways[network] = exposed
        return exposed

    def _mtu(self, wanted_bytes: int) -> int:
        most = self._attachments.mtu_bytes
        if wanted_bytes and not MIN_MTU_BYTES <= wanted_bytes <= most:
            raise UsageError(
                f"mtu {wanted_bytes}: the network carries {MIN_MTU_BYTES} to {most} bytes"
            )
        return wanted_bytes or most

    # --- steps of DEL ----------------------------------------------------------------------------

    async def _delete(self, request: schema.CniAttachment) -> list[Interface]:
        owner = owner_of(request)
        async with self._attachments.one_at_a_time(owner):
            if request.kind == "interface":
                await self._attachments.on_host(lambda: self._host.remove_pod(owner))
            released = self._addresses.release(owner, None)
            reached("del-released")
            if request.kind == "interface":
                try:
                    await self._gate.left(owner)
                except WeavepyError as error:
                    # The container is gone all the same; what is in force is looked after anyway.
                    log.warning("network policies still know %s: %s", owner, error)
            return released


def owner_of(attachment: schema.CniAttachment) -> str:
    """Whom the addresses belong to; none of its parts has a slash in it."""
    parts = (attachment.network, attachment.container, attachment.interface)
    if not all(parts) or any("/" in part for part in parts):
        raise UsageError("an attachment needs a network, a container and an interface")
    return _prefix(attachment.kind) + "/".join(parts)


def _prefix(kind: str) -> str:
    if kind not in PREFIXES:
        raise UsageError(f"an attachment is of {' or '.join(PREFIXES)}, not of {kind!r}")
    return PREFIXES[kind]


def _entry(request: schema.CniAttachment) -> dict[str, str]:
    return {name: getattr(request, name) for name in journal.KEYS}


def _parse_requested(text: str, subnet: Network) -> Interface:
    """Without a length it is of the network's subnet."""
    if "/" in text:
        return parse_interface(text)
    interface = parse_interface(f"{text}/{subnet.prefixlen}")
    if interface.network != subnet:
        raise UsageError(f"{text} is not in the network's subnet {subnet}")
    return interface


def _parse_gateway(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise UsageError(f"the gateway {text!r} is not an address") from error


def _routes(request: schema.CniAddRequest, gateways: list[str]) -> list[Route]:
    """The default route of each family that has a gateway, and those that were asked for."""
    by_version: dict[int, ipaddress.IPv4Address | ipaddress.IPv6Address] = {}
    for text in gateways:
        gateway = ipaddress.ip_address(text)
        by_version.setdefault(gateway.version, gateway)
    routes = [_route(each, by_version) for each in request.routes]
    if request.is_default_gateway and not request.given and request.kind == "interface":
        routes += [
            Route(everywhere, gateway)
            for version, gateway in by_version.items()
            if (everywhere := _EVERYWHERE[version]) not in [each.destination for each in routes]
        ]
    return routes


_EVERYWHERE: dict[int, Network] = {
    4: ipaddress.ip_network("0.0.0.0/0"),
    6: ipaddress.ip_network("::/0"),
}


def _route(
    wanted: schema.CniRoute,
    gateways: dict[int, ipaddress.IPv4Address | ipaddress.IPv6Address] | None,
) -> Route:
    try:
        destination = ipaddress.ip_network(wanted.dst)
        gateway = ipaddress.ip_address(wanted.gw) if wanted.gw else None
    except ValueError as error:
        raise UsageError(f"the route {wanted.dst!r} via {wanted.gw!r}: {error}") from error
    if gateway is None and gateways:
        gateway = gateways.get(destination.version)
    return Route(destination, gateway)


def _shown(route: Route) -> schema.CniRoute:
    gateway = str(route.gateway) if route.gateway is not None else ""
    return schema.CniRoute(dst=str(route.destination), gw=gateway)
