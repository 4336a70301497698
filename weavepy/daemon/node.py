"""One router without a world: mesh, ring, negotiator and fast path wired to each other.

Whatever happens outside comes in through a `handle_*` method with the time; whatever should
happen outside goes to `World.perform`, in order. No clock, socket or task is in here, so the
daemon and a simulator can drive the very same object.

The safety of the ring is an order: `Persist` is performed before anything that stands behind it
in the same list is even queued. If the disk refuses, all that the ring wants to say from then on
is held, in order, until the disk takes it. Nothing is ever told that is not on disk.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from fastdp.core import effects as fast
from fastdp.core.effects import FastEffect, TunnelEffect
from fastdp.core.messages import PREFIX as FAST_PREFIX
from fastdp.core.paths import FastPaths
from ipam.core.effects import AnswerRequest, IpamEffect, Persist, SettleTakeOver
from ipam.core.ipam import Ipam
from router.mesh.effects import (
    CloseLink,
    Dial,
    GossipReceived,
    IdentityCopied,
    MeshEffect,
    OverlayMessageReceived,
    PeerAdded,
    PeerConnected,
    PeerDisconnected,
    PeerRemoved,
    ReachableChanged,
    RememberTargets,
    RoutesChanged,
    SendBytes,
    UnicastReceived,
)
from router.mesh.mesh import Mesh
from router.mesh.routes import Routes
from router.sleeve.messages import ForgetMacs, FromDatapath, InstallRoutes, Snapshot
from router.sleeve.negotiation import (
    NegotiationEffect,
    Negotiator,
    OverlayDown,
    OverlayUp,
    TellDatapath,
    TellPeer,
)
from weavepy.base.deadline import Deadline, earliest
from weavepy.base.effects import EffectLoop, LogLine
from weavepy.base.errors import ProtocolError, WeavepyError
from weavepy.base.gossip import Announce, Unicast
from weavepy.base.names import PeerName, ShortId
from weavepy.daemon import fastpath

PERSIST_RETRY_S = 1.0
"""How long after a refusal the disk is tried again."""

RING_CHANNEL = "ring"

WorldEffect = (
    Dial
    | SendBytes
    | CloseLink
    | RememberTargets
    | LogLine
    | Persist
    | AnswerRequest
    | SettleTakeOver
    | TellDatapath
    | GossipReceived
    | UnicastReceived
    | TunnelEffect
)

NodeEffect = MeshEffect | IpamEffect | NegotiationEffect | FastEffect


class World(Protocol):
    """What performs effects for real, or in a simulation."""

    def perform(self, effect: WorldEffect, now: float) -> None:
        """Do it at once. Only `Persist` may raise, and then a `WeavepyError`."""
        ...


class Node:
    def __init__(
        self,
        mesh: Mesh,
        ipam: Ipam | None,
        negotiator: Negotiator,
        world: World,
        paths: FastPaths | None = None,
    ) -> None:
        """`ipam` is None where addresses are managed by somebody else, `paths` where frames
        travel by sleeve only."""
        self.mesh = mesh
        self.ipam = ipam
        self.negotiator = negotiator
        self.paths = paths
        self._datapath_is_new = True
        """Its next `Snapshot` is its first."""
        self._world = world
        self._loop: EffectLoop[NodeEffect] = EffectLoop(self._perform)
        self._held: deque[IpamEffect] = deque()
        """Begins with the `Persist` that the disk refused; empty while it refuses nothing."""
        self._refusal = ""
        """Why the disk refused."""
        self._retry_at = math.inf
        self._routes: InstallRoutes | None = None
        self._short_ids: dict[PeerName, ShortId] = {}
        self._routes_of_ring: Routes | None = None
        """The mesh's, of which the ring was told last."""

    # --- inputs ------------------------------------------------------------------------------

    def run(self, effects: Iterable[NodeEffect], now: float) -> None:
        """Carry out what a core returned, and all that follows from it."""
        self._loop.run(effects, now)

    def run_ring(self, effects: Sequence[IpamEffect], now: float) -> None:
        """The same for what `Ipam` returned: its `Persist` is performed here and now."""
        self._loop.run(self._persisted(effects, now), now)

    def handle_datapath(self, message: FromDatapath, now: float) -> None:
        if self.paths is not None:
            self.run(self._tell_paths(self.paths, message, now), now)
        self.run(self.negotiator.handle_datapath(message, now), now)
        if isinstance(message, Snapshot) and self._routes not in (None, message.routes):
            assert self._routes is not None
            self.run([TellDatapath(self._routes)], now)

    def handle_datapath_lost(self, reason: str, now: float) -> None:
        self._datapath_is_new = True
        if self.paths is not None:
            self.run(self.paths.handle_datapath_lost(now), now)
        self.run(self.negotiator.handle_datapath_lost(reason, now), now)

    def handle_timeout(self, now: float) -> None:
        """Give every core that is due its turn; the others are not disturbed."""
        if self._held and now >= self._retry_at:
            self._retry_disk(now)
        for next_deadline, handle_timeout in self._timed():
            if next_deadline().at <= now:
                self.run(handle_timeout(now), now)

    def next_deadline(self) -> Deadline:
        retry_at = self._retry_at if self._held else math.inf
        return earliest(
            *(next_deadline() for next_deadline, _ in self._timed()),
            Deadline(retry_at, "try the disk again"),
        )

    def _timed(
        self,
    ) -> Iterable[tuple[Callable[[], Deadline], Callable[[float], Iterable[NodeEffect]]]]:
        yield self.mesh.next_deadline, self.mesh.handle_timeout
        yield self.negotiator.next_deadline, self.negotiator.handle_timeout
        if self.paths is not None:
            yield self.paths.next_deadline, self.paths.handle_timeout
        ipam = self.ipam
        if ipam is not None:
            yield ipam.next_deadline, lambda now: self._persisted(ipam.handle_timeout(now), now)

    # --- effects -----------------------------------------------------------------------------

    def _perform(self, effect: NodeEffect, now: float) -> Iterable[NodeEffect]:
        match effect:
            case Dial() | SendBytes() | CloseLink() | RememberTargets() | LogLine():
                self._world.perform(effect, now)
            case (
                fast.Arrange()
                | fast.ReadMacs()
                | fast.Carry()
                | fast.Retire()
                | fast.Point()
                | fast.AddAssociation()
                | fast.KeepAssociations()
                | fast.SendHeartbeat()
            ):
                self._world.perform(effect, now)
            case TellDatapath() | AnswerRequest() | SettleTakeOver():
                self._world.perform(effect, now)
            case Persist():
                raise AssertionError("the ring's effects come in through _persisted")
            case Announce():
                return self.mesh.announce(effect, now)
            case Unicast():
                return self.mesh.unicast(effect, now)
            case fast.SetFast():
                self._world.perform(TellDatapath(fastpath.to_datapath(effect)), now)
            case TellPeer(peer=peer, payload=payload) | fast.TellPeer(peer=peer, payload=payload):
                return self.mesh.send_overlay_message(peer, payload, now)
            case OverlayUp(peer=peer):
                return self.mesh.handle_overlay_up(peer, now)
            case OverlayDown(peer=peer, reason=reason):
                return self.mesh.handle_overlay_down(peer, reason, now)
            case PeerConnected():
                return self._connected(effect, now)
            case PeerDisconnected(peer=peer, left=left):
                follow: list[NodeEffect] = [*self.negotiator.handle_disconnected(peer, left)]
                if self.paths is not None:
                    follow += self.paths.handle_disconnected(peer, left, now)
                return follow
            case OverlayMessageReceived(peer=peer, payload=payload):
                return self._overlay_message(peer, payload, now)
            case GossipReceived(channel=channel, source=source, update=update):
                if self.ipam is not None and channel == RING_CHANNEL:
                    return self._persisted(self.ipam.handle_gossip(source, update, now), now)
                if channel != RING_CHANNEL:
                    self._world.perform(effect, now)
            case UnicastReceived(channel=channel) if channel != RING_CHANNEL:
                self._world.perform(effect, now)
            case UnicastReceived(source=source, payload=payload):
                if self.ipam is not None:
                    return self._persisted(self.ipam.handle_unicast(source, payload, now), now)
            case PeerAdded() | ReachableChanged():
                return self._peers_changed(now)
            case IdentityCopied(text=text):
                if self.ipam is not None:
                    return self._persisted(self.ipam.handle_identity_copied(text, now), now)
            case PeerRemoved(peer=peer):
                return [*self._forget_macs(peer), *self._peers_changed(now)]
            case RoutesChanged():
                # A peer's new short id must be known to be fast before frames are routed to it.
                return [
                    *self._direct_peers_changed(effect, now),
                    self._install_routes(effect),
                    *self._peers_changed(now),
                ]
        return []

    def _persisted(self, effects: Sequence[IpamEffect], now: float) -> Iterable[NodeEffect]:
        """Put what the ring wants on disk there, and return what may be done after that."""
        if self._held:
            return self._hold(effects)
        if not effects or not isinstance(effects[0], Persist):
            return effects
        try:
            self._world.perform(effects[0], now)
        except WeavepyError as error:
            assert self.ipam is not None
            self._held.append(effects[0])
            self._refusal = str(error)
            self._retry_at = now + PERSIST_RETRY_S
            refused = self.ipam.handle_disk(str(error), now)
            return [*self._hold(effects[1:]), *self._hold(refused)]
        return effects[1:]

    def _hold(self, effects: Sequence[IpamEffect]) -> list[NodeEffect]:
        """Keep what depends on the disk; a refusal and a line for the log do not."""
        free: list[NodeEffect] = []
        for effect in (_refused(effect, self._refusal) for effect in effects):
            if isinstance(effect, LogLine) or (
                isinstance(effect, AnswerRequest) and effect.error is not None
            ):
                free.append(effect)
            else:
                self._held.append(effect)
        return free

    def _retry_disk(self, now: float) -> None:
        """Perform what was held, in order, as far as the disk goes along."""
        assert self.ipam is not None
        while self._held:
            effect = self._held[0]
            if isinstance(effect, Persist):
                try:
                    self._world.perform(effect, now)
                except WeavepyError:
                    self._retry_at = now + PERSIST_RETRY_S
                    return
            self._held.popleft()
            if not isinstance(effect, Persist):
                self.run([effect], now)
        self.run_ring(self.ipam.handle_disk("", now), now)

    def _connected(self, connected: PeerConnected, now: float) -> Iterable[NodeEffect]:
        effects: list[NodeEffect] = [
            *self.negotiator.handle_connected(
                connected.peer,
                connected.remote_host,
                connected.remote_udp_port,
                connected.overlay_secret,
                connected.dialled_by_us,
                now,
            )
        ]
        if self.paths is not None:
            effects += self.paths.handle_connected(connected.peer, connected.overlay_secret, now)
        return effects

    def _tell_paths(
        self, paths: FastPaths, message: FromDatapath, now: float
    ) -> Iterable[NodeEffect]:
        if isinstance(message, Snapshot) and self._datapath_is_new:
            self._datapath_is_new = False
            return fastpath.met_datapath(paths, message, now)
        return fastpath.from_datapath(paths, message, now)

    def _direct_peers_changed(self, routes: RoutesChanged, now: float) -> Iterable[NodeEffect]:
        if self.paths is None:
            return []
        return self.paths.handle_short_ids(
            routes.short_ids.get(self.mesh.ourself, 0),
            routes.short_ids,
            [peer for peer, hop in routes.unicast.items() if peer == hop],
            routes.relays,
            now,
        )

    def _overlay_message(self, peer: PeerName, payload: bytes, now: float) -> Iterable[NodeEffect]:
        try:
            if payload.startswith(FAST_PREFIX):
                return self.paths.handle_message(peer, payload, now) if self.paths else []
            return self.negotiator.handle_message(peer, payload, now)
        except ProtocolError as error:
            return [LogLine("warning", str(error), (("peer", peer),))]

    def _peers_changed(self, now: float) -> Iterable[NodeEffect]:
        """Once for all that follows from one look at the topology, as that may be a thousand."""
        routes = self.mesh.routes
        if self.ipam is None or routes is self._routes_of_ring:
            return []
        self._routes_of_ring = routes
        reachable, sessions = self.mesh.reachable_peers, list(routes.unicast)
        told = self.ipam.handle_peers_changed(reachable, now, sessions, self.mesh.connected_peers)
        return self._persisted(told, now)

    def _forget_macs(self, peer: PeerName) -> Iterable[NodeEffect]:
        short_id = self._short_ids.get(peer)
        return [] if short_id is None else [TellDatapath(ForgetMacs(short_id))]

    def _install_routes(self, routes: RoutesChanged) -> TellDatapath:
        """Peers become short ids; what leads to a peer without one has to wait for it."""
        short_ids = routes.short_ids
        ourself = self.mesh.ourself
        self._short_ids = dict(short_ids)
        self._routes = InstallRoutes(
            ourself=short_ids.get(ourself, ShortId(0)),
            unicast={
                short_ids[peer]: short_ids[hop]
                for peer, hop in routes.unicast.items()
                if peer in short_ids and hop in short_ids
            },
            broadcast={
                short_ids[source]: [short_ids[hop] for hop in hops if hop in short_ids]
                for source, hops in routes.broadcast.items()
                if source in short_ids
            },
            short_ids={short_id: peer for peer, short_id in short_ids.items()},
            mtus_bytes={
                short_ids[peer]: mtu_bytes
                for peer, mtu_bytes in routes.mtus_bytes.items()
                if peer in short_ids
            },
        )
        return TellDatapath(self._routes)


def _refused(effect: IpamEffect, error: str) -> IpamEffect:
    """Who asked for something hears at once that the disk refuses, not when it is too late.

    The address stays the owner's until it asks again or releases, as after any failed request.
    """
    if isinstance(effect, AnswerRequest) and effect.error is None and not effect.released:
        return AnswerRequest(effect.request, None, error, "disk")
    return effect
