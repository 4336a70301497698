"""Mutation testing of `ipam/core` and `policy/core`; see `docs/mutants.md`, and `script/mutants`
for how to run it.

All tests are collected and run once, to see how long each takes and which lines it runs through.
Then each mutant gets a forked process of its own, in which the code of one function is exchanged
in memory, and the tests that run through its lines follow each other until one fails: first those
of its module, then the quick ones. So a mutant costs about a tenth of a second. What matters at
import (a constant, a default) is imported and collected anew in the forked process, which takes
about two seconds.

A mutant that uses up its processor time or memory is killed. What no test notices has survived,
unless the core's list of equivalent ones gives the reason why nobody could notice it.
"""

from __future__ import annotations

import argparse
import ast
import gc
import os
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from random import Random
from types import CodeType, FunctionType

import coverage
import hypothesis
import pytest
from _pytest.runner import runtestprotocol

from tests.mutants.operators import Mutant, mentions, mutants_of


@dataclass(frozen=True)
class Subject:
    source: Path
    tests: Path
    files: tuple[str, ...]
    """Of the tests, those that are run if no others are named; "" is all of them."""
    left_out: tuple[str, ...]
    """Tests that take longer than all tests of one mutant may take."""
    equivalent: Path


SUBJECTS = {
    "ipam": Subject(
        Path("ipam/core"),
        Path("tests/ipam/core"),
        ("",),
        (
            "test_small_worlds.py",
            "test_machine.py",
            "test_fences.py::test_a_big_part_is_handed_over_in_pieces",
            "test_replica.py::test_equal_rings_send_nothing",
            "test_replica.py::test_a_change_in_a_ring_of_10_000_entries_is_told_in_less_than_2_kib",
            "test_replica.py::test_a_change_that_was_lost_is_found_and_mended_in_less_than_2_kib",
        ),
        Path(__file__).with_name("equivalent.txt"),
    ),
    "policy": Subject(
        Path("policy/core"),
        Path("tests/policy"),
        ("core", "test_isolation.py", "test_rules.py", "test_ports.py"),
        (),
        Path(__file__).with_name("equivalent-policy.txt"),
    ),
}

WANTED_PERCENT = 90.0
BUDGET_S = 1.0
"""So long the tests of one mutant may take: a mistake is to be found by one that names it."""

BROKEN = 2
"""The exit status of a process in which the runner itself has failed."""

CPU_LIMIT_S = 15
MEMORY_BYTES = 3 * 2**30
PYTEST = [
    "-qs",
    "--disable-warnings",
    "--assert=plain",
    "-pno:cacheprovider",
    "-pno:timeout",
    "-oaddopts=",
]


