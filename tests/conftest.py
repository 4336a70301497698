"""Tests that need another kernel are left out of the ordinary runs, and a line says so."""

from pathlib import Path

import pytest

KERNEL_TESTS = Path(__file__).with_name("kernel")


def _are_wanted(config: pytest.Config) -> bool:
    return "kernel" in str(config.option.markexpr)


def pytest_report_header(config: pytest.Config) -> str | None:
    if _are_wanted(config):
        return None
    return "left out: tests/kernel (script/kernel-lane pytest -m kernel tests/kernel)"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path == KERNEL_TESTS and not _are_wanted(config) else None
