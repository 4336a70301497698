"""One peer's session: its keys, its address, whether it works, and how much fits a datagram.

A session is *up* only while we know that the peer hears us: it answered a probe of ours, or its
own probe says how lately it heard us. Authentic records coming in prove the other direction
alone. While all is well one probe each second, from whichever end is first, serves both ends;
a probe that is not answered is repeated quickly, so on a lossy path it takes a row of losses
to bring a session down. A session that is down goes on probing, for ever.

The peer's address is that of the newest authentic record. What routers tell is only a guess
and never replaces an address at which the peer was heard.

The hot path reads `sending`, `endpoint`, `up`, `span` and the sizes, advances the counter of a
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
    Listen,
    PathMtuFound,
    Roamed,
    SendControl,
    SessionEffect,
    Unlisten,
    WentDown,
)
from router.sleeve.epochs import Endpoint, Epochs, Generation, ReceiveEpoch, SendEpoch
from router.sleeve.format import ip_overhead_of, overlay_mtu_of
from router.sleeve.messages import SESSION_DEAD_S, Epoch
from router.sleeve.pathmtu import SMALL, PathMtu
from router.sleeve.rekey import LAST_DATA_RECORD, Agreed, Rekey
from router.sleeve.spans import MAX_SPAN, Receipts, SpanChoice
from weavepy.base.deadline import NEVER, Deadline

__all__ = [
    "CameUp",
    "Endpoint",
    "Listen",
    "PathMtuFound",
    "ReceiveEpoch",
    "Roamed",
    "SendControl",
    "SendEpoch",
    "Session",
    "SessionEffect",
    "Unlisten",
    "WentDown",
]

PROBE_INTERVAL_S = 1.0
PROBE_AGAIN_S = 0.25
"""After this a probe of a session that is up is repeated; after longer on a slow path."""

CONFIRM_INTERVAL_S = 0.2
"""Between the probes of an epoch that the peer has not confirmed yet."""
MAX_QUICK_CONFIRM_PROBES = 25
"""After that many, once a second."""

UNHEARD_DEAD_S = 1.5 * SESSION_DEAD_S
"""A little longer than `SESSION_DEAD_S`, for the peer that we hear while our probes stay
unanswered: its own send queue may be full of what it sends us."""

STALL_S = 1.0
"""A time-out that is handled later than this shows that this process stood still, and then it
is no wonder that nothing was heard."""

INTERRUPTION_S = 2.0
"""Nothing was heard for this long: no epoch counts as unused for what happened meanwhile."""

UNHEARD_EPOCH_S = 1.5
"""When the probes of the epoch in use were unanswered for this long, is another one heard?"""

_MAX_RTT_S = 10.0
"""An answer later than this proves nothing about now."""

_FLOW_S = 1.5
"""Frames flow if one was sent this lately; then a black hole has to be noticed."""

_QUIET_S = 1.0
"""If the newest epoch heard was silent this long, the peer is using an older one."""


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
    ) -> None:
        """`rng` only spreads things in time: keys come from `new_private_key`."""
        self.peer = peer
        self.short_id = short_id
        self.endpoint = endpoint
        self.sending: SendEpoch | None = None
        self.up = False
        self.reason = "no keys agreed yet"
        self.rtt_ms = 0.0
        self.epochs = 0
        """How often the epoch we send on was replaced."""
        self.unknown_controls = 0
        """Authentic control records that said nothing we know."""
        self.last_sent_at = -math.inf
        """When the hot path last sent a frame."""
        self.path_mtu_bytes = 0
        """The largest underlay packet known to pass; 0 while that is not known."""
        self.overlay_mtu_bytes = overlay_mtu_of(underlay_mtu_bytes)
        """As probed; while that is not known, what the underlay's MTU promises."""
        self.max_datagram_payload_bytes = 0
        """The UDP payload to keep within. Small at first: until a size is known to pass, frames
        are better fragmented than lost."""

        self.span = 0
        """How many datagrams a record may span; 0: the peer may not know runs of segments."""

        self.losses = 0
        """How many of our records the peer missed, as far as it told."""
        self.lossy = False
        """Datagrams to the peer are being lost, by what it tells."""
        self._span_choice = SpanChoice(max_span)
        self._receipts = Receipts(max_span)
        self._rng = rng
        self._encrypted = encrypted
        self._new_index = new_index
        self._generations = Epochs(self, encrypted)
        self._rekey = Rekey(rng, new_index, new_private_key)
        self._sending_since = now
        self._path = PathMtu(underlay_mtu_bytes)
        self._newest: Generation | None = None
        """The newest epoch on which a record came in, and the highest counter on it."""
        self._newest_receive: ReceiveEpoch | None = None
        self._newest_counter = -1
        self._heard_at = -math.inf
        self._proof_at = -math.inf
        """When we last knew that the peer hears us."""
        self._probe_at = math.inf
        self._grace_until = -math.inf
        self._deadline = NEVER
        self._fit_datagrams_to_path()

    # --- inputs ------------------------------------------------------------------------------

    def install(self, epoch: Epoch, endpoint: Endpoint | None, now: float) -> list[SessionEffect]:
        """Keys that the two routers agreed. `endpoint` is where they think that the peer is."""
        if endpoint is not None and self._heard_at == -math.inf:
            self.endpoint = endpoint
            self._fit_datagrams_to_path()
        for known in self._generations:
            if (known.receive.local_index, known.secret) == (epoch.local_index, epoch.secret):
                known.guess = endpoint
                return []
        if self._generations.had(epoch.secret):
            return []
        agreed = Agreed(epoch.secret, epoch.initiator, epoch.local_index, epoch.remote_index)
        _, effects = self._add(agreed, endpoint, probe_at=now, now=now)
        if self.sending is None and self._heard_at == -math.inf:
            self.reason = "waiting for the peer's first answer"
        effects += self._confirm_probes(now)
        self._reschedule()
        return effects

    def handle_authentic(
        self, epoch: ReceiveEpoch, highest_counter: int, endpoint: Endpoint, now: float
    ) -> list[SessionEffect]:
        """Authentic new records came in: the highest of their counters, and where it came from."""
        self._heard_at = now
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
        generation = self._generations.of(epoch)
        if generation is None:
            return []
        self._heard_at = generation.heard_at = now
        effects = [] if generation.confirmed else self._confirm(generation, now)
        match decode_control(payload):
            case Probe() as probe:
                effects += self._handle_probe(probe, generation, endpoint, datagram_bytes, now)
            case Answer() as answer:
                effects += self._handle_answer(answer, generation, now)
            case Offer() as offer:
                effects += self._handle_offer(offer, generation, endpoint, now)
            case Acceptance() as acceptance:
                effects += self._handle_acceptance(acceptance, now)
            case Receipt() as receipt:
                self._span_choice.handle_receipt(receipt, now)
                self.losses = self._span_choice.losses
                self.span = self._span_choice.span
                self.lossy = self._span_choice.lossy
            case None:
                self.unknown_controls += 1  # a newer peer may say things that we do not know
        self._reschedule()
        return effects

    def handle_send_error(self, errno_name: str, now: float) -> list[SessionEffect]:
        """Sending to this peer failed; the name is that of the `errno`, e.g. "ENETUNREACH"."""
        if errno_name == "EMSGSIZE":
            self._path.handle_too_big_here(now)
            self._reschedule()
        elif not self.up:
            self.reason = f"cannot send to {_text(self.endpoint)}: {errno_name}"
        return []

    def handle_timeout(self, now: float) -> list[SessionEffect]:
        if now - self._deadline.at > STALL_S:
            self._grace_until = now + PROBE_INTERVAL_S
            self._probe_at = min(self._probe_at, now)
            self._generations.note_interruption(now)
        elif now - self._heard_at > INTERRUPTION_S:
            self._generations.note_interruption(now)
        effects: list[SessionEffect] = self._check_liveness(now)
        for generation in self._generations.expire(now):
            effects += self._retire(generation)
        self._leave_unheard_epoch(now)
        self._span_choice.handle_timeout(now, self.last_sent_at)
        self.span = self._span_choice.span
        effects += self._confirm_probes(now)
        effects += self._probe_if_due(now)
        effects += self._probe_path_if_due(now)
        effects += self._rekey_if_due(now)
        self._reschedule()
        return effects

    def next_deadline(self) -> Deadline:
        """Cheap. May be earlier than needed: a time-out with nothing to do does no harm."""
        return self._deadline

    def close(self) -> list[SessionEffect]:
        """The session is removed; nothing may be called after this."""
        effects: list[SessionEffect] = []
        for generation in self._generations:
            self._generations.remove(generation)
            effects += self._retire(generation)
        self._deadline = NEVER
        return effects

    # --- what came in ------------------------------------------------------------------------

    def _handle_other_epoch(
        self, epoch: ReceiveEpoch, highest_counter: int, endpoint: Endpoint, now: float
    ) -> list[SessionEffect]:
        """Records of an epoch that is not the newest we heard: first ones, or late ones."""
        generation = self._generations.of(epoch)
        if generation is None:
            return []
        generation.heard_at = now
        effects: list[SessionEffect] = []
        if not generation.confirmed:
            effects += self._confirm(generation, now)
        newest = self._newest
        if newest is None or generation.number > newest.number or now - newest.heard_at >= _QUIET_S:
            self._newest = generation
            self._newest_receive = epoch
            self._newest_counter = highest_counter
            if endpoint != self.endpoint:
                effects += self._roam(endpoint, now)
        self._reschedule()
        return effects

    def _confirm(self, generation: Generation, now: float) -> list[SessionEffect]:
        former = self._generations.sending
        if not self._generations.confirm(generation, now):
            return []
        self.sending = generation.send
        self._sending_since = now
        if former is not None:
            self.epochs += 1
        self._path.start(now)
        self._probe_at = now
        return self._probe_if_due(now) + self._come_up_if_proven(now)

    def _leave_unheard_epoch(self, now: float) -> None:
        """Send on another epoch if the peer does not hear the one in use, but does hear that one.

        It may have dropped ours, after each of us took another epoch for the newest.
        """
        sending = self._generations.sending
        if sending is None or self.sending is None:
            return
        heard_until = max(sending.proof_at, self._sending_since)
        if now < heard_until + UNHEARD_EPOCH_S:
            return
        best = max(self._generations, key=lambda one: one.proof_at)
        if best.confirmed and best.proof_at > heard_until:
            self._generations.send_on(best, now)
            self.sending = best.send
            self._sending_since = now
            self._probe_at = now

    def _roam(self, endpoint: Endpoint, now: float) -> list[SessionEffect]:
        self.endpoint = endpoint
        self._path.handle_path_changed(now)
        self._fit_datagrams_to_path()
        self._span_choice.start_anew()
        self.span = self._span_choice.span
        self.lossy = self._span_choice.lossy
        self._probe_at = now
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
        rtt_s = now - answer.sent_at_us / 1e6
        if not -0.001 <= rtt_s <= _MAX_RTT_S:
            return []
        rtt_s = max(0.0, rtt_s)
        known_ms = self.rtt_ms
        self.rtt_ms = rtt_s * 1000 if known_ms == 0 else 0.875 * known_ms + 0.125 * rtt_s * 1000
        packet_bytes = answer.datagram_bytes + ip_overhead_of(self.endpoint[0])
        effects = self._note_proof(generation, now, now)
        self._path.handle_answer(packet_bytes, rtt_s, now)
        return effects + self._note_path()

    def _note_proof(self, generation: Generation, at: float, now: float) -> list[SessionEffect]:
        """At that time the peer heard us on this epoch."""
        if at <= generation.proof_at or now - at >= SESSION_DEAD_S:
            return []
        generation.proof_at = at
        self._proof_at = max(self._proof_at, at)
        if generation is self._generations.sending:
            # A probe that the peer sent serves us too, unless what it says is getting old.
            since = now if now - at < 1.25 * PROBE_INTERVAL_S else at
            self._probe_at = since + PROBE_INTERVAL_S * self._rng.uniform(0.85, 1.0)
        return self._come_up_if_proven(now)

    def _come_up_if_proven(self, now: float) -> list[SessionEffect]:
        if self.up or self.sending is None or now >= self._proof_at + SESSION_DEAD_S:
            return []
        self.up = True
        self.reason = ""
        return [CameUp(self.endpoint)]

    # --- keys --------------------------------------------------------------------------------

    def _handle_offer(
        self, offer: Offer, generation: Generation, endpoint: Endpoint, now: float
    ) -> list[SessionEffect]:
        base = self._generations.named(offer.base)
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
        return [*effects, SendControl(generation.send, payload, SMALL, endpoint)]

    def _handle_acceptance(self, acceptance: Acceptance, now: float) -> list[SessionEffect]:
        base = self._generations.named(acceptance.base)
        if base is None or not self._encrypted:
            return []
        agreed = self._rekey.handle_acceptance(base, acceptance)
        if agreed is None:
            return []
        base.successor, effects = self._add(agreed, None, probe_at=now, now=now)
        return effects + self._confirm_probes(now)

    def _rekey_if_due(self, now: float) -> list[SessionEffect]:
        sending = self._generations.sending
        if sending is None or not self._encrypted:
            return []
        if sending.send.counter >= LAST_DATA_RECORD and self.sending is not None:
            self.sending = None
            down = self._go_down("the keys are used up and the peer did not agree to new ones")
        else:
            down = []
        if not self.up and self.sending is not None:
            return down
        offer = self._rekey.handle_timeout(sending, self._sending_since, now)
        if offer is None:
            return down
        return [*down, SendControl(sending.send, encode_control(offer), SMALL, self.endpoint)]

    def _add(
        self, agreed: Agreed, guess: Endpoint | None, *, probe_at: float, now: float
    ) -> tuple[Generation, list[SessionEffect]]:
        generation, gone = self._generations.add(
            secret=agreed.secret,
            initiator=agreed.initiator,
            local_index=agreed.local_index,
            remote_index=agreed.remote_index,
            guess=guess,
            probe_at=probe_at,
            now=now,
        )
        effects: list[SessionEffect] = []
        for old in gone:
            effects += self._retire(old)
        effects.append(Listen(generation.receive))
        if self._probe_at == math.inf:
            self._probe_at = now + PROBE_INTERVAL_S
        return generation, effects

    def _retire(self, generation: Generation) -> list[SessionEffect]:
        """The generation was taken out of `_generations`."""
        if self._newest is generation:
            self._newest = self._newest_receive = None
        if self._generations.sending is None:
            self.sending = None
        return [Unlisten(generation.receive.local_index)]

    # --- probes ------------------------------------------------------------------------------

    def _confirm_probes(self, now: float) -> list[SessionEffect]:
        """Ask on each epoch that the peer has not confirmed, wherever the peer may be."""
        effects: list[SessionEffect] = []
        for generation in self._generations:
            if generation.confirmed or now < generation.next_probe_at:
                continue
            generation.probes += 1
            quick = generation.probes <= MAX_QUICK_CONFIRM_PROBES
            generation.next_probe_at = now + (CONFIRM_INTERVAL_S if quick else PROBE_INTERVAL_S)
            effects.append(self._probe(generation, SMALL, self.endpoint, now))
            if generation.guess not in (None, self.endpoint):
                effects.append(self._probe(generation, SMALL, generation.guess, now))
        return effects

    def _probe_if_due(self, now: float) -> list[SessionEffect]:
        """On the epoch in use: does the peer still hear us?"""
        if now < self._probe_at:
            return []
        sending = self._generations.sending
        again_s = max(PROBE_AGAIN_S, min(2 * self.rtt_ms / 1000, PROBE_INTERVAL_S))
        self._probe_at = now + (again_s if self.up else PROBE_INTERVAL_S)
        if sending is None:
            self._explain(now)
            return []
        effects: list[SessionEffect] = [self._probe(sending, SMALL, self.endpoint, now)]
        if not self.up:
            self._explain(now)
            if sending.guess not in (None, self.endpoint):
                effects.append(self._probe(sending, SMALL, sending.guess, now))
        return effects

    def _probe_path_if_due(self, now: float) -> list[SessionEffect]:
        sending = self._generations.sending
        if sending is None or now < self._path.next_at():
            return []
        sizes = self._path.handle_timeout(now, now - self.last_sent_at < _FLOW_S)
        overhead_bytes = ip_overhead_of(self.endpoint[0])
        effects: list[SessionEffect] = []
        for size in sizes:
            datagram_bytes = SMALL if size == SMALL else size - overhead_bytes
            effects.append(self._probe(sending, datagram_bytes, self.endpoint, now))
        return effects + self._note_path()

    def _probe(
        self, generation: Generation, datagram_bytes: int, endpoint: Endpoint | None, now: float
    ) -> SendControl:
        assert endpoint is not None
        heard_ms = NEVER_HEARD_MS
        if generation.heard_at > -math.inf:
            heard_ms = min(NEVER_HEARD_MS, int((now - generation.heard_at) * 1000))
        probe = Probe(sent_at_us=int(now * 1e6), heard_ms=heard_ms)
        return SendControl(generation.send, encode_control(probe), datagram_bytes, endpoint)

    # --- state -------------------------------------------------------------------------------

    def _check_liveness(self, now: float) -> list[SessionEffect]:
        if not self.up or now < self._grace_until:
            return []
        if now >= self._heard_at + SESSION_DEAD_S:
            return self._go_down(f"nothing heard from the peer for {SESSION_DEAD_S:g} s")
        if now >= self._proof_at + UNHEARD_DEAD_S:
            return self._go_down("the peer is heard but does not hear us: no probe was answered")
        return []

    def _go_down(self, reason: str) -> list[SessionEffect]:
        self.reason = reason
        if not self.up:
            return []
        self.up = False
        return [WentDown(reason)]

    def _explain(self, now: float) -> None:
        """Tell the operator what is missing, while the session is not up."""
        if now - self._heard_at < SESSION_DEAD_S:
            self.reason = (
                f"the peer is heard but does not hear us: is UDP to {_text(self.endpoint)} blocked?"
            )
        elif not self.reason.startswith("cannot send"):
            self.reason = f"no answer from {_text(self.endpoint)}: is UDP to it blocked?"

    def _note_path(self) -> list[SessionEffect]:
        self._fit_datagrams_to_path()
        path_mtu_bytes = self._path.usable_bytes
        overlay_mtu_is_old = self._path.found and self.overlay_mtu_bytes != overlay_mtu_of(
            path_mtu_bytes
        )
        if path_mtu_bytes == self.path_mtu_bytes and not overlay_mtu_is_old:
            return []
        shrank = 0 < path_mtu_bytes < self.path_mtu_bytes
        if not self._path.found and not shrank:
            return []
        self.path_mtu_bytes = path_mtu_bytes
        if self._path.found:
            # Not before: containers are told this, and remember the least of it for minutes.
            # What they send until then is fragmented.
            self.overlay_mtu_bytes = overlay_mtu_of(path_mtu_bytes)
        return [PathMtuFound(self.path_mtu_bytes, self.overlay_mtu_bytes)]

    def _fit_datagrams_to_path(self) -> None:
        overhead_bytes = ip_overhead_of(self.endpoint[0])
        self.max_datagram_payload_bytes = self._path.usable_bytes - overhead_bytes

    def _reschedule(self) -> None:
        deadline = Deadline(self._probe_at, "ask whether the peer hears us")
        for generation in self._generations:
            if not generation.confirmed and generation.next_probe_at < deadline.at:
                deadline = Deadline(generation.next_probe_at, "ask for new keys to be confirmed")
        expiry_at = self._generations.next_expiry_at()
        if expiry_at < deadline.at:
            deadline = Deadline(expiry_at, "retire old keys")
        sending = self._generations.sending
        if sending is not None:
            if self._path.next_at() < deadline.at:
                deadline = Deadline(self._path.next_at(), "probe the path MTU")
            if self._encrypted and (self.up or self.sending is None):
                rekey_at = self._rekey.next_at(sending, self._sending_since)
                if rekey_at < deadline.at:
                    deadline = Deadline(rekey_at, "renew the keys")
        if self.up:
            dead_at = min(self._heard_at + SESSION_DEAD_S, self._proof_at + UNHEARD_DEAD_S)
            dead_at = max(dead_at, self._grace_until)
            if dead_at < deadline.at:
                deadline = Deadline(dead_at, "declare the session dead")
        self._deadline = deadline


def _text(endpoint: Endpoint) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