class Baseline:
    """A plugin of pytest that takes the place of its loop over the tests."""

    def __init__(self, subject: Subject, options: argparse.Namespace) -> None:
        self.subject = subject
        self.options = options
        self.took: dict[str, float] = {}
        self.items: dict[str, pytest.Item] = {}
        self.ok = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        tracer = coverage.Coverage(
            data_file=None, include=[f"{self.subject.source}/*"], config_file=False
        )
        tracer.start()
        for item in session.items:
            began = time.process_time()
            tracer.switch_context(item.nodeid)
            assert not fails(item), f"{item.nodeid} fails without any mutant"
            self.took[item.nodeid] = time.process_time() - began
            self.items[item.nodeid] = item
        tracer.stop()
        self.lines = {
            path: tracer.get_data().contexts_by_lineno(str(path.resolve()))
            for path in self.subject.source.glob("*.py")
        }
        self.mentions: dict[str, list[tuple[Path, int]]] = defaultdict(list)
        for path in self.lines:
            for line, name in mentions(ast.parse(path.read_text())):
                self.mentions[name].append((path, line))
        self.functions = functions()
        self.caches = [one for one in gc.get_objects() if hasattr(type(one), "cache_clear")]
        print(f"{len(self.items)} tests in {sum(self.took.values()):.0f} s", file=sys.stderr)
        if self.options.verbose:
            for name in sorted(self.took, key=self.took.__getitem__)[-12:]:
                print(f"{self.took[name]:.2f} s {name}", file=sys.stderr)
        self.ok = run(self, self.options)
        return True

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that run through the mutant's lines, those of its module and the quick
        ones first.

        For what matters at import those are the lines in which its name is mentioned, and all
        tests of the module.
        """
        own = f"/test_{mutant.path.stem}"
        places = [(mutant.path, line) for line in range(mutant.first_line, mutant.last_line + 1)]
        if not mutant.function:
            places = self.mentions.get(mutant.target, [])
        names = {name for path, line in places for name in self.lines[path].get(line, ())}
        if not mutant.function:
            names |= {name for name in self.took if own in name}
        chosen: list[str] = []
        left = BUDGET_S

        def order(name: str) -> tuple[bool, float, str]:
            return own not in name, self.took[name], name

        for name in sorted(names & self.took.keys(), key=order):
            if self.took[name] <= left:
                left -= self.took[name]
                chosen.append(name)
        return chosen


def run(baseline: Baseline, options: argparse.Namespace) -> bool:
    paths = sorted(path for path in baseline.subject.source.glob("*.py") if path.stat().st_size)
    if options.modules:
        paths = [path for path in paths if path.stem in options.modules]
    reasons = equivalent(baseline.subject.equivalent)
    todo: list[Mutant] = []
    trees = {path: ast.parse(path.read_text()) for path in paths}
    for path, tree in trees.items():
        found = list(mutants_of(path, tree))
        unknown = {n for n in reasons if n.startswith(f"{path.stem} ")} - {m.name for m in found}
        for name in sorted(unknown):
            print(f"a mutant that is not there is called equivalent: {name}", file=sys.stderr)
        if options.only:
            names = options.only.read_text().splitlines()
            found = [mutant for mutant in found if mutant.name in names]
        if options.sample and options.sample < len(found):
            found = Random(options.seed).sample(found, options.sample)
        todo.extend(found)
    count: dict[str, Counter[str]] = defaultdict(Counter)
    for done, (mutant, verdict) in enumerate(verdicts(baseline, todo, trees, options.jobs), 1):
        if verdict == "survived" and mutant.name in reasons:
            verdict = "equivalent"
        count[mutant.path.stem][verdict] += 1
        if verdict == "survived" or (options.verbose and verdict != "equivalent"):
            print(f"{verdict}: {mutant.path}:{mutant.first_line} {mutant.name}", flush=True)
        if done % 200 == 0:
            print(f"{done}/{len(todo)}", file=sys.stderr, flush=True)
    enough = table(count)
    return not any(found["killed"] for found in count.values()) if options.unchanged else enough


def verdicts(
    baseline: Baseline, todo: Iterable[Mutant], trees: dict[Path, ast.Module], jobs: int
) -> Iterator[tuple[Mutant, str]]:
    """Run a few mutants at a time, each in a process of its own."""
    gc.collect()
    gc.freeze()
    running: dict[int, Mutant] = {}

    def one_ends() -> tuple[Mutant, str]:
        pid, status = os.wait()
        mutant = running.pop(pid)
        assert status != BROKEN << 8, f"the runner failed at {mutant.name}"
        return mutant, "survived" if status == 0 else "killed"

    for mutant in todo:
        names = baseline.tests_of(mutant)
        if not names:
            yield mutant, "survived"
            continue
        if len(running) >= jobs:
            yield one_ends()
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(notices(baseline, mutant, trees[mutant.path], names))
            except BaseException:
                os._exit(BROKEN)
        running[pid] = mutant
    while running:
        yield one_ends()


def notices(baseline: Baseline, mutant: Mutant, tree: ast.Module, names: list[str]) -> bool:
    """In the forked process: run the mutant's tests; True if one fails."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if not baseline.options.unchanged:
        mutant.apply()
    code = compile(tree, str(mutant.path.resolve()), "exec")
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    function = baseline.functions.get((code.co_filename, mutant.function))
    new = code_of(mutant.function, code) if function else None
    # Without its `super()` a function has one free variable less, and cannot get the other code.
    if function is None or new is None or new.co_freevars != function.__code__.co_freevars:
        return import_anew(mutant, code, names)
    function.__code__ = new
    for cache in baseline.caches:
        # What the unchanged function said is no answer of this one.
        cache.cache_clear()
    return any(fails(baseline.items[name]) for name in names)


