"""What a session keeps to make good what it lost, while its peer sends parity.

What comes after a hole waits for the parity of it, which is usually in the same receive: TCP
would take a segment that comes late for one that overtook others, or for a lost one. So there are
two queues of datagrams. `held` came after a hole and has not been looked at further. What was
taken is kept until its parity has come, as it may be needed to fill one.

Nothing in here has proved authentic. So it is all bounded, in datagrams, time and attempts, and
only what came from where the peer is can be held.
"""

import math
from collections import deque

from router.sleeve.effects import ReceiveEpoch
from router.sleeve.format import HEADER, HEADER_BYTES
from router.sleeve.parity import PARITY_TYPES, covered_by, is_later, may_follow, remaining
from router.sleeve.window import ReplayWindow

Batch = tuple[memoryview, int]
"""Datagrams that came together, and the size of all of them but the last."""

MAX_KEPT = 128
"""Datagrams whose parity has not come yet, per session, two sends and more. The oldest give way."""

MAX_HELD = 128
"""Datagrams that wait for a hole before them to be filled, per session."""

HOLD_S = 0.002
"""They wait no longer. A whole send with its parity takes half a millisecond at 1 Gbit/s, and two
where it comes in one datagram at a time and keeps us busy."""

MAX_ROUNDS = 16
"""Holes in what is held that are dealt with at once; with more of them, the rest waits."""

MAX_IDLE_BATCHES = 256
"""Batches without any parity, after which a peer sends none any more."""

MAX_FRUITLESS = 500
"""Per second, attempts that yielded nothing authentic, at 0.1 ms at most."""

MAX_REMEMBERED = 64
"""Datagrams that were made good lately, which might yet come."""


