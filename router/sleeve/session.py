"""One peer's session: its keys, its address, whether it works, and how much fits a datagram.

Keys are `keying`'s, whether the peer hears us is `liveness`'s, the path is `pathmtu`'s, how much a
record spans is `spans`'s; here they meet, and the hot path meets them. A session that is down goes
on probing, for ever, on each epoch that it has: on which of them the peer hears us is just what
it does not know.

The peer's address is that of the newest authentic record. What routers tell is only a guess
and never replaces an address at which the peer was heard. A record that the network held back
may lead us back to where the peer is no more, so a session that is down also asks at the guesses
and at the addresses before.

The hot path reads `sending`, `endpoint`, `span` and the sizes, advances the counter of a
`SendEpoch`, sets `last_sent_at`, and says once per batch what came in. It seals control
records itself, with the same counter. It never sends data while `sending` is None.
"""

import math
from collections.abc import Callable
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from router.sleeve.control import (
    NEVER_HEARD_MS,
    Acceptance,
    Answer,
    Offer,
    Probe,
    Receipt,
    decode_control,
    encode_control,
)
from router.sleeve.effects import (
    CameUp,
    Endpoint,
    ReceiveEpoch,
    Roamed,
    SendControl,
    SendEpoch,
    SessionEffect,
    WentDown,
)
from router.sleeve.epochs import Generation
from router.sleeve.keying import Keying, probe
from router.sleeve.liveness import PROBE_INTERVAL_S, Liveness, endpoint_text
from router.sleeve.messages import SESSION_DEAD_S, Epoch
from router.sleeve.pathmtu import SMALL
from router.sleeve.rekey import REKEY_AFTER_S
from router.sleeve.sizes import Sizes
from router.sleeve.spans import MAX_SPAN, Receipts, SpanChoice
from weavepy.base.deadline import NEVER, Deadline, earliest

STALL_S = 1.0
"""A time-out that is handled later than this shows that this process stood still, and then it
is no wonder that nothing was heard."""

_FLOW_S = 1.5
"""Frames flow if one was sent this lately; then a black hole has to be noticed."""

_QUIET_S = 1.0
"""If the newest epoch heard was silent this long, the peer is using an older one."""

MAX_FORMER_ENDPOINTS = 3


