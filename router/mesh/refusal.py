"""Why a handshake was refused: a code, a text for our operator, a byte for the other side's.

The byte travels in clear and unauthenticated, in either direction, in place of a handshake
message. It says nothing that an eavesdropper could not guess from seeing the connection close.
Its meaning never changes: peers of different versions must understand each other's no.
"""

from weavepy.base.errors import ProtocolError

REFUSAL_KIND = 0
REFUSAL_BYTES = 2

_WIRE_CODES = {
    "bad-version": 1,
    "encryption-mismatch": 2,
    "garbage": 3,
    "tampered": 4,
    "bad-key": 5,
    "wrong-secret": 6,
    "ourself": 7,
    "name-mismatch": 8,
    "bad-introduction": 9,
    "too-much-data": 10,
    "too-slow": 11,
    "reflected": 12,
}
"""Refusals that are told. To one who does not speak weavepy, or has closed, we say nothing."""

SILENT_REASONS = ("not-weavepy", "closed")

_HEARSAY = {
    "bad-version": "it does not speak our version of the protocol: run the same weavepy on both",
    "encryption-mismatch": "one of the two meshes is insecure and the other encrypted: "
    "use --insecure on all hosts or on none",
    "garbage": "it got something else than a handshake message",
    "tampered": "a message was altered on its way",
    "bad-key": "it got a key of low order",
    "wrong-secret": "our secret is not that of its mesh: join with the token of that mesh",
    "ourself": "we are the same peer as it: two hosts may share a copied identity file",
    "name-mismatch": "our name does not belong to our key",
    "bad-introduction": "it could not read our introduction",
    "too-much-data": "it got more than our turn allows",
    "too-slow": "we did not answer in time",
    "reflected": "its own words came back to it, or both ends took one part",
}

_REASONS = {code: reason for reason, code in _WIRE_CODES.items()}


class HandshakeRefused(ProtocolError):
    """The handshake is over. Send `to_send` (it may be empty), close, count by `reason`.

    A reason that begins with "told-" is what the other side claims to have found: good for a
    status line, and nothing else may follow from it.
    """

    def __init__(self, reason: str, text: str, to_send: bytes) -> None:
        super().__init__(text)
        self.reason = reason
        self.to_send = to_send


def encode_refusal(reason: str) -> bytes:
    """Empty for the reasons about which we stay silent."""
    if reason in SILENT_REASONS:
        return b""
    return bytes([REFUSAL_KIND, _WIRE_CODES[reason]])


def decode_refusal(message: bytes) -> HandshakeRefused:
    assert len(message) == REFUSAL_BYTES
    reason = _REASONS.get(message[1])
    if reason is None:
        text = f"the other side refuses with a code that we do not know ({message[1]})"
        return HandshakeRefused("told-unknown", text, b"")
    return HandshakeRefused(f"told-{reason}", f"the other side says: {_HEARSAY[reason]}", b"")
