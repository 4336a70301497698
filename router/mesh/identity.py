"""Who a peer is: its key pair, the name that follows from it, and what it tells of itself.

The private key is made at a host's first start and kept in its state directory; the daemon
reads and writes that file, and this module only knows what is in it. An `Introduction` is what
two peers tell each other inside their handshake. Of its contents only the name is proved; the
rest is a peer's own word, so it is bounded and made fit to print before anyone sees it.
"""

from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from router.mesh.secret import decode_checked, encode_checked
from weavepy.base.errors import ProtocolError, WeavepyError
from weavepy.base.names import MAX_NICKNAME_LENGTH, PeerName, PeerUid, name_of_public_key
from weavepy.base.wire import Decoder, encode

INTRODUCTION_BYTES = 256
"""All introductions have this size on the wire, so that none tells by its length who is who."""

MAX_VERSION_TEXT_BYTES = 32

_FILE_PREFIX = "weavepy-identity1-"
_LENGTH_BYTES = 2

_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Identity:
    """A static X25519 key pair. Whoever holds the 32 private bytes is this peer."""

    def __init__(self, private_key: bytes) -> None:
        assert len(private_key) == 32
        self.private_key = X25519PrivateKey.from_private_bytes(private_key)
        self.public_bytes: bytes = self.private_key.public_key().public_bytes_raw()
        self.name: PeerName = name_of_public_key(self.public_bytes)

    @classmethod
    def generate(cls) -> "Identity":
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def load_or_create(cls, stored: bytes | None) -> "Identity":
        """Read what `encode` made, or make a new identity if nothing was stored yet.

        A damaged file is an error and not a new identity: a host that came back under
        another name would leave its address ranges without an owner.
        """
        if stored is None:
            return cls.generate()
        text = stored.decode("ascii", "replace").strip()
        private_key = decode_checked(_FILE_PREFIX, text, 32)
        if private_key is None:
            raise WeavepyError(
                "the identity file is damaged: restore it from a backup, or delete it to let "
                "this host join as a new peer (its old name then needs `weavepy rmpeer`)"
            )
        return cls(private_key)

    def encode(self) -> bytes:
        """What the identity file holds. Secret: the file's mode must be 0600."""
        return encode_checked(_FILE_PREFIX, self.private_key.private_bytes_raw()).encode() + b"\n"

    def __repr__(self) -> str:
        return f"Identity({self.name})"


class Introduction(msgspec.Struct, frozen=True, kw_only=True):
    name: PeerName
    uid: Annotated[PeerUid, msgspec.Meta(ge=1, le=2**63 - 1)]
    nickname: str
    """At most 63 bytes of printable text, once it has been encoded or decoded."""
    listen_port: _Port
    """Where it accepts TCP connections; 0 if nowhere."""
    udp_port: _Port
    version: str
    """Of its weavepy, for people to read; at most 32 bytes."""


_introduction_decoder = Decoder(Introduction, "introduction")


def encode_introduction(introduction: Introduction) -> bytes:
    """Length, MessagePack, zeros: always `INTRODUCTION_BYTES` bytes."""
    body = encode(_fit_to_print(introduction))
    assert len(body) <= INTRODUCTION_BYTES - _LENGTH_BYTES
    return (len(body).to_bytes(_LENGTH_BYTES, "big") + body).ljust(INTRODUCTION_BYTES, b"\0")


def decode_introduction(data: bytes) -> Introduction:
    """Raises `ProtocolError`. That the name belongs to the sender's key is for the caller."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "big")
    body, padding = data[_LENGTH_BYTES:][:length], data[_LENGTH_BYTES + length :]
    if len(data) != INTRODUCTION_BYTES or len(body) != length or any(padding):
        raise ProtocolError("malformed introduction: wrong length")
    introduction: Introduction = _introduction_decoder.decode(body)
    return _fit_to_print(introduction)


def printable(text: str, max_bytes: int) -> str:
    """Drop what a terminal might obey (control and direction signs); cut the UTF-8 to size."""
    kept = "".join(character for character in text if character.isprintable())
    return kept.encode()[:max_bytes].decode(errors="ignore")


def _fit_to_print(introduction: Introduction) -> Introduction:
    return msgspec.structs.replace(
        introduction,
        nickname=printable(introduction.nickname, MAX_NICKNAME_LENGTH),
        version=printable(introduction.version, MAX_VERSION_TEXT_BYTES),
    )
