"""Pods come and go at random while the router is killed: nothing may be left, nobody robbed.

    python -m tests.cni.churn --operations 10000 --seed 1

A model knows which pods live, with the addresses that ADD told. A verb that was under way when
the router was killed may have happened or not; then the model does what a runtime would, and DELs.
After each restart, and at the end, what the model knows is compared with interfaces, filters and
the ring.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

from tests.cni.runtime import NETWORK, Runtime
from weavepy.lab import routers
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted

PODS = 10
KILL_WITHIN_S = 0.04
CHECK_EVERY = 250
LAST = 20
"""So many verbs are told when something is found."""

WEIGHTS = {"add": 40, "delete": 40, "delete_without_namespace": 10, "gc": 6, "kill": 1}


class Churn:
    def __init__(self, runtime: Runtime, seed: int, kills: int = WEIGHTS["kill"]) -> None:
        """`kills` is their weight: of about a hundred operations so many."""
        self._runtime = runtime
        self._rng = random.Random(seed)
        self._pods = [runtime.pod() for _ in range(PODS)]
        self._live: dict[str, dict[str, Any]] = {}
        """Pod to the result of its ADD."""
        self._runs = True
        self._weights = WEIGHTS | {"kill": kills}
        self.done: Counter[str] = Counter()
        self._last: deque[str] = deque(maxlen=LAST)

    def run(self, operations: int) -> None:
        for number in range(operations):
            if number % CHECK_EVERY == 0 and self._runs:
                self.check()
                print(f"{number} operations: {dict(self.done)}", flush=True)
            [operation] = self._rng.choices(list(self._weights), list(self._weights.values()))
            if not self._runs and self._rng.random() < 0.2:
                self._start()
            getattr(self, f"_{operation}")()
            self.done[operation] += 1
        if not self._runs:
            self._start()
        for pod in list(self._live):
            self._delete(pod)
        self._gc()
        left = self._runtime.left()
        assert left == [], left

    def check(self) -> None:
        """What lives is whole, and still has what it was given."""
        runtime = self._runtime
        left = runtime.left(*self._live)
        assert left == [], f"{left}, when {list(self._live)} live, after {list(self._last)}"
        owners = {each.address: each.owner for each in runtime.api.addresses().addresses}
        for pod, result in self._live.items():
            [address] = [ip["address"] for ip in result["ips"]]
            owner = owners.get(address)
            assert owner == f"cni:{NETWORK}/{pod}/eth0", f"{pod}'s {address} is {owner}'s"
            answer = runtime.call("CHECK", pod, {"prevResult": result})
            assert answer == (0, {}), f"{pod}: {answer}"

    # --- operations ------------------------------------------------------------------------------

    def _add(self) -> None:
        pod = self._rng.choice(self._pods)
        code, answer = self._runtime.call("ADD", pod)
        self._last.append(f"ADD {pod}: {code}")
        if pod in self._live:
            assert code == 1, f"{pod} was added twice: {answer}"
            assert answer["code"] == (101 if self._runs else 11), answer
        elif code == 0:
            assert self._runs
            mine = {ip["address"] for ip in answer["ips"]}
            others = {ip["address"] for result in self._live.values() for ip in result["ips"]}
            assert not mine & others, f"{pod} was given {mine}, which lives"
            self._live[pod] = answer
        else:
            assert not self._runs, answer
            assert answer["code"] == 11, answer

    def _delete(self, pod: str = "", **variables: str) -> None:
        pod = pod or self._rng.choice(self._pods)
        for _ in range(self._rng.choice((1, 1, 1, 5))):
            self._runtime.delete(pod, **variables)
            self._last.append(f"DEL {pod} {variables or ''}")
        self._live.pop(pod, None)

    def _delete_without_namespace(self) -> None:
        self._delete(netns="")

    def _gc(self) -> None:
        """As a runtime that has lost a pod from its books, now and then."""
        if self._live and self._rng.random() < 0.5:
            lost = self._rng.choice(sorted(self._live))
        else:
            lost = ""
        valid = [pod for pod in self._live if pod != lost]
        code, answer = self._runtime.gc(*valid)
        self._last.append(f"GC of all but {valid}: {code}")
        if self._runs:
            assert code == 0, answer
            self._live.pop(lost, None)
        else:
            assert (code, answer["code"]) == (1, 11)

    def _kill(self) -> None:
        """While a verb is under way, at any moment of it."""
        if not self._runs:
            self._start()
        self.check()
        pod = self._rng.choice(self._pods)
        verb = "DEL" if pod in self._live and self._rng.random() < 0.7 else "ADD"
        outcome: list[tuple[int, dict[str, Any]]] = []
        worker = threading.Thread(target=lambda: outcome.append(self._runtime.call(verb, pod)))
        worker.start()
        time.sleep(self._rng.uniform(0, KILL_WITHIN_S))
        self._runtime.lab.router(self._runtime.host, "kill")
        worker.join()
        self._runs = False
        [(code, answer)] = outcome
        self._last.append(f"killed in {verb} {pod}: {code} {answer}")
        if verb == "DEL":
            assert code == 0, answer
            self._live.pop(pod, None)
        elif code == 0:
            self._live[pod] = answer
        elif pod not in self._live:
            # The runtime takes away what it could not add; the plugin's own note may be lost.
            if self._rng.random() < 0.3:
                shutil.rmtree(self._runtime.journal, ignore_errors=True)
            self._runtime.delete(pod)
            self._last.append(f"DEL {pod}")

    def _start(self) -> None:
        self._runtime.start_router()
        self._runs = True
        self._last.append("start")
        self.check()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lab = Lab("churn")
    with tempfile.TemporaryDirectory() as directory:
        try:
            lab.up(Wanted(hosts=2, containers=0), print)
            runtime = Runtime(lab, "h1", Path(directory))
            try:
                churn = Churn(runtime, options.seed)
                begun = time.monotonic()
                churn.run(options.operations)
                print(f"{dict(churn.done)} in {time.monotonic() - begun:.0f} s: nothing is left")
            except BaseException:
                for line in routers.last_log_lines(lab.store, lab.plan.node("h1")):
                    print(line)
                raise
            finally:
                runtime.remove()
        finally:
            lab.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
