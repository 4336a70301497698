"""Work that only waits in the kernel, done behind an answer that need not wait for it.

Its threads are kept for the next work: to start one, the starter waits until the new one has had
the interpreter, which on busy processors takes milliseconds.

A thread is born into the network namespace that its starter is in, and a namespace lives as long as
a thread is in it. A container's must not outlive the container, so each thread goes to that of the
process first.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec

Given = ParamSpec("Given")

MAX_THREADS = 64
"""Each waits 8 to 16 ms for the kernel; what is more waits for one of them."""

_CLONE_NEWNET = 0x40000000


def do_behind(work: Callable[Given, object], /, *args: Given.args, **kwargs: Given.kwargs) -> None:
    """Its result and its errors are nobody's."""
    _pool.submit(work, *args, **kwargs)


def _go_home() -> None:
    """Who has no right to change namespaces has never left."""
    with Path(f"/proc/{os.getpid()}/ns/net").open() as home:
        ctypes.CDLL(None).setns(home.fileno(), _CLONE_NEWNET)


_pool = ThreadPoolExecutor(MAX_THREADS, "behind", _go_home)
