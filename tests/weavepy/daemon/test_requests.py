import asyncio

import pytest

from ipam.core.effects import AnswerRequest
from weavepy.daemon import requests as module
from weavepy.daemon.api import Conflict, NotReady, TimedOut
from weavepy.daemon.requests import Requests


def why_late() -> str:
    return "the disk refuses"


async def test_an_answer_reaches_the_one_who_asked_even_if_it_comes_at_once() -> None:
    requests = Requests()
    cancelled: list[int] = []

    def start(number: int) -> None:
        requests.answer(AnswerRequest(number, 7, None))

    assert (await requests.ask(start, cancelled.append, 1.0, why_late)).address == 7
    assert cancelled == []


async def test_what_the_core_says_is_wrong_is_raised() -> None:
    requests = Requests()

    def start(number: int) -> None:
        requests.answer(
            AnswerRequest(number, None, "10.32.0.5 is in use by web on host2", "in-use")
        )

    with pytest.raises(Conflict, match="in use by web"):
        await requests.ask(start, lambda number: None, 1.0, why_late)


async def test_silence_ends_with_the_reason_and_the_request_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_MARGIN_S", 0.0)
    requests = Requests()
    cancelled: list[int] = []
    with pytest.raises(TimedOut, match="the disk refuses"):
        await requests.ask(lambda number: None, cancelled.append, 0.01, why_late)
    assert cancelled == [1]


async def test_a_caller_that_goes_away_cancels_its_request_and_a_late_answer_does_no_harm() -> None:
    requests = Requests()
    cancelled: list[int] = []
    asking = asyncio.create_task(
        _ask(requests, cancelled),
    )
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert cancelled == [1]
    requests.answer(AnswerRequest(1, 7, None))


async def test_more_requests_than_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 0)
    with pytest.raises(NotReady, match="try again later"):
        await _ask(Requests(), [])


async def _ask(requests: Requests, cancelled: list[int]) -> AnswerRequest:
    return await requests.ask(lambda number: None, cancelled.append, 10.0, why_late)
