"""Records from peers become frames for the bridge, or records to other peers.

    split -> epoch by index -> slices to a record -> open -> replay window -> record
      for us: stitch pieces, unbundle -> TAP
      for another: one hop less, sealed anew -> forwarder of the next hop
      for everyone: once -> TAP, and the neighbours of the source's tree

The loop over datagrams is written out flat, and a piece that goes on with the open run is dealt
with in it: that is what nearly every datagram of a fast flow is. Speed shapes this file;
`tests/router/sleeve/bench_engine.py` measures it.
"""

import math

from cryptography.exceptions import InvalidTag

from router.overlay.broadcast import BroadcastFilter
from router.overlay.switch import DELIVER, REASONS
from router.sleeve.effects import Endpoint, ReceiveEpoch, SendEpoch, SessionEffect
from router.sleeve.format import (
    BROADCAST_HEADER,
    BROADCAST_SHORT_ID,
    HEADER,
    HEADER_BYTES,
    INNER_HEADER_BYTES,
    KIND_FRAGMENT,
    KIND_FRAME,
    PASS_ON,
    TYPE_CONTROL,
    TYPE_DATA,
    TYPE_PARITY,
    TYPE_PLAIN_CONTROL,
    TYPE_PLAIN_DATA,
    TYPE_PLAIN_PARITY,
    TYPE_PLAIN_SPAN,
    TYPE_SPAN,
    unpack_inner_header,
)
from router.sleeve.forwarder import LARGE_HEADROOM_BYTES, Forwarder
from router.sleeve.keys import NONCE
from router.sleeve.layout import NUMBER_AT, NUMBERS
from router.sleeve.mender import MAX_ROUNDS, Mender
from router.sleeve.pieces import (
    CHECKSUM_OFFSETS,
    GSO_NONE,
    complete_checksum,
    plan_cut,
    segments,
)
from router.sleeve.record import (
    HINT_BYTES,
    KIND_BUNDLE,
    KIND_PARTIAL,
    KIND_PIECE,
    KIND_RUN,
    MIN_FRAME_BYTES,
    NO_HINT,
    bundled,
    checksum_hint,
    one_hop_less,
    with_kind,
)
from router.sleeve.stitch import Run
from router.sleeve.tables import Tables
from router.sleeve.tap import NEEDS_CHECKSUM, NO_OFFLOAD, VIRTIO_HEADER
from weavepy.base.errors import ProtocolError

MAX_RELAYED_FRAMES = 256
"""Large frames on their way through us whose reserved counters are remembered."""

_unpack_header = HEADER.unpack_from
_pack_nonce = NONCE.pack
_MIN_DATAGRAM_BYTES = HEADER_BYTES + 1
_COUNTER_END = HEADER_BYTES - 3


