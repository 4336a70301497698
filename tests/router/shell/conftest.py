"""A world of network namespaces for tests of the shell: one host, some containers."""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import TypeVar

import pytest

from router.shell import namespaces
from router.shell.host import AttachmentFacts, Host
from router.shell.netlink import HostError

Result = TypeVar("Result")

MTU_BYTES = 1400


class World:
    """Namespaces called weavepy-t-...; everything in them goes when the test ends."""

    def __init__(self) -> None:
        self._prefix = f"weavepy-t-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self._names: list[str] = []
        self.host = self.add("host")
        self.router = Host()

    def add(self, name: str) -> Path:
        full_name = f"{self._prefix}-{name}"
        run("ip", "netns", "add", full_name)
        self._names.append(full_name)
        run("ip", "-n", full_name, "link", "set", "lo", "up")
        return Path("/run/netns", full_name)

    def inside(self, namespace: Path, work: Callable[[], Result]) -> Result:
        with namespaces.opened(namespace) as descriptor:
            return namespaces.run_inside(descriptor, work)

    def on_host(self, work: Callable[[], Result]) -> Result:
        return self.inside(self.host, work)

    def attach(self, namespace: Path, *addresses: str, owner: str = "") -> AttachmentFacts:
        wanted = [ip_interface(address) for address in addresses]
        return self.on_host(
            lambda: self.router.attach(namespace, owner or namespace.name, wanted, MTU_BYTES)
        )

    def attachments(self) -> list[AttachmentFacts]:
        """As a router that has just started finds them."""
        return self.on_host(lambda: Host().attachments())

    def remove(self) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def inside(namespace: Path, *command: str) -> str:
    return run("ip", "netns", "exec", namespace.name, *command)


def ping(namespace: Path, address: str) -> None:
    inside(namespace, "ping", "-c", "1", "-W", "2", address)


def can_make_namespaces() -> bool:
    try:
        namespaces.run_in_new(lambda: None)
    except HostError:
        return False
    return True


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
