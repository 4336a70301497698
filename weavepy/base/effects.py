"""The loop that carries out what cores decide, strictly first in, first out.

A core returns effects; performing one may call another core, which returns more. They
queue behind those already waiting. So an effect that a core listed first is finished
before any later one begins: "write to disk, then tell others" is just their order.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Effect = TypeVar("Effect")

MAX_EFFECTS_PER_RUN = 1_000_000
"""More than this from one input means that two cores are answering each other for ever."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A change of state worth a line; `fields` start with the peer where there is one."""

    level: str
    """One of "info", "warning", "error"."""
    message: str
    fields: tuple[tuple[str, str], ...] = ()


class EffectLoop(Generic[Effect]):
    """`perform(effect, now)` does one effect and returns those that follow from it."""

    def __init__(self, perform: Callable[[Effect, float], Iterable[Effect]]) -> None:
        self._perform = perform
        self._queue: deque[Effect] = deque()
        self._running = False

    def run(self, effects: Iterable[Effect], now: float) -> None:
        """Perform these and all that follow. Called from inside `perform`, it only queues."""
        self._queue.extend(effects)
        if self._running:
            return
        self._running = True
        try:
            for _ in range(MAX_EFFECTS_PER_RUN):
                if not self._queue:
                    return
                self._queue.extend(self._perform(self._queue.popleft(), now))
            raise AssertionError(f"effects without end; next is {self._queue[0]!r}")
        finally:
            self._running = False
