"""Whether the peer hears us, as far as we can know, and when to ask.

A session is *up* only while we know that the peer hears us: it answered a probe of ours, or its
own probe says how lately it heard us. Authentic records coming in prove the other direction
alone. While all is well one probe each second, from whichever end is first, serves both ends;
a probe that is not answered is repeated quickly, so on a lossy path it takes a row of losses
to bring a session down.
"""

import math
from random import Random

from router.sleeve.effects import Endpoint
from router.sleeve.messages import SESSION_DEAD_S
from weavepy.base.deadline import Deadline, earliest

PROBE_INTERVAL_S = 1.0
PROBE_AGAIN_S = 0.25
"""After this a probe of a session that is up is repeated; after longer on a slow path."""

UNHEARD_DEAD_S = 1.5 * SESSION_DEAD_S
"""A little longer than `SESSION_DEAD_S`, for the peer that we hear while our probes stay
unanswered: its own send queue may be full of what it sends us."""

INTERRUPTION_S = 2.0
"""The peer did not prove for this long that it hears us, on whatever epoch."""

_MAX_RTT_S = 10.0
"""An answer later than this proves nothing about now."""


class Liveness:
    def __init__(self, rng: Random) -> None:
        self.up = False
        self.reason = "no keys agreed yet"
        """Why it is not up; empty while it is."""
        self.rtt_ms = 0.0
        self.heard_at = -math.inf
        """When an authentic record last came in, on whatever epoch."""
        self.probe_at = math.inf
        """When to ask on the epoch in use whether the peer still hears us."""
        self._proof_at = -math.inf
        """When we last knew that the peer hears us."""
        self._grace_until = -math.inf
        self._rng = rng

    def note_stall(self, now: float) -> None:
        """We stood still ourselves: no wonder that nothing was heard."""
        self._grace_until = now + PROBE_INTERVAL_S
        self.probe_at = min(self.probe_at, now)

    def note_answer(self, sent_at_us: int, now: float) -> float | None:
        """A probe of then was answered now; how long that took, None if it proves nothing."""
        rtt_s = now - sent_at_us / 1e6
        if not -0.001 <= rtt_s <= _MAX_RTT_S:
            return None
        rtt_s = max(0.0, rtt_s)
        known_ms = self.rtt_ms
        self.rtt_ms = rtt_s * 1000 if known_ms == 0 else 0.875 * known_ms + 0.125 * rtt_s * 1000
        return rtt_s

    def note_proof(self, at: float, in_use: bool, now: float) -> None:
        """At that time the peer heard us, on the epoch `in_use` or on another."""
        self._proof_at = max(self._proof_at, at)
        if in_use:
            # A probe that the peer sent serves us too, unless what it says is getting old.
            since = now if now - at < 1.25 * PROBE_INTERVAL_S else at
            self.probe_at = since + PROBE_INTERVAL_S * self._rng.uniform(0.85, 1.0)

    def is_interrupted(self, now: float) -> bool:
        return now - self._proof_at > INTERRUPTION_S

    def come_up_if_proven(self, now: float) -> bool:
        """True if it was not up and now is."""
        if self.up or now >= self._proof_at + SESSION_DEAD_S:
            return False
        self.up = True
        self.reason = ""
        return True

    def go_down(self, reason: str) -> bool:
        """True if it was up."""
        was_up, self.up, self.reason = self.up, False, reason
        return was_up

    def why_dead(self, now: float) -> str:
        """Why a session that is up must go down; empty if it need not."""
        if not self.up or now < self._grace_until:
            return ""
        if now >= self.heard_at + SESSION_DEAD_S:
            return f"nothing heard from the peer for {SESSION_DEAD_S:g} s"
        if now >= self._proof_at + UNHEARD_DEAD_S:
            return "the peer is heard but does not hear us: no probe was answered"
        return ""

    def take_probe(self, now: float) -> bool:
        """Whether a probe is due; if so, the next one is put off."""
        if now < self.probe_at:
            return False
        again_s = max(PROBE_AGAIN_S, min(2 * self.rtt_ms / 1000, PROBE_INTERVAL_S))
        self.probe_at = now + (again_s if self.up else PROBE_INTERVAL_S)
        return True

    def explain(self, endpoint: Endpoint, now: float) -> None:
        """Tell the operator what is missing, while the session is not up."""
        where = endpoint_text(endpoint)
        if now - self.heard_at < SESSION_DEAD_S:
            self.reason = f"the peer is heard but does not hear us: is UDP to {where} blocked?"
        elif not self.reason.startswith("cannot send"):
            self.reason = f"no answer from {where}: is UDP to it blocked?"

    def next_deadline(self) -> Deadline:
        probe = Deadline(self.probe_at, "ask whether the peer hears us")
        if not self.up:
            return probe
        dead_at = min(self.heard_at + SESSION_DEAD_S, self._proof_at + UNHEARD_DEAD_S)
        dead_at = max(dead_at, self._grace_until)
        return earliest(probe, Deadline(dead_at, "declare the session dead"))


def endpoint_text(endpoint: Endpoint) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
