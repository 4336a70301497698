"""How large a packet the path to one peer carries, found by asking the path itself.

Sizes here are those of whole underlay IP packets. The session sends padded probes of the sizes
that this machine names and tells it which were answered; an unanswered size is too large only
if smaller probes of the same moment came through. ICMP is never believed: it can be forged, and
it is often filtered.

    quick      the whole underlay MTU, once: on most paths that is all
    search     first the sizes that real links have, all at once, then four at a time between
               the largest that passed and the smallest that did not
    settled    while frames flow, the size in use is tried again twice a second; when it
               stops passing while small probes pass (a "black hole"), we fall back to a size
               that nearly every path carries and search anew. Larger sizes get another
               chance soon after that, and then ever more rarely, down to once a minute.

A black hole is found in well below a second on a quick path, and the pace has a reason: a TCP
that met it sends again after about 0.2, 0.6, 1.4 and 3 s, so a flow goes on after 1.4 s if we
know by then, and only after 3 s if we don't.
"""

import math
from enum import Enum

MIN_PATH_MTU_BYTES = 576
"""The least that we work with; IPv4 promises it in practice, IPv6 more."""

BASE_PATH_MTU_BYTES = 1280
"""What we assume while we know nothing: every IPv6 path carries it, and nearly every IPv4 path."""

COMMON_SIZES_BYTES = (576, 1006, 1280, 1400, 1420, 1450, 1472, 1480, 1492, 1500, 4352, 8900, 9000)
"""The MTUs of real links and of tunnels over them: PPPoE 1492, WireGuard 1420, VXLAN 1450 ..."""

SMALL = 0
"""As a size to probe: without padding."""

RAISE_MIN_S = 5.0
RAISE_MAX_S = 60.0
"""From one fruitless try of larger sizes to the next it takes twice as long, within these."""

VERIFY_INTERVAL_S = 0.4
ATTEMPT_MIN_S = 0.1
ATTEMPT_MAX_S = 1.0
MAX_FAILURES = 3
"""Attempts in which a size was not answered although a smaller probe was."""

_SPLITS = 4


class _Phase(Enum):
    IDLE = "not started"
    QUICK = "try the underlay MTU"
    SEARCH = "search"
    SETTLED = "verify"
    VERIFY = "verify again"


