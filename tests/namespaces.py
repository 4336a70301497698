"""Network namespaces of a test's own, and commands in them."""

import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from router.shell import namespaces
from weavepy.kernel.netlink import HostError

Result = TypeVar("Result")


class Namespaces:
    """They are called weavepy-t-...; everything in them goes when the test ends."""

    def __init__(self) -> None:
        self._prefix = f"weavepy-t-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self._names: list[str] = []

    def add(self, name: str) -> Path:
        full_name = f"{self._prefix}-{name}"
        run("ip", "netns", "add", full_name)
        self._names.append(full_name)
        run("ip", "-n", full_name, "link", "set", "lo", "up")
        return Path("/run/netns", full_name)

    def inside(self, namespace: Path, work: Callable[[], Result]) -> Result:
        with namespaces.opened(namespace) as descriptor:
            return namespaces.run_inside(descriptor, work)

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
