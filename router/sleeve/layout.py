"""Where spanning records are sealed and cut, without making anything per datagram.

The ciphertexts of one batch lie one behind the other, so the slices of its datagrams lie at
fixed places, and so do the headers, in a buffer of their own. The list of parts that a send
takes is made once for a slice size. What is left per record is one AEAD call and two copies that
write all its headers.

There is one layout for all forwarders, and one of them at a time has its batch in it.
"""

from router.sleeve.format import HEADER_BYTES
from router.sleeve.udp import MAX_BATCH_BYTES, MAX_BATCH_DATAGRAMS

NUMBERS = bytes(range(256))
NUMBER_AT = HEADER_BYTES - 2
"""Where a header has the number of its datagram in the record."""


class Layout:
    __slots__ = ("_header_views", "_headers", "_parts", "_slice_bytes", "count", "owner", "sealed")

    def __init__(self) -> None:
        self.owner: object = None
        """Whose batch is in here; None: nobody's."""
        self.count = 0
        """Datagrams of that batch."""
        self.sealed = memoryview(bytearray(MAX_BATCH_BYTES))
        self._headers = memoryview(bytearray(MAX_BATCH_DATAGRAMS * HEADER_BYTES))
        ends = range(HEADER_BYTES, len(self._headers) + 1, HEADER_BYTES)
        self._header_views = [self._headers[end - HEADER_BYTES : end] for end in ends]
        self._slice_bytes = 0
        self._parts: list[bytes | memoryview] = []

    def begin(self, owner: object, slice_bytes: int) -> None:
        """The batch that was in here has left. All slices but a batch's last are this long."""
        self.owner = owner
        self.count = 0
        if slice_bytes == self._slice_bytes:
            return
        self._slice_bytes = slice_bytes
        self._parts = []
        for number, header in enumerate(self._header_views):
            at = number * slice_bytes
            self._parts += (header, self.sealed[at : at + slice_bytes])

    def place(self, sealed_bytes: int) -> memoryview:
        """Where the ciphertext of the next record goes."""
        at = self.count * self._slice_bytes
        return self.sealed[at : at + sealed_bytes]

    def add(self, header: bytes, count: int, sealed_bytes: int) -> list[bytes | memoryview]:
        """The record is in its place: the parts of its `count` datagrams, valid until they left.

        `header` is that of its first datagram.
        """
        first = self.count
        self.count = after = first + count
        start, end = first * HEADER_BYTES, after * HEADER_BYTES
        self._headers[start:end] = header * count
        self._headers[start + NUMBER_AT : end : HEADER_BYTES] = NUMBERS[:count]
        parts = self._parts[2 * first : 2 * after]
        rest_bytes = sealed_bytes % self._slice_bytes
        if rest_bytes:
            parts[-1] = parts[-1][:rest_bytes]
        return parts
