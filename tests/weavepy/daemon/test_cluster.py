"""Network policies of an API server, over real HTTP and in a real packet filter.

The server is the stand-in of tests/kube, which can be made to forget, to refuse and to go away.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest

from kube.core.pods import WANTED
from kube.shell.server import ApiServer
from policy.core.cluster import Runtime
from policy.core.roster import Identity
from router.shell.attach import AttachmentFacts
from tests.kube.stand_in import EVERYTHING, StandIn
from tests.namespaces import Namespaces, can_make_namespaces
from tests.policy.model import Document
from tests.policy.objects import labels, namespace, pod, policy
from tests.weavepy.daemon.filtered_host import FilteredHost, attachment
from weavepy.base.errors import UsageError
from weavepy.client import schema
from weavepy.daemon import cluster
from weavepy.daemon.cluster import ClusterObjects
from weavepy.daemon.options import KubernetesOptions

pytestmark = pytest.mark.root

A, B = ip_address("10.32.0.1"), ip_address("10.32.0.2")
FAR = "10.32.9.9"
WEB, NEXT = Runtime(("x", "web"), "u1"), Runtime(("x", "next"), "u2")
DENY = policy("deny", labels(app="web"))
FROM_CLIENTS = policy(
    "clients", labels(app="web"), ingress=[{"from": [{"podSelector": labels(app="client")}]}]
)


class Host(FilteredHost):
    """A node of a cluster. `start` is its router's start, `stop` its end."""

    def __init__(self, world: Namespaces, directory: Path) -> None:
        super().__init__(world)
        self.file = directory / "cluster.json"
        self.server = StandIn()
        self.objects: ClusterObjects | None = None

    async def start(self, *attached: AttachmentFacts) -> ClusterObjects:
        self.policies = self.service(always=True)
        options = KubernetesOptions("n1", ApiServer(self.server.url), ("kube-system", "weavepy"))
        self.objects = ClusterObjects(self.policies, options, Random(1), self.file)
        await self.objects.start(attached)
        return self.objects

    async def stop(self) -> None:
        if self.objects is not None:
            await self.objects.close()
            self.objects = None

    async def put(self, *documents: Document, uid: str = "u1") -> None:
        resources = {"Pod": "pods", "Namespace": "namespaces", "NetworkPolicy": "networkpolicies"}
        for one in documents:
            one["metadata"] |= {"uid": uid}
            await self.server.put(resources[one["kind"]], one)

    def rules(self) -> list[str]:
        """With their handles; not whose the tables are, which ends with each router."""
        lines = re.sub(r" progname \S+", "", self.tables()).splitlines()
        return [line for line in lines if line.split()[:1] != ["flags"]]

    def isolated(self, address: object) -> list[str]:
        table = self.policies.policies.table
        return [way[0] for way, given in table.verdicts.items() if str(address) in given]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    if not can_make_namespaces():
        pytest.skip("needs root, to make network namespaces")
    world = Namespaces()
    made = Host(world, tmp_path)
    try:
        await made.server.start()
        await made.put(namespace("x"))
        yield made
        await made.stop()
    finally:
        await made.server.stop()
        made.close()
        world.remove()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_pod_is_isolated_when_placed_returns_and_follows_what_the_server_says(
    host: Host,
) -> None:
    await host.put(pod("web", app="web"), FROM_CLIENTS)
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    assert host.isolated(A) == ["ingress"]
    assert str(A) in host.tables()
    assert FAR not in host.tables()
    await host.put(pod("away", FAR, node="n2", app="client"), uid="u9")
    await until(lambda: FAR in host.tables())
    await host.put(pod("away", FAR, node="n2", app="client", phase="Failed"), uid="u9")
    await until(lambda: FAR not in host.tables())
    await host.server.delete("networkpolicies", "x/clients")
    await until(lambda: host.isolated(A) == [])
    await objects.left("cni:web")
    assert str(A) not in host.tables()
    summary = await host.policies.summary()
    assert summary is not None
    assert sum(summary.enforced.counts) >= 4


async def test_an_add_waits_for_the_servers_word_about_its_pod(host: Host) -> None:
    objects = await host.start()
    adding = asyncio.create_task(objects.placed("cni:web", [A], None, WEB))
    await until(lambda: str(A) in host.tables())
    assert host.isolated(A) == ["ingress", "egress"], "closed while it is waited for"
    assert not adding.done()
    await host.put(pod("web", app="web"))
    await asyncio.wait_for(adding, 10)
    assert host.isolated(A) == []


async def test_an_add_goes_on_with_a_closed_pod_that_opens_later(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "KNOWN_WITHIN_S", 0.1)
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    assert host.isolated(A) == ["ingress", "egress"]
    (row,) = (await host.policies.status()).pods
    assert (row.isolated, row.local) == (["egress", "ingress"], True)
    await host.put(pod("web", app="web"))
    await until(lambda: host.isolated(A) == [])


