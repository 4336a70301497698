"""When a core wants to be called again, and why.

A shell keeps one timer for a core: it asks `next_deadline()`, sleeps until `at`, calls
`handle_timeout(now)` and asks again. The reason is for traces and for `report`.
"""

import math
from typing import NamedTuple


class Deadline(NamedTuple):
    """`at` is in seconds on the same monotonic clock as every `now`.

    A dozen of them are made and compared after each input, and tuples do both in C.
    """

    at: float
    reason: str


NEVER = Deadline(math.inf, "nothing to wait for")


def earliest(*deadlines: Deadline) -> Deadline:
    return min(deadlines, default=NEVER)
