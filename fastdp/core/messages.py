"""What two routers say to each other about the fast path: offers, ESP's keys, and heartbeats.

An `Offer` goes over the control connection, which is authentic. It carries a token of 8 random
bytes; whoever sends us a heartbeat has to repeat it, so that nobody outside the path can make a
dead tunnel look alive. Nonces for keys go the same way, keys themselves never.

A heartbeat goes through the tunnel itself:

    token (8) | sequence (4) | age (2)

`age` is how many milliseconds ago the sender heard the receiver's last heartbeat. So each end
knows when the other heard it last, to within the time a packet needs, and both find a path that
is blocked in one direction equally fast.
"""

import struct
from dataclasses import dataclass

import msgspec

from weavepy.base.errors import ProtocolError
from weavepy.base.wire import Decoder, encode

PREFIX = b"\x00"
"""Begins what is for the fast path among the overlay's messages: no MessagePack map does."""

TOKEN_BYTES = 8
MAX_REASON_LENGTH = 200

NONCE_BYTES = 32
PROOF_BYTES = 16
FIRST_SPI = 256
"""Smaller ones are reserved (RFC 4303, 2.1)."""

NEVER_HEARD_MS = 0xFFFF
"""As an age: not at all, or longer ago than can be told."""

_HEARTBEAT = struct.Struct("!8sIH")


class Offer(msgspec.Struct, frozen=True, tag=True):
    """What we would do; it replaces the offer before it."""

    willing: bool
    """In clear: between subnets that are trusted, or because nothing here is encrypted."""
    reason: str
    """Why not, as an operator reads it; empty if willing."""
    token: bytes
    mtu_bytes: int
    """The sender's overlay MTU."""
    port: int
    """UDP, for VXLAN."""
    your_host: str
    """The address at which the sender sees the receiver, so where its tunnel leads."""
    esp: bool = False
    """In ESP."""


class Propose(msgspec.Struct, frozen=True, tag=True):
    """New keys for both directions: see `esp.py`."""

    nonce: bytes
    spi: int
    """What the sender of this will receive by."""


class Answer(msgspec.Struct, frozen=True, tag=True):
    proposed: bytes
    """The nonce of the `Propose` that this answers."""
    nonce: bytes
    spi: int
    proof: bytes
    """That the sender has come to the same keys."""


class Confirm(msgspec.Struct, frozen=True, tag=True):
    """The sender of this receives and sends by the new keys."""

    answered: bytes
    """The nonce of the `Answer`."""
    proof: bytes


class Done(msgspec.Struct, frozen=True, tag=True):
    """And so does the sender of this."""

    answered: bytes


class Renew(msgspec.Struct, frozen=True, tag=True):
    """Our kernel has no keys for this tunnel, or has lost them: propose some."""


EspMessage = Propose | Answer | Confirm | Done | Renew

_decoder = Decoder(Offer | EspMessage, "message about the fast path")


def encode_message(message: Offer | EspMessage) -> bytes:
    return PREFIX + encode(message)


def decode_message(payload: bytes) -> Offer | EspMessage:
    """Raises `ProtocolError`. `payload` begins with `PREFIX`."""
    message: Offer | EspMessage = _decoder.decode(payload[len(PREFIX) :])
    if isinstance(message, Offer):
        _check_offer(message)
    elif not isinstance(message, Renew):
        _check_esp(message)
    return message


def _check_offer(offer: Offer) -> None:
    if (
        len(offer.token) != TOKEN_BYTES
        or len(offer.reason) > MAX_REASON_LENGTH
        or not offer.reason.isprintable()
        or not 0 < offer.mtu_bytes < 1 << 16
        or not 0 < offer.port < 1 << 16
        or len(offer.your_host) > 64
        or not offer.your_host.isprintable()
    ):
        raise ProtocolError("malformed message about the fast path: a field is out of bounds")


def _check_esp(message: Propose | Answer | Confirm | Done) -> None:
    nonces, proofs, spis = [], [], []
    match message:
        case Propose(nonce=nonce, spi=spi):
            nonces, spis = [nonce], [spi]
        case Answer(proposed=proposed, nonce=nonce, spi=spi, proof=proof):
            nonces, spis, proofs = [proposed, nonce], [spi], [proof]
        case Confirm(answered=answered, proof=proof):
            nonces, proofs = [answered], [proof]
        case Done(answered=answered):
            nonces = [answered]
    if (
        any(len(nonce) != NONCE_BYTES for nonce in nonces)
        or any(len(proof) != PROOF_BYTES for proof in proofs)
        or any(not FIRST_SPI <= spi < 1 << 32 for spi in spis)
    ):
        raise ProtocolError("malformed message about ESP's keys: a field is out of bounds")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    token: bytes
    """The receiver's."""
    sequence: int
    age_ms: int


def encode_heartbeat(beat: Heartbeat) -> bytes:
    return _HEARTBEAT.pack(beat.token, beat.sequence & 0xFFFFFFFF, beat.age_ms)


def decode_heartbeat(payload: bytes) -> Heartbeat | None:
    """None if it is too short to be one; what follows it is padding."""
    if len(payload) < _HEARTBEAT.size:
        return None
    return Heartbeat(*_HEARTBEAT.unpack_from(payload))
