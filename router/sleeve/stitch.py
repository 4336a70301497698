"""Pieces back into frames: one open run at a time.

Pieces of one large frame nearly always come in one after another, so only one run is kept
open: the piece that follows joins it, anything else ends it. A lost or overtaken piece costs
the kernel one more, smaller frame, and nothing is ever held back waiting for what may not come.
A record that spanned datagrams brings many segments at once, which are joined alike.
"""

from router.sleeve.format import INNER_HEADER_BYTES
from router.sleeve.pieces import (
    CHECKSUM_OFFSETS,
    GSO_ECN,
    GSO_NONE,
    complete_checksum,
    gso_size_before,
    header_length,
    true_headers,
)
from router.sleeve.record import PIECE_HINT_BYTES, RUN_HINT, RUN_HINT_BYTES
from router.sleeve.tap import NEEDS_CHECKSUM, VIRTIO_HEADER

NO_BASE = -256
"""Instead of the base of a large frame: what comes in is no pieces but runs."""


class Run:
    """Consecutive pieces of one large frame. The hot path reads and appends to its fields."""

    __slots__ = (
        "base",
        "checksum_start",
        "count",
        "epoch",
        "first",
        "gso_size",
        "gso_type",
        "headers",
        "next_counter",
        "piece_bytes",
        "segments",
        "skip",
        "slices",
    )

    def __init__(self) -> None:
        self.epoch: object = None
        """Whose counters these are; with `base` the name of the frame. None: no run is open."""
        self.base = 0
        self.next_counter = 0
        """Of the record that would go on with this run; -1 if none can."""
        self.first = 0
        self.count = 0
        self.gso_type = GSO_NONE
        self.gso_size = 0
        """Payload of all pieces but the frame's last."""
        self.checksum_start = 0
        self.headers = b""
        self.skip = 0
        """Where the payload begins in each piece's plain text."""
        self.piece_bytes = 0
        """Length of the plain text of all pieces but the frame's last."""
        self.segments = 0
        """Segments of the run so far."""
        self.slices: list[bytes | memoryview] = []

    def begin(
        self, plaintext: bytes, at: int, epoch: object, counter: int, number: int, count: int
    ) -> bool:
        """Open a run with this piece, whose content starts at `at`. False: malformed, no run."""
        self.epoch = None
        headers_at = at + PIECE_HINT_BYTES
        if len(plaintext) < headers_at + 34:
            return False
        gso_type = plaintext[at]
        checksum_start = plaintext[at + 1] << 1
        header_bytes = header_length(memoryview(plaintext)[headers_at:], gso_type, checksum_start)
        self.skip = headers_at + header_bytes
        payload_bytes = len(plaintext) - self.skip
        if not header_bytes or payload_bytes <= 0:
            return False
        self.gso_size = payload_bytes
        headers = plaintext[headers_at : self.skip]
        if 0 < number == count - 1:
            # The last piece is shorter: how long the others are follows from the whole.
            self.gso_size = gso_size_before(headers, checksum_start, count, payload_bytes)
            if not self.gso_size:
                return False
        self.epoch = epoch
        self.base = counter - number
        self.next_counter = counter + 1
        self.first = number
        self.count = count
        self.gso_type = gso_type
        self.checksum_start = checksum_start
        self.headers = headers
        self.piece_bytes = len(plaintext)
        self.segments = 1
        self.slices = [plaintext[self.skip :]]
        return True

    def begin_run(self, plaintext: bytes, at: int, epoch: object, counter: int) -> bool:
        """Open a run with those segments that a spanning record holds. False: malformed."""
        self.epoch = None
        if len(plaintext) < at + RUN_HINT_BYTES:
            return False
        gso_type, half_start, gso_size, first, count, padding = RUN_HINT.unpack_from(plaintext, at)
        headers_at = at + RUN_HINT_BYTES + padding
        header_bytes = header_length(memoryview(plaintext)[headers_at:], gso_type, half_start << 1)
        self.skip = headers_at + header_bytes
        payload_bytes = len(plaintext) - self.skip
        if not header_bytes or payload_bytes <= 0 or not gso_size:
            return False
        segments, remainder = divmod(payload_bytes + gso_size - 1, gso_size)
        after = first + segments
        if after > count or (after < count and remainder != gso_size - 1):
            return False
        self.epoch = epoch
        self.base = NO_BASE
        self.next_counter = counter + 1
        self.first = first
        self.count = count
        self.gso_type = gso_type
        self.gso_size = gso_size
        self.checksum_start = half_start << 1
        self.headers = plaintext[headers_at : self.skip]
        self.segments = segments
        self.slices = [memoryview(plaintext)[self.skip :]]
        return True

    def join_run(self, plaintext: bytes, counter: int, at: int = INNER_HEADER_BYTES) -> bool:
        """Add the segments of the record that follows, if they go on where this run ends."""
        if counter != self.next_counter or self.base != NO_BASE:
            return False
        other = Run()
        if (
            not other.begin_run(plaintext, at, self.epoch, counter)
            or other.first != self.first + self.segments
            or other.headers != self.headers
            or other.count != self.count
            or other.gso_size != self.gso_size
            or other.gso_type != self.gso_type
        ):
            return False
        self.segments += other.segments
        self.slices += other.slices
        self.next_counter += 1
        return True

    def join(self, plaintext: bytes, number: int) -> bool:
        """Add the piece that follows, if it can. The caller has compared epoch, base, counter."""
        length = len(plaintext)
        if length != self.piece_bytes and (
            number != self.count - 1 or not self.skip < length < self.piece_bytes
        ):
            return False
        self.slices.append(plaintext[self.skip :])
        self.segments += 1
        self.next_counter += 1
        return True

    def finish(self) -> list[bytes | memoryview]:
        """Close the run. Return a frame for a TAP with offloads, its virtio header first.

        Raises `ProtocolError` if the headers are not those of a large frame.
        """
        self.epoch = None
        slices = self.slices
        pieces = self.segments
        headers = self.headers
        gso_type = self.gso_type
        gso_size = self.gso_size
        includes_last = self.first + pieces == self.count
        if self.first or not includes_last:
            headers = true_headers(
                headers,
                gso_type,
                self.checksum_start,
                gso_size,
                self.first,
                includes_last,
                sum(map(len, slices)),
            )
            if self.first:
                gso_type &= ~GSO_ECN
        checksum_offset = CHECKSUM_OFFSETS[gso_type]
        if pieces == 1:
            gso_type, gso_size = GSO_NONE, 0
        virtio = VIRTIO_HEADER.pack(
            NEEDS_CHECKSUM,
            gso_type,
            len(headers),
            gso_size,
            self.checksum_start,
            checksum_offset,
        )
        return [virtio, headers, *slices]

    def finish_singly(self) -> list[bytes]:
        """Close the run. Return an ordinary frame for each piece, for a TAP without offloads."""
        self.epoch = None
        offset = CHECKSUM_OFFSETS[self.gso_type]
        frames = []
        payload = b"".join(self.slices)
        for number, at in enumerate(range(0, len(payload), self.gso_size), start=self.first):
            piece = payload[at : at + self.gso_size]
            headers = true_headers(
                self.headers,
                self.gso_type,
                self.checksum_start,
                self.gso_size,
                number,
                number == self.count - 1,
                len(piece),
            )
            frames.append(complete_checksum(headers + piece, self.checksum_start, offset))
        return frames
