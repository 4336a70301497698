"""The first bytes in each direction, in clear: do we speak the same protocol, for the same mesh?

Both headers become the prologue of the Noise handshake, so whoever alters them on the way, to
make both ends agree on something weaker, breaks it. The layout never changes: peers of
different versions must be able to tell each other that they are.
"""

from enum import Enum

MAGIC = b"weavepy\n"
MIN_VERSION = 1
MAX_VERSION = 1
HEADER_BYTES = 16
"""Magic (8), lowest and highest version spoken (1, 1), flags (1), zeros for later (5)."""

_FLAG_ENCRYPTED = 0x01
_FLAG_RESPONDER = 0x02
"""Tells the two headers apart, so that our own, sent back to us, is not mistaken for a peer's."""


class Role(Enum):
    INITIATOR = "initiator"
    RESPONDER = "responder"


def encode_header(role: Role, encrypted: bool) -> bytes:
    flags = _FLAG_ENCRYPTED if encrypted else 0
    flags |= _FLAG_RESPONDER if role is Role.RESPONDER else 0
    return (MAGIC + bytes([MIN_VERSION, MAX_VERSION, flags])).ljust(HEADER_BYTES, b"\0")


def disagreement(role: Role, encrypted: bool, received: bytes) -> tuple[str, str] | None:
    """Why we (`role`, `encrypted`) cannot go on with one who sent this: (reason, text).

    Flags and bytes that we do not know are for later versions; the prologue covers them.
    """
    assert len(received) == HEADER_BYTES
    assert received.startswith(MAGIC)
    lowest, highest, flags = received[len(MAGIC) : len(MAGIC) + 3]
    if bool(flags & _FLAG_RESPONDER) == (role is Role.RESPONDER):
        return "reflected", "our own words came back, or both ends took one part"
    if min(highest, MAX_VERSION) < max(lowest, MIN_VERSION):
        text = (
            f"the other side speaks versions {lowest} to {highest} of the protocol and we "
            f"{MIN_VERSION} to {MAX_VERSION}: run the same weavepy on both hosts"
        )
        return "bad-version", text
    if bool(flags & _FLAG_ENCRYPTED) != encrypted:
        ours, theirs = ("encrypted", "insecure") if encrypted else ("insecure", "encrypted")
        text = (
            f"our mesh is {ours} and that of the other side is {theirs}: "
            "use --insecure on all hosts of a mesh or on none"
        )
        return "encryption-mismatch", text
    return None
