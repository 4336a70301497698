"""When a tunnel counts as good, when as dead, and how long a flapping one is held down."""

import math

from fastdp.core.health import BEAT_S, DEAD_S, FORGIVEN_S, GOOD_BEATS, MAX_HOLD_S, SOON_S, Health
from fastdp.core.messages import NEVER_HEARD_MS, Heartbeat

TOKEN = bytes(8)


def heard(health: Health, beats: int, began: float = 0.0, age_ms: int = 10, first: int = 1) -> None:
    for number in range(beats):
        beat = Heartbeat(TOKEN, first + number, age_ms)
        health.handle_heartbeat(beat, began + number * BEAT_S)


def test_three_in_a_row_that_confirm_ours_make_it_good() -> None:
    health = Health()
    heard(health, GOOD_BEATS - 1)
    assert not health.is_good(1.0)
    heard(health, 1, began=2.0, first=GOOD_BEATS)
    assert health.is_good(2.0)


def test_one_that_was_lost_or_does_not_confirm_begins_the_row_anew() -> None:
    health = Health()
    heard(health, 2)
    heard(health, 2, began=3.0, first=4)
    assert not health.is_good(4.0)
    heard(health, 1, began=5.0, first=6)
    assert health.is_good(5.0)
    heard(health, 1, began=6.0, first=7, age_ms=NEVER_HEARD_MS)
    assert not health.is_good(6.0)


def test_heartbeats_that_confirm_one_and_the_same_of_ours_count_once() -> None:
    health = Health()
    for number in range(GOOD_BEATS):
        heard(health, 1, began=number, first=number + 1, age_ms=100 + 1000 * number)
    assert not health.is_good(GOOD_BEATS - 1)


def test_a_heartbeat_that_comes_twice_counts_once() -> None:
    health = Health()
    for _ in range(GOOD_BEATS):
        heard(health, 1)
    assert not health.is_good(0.0)
    assert health.received == 1


def test_the_sequence_goes_on_past_its_32_bits() -> None:
    health = Health()
    for at, sequence in enumerate((2**32 - 2, 2**32 - 1, 0)):
        health.handle_heartbeat(Heartbeat(TOKEN, sequence, 10), float(at))
    assert health.is_good(2.0)


def test_it_is_dead_when_the_peer_is_silent_or_says_that_we_are() -> None:
    health = Health()
    heard(health, 10)
    assert not health.is_dead(8.9 + DEAD_S)
    assert health.is_dead(9.1 + DEAD_S)

    health = Health()
    heard(health, 10)
    for number in range(4):
        heard(health, 1, began=10.0 + number, first=11 + number, age_ms=1000 * (number + 1) + 10)
    assert health.hears(13.0)
    assert health.is_dead(13.0)


def test_the_age_it_tells_is_that_of_the_last_heartbeat() -> None:
    health = Health()
    assert health.age_ms(5.0) == NEVER_HEARD_MS
    heard(health, 1)
    assert health.age_ms(1.25) == 1250
    assert health.age_ms(1e9) == NEVER_HEARD_MS


def test_a_first_failure_is_free_and_each_that_follows_soon_doubles_the_wait() -> None:
    health = Health()
    waits = []
    now = 0.0
    for _ in range(12):
        health.came_up(now)
        now += 1.0
        health.failed(now)
        waits.append(health.held_s(now))
        now += waits[-1]
    assert waits[:5] == [0.0, 2.0, 4.0, 8.0, 16.0]
    assert max(waits) == MAX_HOLD_S
    assert all(math.isfinite(wait) for wait in waits)


def test_a_failure_after_a_while_holds_nothing_and_after_long_health_is_the_first_again() -> None:
    health = Health()
    for _ in range(4):
        health.came_up(0.0)
        health.failed(1.0)
    health.came_up(10.0)
    health.failed(10.0 + SOON_S)
    assert health.held_s(10.0 + SOON_S) == 0.0
    assert health.failures == 4
    health.came_up(100.0)
    health.failed(100.0 + FORGIVEN_S)
    assert health.failures == 1
