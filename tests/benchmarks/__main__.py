"""`script/bench-ipam`: all figures of docs/benchmarks-ipam.md, as its tables."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import first_start, lab_cost, ring_cost, ring_growth
from tests.benchmarks.ring_cost import Times


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench-ipam", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="smaller numbers: seconds, not minutes"
    )
    parser.add_argument("--no-lab", action="store_true", help="leave out what needs root")
    parser.add_argument("--disk", default="/var/tmp", help="where the store is written")
    wanted = parser.parse_args()
    _allocations(2_000 if wanted.quick else 20_000, Path(wanted.disk))
    _merging((10, 100) if wanted.quick else (10, 100, 1000, 4000))
    _memory(8 if wanted.quick else 64)
    _joining(4096 if wanted.quick else 65_536)
    _growth(6 if wanted.quick else 36)
    _first_start((3, 10) if wanted.quick else (3, 10, 50))
    if not wanted.no_lab and os.geteuid() == 0:
        _lab(1 if wanted.quick else 3)
    elif not wanted.no_lab:
        print("\nThe lab is left out: it needs root.", file=sys.stderr)


def _allocations(count: int, disk: Path) -> None:
    with tempfile.TemporaryDirectory(dir=disk, prefix="weavepy-bench-") as directory:
        core, commits = ring_cost.allocations(count, Path(directory) / "weavepy.db")
    print("\n| one allocation | per second | p50 | p99 | p50 against the core's |")
    print("|---|---|---|---|---|")
    _row_of_times("in the core", core, core)
    _row_of_times("its write, synced to disk", commits, core)


def _row_of_times(what: str, times: Times, basis: Times) -> None:
    ratio = times.p50_us / basis.p50_us
    print(
        f"| {what} | {times.per_second:,.0f} | {times.p50_us:,.0f} µs | {times.p99_us:,.0f} µs"
        f" | {ratio:.1f} |"
    )


def _merging(counts: tuple[int, ...]) -> None:
    print(
        "\n| peers | entries | merge all | of that, decoding | merge one change | all of the ring"
        " | one change | digest | find and mend one |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for peers in counts:
        cost = ring_cost.merging(peers)
        print(
            f"| {cost.peers:,} | {cost.entries:,} | {cost.merge_all_ms:.1f} ms"
            f" | {cost.decode_all_ms / cost.merge_all_ms:.0%} | {cost.merge_one_us:,.0f} µs"
            f" | {cost.all_bytes:,} B | {cost.one_bytes:,} B | {cost.digest_bytes:,} B"
            f" | {cost.mend_bytes:,} B |"
        )


def _memory(peers: int) -> None:
    cost = ring_cost.memory(peers)
    print("\n| entries | memory | per entry | encoded | memory against encoded |")
    print("|---|---|---|---|---|")
    print(
        f"| {cost.entries:,} | {cost.ring_bytes / 2**20:.1f} MiB"
        f" | {cost.ring_bytes / cost.entries:.0f} B | {cost.encoded_bytes / 2**20:.2f} MiB"
        f" | {cost.ring_bytes / cost.encoded_bytes:.1f} |"
    )


def _joining(count: int) -> None:
    plain, merged = ring_cost.joining(count, False), ring_cost.joining(count, True)
    print("\n| entries | join all | if most were merged | against that |")
    print("|---|---|---|---|")
    print(f"| {count:,} | {plain:.2f} s | {merged:.2f} s | {merged / plain:.1f} |")


def _growth(changes: int) -> None:
    grown = {merging: ring_growth.growth(changes, merging) for merging in (True, False)}
    print("\n| hours | entries | without merging |")
    print("|---|---|---|")
    for part in (3, 2, 1):
        at = changes // part - 1
        hours = (at + 1) * ring_growth.CHANGE_EVERY_S / 3600
        print(f"| {hours:.0f} | {grown[True].entries[at]} | {grown[False].entries[at]} |")


def _first_start(counts: tuple[int, ...]) -> None:
    print(
        "\n| routers (simulated) | all connected | first address | address on all"
        " | said about the ring, per router | messages, per router | CPU, per router |"
    )
    print("|---|---|---|---|---|---|---|")
    for peers in counts:
        cost = first_start.measure(peers)
        print(
            f"| {cost.peers} | {cost.connected_s:.2f} s | {cost.first_s:.2f} s"
            f" | {cost.last_s:.2f} s | {cost.ring_bytes / peers / 1024:,.0f} KiB"
            f" | {cost.ring_messages / peers:,.0f} | {cost.cpu_s / peers:.3f} s |"
        )


def _lab(runs: int) -> None:
    last, complete_s, first_ms = lab_cost.measure_several(runs)
    print("\n| three routers in a lab | |")
    print("|---|---|")
    print(f"| processes started until all see each other | {complete_s:.1f} s |")
    print(f"| then the first address, the ring agreed on | {first_ms:.0f} ms |")
    print("\n| through the API, one client | per second | p50 | p99 | p50 against a lookup's |")
    print("|---|---|---|---|---|")
    _row_of_times("allocate", last.allocate, last.lookup)
    _row_of_times("look up, which writes nothing", last.lookup, last.lookup)


if __name__ == "__main__":
    main()
