"""A host's packet filter for tests of what feeds it: a network namespace with a bridge in it."""

import re
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from ipaddress import ip_interface
from pathlib import Path
from random import Random
from typing import Any

from policy.core.objects import Address
from policy.shell.filter import PolicyFilter
from router.shell.attach import AttachmentFacts
from tests.namespaces import Namespaces, inside
from weavepy.daemon.policies import PolicyService
from weavepy.kernel.ownership import Session


class Inside(ThreadPoolExecutor):
    """The daemon's kernel thread, in a namespace of the test's."""

    def __init__(self, world: Namespaces, namespace: Path) -> None:
        super().__init__(1)
        self._world, self._namespace = world, namespace

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        return super().submit(
            lambda: self._world.inside(self._namespace, lambda: work(*args, **kwargs))
        )


class FilteredHost:
    def __init__(self, world: Namespaces) -> None:
        self.namespace = world.add("host")
        inside(self.namespace, "ip", "link", "add", "weave", "type", "bridge")
        self.thread: Executor = Inside(world, self.namespace)
        self.session: type[Session] = Session
        self.filter = self._filter()

    def service(self, *, always: bool = False) -> PolicyService:
        """As a router that starts, or starts again."""
        self.filter.close()
        self.filter = self._filter()
        return PolicyService(self.filter, self.thread, always=always)

    def close(self) -> None:
        self.filter.close()
        self.thread.shutdown()

    def _filter(self) -> PolicyFilter:
        return PolicyFilter("weave", Random(1), self.session())

    def tables(self) -> str:
        """Without who owns them, and what was counted."""
        listed = inside(self.namespace, "nft", "-a", "list", "ruleset")
        return re.sub(r" progname \S+|\n\tflags (owner)?|packets \d+ bytes \d+", "", listed)


def attachment(owner: str, *addresses: Address, pod: str = "", uid: str = "") -> AttachmentFacts:
    """As the kernel shows it to a router that starts."""
    interfaces = tuple(ip_interface(f"{address}/24") for address in addresses)
    where = Path("/run/netns/somewhere")
    return AttachmentFacts(
        owner, where, "eth0", "vethw0", "", interfaces, alive=True, filtered=True, pod=pod, uid=uid
    )
