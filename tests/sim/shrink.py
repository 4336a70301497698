"""Make a failing plan smaller: leave out steps as long as it still fails (delta debugging).

Reference: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
"""

import re
import time
from dataclasses import replace

from tests.sim.run import Result, run_plan

MAX_SHRINK_S = 60.0


def kind_of(failure: str) -> str:
    """What went wrong, without the numbers and names in it."""
    return re.sub(r"[0-9a-f]*\d[0-9a-f.:]*|h\d+", "", failure)[:60]


def shrink(failing: Result, seconds: float = MAX_SHRINK_S) -> Result:
    """The smallest plan found in that time which still fails in that way."""
    give_up_at = time.monotonic() + seconds
    best = failing
    parts = 2
    while len(best.plan.steps) > 1 and time.monotonic() < give_up_at:
        steps = best.plan.steps
        size = max(1, len(steps) // parts)
        for start in range(0, len(steps), size):
            fewer = steps[:start] + steps[start + size :]
            result = run_plan(replace(best.plan, steps=fewer))
            if kind_of(result.failure) == kind_of(failing.failure):
                best = result
                parts = max(2, parts - 1)
                break
            if time.monotonic() > give_up_at:
                return best
        else:
            if size == 1:
                return best
            parts = min(len(steps), parts * 2)
    return best