async def test_a_restart_without_the_server_changes_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "KNOWN_WITHIN_S", 0.1)
    await host.put(pod("web", app="web"), FROM_CLIENTS)
    await host.put(pod("away", FAR, node="n2", app="client"), uid="u9")
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    await until(lambda: FAR in host.tables())
    before = host.rules()
    await host.stop()
    await host.server.stop()
    objects = await host.start(attachment("cni:web", A, pod="x/web", uid="u1"))
    assert host.rules() == before, "not even made again"
    await until(lambda: "away" in " ".join(objects.warnings()))
    await objects.placed("cni:next", [B], None, NEXT)
    assert host.isolated(B) == ["ingress", "egress"]

    # Meanwhile the peer has gone, and the new pod is there.
    host.server.objects["pods"].pop("x/away")
    await host.put(pod("next"), uid="u2")
    host.server.forget()
    await host.server.start()
    await until(lambda: host.isolated(B) == [])
    assert FAR not in host.tables()
    assert host.isolated(A) == ["ingress"]
    await until(lambda: objects.warnings() == [])


async def test_a_router_that_knows_nothing_leaves_what_is_in_force_and_closes_what_comes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "KNOWN_WITHIN_S", 0.1)
    await host.put(pod("web", app="web"), DENY)
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    assert "ingress4_" in host.tables()
    await host.stop()
    host.file.unlink()
    await host.server.stop()
    before = host.rules()
    objects = await host.start(attachment("cni:web", A, pod="x/web", uid="u1"))
    await objects.repair()
    assert host.rules() == before
    await objects.placed("cni:next", [B], None, NEXT)
    now = host.tables()
    assert f"{A} : jump" in now
    assert f"{B} : jump" in now
    await host.put(pod("next"), uid="u2")
    await host.server.start()
    await until(lambda: str(B) not in host.tables())
    assert f"{A} : jump" in host.tables()
    assert host.isolated(A) == ["ingress"]


async def test_what_vanished_while_the_server_forgot_is_gone(host: Host) -> None:
    await host.put(pod("web", app="web"), DENY)
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    assert host.isolated(A) == ["ingress"]
    host.server.objects["networkpolicies"].clear()
    host.server._version += 5
    host.server.forget()
    await host.server.bookmark()
    await until(lambda: host.isolated(A) == [])


async def test_nothing_opens_until_all_kinds_are_known(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the right to see policies is missing, as after an upgrade without the manifest."""
    monkeypatch.setattr(cluster, "KNOWN_WITHIN_S", 0.1)
    host.server.rules = {**EVERYTHING, "networkpolicies": frozenset()}
    await host.put(pod("web", app="web"), DENY)
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    assert str(A) in host.tables()
    told = " ".join(objects.warnings())
    assert "networkpolicies are not heard of" in told
    assert "403" in told
    host.server.rules = EVERYTHING
    await until(lambda: host.isolated(A) == ["ingress"])


async def test_large_lists_come_in_pages_and_status_counts_what_is_elsewhere(host: Host) -> None:
    for number in range(1100):
        address = str(ip_address("10.33.0.0") + number)
        one = pod(f"p{number}", address, node="n2", app="client")
        host.server.objects["pods"][f"x/p{number}"] = one
    await host.put(pod("web", app="web"), FROM_CLIENTS)
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    assert len(host.policies.policies.pods) == 1101
    assert host.server.pages == 2
    (peers,) = (one for one in host.policies.policies.table.sets.values() if one.kind == "pods")
    assert len(peers.elements) == 1100
    status = await host.policies.status()
    assert ([one.name for one in status.pods], status.pods_left_out) == (["web"], 1100)


async def test_a_policy_with_a_field_that_nobody_knows_closes_and_is_told(host: Host) -> None:
    await host.put(pod("web", app="web"))
    await host.put(policy("new", labels(app="web"), ingress=[{"form": []}]))
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    assert host.isolated(A) == ["ingress"]
    summary = await host.policies.summary()
    assert summary is not None
    assert summary.faulty == 1


async def test_by_hand_nothing_is_applied_on_kubernetes(host: Host) -> None:
    objects = await host.start()
    with pytest.raises(UsageError, match="kubectl apply"):
        await objects.apply(schema.PolicyObjects(objects=[DENY]))
    with pytest.raises(UsageError, match="labels are those of pods"):
        await objects.placed("/run/netns/tool", [A], Identity(labels={"app": "web"}))


async def test_the_addresses_that_a_pod_asks_for_are_known(host: Host) -> None:
    wanted = pod("web", app="web")
    wanted["metadata"]["annotations"] = {WANTED: "10.32.0.77"}
    await host.put(wanted)
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    assert objects.requested_addresses("x/web", "u1") == "10.32.0.77"
    assert objects.requested_addresses("x/web", "u0") is None
    assert objects.requested_addresses("x/other", "") is None


async def test_what_is_on_disk_does_not_come_between_the_kernel_and_the_server(host: Host) -> None:
    """A router that is killed leaves a file that is older than the packet filter."""
    await host.put(pod("web", app="web"))
    objects = await host.start()
    await objects.placed("cni:web", [A], None, WEB)
    await until(host.file.exists)
    old = host.file.read_bytes()
    await host.put(DENY)
    await until(lambda: f"{A} : jump" in host.tables())
    await host.stop()
    host.file.write_bytes(old)
    await host.start(attachment("cni:web", A, pod="x/web", uid="u1"))

    def is_known() -> bool:
        assert f"{A} : jump" in host.tables()
        return not host.policies.is_partial

    await until(is_known)
    assert is_known()
