"""A long life: a few peers, with work and faults over days of simulated time.

The router of the first host lives all the while. Now and then all that it holds is counted: every
object that can be reached from its cores, with its size. What is not let go of shows as growth.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from tests.sim.checkers import Checkers
from tests.sim.network import Network
from tests.sim.peers import Host
from tests.sim.plan import Plan
from tests.sim.run import Result, Run
from tests.sim.world import World

SAMPLES = 72
MAX_GROWTH_BYTES = 48 << 10
"""Between the second and the last third of the time. What is bounded fills up for days: the ring,
till each address is an entry, the last 256 grants to others, the last 64 refusals."""

_NOT_OURS = (type, ModuleType, FunctionType, BuiltinFunctionType, Host, World, Network, Checkers)


@dataclass(frozen=True)
class Sample:
    at_s: float
    router_bytes: int
    """All that the first host's router holds."""
    process_bytes: int
    """The simulator, with all hosts, their disks and what the checkers remember."""


class LongRun:
    def __init__(self, plan: Plan, tell: Callable[[str], None]) -> None:
        self.samples: list[Sample] = []
        self._run = Run(plan)
        self._tell = tell
        for number in range(1, SAMPLES + 1):
            self._run.world.at(plan.faults_s * number / SAMPLES, self._sample)

    def run(self) -> Result:
        """What went wrong is in the result, growth as well."""
        result = self._run.run()
        if not result.failure and self.growth_bytes() > MAX_GROWTH_BYTES:
            result.failure = f"what a router holds has grown by {self.growth_bytes():.0f} bytes"
        return result

    def growth_bytes(self) -> float:
        third = len(self.samples) // 3
        before = median(sample.router_bytes for sample in self.samples[third : 2 * third])
        return median(sample.router_bytes for sample in self.samples[2 * third :]) - before

    def _sample(self) -> None:
        first = self._run.hosts[0]
        assert first.node is not None
        assert first.run == 1, "the first host's router was to live all the while"
        sample = Sample(
            self._run.world.now, bytes_held([first.node, first.datapath]), _process_bytes()
        )
        self.samples.append(sample)
        self._tell(
            f"{sample.at_s / 3600:7.2f} h  {self._run.world.events:9} events,"
            f" a router holds {sample.router_bytes:8} bytes,"
            f" the process {sample.process_bytes >> 20} MiB"
        )


def bytes_held(roots: list[Any]) -> int:
    """The size of everything that can be reached from here, without the world around."""
    seen = {id(root) for root in roots}
    todo = list(roots)
    total = 0
    while todo:
        thing = todo.pop()
        total += sys.getsizeof(thing)
        for other in gc.get_referents(thing):
            if id(other) not in seen and not isinstance(other, _NOT_OURS):
                seen.add(id(other))
                todo.append(other)
    return total


def _process_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
