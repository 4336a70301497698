"""The keys of one session: where they come from, which are sent with, how they are replaced.

Two routers agree on keys (`install`), and from there on the two ends renew them between
themselves (`router.sleeve.rekey`). Either way an epoch begins unconfirmed: it is received on, and
probed until the peer is heard on it. `router.sleeve.epochs` says which epochs there are and when
they go; here is what is said to the peer about them.
"""

import math
from collections.abc import Callable
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from router.sleeve.control import NEVER_HEARD_MS, Acceptance, Offer, Probe, encode_control
from router.sleeve.effects import (
    Endpoint,
    Hearer,
    Listen,
    SendControl,
    SendEpoch,
    SessionEffect,
    Unlisten,
)
from router.sleeve.epochs import Epochs, Generation
from router.sleeve.messages import Epoch
from router.sleeve.pathmtu import SMALL
from router.sleeve.rekey import LAST_DATA_RECORD, Agreed, Rekey
from weavepy.base.deadline import Deadline, earliest

CONFIRM_INTERVAL_S = 0.2
"""Between the probes of an epoch that the peer has not confirmed yet."""
MAX_QUICK_CONFIRM_PROBES = 25
CONFIRM_SLOWLY_INTERVAL_S = 1.0
"""After that many."""

UNHEARD_EPOCH_S = 1.5
"""When the probes of the epoch in use were unanswered for this long, is another one heard?"""


