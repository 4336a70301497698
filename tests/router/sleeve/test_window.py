from hypothesis import given, settings
from hypothesis import strategies as st

from router.sleeve.window import ReplayWindow

SIZE = ReplayWindow.SIZE


class SetModel:
    """The window as one would define it: a set of all that was seen, and a floor."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.highest = -1

    def check(self, counter: int) -> bool:
        return counter not in self.seen and counter > self.highest - SIZE

    def accept(self, counter: int) -> bool:
        if not self.check(counter):
            return False
        self.seen.add(counter)
        self.highest = max(self.highest, counter)
        return True


# Counters near each other, near both edges of the window, near the edges of blocks, and far jumps.
steps = st.one_of(
    st.integers(-5, 5),
    st.integers(-SIZE - 3, -SIZE + 3),
    st.integers(SIZE - 3, SIZE + 3),
    st.integers(-SIZE, SIZE),
    st.sampled_from([-1025, -1024, -1023, 1023, 1024, 1025, 3 * SIZE, 10**12]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(steps, st.integers(1, 70)), max_size=40))
def test_window_agrees_with_a_set_of_all_that_was_seen(moves):
    window, model = ReplayWindow(), SetModel()
    for step, count in moves:
        first = max(0, model.highest + step)
        assert window.check(first) == model.check(first)
        if count == 1:
            assert window.accept(first) == model.accept(first)
        else:
            expected = sum(model.accept(first + i) << i for i in range(count))
            assert window.accept_run(first, count) == expected
        assert window.highest == model.highest
        assert len(window._missing) <= SIZE // 1024 + 1
        for near in (model.highest, model.highest - SIZE, model.highest - SIZE + 1):
            assert window.check(max(0, near)) == model.check(max(0, near))


def test_each_counter_is_accepted_once():
    window = ReplayWindow()
    assert window.accept(0)
    assert not window.accept(0)
    assert window.accept(7)
    assert window.accept(3)
    assert not window.accept(3)
    assert window.highest == 7


def test_the_window_is_16384_counters_wide():
    window = ReplayWindow()
    window.accept(100_000)
    assert window.check(100_000 - 16_383)
    assert not window.check(100_000 - 16_384)


def test_check_changes_nothing():
    window = ReplayWindow()
    assert window.check(5)
    assert window.check(5)
    assert window.highest == -1


def test_a_run_tells_which_of_its_counters_were_new():
    window = ReplayWindow()
    window.accept(11)
    assert window.accept_run(10, 3) == 0b101
    assert window.accept_run(10, 3) == 0
    assert window.accept_run(13, 45) == (1 << 45) - 1


def test_records_in_order_cost_no_memory():
    window = ReplayWindow()
    for counter in range(0, 100_000, 50):
        window.accept_run(counter, 50)
    assert window._missing == {}


def test_the_largest_counter_of_the_wire_is_no_problem():
    window = ReplayWindow()
    assert window.accept(2**64 - 1)
    assert window.accept(2**64 - 2)
    assert not window.accept(0)
