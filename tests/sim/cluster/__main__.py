"""`python -m tests.sim.cluster --seeds 200`: clusters with faults, each from a seed."""

import argparse
import sys
import time

from tests.sim.cluster.plan import draw_plan
from tests.sim.cluster.run import Result, run_plan


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.sim.cluster", description=__doc__)
    parser.add_argument("--seed", type=int, help="run just this one")
    parser.add_argument("--seeds", type=int, default=20, help="run so many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    arguments = parser.parse_args()
    tell = print if arguments.trace else None
    if arguments.seed is not None:
        result = run_plan(draw_plan(arguments.seed), tell)
        print(line(result), *map(str, result.plan.steps), sep="\n")
        return 1 if result.failure else 0
    started = time.process_time()
    results = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        result = run_plan(draw_plan(seed))
        results.append(result)
        if result.failure:
            print(line(result), flush=True)
    failed = sum(bool(result.failure) for result in results)
    print(
        f"{len(results)} seeds from {arguments.first_seed}: {failed} failed;"
        f" {sum(result.events for result in results)} events,"
        f" {sum(result.virtual_s for result in results) / 3600:.1f} simulated hours,"
        f" {sum(result.deaths for result in results)} nodes deleted,"
        f" {sum(result.reclaims for result in results)} reclaimed,"
        f" {sum(result.requests for result in results)} API requests;"
        f" {time.process_time() - started:.0f} s of processor time"
    )
    return 1 if failed else 0


def line(result: Result) -> str:
    plan = result.plan
    return (
        f"seed {plan.seed}: {plan.nodes} nodes, /{plan.prefix_length}, {result.events} events,"
        f" {result.deaths} deaths, {result.reclaims} reclaims:"
        f" {'FAILED ' + result.failure if result.failure else 'fine'}"
    )


if __name__ == "__main__":
    sys.exit(main())
