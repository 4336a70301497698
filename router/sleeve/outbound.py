"""Frames from the bridge become records to peers.

    TAP -> switch -> large: pieces, sealed where they lie
                     small: wait for the end of the turn, to share a record
                     for everyone: numbered, to each neighbour of our own tree
                     too big for the path: answered by ICMP, or in fragments

Speed shapes this file; `tests/router/sleeve/bench_engine.py` measures it.
"""

from collections.abc import Sequence
from random import Random

from router.overlay.icmp import too_big_answer
from router.overlay.ipv4 import fragments
from router.overlay.switch import REASONS
from router.sleeve.format import (
    BROADCAST_HEADER,
    BROADCAST_SHORT_ID,
    ETHERNET_HEADER_BYTES,
    INNER_HEADER_BYTES,
    KIND_FRAME,
    MAX_HOPS,
    PASS_ON,
)
from router.sleeve.forwarder import LARGE_HEADROOM_BYTES, Forwarder
from router.sleeve.pieces import (
    CHECKSUM_OFFSETS,
    GSO_NONE,
    Cut,
    complete_checksum,
    plan_cut,
    segments,
)
from router.sleeve.record import (
    BUNDLE_ENTRY_BYTES,
    KIND_BUNDLE,
    KIND_PARTIAL,
    NO_HINT,
    bundle_entry,
    checksum_hint,
    inner_bytes,
    with_kind,
)
from router.sleeve.tables import Tables
from router.sleeve.tap import MAX_FRAME_BYTES, NEEDS_CHECKSUM, NO_OFFLOAD, VIRTIO_HEADER
from weavepy.base.errors import ProtocolError

HEADROOM_BYTES = LARGE_HEADROOM_BYTES
"""Before what is read from the TAP, so that a record's lead finds room before the frame."""

FRAME_BUFFER_BYTES = HEADROOM_BYTES + VIRTIO_HEADER.size + MAX_FRAME_BYTES

_unpack_virtio = VIRTIO_HEADER.unpack_from


class Bundle:
    """Small frames for one destination that wait for the end of this turn."""

    __slots__ = ("entries", "forwarder", "size_bytes")

    def __init__(self, forwarder: Forwarder) -> None:
        self.forwarder = forwarder
        self.entries: list[bytes] = []
        self.size_bytes = INNER_HEADER_BYTES


