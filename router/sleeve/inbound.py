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
from router.sleeve.delivery import Delivery
from router.sleeve.effects import Endpoint, ReceiveEpoch, SessionEffect
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
from router.sleeve.forwarder import Forwarder
from router.sleeve.keys import NONCE
from router.sleeve.layout import NUMBER_AT, NUMBERS
from router.sleeve.mender import MAX_ROUNDS, Mender
from router.sleeve.record import (
    KIND_PARTIAL,
    KIND_PIECE,
    KIND_RUN,
    one_hop_less,
    with_kind,
)
from router.sleeve.relay import Relay
from router.sleeve.tables import Tables

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
        self._delivery = Delivery(tables)
        self._relay = Relay()
        self._sliced: tuple[memoryview, int] = (memoryview(b""), 0)
        self._slices: list[memoryview] = []
        """Where the ciphertexts are in a buffer full of datagrams of one size."""
        self._broadcasts = BroadcastFilter()
        self._holding: dict[Forwarder, None] = {}
        """Whose datagrams wait for a hole before them to be filled."""
        self.release_at = math.inf
        """When the first of them have waited long enough."""

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
        run = self._delivery.run
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
        run = self._delivery.run
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
            self._delivery.begin_run(forwarder, source, epoch, counter, plaintext, now)
        elif next_hop < 0:
            forwarder.drop(REASONS[next_hop])
        else:
            onward = self._tables.forwarders.get(next_hop)
            if onward is None:
                forwarder.drop("no-route")
            else:
                self._relay.pass_run(onward, forwarder, plaintext)

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
                self._delivery.begin_pieces(
                    forwarder, source, epoch, counter, number, count, plaintext, now
                )
            else:
                self._delivery.deliver(forwarder, source, kind, plaintext, INNER_HEADER_BYTES, now)
        elif next_hop < 0:
            forwarder.drop(REASONS[next_hop])
        else:
            onward = self._tables.forwarders.get(next_hop)
            if onward is None:
                forwarder.drop("no-route")
            elif kind == KIND_PIECE:
                self._relay.pass_piece(onward, forwarder, epoch, counter, number, count, plaintext)
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
            self._delivery.deliver(forwarder, source, kind, plaintext, content_at, now)
        if not neighbours:
            return
        onward = one_hop_less(plaintext)
        for neighbour in neighbours:
            other = self._tables.forwarders.get(neighbour)
            if other is None:
                forwarder.drop("no-route")
            elif other is not forwarder:
                other.send_record(onward)

    def finish_run(self) -> None:
        """Write the pieces that were stitched together so far."""
        self._delivery.finish_run()

    def forget(self, forwarder: Forwarder) -> None:
        self._holding.pop(forwarder, None)
        self._relay.forget(forwarder)
