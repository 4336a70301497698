"""What two connected peers say to each other, inside their `SecureStream`.

A message that does not fit one frame of the stream travels in several; the first byte of each
says whether more of the same message follows. Of a message that is being put together, at most
`MAX_MESSAGE_BYTES` are held.
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from router.mesh.stream import MAX_MESSAGE_BYTES as MAX_FRAME_PAYLOAD_BYTES
from weavepy.base.errors import ProtocolError
from weavepy.base.gossip import MAX_DIGEST_BYTES
from weavepy.base.wire import Decoder, encode

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""The topology of a full mesh of 4,096 peers, every one of its 16 million links told."""

MAX_HOPS = 64
"""A unicast that is still under way after so many relays goes round in circles."""

GOODBYE_LEAVE = "leaves the mesh"
GOODBYE_PAUSE = "will be back, and keeps its overlay meanwhile"
GOODBYE_DUPLICATE = "has another connection to us"
GOODBYE_CLONE = "refuses us: another router with the identity of"
"""Reasons for an authenticated close on which the other end acts. Others are for people."""

_LAST_PART = b"\x00"
_MORE_FOLLOWS = b"\x01"
_PART_BYTES = MAX_FRAME_PAYLOAD_BYTES - 1

_ChannelName = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")]
_Host = Annotated[str, msgspec.Meta(max_length=264)]


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag="alive"):
    """Sent when there was nothing else to say for a while."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The first message each way: how the receiver looks from here, so that it can tell others."""

    host: _Host
    """The address from which its connection comes, or at which it answered."""
    dialled: _Host
    """The "host:port" at which it answered; empty if it dialled."""
    others: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many peers the sender is connected with besides."""


class GossipUpdate(msgspec.Struct, frozen=True, array_like=True, tag="update"):
    channel: _ChannelName
    update: bytes


class GossipDigest(msgspec.Struct, frozen=True, array_like=True, tag="digest"):
    """To be answered with an update if the receiver's state is another."""

    channel: _ChannelName
    digest: Annotated[bytes, msgspec.Meta(max_length=MAX_DIGEST_BYTES)]
    answer_back: bool
    """If the states differ, the receiver shall send its own digest, too."""


class UnicastMessage(msgspec.Struct, frozen=True, array_like=True, tag="unicast"):
    channel: _ChannelName
    source: _Name
    destination: _Name
    hops: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]
    """How many more relays may pass it on."""
    payload: bytes


class OverlayMessage(msgspec.Struct, frozen=True, array_like=True, tag="overlay"):
    payload: bytes


ControlMessage = Heartbeat | Hello | GossipUpdate | GossipDigest | UnicastMessage | OverlayMessage

_decoder = Decoder(ControlMessage, "control message")


def encode_parts(message: ControlMessage) -> Iterator[bytes]:
    """The frames' contents that make up a message, in order."""
    data = encode(message)
    assert len(data) <= MAX_MESSAGE_BYTES
    last = max(0, (len(data) - 1) // _PART_BYTES)
    for part in range(last + 1):
        flag = _LAST_PART if part == last else _MORE_FOLLOWS
        yield flag + data[part * _PART_BYTES : (part + 1) * _PART_BYTES]


class Assembler:
    """Makes messages of the parts that come over one connection."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def feed(self, frame: bytes) -> ControlMessage | None:
        """The message that this frame completes. Raises `ProtocolError` if it is none."""
        flag, part = frame[:1], frame[1:]
        if flag not in (_LAST_PART, _MORE_FOLLOWS):
            raise ProtocolError("malformed control message: unknown framing")
        if len(self._parts) + len(part) > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a control message exceeds {MAX_MESSAGE_BYTES} bytes")
        if flag == _MORE_FOLLOWS:
            self._parts += part
            return None
        data = bytes(self._parts) + part if self._parts else part
        self._parts.clear()
        message: ControlMessage = _decoder.decode(data)
        return message
