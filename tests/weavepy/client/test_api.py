"""The typed API: each method asks what the schema's table says and returns its type."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.weavepy.cli.stand_in import StandIn
from weavepy.base.settings import Directories
from weavepy.client import document, schema
from weavepy.client.api import Api
from weavepy.client.http import BadAnswer


@pytest.fixture
def where() -> Iterator[Directories]:
    with tempfile.TemporaryDirectory(prefix="weavepy-t-") as base:
        yield Directories(run=Path(base), state=Path(base))


def test_every_endpoint_has_its_method(where: Directories) -> None:
    attachment = {"network": "n", "container": "c", "interface": "eth0", "kind": "interface"}
    requests: dict[str, schema.Struct] = {
        "ConnectRequest": schema.ConnectRequest(targets=[]),
        "ForgetRequest": schema.ForgetRequest(targets=[]),
        "BenchRequest": schema.BenchRequest(peer="host2"),
        "AllocateRequest": schema.AllocateRequest(owner="a"),
        "RmpeerRequest": schema.RmpeerRequest(peer="gone"),
        "PolicyObjects": schema.PolicyObjects(objects=[]),
        "ExplainRequest": schema.ExplainRequest(source="web", destination="db", port="80/tcp"),
        "MatrixRequest": schema.MatrixRequest(port="80/tcp"),
        "ClaimRequest": schema.ClaimRequest(owner="a", address="10.32.0.1"),
        "CniAddRequest": schema.CniAddRequest(**attachment, namespace="/run/netns/c"),
        "CniDelRequest": schema.CniDelRequest(**attachment),
        "CniCheckRequest": schema.CniCheckRequest(
            **attachment, namespace="/run/netns/c", previous=schema.CniPrevious()
        ),
        "CniGcRequest": schema.CniGcRequest(network="n", kind="interface", valid=[]),
        "CniStatusRequest": schema.CniStatusRequest(network="n"),
    }
    with StandIn(where.api_socket) as router:
        api = Api(where)
        for method, path, request, answer in document.endpoints():
            name = path.removeprefix("/v1/").removeprefix("ipam/").replace("/", "_")
            if request:
                asked = requests.get(request) or getattr(schema, request)()
                found = getattr(api, name)(asked)
            else:
                found = getattr(api, name)()
            if answer in document.BINARY:
                assert [*found]
            else:
                assert type(found) is getattr(schema, answer)
            assert router.requests[-1][:2] == (method, path)


def test_an_answer_of_another_version_is_explained(where: Directories) -> None:
    with StandIn(where.api_socket) as router:
        router.failures["/v1/ipam"] = (200, b'{"state": 7}')
        with pytest.raises(BadAnswer, match="two versions, so restart the router"):
            Api(where).ipam()
