"""Our plugin passes every case, and leaves nothing behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.executable import script, write_whole
from tests.cni.conformance.cases import Case, cases
from tests.cni.conformance.target import Target
from tests.e2e.conftest import assert_nothing_left
from weavepy.client import schema
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"c{os.getpid() % 100_000}f")
    try:
        lab.up(Wanted(hosts=2, containers=0), print)
        yield lab
    finally:
        lab.down()
    assert_nothing_left(lab)


@pytest.fixture(scope="module")
def target(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Target:
    directory = tmp_path_factory.mktemp("cni")
    write_whole(directory / "weavepy-cni", script(), 0o755)
    where = lab.store.directories("h1")
    config = {
        "name": "conformance",
        "type": "weavepy-cni",
        "runDir": str(where.run),
        "stateDir": str(where.state),
    }
    return Target(directory / "weavepy-cni", config)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_plugin_conforms(target: Target, case: Case) -> None:
    case.run(target)


def test_nothing_is_left_of_all_that(target: Target, lab: Lab) -> None:
    api = lab.api("h1")
    assert api.attachments().attachments == []
    assert api.check().findings == []
    assert [each.owner for each in api.addresses().addresses] == ["weave:expose"]
    assert not list(Path(target.config["stateDir"]).glob("cni-journal/*"))
    assert api.cni_gc(schema.CniGcRequest(network="conformance", kind="interface", valid=[])) == (
        schema.CniGcAnswer(freed=[], errors=[])
    )
