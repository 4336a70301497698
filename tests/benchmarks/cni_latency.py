"""What ADD and DEL cost, beside Debian's bridge with host-local, interleaved in one run.

    python -m tests.benchmarks.cni_latency --pods 200

Both plugins are executed as a runtime does, in the network namespace of one host. A pod's namespace
is made before. Then the same ADDs with 16 at a time.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
                timed(name, verb, made[name][number])
    for (name, verb), taken in sorted(times.items(), key=lambda item: item[0][1]):
        ordered = sorted(taken)
        p50, p99 = (ordered[int(len(ordered) * part)] * 1e3 for part in (0.5, 0.99))
        print(f"{verb} {name:22} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  of {len(ordered)}")
    for name in plugins:
        parallel(name, made[name][: 4 * PARALLEL], timed)


def parallel(name: str, pods: list[str], timed: Callable[[str, str, str], dict[str, Any]]) -> None:
    with ThreadPoolExecutor(PARALLEL) as pool:
        begun = time.perf_counter()
        results = list(pool.map(lambda pod: timed(name, "ADD", pod), pods))
        took_s = time.perf_counter() - begun
        addresses = {ip["address"] for result in results for ip in result["ips"]}
        assert len(addresses) == len(pods), "an address was given twice"
        list(pool.map(lambda pod: timed(name, "DEL", pod), pods))
    print(f"{PARALLEL} at a time: {name:22} {len(pods) / took_s:5.1f} ADD/s, no duplicate")


if __name__ == "__main__":
    sys.exit(main())
