"""Sets of peers as Python integers: peer number i is in the set if bit i is 1.

A mesh of n peers has up to n² links, and as integers they take n²/8 bytes and are joined a
machine word at a time. What is not one operator goes over the binary digits as text, because
`bin`, `int(text, 2)`, `itemgetter` and `compress` run at the speed of C: moving a thousand
bits to other places takes about 30 µs, where a loop over them takes ten times that.
"""

from collections.abc import Callable, Sequence
from itertools import compress, count
from operator import itemgetter

FEW = 8
"""A set with less than one member in so many places is quicker to search than to go through."""

_DIGITS_TO_FLAGS = bytes.maketrans(b"01", b"\x00\x01")

_powers: list[int] = []
"""Of two; as many as were ever needed, which are less than the names of a roster."""


def set_of(numbers: Sequence[int]) -> int:
    """The set of these numbers, each of which must be there once."""
    try:
        return sum(map(_powers.__getitem__, numbers))
    except IndexError:
        _powers.extend(1 << power for power in range(len(_powers), max(numbers) + 1))
        return sum(map(_powers.__getitem__, numbers))


def indexes(bits: int) -> list[int]:
    """The numbers of the members, lowest first."""
    if FEW * bits.bit_count() < bits.bit_length():
        return _indexes_of_few(bits)
    return list(compress(count(), flags(bits)))


def _indexes_of_few(bits: int) -> list[int]:
    digits = bin(bits)[:1:-1]
    found, at = [], digits.find("1")
    while at >= 0:
        found.append(at)
        at = digits.find("1", at + 1)
    return found


def flags(bits: int) -> bytes:
    """One byte per peer up to the highest member, lowest first: 1 if it is a member."""
    return bin(bits)[:1:-1].encode().translate(_DIGITS_TO_FLAGS)


def mover(sources: Sequence[int], width: int) -> Callable[[int], int]:
    """Return a function that renumbers: bit i of its result is bit `sources[i]` of what it gets.

    A source of `width` or more stands for "never set". What is given must fit `width` bits.
    """
    if not sources:
        return lambda bits: 0
    pick = itemgetter(*(min(source, width) for source in reversed(sources)))

    def move(bits: int) -> int:
        if not bits:
            return 0
        digits = bin(bits)[:1:-1].ljust(width + 1, "0")
        return int("".join(pick(digits)), 2)

    return move
