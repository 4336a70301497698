"""The mesh core: finds the other peers, stays connected to them, and carries what they say.

`Mesh` owns the parts and routes between them. It decides about *links* itself: whom to dial,
which of two connections is kept, who is refused, what a lost connection means.

| part       | what it knows                                                            |
|------------|--------------------------------------------------------------------------|
| Connection | one TCP link: handshake, messages, heartbeats, back-pressure             |
| Neighbour  | one peer that we have a link with: connected, established, orphaned      |
| View       | the topology, our own record in it, the routes                           |
| Targets    | addresses to dial, and when                                              |
| Gossip     | to whom news is passed on, and when digests are compared                 |
| Refusals, CloneWatch | what an operator should hear about                             |

A connection closes for what came over it (`ProtocolError`) and for nothing that a third peer
said. Nothing here does I/O: the shell performs the effects, in order, and feeds what happens
back. `handle_timeout` must be called at `next_deadline`, also right after the start.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from random import Random

from router.mesh import status
from router.mesh.clones import CloneWatch
from router.mesh.connection import Connection, Phase, TimedOut, address_text
from router.mesh.effects import (
    CloseLink,
    Dial,
    GossipReceived,
    LinkId,
    LogLine,
    MeshEffect,
    OverlayMessageReceived,
    PeerConnected,
    PeerDisconnected,
    RememberTargets,
    SendBytes,
    UnicastReceived,
)
from router.mesh.gossip import Gossip, weights_of
from router.mesh.handshake import Finished, Handshake, HandshakeRefused, Introduction, Role
from router.mesh.identity import Identity
from router.mesh.messages import (
    GOODBYE_DUPLICATE,
    GOODBYE_LEAVE,
    GOODBYE_PAUSE,
    MAX_HOPS,
    ControlMessage,
    GossipDigest,
    GossipUpdate,
    Hello,
    OverlayMessage,
    UnicastMessage,
)
from router.mesh.neighbours import Neighbour, Verdict, judge
from router.mesh.records import MAX_ADDRESSES, Record
from router.mesh.refusals import Refusals
from router.mesh.routes import Routes
from router.mesh.targets import Address, Targets, parse_address
from router.mesh.topology import TOPOLOGY_CHANNEL
from router.mesh.view import AdoptedPeer, View
from weavepy.base.deadline import NEVER, Deadline, earliest
from weavepy.base.errors import ProtocolError, UsageError
from weavepy.base.gossip import Announce, Channel, Unicast
from weavepy.base.names import PeerName, PeerUid, ShortId

MAX_HALF_OPEN = 64
"""Strangers in the middle of a handshake. One more is turned away."""

ASLEEP_S = 1.0
"""A timer that comes later than this says that we were suspended, and that silence was ours."""

__all__ = ["AdoptedPeer", "Mesh"]


class Mesh:
    def __init__(
        self,
        *,
        identity: Identity,
        uid: PeerUid,
        nickname: str,
        secret: bytes,
        encrypted: bool,
        port: int,
        udp_port: int,
        channels: Mapping[str, Channel],
        rng: Random,
        now: float,
        version: str = "",
        discovery: bool = True,
        connection_limit: int = 100,
        short_id: ShortId | None = None,
        given: Sequence[str] = (),
        remembered: Sequence[str] = (),
        adopted: Sequence[AdoptedPeer] = (),
        draw_ephemeral: Callable[[], bytes] | None = None,
    ) -> None:
        """Raises `UsageError` if a given target is malformed; remembered ones are then skipped.

        `short_id` and `adopted` are what a previous run left in the datapath. `draw_ephemeral`
        makes handshakes repeatable in simulations; None, which is the only safe choice, takes
        the keys from the operating system.
        """
        assert TOPOLOGY_CHANNEL not in channels
        self.ourself = identity.name
        self.encrypted = encrypted
        self.discovery = discovery
        self.connection_limit = connection_limit
        self.refusals = Refusals()
        self._identity = identity
        self._secret = secret
        self._port = port
        self._draw_ephemeral = draw_ephemeral
        self._introduction = Introduction(
            name=identity.name,
            uid=uid,
            nickname=nickname,
            listen_port=port,
            udp_port=udp_port,
            version=version,
        )
        self._clones = CloneWatch()
        self._view = View(
            ourself=identity.name,
            uid=uid,
            nickname=nickname,
            version=version,
            short_id=short_id,
            adopted=adopted,
            clones=self._clones,
            rng=rng,
            now=now,
        )
        self._channels: dict[str, Channel] = {TOPOLOGY_CHANNEL: self._view.topology, **channels}
        self._targets = Targets(identity.name, connection_limit, rng)
        self._gossip = Gossip(rng, now)
        self._connections: dict[LinkId, Connection] = {}
        self._neighbours: dict[PeerName, Neighbour] = {}
        self._seen_at: dict[PeerName, tuple[str, bool]] = {}
        self._last_link = 0
        self._left = False
        self._remembered: tuple[str, ...] = ()
        self._effects: list[MeshEffect] = []
        self._targets.give([parse_address(text, port) for text in given], now)
        self._targets.remember(filter(None, (_address(text, port) for text in remembered)), now)
        for peer in adopted:
            self._adopt(peer, now)
        self._describe_ourself(now)

    # --- links -------------------------------------------------------------------------------

    def new_link_id(self) -> LinkId:
        """The shell numbers accepted connections with this."""
        self._last_link += 1
        return LinkId(self._last_link)

    def handle_link_opened(
        self, link: LinkId, remote_host: str, remote_port: int, now: float
    ) -> list[MeshEffect]:
        connection = self._connections.get(link)
        if connection is None or self._left:
            return [CloseLink(link, "not wanted any more")]
        connection.remote_host = remote_host
        self._start_handshake(connection, Role.INITIATOR, now)
        return self._done()

    def handle_link_accepted(
        self, link: LinkId, remote_host: str, remote_port: int, now: float
    ) -> list[MeshEffect]:
        if self._left:
            return [CloseLink(link, "we are leaving")]
        half_open = sum(
            not one.outbound and one.phase is Phase.HANDSHAKE for one in self._connections.values()
        )
        if half_open >= MAX_HALF_OPEN:
            text = f"{MAX_HALF_OPEN} other strangers are at the door"
            self._note_refusal(remote_host, "too-many-half-open", text, now)
            self._effects.append(CloseLink(link, text))
            return self._done()
        connection = Connection(link, outbound=False, host=remote_host, port=remote_port, now=now)
        self._connections[link] = connection
        self._start_handshake(connection, Role.RESPONDER, now)
        return self._done()

    def handle_dial_failed(self, link: LinkId, reason: str, now: float) -> list[MeshEffect]:
        if self._connections.pop(link, None) is not None:
            self._targets.closed(link, reason, now)
        return self._done()

    def handle_bytes(self, link: LinkId, data: bytes, now: float) -> list[MeshEffect]:
        connection = self._connections.get(link)
        if connection is None:
            return []
        try:
            received = connection.feed(data, now)
        except HandshakeRefused as refused:
            self._refuse(connection, refused, now)
            return self._done()
        except ProtocolError as error:
            self._drop(connection, str(error), now)
            return self._done()
        if received.to_send:
            self._effects.append(SendBytes(link, received.to_send))
        if received.finished is not None:
            self._handle_finished(connection, received.finished, now)
        for message in received.messages:
            if link in self._connections:
                self._handle_message(connection, message, now)
        if received.goodbye is not None and link in self._connections:
            self._handle_goodbye(connection, received.goodbye, now)
        return self._done()

    def handle_link_closed(self, link: LinkId, reason: str, now: float) -> list[MeshEffect]:
        connection = self._connections.get(link)
        if connection is None:
            return []
        early = connection.closed_early()
        if early is not None:
            self._refuse(connection, early, now)
        else:
            self._disconnect(connection, reason, now)
        return self._done()

    def handle_link_paused(self, link: LinkId, now: float) -> list[MeshEffect]:
        """The link's buffer is full: until it is resumed, nothing but the necessary is kept."""
        connection = self._connections.get(link)
        if connection is not None:
            connection.paused = True
        return self._done()

    def handle_link_resumed(self, link: LinkId, now: float) -> list[MeshEffect]:
        connection = self._connections.get(link)
        if connection is not None and connection.paused:
            data = connection.resume(self._channels, now)
            if data:
                self._effects.append(SendBytes(link, data))
        return self._done()

    # --- overlay -----------------------------------------------------------------------------

    def handle_overlay_up(self, peer: PeerName, now: float) -> list[MeshEffect]:
        """Frames get through to this peer and back. Of one that we have no link with: ignored."""
        neighbour = self._neighbours.get(peer)
        if neighbour is not None and not neighbour.established:
            neighbour.established = True
            neighbour.overlay_info = ""
            self._describe_ourself(now)
        return self._done()

    def handle_overlay_down(self, peer: PeerName, reason: str, now: float) -> list[MeshEffect]:
        neighbour = self._neighbours.get(peer)
        if neighbour is not None:
            neighbour.established = False
            neighbour.overlay_info = reason
            if not neighbour.connected:
                self._remove_neighbour(neighbour)
            self._describe_ourself(now)
        return self._done()

    def send_overlay_message(self, peer: PeerName, payload: bytes, now: float) -> list[MeshEffect]:
        """To the overlay of a connected peer; dropped if it is not connected any more."""
        self._send_to_peer(peer, OverlayMessage(payload), now)
        return self._done()

    # --- gossip ------------------------------------------------------------------------------

    def announce(self, effect: Announce, now: float) -> list[MeshEffect]:
        """Pass an update of a channel on to some neighbours."""
        assert effect.channel in self._channels
        for peer in self._audience(effect.learnt_from):
            self._send_to_peer(peer, GossipUpdate(effect.channel, effect.update), now)
        return self._done()

    def unicast(self, effect: Unicast, now: float) -> list[MeshEffect]:
        """Carry a payload to a peer over TCP connections, relayed if need be. It may get lost."""
        self._pass_on(
            UnicastMessage(effect.channel, self.ourself, effect.peer, MAX_HOPS, effect.payload), now
        )
        return self._done()

    # --- operator ----------------------------------------------------------------------------

    def connect(self, targets: Sequence[str], replace: bool, now: float) -> list[MeshEffect]:
        """Dial these at once and for ever. With `replace`, forget all others that were given or
        remembered; connections stay. Raises `UsageError`, and then nothing has changed.
        """
        addresses = [parse_address(text, self._port) for text in targets]
        if replace:
            self._abandon(self._targets.forget_all_but(addresses), now)
        self._targets.give(addresses, now)
        self._remember_targets()
        return self._done()

    def forget(self, targets: Sequence[str], now: float) -> list[MeshEffect]:
        """Dial these no more; connections stay. What is in the topology is discovered anew."""
        addresses = [parse_address(text, self._port) for text in targets]
        self._abandon(self._targets.forget(addresses), now)
        self._remember_targets()
        return self._done()

    def leave(self, now: float, keep_overlay: bool = False) -> list[MeshEffect]:
        """Say goodbye on all connections; after that, nothing more is done.

        With `keep_overlay` the others keep their links with us as orphans: we will be back.
        """
        reason = GOODBYE_PAUSE if keep_overlay else GOODBYE_LEAVE
        for connection in self._connections.values():
            if connection.phase is Phase.UP:
                self._effects.append(SendBytes(connection.link, connection.goodbye(reason)))
            self._effects.append(CloseLink(connection.link, "we are leaving"))
        self._connections.clear()
        self._left = True
        return self._done()

    # --- time --------------------------------------------------------------------------------

    def next_deadline(self) -> Deadline:
        if self._left:
            return NEVER
        return earliest(
            self._targets.next_deadline(),
            self._view.next_deadline(),
            self._gossip.next_deadline(),
            self._clones.next_deadline(),
            *(connection.next_deadline() for connection in self._connections.values()),
        )

    def handle_timeout(self, now: float) -> list[MeshEffect]:
        if self._left:
            return []
        if now > self.next_deadline().at + ASLEEP_S:
            for connection in self._connections.values():
                connection.forgive_silence(now)
        for connection in list(self._connections.values()):
            self._check_time(connection, now)
        warning = self._clones.handle_timeout(now)
        if warning is not None:
            self._log("warning", warning)
        for peer in self._gossip.round_partners(self._weights(), now):
            self._send_digests(peer, answer_back=True, now=now)
        self._update_view(now)
        self._tell_news(now)
        for target in self._targets.due(now):
            self._dial(target.address, now)
        return self._done()

    def _check_time(self, connection: Connection, now: float) -> None:
        try:
            heartbeat = connection.handle_timeout(now)
        except HandshakeRefused as refused:
            self._refuse(connection, refused, now)
        except TimedOut as over:
            self._drop(connection, str(over), now)
        else:
            if heartbeat:
                self._effects.append(SendBytes(connection.link, heartbeat))

    # --- queries -----------------------------------------------------------------------------

    @property
    def uid(self) -> PeerUid:
        return self._introduction.uid

    @property
    def short_id(self) -> ShortId:
        return self._view.ours.short_id

    @property
    def routes(self) -> Routes:
        """As computed last; `RoutesChanged` tells when they are in force."""
        return self._view.routes

    @property
    def records(self) -> Mapping[PeerName, Record]:
        """The topology, ourself included."""
        return self._view.records

    @property
    def peers(self) -> list[PeerName]:
        """All that are known, ourself included."""
        return sorted(self._view.records)

    @property
    def known_peer_count(self) -> int:
        return len(self._view.records)

    @property
    def connected_peers(self) -> list[PeerName]:
        """Those that a TCP connection stands with."""
        return sorted(name for name, one in self._neighbours.items() if one.connected)

    @property
    def established_peers(self) -> list[PeerName]:
        return sorted(name for name, one in self._neighbours.items() if one.established)

    @property
    def reachable_peers(self) -> list[PeerName]:
        """Those that gossip and unicasts get to; without ourself."""
        return sorted(self._view.routes.unicast_all)

    def peer(self, name: PeerName) -> Record | None:
        return self._view.records.get(name)

    def nickname(self, name: PeerName) -> str:
        """The nickname, or the name if it is not known."""
        return status.nickname_of(name, self._view.records)

    def warnings(self, now: float) -> list[str]:
        return [*self._clones.warnings(now), *self.refusals.warnings(now)]

    def connection_rows(self, now: float) -> list[status.ConnectionRow]:
        return status.connection_rows(
            self._connections.values(),
            self._neighbours,
            self._targets,
            self._view.records,
            now,
        )

    def peer_rows(self) -> list[status.PeerRow]:
        return [
            status.peer_row(
                self._view.records[name],
                ourself=self.ourself,
                records=self._view.records,
                roster=self._view.topology.roster,
                unicast=self._view.routes.unicast,
            )
            for name in self.peers
        ]

    def target_rows(self, now: float) -> list[status.TargetRow]:
        return status.target_rows(self._targets, now)

    # --- from the dial to the peer -----------------------------------------------------------

    def _adopt(self, peer: AdoptedPeer, now: float) -> None:
        self._neighbours[peer.name] = Neighbour(
            name=peer.name, uid=None, nickname="", address=peer.host, established=True
        )
        address = _address(peer.host, self._port)
        if address is not None:
            self._targets.expect(address, peer.name, now)

    def _dial(self, address: Address, now: float) -> None:
        link = self.new_link_id()
        self._connections[link] = Connection(
            link, outbound=True, host=address.host, port=address.port, now=now
        )
        self._targets.dialling(address, link)
        self._effects.append(Dial(link, address.host, address.port))

    def _start_handshake(self, connection: Connection, role: Role, now: float) -> None:
        handshake = Handshake(
            role,
            self._identity,
            self._secret,
            self.encrypted,
            self._introduction,
            now,
            None if self._draw_ephemeral is None else self._draw_ephemeral(),
        )
        data = connection.start_handshake(handshake, now)
        if data:
            self._effects.append(SendBytes(connection.link, data))

    def _handle_finished(self, connection: Connection, found: Finished, now: float) -> None:
        name = found.remote_name
        neighbour = self._neighbours.get(name)
        verdict = judge(
            neighbour,
            ourself=self.ourself,
            name=name,
            uid=found.introduction.uid,
            outbound=connection.outbound,
            secret=found.overlay_secret,
            silence_s=now - self._heard_at(neighbour),
        )
        self._targets.connected(connection.link, name, now)
        if verdict is Verdict.DUPLICATE:
            self._close(connection, GOODBYE_DUPLICATE, now)
            return
        if verdict is Verdict.CLONE:
            text = f"another router with the identity of {found.introduction.nickname} is connected"
            self._note_refusal(connection.host, "cloned-identity", text, now)
            self._close(connection, f"refuses us: {text}", now)
            return
        if verdict is Verdict.REPLACE:
            assert neighbour is not None
            assert neighbour.link is not None
            self._close(self._connections[neighbour.link], GOODBYE_DUPLICATE, now)
        self._welcome(connection, found, now)

    def _heard_at(self, neighbour: Neighbour | None) -> float:
        if neighbour is None or neighbour.link is None:
            return 0.0
        return self._connections[neighbour.link].heard_at

    def _welcome(self, connection: Connection, found: Finished, now: float) -> None:
        introduction = found.introduction
        name = found.remote_name
        before = self._neighbours.get(name)
        self._neighbours[name] = Neighbour(
            name=name,
            uid=introduction.uid,
            nickname=introduction.nickname,
            address=connection.address,
            outbound=connection.outbound,
            link=connection.link,
            secret=found.overlay_secret,
            established=before is not None and before.established,
        )
        self._targets.peer_up(name)
        dialled = connection.address if connection.outbound else ""
        self._send(connection, Hello(connection.remote_host, dialled), now)
        self._effects.append(
            PeerConnected(
                peer=name,
                remote_host=connection.remote_host,
                remote_udp_port=introduction.udp_port,
                overlay_secret=found.overlay_secret,
                dialled_by_us=connection.outbound,
            )
        )
        self._log("info", "connected", peer=introduction.nickname, address=connection.address)
        self._describe_ourself(now)
        self._send_digests(name, answer_back=False, now=now)

    # --- ends of connections -----------------------------------------------------------------

    def _refuse(self, connection: Connection, refused: HandshakeRefused, now: float) -> None:
        """We refused, or were refused, before anyone was welcome."""
        del self._connections[connection.link]
        if refused.to_send:
            self._effects.append(SendBytes(connection.link, refused.to_send))
        self._effects.append(CloseLink(connection.link, str(refused)))
        if not connection.outbound:
            self._note_refusal(connection.host, refused.reason, str(refused), now)
            if refused.reason == "told-ourself":
                self._drop_target_of_ourself(self._clones.heard_our_key())
            return
        self._targets.closed(connection.link, status.refusal_text(connection.address, refused), now)
        if refused.reason == "ourself":
            self._clones.met_our_key(connection.address, now)

    def _drop_target_of_ourself(self, text: str | None) -> None:
        address = None if text is None else _address(text, self._port)
        if address is not None:
            self._targets.is_ourself(address)

    def _drop(self, connection: Connection, reason: str, now: float) -> None:
        """Close without a word: the other end is silent, or talks nonsense."""
        self._effects.append(CloseLink(connection.link, reason))
        self._disconnect(connection, reason, now)

    def _close(self, connection: Connection, reason: str, now: float) -> None:
        """Close with a goodbye."""
        self._effects.append(SendBytes(connection.link, connection.goodbye(reason)))
        self._drop(connection, reason, now)

    def _handle_goodbye(self, connection: Connection, reason: str, now: float) -> None:
        self._effects.append(CloseLink(connection.link, reason))
        text = f"{connection.address} {reason}"
        self._disconnect(connection, text, now, left=reason == GOODBYE_LEAVE)

    def _disconnect(
        self, connection: Connection, reason: str, now: float, left: bool = False
    ) -> None:
        """Forget a connection. If its peer's overlay still works, the link becomes an orphan."""
        del self._connections[connection.link]
        self._targets.closed(connection.link, reason, now)
        found = connection.peer
        neighbour = None if found is None else self._neighbours.get(found.remote_name)
        if neighbour is None or neighbour.link != connection.link:
            return
        neighbour.link = None
        neighbour.overlay_info = reason
        self._targets.peer_down(neighbour.name)
        if left or not neighbour.established:
            self._remove_neighbour(neighbour)
        self._effects.append(PeerDisconnected(neighbour.name, reason, left))
        self._log("info", "disconnected", peer=neighbour.nickname, reason=reason)
        self._describe_ourself(now)

    def _remove_neighbour(self, neighbour: Neighbour) -> None:
        del self._neighbours[neighbour.name]
        self._seen_at.pop(neighbour.name, None)

    def _abandon(self, links: Iterable[LinkId], now: float) -> None:
        for link in links:
            self._drop(self._connections[link], "its target was forgotten", now)

    # --- messages ----------------------------------------------------------------------------

    def _handle_message(self, connection: Connection, message: ControlMessage, now: float) -> None:
        assert connection.peer is not None
        peer = connection.peer.remote_name
        if isinstance(message, GossipUpdate):
            self._handle_update(peer, message, now)
        elif isinstance(message, GossipDigest):
            self._handle_digest(peer, message, now)
        elif isinstance(message, UnicastMessage):
            self._pass_on(message, now)
        elif isinstance(message, OverlayMessage):
            self._effects.append(OverlayMessageReceived(peer, message.payload))
        elif isinstance(message, Hello):
            self._seen_at[peer] = _seen(message, self._port)
            self._describe_ourself(now)

    def _handle_update(self, peer: PeerName, message: GossipUpdate, now: float) -> None:
        if message.channel != TOPOLOGY_CHANNEL:
            if message.channel in self._channels:
                self._effects.append(GossipReceived(message.channel, peer, message.update))
            return
        learnt, effects = self._view.merge(message.update, peer, now)
        self._effects.extend(effects)
        if learnt.malformed or learnt.ignored:
            text = learnt.malformed or f"{learnt.ignored} records make no sense or do not fit"
            self._note_refusal(self.nickname(peer), "senseless-topology", text, now)

    def _handle_digest(self, peer: PeerName, message: GossipDigest, now: float) -> None:
        channel = self._channels.get(message.channel)
        if channel is None:
            return
        update = channel.answer(message.digest)
        if update is None:
            return
        self._send_to_peer(peer, GossipUpdate(message.channel, update), now)
        if message.answer_back:
            self._send_to_peer(
                peer, GossipDigest(message.channel, channel.digest(), answer_back=False), now
            )

    def _pass_on(self, message: UnicastMessage, now: float) -> None:
        destination, source = PeerName(message.destination), PeerName(message.source)
        if destination == self.ourself:
            if message.channel in self._channels:
                self._effects.append(UnicastReceived(message.channel, source, message.payload))
            return
        if message.hops == 0:
            return
        neighbour = self._neighbours.get(destination)
        direct = neighbour is not None and neighbour.connected
        via = destination if direct else self._view.routes.unicast_all.get(destination)
        if via is not None:
            onward = UnicastMessage(
                message.channel, source, destination, message.hops - 1, message.payload
            )
            self._send_to_peer(via, onward, now)

    def _send_digests(self, peer: PeerName, *, answer_back: bool, now: float) -> None:
        for name, channel in self._channels.items():
            self._send_to_peer(peer, GossipDigest(name, channel.digest(), answer_back), now)

    def _send_to_peer(self, peer: PeerName, message: ControlMessage, now: float) -> None:
        neighbour = self._neighbours.get(peer)
        if neighbour is not None and neighbour.link is not None:
            self._send(self._connections[neighbour.link], message, now)

    def _send(self, connection: Connection, message: ControlMessage, now: float) -> None:
        data = connection.send(message, self._channels, now)
        if data:
            self._effects.append(SendBytes(connection.link, data))

    def _audience(self, learnt_from: PeerName | None) -> list[PeerName]:
        weights = self._weights()
        if learnt_from is not None:
            weights.pop(learnt_from, None)
        return self._gossip.audience(weights, self.known_peer_count)

    def _weights(self) -> dict[PeerName, int]:
        behind = weights_of(self._view.routes.unicast_all)
        return {name: behind.get(name, 1) for name in self.connected_peers}

    # --- the view ----------------------------------------------------------------------------

    def _describe_ourself(self, now: float) -> None:
        self._view.describe(self._neighbours, self._our_addresses(), now)

    def _our_addresses(self) -> list[str]:
        """Where others have found us: first where they dialled, then what most of them say."""
        votes: dict[str, tuple[int, int]] = {}
        for address, was_dialled in self._seen_at.values():
            dialled, seen = votes.get(address, (0, 0))
            votes[address] = (dialled + was_dialled, seen + 1)
        votes.pop("", None)
        best = sorted(votes, key=lambda address: (*(-vote for vote in votes[address]), address))
        return best[:MAX_ADDRESSES]

    def _update_view(self, now: float) -> None:
        effects = self._view.handle_timeout(now)
        self._effects.extend(effects)
        if self._view.take_recomputed():
            self._discover(now)

    def _discover(self, now: float) -> None:
        """Dial the peers of the topology, except those that have enough connections as it is."""
        found: dict[PeerName, list[Address]] = {}
        busy: dict[PeerName, None] = {}
        if self.discovery:
            for name, record in self._view.records.items():
                addresses = (_address(text, self._port) for text in record.addresses)
                found[name] = [address for address in addresses if address is not None]
                if record.links.bit_count() >= self.connection_limit:
                    busy[name] = None
        found.pop(self.ourself, None)
        self._targets.discover(found, busy, now)
        self._remember_targets()

    def _remember_targets(self) -> None:
        remembered = tuple(map(str, self._targets.remembered()))
        if remembered != self._remembered:
            self._remembered = remembered
            self._effects.append(RememberTargets(remembered))

    def _tell_news(self, now: float) -> None:
        """Pass on which records have changed, but to nobody those that it told us."""
        news = self._view.take_news(now)
        if not news:
            return
        updates: dict[tuple[PeerName, ...], bytes] = {}
        for peer in self._audience(None):
            names = tuple(
                name
                for name, source in news.items()
                if peer != source and not self._wrote(peer, name)
            )
            if not names:
                continue
            if names not in updates:
                updates[names] = self._view.topology.update_of(names)
            self._send_to_peer(peer, GossipUpdate(TOPOLOGY_CHANNEL, updates[names]), now)

    def _wrote(self, peer: PeerName, name: PeerName) -> bool:
        """Whether our record of `name` is this neighbour's own. (A clone's it must hear of.)"""
        record = self._view.records.get(name)
        return peer == name and record is not None and record.uid == self._neighbours[peer].uid

    # --- effects -----------------------------------------------------------------------------

    def _note_refusal(self, host: str, reason: str, text: str, now: float) -> None:
        if self.refusals.note(host, reason, text, now):
            self._log("warning", "refused", host=host, reason=reason, why=text)

    def _log(self, level: str, message: str, **fields: str) -> None:
        self._effects.append(LogLine(level, message, tuple(fields.items())))

    def _done(self) -> list[MeshEffect]:
        effects, self._effects = self._effects, []
        return effects


@lru_cache(maxsize=8192)
def _address(text: str, default_port: int) -> Address | None:
    """An address that somebody else wrote; None if it makes no sense."""
    try:
        return parse_address(text, default_port)
    except UsageError:
        return None


def _seen(hello: Hello, port: int) -> tuple[str, bool]:
    """Where the sender found us, or could: ("", False) if it says nothing of use."""
    if hello.dialled:
        address = _address(hello.dialled, port)
        return ("", False) if address is None else (str(address), True)
    address = _address(address_text(hello.host, port), port)
    return ("", False) if address is None else (str(address), False)
