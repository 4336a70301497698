"""The virtual world of the simulator: one clock, one queue of events, one trace.

Nothing happens but what was put into the queue, and events of one instant happen in the order in
which they were put there. Together with random numbers that all come from the seed this makes a
run repeatable to the byte.
"""

import heapq
from collections.abc import Callable
from itertools import count
from random import Random


class SimulationFailure(AssertionError):
    """Something that must always hold did not."""


class World:
    def __init__(self, seed: str, tell: Callable[[str], None] | None = None) -> None:
        """`tell` takes the trace, line by line; None does without one, which is faster."""
        self.now = 0.0
        self.events = 0
        self.seed = seed
        self.rng = Random(f"{seed} world")
        self._tell = tell
        self._queue: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._order = count()

    @property
    def traced(self) -> bool:
        return self._tell is not None

    def random(self, purpose: str) -> Random:
        """A source of its own, so that one part drawing more does not move all others."""
        return Random(f"{self.seed} {purpose}")

    def trace(self, who: str, what: str) -> None:
        if self._tell is not None:
            self._tell(f"{self.now:12.6f} {who:<5} {what}")

    def at(self, when: float, action: Callable[..., object], *arguments: object) -> None:
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action, arguments))

    def later(self, delay_s: float, action: Callable[..., object], *arguments: object) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._order), action, arguments))

    def run(self, until: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(queue)
            self.events += 1
            action(*arguments)
        self.now = until
