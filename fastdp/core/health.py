"""Does a tunnel pass full-sized frames both ways, and may it be trusted with traffic?

Two times say it all: when we last heard the peer, and when the peer last heard us, which its
heartbeats tell. The tunnel is dead if either is more than `DEAD_S` ago. It is good after
`GOOD_BEATS` heartbeats in a row that came in, each of which confirms another one of ours.

A tunnel that fails soon after it came up is held down before it may come up again, longer each
time, so that a path that comes and goes does not take the traffic along each time.
"""

import math

from fastdp.core.messages import NEVER_HEARD_MS, Heartbeat

BEAT_S = 1.0
DEAD_S = 3.5
"""Three heartbeats lost in a row. Traffic is on sleeve within 5 s of the first."""
GOOD_BEATS = 3
RECENT_S = 2.5
"""A heartbeat heard so long ago still confirms; a pause between heartbeats longer than this ends
the run."""

SOON_S = 60.0
"""A failure so soon after coming up counts as flapping."""
MAX_HOLD_S = 300.0
FORGIVEN_S = 300.0
"""Of health, after which earlier failures are forgotten."""


class Health:
    def __init__(self) -> None:
        self.failures = 0
        """One after the other, up to now."""
        self.received = 0
        self._heard_at = -math.inf
        self._confirmed_at = -math.inf
        self._adopted_at = -math.inf
        self._sequence = -1
        self._run = 0
        self._up_at = math.inf
        self._held_until = -math.inf

    def restart(self) -> None:
        """The tunnel is another one now: what was heard through the last says nothing."""
        self._heard_at = self._confirmed_at = self._adopted_at = -math.inf
        self._sequence = -1
        self._run = 0

    def adopt(self, now: float) -> None:
        """A tunnel that carries already is taken to work, until `DEAD_S` has gone by. The peer is
        not told so: it would take our trust for a proof."""
        self._adopted_at = now
        self._up_at = min(self._up_at, now)

    def handle_heartbeat(self, beat: Heartbeat, now: float) -> None:
        if beat.sequence == self._sequence:
            return
        confirms = beat.age_ms < NEVER_HEARD_MS and beat.age_ms <= RECENT_S * 1000
        in_a_row = (
            beat.sequence == (self._sequence + 1) & 0xFFFFFFFF and now - self._heard_at <= RECENT_S
        )
        # That one of ours arrived can be said several times, and is one proof.
        was_heard_at = now - beat.age_ms / 1000 if beat.age_ms < NEVER_HEARD_MS else -math.inf
        proof = int(was_heard_at > self._confirmed_at + BEAT_S / 2)
        self.received += 1
        self._run = (self._run if in_a_row else 0) + proof if confirms else 0
        self._sequence = beat.sequence
        self._heard_at = now
        self._confirmed_at = max(self._confirmed_at, was_heard_at)

    @property
    def has_heard(self) -> bool:
        return self._heard_at > -math.inf

    def age_ms(self, now: float) -> int:
        """How long ago the peer was heard, for our own heartbeat."""
        return round(min((now - self._heard_at) * 1000, NEVER_HEARD_MS))

    def hears(self, now: float) -> bool:
        return now - max(self._heard_at, self._adopted_at) <= DEAD_S

    def is_heard(self, now: float) -> bool:
        return now - max(self._confirmed_at, self._adopted_at) <= DEAD_S

    def is_dead(self, now: float) -> bool:
        return not (self.hears(now) and self.is_heard(now))

    def is_good(self, now: float) -> bool:
        return self._run >= GOOD_BEATS and not self.is_dead(now) and not self.held_s(now)

    def held_s(self, now: float) -> float:
        """For how much longer it may not come up, however good it is."""
        return max(0.0, self._held_until - now)

    def came_up(self, now: float) -> None:
        self._up_at = now

    def failed(self, now: float) -> None:
        """It was up, or about to be, and is not any more."""
        up_s = max(0.0, now - self._up_at)
        if up_s >= FORGIVEN_S:
            self.failures = 0
        flapping = up_s < SOON_S and self.failures > 0
        if flapping or not self.failures:
            self.failures += 1
        hold_s = min(2.0 ** min(self.failures - 1, 16), MAX_HOLD_S) if flapping else 0.0
        self._held_until = now + hold_s
        self._up_at = math.inf
        self._run = 0
