"""How two routers agree on the keys of a sleeve session, over their control connection.

One end sends `Open` with a fresh nonce and the index under which it will receive; the other
answers `Accept` with its own. Both now derive the epoch's secret from the connection's overlay
secret and the two nonces, and hand it to their datapaths. So every exchange gives keys that
were never used before, also when only a datapath was restarted. From there on the datapaths
renew the keys between themselves.

The end that dialled opens. Either end opens when its own datapath lost the session. While a
connected peer has no session that is up, the dialler opens anew now and then, which heals
whatever the two ends remember differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from router.sleeve.messages import (
    Epoch,
    FromDatapath,
    InstallEpoch,
    RemoveSession,
    SessionDown,
    SessionReport,
    SessionUp,
    Snapshot,
    ToDatapath,
)
from weavepy.base.deadline import NEVER, Deadline
from weavepy.base.effects import LogLine
from weavepy.base.errors import ProtocolError
from weavepy.base.names import PeerName
from weavepy.base.wire import Decoder, encode

REOPEN_S = 10.0
"""How long a connected peer may be without a session before the dialler opens another."""

NONCE_BYTES = 32

_LABEL = b"weavepy sleeve epoch v1"


class Open(msgspec.Struct, frozen=True, tag=True):
    nonce: bytes
    index: int


class Accept(msgspec.Struct, frozen=True, tag=True):
    opened: bytes
    """The nonce of the `Open` that this answers."""
    nonce: bytes
    index: int


_decoder = Decoder(Open | Accept, "overlay message")


@dataclass(frozen=True, slots=True)
class TellPeer:
    """Send this to the peer's negotiator, over the control connection."""

    peer: PeerName
    payload: bytes


@dataclass(frozen=True, slots=True)
class TellDatapath:
    message: ToDatapath


@dataclass(frozen=True, slots=True)
class OverlayUp:
    peer: PeerName


@dataclass(frozen=True, slots=True)
class OverlayDown:
    peer: PeerName
    reason: str


NegotiationEffect = TellPeer | TellDatapath | OverlayUp | OverlayDown | LogLine


@dataclass(slots=True)
class _Control:
    """What the control connection to a peer gave us."""

    host: str
    udp_port: int
    secret: bytes
    dialled_by_us: bool
    opened: Open | None
    """Ours, not yet answered."""
    reopen_at: float