class Outbound:
    def __init__(self, tables: Tables, rng: Random, *, bundling: bool) -> None:
        self.buffer = memoryview(bytearray(FRAME_BUFFER_BYTES))
        """Frames are read into it from `HEADROOM_BYTES` on, and sealed in it."""
        self._tables = tables
        self._frame_at = HEADROOM_BYTES + (VIRTIO_HEADER.size if tables.tap_offloads else 0)
        self._bundling = bundling
        self._bundles: dict[int, Bundle] = {}
        """By destination."""
        self._boot_nonce = rng.getrandbits(32)
        self._broadcast_sequence = 0

    def handle_frame(self, length: int, now: float) -> None:
        """Take the frame that was read into `buffer` at `HEADROOM_BYTES`."""
        start = self._frame_at
        end = HEADROOM_BYTES + length
        frame = self.buffer[start:end]
        macs = bytes(frame[:12])
        destination = self._tables.switch.from_bridge(macs[:6], macs[6:], now)
        if destination < 0:
            self._tables.drop(REASONS[destination])
            return
        hint = NO_HINT
        cut: Cut | None = None
        if self._tables.tap_offloads:
            flags, gso_type, _, gso_size, checksum_start, checksum_offset = _unpack_virtio(
                self.buffer, HEADROOM_BYTES
            )
            if gso_type != GSO_NONE:
                cut = plan_cut(frame, gso_type, gso_size, checksum_start)
                if cut is None or not flags & NEEDS_CHECKSUM:
                    self._tables.drop("unknown-gso")
                    return
                if cut.count == 1:
                    cut = None
            if cut is None and flags & NEEDS_CHECKSUM:
                hint = checksum_hint(checksum_start, checksum_offset)
                if hint == NO_HINT:
                    frame = self._completed(frame, checksum_start, checksum_offset)
        if destination == BROADCAST_SHORT_ID:
            if self._tables.switch.may_flood(macs[6:], 1 if cut is None else cut.count, now):
                self._flood(frame, hint, cut)
            else:
                self._tables.drop("storm")
            return
        if destination in self._tables.switch.fast:
            self._tables.strays.note(macs[:6], destination, now)
        forwarder = self._tables.forwarders.get(self._tables.switch.unicast.get(destination, 0))
        if forwarder is None:
            self._tables.drop("no-route")
        elif cut is not None:
            self._send_large(forwarder, destination, frame, start, end, cut)
        else:
            self._send_frame(forwarder, destination, frame, hint)

    def _send_frame(
        self, forwarder: Forwarder, destination: int, frame: memoryview, hint: bytes
    ) -> None:
        length = len(frame)
        mtu_bytes = self._tables.switch.mtus_bytes.get(destination)
        if mtu_bytes is not None and length - ETHERNET_HEADER_BYTES > mtu_bytes:
            self._send_smaller(forwarder, destination, frame, hint, mtu_bytes)
            return
        room = forwarder.plaintext_room()
        if self._bundling and (INNER_HEADER_BYTES + BUNDLE_ENTRY_BYTES + length) * 2 <= room:
            bundle = self._bundles.get(destination)
            if bundle is None or bundle.size_bytes + BUNDLE_ENTRY_BYTES + length > room:
                self._send_bundle(destination)
                bundle = self._bundles[destination] = Bundle(forwarder)
            bundle.entries.append(bundle_entry(frame, hint))
            bundle.size_bytes += BUNDLE_ENTRY_BYTES + length
            return
        self._send_bundle(destination)
        path_bytes = forwarder.session.overlay_mtu_bytes
        if length - ETHERNET_HEADER_BYTES > path_bytes and (
            self._answer_too_big(forwarder, frame, path_bytes)
        ):
            return
        forwarder.send_record(self._frame_record(destination, frame, hint))

    def _send_large(
        self,
        forwarder: Forwarder,
        destination: int,
        frame: memoryview,
        start: int,
        end: int,
        cut: Cut,
    ) -> None:
        self._send_bundle(destination)
        segment_bytes = cut.header_bytes + cut.gso_size
        mtu_bytes = self._tables.switch.mtus_bytes.get(destination)
        if mtu_bytes is not None and segment_bytes - ETHERNET_HEADER_BYTES > mtu_bytes:
            hint = self._cut_hint(cut)
            if not self._answer_too_big(forwarder, frame, mtu_bytes):
                for segment in self._segments(frame, cut):
                    self._send_frame(forwarder, destination, memoryview(segment), hint)
            return
        path_bytes = forwarder.session.overlay_mtu_bytes
        if segment_bytes - ETHERNET_HEADER_BYTES > path_bytes and (
            self._answer_too_big(forwarder, frame, path_bytes)
        ):
            return
        if forwarder.takes_large(cut):
            inner = inner_bytes(self._tables.switch.ourself, destination, KIND_FRAME, MAX_HOPS)
            forwarder.send_large(self.buffer, start, end, cut, inner)
            return
        for segment in self._segments(frame, cut):
            forwarder.send_record(self._frame_record(destination, segment, self._cut_hint(cut)))

    def _send_smaller(
        self,
        forwarder: Forwarder,
        destination: int,
        frame: memoryview,
        hint: bytes,
        mtu_bytes: int,
    ) -> None:
        """To containers that take only smaller packets: their bridge would drop this in silence."""
        self._send_bundle(destination)
        path_bytes = forwarder.session.overlay_mtu_bytes
        if self._answer_too_big(forwarder, frame, min(mtu_bytes, path_bytes)):
            return
        if hint != NO_HINT:
            frame = self._completed(frame, hint[0] << 1, hint[1])
        pieces: Sequence[bytes | memoryview] = fragments(frame, mtu_bytes) or (frame,)
        for piece in pieces:
            forwarder.send_record(self._frame_record(destination, piece, NO_HINT))

    def _flood(self, frame: memoryview, hint: bytes, cut: Cut | None) -> None:
        """To everyone, along our own broadcast tree. Segments of large frames travel singly."""
        neighbours = self._tables.switch.flood_to
        pass_on_to = self._tables.switch.pass_on_to
        if not neighbours and not pass_on_to:
            return
        frames: Sequence[bytes | memoryview] = (frame,)
        if cut is not None:
            frames = self._segments(frame, cut)
            hint = self._cut_hint(cut)
        kind = KIND_FRAME if hint == NO_HINT else KIND_PARTIAL
        inner = inner_bytes(self._tables.switch.ourself, BROADCAST_SHORT_ID, kind, MAX_HOPS)
        for each in frames:
            self._broadcast_sequence += 1
            lead = inner + BROADCAST_HEADER.pack(self._boot_nonce, self._broadcast_sequence)
            plaintext = b"".join((lead, b"" if kind == KIND_FRAME else hint, each))
            self._send_each(neighbours, plaintext)
            if pass_on_to:
                marked = with_kind(inner, kind | PASS_ON) + plaintext[INNER_HEADER_BYTES:]
                self._send_each(pass_on_to, marked)

    def _send_each(self, neighbours: tuple[int, ...], plaintext: bytes) -> None:
        for neighbour in neighbours:
            forwarder = self._tables.forwarders.get(neighbour)
            if forwarder is None:
                self._tables.drop("no-route")
            else:
                forwarder.send_record(plaintext)

    def _frame_record(self, destination: int, frame: bytes | memoryview, hint: bytes) -> bytes:
        if hint == NO_HINT:
            inner = inner_bytes(self._tables.switch.ourself, destination, KIND_FRAME, MAX_HOPS)
            return b"".join((inner, frame))
        inner = inner_bytes(self._tables.switch.ourself, destination, KIND_PARTIAL, MAX_HOPS)
        return b"".join((inner, hint, frame))

    def _send_bundle(self, destination: int) -> None:
        """Send what waits for this destination, so that frames stay in order."""
        bundle = self._bundles.pop(destination, None)
        if bundle is None:
            return
        entries = bundle.entries
        ourself = self._tables.switch.ourself
        forwarder = bundle.forwarder
        if len(entries) > 1:
            inner = inner_bytes(ourself, destination, KIND_BUNDLE, MAX_HOPS)
            forwarder.send_record(b"".join((inner, *entries)))
            forwarder.frames_sent += len(entries) - 1
            return
        entry = entries[0]
        frame = memoryview(entry)[BUNDLE_ENTRY_BYTES:]
        forwarder.send_record(self._frame_record(destination, frame, entry[2:BUNDLE_ENTRY_BYTES]))

    def _answer_too_big(self, forwarder: Forwarder, frame: memoryview, mtu_bytes: int) -> bool:
        """Tell the container that sent this, if it can be told, and drop the frame then."""
        answer = too_big_answer(frame, mtu_bytes)
        if answer is None:
            return False
        forwarder.drop("too-big-for-path")
        self._tables.write((NO_OFFLOAD, answer) if self._tables.tap_offloads else (answer,))
        return True

    def _completed(
        self, frame: memoryview, checksum_start: int, checksum_offset: int
    ) -> memoryview:
        """The frame with its checksum finished, for the rare one that no hint can describe."""
        try:
            return memoryview(complete_checksum(bytes(frame), checksum_start, checksum_offset))
        except ProtocolError:
            return frame

    def _segments(self, frame: memoryview, cut: Cut) -> list[bytes]:
        try:
            return list(segments(frame, cut))
        except ProtocolError:
            self._tables.drop("unknown-gso")
            return []

    @staticmethod
    def _cut_hint(cut: Cut) -> bytes:
        return checksum_hint(cut.checksum_start, CHECKSUM_OFFSETS[cut.gso_type])

    def send_bundles(self) -> None:
        """End a turn."""
        for destination in list(self._bundles):
            self._send_bundle(destination)

    def forget(self, forwarder: Forwarder) -> None:
        for destination in [to for to, by in self._bundles.items() if by.forwarder is forwarder]:
            del self._bundles[destination]