def functions() -> dict[tuple[str, str], FunctionType]:
    """Return all functions that exist, methods and what is behind properties among them."""
    return {
        (thing.__code__.co_filename, thing.__qualname__): thing
        for thing in gc.get_objects()
        if isinstance(thing, FunctionType)
    }


def code_of(function: str, module: CodeType) -> CodeType | None:
    for const in module.co_consts:
        if isinstance(const, CodeType):
            found = const if const.co_qualname == function else code_of(function, const)
            if found is not None:
                return found
    return None


def import_anew(mutant: Mutant, code: CodeType, names: list[str]) -> bool:
    """Import the mutant's module with other code, and all that may have taken something from it."""
    mutated = ".".join(mutant.path.with_suffix("").parts)
    for name in [name for name in sys.modules if name.split(".")[0] in (*SUBJECTS, "tests")]:
        del sys.modules[name]

    class Loader(SourceFileLoader):
        def get_code(self, fullname: str) -> CodeType:
            return code

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            where = str(mutant.path.resolve())
            return spec_from_loader(name, Loader(name, where)) if name == mutated else None

    sys.meta_path.insert(0, Finder)
    return pytest.main([*PYTEST, "-x", *names]) != 0


def fails(item: pytest.Item) -> bool:
    return any(report.failed for report in runtestprotocol(item, nextitem=None, log=False))


def equivalent(file: Path) -> dict[str, str]:
    """Return the mutants that nobody could notice, and why: "NAME  # REASON" per line."""
    lines = file.read_text().splitlines()
    pairs = [line.split("  # ", 1) for line in lines if line and not line.startswith("#")]
    return dict(pairs)


def table(count: dict[str, Counter[str]]) -> bool:
    """Print the table of `docs/mutants.md`; True if enough are killed."""
    rows = {f"`{module}`": found for module, found in sorted(count.items())}
    rows["**all**"] = sum(count.values(), Counter())
    print("| module | mutants | equivalent | counted | killed | % |\n|---|--:|--:|--:|--:|--:|")
    for module, found in rows.items():
        counted = found["killed"] + found["survived"]
        share = 100 * found["killed"] / counted if counted else 100.0
        print(
            f"| {module} | {found.total()} | {found['equivalent']} | {counted} |"
            f" {found['killed']} | {share:.1f} |"
        )
    return share >= WANTED_PERCENT


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help="names in the core; all if none is given")
    parser.add_argument("--core", choices=SUBJECTS, default="ipam", help="whose tests are tried")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", type=Path, help="the mutants that this file names, one per line")
    parser.add_argument("--tests", nargs="+", help="files among the core's tests")
    parser.add_argument("--sample", type=int, help="so many mutants per module, drawn at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unchanged", action="store_true", help="all must survive: a proof")
    parser.add_argument("--verbose", action="store_true", help="show the killed ones as well")
    options = parser.parse_args()
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    hypothesis.settings.load_profile("mutants")
    subject = SUBJECTS[options.core]
    baseline = Baseline(subject, options)
    left_out = [f"--deselect={subject.tests}/{name}" for name in subject.left_out]
    tests = [f"{subject.tests}/{name}" for name in options.tests or subject.files]
    status = pytest.main([*PYTEST, *left_out, *tests], plugins=[baseline])
    return int(status) or int(not baseline.ok)


if __name__ == "__main__":
    sys.exit(main())
