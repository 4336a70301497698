"""A host of a test: all objects, and a packet filter in its network namespace that follows them."""

import os
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_interface
from random import Random

from policy.core.policies import Policies
from policy.shell.filter import PolicyFilter
from tests.namespaces import run
from tests.policy.interpreter import tell
from tests.policy.model import Document
from weavepy.kernel.netlink import IpInterface
from weavepy.kernel.ownership import Session
from weavepy.lab.system import in_namespace

BRIDGE = "weave"


class OldKernel(Session):
    """In which anybody with the right to may change any table."""

    def own(self, family: str, table: str) -> bool:
        return False


class Node:
    def __init__(self, name: str, namespace: str, session: type[Session] = Session) -> None:
        self.name = name
        self.namespace = namespace
        self.session = session
        self.ports: dict[str, list[IpInterface]] = {}
        self._make()

    def restart(self) -> None:
        """Nothing is left of it but what is in the kernel."""
        self.filter.close()
        self._make()

    def _make(self) -> None:
        self.policies = Policies(lambda pod: pod.node == self.name)
        self.filter = PolicyFilter(BRIDGE, Random(os.getpid()), self.session(), lambda: self.ports)

    def run(self, *command: str) -> str:
        return run("ip", "netns", "exec", self.namespace, *command)

    def tell(self, document: Document) -> None:
        tell(self.policies, document)

    def place(self, port: str, addresses: Sequence[str]) -> None:
        """Before it is on the bridge."""
        own = [ip_interface(one + ("/64" if ":" in one else "/16")) for one in addresses]
        self.ports[port] = own
        in_namespace(self.namespace, partial(self.filter.place, port, own))

    def settle(self) -> None:
        changes = self.policies.settle()
        in_namespace(self.namespace, partial(self.filter.apply, changes, self.policies.table))

    def restore(self) -> bool:
        self.policies.settle()
        return in_namespace(self.namespace, partial(self.filter.restore, self.policies.table))

    def drops(self) -> dict[tuple[str, str], int]:
        return in_namespace(self.namespace, self.filter.counts).drops