class Keying:
    def __init__(
        self,
        session: Hearer,
        encrypted: bool,
        rng: Random,
        now: float,
        new_index: Callable[[], int],
        new_private_key: Callable[[], X25519PrivateKey],
        rekey_after_s: float,
    ) -> None:
        self.epochs = Epochs(session, encrypted)
        self.used_up = False
        """Whether the epoch in use has sent as many records as it may: no data on it any more."""
        self.sending_since = now
        self.replaced = 0
        """How often the epoch we send on was."""
        self._encrypted = encrypted
        self._rekey = Rekey(rng, new_index, new_private_key, rekey_after_s)

    @property
    def in_use(self) -> Generation | None:
        return self.epochs.sending

    @property
    def sending(self) -> SendEpoch | None:
        """What data is to be sent with; None: no data can be."""
        return None if self.epochs.sending is None or self.used_up else self.epochs.sending.send

    # --- from the routers --------------------------------------------------------------------

    def install(self, epoch: Epoch, guess: Endpoint | None, now: float) -> list[SessionEffect]:
        """Keys that the two routers agreed; empty if they are known, or were."""
        for known in self.epochs:
            if (known.receive.local_index, known.secret) == (epoch.local_index, epoch.secret):
                known.guess = guess
                return []
        if self.epochs.had(epoch.secret):
            return []
        agreed = Agreed(epoch.secret, epoch.initiator, epoch.local_index, epoch.remote_index)
        return self._add(agreed, guess, probe_at=now, now=now)[1]

    def _add(
        self, agreed: Agreed, guess: Endpoint | None, *, probe_at: float, now: float
    ) -> tuple[Generation, list[SessionEffect]]:
        generation, gone = self.epochs.add(
            secret=agreed.secret,
            initiator=agreed.initiator,
            local_index=agreed.local_index,
            remote_index=agreed.remote_index,
            guess=guess,
            probe_at=probe_at,
            now=now,
        )
        effects: list[SessionEffect] = [Unlisten(old.receive.local_index) for old in gone]
        return generation, [*effects, Listen(generation.receive)]

    # --- which one is sent on ----------------------------------------------------------------

    def confirm(self, generation: Generation, now: float) -> bool:
        """An authentic record came in on it. True if from now on it is the one to send on."""
        former = self.epochs.sending
        if generation.confirmed or not self.epochs.confirm(generation, now):
            return False
        self._send_on(generation, now)
        if former is not None:
            self.replaced += 1
        return True

    def leave_unheard(self, now: float) -> bool:
        """Send on another epoch if the peer does not hear the one in use, but does hear that one.

        It may have dropped ours, after each of us took another epoch for the newest. True if so.
        """
        sending = self.epochs.sending
        if sending is None or self.used_up:
            return False
        heard_until = max(sending.proof_at, self.sending_since)
        if now < heard_until + UNHEARD_EPOCH_S:
            return False
        best = max(self.epochs, key=lambda one: one.proof_at)
        if not best.confirmed or best.proof_at <= heard_until:
            return False
        self.epochs.send_on(best, now)
        self._send_on(best, now)
        return True

    def _send_on(self, generation: Generation, now: float) -> None:
        self.used_up = False
        self.sending_since = now

    # --- what is said to the peer ------------------------------------------------------------

    def confirm_probes(self, endpoint: Endpoint, now: float) -> list[SessionEffect]:
        """Ask on each epoch that the peer has not confirmed, wherever the peer may be."""
        effects: list[SessionEffect] = []
        for generation in self.epochs:
            if generation.confirmed or now < generation.next_probe_at:
                continue
            generation.probes += 1
            quick = generation.probes <= MAX_QUICK_CONFIRM_PROBES
            generation.next_probe_at = now + (
                CONFIRM_INTERVAL_S if quick else CONFIRM_SLOWLY_INTERVAL_S
            )
            effects.append(probe(generation, SMALL, endpoint, now))
            if generation.guess is not None and generation.guess != endpoint:
                effects.append(probe(generation, SMALL, generation.guess, now))
        return effects

    def handle_offer(
        self, offer: Offer, heard_on: Generation, endpoint: Endpoint, now: float
    ) -> list[SessionEffect]:
        base = self.epochs.named(offer.base)
        if base is None or not self._encrypted:
            return []
        answer = self._rekey.handle_offer(base, offer)
        if answer is None:
            return []
        acceptance, agreed = answer
        effects: list[SessionEffect] = []
        if agreed is not None:
            # The offerer cannot know this epoch before our acceptance is there, so don't probe yet.
            probe_at = now + CONFIRM_INTERVAL_S
            base.successor, effects = self._add(agreed, None, probe_at=probe_at, now=now)
        payload = encode_control(acceptance)
        return [*effects, SendControl(heard_on.send, payload, SMALL, endpoint)]

    def handle_acceptance(
        self, acceptance: Acceptance, endpoint: Endpoint, now: float
    ) -> list[SessionEffect]:
        base = self.epochs.named(acceptance.base)
        if base is None or not self._encrypted:
            return []
        agreed = self._rekey.handle_acceptance(base, acceptance)
        if agreed is None:
            return []
        base.successor, effects = self._add(agreed, None, probe_at=now, now=now)
        return effects + self.confirm_probes(endpoint, now)

    def rekey_if_due(self, up: bool, endpoint: Endpoint, now: float) -> list[SessionEffect]:
        sending = self.epochs.sending
        if sending is None or not (up or self.used_up) or not self._encrypted:
            return []
        offer = self._rekey.handle_timeout(sending, self.sending_since, now)
        if offer is None:
            return []
        return [SendControl(sending.send, encode_control(offer), SMALL, endpoint)]

    def note_used_up(self) -> bool:
        """Whether the keys in use have just come to their end."""
        sending = self.epochs.sending
        if sending is None or self.used_up or not self._encrypted:
            return False
        self.used_up = sending.send.counter >= LAST_DATA_RECORD
        return self.used_up

    # --- the end of epochs -------------------------------------------------------------------

    def expire(self, now: float) -> list[SessionEffect]:
        return [Unlisten(one.receive.local_index) for one in self.epochs.expire(now)]

    def close(self) -> list[SessionEffect]:
        effects: list[SessionEffect] = []
        for generation in self.epochs:
            self.epochs.remove(generation)
            effects.append(Unlisten(generation.receive.local_index))
        return effects

    def next_deadline(self, up: bool) -> Deadline:
        probe_at = min(
            (one.next_probe_at for one in self.epochs if not one.confirmed), default=math.inf
        )
        rekey_at = math.inf
        sending = self.epochs.sending
        if sending is not None and self._encrypted and (up or self.used_up):
            rekey_at = self._rekey.next_at(sending, self.sending_since)
        return earliest(
            Deadline(probe_at, "ask for new keys to be confirmed"),
            Deadline(self.epochs.next_expiry_at(), "retire old keys"),
            Deadline(rekey_at, "renew the keys"),
        )


def probe(
    generation: Generation, datagram_bytes: int, endpoint: Endpoint, now: float
) -> SendControl:
    heard_ms = NEVER_HEARD_MS
    if generation.heard_at > -math.inf:
        heard_ms = min(NEVER_HEARD_MS, int((now - generation.heard_at) * 1000))
    question = Probe(sent_at_us=int(now * 1e6), heard_ms=heard_ms)
    return SendControl(generation.send, encode_control(question), datagram_bytes, endpoint)
