"""Labs without routers: what can be tested of a lab's kernel side alone."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from weavepy.lab import wire
from weavepy.lab.plan import Plan, make_plan

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")

_numbers = itertools.count()


def unique_name() -> str:
    """At most 8 characters, and no other test run's."""
    return f"t{os.getpid() % 100_000}{chr(ord('a') + next(_numbers) % 26)}"


@pytest.fixture
def lab_name() -> Iterator[str]:
    name = unique_name()
    yield name
    wire.destroy(name)


@pytest.fixture
def built(lab_name: str) -> Callable[..., Plan]:
    """Builds the namespaces and links of a plan; they are removed after the test."""

    def build(**dimensions: object) -> Plan:
        plan = make_plan(lab_name, **dimensions)  # type: ignore[arg-type]  # checked by make_plan
        wire.build(plan)
        return plan

    return build


@pytest.fixture
def machine() -> Iterator[Callable[[], object]]:
    """A picture of the machine's own network, which no test may change."""
    before = _picture()
    yield _picture
    assert _picture() == before


def _picture() -> object:
    routes = Path("/proc/net/route").read_text()
    return sorted(os.listdir("/sys/class/net")), routes
