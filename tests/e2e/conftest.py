"""`make_lab`: a lab for one test, of which nothing may be left after it, pass or fail.

WEAVEPY_NO_OFFLOAD=1     all labs run the portable path, one frame per datagram
"""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted
from weavepy.lab.system import list_namespaces

MakeLab = Callable[..., Lab]

_numbers = itertools.count()
PORTABLE = os.environ.get("WEAVEPY_NO_OFFLOAD", "") not in ("", "0")

BOTH_PATHS = [["--no-offload"]] if PORTABLE else [[], ["--no-offload"]]
"""Launch options, for tests that take both paths in turn."""

PLENTY_BYTES_PER_S = 3e6 if PORTABLE else 20e6
"""Of TCP: what is much for a host and still leaves it room."""


def path_name(options: list[str]) -> str:
    return "portable" if options or PORTABLE else "offload"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.slow)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: makes network namespaces"))


@pytest.fixture
def make_lab() -> Iterator[MakeLab]:
    """`make_lab(hosts=4, topology="chain", launch_options=[...])` makes a lab and waits for it."""
    labs: list[Lab] = []

    def make(*, launch_options: Sequence[str] = (), **dimensions: object) -> Lab:
        name = f"e{os.getpid() % 100_000}{chr(ord('a') + next(_numbers) % 26)}"
        lab = Lab(name)
        labs.append(lab)
        options = [*launch_options, *(["--no-offload"] if PORTABLE else [])]
        lab.up(Wanted(launch_options=options, **dimensions), print)  # type: ignore[arg-type]  # checked by `up`
        if PORTABLE:
            assert lab.api("h1").status().datapath.offloads == []
        return lab

    try:
        yield make
    finally:
        for lab in labs:
            _print_logs(lab)
            lab.down()
    for lab in labs:
        assert_nothing_left(lab)


def _print_logs(lab: Lab) -> None:
    """pytest shows this if the test failed."""
    for host, lines in lab.last_log_lines().items():
        for line in lines:
            print(f"{host}: {line}")


def assert_nothing_left(lab: Lab) -> None:
    left = [name for name in list_namespaces() if name.startswith(f"weavepy-{lab.name}-")]
    assert left == []
    assert not lab.store.path.exists()
    directory = str(lab.store.path)
    processes = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    mentioning = [line for line in processes.splitlines() if directory in line]
    assert mentioning == []
    interfaces = os.listdir("/sys/class/net")
    assert not any("weave" in name for name in interfaces), interfaces
