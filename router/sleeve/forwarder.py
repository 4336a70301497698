"""Sending to one neighbour: from plain text to sealed datagrams, many per system call.

Datagrams queue here in the order in which they were sealed. Those of one size, and one shorter
one to end with, leave together (`UDP_SEGMENT`); the engine flushes at the end of each turn.

Per datagram the cost is one pack of the header, one of the nonce and one AEAD call. What keeps
it at that: a large frame is sealed *in place*. Each piece needs the same lead (inner header,
hint, headers) right before its payload slice, so the lead is written over the end of the slice
before it, which has been sealed by then. And on a clean path records span datagrams
(`router.sleeve.spans`): then one AEAD call covers many segments, often the whole frame, and
nothing at all is made per datagram (`router.sleeve.layout`).
"""

from collections.abc import Sequence
from typing import Protocol

from router.sleeve.assembly import Assembler
from router.sleeve.effects import Endpoint, SendControl, SendEpoch
from router.sleeve.format import (
    HEADER,
    HEADER_BYTES,
    INNER_HEADER_BYTES,
    KIND_FRAGMENT,
    TAG_BYTES,
    TYPE_CONTROL,
    TYPE_DATA,
    TYPE_PLAIN_CONTROL,
    TYPE_PLAIN_DATA,
    TYPE_PLAIN_SPAN,
    TYPE_SPAN,
)
from router.sleeve.fragments import Reassembler, split
from router.sleeve.keys import NONCE
from router.sleeve.layout import Layout
from router.sleeve.mender import Mender
from router.sleeve.parity import GROUP, parity_of
from router.sleeve.pieces import MAX_PIECES, Cut
from router.sleeve.record import (
    KIND_PIECE,
    KIND_RUN,
    MAX_HINTED_START,
    PIECE_HINT_BYTES,
    RUN_HINT,
    RUN_HINT_BYTES,
    plaintext_room,
    with_kind,
)
from router.sleeve.session import Session
from router.sleeve.udp import MAX_BATCH_BYTES, MAX_BATCH_DATAGRAMS

_pack_header = HEADER.pack
_pack_nonce = NONCE.pack

Part = bytes | memoryview

LARGE_HEADROOM_BYTES = 96
"""Before a large frame that is sealed in place: inner header, hint and padding go there."""

MAX_FREE_BYTES = 512
"""Parity of so few bytes is always sent: two TCP acknowledgements, say. A lost one stops a small
window for 10 to 50 ms."""
MAX_CREDIT_BYTES = 128 * 1024
DATA_PER_PARITY = 2
"""Other parity takes at most one byte for so many of data, and before that the credit."""

assert INNER_HEADER_BYTES + RUN_HINT_BYTES + MAX_BATCH_DATAGRAMS < LARGE_HEADROOM_BYTES


class DatagramSink(Protocol):
    """What carries datagrams away: UDP sockets, or the portable path's queue."""

    def send(self, parts: Sequence[Part], size: int, count: int, endpoint: Endpoint) -> str:
        """Send `count` datagrams of `size` bytes (the last may be shorter), each two parts.

        The sequence is the sink's from here on. Returns the name of an error, empty if none.
        """
        ...


