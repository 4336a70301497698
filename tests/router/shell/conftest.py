"""A world of network namespaces for tests of the shell: one host, some containers."""

from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from router.shell.host import AttachmentFacts, Host
from tests.namespaces import Namespaces, Result, can_make_namespaces

MTU_BYTES = 1400


class World(Namespaces):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.add("host")
        self.router = Host()

    def on_host(self, work: Callable[[], Result]) -> Result:
        return self.inside(self.host, work)

    def attach(self, namespace: Path, *addresses: str, owner: str = "") -> AttachmentFacts:
        wanted = [ip_interface(address) for address in addresses]
        return self.on_host(
            lambda: self.router.attach(namespace, owner or namespace.name, wanted, MTU_BYTES)
        )

    def attach_to_another_router(self, namespace: Path, address: str) -> Host:
        """One with another bridge, for an owner "x"."""
        other = Host("weave2")
        wanted = [ip_interface(address)]

        def attach() -> None:
            other.ensure_bridge(MTU_BYTES)
            other.attach(namespace, "x", wanted, MTU_BYTES, interface="ethwe2")

        self.on_host(attach)
        return other

    def attachments(self) -> list[AttachmentFacts]:
        """As a router that has just started finds them."""
        return self.on_host(lambda: Host().attachments())


@pytest.fixture
def world() -> Iterator[World]:
    if not can_make_namespaces():
        pytest.skip("needs root, to make network namespaces")
    made = World()
    try:
        made.on_host(lambda: made.router.ensure_bridge(MTU_BYTES))
        yield made
    finally:
        made.remove()
