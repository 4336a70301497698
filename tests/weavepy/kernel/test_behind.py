"""Work behind an answer: its threads are kept, and keep nothing of where they were started."""

import os
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.namespaces import Namespaces
from weavepy.kernel.behind import MAX_THREADS, do_behind

TIMES = 3 * MAX_THREADS
HERE = Path("/proc/thread-self/ns/net")


def test_threads_are_kept_for_the_next_work() -> None:
    threads = set()
    for _ in range(TIMES):
        done: Future[int] = Future()
        do_behind(lambda done=done: done.set_result(threading.get_ident()))
        threads.add(done.result(20))
    assert len(threads) <= MAX_THREADS


@pytest.mark.root
def test_no_thread_keeps_the_namespace_of_who_started_it(namespaces: Namespaces) -> None:
    home = os.readlink(HERE)
    barrier = threading.Barrier(MAX_THREADS)
    answers: list[Future[str]] = [Future() for _ in range(MAX_THREADS)]

    def tell(answer: Future[str]) -> None:
        barrier.wait(20)  # so each has a thread of its own
        answer.set_result(os.readlink(HERE))

    def start() -> str:
        for answer in answers:
            do_behind(tell, answer)
        return os.readlink(HERE)

    assert namespaces.inside(namespaces.add("other"), start) != home
    assert {answer.result(20) for answer in answers} == {home}
