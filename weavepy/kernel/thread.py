"""The one thread on which a daemon works on its host's network, in order, beside its event loop.

It sweeps after each work. Every message that pyroute2 makes refers to itself, and so do its
requests and the traceback that ends its task: a dump of four links leaves 900 objects, 130 KiB, to
the garbage collector. A router with little else to do allocates too little to wake that often, and
the oldest generation is looked at only when a quarter of all that is alive has joined it. Without
sweeps a router grew by 4 MB in its first half hour. A sweep of the young generations takes 0.1 ms.

What a dump of many links leaves (12,000 objects for 60) grows old while it is being made, and the
collector finds it by itself, every few dumps: that costs 7 MB, soon and once.
"""

import gc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

YOUNG = 1
"""The generation up to which a sweep goes: all that is left of one work, and little else."""


class KernelThread(ThreadPoolExecutor):
    def __init__(self) -> None:
        super().__init__(1, "netlink")

    def submit(
        self,
        work: Callable[Given, Result],
        /,
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Future[Result]:
        def swept() -> Result:
            try:
                return work(*args, **kwargs)
            finally:
                gc.collect(YOUNG)

        return super().submit(swept)
