"""Each broadcast is taken once, whatever the routes are doing.

While routes change, the trees of two peers may disagree for a moment, and a frame can come in
over two neighbours or come round a loop. So its source numbers it, and every peer keeps, per
run of a source (the nonce that it drew when it started), which numbers it has taken. What was
taken is neither delivered nor passed on again, so a loop ends at the first peer it returns to.
"""

from dataclasses import dataclass

WINDOW = 4_096
"""How far a broadcast may be overtaken by later ones of its source and still be taken."""

MAX_RUNS = 8_192
"""Runs of sources that are remembered: two for each of the 4,096 peers of a mesh."""

MAX_RUNS_PER_SOURCE = 4
"""A late frame of a source's previous run must not make us forget the present one."""

IDLE_S = 120.0
"""Longer than any frame is on its way. A run that was silent this long may be forgotten."""

_SEEN_MASK = (1 << WINDOW) - 1


@dataclass(slots=True)
class _Run:
    highest: int
    seen: int
    """Bit `i` says that `highest - i` was taken."""
    used_at: float


class BroadcastFilter:
    def __init__(self) -> None:
        self._runs: dict[int, dict[int, _Run]] = {}
        """Source short id, then boot nonce."""
        self._run_count = 0

    def accept(self, source_short_id: int, boot_nonce: int, sequence: int, now: float) -> bool:
        """Whether to take this broadcast; True exactly once for each."""
        runs = self._runs.get(source_short_id)
        run = None if runs is None else runs.get(boot_nonce)
        if run is None:
            self._add(source_short_id, boot_nonce, sequence, now)
            return True
        run.used_at = now
        ahead = sequence - run.highest
        if ahead > 0:
            run.seen = (run.seen << ahead & _SEEN_MASK | 1) if ahead < WINDOW else 1
            run.highest = sequence
            return True
        if ahead <= -WINDOW or run.seen >> -ahead & 1:
            return False
        run.seen |= 1 << -ahead
        return True

    def forget(self, source_short_id: int) -> None:
        """The peer left the mesh."""
        self._run_count -= len(self._runs.pop(source_short_id, {}))

    def __len__(self) -> int:
        return self._run_count

    def _add(self, source: int, nonce: int, sequence: int, now: float) -> None:
        if self._run_count >= MAX_RUNS:
            self._make_room(now)
        runs = self._runs.setdefault(source, {})
        if len(runs) >= MAX_RUNS_PER_SOURCE:
            del runs[min(runs, key=lambda nonce: runs[nonce].used_at)]
            self._run_count -= 1
        runs[nonce] = _Run(highest=sequence, seen=1, used_at=now)
        self._run_count += 1

    def _make_room(self, now: float) -> None:
        """Forget the idle runs, or if there are none the one that was idle for longest."""
        by_age = sorted(
            (run.used_at, source, nonce)
            for source, runs in self._runs.items()
            for nonce, run in runs.items()
        )
        for position, (used_at, source, nonce) in enumerate(by_age):
            if position > 0 and now - used_at < IDLE_S:
                return
            runs = self._runs[source]
            del runs[nonce]
            self._run_count -= 1
            if not runs:
                del self._runs[source]
