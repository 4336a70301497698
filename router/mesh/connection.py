"""One TCP connection, from the dial to the close: handshake, messages, liveness, back-pressure.

Any byte counts as a sign of life: a peer busy sending gossip must not be declared dead for
being late with a heartbeat. While the link is *paused* (its socket buffer is full), nothing is
queued that something newer replaces: updates are combined per channel, digests are made afresh
at the end, heartbeats are left out.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from router.mesh.effects import LinkId
from router.mesh.handshake import Finished, Handshake, HandshakeRefused
from router.mesh.messages import (
    Assembler,
    ControlMessage,
    GossipDigest,
    GossipUpdate,
    Heartbeat,
    encode_parts,
)
from router.mesh.stream import SecureStream
from weavepy.base.deadline import Deadline
from weavepy.base.gossip import Channel

HEARTBEAT_S = 1.0
GATHER_S = 0.25
"""So much earlier heartbeats go out if another has to: those of a hundred connections then wake
the router four times a second, and not a hundred times."""
DEAD_S = 4.0
"""A peer that was silent for so long is dead: three heartbeats were lost in a row."""

DIAL_TIMEOUT_S = 10.0

MAX_HELD_MESSAGES = 256
"""Messages that cannot be combined and wait for a paused link; the oldest give way."""


class Phase(Enum):
    DIALLING = "dialling"
    HANDSHAKE = "handshake"
    UP = "up"


@dataclass(frozen=True, slots=True)
class Received:
    """What came of some bytes, in this order."""

    to_send: bytes = b""
    finished: Finished | None = None
    messages: tuple[ControlMessage, ...] = ()
    goodbye: str | None = None


class Connection:
    def __init__(self, link: LinkId, *, outbound: bool, host: str, port: int, now: float) -> None:
        self.link = link
        self.outbound = outbound
        self.host = host
        self.port = port
        self.remote_host = host
        """The address at the other end; `host` may be a name that was dialled."""
        self.phase = Phase.DIALLING
        self.opened_at = now
        self.heard_at = now
        self.peer: Finished | None = None
        """Who the handshake found at the other end."""
        self.paused = False
        self.dropped_messages = 0
        self._sent_at = now
        self._dial_deadline = now + DIAL_TIMEOUT_S
        self._handshake: Handshake | None = None
        self._stream: SecureStream | None = None
        self._assembler = Assembler()
        self._held: deque[ControlMessage] = deque(maxlen=MAX_HELD_MESSAGES)
        self._held_updates: dict[str, bytes] = {}
        self._held_digests: dict[str, bool] = {}

    @property
    def address(self) -> str:
        return address_text(self.host, self.port)

    @property
    def handshake_mark(self) -> bytes:
        """Names the handshake under way at both of its ends; empty if there is none."""
        return b"" if self._handshake is None else self._handshake.mark

    # --- receiving ---------------------------------------------------------------------------

    def start_handshake(self, handshake: Handshake, now: float) -> bytes:
        self.phase = Phase.HANDSHAKE
        self._handshake = handshake
        self.heard_at = self._sent_at = now
        return handshake.start()

    def feed(self, data: bytes, now: float) -> Received:
        """Raises `HandshakeRefused` before it is up, and `ProtocolError` after."""
        if data:
            self.heard_at = now
        if self.phase is Phase.UP:
            messages, goodbye = self._open(data)
            return Received(messages=messages, goodbye=goodbye)
        assert self._handshake is not None
        progress = self._handshake.feed(data)
        if progress.finished is None:
            return Received(progress.to_send)
        self.phase = Phase.UP
        self.peer = progress.finished
        self._stream = progress.finished.stream
        self._handshake = None
        self._sent_at = now
        messages, goodbye = self._open(progress.finished.leftover)
        return Received(progress.to_send, progress.finished, messages, goodbye)

    def closed_early(self) -> HandshakeRefused | None:
        """Why the handshake ended if the other side just closed; None if none was under way."""
        return None if self._handshake is None else self._handshake.closed()

    def _open(self, data: bytes) -> tuple[tuple[ControlMessage, ...], str | None]:
        assert self._stream is not None
        messages = [self._assembler.feed(frame) for frame in self._stream.feed(data)]
        return tuple(message for message in messages if message), self._stream.goodbye

    # --- sending -----------------------------------------------------------------------------

    def send(self, message: ControlMessage, channels: Mapping[str, Channel], now: float) -> bytes:
        """The bytes to send, which are none if the link is paused."""
        if self.paused:
            self._hold(message, channels)
            return b""
        return self._seal(message, now)

    def goodbye(self, reason: str) -> bytes:
        assert self._stream is not None
        return self._stream.seal_goodbye(reason)

    def resume(self, channels: Mapping[str, Channel], now: float) -> bytes:
        """What waited while the link was paused, as bytes to send."""
        self.paused = False
        messages = [
            *self._held,
            *(GossipUpdate(channel, update) for channel, update in self._held_updates.items()),
            *(
                GossipDigest(channel, channels[channel].digest(), answer_back)
                for channel, answer_back in self._held_digests.items()
            ),
        ]
        self._held.clear()
        self._held_updates.clear()
        self._held_digests.clear()
        return b"".join(self._seal(message, now) for message in messages)

    def _hold(self, message: ControlMessage, channels: Mapping[str, Channel]) -> None:
        if isinstance(message, Heartbeat):
            return
        if isinstance(message, GossipUpdate):
            held = self._held_updates.get(message.channel)
            self._held_updates[message.channel] = (
                message.update
                if held is None
                else channels[message.channel].combine(held, message.update)
            )
        elif isinstance(message, GossipDigest):
            before = self._held_digests.get(message.channel, False)
            self._held_digests[message.channel] = before or message.answer_back
        else:
            self.dropped_messages += len(self._held) == MAX_HELD_MESSAGES
            self._held.append(message)

    def _seal(self, message: ControlMessage, now: float) -> bytes:
        assert self._stream is not None
        self._sent_at = now
        return b"".join(map(self._stream.seal, encode_parts(message)))

    # --- time --------------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> bytes:
        """A heartbeat to send, if one is nearly due. Raises `TimedOut` if it is over."""
        if self.phase is Phase.DIALLING:
            if now >= self._dial_deadline:
                raise TimedOut(f"no answer within {DIAL_TIMEOUT_S:g} s")
            return b""
        if self._handshake is not None:
            if now >= self._handshake.deadline:
                raise self._handshake.too_slow()
            return b""
        if now >= self.heard_at + DEAD_S:
            raise TimedOut(f"nothing heard for {DEAD_S:g} s")
        if self.paused or now < self._sent_at + HEARTBEAT_S - GATHER_S:
            return b""
        return self._seal(Heartbeat(), now)

    def forgive_silence(self, now: float) -> None:
        """We were asleep ourselves, so what it sent meanwhile has not been read yet."""
        self.heard_at = max(self.heard_at, now)

    def due_at(self) -> float:
        """When `handle_timeout` wants to be called; asked after each event, so it is quick."""
        if self.phase is Phase.DIALLING:
            return self._dial_deadline
        if self._handshake is not None:
            return self._handshake.deadline
        dead_at = self.heard_at + DEAD_S
        return dead_at if self.paused else min(dead_at, self._sent_at + HEARTBEAT_S)

    def next_deadline(self) -> Deadline:
        at = self.due_at()
        if self.phase is Phase.DIALLING:
            return Deadline(at, f"give up dialling {self.address}")
        if self._handshake is not None:
            return Deadline(at, f"end of the handshake with {self.address}")
        if at == self.heard_at + DEAD_S:
            return Deadline(at, f"silence of {self.address}")
        return Deadline(at, f"heartbeat to {self.address}")


class TimedOut(Exception):
    """The connection is over because something did not happen; the text says what."""


def address_text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
