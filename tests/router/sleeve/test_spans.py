"""The bet on the path: how far it goes on a clean one, and that a lossy one gets none."""

from random import Random

import pytest

from router.sleeve.control import Receipt
from router.sleeve.effects import ReceiveEpoch
from router.sleeve.spans import (
    CLEAN_PER_SPAN,
    LOSS_REPORT_INTERVAL_S,
    MAX_SPAN,
    NO_RECEIPT_S,
    REPORT_INTERVAL_S,
    SETTLE_S,
    Receipts,
    SpanChoice,
)
from router.sleeve.window import ReplayWindow
from tests.router.sleeve.virtual import Network


def receiving() -> ReceiveEpoch:
    return ReceiveEpoch(1, None, ReplayWindow(), None, 1)  # type: ignore[arg-type]  # no session


def told(choice: SpanChoice, *receipts: tuple[int, int], max_span: int = MAX_SPAN) -> list[int]:
    spans = []
    for datagrams, lost in receipts:
        choice.handle_receipt(Receipt(max_span, datagrams, lost), 0.0)
        spans.append(choice.span)
    return spans


def test_the_span_grows_with_what_came_through_and_falls_to_one_at_a_loss() -> None:
    n = CLEAN_PER_SPAN
    grown = told(
        SpanChoice(), (0, 0), (7 * n, 0), (8 * n, 0), (17 * n, 0), (63 * n, 0), (64 * n, 0)
    )
    assert grown == [1, 1, 8, 16, 32, 64]
    fallen = told(SpanChoice(), (0, 0), (8 * n, 0), (99 * n, 1), (100 * n, 1), (107 * n, 1))
    assert fallen == [1, 8, 1, 1, 8]


def test_a_peer_that_tells_nothing_gets_no_spans_and_one_with_a_limit_keeps_it() -> None:
    assert SpanChoice().span == 0
    n = CLEAN_PER_SPAN
    assert told(SpanChoice(), (0, 0), (99 * n, 0), max_span=6)[-1] == 6
    assert told(SpanChoice(), (0, 0), (99 * n, 0), max_span=0)[-1] == 1
    assert told(SpanChoice(max_span=1), (0, 0), (99 * n, 0))[-1] == 1


def test_counts_that_wrap_go_on_and_those_that_make_no_sense_change_nothing() -> None:
    n = CLEAN_PER_SPAN
    assert told(SpanChoice(), (2**32 - n, 2**32 - 1), (7 * n, 2**32 - 1)) == [1, 8]
    assert told(SpanChoice(), (2**32 - n, 2**32 - 1), (7 * n, 0)) == [1, 1]
    overtaken = told(SpanChoice(), (0, 5), (8 * n, 5), (7 * n, 5), (8 * n, 5))
    assert overtaken == [1, 8, 8, 8]
    began_anew = told(SpanChoice(), (0, 5), (8 * n, 5), (0, 0), (8 * n, 0))
    assert began_anew == [1, 8, 8, 16]


def test_without_receipts_there_is_no_span() -> None:
    choice = SpanChoice()
    told(choice, (0, 0), (64 * CLEAN_PER_SPAN, 0))
    choice.handle_timeout(100.0, last_sent_at=NO_RECEIPT_S - 0.1)
    assert choice.span == MAX_SPAN
    choice.handle_timeout(100.0, last_sent_at=NO_RECEIPT_S + 0.1)
    assert choice.span == 1


def test_receipts_come_at_their_interval_while_data_does() -> None:
    receipts, epoch = Receipts(), receiving()
    out = []
    for counter in range(1000):
        epoch.window.accept(counter)
        out.append(receipts.note(epoch, 3, counter * 0.001))
    given = [(at, one) for at, one in enumerate(out) if one is not None]
    assert len(given) == pytest.approx(1.0 / REPORT_INTERVAL_S, abs=1)
    assert given[-1][1] == Receipt(MAX_SPAN, 3 * (given[-1][0] + 1), 0)


def test_a_loss_is_told_at_once_but_a_record_that_was_overtaken_is_none() -> None:
    receipts, epoch = Receipts(), receiving()
    epoch.window.accept(0)
    assert receipts.note(epoch, 1, 0.0) == Receipt(MAX_SPAN, 1, 0)
    epoch.window.accept(2)
    assert receipts.note(epoch, 1, 0.030) is None
    epoch.window.accept(1)
    assert receipts.note(epoch, 1, 0.030 + SETTLE_S / 2) is None
    epoch.window.accept(5)
    assert receipts.note(epoch, 1, 0.040) is None
    epoch.window.accept(6)
    assert receipts.note(epoch, 1, 0.041 + SETTLE_S) == Receipt(MAX_SPAN, 5, 2)
    assert 0.041 + SETTLE_S > LOSS_REPORT_INTERVAL_S


def test_what_came_before_an_epoch_was_known_at_both_ends_is_no_loss() -> None:
    receipts, epoch = Receipts(), receiving()
    epoch.window.accept(3)
    assert receipts.note(epoch, 1, 0.0) == Receipt(MAX_SPAN, 1, 0)
    epoch.window.accept(4)
    assert receipts.note(epoch, 1, 10.0) == Receipt(MAX_SPAN, 2, 0)


@pytest.mark.parametrize(
    ("loss", "share_beyond_one"), [(0.01, 0.0), (0.001, 0.01), (0.0001, 0.9), (0.0, 1.0)]
)
def test_the_bet_is_not_placed_where_it_would_be_lost(loss: float, share_beyond_one: float) -> None:
    """The path loses datagrams at random; what the span adds to that stays below a thousandth."""
    rng = Random(5)
    choice, receipts, epoch = SpanChoice(), Receipts(), receiving()
    counter = sent = beyond = lost_datagrams = lost_with_span = 0
    for turn in range(20_000):
        now = turn * 0.001
        came = 0
        for _ in range(2):
            span = choice.span
            sent += span
            beyond += span if span > 1 else 0
            lost = sum(rng.random() < loss for _ in range(span))
            lost_datagrams += lost
            if lost:
                lost_with_span += span
            else:
                epoch.window.accept(counter)
                came += span
            counter += 1
        receipt = receipts.note(epoch, came, now)
        if receipt is not None:
            choice.handle_receipt(receipt, now)
    assert beyond / sent <= share_beyond_one
    assert (lost_with_span - lost_datagrams) / sent <= 1 / CLEAN_PER_SPAN
    assert loss or choice.span == MAX_SPAN


def test_two_sessions_earn_their_spans_from_each_other_and_lose_them_with_a_lossy_path() -> None:
    net = Network(delay_s=0.001, receipts=True)
    net.install()
    net.run(1.0)
    number = iter(range(10**9))

    def burst() -> None:
        for _ in range(250):
            net.send_frame(net.a, next(number), 10)

    net.run(2.0, burst, 0.05)
    assert net.a.session.span == 8
    assert net.b.session.span == 0, "it sent nothing that could have come through"
    net.loss = 0.05
    net.run(0.2, burst, 0.05)
    assert net.a.session.span == 1
    assert net.a.session.losses > 0


def test_a_session_whose_peer_falls_silent_or_roams_bets_on_nothing() -> None:
    net = Network(delay_s=0.001, receipts=True)
    net.install()
    net.run(1.0)

    def burst() -> None:
        for number in range(500):
            net.send_frame(net.a, number, 10)

    net.run(1.0, burst, 0.05)
    assert net.a.session.span > 1
    net.drop = lambda sent: sent.source == "b" and sent.is_control and sent.packet_bytes < 80
    net.run(2.0, burst, 0.05)
    assert net.a.session.span == 1