class Negotiator:
    """Keeps the datapath's sessions in step with the mesh's control connections."""

    def __init__(self, adopted: Sequence[SessionReport], rng: Random) -> None:
        self._rng = rng
        self._datapath_pid = 0
        self._controls: dict[PeerName, _Control] = {}
        self._next: Deadline | None = None
        """May be early, if whom it is about has gone meanwhile."""
        self._up: dict[PeerName, None] = {
            PeerName(session.peer): None for session in adopted if session.up
        }

    def is_up(self, peer: PeerName) -> bool:
        return peer in self._up

    def handle_connected(
        self,
        peer: PeerName,
        host: str,
        udp_port: int,
        secret: bytes,
        dialled_by_us: bool,
        now: float,
    ) -> list[NegotiationEffect]:
        control = _Control(host, udp_port, secret, dialled_by_us, None, now + REOPEN_S)
        self._controls[peer] = control
        self._next = None
        effects: list[NegotiationEffect] = []
        if dialled_by_us:
            effects += self._open(peer, control, now)
        if peer in self._up:
            effects.append(OverlayUp(peer))
        return effects

    def handle_disconnected(self, peer: PeerName, left: bool) -> list[NegotiationEffect]:
        """The session lives on as long as records come in: a router may be restarting.

        Unless it `left`, saying so: then its datapath is about to end as well.
        """
        known = self._controls.pop(peer, None) is not None
        if left:
            known = peer in self._up or known
            self._up.pop(peer, None)
        return [TellDatapath(RemoveSession(peer))] if known and peer not in self._up else []

    def handle_message(self, peer: PeerName, payload: bytes, now: float) -> list[NegotiationEffect]:
        """Raises `ProtocolError` if the peer's overlay talks nonsense."""
        control = self._controls.get(peer)
        message = _decoder.decode(payload)
        if len(message.nonce) != NONCE_BYTES or not 0 <= message.index < 2**32:
            raise ProtocolError("malformed overlay message: nonce or index out of bounds")
        if control is None:
            return []
        if isinstance(message, Open):
            answer = Accept(message.nonce, self._nonce(), self._rng.getrandbits(32))
            epoch = Epoch(
                secret=epoch_secret(control.secret, message.nonce, answer.nonce),
                initiator=False,
                local_index=answer.index,
                remote_index=message.index,
            )
            return [self._install(peer, control, epoch), TellPeer(peer, encode(answer))]
        opened = control.opened
        if opened is None or message.opened != opened.nonce:
            return []  # an answer to an attempt that we have given up
        control.opened = None
        epoch = Epoch(
            secret=epoch_secret(control.secret, opened.nonce, message.nonce),
            initiator=True,
            local_index=opened.index,
            remote_index=message.index,
        )
        return [self._install(peer, control, epoch)]

    def handle_datapath(self, message: FromDatapath, now: float) -> list[NegotiationEffect]:
        match message:
            case SessionUp(peer=peer):
                self._up[PeerName(peer)] = None
                return [OverlayUp(PeerName(peer))]
            case SessionDown(peer=peer, reason=reason):
                return self._lost(PeerName(peer), reason)
            case Snapshot():
                return self._compare(message, now)
            case _:
                return []

    def handle_datapath_lost(self, reason: str, now: float) -> list[NegotiationEffect]:
        """The process is gone and its sessions with it; a new one will send its `Snapshot`."""
        effects: list[NegotiationEffect] = []
        for peer in list(self._up):
            effects += self._lost(peer, reason)
        return effects

    def handle_timeout(self, now: float) -> list[NegotiationEffect]:
        effects: list[NegotiationEffect] = []
        self._next = None
        for peer, control in self._controls.items():
            if now < control.reopen_at:
                continue
            control.reopen_at = now + REOPEN_S
            if control.dialled_by_us and peer not in self._up:
                effects += self._open(peer, control, now)
        return effects

    def next_deadline(self) -> Deadline:
        if not self._controls:
            return NEVER
        if self._next is None:
            at, peer = min((control.reopen_at, peer) for peer, control in self._controls.items())
            self._next = Deadline(at, f"see whether {peer} has a session")
        return self._next

    def _compare(self, snapshot: Snapshot, now: float) -> list[NegotiationEffect]:
        effects: list[NegotiationEffect] = []
        sessions = {PeerName(session.peer): session.up for session in snapshot.sessions}
        for peer in list(self._up):
            if not sessions.get(peer, False):
                effects += self._lost(peer, "the datapath has no session")
        for peer, up in sessions.items():
            if up and peer not in self._up:
                self._up[peer] = None
                effects.append(OverlayUp(peer))
            if not up and peer not in self._controls:
                effects.append(TellDatapath(RemoveSession(peer)))
        if snapshot.pid != self._datapath_pid:  # another process: what we agreed on is lost
            self._datapath_pid = snapshot.pid
            for peer, control in self._controls.items():
                if peer not in sessions:
                    effects += self._open(peer, control, now)
        return effects

    def _lost(self, peer: PeerName, reason: str) -> list[NegotiationEffect]:
        self._up.pop(peer, None)
        effects: list[NegotiationEffect] = [OverlayDown(peer, reason)]
        if peer not in self._controls:
            effects.append(TellDatapath(RemoveSession(peer)))
        return effects

    def _open(self, peer: PeerName, control: _Control, now: float) -> list[NegotiationEffect]:
        control.opened = Open(self._nonce(), self._rng.getrandbits(32))
        control.reopen_at = now + REOPEN_S
        return [TellPeer(peer, encode(control.opened))]

    def _install(self, peer: PeerName, control: _Control, epoch: Epoch) -> TellDatapath:
        return TellDatapath(
            InstallEpoch(
                peer=peer,
                short_id=0,
                endpoint_host=control.host,
                endpoint_port=control.udp_port,
                epoch=epoch,
            )
        )

    def _nonce(self) -> bytes:
        return self._rng.randbytes(NONCE_BYTES)


def epoch_secret(overlay_secret: bytes, open_nonce: bytes, accept_nonce: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) of the connection's secret, salted with both ends' nonces."""
    kdf = HKDF(hashes.SHA256(), 32, salt=open_nonce + accept_nonce, info=_LABEL)
    return kdf.derive(overlay_secret)
