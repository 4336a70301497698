"""What is kept open to the kernel: one per thread and network namespace.

Closing some sockets waits until no processor can be using what they were (a packet socket's hook,
what an nftables transaction deleted): 8 to 16 ms. So what is used again and again stays open. It
belongs to the network namespace in which it was made, and holds it; a thread that has gone to
another one gets another.
"""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Kept(Generic[Thing]):
    def __init__(self, make: Callable[[], Thing]) -> None:
        """What is made closes itself when it is forgotten, as when its thread ends."""
        self._make = make
        self._mine = threading.local()

    def get(self) -> Thing:
        status = os.stat("/proc/thread-self/ns/net")
        namespace = (status.st_dev, status.st_ino)
        if getattr(self._mine, "namespace", None) != namespace:
            self._mine.thing = self._make()
            self._mine.namespace = namespace
        thing: Thing = self._mine.thing
        return thing
