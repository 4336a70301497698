"""Podman's containers on two hosts of a lab, by the plugin."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cni.podman import Podman, missing
from weavepy.client import schema
from weavepy.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]

RESULTS = Path("/var/lib/cni/results")
"""Where the library that Podman calls plugins by keeps what they answered."""


@pytest.fixture(scope="module")
def hosts(lab_of_two: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Podman]]:
    if missing():
        pytest.skip(f"Podman cannot run here: {missing()}")
    made = [Podman(lab_of_two, host, Path(tmp_path_factory.mktemp(host))) for host in ("h1", "h2")]
    with ExitStack() as stack:
        for host in made:
            stack.callback(host.stop)
            host.prepare()
        yield made


def test_containers_of_two_hosts_reach_each_other_and_nothing_of_them_is_left(
    hosts: list[Podman],
) -> None:
    first, second = hosts
    first.run("one")
    address = second.run("two")
    first.podman("exec", "one", "ping", "-c", "1", "-W", "5", address)
    [attachment] = second.api.attachments().attachments
    assert attachment.pod == "two"
    assert traces(attachment)

    first.podman("rm", "--force", "--time", "0", "one")
    second.podman("rm", "--force", "--time", "0", "two")
    assert traces(attachment) == []
    for host in hosts:
        assert host.api.attachments().attachments == []
        assert [each.owner for each in host.api.addresses().addresses] == ["weave:expose"]
        assert host.api.check().findings == []


def test_podman_asks_for_an_address_and_a_mac(hosts: list[Podman]) -> None:
    mac = "02:00:00:00:00:07"
    assert hosts[0].run("one", "--ip", "10.32.5.6", "--mac-address", mac) == "10.32.5.6"
    [attachment] = hosts[0].api.attachments().attachments
    assert (attachment.addresses, attachment.mac) == (["10.32.5.6/12"], mac)
    hosts[0].podman("rm", "--force", "--time", "0", "one")


def traces(attachment: schema.Attachment) -> list[Path]:
    """What a container has outside its host's own directory."""
    container = attachment.id.split("/")[1]
    namespace = Path(attachment.namespace)
    return [*RESULTS.glob(f"*{container}*"), *([namespace] if namespace.exists() else [])]