class Forwarder:
    """A session's sending half, and its counters in both directions."""

    def __init__(
        self,
        session: Session,
        encrypted: bool,
        sink: DatagramSink,
        waiting: list["Forwarder"],
        layout: Layout,
        first_fragment_id: int,
    ) -> None:
        """`waiting` is the engine's list of those that have something to flush; `layout` is
        the engine's too.

        The fragment id is random, so that a restart of ours does not go on in old frames.
        """
        self.session = session
        self.encrypted = encrypted
        self.reassembler = Reassembler()
        self.assembler = Assembler()
        self.drops: dict[str, int] = {}
        self.send_error = ""
        """The last error that a send met; whoever reads it clears it."""
        self.frames_sent = 0
        self.frames_received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.records_sent = 0
        self.records_received = 0
        self._sink = sink
        self._waiting = waiting
        self._layout = layout
        self._data_type = TYPE_DATA if encrypted else TYPE_PLAIN_DATA
        self._control_type = TYPE_CONTROL if encrypted else TYPE_PLAIN_CONTROL
        self._span_type = TYPE_SPAN if encrypted else TYPE_PLAIN_SPAN
        self._next_fragment_id = first_fragment_id
        self._parts: list[Part] = []
        """Header, ciphertext, header, ciphertext ... of datagrams that leave together."""
        self._size = 0
        self._room = 0
        """How many more datagrams of `_size` bytes may join."""
        self._is_waiting = False
        self._protected = False
        """Parity is to go with this batch."""
        self._credit_bytes = MAX_CREDIT_BYTES
        self.parity_sent = 0
        self.mender: Mender | None = None
        """While the peer sends parity."""

    def plaintext_room(self) -> int:
        """How long a record's plain text, inner header included, may be to fit the path."""
        return plaintext_room(self.session.max_datagram_payload_bytes, self.encrypted)

    def drop(self, reason: str, count: int = 1) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + count

    # --- sealing -------------------------------------------------------------------------

    def send_record(self, plaintext: bytes) -> None:
        """Send one record of its own, in fragments if it fits no datagram."""
        epoch = self.session.sending
        if epoch is None:
            self.drop("no-keys")
            return
        if len(plaintext) > self.plaintext_room():
            self._send_fragments(epoch, plaintext)
            return
        counter = epoch.counter
        epoch.counter = counter + 1
        self.seal(epoch, self._data_type, counter, 0, 1, plaintext)

    def reserve(self, count: int) -> tuple[SendEpoch, int] | None:
        """Take `count` consecutive counters; the epoch and the first of them."""
        epoch = self.session.sending
        if epoch is None:
            self.drop("no-keys")
            return None
        base = epoch.counter
        epoch.counter = base + count
        return epoch, base

    def send_piece(
        self, epoch: SendEpoch, base: int, number: int, count: int, plaintext: bytes
    ) -> None:
        """Send one piece with the counter that was reserved for it, and only once."""
        self.seal(epoch, self._data_type, base + number, number, count, plaintext)

    def takes_large(self, cut: Cut) -> bool:
        """Whether a frame that falls so can go by `send_large`."""
        piece_bytes = INNER_HEADER_BYTES + PIECE_HINT_BYTES + cut.header_bytes + cut.gso_size
        return (
            piece_bytes <= self.plaintext_room()
            and cut.count <= MAX_PIECES
            and cut.checksum_start <= MAX_HINTED_START
        )

    def send_large(
        self, buffer: memoryview, frame_at: int, frame_end: int, cut: Cut, inner: bytes
    ) -> None:
        """Send a large frame, sealing it in place, once `takes_large` said yes.

        The buffer is ours to spoil, and has `LARGE_HEADROOM_BYTES` before the frame. The kind
        in the inner header does not matter.
        """
        slice_room = self.session.max_datagram_payload_bytes - HEADER_BYTES
        fixed_bytes = INNER_HEADER_BYTES + RUN_HINT_BYTES + cut.header_bytes
        fixed_bytes += TAG_BYTES if self.encrypted else 0
        segments = (self.session.span * slice_room - fixed_bytes) // cut.gso_size
        if segments > 1:
            inner = with_kind(inner, KIND_RUN)
            self._send_runs(buffer, frame_at, frame_end, cut, inner, segments, fixed_bytes)
        else:
            hint = bytes((cut.gso_type, cut.checksum_start >> 1))
            prefix = with_kind(inner, KIND_PIECE) + hint
            self._send_pieces(buffer, frame_at, frame_end, cut, prefix)

    def _send_runs(
        self,
        buffer: memoryview,
        frame_at: int,
        frame_end: int,
        cut: Cut,
        inner: bytes,
        max_segments: int,
        fixed_bytes: int,
    ) -> None:
        """Records of at most so many segments, which are as equal as can be.

        `fixed_bytes` is what a record has beside segments and padding.
        """
        slice_room = self.session.max_datagram_payload_bytes - HEADER_BYTES
        gso_size, count = cut.gso_size, cut.count
        runs = -(-count // max_segments)
        segments = -(-count // runs)
        padding = 0
        while not _fits_one_send(fixed_bytes + padding + segments * gso_size, slice_room):
            runs += 1
            padding = MAX_BATCH_DATAGRAMS
            segments = -(-count // runs)
        size, padding = slice_room, 0
        if runs > 1:
            full = fixed_bytes + segments * gso_size
            size = -(-full // -(-full // slice_room))
            padding = -full % size
        reserved = self.reserve(-(-count // segments))
        if reserved is None:
            return
        epoch, counter = reserved
        payload_at = frame_at + cut.header_bytes
        headers = bytes(buffer[frame_at:payload_at])
        checksum_start = cut.checksum_start >> 1
        for first in range(0, count, segments):
            hint = RUN_HINT.pack(cut.gso_type, checksum_start, gso_size, first, count, padding)
            lead = b"".join((inner, hint, bytes(padding), headers))
            start = payload_at - len(lead)
            buffer[start:payload_at] = lead
            payload_at += segments * gso_size
            plaintext = buffer[start : payload_at if payload_at < frame_end else frame_end]
            self._seal_span(epoch, counter, plaintext, size)
            counter += 1
        self.frames_sent += count

    def _seal_span(
        self, epoch: SendEpoch, counter: int, plaintext: memoryview, slice_bytes: int
    ) -> None:
        sealed_bytes = len(plaintext) + (TAG_BYTES if self.encrypted else 0)
        count = -(-sealed_bytes // slice_bytes)
        layout = self._layout
        size = HEADER_BYTES + slice_bytes
        if layout.owner is not self or size != self._size or count > self._room:
            if isinstance(layout.owner, Forwarder):
                layout.owner.leave()
            self._begin_batch(size)
            layout.begin(self, slice_bytes)
        header = _pack_header(self._span_type, epoch.remote_index, counter, 0, count)
        place = layout.place(sealed_bytes)
        if epoch.aead is None:
            place[:] = plaintext
        else:
            epoch.aead.encrypt_into(_pack_nonce(counter), plaintext, header, place)
        self._parts += layout.add(header, count, sealed_bytes)
        is_full = not sealed_bytes % slice_bytes
        self._room = max(0, self._room - count) if is_full else 0
        self.records_sent += 1

    def _send_pieces(
        self, buffer: memoryview, frame_at: int, frame_end: int, cut: Cut, prefix: bytes
    ) -> None:
        reserved = self.reserve(cut.count)
        if reserved is None:
            return
        epoch, counter = reserved
        aead = epoch.aead
        encrypt = None if aead is None else aead.encrypt
        queue = self._queue
        data_type, index, count = self._data_type, epoch.remote_index, cut.count
        buffer[frame_at - len(prefix) : frame_at] = prefix
        payload_at = frame_at + cut.header_bytes
        lead = bytes(buffer[frame_at - len(prefix) : payload_at])
        lead_bytes = len(lead)
        gso_size = cut.gso_size
        for number in range(count):
            start = payload_at - lead_bytes
            if number:
                buffer[start:payload_at] = lead
            payload_at += gso_size
            plaintext = buffer[start : payload_at if payload_at < frame_end else frame_end]
            header = _pack_header(data_type, index, counter, number, count)
            if encrypt is None:
                queue(header, bytes(plaintext))
            else:
                queue(header, encrypt(_pack_nonce(counter), plaintext, header))
            counter += 1
        self.frames_sent += count
        self.records_sent += count

    def send_control(self, effect: SendControl) -> None:
        """Seal a control message, padded to the asked size, and send it at once by itself.

        Its endpoint need not be the session's: answers go to where the question came from.
        """
        epoch = effect.epoch
        counter = epoch.counter
        epoch.counter = counter + 1
        room = plaintext_room(effect.datagram_bytes, self.encrypted)
        plaintext = effect.payload.ljust(room, b"\0")
        header = _pack_header(self._control_type, epoch.remote_index, counter, 0, 1)
        sealed = plaintext
        if epoch.aead is not None:
            sealed = epoch.aead.encrypt(_pack_nonce(counter), plaintext, header)
        self.records_sent += 1
        self.bytes_sent += HEADER_BYTES + len(sealed)
        error = self._sink.send([header, sealed], 0, 1, effect.endpoint)
        if error:
            self._failed(error, 1)

    def seal(
        self,
        epoch: SendEpoch,
        record_type: int,
        counter: int,
        number: int,
        count: int,
        plaintext: bytes,
    ) -> None:
        header = _pack_header(record_type, epoch.remote_index, counter, number, count)
        if epoch.aead is not None:
            plaintext = epoch.aead.encrypt(_pack_nonce(counter), plaintext, header)
        self._queue(header, plaintext)
        self.frames_sent += 1
        self.records_sent += 1

    def _send_fragments(self, epoch: SendEpoch, plaintext: bytes) -> None:
        """The whole record, inner header and all, becomes the content of the fragments."""
        inner = with_kind(plaintext[:INNER_HEADER_BYTES], KIND_FRAGMENT)
        self._next_fragment_id += 1
        fragments = split(
            plaintext, self.plaintext_room() - INNER_HEADER_BYTES, self._next_fragment_id
        )
        if not fragments:
            self.drop("too-many-fragments")
        for fragment in fragments:
            counter = epoch.counter
            epoch.counter = counter + 1
            self.seal(epoch, self._data_type, counter, 0, 1, inner + fragment)

    # --- leaving -------------------------------------------------------------------------

    def _queue(self, header: Part, sealed: Part) -> None:
        size = HEADER_BYTES + len(sealed)
        if size == self._size and self._room:
            self._room -= 1
        elif size < self._size and self._room:
            # A shorter one can only be the last.
            self._room = 0
        else:
            self._begin_batch(size)
            self._room -= 1
        self._parts += (header, sealed)

    def _begin_batch(self, size: int) -> None:
        """Make room for datagrams of this size, of which only the last may be shorter."""
        if self._parts:
            self.leave()
        elif not self._is_waiting:
            self._is_waiting = True
            self._waiting.append(self)
        self._size = size
        self._room = min(MAX_BATCH_DATAGRAMS, MAX_BATCH_BYTES // size)
        self._protected = self.session.parity and self._room > 1
        if self._protected:
            self._room -= -(-self._room // (GROUP + 1))

    def flush(self, now: float) -> None:
        """Send what is queued. Called at the end of each turn."""
        self._is_waiting = False
        if self._parts:
            self.leave()
            self._size = 0
            self._room = 0
            self.session.last_sent_at = now

    def leave(self) -> None:
        """Send what is queued, which is not nothing."""
        parts = self._parts
        self._parts = []
        if self._layout.owner is self:
            self._layout.owner = None
        elif self._protected:
            parts = self._with_parity(parts)
        count = len(parts) // 2
        self.bytes_sent += (count - 1) * self._size + HEADER_BYTES + len(parts[-1])
        error = self._sink.send(parts, self._size, count, self.session.endpoint)
        if error:
            self._failed(error, count)

    def _with_parity(self, parts: list[Part]) -> list[Part]:
        """The parts of a batch that is to leave, and of its parity if that may be sent."""
        count = len(parts) // 2
        parity_bytes = -(-count // GROUP) * self._size
        if parity_bytes > MAX_FREE_BYTES:
            earned = count * self._size // DATA_PER_PARITY
            self._credit_bytes = min(self._credit_bytes + earned, MAX_CREDIT_BYTES)
            if parity_bytes > self._credit_bytes:
                return parts
            self._credit_bytes -= parity_bytes
        parity = parity_of(parts, self._size)
        self.parity_sent += len(parity) // 2
        # Only the last one may be shorter.
        last_at = len(parts) - 2 * (HEADER_BYTES + len(parts[-1]) < self._size)
        return [*parts[:last_at], *parity, *parts[last_at:]]

    def _failed(self, error: str, count: int) -> None:
        self.send_error = error
        self.drop(f"send-{error}", count)


def _fits_one_send(record_bytes: int, slice_room: int) -> bool:
    datagrams = -(-record_bytes // slice_room)
    wire_bytes = record_bytes + datagrams * HEADER_BYTES
    return datagrams <= MAX_BATCH_DATAGRAMS and wire_bytes <= MAX_BATCH_BYTES
