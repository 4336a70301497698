"""Whether parity is worth its bytes, told from what it mended."""

from router.sleeve.worth import MAX_PAUSE_S, MIN_PAUSE_S, TRIAL_LOSSES, ParityWorth


def failed(worth: ParityWorth, now: float) -> float:
    """Let a trial fail, and return how long the pause after it is."""
    worth.note(TRIAL_LOSSES, 0, now)
    pause_s = MIN_PAUSE_S
    while not worth.is_worth_it(now + pause_s):
        pause_s *= 2
    return pause_s


def test_a_trial_needs_many_losses_and_goes_on_while_enough_are_mended() -> None:
    worth = ParityWorth()
    worth.note(TRIAL_LOSSES - 1, 0, 0.0)
    assert worth.is_worth_it(0.0)
    worth.note(1, TRIAL_LOSSES // 2, 0.0)
    assert worth.is_worth_it(0.0)
    for now in range(100):
        worth.note(TRIAL_LOSSES // 4, TRIAL_LOSSES // 8, float(now))
        assert worth.is_worth_it(float(now))


def test_pauses_double_while_trials_fail_and_a_good_one_ends_that() -> None:
    worth = ParityWorth()
    pauses = [failed(worth, 1000.0 * number) for number in range(7)]
    assert pauses == [10, 20, 40, 80, 160, 320, 320]
    assert (pauses[0], pauses[-1]) == (MIN_PAUSE_S, MAX_PAUSE_S)
    worth.note(TRIAL_LOSSES, TRIAL_LOSSES, 9000.0)
    assert failed(worth, 9000.0) == MIN_PAUSE_S
