"""Our plugin passes every case, and leaves nothing behind."""

from pathlib import Path

import pytest

from cni.executable import script, write_whole
from tests.cni.conformance.cases import Case, cases
from tests.cni.conformance.target import Target
from weavepy.client import schema
from weavepy.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def target(lab_of_two: Lab, tmp_path_factory: pytest.TempPathFactory) -> Target:
    directory = tmp_path_factory.mktemp("cni")
    write_whole(directory / "weavepy-cni", script(), 0o755)
    where = lab_of_two.store.directories("h1")
    config = {
        "name": "conformance",
        "type": "weavepy-cni",
        "runDir": str(where.run),
        "stateDir": str(where.state),
    }
    second = {"name": "conformance-second", "ipam": {"subnet": "10.32.250.0/30"}}
    return Target(directory / "weavepy-cni", config, second=second)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_plugin_conforms(target: Target, case: Case) -> None:
    case.run(target)


def test_nothing_is_left_of_all_that(target: Target, lab_of_two: Lab) -> None:
    api = lab_of_two.api("h1")
    assert api.attachments().attachments == []
    assert api.check().findings == []
    assert {each.owner for each in api.addresses().addresses} == {"weave:expose"}
    assert not list(Path(target.config["stateDir"]).glob("cni-journal/*"))
    assert api.cni_gc(schema.CniGcRequest(network="conformance", kind="interface", valid=[])) == (
        schema.CniGcAnswer(freed=[], errors=[])
    )