class Session:
    def __init__(
        self,
        peer: str,
        short_id: int,
        endpoint: Endpoint,
        encrypted: bool,
        underlay_mtu_bytes: int,
        rng: Random,
        now: float,
        new_index: Callable[[], int],
        new_private_key: Callable[[], X25519PrivateKey] = X25519PrivateKey.generate,
        max_span: int = MAX_SPAN,
        rekey_after_s: float = REKEY_AFTER_S,
    ) -> None:
        """`rng` only spreads things in time: keys come from `new_private_key`."""
        self.peer = peer
        self.short_id = short_id
        self.endpoint = endpoint
        self.sending: SendEpoch | None = None
        self.unknown_controls = 0
        """Authentic control records that said nothing we know."""
        self.last_sent_at = -math.inf
        """When the hot path last sent a frame."""
        self.span = 0
        """How many datagrams a record may span; 0: the peer may not know runs of segments."""
        self.parity = False
        """Datagrams to the peer are being lost, and it can make them good from parity."""
        self._span_choice = SpanChoice(max_span)
        self._receipts = Receipts(max_span)
        self._keying = Keying(self, encrypted, rng, now, new_index, new_private_key, rekey_after_s)
        self._liveness = Liveness(rng)
        self._sizes = Sizes(underlay_mtu_bytes)
        self.max_datagram_payload_bytes = self._sizes.payload_bytes(endpoint)
        """The UDP payload to keep within."""
        self.overlay_mtu_bytes = self._sizes.overlay_mtu_bytes
        self._formerly: list[Endpoint] = []
        """Where the peer was heard before, the latest last."""
        self._asked = 0
        """How often it was asked, while down, somewhere else than at `endpoint`."""
        self._newest: Generation | None = None
        """The newest epoch on which a record came in, and the highest counter on it."""
        self._newest_receive: ReceiveEpoch | None = None
        self._newest_counter = -1
        self._deadline = NEVER

    # --- what it tells -----------------------------------------------------------------------

    @property
    def up(self) -> bool:
        return self._liveness.up

    @property
    def reason(self) -> str:
        """Why it is not up; empty while it is."""
        return self._liveness.reason

    @property
    def rtt_ms(self) -> float:
        return self._liveness.rtt_ms

    @property
    def epochs(self) -> int:
        """How often the epoch we send on was replaced."""
        return self._keying.replaced

    @property
    def path_mtu_bytes(self) -> int:
        return self._sizes.path_mtu_bytes

    @property
    def mended(self) -> int:
        """How many datagrams of the peer were lost and made good by its parity."""
        return self._receipts.mended

    @property
    def losses(self) -> int:
        """How many of our records the peer missed, as far as it told."""
        return self._span_choice.losses

    def next_deadline(self) -> Deadline:
        """Cheap. May be earlier than needed: a time-out with nothing to do does no harm."""
        return self._deadline

    # --- inputs ------------------------------------------------------------------------------

    def install(self, epoch: Epoch, endpoint: Endpoint | None, now: float) -> list[SessionEffect]:
        """Keys that the two routers agreed. `endpoint` is where they think that the peer is."""
        liveness = self._liveness
        never_heard = liveness.heard_at == -math.inf
        if endpoint is not None and never_heard:
            self.endpoint = endpoint
            self._fit_datagrams_to_path()
        effects = self._keying.install(epoch, endpoint, now)
        if not effects:
            return []
        self._note_keys()
        liveness.probe_at = min(liveness.probe_at, now + PROBE_INTERVAL_S)
        if self.sending is None and never_heard:
            liveness.reason = "waiting for the peer's first answer"
        effects += self._keying.confirm_probes(self.endpoint, now)
        self._reschedule()
        return effects

    def handle_authentic(
        self, epoch: ReceiveEpoch, highest_counter: int, endpoint: Endpoint, now: float
    ) -> list[SessionEffect]:
        """Authentic new records came in: the highest of their counters, and where it came from."""
        self._liveness.heard_at = now
        newest = self._newest
        if newest is None or epoch is not self._newest_receive:
            return self._handle_other_epoch(epoch, highest_counter, endpoint, now)
        newest.heard_at = now
        if highest_counter <= self._newest_counter:
            return []
        self._newest_counter = highest_counter
        if endpoint == self.endpoint:
            return []
        return self._roam(endpoint, now)

    def handle_data(self, epoch: ReceiveEpoch, datagrams: int, now: float) -> list[SessionEffect]:
        """Authentic data came in on this epoch, in so many datagrams. Called once per batch."""
        receipt = self._receipts.note(epoch, datagrams, now)
        if receipt is None or self.sending is None:
            return []
        return [SendControl(self.sending, encode_control(receipt), SMALL, self.endpoint)]

    def note_mended(self, epoch: ReceiveEpoch, count: int) -> None:
        """So many of the records on this epoch that came in were made from parity."""
        epoch.mended += count
        self._receipts.mended += count

    def handle_control(
        self,
        payload: bytes,
        epoch: ReceiveEpoch,
        endpoint: Endpoint,
        datagram_bytes: int,
        now: float,
    ) -> list[SessionEffect]:
        """The plain text of one authentic control record.

        `handle_authentic` is called for it too, before or at the end of the batch.
        """
        generation = self._keying.epochs.of(epoch)
        if generation is None:
            return []
        self._liveness.heard_at = generation.heard_at = now
        effects = self._confirm(generation, now)
        match decode_control(payload):
            case Probe() as probe:
                effects += self._handle_probe(probe, generation, endpoint, datagram_bytes, now)
            case Answer() as answer:
                effects += self._handle_answer(answer, generation, now)
            case Offer() as offer:
                effects += self._keying.handle_offer(offer, generation, endpoint, now)
            case Acceptance() as acceptance:
                effects += self._keying.handle_acceptance(acceptance, self.endpoint, now)
            case Receipt() as receipt:
                self._span_choice.handle_receipt(receipt, now)
                self.span = self._span_choice.span
                self.parity = self._span_choice.parity
            case None:
                self.unknown_controls += 1  # a newer peer may say things that we do not know
        self._note_keys()
        self._reschedule()
        return effects

    def handle_send_error(self, errno_name: str, now: float) -> list[SessionEffect]:
        """Sending to this peer failed; the name is that of the `errno`, e.g. "ENETUNREACH"."""
        if errno_name == "EMSGSIZE":
            self._sizes.path.handle_too_big_here(now)
            self._reschedule()
        elif not self.up:
            self._liveness.reason = f"cannot send to {endpoint_text(self.endpoint)}: {errno_name}"
        return []

    def handle_timeout(self, now: float) -> list[SessionEffect]:
        keying, liveness = self._keying, self._liveness
        if now - self._deadline.at > STALL_S:
            liveness.note_stall(now)
            keying.epochs.note_interruption(now)
        elif liveness.is_interrupted(now):
            keying.epochs.note_interruption(now)
        effects: list[SessionEffect] = self._go_down(liveness.why_dead(now))
        self._leave_unheard_epoch(now)
        effects += keying.expire(now)
        self._span_choice.handle_timeout(now, self.last_sent_at)
        self.span = self._span_choice.span
        self.parity = self._span_choice.parity
        effects += keying.confirm_probes(self.endpoint, now)
        effects += self._probe_if_due(now)
        effects += self._probe_path_if_due(now)
        if keying.note_used_up():
            effects += self._go_down("the keys are used up and the peer did not agree to new ones")
        effects += keying.rekey_if_due(self.up, self.endpoint, now)
        self._note_keys()
        self._reschedule()
        return effects

    def close(self) -> list[SessionEffect]:
        """The session is removed; nothing may be called after this."""
        effects = self._keying.close()
        self._note_keys()
        self._deadline = NEVER
        return effects

    # --- what came in ------------------------------------------------------------------------

    def _handle_other_epoch(
        self, epoch: ReceiveEpoch, highest_counter: int, endpoint: Endpoint, now: float
    ) -> list[SessionEffect]:
        """Records of an epoch that is not the newest we heard: first ones, or late ones."""
        generation = self._keying.epochs.of(epoch)
        if generation is None:
            return []
        generation.heard_at = now
        effects = self._confirm(generation, now)
        newest = self._newest
        is_newer = newest is None or generation.number > newest.number
        # One that was overtaken on its own epoch says nothing of which epoch is in use now.
        is_latest = highest_counter >= epoch.window.highest
        if is_newer or (is_latest and newest is not None and now - newest.heard_at >= _QUIET_S):
            self._newest = generation
            self._newest_receive = epoch
            self._newest_counter = highest_counter
            if endpoint != self.endpoint:
                effects += self._roam(endpoint, now)
        self._reschedule()
        return effects

    def set_underlay_mtu(self, underlay_mtu_bytes: int, now: float) -> None:
        self._sizes.set_underlay_mtu(underlay_mtu_bytes)
        if self._keying.in_use is not None:
            self._sizes.path.start(now)
        self._fit_datagrams_to_path()
        self._reschedule()

    def _confirm(self, generation: Generation, now: float) -> list[SessionEffect]:
        if not self._keying.confirm(generation, now):
            return []
        self._note_keys()
        self._sizes.path.start(now)
        self._liveness.probe_at = now
        return self._probe_if_due(now) + self._come_up_if_proven(now)

    def _leave_unheard_epoch(self, now: float) -> None:
        if self._keying.leave_unheard(now):
            self._note_keys()
            self._liveness.probe_at = now

    def _roam(self, endpoint: Endpoint, now: float) -> list[SessionEffect]:
        formerly = [one for one in self._formerly if one not in (endpoint, self.endpoint)]
        self._formerly = [*formerly, self.endpoint][-MAX_FORMER_ENDPOINTS:]
        self.endpoint = endpoint
        self._sizes.path.handle_path_changed(now)
        self._fit_datagrams_to_path()
        self._span_choice.start_anew()
        self.span = self._span_choice.span
        self.parity = self._span_choice.parity
        self._liveness.probe_at = now
        effects: list[SessionEffect] = [Roamed(endpoint)]
        effects += self._probe_if_due(now)
        self._reschedule()
        return effects

    def _handle_probe(
        self,
        probe: Probe,
        generation: Generation,
        endpoint: Endpoint,
        datagram_bytes: int,
        now: float,
    ) -> list[SessionEffect]:
        answer = encode_control(Answer(probe.sent_at_us, datagram_bytes))
        effects: list[SessionEffect] = [SendControl(generation.send, answer, SMALL, endpoint)]
        if probe.heard_ms != NEVER_HEARD_MS:
            effects += self._note_proof(generation, now - probe.heard_ms / 1000, now)
        return effects

    def _handle_answer(
        self, answer: Answer, generation: Generation, now: float
    ) -> list[SessionEffect]:
        rtt_s = self._liveness.note_answer(answer.sent_at_us, now)
        if rtt_s is None:
            return []
        effects = self._note_proof(generation, now, now)
        self._sizes.handle_answer(answer.datagram_bytes, self.endpoint, rtt_s, now)
        return effects + self._note_path()

    def _note_proof(self, generation: Generation, at: float, now: float) -> list[SessionEffect]:
        """At that time the peer heard us on this epoch."""
        if at <= generation.proof_at or now - at >= SESSION_DEAD_S:
            return []
        generation.proof_at = at
        in_use = generation is self._keying.in_use
        self._liveness.note_proof(at, in_use, now)
        if not in_use:
            self._leave_unheard_epoch(now)
        return self._come_up_if_proven(now)

    # --- probes ------------------------------------------------------------------------------

    def _probe_if_due(self, now: float) -> list[SessionEffect]:
        """On the epoch in use: does the peer still hear us? While it does not, on all of them."""
        liveness, in_use = self._liveness, self._keying.in_use
        if not liveness.take_probe(now):
            return []
        if self.up and in_use is not None:
            return [probe(in_use, SMALL, self.endpoint, now)]
        liveness.explain(self.endpoint, now)
        confirmed = [one for one in self._keying.epochs if one.confirmed]
        elsewhere = dict.fromkeys([one.guess for one in confirmed if one.guess] + self._formerly)
        elsewhere.pop(self.endpoint, None)
        places = [self.endpoint]
        if elsewhere:
            places.append(list(elsewhere)[self._asked % len(elsewhere)])
            self._asked += 1
        return [probe(one, SMALL, place, now) for place in places for one in confirmed]

    def _probe_path_if_due(self, now: float) -> list[SessionEffect]:
        in_use = self._keying.in_use
        if in_use is None or now < self._sizes.path.next_at():
            return []
        frames_flow = now - self.last_sent_at < _FLOW_S
        effects = self._sizes.probes(in_use, self.endpoint, frames_flow, now)
        return effects + self._note_path()

    # --- state -------------------------------------------------------------------------------

    def _come_up_if_proven(self, now: float) -> list[SessionEffect]:
        if self.sending is None or not self._liveness.come_up_if_proven(now):
            return []
        return [CameUp(self.endpoint)]

    def _go_down(self, reason: str) -> list[SessionEffect]:
        """For that reason, if there is one."""
        return [WentDown(reason)] if reason and self._liveness.go_down(reason) else []

    def _note_keys(self) -> None:
        """The hot path sends with what is in use now."""
        self.sending = self._keying.sending
        if self._newest is not None and self._keying.epochs.of(self._newest.receive) is None:
            self._newest = self._newest_receive = None

    def _note_path(self) -> list[SessionEffect]:
        self._fit_datagrams_to_path()
        effects = self._sizes.note()
        self.overlay_mtu_bytes = self._sizes.overlay_mtu_bytes
        return effects

    def _fit_datagrams_to_path(self) -> None:
        self.max_datagram_payload_bytes = self._sizes.payload_bytes(self.endpoint)

    def _reschedule(self) -> None:
        path_at = math.inf if self._keying.in_use is None else self._sizes.path.next_at()
        self._deadline = earliest(
            self._liveness.next_deadline(),
            self._keying.next_deadline(self.up),
            Deadline(path_at, "probe the path MTU"),
        )
