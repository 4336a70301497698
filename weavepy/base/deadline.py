"""When a core wants to be called again, and why.

A shell keeps one timer for a core: it asks `next_deadline()`, sleeps until `at`, calls
`handle_timeout(now)` and asks again. The reason is for traces and for `report`.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class Deadline:
    """`at` is in seconds on the same monotonic clock as every `now`."""

    at: float
    reason: str


NEVER = Deadline(math.inf, "nothing to wait for")


def earliest(*deadlines: Deadline) -> Deadline:
    return min(deadlines, default=NEVER)
