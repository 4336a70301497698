"""Mistakes in what makes few ring entries of many, as patches of the real cores."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from ipam.core.compactor import Compactor
from ipam.core.holes import Holes
from ipam.core.ranges import Universe
from ipam.core.ring import Entry, Ring


def merging_does_not_raise_the_level() -> Sequence[Any]:
    """So what was merged comes back with the first old entry: tokens are forgotten too early."""
    merge_right = Ring.merge

    def merge(ring: Ring, run: Sequence[Entry], generation: int) -> Entry:
        merged = merge_right(ring, run, generation)
        ring._put(replace(merged, level=merged.level - 1))
        return replace(merged, level=merged.level - 1)

    return [patch.object(Ring, "merge", merge)]


def merging_across_epochs() -> Sequence[Any]:
    def continues(ring: Ring, entry: Entry, following: Entry) -> bool:
        return following.token == ring.universe.wrap(entry.token + entry.size)

    return [patch.object(Ring, "_continues", continues)]


def merging_what_is_contested() -> Sequence[Any]:
    return [patch.object(Ring, "contested", lambda ring: [])]


def cut_forgets_the_level() -> Sequence[Any]:
    write_right = Ring._write

    def write(ring: Ring, *content: Any, level: int, **more: Any) -> Entry:
        return write_right(ring, *content, level=0, **more)

    return [patch.object(Ring, "_write", write)]


def absorbing_later_epochs() -> Sequence[Any]:
    def absorbs(entry: Entry, other: Entry, universe: Universe) -> bool:
        reached = universe.distance(entry.token, other.token) < entry.size
        return entry.level > other.level and entry.token != other.token and reached

    return [patch.object(Entry, "absorbs", absorbs)]


def holes_not_kept() -> Sequence[Any]:
    return [patch.object(Holes, "leave", lambda holes, gone, around: None)]


def merging_without_all_owners() -> Sequence[Any]:
    return [patch.object(Compactor, "_reaches_all_owners", lambda compactor: True)]
