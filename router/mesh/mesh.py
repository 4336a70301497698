"""The mesh core: finds the other peers, stays connected to them, and carries what they say.

`Mesh` is what the shell and the daemon see. It owns the parts and routes between them:

| part        | what it knows                                                  |
|-------------|----------------------------------------------------------------|
| Links       | our connections and the neighbours they lead to; who is let in |
| View        | the topology, our own record in it, the routes                 |
| Targets     | addresses to dial, and when                                    |
| Whereabouts | where others may dial us                                       |
| Gossip      | to whom news is passed on, and when digests are compared       |
| CloneWatch  | signs of another router with our identity                      |

Nothing here does I/O: the shell performs the effects, in order, and feeds what happens
back. `handle_timeout` must be called at `next_deadline`, also right after the start.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from router.mesh import status
from router.mesh.clones import CloneWatch
from router.mesh.connection import Connection, address_text
from router.mesh.effects import (
    CloseLink,
    GossipReceived,
    IdentityCopied,
    LinkId,
    LogLine,
    MeshEffect,
    OverlayMessageReceived,
    RememberTargets,
    UnicastReceived,
)
from router.mesh.gossip import Gossip, weights_of
from router.mesh.handshake import Introduction
from router.mesh.identity import Identity
from router.mesh.links import Links, read_address
from router.mesh.messages import (
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
from router.mesh.neighbours import Neighbour
from router.mesh.records import Record
from router.mesh.refusals import Refusals
from router.mesh.routes import Routes
from router.mesh.targets import Address, Targets, parse_address
from router.mesh.topology import TOPOLOGY_CHANNEL
from router.mesh.view import AdoptedPeer, View
from router.mesh.whereabouts import Whereabouts
from weavepy.base.deadline import NEVER, Deadline, earliest
from weavepy.base.gossip import Announce, Channel, Unicast
from weavepy.base.names import PeerName, PeerUid, ShortId

MAX_SORTED_NEWS = 16

LARGE_MESH_CONNECTIONS = 32
"""So many are enough for discovery where the connection limit keeps the mesh from being full
anyway: any two peers are two or three links apart then, and each link more is news for all."""

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
        mtu_bytes: int = 0,
        given: Sequence[str] = (),
        remembered: Sequence[str] = (),
        advertised: Sequence[str] = (),
        adopted: Sequence[AdoptedPeer] = (),
        draw_ephemeral: Callable[[], bytes] | None = None,
    ) -> None:
        """Raises `UsageError` if a given target or what is advertised is malformed; remembered
        ones are then skipped.

        `advertised` is where others shall dial us; if empty, it is found out.
        `short_id` and `adopted` are what a previous run left in the datapath. `draw_ephemeral`
        makes handshakes repeatable in simulations; None, which is the only safe choice, takes
        the keys from the operating system.
        """
        assert TOPOLOGY_CHANNEL not in channels
        self.ourself = identity.name
        self.encrypted = encrypted
        self.discovery = discovery
        self.connection_limit = connection_limit
        self.uid = uid
        self._port = port
        self._clones = CloneWatch()
        self._view = View(
            ourself=identity.name,
            uid=uid,
            nickname=nickname,
            version=version,
            short_id=short_id,
            mtu_bytes=mtu_bytes,
            adopted=adopted,
            clones=self._clones,
            rng=rng,
            now=now,
        )
        self._channels: dict[str, Channel] = {TOPOLOGY_CHANNEL: self._view.topology, **channels}
        self._targets = Targets(identity.name, connection_limit, rng)
        self._gossip = Gossip(rng, now)
        self._effects: list[MeshEffect] = []
        self._links = Links(
            owner=self,
            effects=self._effects,
            identity=identity,
            introduction=Introduction(
                name=identity.name,
                uid=uid,
                nickname=nickname,
                listen_port=port,
                udp_port=udp_port,
                version=version,
            ),
            secret=secret,
            encrypted=encrypted,
            channels=self._channels,
            targets=self._targets,
            clones=self._clones,
            draw_ephemeral=draw_ephemeral,
        )
        self._whereabouts = Whereabouts(port, [parse_address(text, port) for text in advertised])
        self._remembered: tuple[str, ...] = ()
        self._weighed: Routes | None = None
        self._behind: dict[PeerName, int] = {}
        """How many peers are behind each neighbour, by the routes that were weighed last."""
        self._found: dict[PeerName, tuple[Record, list[Address]]] = {}
        """Where each peer can be dialled, as the record said of which it was read."""
        self._left = False
        self._deadline: Deadline | None = None
        """What `next_deadline` said last, if nothing came in since."""
        self._targets.give([parse_address(text, port) for text in given], now)
        self._targets.remember(filter(None, (read_address(text, port) for text in remembered)), now)
        for peer in adopted:
            self._links.adopt(peer.name, peer.host)
        self.neighbours_changed(now)

    # --- links -------------------------------------------------------------------------------

    def new_link_id(self) -> LinkId:
        """The shell numbers accepted connections with this."""
        return self._links.new_id()

    def handle_link_opened(
        self, link: LinkId, remote_host: str, remote_port: int, now: float
    ) -> list[MeshEffect]:
        """A `Dial` succeeded; this is the address that answered."""
        self._links.opened(link, remote_host, now)
        return self._done()

    def handle_link_accepted(
        self, link: LinkId, remote_host: str, remote_port: int, now: float
    ) -> list[MeshEffect]:
        if self._left:
            return [CloseLink(link, "we are leaving")]
        self._links.accepted(link, remote_host, remote_port, now)
        return self._done()

    def handle_dial_failed(self, link: LinkId, reason: str, now: float) -> list[MeshEffect]:
        self._links.dial_failed(link, reason, now)
        return self._done()

    def handle_bytes(self, link: LinkId, data: bytes, now: float) -> list[MeshEffect]:
        """Bytes for a link that is closed already are ignored."""
        self._links.bytes_came(link, data, now)
        return self._done()

    def handle_link_closed(self, link: LinkId, reason: str, now: float) -> list[MeshEffect]:
        """The other end, or the network, closed it."""
        self._links.closed(link, reason, now)
        return self._done()

    def handle_link_paused(self, link: LinkId, now: float) -> list[MeshEffect]:
        """The link's buffer is full: until it is resumed, nothing but the necessary is kept."""
        self._links.paused(link)
        return self._done()

    def handle_link_resumed(self, link: LinkId, now: float) -> list[MeshEffect]:
        self._links.resumed(link, now)
        return self._done()

    # --- overlay -----------------------------------------------------------------------------

    def handle_overlay_up(self, peer: PeerName, now: float) -> list[MeshEffect]:
        """Frames get through to this peer and back. Of one that we have no link with: ignored."""
        self._links.overlay_up(peer, now)
        return self._done()

    def handle_overlay_down(self, peer: PeerName, reason: str, now: float) -> list[MeshEffect]:
        self._links.overlay_down(peer, reason, now)
        return self._done()

    def send_overlay_message(self, peer: PeerName, payload: bytes, now: float) -> list[MeshEffect]:
        """To the overlay of a connected peer; dropped if it is not connected any more."""
        self._links.send(peer, OverlayMessage(payload), now)
        return self._done()

    # --- host --------------------------------------------------------------------------------

    def handle_own_addresses(self, hosts: Sequence[str], now: float) -> list[MeshEffect]:
        """All IP addresses by which this host may be reached; at the start and when they change."""
        self._whereabouts.handle_own(hosts, now)
        return self._done()

    # --- gossip ------------------------------------------------------------------------------

    def announce(self, effect: Announce, now: float) -> list[MeshEffect]:
        """Pass an update of a channel on to some neighbours."""
        assert effect.channel in self._channels
        for peer in self._audience(effect.learnt_from):
            self._links.send(peer, GossipUpdate(effect.channel, effect.update), now)
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
            self._links.abandon(self._targets.forget_all_but(addresses), now)
        self._targets.give(addresses, now)
        self._remember_targets()
        return self._done()

    def forget(self, targets: Sequence[str], now: float) -> list[MeshEffect]:
        """Dial these no more; connections stay. What is in the topology is discovered anew."""
        addresses = [parse_address(text, self._port) for text in targets]
        self._links.abandon(self._targets.forget(addresses), now)
        self._remember_targets()
        return self._done()

    def leave(self, now: float, keep_overlay: bool = False) -> list[MeshEffect]:
        """Say goodbye on all connections; after that, nothing more is done.

        With `keep_overlay` the others keep their links with us as orphans: we will be back.
        """
        self._links.leave(GOODBYE_PAUSE if keep_overlay else GOODBYE_LEAVE)
        self._left = True
        return self._done()

    def set_mtu(self, mtu_bytes: int, now: float) -> list[MeshEffect]:
        """Our containers take packets of another size than before."""
        self._view.describe_mtu(mtu_bytes, now)
        return self._done()

    # --- time --------------------------------------------------------------------------------

    def next_deadline(self) -> Deadline:
        if self._left:
            return NEVER
        if self._deadline is None:
            self._deadline = earliest(
                self._targets.next_deadline(),
                self._whereabouts.next_deadline(),
                self._view.next_deadline(),
                self._gossip.next_deadline(),
                self._clones.next_deadline(),
                self._links.next_deadline(),
            )
        return self._deadline

    def handle_timeout(self, now: float) -> list[MeshEffect]:
        if self._left:
            return []
        if now > self.next_deadline().at + ASLEEP_S:
            self._links.forgive_silence(now)
        self._links.handle_timeout(now)
        warning = self._clones.handle_timeout(now)
        if warning is not None:
            self._effects += [LogLine("warning", warning), IdentityCopied(warning)]
        self._greet(now)
        for peer in self._gossip.round_partners(self.connected_peers, now):
            self._send_digests(peer, answer_back=True, now=now)
        if self._whereabouts.take_change(now):
            self._targets.host_has(self._whereabouts.own, now)
            self.neighbours_changed(now)
        self._update_view(now)
        self._tell_news(now)
        for target in self._targets.due(now):
            self._links.dial(target.address, now)
        return self._done()

    # --- queries -----------------------------------------------------------------------------

    @property
    def refusals(self) -> Refusals:
        """Strangers that were refused: how many for which reason, and the last ones."""
        return self._links.refusals

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
        return sorted(name for name, one in self._links.neighbours.items() if one.connected)

    @property
    def established_peers(self) -> list[PeerName]:
        return sorted(name for name, one in self._links.neighbours.items() if one.established)

    @property
    def reachable_peers(self) -> list[PeerName]:
        """Those that gossip and unicasts get to; without ourself."""
        return sorted(self._view.routes.unicast_all)

    def peer(self, name: PeerName) -> Record | None:
        return self._view.records.get(name)

    def nickname(self, name: PeerName) -> str:
        """The nickname, or the name if it is not known."""
        return status.nickname_of(name, self._view.records)

    def copies(self, now: float) -> list[str]:
        """What was seen of other routers with our identity, in sentences; normally nothing."""
        return self._clones.warnings(now)

    def warnings(self, now: float) -> list[str]:
        return [*self._clones.warnings(now), *self.refusals.warnings(now)]

    def connection_rows(self, now: float) -> list[status.ConnectionRow]:
        return status.connection_rows(
            self._links.connections.values(),
            self._links.neighbours,
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
        return status.target_rows(self._targets, self._view.records, now)

    # --- what the links tell (see `links.Owner`) -----------------------------------------------

    def welcome(self, neighbour: Neighbour, connection: Connection, now: float) -> None:
        dialled = connection.address if connection.outbound else ""
        others = sum(one.connected for one in self._links.neighbours.values()) - 1
        self._links.send(neighbour.name, Hello(connection.remote_host, dialled, others), now)
        self.neighbours_changed(now)
        self._gossip.welcome(neighbour.name, others, now)
        self._greet(now)

    def neighbours_changed(self, now: float) -> None:
        self._whereabouts.keep(self._links.neighbours)
        self._view.describe(self._links.neighbours, self._whereabouts.addresses(), now)

    def message_came(self, peer: PeerName, message: ControlMessage, now: float) -> None:
        if isinstance(message, GossipUpdate):
            self._handle_update(peer, message, now)
        elif isinstance(message, GossipDigest):
            self._handle_digest(peer, message, now)
        elif isinstance(message, UnicastMessage):
            self._pass_on(message, now, came_from=peer)
        elif isinstance(message, OverlayMessage):
            self._effects.append(OverlayMessageReceived(peer, message.payload))
        elif isinstance(message, Hello):
            self._whereabouts.handle_hello(peer, message)
            self._links.neighbours[peer].others = message.others
            self.neighbours_changed(now)

    def _handle_update(self, peer: PeerName, message: GossipUpdate, now: float) -> None:
        if message.channel != TOPOLOGY_CHANNEL:
            if message.channel in self._channels:
                self._effects.append(GossipReceived(message.channel, peer, message.update))
            return
        learnt, effects = self._view.merge(message.update, peer, now)
        self._effects.extend(effects)
        if learnt.malformed or learnt.ignored:
            text = learnt.malformed or f"{learnt.ignored} records make no sense or do not fit"
            self._links.note_refusal(self.nickname(peer), "senseless-topology", text, now)

    def _handle_digest(self, peer: PeerName, message: GossipDigest, now: float) -> None:
        channel = self._channels.get(message.channel)
        if channel is None:
            return
        update = channel.answer(message.digest)
        if update is None:
            return
        self._links.send(peer, GossipUpdate(message.channel, update), now)
        if message.answer_back:
            self._links.send(
                peer, GossipDigest(message.channel, channel.digest(), answer_back=False), now
            )

    def _pass_on(
        self, message: UnicastMessage, now: float, came_from: PeerName | None = None
    ) -> None:
        """Lost if it would go back: whoever sent it knows of other links than we do."""
        destination, source = PeerName(message.destination), PeerName(message.source)
        if destination == self.ourself:
            if message.channel in self._channels:
                self._effects.append(UnicastReceived(message.channel, source, message.payload))
            return
        if message.hops == 0:
            return
        neighbour = self._links.neighbours.get(destination)
        direct = neighbour is not None and neighbour.connected
        via = destination if direct else self._view.routes.unicast_all.get(destination)
        if via is not None and via != came_from:
            onward = UnicastMessage(
                message.channel, source, destination, message.hops - 1, message.payload
            )
            self._links.send(via, onward, now)

    def _greet(self, now: float) -> None:
        for peer in self._gossip.welcomed(self._links.neighbours, now):
            self._send_digests(peer, answer_back=False, now=now)

    def _send_digests(self, peer: PeerName, *, answer_back: bool, now: float) -> None:
        for name, channel in self._channels.items():
            self._links.send(peer, GossipDigest(name, channel.digest(), answer_back), now)

    def _audience(self, learnt_from: PeerName | None) -> list[PeerName]:
        routes = self._view.routes
        if routes is not self._weighed:
            self._weighed, self._behind = routes, weights_of(routes.unicast_all)
        weights = {name: self._behind.get(name, 1) for name in self.connected_peers}
        if learnt_from is not None:
            weights.pop(learnt_from, None)
        return self._gossip.audience(weights, self.known_peer_count)

    # --- the view ----------------------------------------------------------------------------

    def _update_view(self, now: float) -> None:
        effects = self._view.handle_timeout(now)
        self._effects.extend(effects)
        if self._view.take_recomputed():
            self._discover(now)

    def _discover(self, now: float) -> None:
        """Dial the peers of the topology, except those that have enough connections as it is."""
        found: dict[PeerName, Sequence[Address]] = {}
        busy: dict[PeerName, None] = {}
        limit = self.connection_limit
        if self.known_peer_count > limit + 1:
            limit = min(limit, LARGE_MESH_CONNECTIONS)
        self._targets.connection_limit = limit
        if self.discovery:
            self._read_addresses()
            for name, (record, addresses) in self._found.items():
                found[name] = addresses
                if record.links.bit_count() >= limit:
                    busy[name] = None
        for name, neighbour in self._links.neighbours.items():
            if neighbour.uid is None:  # adopted, and not met yet: where its datagrams come from
                address = read_address(address_text(neighbour.address, self._port), self._port)
                if address is not None:
                    found[name] = [*found.get(name, ()), address]
        found.pop(self.ourself, None)
        self._targets.discover(found, busy, now)
        self._remember_targets()

    def _read_addresses(self) -> None:
        before, self._found = self._found, {}
        for name, record in self._view.records.items():
            known = before.get(name)
            if known is None or known[0] is not record:
                read = (read_address(text, self._port) for text in record.addresses)
                known = record, [address for address in read if address is not None]
            self._found[name] = known

    def _remember_targets(self) -> None:
        remembered = tuple(map(str, self._targets.remembered()))
        if remembered != self._remembered:
            self._remembered = remembered
            self._effects.append(RememberTargets(remembered))

    def _tell_news(self, now: float) -> None:
        """Pass on which records have changed, but to nobody those that it told us.

        Of many, each is told all: to sort them out costs more than to hear of one again.
        """
        news = self._view.take_news(now)
        if not news:
            return
        updates: dict[tuple[PeerName, ...], bytes] = {}
        for peer in self._audience(None):
            names = tuple(news)
            if len(news) <= MAX_SORTED_NEWS:
                names = tuple(
                    name
                    for name, source in news.items()
                    if peer != source and not self._wrote(peer, name)
                )
            if not names:
                continue
            if names not in updates:
                updates[names] = self._view.topology.update_of(names)
            self._links.send(peer, GossipUpdate(TOPOLOGY_CHANNEL, updates[names]), now)

    def _wrote(self, peer: PeerName, name: PeerName) -> bool:
        """Whether our record of `name` is this neighbour's own. (A clone's it must hear of.)"""
        record = self._view.records.get(name)
        return (
            peer == name and record is not None and record.uid == self._links.neighbours[peer].uid
        )

    def _done(self) -> list[MeshEffect]:
        self._deadline = None
        effects = list(self._effects)
        self._effects.clear()
        return effects
