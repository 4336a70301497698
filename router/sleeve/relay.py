"""What came for another peer, on its way there: sealed anew by the next hop's forwarder.

A whole record goes on as it is. Pieces of a large frame need counters that are consecutive again,
whatever came between them; runs and pieces may be too large for the next path.
"""

from router.sleeve.effects import ReceiveEpoch, SendEpoch
from router.sleeve.format import INNER_HEADER_BYTES
from router.sleeve.forwarder import LARGE_HEADROOM_BYTES, Forwarder
from router.sleeve.pieces import CHECKSUM_OFFSETS, GSO_NONE, plan_cut, segments
from router.sleeve.record import KIND_PARTIAL, checksum_hint, one_hop_less, with_kind
from router.sleeve.stitch import Run
from router.sleeve.tap import VIRTIO_HEADER
from weavepy.base.errors import ProtocolError

MAX_RELAYED_FRAMES = 256
"""Large frames on their way through us whose reserved counters are remembered."""


class Relay:
    def __init__(self) -> None:
        self._reserved: dict[tuple[ReceiveEpoch, int, int, Forwarder], tuple[SendEpoch, int]] = {}

    def pass_run(self, onward: Forwarder, forwarder: Forwarder, plaintext: bytes) -> None:
        """Pass a run on as a large frame of its own, by whatever span the next path bears."""
        run = Run()
        if not run.begin_run(plaintext, INNER_HEADER_BYTES, run, 0):
            forwarder.drop("malformed")
            return
        checksum_start = run.checksum_start
        hint = checksum_hint(checksum_start, CHECKSUM_OFFSETS[run.gso_type])
        try:
            virtio, headers, payload = run.finish()
            _, gso_type, _, gso_size, _, _ = VIRTIO_HEADER.unpack(virtio)
            inner = with_kind(one_hop_less(plaintext[:INNER_HEADER_BYTES]), KIND_PARTIAL)
            if gso_type == GSO_NONE:
                onward.send_record(b"".join((inner, hint, headers, payload)))
                return
            buffer = bytearray(b"".join((bytes(LARGE_HEADROOM_BYTES), headers, payload)))
            frame = memoryview(buffer)[LARGE_HEADROOM_BYTES:]
            cut = plan_cut(frame, gso_type, gso_size, checksum_start)
            if cut is None:
                forwarder.drop("malformed")
            elif onward.takes_large(cut):
                end = len(buffer)
                onward.send_large(memoryview(buffer), LARGE_HEADROOM_BYTES, end, cut, inner)
            else:
                for segment in segments(frame, cut):
                    onward.send_record(b"".join((inner, hint, segment)))
        except ProtocolError:
            forwarder.drop("malformed")

    def pass_piece(
        self,
        onward: Forwarder,
        forwarder: Forwarder,
        epoch: ReceiveEpoch,
        counter: int,
        number: int,
        count: int,
        plaintext: bytes,
    ) -> None:
        """Pass a piece on with counters that are again consecutive within its large frame."""
        if len(plaintext) > onward.plaintext_room():
            self._pass_as_frame(onward, forwarder, plaintext, number, count)
            return
        # Number and base give each piece a counter of its own: the replay window has seen to
        # it that no (base, number) comes twice, and `count` that no number is beyond its run.
        name = (epoch, counter - number, count, onward)
        reserved = self._reserved.get(name)
        if reserved is None or reserved[0] is not onward.session.sending:
            fresh = onward.reserve(count)
            if fresh is None:
                return
            reserved = fresh
            if len(self._reserved) >= MAX_RELAYED_FRAMES:
                del self._reserved[next(iter(self._reserved))]
            self._reserved[name] = reserved
        onward.send_piece(*reserved, number, count, one_hop_less(plaintext))

    def _pass_as_frame(
        self, onward: Forwarder, forwarder: Forwarder, plaintext: bytes, number: int, count: int
    ) -> None:
        """A piece too large for the next path goes on as a frame of its own, in fragments."""
        run = Run()
        if not run.begin(plaintext, INNER_HEADER_BYTES, run, number, number, count):
            forwarder.drop("malformed")
            return
        hint = checksum_hint(run.checksum_start, CHECKSUM_OFFSETS[run.gso_type])
        try:
            _, headers, payload = run.finish()
        except ProtocolError:
            forwarder.drop("malformed")
            return
        inner = with_kind(one_hop_less(plaintext[:INNER_HEADER_BYTES]), KIND_PARTIAL)
        onward.send_record(b"".join((inner, hint, headers, payload)))

    def forget(self, forwarder: Forwarder) -> None:
        for name in [name for name in self._reserved if forwarder is name[3]]:
            del self._reserved[name]
