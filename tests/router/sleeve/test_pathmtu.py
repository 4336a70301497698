"""The search alone, against a path that answers at once. `test_session` has it on a network."""

import math
from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from router.sleeve.pathmtu import BASE_PATH_MTU_BYTES, SMALL, VERIFY_INTERVAL_S, PathMtu


class Path:
    def __init__(self, mtu_bytes: int, underlay_mtu_bytes: int = 1500) -> None:
        self.mtu_bytes = mtu_bytes
        self.search = PathMtu(underlay_mtu_bytes)
        self.now = 0.0
        self.asked = 0
        self.passes: Callable[[], bool] = lambda: True
        self.search.start(self.now)

    def run(self, seconds: float, frames_flow: bool = True) -> None:
        end = self.now + seconds
        while (at := self.search.next_at()) <= end:
            self.now = max(self.now, at)
            sizes = self.search.handle_timeout(self.now, frames_flow)
            assert self.search.next_at() > self.now
            self.asked += len(sizes)
            for size in sizes:
                if size <= self.mtu_bytes and self.passes():
                    self.search.handle_answer(max(size, 60), 0.01, self.now + 0.01)
        self.now = end


def test_nothing_is_asked_before_the_session_works():
    search = PathMtu(1500)
    assert search.next_at() == math.inf
    assert search.handle_timeout(5.0, frames_flow=True) == ()
    assert search.usable_bytes == BASE_PATH_MTU_BYTES
    assert not search.found


def test_one_probe_suffices_where_the_whole_underlay_mtu_passes():
    search = PathMtu(1500)
    search.start(0.0)
    assert search.handle_timeout(0.0, frames_flow=False) == (SMALL, 1500)
    search.handle_answer(1500, 0.01, 0.01)
    assert search.found
    assert search.usable_bytes == 1500


@settings(max_examples=100, deadline=None)
@given(st.integers(576, 9000), st.integers(576, 9000))
def test_any_path_is_measured_exactly_and_cheaply(path_mtu_bytes, underlay_mtu_bytes):
    path = Path(path_mtu_bytes, underlay_mtu_bytes)
    path.run(15, frames_flow=False)
    assert path.search.found
    assert path.search.usable_bytes == min(path_mtu_bytes, underlay_mtu_bytes)
    assert path.asked < 150


def test_a_size_is_not_given_up_while_nothing_at_all_is_answered():
    path = Path(1500)
    path.run(5)
    path.mtu_bytes = -1
    path.run(100)
    assert path.search.usable_bytes == 1500
    path.mtu_bytes = 1500
    path.run(5)
    assert path.search.found


def test_a_size_in_use_that_stops_passing_is_given_up_before_a_flow_stands_still_for_long():
    path = Path(1500)
    path.run(5)
    path.mtu_bytes = 1400
    path.run(1)
    assert path.search.usable_bytes <= 1400
    path.run(1.5)
    assert path.search.found
    assert path.search.usable_bytes == 1400


def test_a_path_on_which_no_frames_flow_is_not_verified():
    path = Path(1500)
    path.run(5, frames_flow=False)
    asked = path.asked
    path.run(50, frames_flow=False)
    assert path.asked == asked


def test_a_change_of_address_is_verified_even_if_no_frames_flow():
    path = Path(1500)
    path.run(5, frames_flow=False)
    path.mtu_bytes = 1300
    path.search.handle_path_changed(path.now)
    path.run(10, frames_flow=False)
    assert path.search.usable_bytes == 1300


def test_a_send_that_our_interface_refused_is_verified_at_once():
    path = Path(1500)
    path.run(5, frames_flow=False)
    path.mtu_bytes = 1400
    path.search.handle_too_big_here(path.now)
    path.run(VERIFY_INTERVAL_S + 0.3, frames_flow=False)
    assert path.search.usable_bytes <= 1400


def test_a_claim_of_more_than_the_underlay_carries_is_cut_down():
    search = PathMtu(1500)
    search.start(0.0)
    search.handle_answer(65_000, 0.01, 0.1)
    assert search.usable_bytes == 1500


def test_a_path_that_was_narrow_for_long_is_tried_anew_once_a_minute():
    path = Path(1400)
    path.run(300, frames_flow=False)
    asked = path.asked
    path.run(600, frames_flow=False)
    assert 0 < path.asked - asked <= 10 * 30
    path.mtu_bytes = 1500
    path.run(61, frames_flow=False)
    assert path.search.usable_bytes == 1500


def test_a_path_that_was_narrow_for_a_moment_is_used_in_full_soon_after():
    path = Path(1500)
    path.run(5)
    path.mtu_bytes = 1280
    path.run(3)
    assert path.search.usable_bytes == 1280
    path.mtu_bytes = 1500
    path.run(6)
    assert path.search.usable_bytes == 1500


def test_a_path_that_loses_three_of_ten_each_way_is_hardly_ever_taken_for_a_black_hole():
    rng = Random(1)
    path = Path(1500)
    path.run(5)
    path.passes = lambda: rng.random() < 0.7 * 0.7
    fallbacks = 0
    for _ in range(600):
        path.run(1)
        fallbacks += path.search.usable_bytes < 1500
    assert fallbacks < 60, "of 600 s"
