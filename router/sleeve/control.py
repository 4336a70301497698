"""What two ends of a session say to each other besides frames.

A control record's plain text is one message: a byte that says which, then fields of fixed
size. Whatever follows is padding, by which a probe grows to the size that it tests. Decoding is
total: what is too short or of an unknown kind is None and ignored, as a newer peer may say more.
"""

from dataclasses import dataclass
from struct import Struct

NEVER_HEARD_MS = 0xFFFF

_PROBE = Struct("!BQH")
_ANSWER = Struct("!BQI")
_OFFER = Struct("!B8s32sI")
_ACCEPTANCE = Struct("!B8s8s32sI")
_RECEIPT = Struct("!BBII")

_MENDED = Struct("!I")
_MENDS = 0x80
"""Beside the span of a receipt: it says how much was mended."""

_KIND_PROBE = 1
_KIND_ANSWER = 2
_KIND_OFFER = 3
_KIND_ACCEPTANCE = 4
_KIND_RECEIPT = 5


@dataclass(frozen=True, slots=True)
class Probe:
    """Do you hear me? Answered at once, over the epoch and to the address it came from."""

    sent_at_us: int
    """The sender's clock, which the answer brings back."""
    heard_ms: int
    """How long ago the sender heard an authentic record on this epoch; or `NEVER_HEARD_MS`."""


@dataclass(frozen=True, slots=True)
class Answer:
    sent_at_us: int
    datagram_bytes: int
    """How long the probe's datagram (its UDP payload) was on arrival: that much passes."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Let us have new keys, from those of the epoch `base` and a fresh exchange."""

    base: bytes
    """8 bytes: `keys.epoch_id` of the secret to go on from."""
    public_key: bytes
    """X25519, 32 bytes, never used before."""
    index: int
    """Under which the sender will receive."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    base: bytes
    offer: bytes
    """The first 8 bytes of the public key that is answered."""
    public_key: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came in, told several times a second while data does: see `router.sleeve.spans`."""

    max_span: int
    """Of how many datagrams records to the sender of this may be, at most; below 128."""
    datagrams: int
    """Datagrams of authentic data records, counted modulo 2^32."""
    lost: int
    """Records that did not come, or not in one piece, counted modulo 2^32."""
    mended: int | None = 0
    """How many of those parity made good, likewise; None: parity is of no use to the sender of
    this. See `router.sleeve.parity`."""


ControlMessage = Probe | Answer | Offer | Acceptance | Receipt


def encode_control(message: ControlMessage) -> bytes:
    match message:
        case Probe():
            return _PROBE.pack(_KIND_PROBE, message.sent_at_us, message.heard_ms)
        case Answer():
            return _ANSWER.pack(_KIND_ANSWER, message.sent_at_us, message.datagram_bytes)
        case Offer():
            return _OFFER.pack(_KIND_OFFER, message.base, message.public_key, message.index)
        case Acceptance():
            return _ACCEPTANCE.pack(
                _KIND_ACCEPTANCE, message.base, message.offer, message.public_key, message.index
            )
        case Receipt():
            abilities = message.max_span if message.mended is None else message.max_span | _MENDS
            receipt = _RECEIPT.pack(_KIND_RECEIPT, abilities, message.datagrams, message.lost)
            return receipt if message.mended is None else receipt + _MENDED.pack(message.mended)


def decode_control(payload: bytes | memoryview) -> ControlMessage | None:
    if len(payload) < 1:
        return None
    kind = payload[0]
    if kind == _KIND_PROBE and len(payload) >= _PROBE.size:
        _, sent_at_us, heard_ms = _PROBE.unpack_from(payload)
        return Probe(sent_at_us, heard_ms)
    if kind == _KIND_ANSWER and len(payload) >= _ANSWER.size:
        _, sent_at_us, datagram_bytes = _ANSWER.unpack_from(payload)
        return Answer(sent_at_us, datagram_bytes)
    if kind == _KIND_OFFER and len(payload) >= _OFFER.size:
        _, base, public_key, index = _OFFER.unpack_from(payload)
        return Offer(base, public_key, index)
    if kind == _KIND_ACCEPTANCE and len(payload) >= _ACCEPTANCE.size:
        _, base, offer, public_key, index = _ACCEPTANCE.unpack_from(payload)
        return Acceptance(base, offer, public_key, index)
    if kind == _KIND_RECEIPT and len(payload) >= _RECEIPT.size:
        _, abilities, datagrams, lost = _RECEIPT.unpack_from(payload)
        if not abilities & _MENDS:
            return Receipt(abilities, datagrams, lost, None)
        if len(payload) >= _RECEIPT.size + _MENDED.size:
            (mended,) = _MENDED.unpack_from(payload, _RECEIPT.size)
            return Receipt(abilities & ~_MENDS, datagrams, lost, mended)
    return None
