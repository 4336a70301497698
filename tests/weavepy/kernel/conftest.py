"""A network namespace of a test's own."""

from collections.abc import Iterator

import pytest

from tests.namespaces import Namespaces, can_make_namespaces


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    if not can_make_namespaces():
        pytest.skip("needs root, to make network namespaces")
    made = Namespaces()
    try:
        yield made
    finally:
        made.remove()