class Mender:
    def __init__(self, data_type: int) -> None:
        self.held: list[Batch] = []
        """What came since a datagram did not, in its order."""
        self.epoch: ReceiveEpoch | None = None
        """The one on which something is lost that these wait for."""
        self.found: dict[int, bytes] = {}
        """While `held` is gone through again: datagrams that fill holes, by their counters."""
        self.is_mending = False
        """`held` is gone through again."""
        self.is_filling = False
        """What was found is taken."""
        self.given_up: float = 0
        """While `held` is gone through again: wait for no datagram below this counter."""
        self.release_at = math.inf
        self._lost = -1
        """The counter that `held` waits for."""
        self._held_count = 0
        self._parity_came = self._is_sure = False
        """Parity that may fill the hole is held; and it is one, not only a datagram to come."""
        self._data_type = data_type
        self._parity_type = PARITY_TYPES[data_type]
        self._parities = self._stride = 0
        """Groups that were told of in this batch, and how many there are."""
        self._covered = -1
        """The last counter of them all."""
        self._tail: bytes = b""
        """Parity of the one group that the last datagram is missing of, which may follow."""
        self._kept: deque[Batch] = deque()
        """Batches that were taken, and whose parity has not come."""
        self._kept_count = 0
        self._mended: deque[tuple[int, int]] = deque(maxlen=MAX_REMEMBERED)
        """Index and counter of each."""
        self._idle_batches = 0
        self._fruitless = 0
        self._fruitless_since = -math.inf

    @property
    def is_idle(self) -> bool:
        return self._idle_batches > MAX_IDLE_BATCHES and not (self.held or self.is_mending)

    def take_parity(self, parity: memoryview, window: ReplayWindow) -> bool:
        """True if something of its group is lost, so that it and what follows has to be held."""
        group = covered_by(parity, window.highest)
        if not group:
            return False
        missing = [*filter(window.check, group)]
        if missing and missing[0] > window.highest and may_follow(parity):
            del missing[-1]
            self._tail = bytes(parity)
        self._parities += 1
        self._stride = group.step
        self._covered = max(self._covered, group[-1])
        return bool(missing) and min(missing[0], window.highest + 1) >= self.given_up

    def end_batch(self, batch: memoryview, size: int, epoch: ReceiveEpoch, now: float) -> None:
        """This was taken, and what followed it, if anything did, is held."""
        highest = epoch.window.highest
        tail, self._tail = self._tail, b""
        parities, self._parities = self._parities, 0
        covered, self._covered = self._covered, -1
        self._idle_batches = 0 if parities else self._idle_batches + 1
        if parities >= self._stride and covered == highest:
            # All of it came, as it usually does.
            self._kept.clear()
            self._kept_count = 0
            return
        self._kept.append((memoryview(bytes(batch)), size))
        self._kept_count += -(-len(batch) // size)
        while self._kept_count > MAX_KEPT:
            batch, size = self._kept.popleft()
            self._kept_count -= -(-len(batch) // size)
        if tail and covered > highest >= self.given_up - 1 and not self.held:
            self.hold(memoryview(tail), len(tail), epoch, now, is_sure=False)

    def hold(
        self,
        batch: memoryview,
        size: int,
        epoch: ReceiveEpoch,
        now: float,
        *,
        is_sure: bool = True,
    ) -> None:
        """Let this wait, which comes after a datagram that is lost on this epoch.

        Or may have come before it: then it is parity, and not `is_sure`.
        """
        if not self.held:
            self.epoch = epoch
            self._lost = epoch.window.highest + 1
            self._parity_came = self._is_sure = False
            if not self.is_mending:
                self.release_at = now + HOLD_S
        self.held.append((memoryview(bytes(batch)), size))
        self._held_count += -(-len(batch) // size)
        if self._held_count > MAX_HELD:
            self.release_at = -math.inf
        self._is_sure = self._is_sure or is_sure
        for at in range(0, len(batch) - HEADER_BYTES, size):
            if batch[at] == self._parity_type and not self._parity_came:
                group = covered_by(batch[at:], self._lost)
                self._parity_came = self._lost in group or is_later(group, self._lost)

    def release(self, now: float) -> list[Batch]:
        """What to go through now, `found` being filled; nothing while it has to wait."""
        if not self.held or self.epoch is None:
            return []
        window = self.epoch.window
        is_late = now >= self.release_at
        lost = window.highest + 1
        is_hopeless = False
        if self._parity_came and (self._is_sure or is_late):
            is_hopeless = self._find(self.epoch.local_index, window, is_late, now)
        if is_late:
            self.given_up = math.inf
        elif is_hopeless:
            self.given_up = lost + 1
        elif lost == self._lost and lost not in self.found:
            return []
        held, self.held = self.held, []
        self._held_count = 0
        return held

    def end_mending(self) -> None:
        self.is_mending = False
        self.given_up = 0
        self.found = {}

    def _find(self, index: int, window: ReplayWindow, is_late: bool, now: float) -> bool:
        """Note what parity yields: datagrams that did not come, and may be forged.

        True if the first one that is missing is not among them and never will be.
        """
        if now >= self._fruitless_since + 1.0:
            self._fruitless, self._fruitless_since = 0, now
        if self._fruitless >= MAX_FRUITLESS:
            return True
        members: dict[int, memoryview] = {}
        parities = []
        newest = -1
        for batch, size in (*self._kept, *self.held):
            for at in range(0, len(batch) - HEADER_BYTES, size):
                record_type, its_index, counter, _, _ = HEADER.unpack_from(batch, at)
                if its_index != index:
                    continue
                if record_type == self._parity_type:
                    parities.append(batch[at : at + size])
                elif record_type == self._data_type:
                    members[counter] = batch[at : at + size]
                    newest = max(newest, counter)
        lost = window.highest + 1
        is_hopeless = False
        for parity in parities:
            group = covered_by(parity, window.highest)
            at_hand = [members[each] for each in group if each in members]
            missing = [each for each in group if each not in members and window.check(each)]
            if len(missing) == 1 and len(at_hand) == len(group) - 1:
                (counter,) = missing
                is_due = counter < newest or is_late or not may_follow(parity)
                if is_due and counter not in self.found and self._fruitless < MAX_FRUITLESS:
                    # Until it proves authentic.
                    self._fruitless += 1
                    self.found[counter] = remaining(parity, self._data_type, counter, at_hand)
            elif lost in missing and any(
                counter != lost and counter < newest for counter in missing
            ):
                is_hopeless = True  # it is not the only one of its group
            if is_later(group, lost):
                is_hopeless = True
        if not self.found:
            self._fruitless += 1
        return is_hopeless and lost not in self.found

    def note_mended(self, index: int, counter: int) -> None:
        """What was found for this counter is authentic."""
        self._fruitless = max(0, self._fruitless - 1)
        self._mended.append((index, counter))

    def was_only_late(self, index: int, counter: int) -> bool:
        """A datagram came that had been made good as lost. True once."""
        if (index, counter) not in self._mended:
            return False
        self._mended.remove((index, counter))
        return True
