"""From an epoch's secret to its keys, and from one epoch's secret to the next.

Everything is HKDF-SHA256 (RFC 5869) with a label that says what the result is for, so no key
is ever used for two purposes. The two directions of an epoch have keys of their own: both ends
count records from 0, and a nonce is nothing but that counter.
"""

from struct import Struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
SECRET_BYTES = 32
EPOCH_ID_BYTES = 8

NONCE = Struct("!4xQ")
"""`NONCE.pack(counter)`: 4 zero bytes and the record counter."""

_LABEL_FROM_INITIATOR = b"weavepy sleeve v1: records of the initiator"
_LABEL_FROM_RESPONDER = b"weavepy sleeve v1: records of the responder"
_LABEL_NEXT_SECRET = b"weavepy sleeve v1: next secret"
_LABEL_EPOCH_ID = b"weavepy sleeve v1: epoch id"


def derive_epoch_keys(secret: bytes, initiator: bool) -> tuple[bytes, bytes]:
    """Our send key and our receive key; the other end derives the same two the other way round."""
    from_initiator = _expand(secret, _LABEL_FROM_INITIATOR, KEY_BYTES)
    from_responder = _expand(secret, _LABEL_FROM_RESPONDER, KEY_BYTES)
    return (from_initiator, from_responder) if initiator else (from_responder, from_initiator)


def next_secret(secret: bytes, shared_dh: bytes, transcript: bytes = b"") -> bytes:
    """The secret of the epoch that follows: whoever learns either input alone learns nothing.

    `transcript` binds the result to what the two ends said to agree on it.
    """
    return HKDF(
        algorithm=SHA256(),
        length=SECRET_BYTES,
        salt=secret,
        info=_LABEL_NEXT_SECRET + transcript,
    ).derive(shared_dh)


def epoch_id(secret: bytes) -> bytes:
    """8 bytes by which both ends can name an epoch without telling anything about its keys."""
    return _expand(secret, _LABEL_EPOCH_ID, EPOCH_ID_BYTES)


def aead_of(key: bytes) -> AESGCM:
    return AESGCM(key)


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    assert len(secret) == SECRET_BYTES
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=label).derive(secret)
