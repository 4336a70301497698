"""New keys inside a running session, agreed by the two datapaths alone.

One end sends an `Offer` with a fresh X25519 public key and the index under which it will receive,
again each second until it is answered. The other answers with an `Acceptance` of the same form
and has the next epoch from then on, the first end once the acceptance came in. The new secret
comes of the old one and of the exchange, so it is safe as long as either is.

The initiator of the epoch that is being replaced makes the offer, so there is normally one. The
other end steps in only if that is long overdue (each may take another epoch for the newest, and
then neither is due). When both offer to replace the same epoch, the initiator's offer wins.

The same offer always gets the same acceptance, so loss, duplicates and reordering only cost
time; `router.sleeve.epochs` takes care that no frame is lost meanwhile.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from router.sleeve.control import Acceptance, Offer
from router.sleeve.epochs import Generation
from router.sleeve.keys import next_secret

REKEY_AFTER_S = 120.0
EARLY_SHARE = 0.04
REKEY_AFTER_RECORDS = 2**24
STEP_IN_AFTER_S = 30.0
"""How much later the end that is not the initiator makes an offer itself."""

RESEND_S = 1.0

MAX_RECORDS_PER_KEY = 2**32
LAST_DATA_RECORD = MAX_RECORDS_PER_KEY - REKEY_AFTER_RECORDS
"""No data is sent from here on. The rest is for the probes and offers that can end this; and it
is more than one data process can send between two of the looks that are taken at the counter."""

_OFFER_NAME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the next epoch is made of."""

    secret: bytes
    initiator: bool
    local_index: int
    remote_index: int


@dataclass(slots=True)
class _Pending:
    base: Generation
    private_key: X25519PrivateKey
    offer: Offer
    resend_at: float


class Rekey:
    """`new_private_key` is called for each exchange; `new_index` for an unused receiver index."""

    def __init__(
        self,
        rng: Random,
        new_index: Callable[[], int],
        new_private_key: Callable[[], X25519PrivateKey],
        rekey_after_s: float = REKEY_AFTER_S,
    ) -> None:
        self._new_index = new_index
        self._new_private_key = new_private_key
        self._rekey_after_s = rekey_after_s
        self._early_s = rekey_after_s * rng.uniform(0.0, EARLY_SHARE)
        """So that the sessions of one host, and the two ends of one, do not rekey all at once."""
        self._pending: _Pending | None = None

    def handle_timeout(self, sending: Generation, since: float, now: float) -> Offer | None:
        """The offer to send now, if any. `sending` is the epoch in use, `since` when it began."""
        if self._pending is not None and self._pending.base is not sending:
            self._pending = None
        if self._pending is None:
            if sending.successor is not None or now < self._due_at(sending, since):
                return None
            self._pending = self._prepare(sending, now)
        if now < self._pending.resend_at:
            return None
        self._pending.resend_at = now + RESEND_S
        return self._pending.offer

    def next_at(self, sending: Generation, since: float) -> float:
        if self._pending is not None and self._pending.base is sending:
            return self._pending.resend_at
        return math.inf if sending.successor is not None else self._due_at(sending, since)

    def handle_offer(
        self, base: Generation, offer: Offer
    ) -> tuple[Acceptance, Agreed | None] | None:
        """The answer, and the next epoch if the offer was not known yet. None: no answer."""
        name = offer.public_key[:_OFFER_NAME_BYTES]
        if base.acceptance is not None and base.acceptance.offer == name:
            return base.acceptance, None
        if base.successor is not None and base.successor.confirmed:
            return None
        if self._pending is not None and self._pending.base is base:
            if base.initiator:
                return None
            self._pending = None
        private_key = self._new_private_key()
        shared = _exchange(private_key, offer.public_key)
        if shared is None:
            return None
        public_key = private_key.public_key().public_bytes_raw()
        acceptance = Acceptance(base.id, name, public_key, self._new_index())
        base.acceptance = acceptance
        return acceptance, Agreed(
            secret=next_secret(base.secret, shared, _transcript(offer, acceptance)),
            initiator=base.initiator,
            local_index=acceptance.index,
            remote_index=offer.index,
        )

    def handle_acceptance(self, base: Generation, acceptance: Acceptance) -> Agreed | None:
        """The next epoch, if this answers our offer, for the first time."""
        pending = self._pending
        if pending is None or pending.base is not base:
            return None
        if acceptance.offer != pending.offer.public_key[:_OFFER_NAME_BYTES]:
            return None
        shared = _exchange(pending.private_key, acceptance.public_key)
        if shared is None:
            return None
        self._pending = None
        return Agreed(
            secret=next_secret(base.secret, shared, _transcript(pending.offer, acceptance)),
            initiator=base.initiator,
            local_index=pending.offer.index,
            remote_index=acceptance.index,
        )

    def _due_at(self, sending: Generation, since: float) -> float:
        records = max(sending.send.counter, sending.receive.window.highest)
        if sending.initiator:
            if records >= REKEY_AFTER_RECORDS:
                return since
            return since + self._rekey_after_s - self._early_s
        if records >= REKEY_AFTER_RECORDS + REKEY_AFTER_RECORDS // 4:
            return since + STEP_IN_AFTER_S
        return since + self._rekey_after_s + STEP_IN_AFTER_S - self._early_s

    def _prepare(self, base: Generation, now: float) -> _Pending:
        private_key = self._new_private_key()
        public_key = private_key.public_key().public_bytes_raw()
        offer = Offer(base.id, public_key, self._new_index())
        return _Pending(base, private_key, offer, resend_at=now)


def _exchange(private_key: X25519PrivateKey, public_key: bytes) -> bytes | None:
    """None for the few public keys that would force a known result (RFC 7748, 6.1)."""
    try:
        return private_key.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        return None


def _transcript(offer: Offer, acceptance: Acceptance) -> bytes:
    return b"".join(
        (
            offer.base,
            offer.public_key,
            offer.index.to_bytes(4, "big"),
            acceptance.public_key,
            acceptance.index.to_bytes(4, "big"),
        )
    )
