"""`python -m tests.sim --seed 42`: run one seed, or many, and say how to replay what failed."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext

from tests.sim.long import LongRun
from tests.sim.plan import RARE_KINDS, SIZES, Plan, draw_plan
from tests.sim.run import Result, run_plan
from tests.sim.shrink import shrink

SEEDS_AT_A_TIME = 5
"""How many each job is given at once."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run just this one")
    parser.add_argument("--seeds", type=int, default=0, help="run so many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no more after so long")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--peers", type=int, help="instead of what the seed says")
    parser.add_argument("--events", type=int, help="how much work (attach, detach ...) there is")
    parser.add_argument("--rare", default="", choices=["", *RARE_KINDS], help="end each with this")
    parser.add_argument("--size", default="", choices=["", *SIZES], help="of the worlds")
    parser.add_argument("--hours", type=float, default=0.0, help="three peers live for so long")
    parser.add_argument("--overlay", default="", choices=["", "sleeve", "fast"])
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--no-shrink", action="store_true")
    arguments = parser.parse_args()
    if arguments.hours and not arguments.trace:
        return _long(arguments)
    if arguments.seed is not None:
        return _one(arguments)
    return _many(arguments)


def _one(arguments: argparse.Namespace) -> int:
    plan = _plan(arguments.seed, arguments)
    result = run_plan(plan, print if arguments.trace else None)
    print(_line(result))
    if result.failure and not arguments.no_shrink:
        smaller = shrink(result)
        print(f"shrunk from {len(plan.steps)} to {len(smaller.plan.steps)} steps, which give")
        print(f"  {smaller.failure}")
        print(describe(smaller))
    return 1 if result.failure else 0


def _long(arguments: argparse.Namespace) -> int:
    started = time.process_time()
    seed = arguments.first_seed if arguments.seed is None else arguments.seed
    long = LongRun(_plan(seed, arguments), lambda text: print(text, flush=True))
    result = long.run()
    print(_line(result))
    print(
        f"{arguments.hours:g} simulated hours took {time.process_time() - started:.0f} s;"
        f" what a router holds has grown by {long.growth_bytes():.0f} bytes"
    )
    return 1 if result.failure else 0


def _many(arguments: argparse.Namespace) -> int:
    seeds = range(arguments.first_seed, arguments.first_seed + (arguments.seeds or 20))
    started = time.monotonic()
    failed: list[Result] = []
    events, virtual_s, count, merges = 0, 0.0, 0, 0
    slowest_connect = slowest_equal = 0.0
    answers: dict[str, int] = {}
    for result in _results(seeds, arguments):
        count += 1
        events += result.events
        virtual_s += result.virtual_s
        merges += result.merges
        slowest_connect = max(slowest_connect, result.connected_after_s)
        slowest_equal = max(slowest_equal, result.equal_after_s)
        for name, number in result.answers.items():
            answers[name] = answers.get(name, 0) + number
        if result.failure:
            failed.append(result)
            print(_line(result), flush=True)
        elif count % 100 == 0:
            print(f"{count} seeds, {len(failed)} failed", file=sys.stderr, flush=True)
    print(
        f"{count} seeds from {seeds[0]}: {len(failed)} failed; {events} events in"
        f" {virtual_s / 3600:.2f} simulated hours, {time.monotonic() - started:.0f} s of real time;"
        f" after healing at most {slowest_connect:.1f} s to connect,"
        f" {slowest_equal:.1f} s more to agree; {merges} entries merged from several"
    )
    print("answers: " + ", ".join(f"{name} {answers[name]}" for name in sorted(answers)))
    return 1 if failed else 0


def _results(seeds: Sequence[int], arguments: argparse.Namespace) -> Iterator[Result]:
    give_up_at = time.monotonic() + arguments.seconds
    at_a_time = SEEDS_AT_A_TIME * arguments.jobs
    with ProcessPoolExecutor(arguments.jobs) if arguments.jobs > 1 else nullcontext() as pool:
        for first in range(0, len(seeds), at_a_time):
            plans = [_plan(seed, arguments) for seed in seeds[first : first + at_a_time]]
            yield from map(run_plan, plans) if pool is None else pool.map(run_plan, plans)
            if time.monotonic() > give_up_at:
                return


def _plan(seed: int, arguments: argparse.Namespace) -> Plan:
    return draw_plan(
        seed,
        arguments.peers,
        arguments.events,
        arguments.rare,
        arguments.size,
        arguments.hours,
        arguments.overlay,
    )


def _line(result: Result) -> str:
    plan = result.plan
    head = (
        f"seed {plan.seed}: {plan.peers} peers, /{plan.prefix_length}, {plan.init},"
        f" {len(plan.steps)} steps, {result.events} events, {result.virtual_s:.0f} s"
    )
    if not result.failure:
        return (
            f"{head}: fine; connected after {result.connected_after_s:.1f} s,"
            f" equal {result.equal_after_s:.1f} s later, {result.most_entries} entries,"
            f" {result.frames} frames, {result.most_unsent_bytes} bytes unsent at most"
        )
    return f"{head}: FAILED {result.failure}\n  replay: {plan.replay}"


def describe(result: Result) -> str:
    return "\n".join(f"    {step}" for step in result.plan.steps)


if __name__ == "__main__":
    sys.exit(main())
