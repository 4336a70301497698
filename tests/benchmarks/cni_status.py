"""How long STATUS takes while pods are added, as the runtime that executes it sees it.

    python -m tests.benchmarks.cni_status --pods 100

First with nothing else to do, then while 4 and 16 ADDs at a time are under way. In turns with it,
what it cannot be quicker than: a program that does nothing, and the router's answer.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cni.runtime import NETWORK, Runtime
from weavepy.client import schema
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted

IDLE_ROUNDS = 50
AT_A_TIME = (4, 16)
NOTHING = "/bin/true"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pods", type=int, default=100)
    options = parser.parse_args()
    lab = Lab("cnist")
    with tempfile.TemporaryDirectory() as directory:
        try:
            lab.up(Wanted(hosts=2, containers=0), lambda line: None)
            runtime = Runtime(lab, "h1", Path(directory))
            try:
                measure(runtime, options.pods)
            finally:
                runtime.remove()
        finally:
            lab.down()
    return 0


def measure(runtime: Runtime, pods: int) -> None:
    made = [runtime.pod() for _ in range(pods)]
    runtime.add(made[0])
    runtime.delete(made[0])
    idle = Times()
    for _ in range(IDLE_ROUNDS):
        idle.take(runtime)
    idle.show("nothing else")
    for at_a_time in AT_A_TIME:
        ended = threading.Event()
        times = Times()

        def ask(times: Times = times, ended: threading.Event = ended) -> None:
            while not ended.is_set():
                times.take(runtime)

        asking = threading.Thread(target=ask)
        asking.start()
        with ThreadPoolExecutor(at_a_time) as pool:
            list(pool.map(runtime.add, made))
        ended.set()
        asking.join()
        times.show(f"{at_a_time} ADDs at a time")
        for pod in made:
            runtime.delete(pod)


class Times:
    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = {}

    def take(self, runtime: Runtime) -> None:
        request = schema.CniStatusRequest(network=NETWORK, subnet="")
        self._timed("STATUS", lambda: runtime.call("STATUS", ""))
        self._timed("/bin/true", lambda: subprocess.run([NOTHING], check=True))
        self._timed("router", lambda: runtime.api.cni_status(request))

    def _timed(self, what: str, work: Callable[[], object]) -> None:
        begun = time.perf_counter()
        done = work()
        self._taken.setdefault(what, []).append(time.perf_counter() - begun)
        assert not isinstance(done, tuple) or done == (0, {}), done

    def show(self, when: str) -> None:
        for what, taken in self._taken.items():
            ordered = sorted(taken)
            p50, p99 = (ordered[int(len(ordered) * part)] * 1e3 for part in (0.5, 0.99))
            print(
                f"{when:20} {what:12} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms "
                f" most {ordered[-1] * 1e3:6.1f} ms  of {len(taken)}"
            )


if __name__ == "__main__":
    sys.exit(main())