class Inbound:
    def __init__(self, tables: Tables, *, encrypted: bool) -> None:
        self._tables = tables
        self._data_type = TYPE_DATA if encrypted else TYPE_PLAIN_DATA
        self._control_type = TYPE_CONTROL if encrypted else TYPE_PLAIN_CONTROL
        self._span_type = TYPE_SPAN if encrypted else TYPE_PLAIN_SPAN
        self._parity_type = TYPE_PARITY if encrypted else TYPE_PLAIN_PARITY
        self._run = Run()
        self._run_sender: Forwarder | None = None
        self._sliced: tuple[memoryview, int] = (memoryview(b""), 0)
        self._slices: list[memoryview] = []
        """Where the ciphertexts are in a buffer full of datagrams of one size."""
        self._broadcasts = BroadcastFilter()
        self._holding: dict[Forwarder, None] = {}
        """Whose datagrams wait for a hole before them to be filled."""
        self.release_at = math.inf
        """When the first of them have waited long enough."""
        self._relayed: dict[tuple[ReceiveEpoch, int, int, Forwarder], tuple[SendEpoch, int]] = {}

    def handle_datagrams(
        self, buffer: memoryview, length: int, size: int, endpoint: Endpoint, now: float
    ) -> list[tuple[Forwarder, list[SessionEffect]]]:
        """Take `length` bytes that came from one sender: datagrams of `size`, the last shorter.

        The buffer may be used again afterwards.
        """
        effects: list[tuple[Forwarder, list[SessionEffect]]] = []
        data_type = self._data_type
        span_type = self._span_type
        parity_type = self._parity_type
        run = self._run
        last_index = -1
        highest = -1
        epoch: ReceiveEpoch | None = None
        forwarder: Forwarder | None = None
        records = datagrams = 0
        end = 0
        while end < length:
            start = end
            end = start + size
            if end > length:
                end = length
            if end - start < _MIN_DATAGRAM_BYTES:
                self._tables.drop("runt-datagram")
                continue
            record_type, index, counter, number, count = _unpack_header(buffer, start)
            if index != last_index:
                if epoch is not None and forwarder is not None and highest >= 0:
                    effects.append((forwarder, self._authentic(epoch, highest, endpoint, now)))
                last_index = index
                highest = -1
                found = self._tables.epochs.get(index)
                if found is None:
                    epoch = None
                else:
                    epoch, forwarder = found
                    window = epoch.window
                    decrypt = None if epoch.aead is None else epoch.aead.decrypt
            if epoch is None or forwarder is None:
                self._tables.drop("unknown-index")
                continue
            if counter != window.highest + 1:
                mender = forwarder.mender
                if record_type == parity_type:
                    if endpoint != forwarder.session.endpoint:
                        forwarder.drop("parity-from-elsewhere")
                        continue
                    if mender is None:
                        mender = forwarder.mender = Mender(data_type)
                    if mender.found and mender.epoch is epoch:
                        effects += self._fill(forwarder, epoch, now)
                    if mender.take_parity(buffer[start:end], window):
                        mender.hold(buffer[start:length], size, epoch, now)
                        length = start
                        break
                    continue
                if counter <= window.highest:
                    if not window.check(counter):
                        forwarder.drop("replayed")
                        if mender is not None and mender.was_only_late(index, counter):
                            forwarder.session.note_mended(epoch, -1)
                        continue
                elif mender is not None and record_type == data_type:
                    if mender.found and mender.epoch is epoch:
                        effects += self._fill(forwarder, epoch, now, counter)
                    if counter > window.highest + 1 >= mender.given_up and (
                        endpoint == forwarder.session.endpoint
                    ):
                        mender.hold(buffer[start:length], size, epoch, now)
                        length = start
                        break
            if record_type == span_type:
                end, whole = self._take_span(forwarder, buffer, start, length, size, now)
                if whole is None:
                    continue
                if decrypt is not None:
                    header = HEADER.pack(record_type, index, counter, 0, count)
                    try:
                        whole = decrypt(_pack_nonce(counter), whole, header)
                    except InvalidTag:
                        forwarder.drop("not-authentic")
                        continue
                window.accept(counter)
                if counter > highest:
                    highest = counter
                records += 1
                datagrams += count
                self._handle_run(forwarder, epoch, counter, whole, now)
                continue
            if decrypt is not None:
                try:
                    plaintext = decrypt(
                        _pack_nonce(counter),
                        buffer[start + HEADER_BYTES : end],
                        buffer[start : start + HEADER_BYTES],
                    )
                except InvalidTag:
                    forwarder.drop("not-authentic")
                    continue
            else:
                plaintext = bytes(buffer[start + HEADER_BYTES : end])
            if record_type != data_type:
                if record_type != self._control_type:
                    forwarder.drop("unknown-type")
                    continue
                window.accept(counter)
                if counter > highest:
                    highest = counter
                forwarder.records_received += 1
                effects.append((forwarder, self._authentic(epoch, highest, endpoint, now)))
                session = forwarder.session
                control = session.handle_control(plaintext, epoch, endpoint, end - start, now)
                effects.append((forwarder, control))
                continue
            window.accept(counter)
            if counter > highest:
                highest = counter
            records += 1
            datagrams += 1
            if (
                counter == run.next_counter
                and run.epoch is epoch
                and counter - number == run.base
                and run.join(plaintext, number)
            ):
                continue
            self._handle_record(forwarder, epoch, counter, number, count, plaintext, now)
        if epoch is not None and forwarder is not None:
            forwarder.bytes_received += length
            forwarder.records_received += records
            forwarder.frames_received += records
            mender = forwarder.mender
            if mender is not None and not mender.is_filling:
                mender.end_batch(buffer[:length], size, epoch, now)
                if mender.held and not mender.is_mending:
                    effects += self._mend(forwarder, now)
                if mender.is_idle:
                    forwarder.mender = None
            if highest >= 0:
                effects.append((forwarder, self._authentic(epoch, highest, endpoint, now)))
            if records:
                effects.append((forwarder, forwarder.session.handle_data(epoch, datagrams, now)))
        return effects

    def _mend(
        self, forwarder: Forwarder, now: float
    ) -> list[tuple[Forwarder, list[SessionEffect]]]:
        """Go through what is held back, if it may go on, with what parity yields in its place."""
        mender = forwarder.mender
        assert mender is not None
        effects: list[tuple[Forwarder, list[SessionEffect]]] = []
        # Only what came from there is held.
        endpoint = forwarder.session.endpoint
        mender.is_mending = True
        # Each time that it stops again, it does so at a later hole.
        for _ in range(MAX_ROUNDS):
            for held, size in mender.release(now):
                effects += self.handle_datagrams(held, len(held), size, endpoint, now)
        if mender.epoch is not None and not mender.held:
            effects += self._fill(forwarder, mender.epoch, now)
        mender.end_mending()
        if mender.held:
            self._holding[forwarder] = None
            self.release_at = min(self.release_at, mender.release_at)
        else:
            self._holding.pop(forwarder, None)
        return effects

    def _fill(
        self, forwarder: Forwarder, epoch: ReceiveEpoch, now: float, end: float = math.inf
    ) -> list[tuple[Forwarder, list[SessionEffect]]]:
        """Take what parity yields, below this counter, as if it had come: what is next, or late."""
        mender = forwarder.mender
        assert mender is not None
        effects: list[tuple[Forwarder, list[SessionEffect]]] = []
        endpoint = forwarder.session.endpoint
        mender.is_filling = True
        for counter in sorted(mender.found):
            following = epoch.window.highest + 1
            if counter >= end or counter > following >= mender.given_up:
                break
            datagram = mender.found.pop(counter)
            length = len(datagram)
            before = forwarder.records_received
            effects += self.handle_datagrams(memoryview(datagram), length, length, endpoint, now)
            if forwarder.records_received > before:
                forwarder.session.note_mended(epoch, 1)
                mender.note_mended(epoch.local_index, counter)
            else:
                mender.given_up = max(mender.given_up, counter + 1)
        mender.is_filling = False
        return effects

    def release(self, now: float) -> list[tuple[Forwarder, list[SessionEffect]]]:
        """Let go on what has waited long enough for lost datagrams before it."""
        effects: list[tuple[Forwarder, list[SessionEffect]]] = []
        self.release_at = math.inf
        for forwarder in list(self._holding):
            effects += self._mend(forwarder, now)
        return effects

    def _authentic(
        self, epoch: ReceiveEpoch, highest: int, endpoint: Endpoint, now: float
    ) -> list[SessionEffect]:
        return epoch.session.handle_authentic(epoch, highest, endpoint, now)

    def _take_span(
        self,
        forwarder: Forwarder,
        buffer: memoryview,
        start: int,
        length: int,
        size: int,
        now: float,
    ) -> tuple[int, bytes | None]:
        """Take the datagram at `start`, and all others of its record if they follow it.

        Returns where the next datagram starts, and the record's ciphertext if it is whole now.
        """
        _, index, counter, number, count = _unpack_header(buffer, start)
        end = min(start + count * size, length)
        if (
            not number
            and start + (count - 1) * size + HEADER_BYTES < end
            and buffer[start + NUMBER_AT : end : size] == NUMBERS[:count]
            and buffer[start + _COUNTER_END : end : size] == bytes((counter & 0xFF,)) * count
        ):
            if self._sliced[1] != size or self._sliced[0] is not buffer:
                self._sliced = buffer, size
                starts = range(HEADER_BYTES, len(buffer), size)
                self._slices = [buffer[at : at + size - HEADER_BYTES] for at in starts]
            first = start // size
            slices = self._slices[first : first + count]
            if end - start != count * size:
                slices[-1] = buffer[start + (count - 1) * size + HEADER_BYTES : end]
            return end, b"".join(slices)
        end = min(start + size, length)
        part = bytes(buffer[start + HEADER_BYTES : end])
        return end, forwarder.assembler.add(index, counter, number, count, part, now)

    def _handle_run(
        self, forwarder: Forwarder, epoch: ReceiveEpoch, counter: int, plaintext: bytes, now: float
    ) -> None:
        """Take one authentic record that spanned datagrams: it holds a run of segments."""
        run = self._run
        if run.epoch is epoch and run.join_run(plaintext, counter):
            return
        if len(plaintext) < INNER_HEADER_BYTES:
            forwarder.drop("malformed")
            return
        source, destination, kind, hops_left = unpack_inner_header(plaintext)
        if kind != KIND_RUN or destination == BROADCAST_SHORT_ID:
            forwarder.drop("malformed")
            return
        next_hop = self._tables.switch.from_peer(source, destination, hops_left)
        if next_hop == DELIVER:
            self.finish_run()
            if not run.begin_run(plaintext, INNER_HEADER_BYTES, epoch, counter):
                forwarder.drop("malformed")
                return
            self._run_sender = forwarder
            self._tables.switch.learn_behind(run.headers[6:12], source, now)
        elif next_hop < 0:
            forwarder.drop(REASONS[next_hop])
        else:
            onward = self._tables.forwarders.get(next_hop)
            if onward is None:
                forwarder.drop("no-route")
            else:
                self._relay_run(onward, forwarder, plaintext)

    def _relay_run(self, onward: Forwarder, forwarder: Forwarder, plaintext: bytes) -> None:
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

    def _handle_record(
        self,
        forwarder: Forwarder,
        epoch: ReceiveEpoch,
        counter: int,
        number: int,
        count: int,
        plaintext: bytes,
        now: float,
    ) -> None:
        """Take one authentic data record."""
        if number >= count or len(plaintext) < INNER_HEADER_BYTES:
            forwarder.drop("malformed")
            return
        source, destination, kind, hops_left = unpack_inner_header(plaintext)
        if kind == KIND_FRAGMENT:
            whole = forwarder.reassembler.add(plaintext[INNER_HEADER_BYTES:], now)
            if whole is None:
                return
            plaintext, number, count = whole, 0, 1
            if len(plaintext) < INNER_HEADER_BYTES:
                forwarder.drop("malformed")
                return
            source, destination, kind, hops_left = unpack_inner_header(plaintext)
            if kind in (KIND_FRAGMENT, KIND_PIECE):
                forwarder.drop("malformed")
                return
        if destination == BROADCAST_SHORT_ID:
            self._handle_broadcast(forwarder, source, kind, hops_left, plaintext, now)
            return
        next_hop = self._tables.switch.from_peer(source, destination, hops_left)
        if next_hop == DELIVER:
            if kind == KIND_PIECE:
                self.finish_run()
                if not self._run.begin(
                    plaintext, INNER_HEADER_BYTES, epoch, counter, number, count
                ):
                    forwarder.drop("malformed")
                    return
                self._run_sender = forwarder
                self._tables.switch.learn_behind(self._run.headers[6:12], source, now)
            else:
                self._deliver(forwarder, source, kind, plaintext, INNER_HEADER_BYTES, now)
        elif next_hop < 0:
            forwarder.drop(REASONS[next_hop])
        else:
            onward = self._tables.forwarders.get(next_hop)
            if onward is None:
                forwarder.drop("no-route")
            elif kind == KIND_PIECE:
                self._relay_piece(onward, forwarder, epoch, counter, number, count, plaintext)
            else:
                onward.send_record(one_hop_less(plaintext))

    def _handle_broadcast(
        self,
        forwarder: Forwarder,
        source: int,
        kind: int,
        hops_left: int,
        plaintext: bytes,
        now: float,
    ) -> None:
        content_at = INNER_HEADER_BYTES + BROADCAST_HEADER.size
        only_pass_on = bool(kind & PASS_ON)
        relayed = self._tables.forwarders.get(source) is not forwarder
        if only_pass_on:
            kind &= ~PASS_ON
            plaintext = (
                with_kind(plaintext[:INNER_HEADER_BYTES], kind) + (plaintext[INNER_HEADER_BYTES:])
            )
            # Only the source itself knows what its tunnels brought us.
            if relayed:
                forwarder.drop("malformed")
                return
        if kind not in (KIND_FRAME, KIND_PARTIAL) or len(plaintext) < content_at:
            forwarder.drop("malformed")
            return
        if source == self._tables.switch.ourself:
            forwarder.drop("looped-back")
            return
        boot_nonce, sequence = BROADCAST_HEADER.unpack_from(plaintext, INNER_HEADER_BYTES)
        if not self._broadcasts.accept(source, boot_nonce, sequence, now):
            forwarder.drop("duplicate-broadcast")
            return
        neighbours = self._tables.switch.broadcast_from(source, hops_left)
        if not self._tables.switch.may_spread(source, len(neighbours), now):
            forwarder.drop("storm")
            return
        if relayed and self._tables.switch.may_come_twice(source, now):
            forwarder.drop("relayed-beside-tunnel")
        elif not only_pass_on:
            self._deliver(forwarder, source, kind, plaintext, content_at, now)
        if not neighbours:
            return
        onward = one_hop_less(plaintext)
        for neighbour in neighbours:
            other = self._tables.forwarders.get(neighbour)
            if other is None:
                forwarder.drop("no-route")
            elif other is not forwarder:
                other.send_record(onward)

    def _relay_piece(
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
            self._relay_as_frame(onward, forwarder, plaintext, number, count)
            return
        # Number and base give each piece a counter of its own: the replay window has seen to
        # it that no (base, number) comes twice, and `count` that no number is beyond its run.
        name = (epoch, counter - number, count, onward)
        reserved = self._relayed.get(name)
        if reserved is None or reserved[0] is not onward.session.sending:
            fresh = onward.reserve(count)
            if fresh is None:
                return
            reserved = fresh
            if len(self._relayed) >= MAX_RELAYED_FRAMES:
                del self._relayed[next(iter(self._relayed))]
            self._relayed[name] = reserved
        onward.send_piece(*reserved, number, count, one_hop_less(plaintext))

    def _relay_as_frame(
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

    # --- to the bridge -------------------------------------------------------------------

    def _deliver(
        self,
        forwarder: Forwarder,
        source: int,
        kind: int,
        plaintext: bytes,
        content_at: int,
        now: float,
    ) -> None:
        """Write the frames of a record for us, after those that came before them."""
        if self._run.epoch is not None:
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
        run = self._run
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

    def forget(self, forwarder: Forwarder) -> None:
        self._holding.pop(forwarder, None)
        for name in [name for name in self._relayed if forwarder is name[3]]:
            del self._relayed[name]
