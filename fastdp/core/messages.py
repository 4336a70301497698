"""What two routers say to each other about the fast path: offers, and heartbeats.

An `Offer` goes over the control connection, which is authentic. It carries a token of 8 random
bytes; whoever sends us a heartbeat has to repeat it, so that nobody outside the path can make a
dead tunnel look alive.

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

NEVER_HEARD_MS = 0xFFFF
"""As an age: not at all, or longer ago than can be told."""

_HEARTBEAT = struct.Struct("!8sIH")


class Offer(msgspec.Struct, frozen=True, tag=True):
    """What we would do; it replaces the offer before it."""

    willing: bool
    reason: str
    """Why not, as an operator reads it; empty if willing."""
    token: bytes
    mtu_bytes: int
    """The sender's overlay MTU."""
    port: int
    """UDP, for VXLAN."""
    your_host: str
    """The address at which the sender sees the receiver, so where its tunnel leads."""


_decoder = Decoder(Offer, "message about the fast path")


def encode_offer(offer: Offer) -> bytes:
    return PREFIX + encode(offer)


def decode_offer(payload: bytes) -> Offer:
    """Raises `ProtocolError`. `payload` begins with `PREFIX`."""
    offer: Offer = _decoder.decode(payload[len(PREFIX) :])
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
    return offer


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
