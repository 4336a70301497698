"""What ADD and DEL cost, beside Debian's bridge with host-local, interleaved in one run.

    python -m tests.benchmarks.cni_latency --pods 200

Both plugins are executed as a runtime does, in the network namespace of one host. A pod's namespace
is made before. Processor time is per call; the router does other things meanwhile, which are in it.
Then the same ADDs and DELs with 16 at a time.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cni.conformance.target import Target
from tests.cni.runtime import Runtime
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted

PARALLEL = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pods", type=int, default=200)
    options = parser.parse_args()
    lab = Lab("cnibm")
    with tempfile.TemporaryDirectory() as directory:
        try:
            lab.up(Wanted(hosts=2, containers=0), lambda line: None)
            runtime = Runtime(lab, "h1", Path(directory))
            try:
                measure(targets(runtime, directory), runtime, options.pods)
            finally:
                runtime.remove()
        finally:
            lab.down()
    return 0


def targets(runtime: Runtime, directory: str) -> dict[str, Target]:
    host_local = {"type": "host-local", "subnet": "10.89.0.0/16", "dataDir": directory}
    bridge = {"name": "n", "bridge": "cnibm0", "isDefaultGateway": True, "ipam": host_local}
    ours = {key: value for key, value in runtime.config.items() if key != "cniVersion"}
    return {
        "weavepy-cni": Target(runtime.plugin, ours, host=runtime.namespace),
        "bridge + host-local": Target(Path("/usr/lib/cni/bridge"), bridge, host=runtime.namespace),
    }


def measure(plugins: dict[str, Target], runtime: Runtime, pods: int) -> None:
    times: dict[tuple[str, str], list[float]] = {}
    costs: dict[tuple[str, str], Cost] = {}
    router = runtime.lab.store.read().process(f"router {runtime.host}")
    assert router is not None

    def timed(name: str, verb: str, pod: str) -> dict[str, Any]:
        variables = {"containerid": pod, "netns": f"/run/netns/{pod}", "ifname": "eth0"}
        begun = time.perf_counter()
        done = plugins[name].call(verb, "1.0.0", **variables)
        times.setdefault((name, verb), []).append(time.perf_counter() - begun)
        assert done.code == 0, done
        return done.answer if verb == "ADD" else {}

    made = {name: [runtime.pod() for _ in range(pods)] for name in plugins}
    for verb in ("ADD", "DEL"):
        for number in range(pods):
            for name in plugins:
                before = Cost.until_now(router.pid)
                timed(name, verb, made[name][number])
                spent = Cost.until_now(router.pid) - before
                costs[name, verb] = costs.get((name, verb), Cost()) + spent
    for (name, verb), taken in sorted(times.items(), key=lambda item: item[0][1]):
        ordered = sorted(taken)
        p50, p99 = (ordered[int(len(ordered) * part)] * 1e3 for part in (0.5, 0.99))
        print(f"{verb} {name:22} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  of {len(ordered)}", end="")
        print(f"; processor time {costs[name, verb].per(pods)}")
    for name in plugins:
        parallel(name, made[name][: 4 * PARALLEL], timed)


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor time, in seconds."""

    plugin: float = 0.0
    """With the program that enters the host's namespace for it."""
    loop: float = 0.0
    threads: float = 0.0
    """Of the router: its event loop, and all that it does beside it."""

    @classmethod
    def until_now(cls, router: int) -> "Cost":
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        loop = int(Path(f"/proc/{router}/task/{router}/schedstat").read_text().split()[0]) / 1e9
        ticks = Path(f"/proc/{router}/stat").read_text().rpartition(")")[2].split()[11:13]
        whole = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return cls(children.ru_utime + children.ru_stime, loop, whole - loop)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.plugin + other.plugin, self.loop + other.loop, self.threads + other.threads
        )

    def __sub__(self, other: "Cost") -> "Cost":
        return self + Cost(-other.plugin, -other.loop, -other.threads)

    def per(self, pods: int) -> str:
        parts = {"plugin": self.plugin, "router": self.loop, "its threads": self.threads}
        return ", ".join(f"{name} {spent / pods * 1e3:.1f} ms" for name, spent in parts.items())


def parallel(name: str, pods: list[str], timed: Callable[[str, str, str], dict[str, Any]]) -> None:
    with ThreadPoolExecutor(PARALLEL) as pool:
        begun = time.perf_counter()
        results = list(pool.map(lambda pod: timed(name, "ADD", pod), pods))
        added = time.perf_counter()
        addresses = {ip["address"] for result in results for ip in result["ips"]}
        assert len(addresses) == len(pods), "an address was given twice"
        list(pool.map(lambda pod: timed(name, "DEL", pod), pods))
        deleted = time.perf_counter()
    adds, dels = len(pods) / (added - begun), len(pods) / (deleted - added)
    print(f"{PARALLEL} at a time: {name:22} {adds:5.1f} ADD/s, no duplicate; {dels:5.1f} DEL/s")


if __name__ == "__main__":
    sys.exit(main())
