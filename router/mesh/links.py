"""All TCP connections and the neighbours that they lead to: whom we let in, what a loss means.

`Links` decides about connections only. What comes over them goes to its owner, the `Mesh`, at
once and in order; what is to be done about them is appended to `effects`, which both share.
A connection closes for what came over it (`ProtocolError`), and for nothing that a third peer
said.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Protocol

from router.mesh import status
from router.mesh.clones import CloneWatch
from router.mesh.connection import Connection, Phase, TimedOut
from router.mesh.effects import (
    CloseLink,
    Dial,
    IdentityCopied,
    LinkId,
    LogLine,
    MeshEffect,
    PeerConnected,
    PeerDisconnected,
    SendBytes,
)
from router.mesh.handshake import Finished, Handshake, HandshakeRefused, Introduction, Role
from router.mesh.identity import Identity
from router.mesh.messages import GOODBYE_CLONE, GOODBYE_DUPLICATE, GOODBYE_LEAVE, ControlMessage
from router.mesh.neighbours import Neighbour, Verdict, judge
from router.mesh.refusals import Refusals
from router.mesh.targets import Address, Targets, parse_address
from weavepy.base.deadline import NEVER, Deadline
from weavepy.base.errors import ProtocolError, UsageError
from weavepy.base.gossip import Channel
from weavepy.base.names import PeerName

MAX_HALF_OPEN = 64
"""Strangers in the middle of a handshake. One more is turned away."""


class Owner(Protocol):
    def welcome(self, neighbour: Neighbour, connection: Connection, now: float) -> None:
        """A connection with a peer is up, and is the one that both ends keep."""

    def neighbours_changed(self, now: float) -> None: ...

    def message_came(self, peer: PeerName, message: ControlMessage, now: float) -> None: ...


class Links:
    def __init__(
        self,
        *,
        owner: Owner,
        effects: list[MeshEffect],
        identity: Identity,
        introduction: Introduction,
        secret: bytes,
        encrypted: bool,
        channels: Mapping[str, Channel],
        targets: Targets,
        clones: CloneWatch,
        draw_ephemeral: Callable[[], bytes] | None,
    ) -> None:
        self.connections: dict[LinkId, Connection] = {}
        self.neighbours: dict[PeerName, Neighbour] = {}
        self.refusals = Refusals()
        self._owner = owner
        self._effects = effects
        self._identity = identity
        self._introduction = introduction
        self._secret = secret
        self._encrypted = encrypted
        self._channels = channels
        self._targets = targets
        self._clones = clones
        self._draw_ephemeral = draw_ephemeral
        self._last_link = 0
        self._next: Deadline | None = None
        """Of all connections; may be early, as most of what happens to one puts its own off."""

    # --- opening -----------------------------------------------------------------------------

    def new_id(self) -> LinkId:
        self._last_link += 1
        return LinkId(self._last_link)

    def dial(self, address: Address, now: float) -> None:
        link = self.new_id()
        self._next = None
        self.connections[link] = Connection(
            link, outbound=True, host=address.host, port=address.port, now=now
        )
        self._targets.dialling(address, link)
        self._effects.append(Dial(link, address.host, address.port))

    def opened(self, link: LinkId, remote_host: str, now: float) -> None:
        connection = self.connections.get(link)
        if connection is None:
            self._effects.append(CloseLink(link, "not wanted any more"))
            return
        connection.remote_host = remote_host
        self._start_handshake(connection, Role.INITIATOR, now)

    def dial_failed(self, link: LinkId, reason: str, now: float) -> None:
        if self.connections.pop(link, None) is not None:
            self._targets.closed(link, reason, now)

    def accepted(self, link: LinkId, remote_host: str, remote_port: int, now: float) -> None:
        half_open = sum(
            not one.outbound and one.phase is Phase.HANDSHAKE for one in self.connections.values()
        )
        if half_open >= MAX_HALF_OPEN:
            text = f"{MAX_HALF_OPEN} other strangers are at the door"
            self.note_refusal(remote_host, "too-many-half-open", text, now)
            self._effects.append(CloseLink(link, text))
            return
        connection = Connection(link, outbound=False, host=remote_host, port=remote_port, now=now)
        self.connections[link] = connection
        self._start_handshake(connection, Role.RESPONDER, now)

    def adopt(self, peer: PeerName, host: str) -> None:
        """Begin with an orphan: its session works, and its router is yet to be heard."""
        self.neighbours[peer] = Neighbour(
            name=peer, uid=None, nickname="", address=host, established=True
        )

    # --- traffic -----------------------------------------------------------------------------

    def bytes_came(self, link: LinkId, data: bytes, now: float) -> None:
        connection = self.connections.get(link)
        if connection is None:
            return
        try:
            received = connection.feed(data, now)
        except HandshakeRefused as refused:
            self._refuse(connection, refused, now)
            return
        except ProtocolError as error:
            self._drop(connection, str(error), now)
            return
        if received.to_send:
            self._effects.append(SendBytes(link, received.to_send))
        if received.finished is not None:
            self._next = None
            self._judge(connection, received.finished, now)
        for message in received.messages:
            if link in self.connections and connection.peer is not None:
                self._owner.message_came(connection.peer.remote_name, message, now)
        if received.goodbye is not None and link in self.connections:
            self._handle_goodbye(connection, received.goodbye, now)

    def closed(self, link: LinkId, reason: str, now: float) -> None:
        connection = self.connections.get(link)
        if connection is None:
            return
        early = connection.closed_early()
        if early is None:
            self._disconnect(connection, reason, now)
        else:
            self._refuse(connection, early, now)

    def paused(self, link: LinkId) -> None:
        connection = self.connections.get(link)
        if connection is not None:
            connection.paused = True

    def resumed(self, link: LinkId, now: float) -> None:
        connection = self.connections.get(link)
        if connection is not None and connection.paused:
            self._next = None
            data = connection.resume(self._channels, now)
            if data:
                self._effects.append(SendBytes(link, data))

    def send(self, peer: PeerName, message: ControlMessage, now: float) -> None:
        """To a connected peer; to others it is dropped."""
        neighbour = self.neighbours.get(peer)
        if neighbour is None or neighbour.link is None:
            return
        data = self.connections[neighbour.link].send(message, self._channels, now)
        if data:
            self._effects.append(SendBytes(neighbour.link, data))

    # --- overlay -----------------------------------------------------------------------------

    def overlay_up(self, peer: PeerName, now: float) -> None:
        neighbour = self.neighbours.get(peer)
        if neighbour is not None and not neighbour.established:
            neighbour.established = True
            neighbour.overlay_info = ""
            self._owner.neighbours_changed(now)

    def overlay_down(self, peer: PeerName, reason: str, now: float) -> None:
        neighbour = self.neighbours.get(peer)
        if neighbour is None:
            return
        neighbour.established = False
        neighbour.overlay_info = reason
        if not neighbour.connected:
            del self.neighbours[peer]
        self._owner.neighbours_changed(now)

    # --- time --------------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> None:
        if now < self.next_deadline().at:
            return
        self._next = None
        for connection in list(self.connections.values()):
            try:
                heartbeat = connection.handle_timeout(now)
            except HandshakeRefused as refused:
                self._refuse(connection, refused, now)
            except TimedOut as over:
                self._drop(connection, str(over), now)
            else:
                if heartbeat:
                    self._effects.append(SendBytes(connection.link, heartbeat))

    def next_deadline(self) -> Deadline:
        if self._next is None:
            first = min(self.connections.values(), key=Connection.due_at, default=None)
            self._next = NEVER if first is None else first.next_deadline()
        return self._next

    def forgive_silence(self, now: float) -> None:
        for connection in self.connections.values():
            connection.forgive_silence(now)

    # --- closing -----------------------------------------------------------------------------

    def abandon(self, links: Iterable[LinkId], now: float) -> None:
        """Give up these attempts."""
        for link in links:
            self._drop(self.connections[link], "its target was forgotten", now)

    def leave(self, reason: str) -> None:
        for connection in self.connections.values():
            if connection.phase is Phase.UP:
                self._effects.append(SendBytes(connection.link, connection.goodbye(reason)))
            self._effects.append(CloseLink(connection.link, "we are leaving"))
        self.connections.clear()

    def note_refusal(self, host: str, reason: str, text: str, now: float) -> None:
        if self.refusals.note(host, reason, text, now):
            self._log("warning", "refused", host=host, reason=reason, why=text)

    # --- from the handshake to the peer ------------------------------------------------------

    def _start_handshake(self, connection: Connection, role: Role, now: float) -> None:
        self._next = None
        handshake = Handshake(
            role,
            self._identity,
            self._secret,
            self._encrypted,
            self._introduction,
            now,
            None if self._draw_ephemeral is None else self._draw_ephemeral(),
        )
        data = connection.start_handshake(handshake, now)
        if data:
            self._effects.append(SendBytes(connection.link, data))

    def _judge(self, connection: Connection, found: Finished, now: float) -> None:
        name = found.remote_name
        neighbour = self.neighbours.get(name)
        rival = None
        if neighbour is not None and neighbour.link is not None:
            rival = self.connections[neighbour.link]
        verdict = judge(
            neighbour,
            ourself=self._identity.name,
            name=name,
            uid=found.introduction.uid,
            outbound=connection.outbound,
            secret=found.overlay_secret,
            silence_s=0.0 if rival is None else now - rival.heard_at,
        )
        self._targets.connected(connection.link, name, now)
        if verdict is Verdict.DUPLICATE:
            self._close(connection, GOODBYE_DUPLICATE, now)
            return
        if verdict is Verdict.CLONE:
            text = f"{GOODBYE_CLONE} {found.introduction.nickname} is connected"
            told = text.removeprefix("refuses us: ")
            self.note_refusal(connection.host, "cloned-identity", told, now)
            self._close(connection, text, now)
            return
        if rival is not None:
            self._close(rival, GOODBYE_DUPLICATE, now)
        self._welcome(connection, found, now)

    def _welcome(self, connection: Connection, found: Finished, now: float) -> None:
        introduction = found.introduction
        name = found.remote_name
        before = self.neighbours.get(name)
        neighbour = Neighbour(
            name=name,
            uid=introduction.uid,
            nickname=introduction.nickname,
            address=connection.address,
            outbound=connection.outbound,
            link=connection.link,
            secret=found.overlay_secret,
            established=before is not None and before.established,
        )
        self.neighbours[name] = neighbour
        self._targets.peer_up(name)
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
        self._owner.welcome(neighbour, connection, now)

    # --- ends of connections -----------------------------------------------------------------

    def _refuse(self, connection: Connection, refused: HandshakeRefused, now: float) -> None:
        """We refused, or were refused, before anyone was welcome."""
        del self.connections[connection.link]
        if refused.to_send:
            self._effects.append(SendBytes(connection.link, refused.to_send))
        if refused.reason != "closed":
            self._effects.append(CloseLink(connection.link, str(refused)))
        if not connection.outbound:
            self.note_refusal(connection.host, refused.reason, str(refused), now)
            if refused.reason == "told-ourself":
                found = self._clones.heard_our_key(connection.handshake_mark)
                self._drop_target_of_ourself(found)
            return
        text = status.refusal_text(connection.address, refused)
        self._targets.closed(connection.link, text, now)
        if refused.reason == "ourself":
            self._clones.met_our_key(connection.address, connection.handshake_mark, now)

    def _drop_target_of_ourself(self, text: str | None) -> None:
        address = None if text is None else read_address(text, self._introduction.listen_port)
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
        if reason.startswith(GOODBYE_CLONE):
            self._effects.append(IdentityCopied(text))
        self._disconnect(connection, text, now, left=reason == GOODBYE_LEAVE)

    def _disconnect(
        self, connection: Connection, reason: str, now: float, left: bool = False
    ) -> None:
        """Forget a connection. If its peer's overlay still works, the link becomes an orphan."""
        del self.connections[connection.link]
        self._targets.closed(connection.link, reason, now)
        found = connection.peer
        neighbour = None if found is None else self.neighbours.get(found.remote_name)
        if neighbour is None or neighbour.link != connection.link:
            return
        neighbour.link = None
        neighbour.overlay_info = reason
        self._targets.peer_down(neighbour.name)
        if left or not neighbour.established:
            del self.neighbours[neighbour.name]
        self._effects.append(PeerDisconnected(neighbour.name, reason, left))
        self._log("info", "disconnected", peer=neighbour.nickname, reason=reason)
        self._owner.neighbours_changed(now)

    def _log(self, level: str, message: str, **fields: str) -> None:
        self._effects.append(LogLine(level, message, tuple(fields.items())))


@lru_cache(maxsize=8192)
def read_address(text: str, default_port: int) -> Address | None:
    """An address that somebody else wrote; None if it makes no sense."""
    try:
        return parse_address(text, default_port)
    except UsageError:
        return None
