"""What a router without Kubernetes does about policies, with a real packet filter."""

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from policy.core.roster import Attached, Identity
from policy.core.sharing import SharedPods
from tests.namespaces import Namespaces, can_make_namespaces
from tests.policy.objects import labels, pod, policy
from tests.weavepy.daemon.filtered_host import FilteredHost, attachment
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.gossip import Announce
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon.applied import AppliedObjects, identity_of
from weavepy.daemon.policies import parse_service

A, B = ip_address("10.32.0.1"), ip_address("10.32.0.2")
ONE, TWO = PeerName("00:00:00:00:00:01"), PeerName("00:00:00:00:00:02")


class Host(FilteredHost):
    def __init__(self, world: Namespaces, directory: Path) -> None:
        super().__init__(world)
        self.file = directory / "policies.json"
        self.said: list[Announce] = []

    async def start(self, *attached: tuple[str, list[Any]]) -> AppliedObjects:
        self.policies = self.service()
        made = AppliedObjects(self.policies, self.file, ONE, "host1", self.said.extend)
        await made.start([attachment(owner, *addresses) for owner, addresses in attached])
        return made


pytestmark = pytest.mark.root


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if not can_make_namespaces():
        pytest.skip("needs root, to make network namespaces")
    world = Namespaces()
    try:
        made = Host(world, tmp_path)
        yield made
        made.close()
    finally:
        world.remove()


def objects(*documents: dict[str, Any]) -> schema.PolicyObjects:
    return schema.PolicyObjects(objects=[*documents])


DENY = policy("default/deny", labels(app="web"))


async def test_without_policies_nothing_is_in_the_packet_filter(host: Host) -> None:
    applied = await host.start()
    await applied.placed("web", [A], Identity(labels={"app": "web"}))
    assert host.tables() == ""
    await applied.apply(objects(DENY))
    assert str(A) in host.tables()
    await applied.delete(objects(DENY))
    assert host.tables() == ""


async def test_what_was_applied_is_known_and_adopted_after_a_restart(host: Host) -> None:
    applied = await host.start()
    await applied.apply(objects(DENY))
    await applied.placed("web", [A], Identity("default", "front", {"app": "web"}))
    before, known = host.tables(), await host.policies.status()
    await host.start(("web", [A]))
    assert host.tables() == before
    assert await host.policies.status() == known
    assert known.pods[0].isolated == ["ingress"]


@pytest.mark.checklist(25)
async def test_an_attachment_is_closed_when_placed_returns(host: Host) -> None:
    applied = await host.start()
    await applied.apply(objects(policy("default/deny")))
    await applied.placed("web", [A, B], None)
    assert str(A) in host.tables()
    await applied.left("web", [A])
    assert str(A) not in host.tables()
    assert str(B) in host.tables()
    await applied.left("web")
    assert str(B) not in host.tables()


@pytest.mark.checklist(26)
async def test_an_address_that_somebody_else_got_is_no_longer_the_first_ones(host: Host) -> None:
    applied = await host.start()
    await applied.apply(objects(DENY))
    await applied.placed("gone", [A], Identity(labels={"app": "web"}))
    await applied.placed("next", [A], None)
    assert [(one.name, one.isolated) for one in (await host.policies.status()).pods] == [
        ("next", [])
    ]


async def test_what_is_not_on_disk_is_not_in_force(host: Host) -> None:
    applied = await host.start()
    host.file.with_name("policies.json.new").mkdir()
    with pytest.raises(WeavepyError, match="cannot write"):
        await applied.apply(objects(DENY))
    assert (await host.policies.status()).policies == []
    assert host.tables() == ""


async def test_a_router_does_not_start_without_the_policies_that_it_had(host: Host) -> None:
    host.file.write_text("{")
    with pytest.raises(WeavepyError, match="unreadable"):
        await host.start()


@pytest.mark.checklist(32)
async def test_a_policy_with_a_fault_is_said_to_have_one_and_closes(host: Host) -> None:
    applied = await host.start()
    await applied.placed("web", [A], Identity(labels={"app": "web"}))
    faulty = policy("default/p", labels(app="web"), ingress=[{"form": []}])
    (change,) = (await applied.apply(objects(faulty))).changes
    assert change.fault.startswith("spec.ingress[0] has a field 'form'")
    request = schema.ExplainRequest(source=str(B), destination="web", port="80")
    assert not (await host.policies.explain(request)).allowed


async def test_one_object_that_cannot_be_read_keeps_all_from_being_applied(host: Host) -> None:
    applied = await host.start()
    with pytest.raises(WeavepyError):
        await applied.apply(objects(DENY, {"kind": "Deployment"}))
    assert (await host.policies.status()).policies == []


async def test_others_are_told_of_what_was_described_and_learnt_from(host: Host) -> None:
    applied = await host.start()
    allow = {"from": [{"podSelector": labels(app="client")}]}
    await applied.apply(objects(policy("default/p", labels(app="web"), ingress=[allow])))
    await applied.placed("web", [A], Identity(labels={"app": "web"}))
    other = SharedPods(TWO, "host2")
    for announced in host.said:
        other.handle_gossip(ONE, announced.update)
    assert [one.owner for one in other.elsewhere()["host1"]] == ["web"]
    (said,) = other.set_own([Attached("client", (B,), Identity(labels={"app": "client"}))])
    applied.handle_gossip(TWO, said.update)
    async with asyncio.timeout(10):
        while "host2" not in host.file.read_text():
            await asyncio.sleep(0.01)
    request = schema.ExplainRequest(source="client@host2", destination="web", port="80/tcp")
    assert (await host.policies.explain(request)).allowed
    await host.start(("web", [A]))
    assert (await host.policies.explain(request)).allowed


async def test_a_pod_that_was_applied_is_a_peer(host: Host) -> None:
    applied = await host.start()
    allow = {"from": [{"podSelector": labels(app="client")}]}
    await applied.apply(
        objects(
            policy("default/p", labels(app="web"), ingress=[allow]),
            pod("default/away", str(B), app="client"),
        )
    )
    await applied.placed("web", [A], Identity(labels={"app": "web"}))
    matrix = await host.policies.matrix(schema.MatrixRequest(port="80/tcp"))
    assert matrix.pods == ["default/away", "default/web"]
    assert matrix.allowed == [[True, True], [True, True]]
    assert str(B) in host.tables()


@pytest.mark.parametrize("text", ["", "80/icmp", "0", "65536", "tcp/80", "a", "-1", "80/tcp/x"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="80/tcp"):
        parse_service(text)


def test_a_request_without_a_word_about_the_pod_leaves_what_is_known() -> None:
    assert identity_of(schema.AttachRequest(namespace="web")) is None
    asked = schema.AttachRequest(namespace="web", labels={"app": "web"})
    assert identity_of(asked) == Identity("default", "", {"app": "web"})
    with pytest.raises(WeavepyError):
        identity_of(schema.AttachRequest(namespace="web", labels={"app": "a b"}))
