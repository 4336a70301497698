"""These tests run where the kernel has what they are about: in the kernel lane (`lane.py`).

`make_lab` is that of the labs, with the same promise that nothing is left behind.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import make_lab

__all__ = ["make_lab"]


TIMEOUT_S = 300.0
"""The lane has one processor, and loses much of it to other work of the machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    reason = _why_not() if ours else ""
    for item in ours:
        item.add_marker(pytest.mark.kernel)
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root: makes network namespaces"
    tried = subprocess.run(["unshare", "-n", "sh", "-c", _ESP], capture_output=True, check=False)
    if tried.returncode != 0:
        return "this kernel has no ESP: script/kernel-lane pytest -m kernel tests/kernel"
    return ""


_ESP = (
    "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 mode transport"
    " aead 'rfc4106(gcm(aes))' 0x" + 36 * "00" + " 128"
)
