"""What a router without Kubernetes does about policies, with a real packet filter."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import pytest

from policy.core.roster import Attached, Identity
from policy.core.sharing import SharedPods
from policy.shell.filter import PolicyFilter
from tests.namespaces import Namespaces, can_make_namespaces, inside
from tests.policy.objects import labels, pod, policy
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.gossip import Announce
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon.policies import PolicyService, identity_of, parse_service

A, B = ip_address("10.32.0.1"), ip_address("10.32.0.2")
ONE, TWO = PeerName("00:00:00:00:00:01"), PeerName("00:00:00:00:00:02")


class Inside(ThreadPoolExecutor):
    """The daemon's kernel thread, in a namespace of the test's."""

    def __init__(self, world: Namespaces, namespace: Path) -> None:
        super().__init__(1)
        self._world, self._namespace = world, namespace

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        return super().submit(
            lambda: self._world.inside(self._namespace, lambda: work(*args, **kwargs))
        )


class Host:
    def __init__(self, world: Namespaces, directory: Path) -> None:
        self.namespace = world.add("host")
        inside(self.namespace, "ip", "link", "add", "weave", "type", "bridge")
        self.file = directory / "policies.json"
        self.said: list[Announce] = []
        self.thread: Executor = Inside(world, self.namespace)

    async def start(self, *attached: tuple[str, list[Any]]) -> PolicyService:
        """As a router that starts, or starts again."""
        made = PolicyService(
            self.file,
            PolicyFilter("weave", Random(1)),
            self.thread,
            ONE,
            "host1",
            self.said.extend,
        )
        await made.start(attached)
        return made

    def tables(self) -> str:
        return inside(self.namespace, "nft", "-a", "list", "ruleset")


pytestmark = pytest.mark.root


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if not can_make_namespaces():
        pytest.skip("needs root, to make network namespaces")
    world = Namespaces()
    try:
        made = Host(world, tmp_path)
        yield made
        made.thread.shutdown()
    finally:
        world.remove()


def objects(*documents: dict[str, Any]) -> schema.PolicyObjects:
    return schema.PolicyObjects(objects=[*documents])


DENY = policy("default/deny", labels(app="web"))


async def test_without_policies_nothing_is_in_the_packet_filter(host: Host) -> None:
    service = await host.start()
    await service.placed("web", [A], Identity(labels={"app": "web"}))
    assert host.tables() == ""
    await service.apply(objects(DENY))
    assert str(A) in host.tables()
    await service.delete(objects(DENY))
    assert host.tables() == ""


async def test_what_was_applied_is_known_and_adopted_after_a_restart(host: Host) -> None:
    service = await host.start()
    await service.apply(objects(DENY))
    await service.placed("web", [A], Identity("default", "front", {"app": "web"}))
    before, known = host.tables(), await service.status()
    again = await host.start(("web", [A]))
    assert host.tables() == before
    assert await again.status() == known
    assert known.pods[0].isolated == ["ingress"]


async def test_an_attachment_is_closed_when_placed_returns(host: Host) -> None:
    service = await host.start()
    await service.apply(objects(policy("default/deny")))
    await service.placed("web", [A, B], None)
    assert str(A) in host.tables()
    await service.left("web", [A])
    assert str(A) not in host.tables()
    assert str(B) in host.tables()
    await service.left("web")
    assert str(B) not in host.tables()


async def test_an_address_that_somebody_else_got_is_no_longer_the_first_ones(host: Host) -> None:
    service = await host.start()
    await service.apply(objects(DENY))
    await service.placed("gone", [A], Identity(labels={"app": "web"}))
    await service.placed("next", [A], None)
    assert [(one.name, one.isolated) for one in (await service.status()).pods] == [("next", [])]


async def test_what_is_not_on_disk_is_not_in_force(host: Host) -> None:
    service = await host.start()
    host.file.with_name("policies.json.new").mkdir()
    with pytest.raises(WeavepyError, match="cannot write"):
        await service.apply(objects(DENY))
    assert (await service.status()).policies == []
    assert host.tables() == ""


async def test_a_router_does_not_start_without_the_policies_that_it_had(host: Host) -> None:
    host.file.write_text("{")
    with pytest.raises(WeavepyError, match="unreadable"):
        await host.start()


async def test_a_policy_with_a_fault_is_said_to_have_one_and_closes(host: Host) -> None:
    service = await host.start()
    await service.placed("web", [A], Identity(labels={"app": "web"}))
    faulty = policy("default/p", labels(app="web"), ingress=[{"form": []}])
    (change,) = (await service.apply(objects(faulty))).changes
    assert change.fault.startswith("spec.ingress[0] has a field 'form'")
    request = schema.ExplainRequest(source=str(B), destination="web", port="80")
    assert not (await service.explain(request)).allowed


async def test_one_object_that_cannot_be_read_keeps_all_from_being_applied(host: Host) -> None:
    service = await host.start()
    with pytest.raises(WeavepyError):
        await service.apply(objects(DENY, {"kind": "Deployment"}))
    assert (await service.status()).policies == []


async def test_others_are_told_of_what_was_described_and_learnt_from(host: Host) -> None:
    service = await host.start()
    allow = {"from": [{"podSelector": labels(app="client")}]}
    await service.apply(objects(policy("default/p", labels(app="web"), ingress=[allow])))
    await service.placed("web", [A], Identity(labels={"app": "web"}))
    other = SharedPods(TWO, "host2")
    for announced in host.said:
        other.handle_gossip(ONE, announced.update)
    assert [one.owner for one in other.elsewhere()["host1"]] == ["web"]
    (said,) = other.set_own([Attached("client", (B,), Identity(labels={"app": "client"}))])
    service.handle_gossip(TWO, said.update)
    async with asyncio.timeout(10):
        while "host2" not in host.file.read_text():
            await asyncio.sleep(0.01)
    request = schema.ExplainRequest(source="client@host2", destination="web", port="80/tcp")
    assert (await service.explain(request)).allowed
    again = await host.start(("web", [A]))
    assert (await again.explain(request)).allowed


async def test_a_pod_that_was_applied_is_a_peer(host: Host) -> None:
    service = await host.start()
    allow = {"from": [{"podSelector": labels(app="client")}]}
    await service.apply(
        objects(
            policy("default/p", labels(app="web"), ingress=[allow]),
            pod("default/away", str(B), app="client"),
        )
    )
    await service.placed("web", [A], Identity(labels={"app": "web"}))
    matrix = await service.matrix(schema.MatrixRequest(port="80/tcp"))
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
