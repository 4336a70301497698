from hypothesis import given, settings
from hypothesis import strategies as st

from router.overlay.broadcast import IDLE_S, MAX_RUNS, WINDOW, BroadcastFilter

near = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 300)), max_size=200)


@settings(max_examples=200)
@given(near)
def test_each_broadcast_is_taken_exactly_once_in_whatever_order_copies_come(copies):
    broadcasts = BroadcastFilter()
    taken = [copy for copy in copies if broadcasts.accept(*copy, now=0.0)]
    assert len(taken) == len(set(taken))
    assert set(taken) == set(copies)


@given(st.lists(st.integers(0, 5 * WINDOW), max_size=100))
def test_nothing_is_taken_twice_however_far_the_sequence_jumps(sequences):
    broadcasts = BroadcastFilter()
    taken = [one for one in sequences if broadcasts.accept(1, 9, one, now=0.0)]
    assert len(taken) == len(set(taken))


def test_a_broadcast_overtaken_by_fewer_than_the_window_is_still_taken():
    broadcasts = BroadcastFilter()
    broadcasts.accept(1, 9, 10_000, now=0.0)
    assert WINDOW >= 1024
    assert broadcasts.accept(1, 9, 10_000 - WINDOW + 1, now=0.0)
    assert not broadcasts.accept(1, 9, 10_000 - WINDOW, now=0.0)


def test_a_restarted_source_begins_anew_and_its_late_frames_are_not_taken_again():
    broadcasts = BroadcastFilter()
    assert broadcasts.accept(1, 9, 500, now=0.0)
    assert broadcasts.accept(1, 10, 0, now=1.0)
    assert not broadcasts.accept(1, 9, 500, now=1.0)
    assert broadcasts.accept(1, 10, 1, now=1.0)
    assert not broadcasts.accept(1, 10, 0, now=1.0)


def test_the_runs_of_one_source_are_bounded_and_the_latest_stay():
    broadcasts = BroadcastFilter()
    for nonce in range(100):
        broadcasts.accept(1, nonce, 0, now=float(nonce))
    assert len(broadcasts) == 4
    assert not broadcasts.accept(1, 99, 0, now=100.0)


def test_all_runs_together_are_bounded_and_idle_ones_go_first():
    broadcasts = BroadcastFilter()
    for source in range(4096):
        for nonce in range(3):
            broadcasts.accept(source, nonce, 0, now=0.0 if nonce else IDLE_S)
    assert len(broadcasts) <= MAX_RUNS
    for source in range(4000, 4096):
        assert not broadcasts.accept(source, 0, 0, now=IDLE_S)


def test_a_forgotten_source_takes_no_room():
    broadcasts = BroadcastFilter()
    broadcasts.accept(1, 9, 0, now=0.0)
    broadcasts.forget(1)
    broadcasts.forget(2)
    assert len(broadcasts) == 0