class PathMtu:
    def __init__(self, underlay_mtu_bytes: int) -> None:
        self._top = max(underlay_mtu_bytes, MIN_PATH_MTU_BYTES)
        self._passed = 0
        """The largest size known to pass; 0: none yet."""
        self._failed = self._top + 1
        """The smallest size believed not to pass."""
        self._assumed = min(BASE_PATH_MTU_BYTES, self._top)
        self._phase = _Phase.IDLE
        self._rising_from = 0
        """The size that worked before a search for a larger one; 0: this is no such search."""
        self._sizes: tuple[int, ...] = ()
        self._failures = 0
        self._attempted = False
        self._answered = False
        """Whether anything came back since the latest attempt."""
        self._attempt_s = ATTEMPT_MIN_S
        self._next_at = math.inf
        self._raise_at = math.inf
        self._raise_s = RAISE_MIN_S
        self._must_verify = False

    @property
    def usable_bytes(self) -> int:
        """The size to send with: known to pass, or before that the size assumed."""
        return self._passed or self._assumed

    @property
    def found(self) -> bool:
        """Whether `usable_bytes` is the result of a finished search."""
        return self._passed > 0 and self._phase in (_Phase.SETTLED, _Phase.VERIFY)

    def start(self, now: float) -> None:
        """The path works for small packets. Harmless if already started."""
        if self._phase is _Phase.IDLE:
            self._phase = _Phase.QUICK
            self._begin((self._top,), now)

    def handle_path_changed(self, now: float) -> None:
        """The peer's address changed: nothing is certain, but the old size is a good guess."""
        if self._phase in (_Phase.SETTLED, _Phase.VERIFY):
            self._must_verify = True
            self._next_at = now
            self._raise_at = now + VERIFY_INTERVAL_S if self._passed < self._top else math.inf

    def handle_too_big_here(self, now: float) -> None:
        """Our own interface refused a datagram (EMSGSIZE).

        If that was a probe of a size not known to pass, it just stays unanswered. Else the
        interface's MTU shrank, and verifying at once finds that out.
        """
        if self._phase is _Phase.SETTLED:
            self._must_verify = True
            self._next_at = now

    def handle_answer(self, packet_bytes: int, rtt_s: float, now: float) -> None:
        """A probe that was a packet of this size on arrival was answered."""
        self._answered = True
        self._attempt_s = min(ATTEMPT_MAX_S, max(ATTEMPT_MIN_S, 1.5 * rtt_s))
        packet_bytes = min(packet_bytes, self._top)
        if packet_bytes >= self._passed and packet_bytes >= MIN_PATH_MTU_BYTES:
            self._passed = packet_bytes
            self._failed = max(self._failed, packet_bytes + 1)
            if self._phase in (_Phase.SETTLED, _Phase.VERIFY):
                self._settle_until_next_check(now)
        if self._phase in (_Phase.QUICK, _Phase.SEARCH) and self._passed + 1 >= self._failed:
            self._settle(now)

    def handle_timeout(self, now: float, frames_flow: bool) -> tuple[int, ...]:
        """The sizes to probe now; empty if there is nothing to do yet."""
        if now < self.next_at():
            return ()
        match self._phase:
            case _Phase.IDLE:
                return ()
            case _Phase.QUICK:
                return self._continue_quick(now)
            case _Phase.SEARCH:
                return self._continue_search(now)
            case _Phase.SETTLED:
                return self._check(now, frames_flow)
            case _Phase.VERIFY:
                return self._continue_verify(now)

    def next_at(self) -> float:
        if self._phase is _Phase.SETTLED:
            return min(self._next_at, self._raise_at)
        return self._next_at

    def _continue_quick(self, now: float) -> tuple[int, ...]:
        if not self._attempted:
            return self._attempt(now)
        self._search(now)
        return self._attempt(now)

    def _continue_search(self, now: float) -> tuple[int, ...]:
        if self._attempted and self._answered:
            self._failures += 1
        if self._failures < MAX_FAILURES:
            return self._attempt(now)
        refuted = [size for size in self._sizes if size > self._passed]
        if refuted:
            self._failed = min(self._failed, min(refuted))
        if not self._passed and self._failed <= MIN_PATH_MTU_BYTES:
            self._passed = MIN_PATH_MTU_BYTES
        sizes = self._candidates()
        if not sizes or self._passed == self._rising_from:
            # When a larger size was hoped for, one round without success is enough.
            self._settle(now)
            return ()
        self._begin(sizes, now)
        return self._attempt(now)

    def _check(self, now: float, frames_flow: bool) -> tuple[int, ...]:
        if now >= self._raise_at:
            self._raise_s = min(RAISE_MAX_S, 2 * self._raise_s)
            self._rising_from = self._passed
            self._failed = self._top + 1
            self._search(now)
            return self._attempt(now)
        worth_it = frames_flow or self._must_verify
        if not worth_it or self._passed <= MIN_PATH_MTU_BYTES:
            self._next_at = now + VERIFY_INTERVAL_S
            return ()
        self._must_verify = False
        self._phase = _Phase.VERIFY
        self._begin((self._passed,), now)
        self._next_at = now + self._attempt_s
        # Nearly always this one is answered, and that is all.
        return (self._passed,)

    def _continue_verify(self, now: float) -> tuple[int, ...]:
        if self._attempted and self._answered:
            self._failures += 1
        if self._failures < MAX_FAILURES:
            # Twice, so that a lossy path is not taken for a black hole.
            return (*self._attempt(now), self._passed)
        self._raise_s = RAISE_MIN_S
        self._failed = self._passed
        self._passed = 0
        base = BASE_PATH_MTU_BYTES if self._failed > BASE_PATH_MTU_BYTES else MIN_PATH_MTU_BYTES
        self._assumed = base
        self._rising_from = 0
        self._search(now)
        return self._attempt(now)

    def _search(self, now: float) -> None:
        self._phase = _Phase.SEARCH
        self._raise_at = math.inf
        self._begin(self._candidates(), now)

    def _candidates(self) -> tuple[int, ...]:
        """Sizes strictly between what passed and what failed, ascending; empty: nothing left."""
        low = max(self._passed, MIN_PATH_MTU_BYTES - 1)
        common = [size for size in COMMON_SIZES_BYTES if low < size < self._failed]
        if self._failed == self._top + 1 and self._top not in common and self._top > low:
            common.append(self._top)
        if common:
            return tuple(common)
        unknown = self._failed - low - 1
        count = min(_SPLITS, max(0, unknown))
        return tuple(low + (unknown + 1) * (i + 1) // (count + 1) for i in range(count))

    def _begin(self, sizes: tuple[int, ...], now: float) -> None:
        self._sizes = sizes
        self._failures = 0
        self._attempted = False
        self._next_at = now

    def _attempt(self, now: float) -> tuple[int, ...]:
        if self._attempted and not self._answered:
            # Nothing at all passes, so this is no question of size: ask less often.
            self._attempt_s = min(ATTEMPT_MAX_S, 2 * self._attempt_s)
        self._attempted = True
        self._answered = False
        self._next_at = now + self._attempt_s
        wanted = tuple(size for size in self._sizes if size > self._passed)
        return (SMALL, *(wanted or self._sizes))

    def _settle(self, now: float) -> None:
        if self._passed > self._rising_from > 0:
            self._raise_s = RAISE_MIN_S
        self._rising_from = 0
        self._raise_at = now + self._raise_s if self._passed < self._top else math.inf
        self._settle_until_next_check(now)

    def _settle_until_next_check(self, now: float) -> None:
        self._phase = _Phase.SETTLED
        self._next_at = now + VERIFY_INTERVAL_S
