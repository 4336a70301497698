"""Space against a model of thirty lines that keeps one set per state."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ipam.core.effects import PersistedAddress
from ipam.core.ranges import Range
from ipam.core.space import COOLING_S, Space

SIZE = 24
addresses = st.integers(0, SIZE - 1)
blocks = st.lists(st.tuples(addresses, st.integers(1, 8)), max_size=3)


class SpaceAndModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.space = Space()
        self.ours: set[int] = set()
        self.in_use: dict[int, str] = {}
        self.cooling: dict[int, float] = {}
        self.now = 0.0

    def model_free(self, low: int = 0, high: int = SIZE * 2) -> list[int]:
        taken = self.in_use.keys() | self.cooling.keys()
        return sorted(at for at in self.ours - taken if low <= at < high)

    @rule(owned=blocks, frozen=blocks)
    def change_ranges(self, owned: list[tuple[int, int]], frozen: list[tuple[int, int]]) -> None:
        mine = [Range(start, start + size) for start, size in owned]
        not_mine = [Range(start, start + size) for start, size in frozen]
        self.space.set_ranges(mine, not_mine)
        self.ours = {at for piece in mine for at in range(piece.start, piece.end)}
        self.ours -= {at for piece in not_mine for at in range(piece.start, piece.end)}

    @rule(address=addresses, owner=st.sampled_from("abc"))
    def use(self, address: int, owner: str) -> None:
        self.space.use(PersistedAddress(address, owner, 24))
        self.cooling.pop(address, None)
        self.in_use[address] = owner

    @rule(address=addresses)
    def cool(self, address: int) -> None:
        if address in self.in_use:
            self.space.cool(address, self.now)
            del self.in_use[address]
            self.cooling[address] = self.now

    @rule(address=addresses)
    def forget(self, address: int) -> None:
        self.space.forget(address)
        self.in_use.pop(address, None)
        self.cooling.pop(address, None)

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        done = self.space.cooled(self.now)
        assert set(done) == {at for at, t in self.cooling.items() if t + COOLING_S <= self.now}
        for address in done:
            del self.cooling[address]

    @invariant()
    def they_agree(self) -> None:
        self.space.check()
        assert self.space.free_count == len(self.model_free())
        assert {row.address: row.owner for row in self.space.rows()} == self.in_use
        for low, high in ((0, SIZE), (4, 9), (10, 11)):
            bounds = Range(low, high)
            free = self.model_free(low, high)
            assert self.space.lowest_free(bounds) == (free[0] if free else None)
            biggest = self.space.biggest_free(bounds)
            runs = [len(run) for run in runs_of(free)]
            assert (biggest.size if biggest else 0) == max(runs, default=0)
            oldest = self.space.oldest_cooling(bounds)
            resting = [at for at in self.cooling if low <= at < high and at in self.ours]
            assert oldest == min(resting, key=lambda at: self.cooling[at], default=None) or (
                oldest is not None
                and self.cooling[oldest] == min(self.cooling[at] for at in resting)
            )


def runs_of(addresses: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for address in addresses:
        if runs and runs[-1][-1] == address - 1:
            runs[-1].append(address)
        else:
            runs.append([address])
    return runs


TestSpaceAndModel = SpaceAndModel.TestCase
TestSpaceAndModel.settings = settings(max_examples=80, deadline=None)


def test_changes_are_drained_once() -> None:
    space = Space()
    space.set_ranges([Range(0, 8)], [])
    space.use(PersistedAddress(3, "a", 24))
    space.use(PersistedAddress(4, "b", 24))
    space.forget(4)
    assert space.drain_changes() == ((PersistedAddress(3, "a", 24),), (4,))
    assert space.drain_changes() == ((), ())


def test_a_row_in_use_cannot_be_put_there_as_freed() -> None:
    with pytest.raises(AssertionError):
        Space().use(PersistedAddress(3, "a", 24, freed_at=1.0))
