"""Messages between router and datapath that are larger than one packet of their socket.

The encoding of such a message is cut into numbered parts that go one after the other, and is
decoded when the last has come. So it takes effect as a whole, and until then all is as before.
The routes of a star's centre grow with the square of its neighbours: 500 of them need about
700 KiB, of which a packet takes 192.
"""

from typing import Any

from router.sleeve.messages import MAX_MESSAGE_BYTES, FromDatapath, Part, ToDatapath
from weavepy.base.errors import ProtocolError
from weavepy.base.wire import Decoder, encode

PART_BYTES = MAX_MESSAGE_BYTES - 64
"""The rest is the part's own fields."""

MAX_PARTS = 64
"""12 MiB: the routes of a centre with 2,000 neighbours."""


def packets(message: ToDatapath | FromDatapath) -> list[bytes]:
    """What to send for a message, in order. Raises `ProtocolError` if it is beyond all bounds."""
    data = encode(message)
    if len(data) <= MAX_MESSAGE_BYTES:
        return [data]
    count = -(-len(data) // PART_BYTES)
    if count > MAX_PARTS:
        raise ProtocolError(
            f"a message of {len(data)} bytes is too large for the datapath's socket"
        )
    return [
        encode(Part(number, count, data[number * PART_BYTES : (number + 1) * PART_BYTES]))
        for number in range(count)
    ]


class Joiner:
    """Turns the packets of one connection, in their order, into messages again."""

    def __init__(self, decoder: Decoder) -> None:
        """`decoder` knows `Part` beside the messages."""
        self._decoder = decoder
        self._parts: list[bytes] = []
        self._count = 0

    def take(self, packet: bytes) -> Any:
        """The message that this packet completes, or None while parts are missing.

        Raises `ProtocolError` if the packet makes no sense here. An unfinished message is
        forgotten then.
        """
        parts, self._parts = self._parts, []
        message = self._decoder.decode(packet)
        if parts and not (isinstance(message, Part) and message.count == self._count):
            raise ProtocolError(f"something else instead of part {len(parts)} of {self._count}")
        if not isinstance(message, Part):
            return message
        if message.number != len(parts) or not len(parts) < message.count <= MAX_PARTS:
            raise ProtocolError(f"part {message.number} of {message.count} comes out of order")
        parts.append(message.data)
        if len(parts) < message.count:
            self._parts, self._count = parts, message.count
            return None
        whole = self._decoder.decode(b"".join(parts))
        if isinstance(whole, Part):
            raise ProtocolError("a message of parts is itself a part")
        return whole
