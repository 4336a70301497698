"""Whole routers in Kubernetes mode, with an API server that can be made to misbehave."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.executable import script, write_whole
from tests.cni.runtime import call
from tests.kube.places import wait_for
from tests.kube.routers import Host, Routers, Server
from tests.namespaces import Namespaces, can_make_namespaces
from weavepy.client import schema

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not can_make_namespaces(), reason="needs root: network namespaces"
    ),
]


def has_network(node: dict[str, Any]) -> bool:
    conditions = node["status"]["conditions"]
    return ("NetworkUnavailable", "False") in [(one["type"], one["status"]) for one in conditions]


def registered(server: Server) -> set[str]:
    assert server.api.register is not None
    return {key.partition(".")[0] for key in server.api.register["data"]}


def test_a_node_that_is_deleted_is_reclaimed_and_comes_back_empty(
    hosts: list[Host], server: Server
) -> None:
    first = hosts[0]
    rings = {host.status().ipam.ring_id for host in hosts}
    assert len(rings) == 1, "the register decided on one ring"
    wait_for("no node lacks a network", lambda: all(map(has_network, server.api.nodes.values())))
    owner = next(host for host in hosts if host.peer in first.share())
    others = [host for host in hosts if host is not owner]
    owner.kill()
    wait_for("it is seen to be gone", lambda: len(others[0].status().peers) == 2, 30)
    assert owner.peer in others[0].share(), "its object is there, so nothing is taken"

    server.do(server.api.delete_node(owner.name))
    for host in others:
        wait_for(
            f"{host.name} knows that it is reclaimed",
            lambda host=host: owner.peer not in host.share(),
            10,
        )
        assert sum(host.share().values()) == 256
    taken = "reclaimed" in registered(server)
    assert taken

    server.do(server.api.put_node(owner.name, "u-again", owner.address))
    owner.start()
    wait_for("it is back", owner.is_settled, 60)
    assert "took its addresses over" in " ".join(owner.status().ipam.warnings)
    assert sum(owner.share().values()) == 256
    assert owner.share().get(owner.peer, 0) < 256


def test_without_an_api_server_all_goes_on_and_what_it_says_wrongly_is_not_believed(
    hosts: list[Host], server: Server
) -> None:
    first, second, _ = hosts
    server.stop()
    wait_for("it is missed", lambda: "away" in " ".join(first.status().router.warnings), 30)
    second.kill()
    second.start()
    wait_for("a router that restarts meanwhile has peers and ring", second.is_settled, 60)
    assert second.api.prime(schema.PrimeRequest(timeout_s=20)).state == "ready"

    # It comes back from a backup in which two of the three nodes are not.
    owner = next(host for host in hosts if host.peer in first.share())
    witness = next(host for host in hosts if host is not owner)
    other = next(host for host in hosts if host not in (owner, witness))
    kept = server.api.nodes[witness.name]
    server.api.nodes.clear()
    server.api.nodes[witness.name] = kept
    server.api.forget()
    server.start()
    owner.kill()
    doubt = f"does not know the node {other.name}"
    wait_for("nobody is reclaimed", lambda: doubt in " ".join(witness.status().router.warnings), 90)
    assert owner.peer in witness.share()


@pytest.mark.parametrize("routers", [6], indirect=True)
def test_nodes_that_have_only_ipv6_are_a_mesh_and_give_out_ipv6_addresses(
    hosts: list[Host],
) -> None:
    for host in hosts:
        addresses = [row.address for row in host.status().connections]
        assert sorted(address.startswith("[fd78::") for address in addresses) == [True, True]
        answer = host.api.allocate(schema.AllocateRequest(owner="pod", timeout_s=20))
        assert answer.address.startswith("fd32::")


# --- pods that ask for their addresses -----------------------------------------------------------

Add = Callable[[Host, str], tuple[int, dict[str, Any]]]


@pytest.fixture
def two_hosts(routers: Routers, server: Server) -> list[Host]:
    """On the first pods may ask, on the second they may not."""
    hosts = routers.add_hosts(server.api.url)[:2]
    for host in hosts:
        server.do(server.api.put_node(host.name, f"u-{host.name}", host.address))
    hosts[0].start("--allow-requested-addresses")
    hosts[1].start()
    for host in hosts:
        wait_for(f"{host.name} has peers and a ring", lambda host=host: host.is_settled(2), 60)
    return hosts


@pytest.fixture
def add(tmp_path: Path) -> Iterator[Add]:
    """ADD of the pod of this name in the namespace "shop"."""
    plugin, places = tmp_path / "weavepy-cni", Namespaces()
    write_whole(plugin, script(), 0o755)

    def add(host: Host, name: str) -> tuple[int, dict[str, Any]]:
        where = {"runDir": str(host.where.run), "stateDir": str(host.where.state)}
        config = {"cniVersion": "1.1.0", "name": "weavepy", "type": "weavepy-cni", **where}
        pod = f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID=u-{name}"
        place = str(places.add(name))
        return call(plugin, "ADD", config, containerid=name, netns=place, ifname="eth0", args=pod)

    yield add
    places.remove()


def tell(server: Server, name: str, wanted: str) -> None:
    annotations = {"weavepy.io/addresses": wanted} if wanted else {}
    meta = {"namespace": "shop", "name": name, "uid": f"u-{name}", "annotations": annotations}
    server.do(server.api.put("pods", {"metadata": meta, "spec": {"nodeName": "n1"}}))


def test_pods_get_what_they_ask_for_where_they_may(
    two_hosts: list[Host],
    server: Server,
    add: Add,
) -> None:
    first, second = two_hosts
    for name, wanted in {
        "db": "10.32.0.77",
        "late": "10.32.0.77",
        "two": "10.32.0.80,10.32.0.81",
        "plain": "",
        "outside": "10.33.0.1",
        "elsewhere": "10.32.0.99",
    }.items():
        tell(server, name, wanted)

    code, result = add(first, "db")
    assert (code, [ip["address"] for ip in result["ips"]]) == (0, ["10.32.0.77/24"]), result
    code, result = add(first, "two")
    assert [ip["address"] for ip in result["ips"]] == ["10.32.0.80/24", "10.32.0.81/24"]
    assert add(first, "plain")[0] == 0

    code, error = add(first, "late")
    assert (code, error["code"]) == (1, 101)
    assert "10.32.0.77 is in use by container cni:weavepy/db/eth0 on n1" in error["msg"]
    code, error = add(first, "outside")
    assert (code, error["code"]) == (1, 7)
    assert "shop/outside asks for 10.33.0.1, which is not in the network's subnet" in error["msg"]
    code, error = add(first, "unknown")
    assert (code, error["code"]) == (1, 11)
    assert "has not told of shop/unknown" in error["msg"]

    code, error = add(second, "elsewhere")
    assert (code, error["code"]) == (1, 7)
    assert "--allow-requested-addresses" in error["msg"]
    held = [one.owner for one in second.api.addresses().addresses]
    assert set(held) == {"weave:expose"}, "nothing is left of what was refused"
