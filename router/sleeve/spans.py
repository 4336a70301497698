"""How many datagrams one record may span: the receiver tells what was lost, the sender follows.

A record of many datagrams costs far less CPU than as many records of one, and is lost whole with
any one of them. So the span is a bet on the path, and the stake follows the evidence: to use a
span, `CLEAN_PER_SPAN` times as many datagrams must have come through since the last loss, and
for any at all, `MIN_CLEAN`. Whatever the loss p of the path is, about 1/p datagrams pass between
two losses, so what the bet loses in addition is about one segment in `CLEAN_PER_SPAN` at most, and
next to nothing where TCP would feel it. One loss and the span is one again; that needs no second
rule for how far to fall, and none for how slowly to rise.

The receiver sends a `Receipt` several times a second while data comes in, and at once when a
record is missing (after a moment, in which one that was merely overtaken may still come). A peer
that never sends one knows neither spans nor runs of segments, and gets none.
"""

import math

from router.sleeve.control import Receipt
from router.sleeve.effects import ReceiveEpoch
from router.sleeve.worth import ParityWorth

MAX_SPAN = 64
"""Datagrams. More than a large frame needs at an MTU of 1,500, and than one send may carry."""

CLEAN_PER_SPAN = 1_000
MIN_CLEAN = 8_000
"""At a loss of 0.1 %, so many pass between two losses once in three thousand times."""

REPORT_INTERVAL_S = 0.1
LOSS_REPORT_INTERVAL_S = 0.02
"""Between two reports when there is a loss to tell."""

SETTLE_S = 0.004
"""So long a record may be overtaken by later ones and does not count as lost."""

NO_RECEIPT_S = 1.0
"""Frames flow and the peer has said nothing for this long: bet on nothing."""

_COUNTS = 1 << 32
"""Counts travel modulo this."""


class SpanChoice:
    """The sender's half: which span the receipts justify."""

    def __init__(self, max_span: int = MAX_SPAN) -> None:
        self.span = 0
        """Datagrams that a record may span now; 0 while we do not know that the peer knows runs."""
        self.losses = 0
        """Records that the peer missed, as far as it said."""
        self.parity = False
        """Datagrams are being lost, and the peer makes them good from parity. From a loss on until
        a span may be longer than one."""
        self._worth = ParityWorth()
        self._max_span = max_span
        self._clean = 0
        """Datagrams that came through since the last loss."""
        self._latest: Receipt | None = None
        self._heard_at = -math.inf

    def handle_receipt(self, receipt: Receipt, now: float) -> None:
        before, self._latest, self._heard_at = self._latest, receipt, now
        if before is None:
            self.span = 1
            return
        mended = ((receipt.mended or 0) - (before.mended or 0)) % _COUNTS
        came = (receipt.datagrams - before.datagrams) % _COUNTS
        lost = (receipt.lost - before.lost) % _COUNTS
        if max(came, lost, mended) >= _COUNTS // 2:
            return  # an older receipt than the one before, or a peer that began anew
        if self.parity:
            self._worth.note(lost, mended, now)
        if lost:
            self.losses += lost
            self.start_anew()
            self.parity = receipt.mended is not None and self._worth.is_worth_it(now)
            return
        self._clean += came
        self.parity = self.parity and self._clean < MIN_CLEAN
        earned = self._clean // CLEAN_PER_SPAN if self._clean >= MIN_CLEAN else 1
        limit = max(1, min(self._max_span, receipt.max_span))
        self.span = min(1 << earned.bit_length() - 1, limit)

    def start_anew(self) -> None:
        """Nothing is known of the path any longer, or that it is lossy."""
        self.parity = False
        self._clean = 0
        self.span = min(self.span, 1)

    def handle_timeout(self, now: float, last_sent_at: float) -> None:
        """`last_sent_at`: when frames last went to this peer."""
        if last_sent_at > self._heard_at + NO_RECEIPT_S:
            self.start_anew()


class Receipts:
    """The receiver's half: counts what came and what is missing, and says when to tell."""

    def __init__(self, max_span: int = MAX_SPAN) -> None:
        self._max_span = max_span
        self.mended = 0
        """Datagrams that were lost and made good by parity."""
        self._datagrams = 0
        self._lost = 0
        self._told_at = -math.inf
        self._settled_at = math.inf
        """When what is missing now counts as lost; infinite while nothing is."""
        self._told_lost = 0

    def note(self, epoch: ReceiveEpoch, datagrams: int, now: float) -> Receipt | None:
        """Data came in on this epoch; the receipt that is due, if one is."""
        self._datagrams += datagrams
        # Parity makes good what a path loses, and does not make the path a better one.
        missing = epoch.window.missing + epoch.mended
        if epoch.missing_noted < 0:
            # Probes that we could not understand before this epoch was installed here too.
            epoch.missing_noted = missing
        if missing <= epoch.missing_noted:
            epoch.missing_noted = missing
            self._settled_at = math.inf
        elif self._settled_at == math.inf:
            self._settled_at = now + SETTLE_S
        elif now >= self._settled_at:
            self._lost += missing - epoch.missing_noted
            epoch.missing_noted = missing
            self._settled_at = math.inf
        wait_s = REPORT_INTERVAL_S if self._lost == self._told_lost else LOSS_REPORT_INTERVAL_S
        if now < self._told_at + wait_s:
            return None
        self._told_at = now
        self._told_lost = self._lost
        counts = self._datagrams % _COUNTS, self._lost % _COUNTS, self.mended % _COUNTS
        return Receipt(self._max_span, *counts)
