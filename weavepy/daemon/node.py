"""One router without a world: mesh, ring and negotiator wired to each other.

Whatever happens outside comes in through a `handle_*` method with the time; whatever should
happen outside goes to `World.perform`, in order. No clock, socket or task is in here, so the
daemon and a simulator can drive the very same object.

The order of effects is the safety of the ring: `Persist` stands before what depends on it.
When the disk refuses, everything the ring wanted to say after that is held back, in order,
until the disk takes it. Nothing is ever told that is not on disk.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ipam.core.effects import AnswerRequest, IpamEffect, Persist
from ipam.core.ipam import Ipam
from router.mesh.effects import (
    CloseLink,
    Dial,
    GossipReceived,
    MeshEffect,
    OverlayMessageReceived,
    PeerAdded,
    PeerConnected,
    PeerDisconnected,
    PeerRemoved,
    RememberTargets,
    RoutesChanged,
    SendBytes,
    UnicastReceived,
)
from router.mesh.mesh import Mesh
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

PERSIST_RETRY_S = 1.0
"""How long after a refusal the disk is tried again."""

WorldEffect = (
    Dial
    | SendBytes
    | CloseLink
    | RememberTargets
    | LogLine
    | Persist
    | AnswerRequest
    | TellDatapath
)

NodeEffect = MeshEffect | IpamEffect | NegotiationEffect


class World(Protocol):
    """What performs effects for real, or in a simulation."""

    def perform(self, effect: WorldEffect, now: float) -> None:
        """Do it at once. Only `Persist` may raise, and then a `WeavepyError`."""
        ...


class Node:
    def __init__(self, mesh: Mesh, ipam: Ipam, negotiator: Negotiator, world: World) -> None:
        self.mesh = mesh
        self.ipam = ipam
        self.negotiator = negotiator
        self.disk_error = ""
        """Why the disk refuses; empty while it does not."""
        self._world = world
        self._loop: EffectLoop[NodeEffect] = EffectLoop(self._perform)
        self._held: deque[Persist | Announce | Unicast | AnswerRequest] = deque()
        self._retry_at = 0.0
        self._routes: InstallRoutes | None = None
        self._short_ids: dict[PeerName, ShortId] = {}

    # --- inputs ------------------------------------------------------------------------------

    def run(self, effects: Iterable[NodeEffect], now: float) -> None:
        """Carry out what a core returned, and all that follows from it."""
        self._loop.run(effects, now)

    def handle_datapath(self, message: FromDatapath, now: float) -> None:
        self.run(self.negotiator.handle_datapath(message, now), now)
        if isinstance(message, Snapshot) and self._routes not in (None, message.routes):
            assert self._routes is not None
            self.run([TellDatapath(self._routes)], now)

    def handle_datapath_lost(self, reason: str, now: float) -> None:
        self.run(self.negotiator.handle_datapath_lost(reason, now), now)

    def handle_timeout(self, now: float) -> None:
        """Give every core that is due its turn; the others are not disturbed."""
        if self._held and now >= self._retry_at:
            self._release_held(now)
        cores: Sequence[tuple[Callable[[], Deadline], Callable[[float], Iterable[NodeEffect]]]] = (
            (self.mesh.next_deadline, self.mesh.handle_timeout),
            (self.ipam.next_deadline, self.ipam.handle_timeout),
            (self.negotiator.next_deadline, self.negotiator.handle_timeout),
        )
        for next_deadline, handle_timeout in cores:
            if next_deadline().at <= now:
                self.run(handle_timeout(now), now)

    def next_deadline(self) -> Deadline:
        deadlines = [
            self.mesh.next_deadline(),
            self.ipam.next_deadline(),
            self.negotiator.next_deadline(),
        ]
        if self._held:
            deadlines.append(Deadline(self._retry_at, "try the disk again"))
        return earliest(*deadlines)

    # --- effects -----------------------------------------------------------------------------

    def _perform(self, effect: NodeEffect, now: float) -> Iterable[NodeEffect]:
        match effect:
            case Persist() | AnswerRequest() | Announce() | Unicast():
                return self._perform_ring(effect, now)
            case Dial() | SendBytes() | CloseLink() | RememberTargets() | LogLine():
                self._world.perform(effect, now)
            case TellDatapath():
                self._world.perform(effect, now)
            case TellPeer(peer=peer, payload=payload):
                return self.mesh.send_overlay_message(peer, payload, now)
            case OverlayUp(peer=peer):
                return self.mesh.handle_overlay_up(peer, now)
            case OverlayDown(peer=peer, reason=reason):
                return self.mesh.handle_overlay_down(peer, reason, now)
            case PeerConnected():
                return self.negotiator.handle_connected(
                    effect.peer,
                    effect.remote_host,
                    effect.remote_udp_port,
                    effect.overlay_secret,
                    effect.dialled_by_us,
                    now,
                )
            case PeerDisconnected(peer=peer):
                return self.negotiator.handle_disconnected(peer)
            case OverlayMessageReceived(peer=peer, payload=payload):
                return self._overlay_message(peer, payload, now)
            case GossipReceived(source=source, update=update):
                return self.ipam.handle_gossip(source, update, now)
            case UnicastReceived(source=source, payload=payload):
                return self.ipam.handle_unicast(source, payload, now)
            case PeerAdded():
                return self._peers_changed(now)
            case PeerRemoved(peer=peer):
                return [*self._forget_macs(peer), *self._peers_changed(now)]
            case RoutesChanged():
                return [self._install_routes(effect), *self._peers_changed(now)]
        return []

    def _perform_ring(
        self, effect: Persist | AnswerRequest | Announce | Unicast, now: float
    ) -> Iterable[NodeEffect]:
        if self._held:
            self._held.append(effect)
            return []
        match effect:
            case Announce():
                return self.mesh.announce(effect, now)
            case Unicast():
                return self.mesh.unicast(effect, now)
            case AnswerRequest():
                self._world.perform(effect, now)
            case Persist():
                try:
                    self._world.perform(effect, now)
                except WeavepyError as error:
                    self._hold(effect, error, now)
        return []

    def _hold(self, effect: Persist, error: WeavepyError, now: float) -> None:
        self._held.appendleft(effect)
        self._retry_at = now + PERSIST_RETRY_S
        if not self.disk_error:
            line = LogLine("error", f"nothing is told until the disk takes it: {error}")
            self._world.perform(line, now)
        self.disk_error = str(error)

    def _release_held(self, now: float) -> None:
        waiting, self._held = list(self._held), deque()
        before, self.disk_error = self.disk_error, ""
        self.run(waiting, now)
        if self._held:
            self.disk_error = self.disk_error or before
        else:
            self._world.perform(LogLine("info", "the disk takes writes again"), now)

    def _overlay_message(self, peer: PeerName, payload: bytes, now: float) -> Iterable[NodeEffect]:
        try:
            return self.negotiator.handle_message(peer, payload, now)
        except ProtocolError as error:
            return [LogLine("warning", str(error), (("peer", peer),))]

    def _peers_changed(self, now: float) -> Iterable[NodeEffect]:
        return self.ipam.handle_peers_changed(self.mesh.reachable_peers(), now)

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
        )
        return TellDatapath(self._routes)
