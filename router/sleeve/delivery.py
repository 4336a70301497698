"""Frames for the bridge: out of records, or out of pieces that were stitched together."""

from router.sleeve.format import INNER_HEADER_BYTES, KIND_FRAME
from router.sleeve.forwarder import Forwarder
from router.sleeve.pieces import GSO_NONE, complete_checksum
from router.sleeve.record import (
    HINT_BYTES,
    KIND_BUNDLE,
    KIND_PARTIAL,
    MIN_FRAME_BYTES,
    NO_HINT,
    bundled,
)
from router.sleeve.stitch import Run
from router.sleeve.tables import Tables
from router.sleeve.tap import NEEDS_CHECKSUM, NO_OFFLOAD, VIRTIO_HEADER
from weavepy.base.errors import ProtocolError


class Delivery:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.run = Run()
        """The one that is open; the hot path joins pieces to it."""
        self._run_sender: Forwarder | None = None

    def begin_pieces(
        self,
        forwarder: Forwarder,
        source: int,
        epoch: object,
        counter: int,
        number: int,
        count: int,
        plaintext: bytes,
        now: float,
    ) -> None:
        """Open a run with this piece of a large frame."""
        self.finish_run()
        if not self.run.begin(plaintext, INNER_HEADER_BYTES, epoch, counter, number, count):
            forwarder.drop("malformed")
        else:
            self._began(forwarder, source, now)

    def begin_run(
        self,
        forwarder: Forwarder,
        source: int,
        epoch: object,
        counter: int,
        plaintext: bytes,
        now: float,
    ) -> None:
        """Open a run with a record that spanned datagrams."""
        self.finish_run()
        if not self.run.begin_run(plaintext, INNER_HEADER_BYTES, epoch, counter):
            forwarder.drop("malformed")
        else:
            self._began(forwarder, source, now)

    def _began(self, forwarder: Forwarder, source: int, now: float) -> None:
        self._run_sender = forwarder
        self._tables.switch.learn_behind(self.run.headers[6:12], source, now)

    def deliver(
        self,
        forwarder: Forwarder,
        source: int,
        kind: int,
        plaintext: bytes,
        content_at: int,
        now: float,
    ) -> None:
        """Write the frames of a record for us, after those that came before them."""
        if self.run.epoch is not None:
            self.finish_run()
        learn = self._tables.switch.learn_behind
        if kind == KIND_BUNDLE:
            frames = 0
            for hint, frame in bundled(plaintext, content_at):
                learn(frame[6:12], source, now)
                self._write_frame(forwarder, frame, hint)
                frames += 1
            forwarder.frames_received += frames - 1
            return
        hint = NO_HINT
        if kind == KIND_PARTIAL:
            hint = plaintext[content_at : content_at + HINT_BYTES]
            content_at += HINT_BYTES
        elif kind != KIND_FRAME:
            forwarder.drop("malformed")
            return
        frame = plaintext[content_at:]
        if len(frame) < MIN_FRAME_BYTES:
            forwarder.drop("malformed")
            return
        learn(frame[6:12], source, now)
        self._write_frame(forwarder, frame, hint)

    def _write_frame(self, forwarder: Forwarder, frame: bytes, hint: bytes) -> None:
        if hint == NO_HINT:
            self._tables.write((NO_OFFLOAD, frame) if self._tables.tap_offloads else (frame,))
            return
        start, offset = hint[0] << 1, hint[1]
        if start + offset + 2 > len(frame):
            forwarder.drop("malformed")
        elif self._tables.tap_offloads:
            virtio = VIRTIO_HEADER.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, start, offset)
            self._tables.write((virtio, frame))
        else:
            self._tables.write((complete_checksum(frame, start, offset),))

    def finish_run(self) -> None:
        """Write the pieces that were stitched together so far."""
        run = self.run
        if run.epoch is None:
            return
        try:
            if self._tables.tap_offloads:
                self._tables.write(run.finish())
            else:
                for frame in run.finish_singly():
                    self._tables.write((frame,))
        except ProtocolError:
            assert self._run_sender is not None
            self._run_sender.drop("malformed")
