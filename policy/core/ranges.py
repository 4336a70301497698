"""Sets of whole numbers as sorted ranges, both ends included."""

from collections.abc import Iterable

Range = tuple[int, int]


def union(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, neither touching nor overlapping: equal sets are equal values."""
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def without(whole: Range, holes: Iterable[Range]) -> tuple[Range, ...]:
    left = []
    start, end = whole
    for first, last in union(holes):
        if last < start or first > end:
            continue
        if first > start:
            left.append((start, first - 1))
        start = last + 1
    if start <= end:
        left.append((start, end))
    return tuple(left)


def contains(ranges: Iterable[Range], number: int) -> bool:
    return any(first <= number <= last for first, last in ranges)
