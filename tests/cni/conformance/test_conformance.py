"""Our plugin passes every case, and leaves nothing behind."""

from pathlib import Path

import pytest

from tests.cni.conformance.cases import Case, cases
from tests.cni.conformance.target import Target
from tests.cni.programs import FORMS, install, skip_without_compiler
from weavepy.client import schema
from weavepy.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module", params=FORMS)
def target(
    lab_of_two: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Target:
    skip_without_compiler(request.param)
    plugin = install(tmp_path_factory.mktemp("cni"), request.param)
    where = lab_of_two.store.directories("h1")
    config = {
        "name": "conformance",
        "type": "weavepy-cni",
        "runDir": str(where.run),
        "stateDir": str(where.state),
    }
    second = {"name": "conformance-second", "ipam": {"subnet": "10.32.250.0/30"}}
    return Target(plugin, config, second=second)


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
