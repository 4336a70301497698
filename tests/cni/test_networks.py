"""Addresses that were asked for, several networks, and other plugins before and after ours."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cni.conformance.target import Target
from tests.cni.host import PLUGINS, TIMEOUT_S
from tests.cni.runtime import Runtime
from tests.e2e.waiting import wait_for
from tests.namespaces import run
from weavepy.client import schema
from weavepy.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def runtime(lab_of_two: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    made = Runtime(lab_of_two, "h1", Path(tmp_path_factory.mktemp("plugin")))
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def pod(runtime: Runtime) -> Iterator[str]:
    made = runtime.pod()
    yield made
    runtime.delete(made)
    assert runtime.left() == []


def target(runtime: Runtime, plugin: Path, config: dict[str, Any]) -> Target:
    """Other plugins work in the namespace of the host."""
    path = f"{runtime.plugin.parent}:{PLUGINS}"
    return Target(plugin, {"name": "test", **config}, path, host=runtime.namespace)


@pytest.mark.parametrize(
    ("config", "variables"),
    [
        ({"runtimeConfig": {"ips": ["10.32.5.6/12"]}}, {}),
        ({"args": {"cni": {"ips": ["10.32.5.6"]}}}, {}),
        ({}, {"args": "IP=10.32.5.6;IgnoreUnknown=1"}),
    ],
    ids=["runtimeConfig", "args", "CNI_ARGS"],
)
def test_an_address_can_be_asked_for(
    runtime: Runtime, pod: str, config: dict[str, Any], variables: dict[str, str]
) -> None:
    result = runtime.add(pod, config, **variables)
    assert [ip["address"] for ip in result["ips"]] == ["10.32.5.6/12"]

    other = runtime.pod()
    code, answer = runtime.call("ADD", other, config, **variables)
    assert (code, answer["code"]) == (1, 101), answer
    assert runtime.interfaces(other) == set()


def test_a_mac_can_be_asked_for(runtime: Runtime, pod: str) -> None:
    result = runtime.add(pod, {"runtimeConfig": {"mac": "02:00:00:00:AB:01"}})
    assert result["interfaces"][1]["mac"] == "02:00:00:00:ab:01"
    assert runtime.reaches(pod, result["ips"][0]["gateway"])


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"runtimeConfig": {"ips": ["nonsense"]}}, 7),
        ({"runtimeConfig": {"ips": "10.32.0.9"}}, 7),
        ({"runtimeConfig": {"mac": "01:00:00:00:00:01"}}, 7),
        ({"mtu": 9000}, 7),
        ({"mtu": "large"}, 7),
        ({"ipam": {"subnet": "192.0.2.0/24"}}, 7),
        ({"ipam": {"routes": [{"dst": "everywhere"}]}}, 7),
        ({"ipam": {"ranges": [["10.32.0.0/16"]]}}, 7),
        ({"ipam": []}, 7),
        ({"ipam": {"type": "no-such-plugin"}}, 7),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_left(
    runtime: Runtime, config: dict[str, Any], code: int
) -> None:
    pod = runtime.pod()
    exit_code, answer = runtime.call("ADD", pod, config)
    assert (exit_code, answer["code"]) == (1, code), answer
    assert runtime.interfaces(pod) == set()
    assert [each for each in runtime.left() if "address of" in each] == []


def test_two_networks_have_their_own_subnets_and_gateways(runtime: Runtime, pod: str) -> None:
    blue = {"name": "blue", "ipam": {"subnet": "10.40.1.0/24"}}
    first, second = runtime.add(pod), runtime.add(pod, blue, ifname="eth1")
    assert second["ips"][0]["address"].startswith("10.40.1.")
    assert first["routes"] == [{"dst": "0.0.0.0/0", "gw": first["ips"][0]["gateway"]}]
    assert second["routes"] == [], "the way out is the first network's"
    assert runtime.reaches(pod, second["ips"][0]["gateway"])
    runtime.delete(pod, blue, ifname="eth1")
    assert runtime.interfaces(pod) == {"eth0"}


def test_without_masquerading_the_host_is_still_the_way_out(runtime: Runtime, pod: str) -> None:
    """The other host stands for a machine outside: it is reached by the wire between the two."""
    link = runtime.lab.plan.link("h1", "h2")
    plain = {"name": "plain", "ipMasq": False, "ipam": {"subnet": "10.41.7.0/24"}}
    runtime.add(pod, plain)
    back = ["10.41.7.0/24", "via", link.end_at(1).address]
    run("ip", "-n", runtime.lab.namespace("h2"), "route", "add", *back)
    assert runtime.reaches(pod, link.end_at(2).address)
    run("ip", "-n", runtime.lab.namespace("h2"), "route", "del", *back)
    runtime.delete(pod, plain)


def test_a_filter_that_somebody_removed_is_restored(runtime: Runtime, pod: str) -> None:
    result = runtime.add(pod)
    run("ip", "netns", "exec", runtime.namespace, "nft", "delete", "table", "bridge", "weavepy")
    assert runtime.filtered() == set()
    wait_for(runtime.filtered, lambda seen: seen == runtime.host_interfaces(), TIMEOUT_S)
    assert runtime.call("CHECK", pod, {"prevResult": result}) == (0, {})


def test_a_pod_is_shown_by_name(runtime: Runtime, pod: str) -> None:
    runtime.add(pod, args="K8S_POD_NAMESPACE=shop;IgnoreUnknown=1;K8S_POD_NAME=web-0")
    assert [each.pod for each in runtime.api.attachments().attachments] == ["shop/web-0"]


def test_a_pod_is_isolated_by_what_was_applied_before_it_came(runtime: Runtime, pod: str) -> None:
    other = runtime.pod()
    address = runtime.add(other)["ips"][0]["address"].split("/")[0]
    deny = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "default"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
    }
    runtime.api.policy_apply(schema.PolicyObjects(objects=[deny]))
    try:
        runtime.add(pod)
        assert not runtime.reaches(pod, address)
        assert known(runtime) == {f"{pod}-eth0", f"{other}-eth0"}
    finally:
        runtime.api.policy_delete(schema.PolicyObjects(objects=[deny]))
    assert runtime.reaches(pod, address)
    runtime.delete(other)
    assert known(runtime) == {f"{pod}-eth0"}


def known(runtime: Runtime) -> set[str]:
    """The names of the pods that network policies see."""
    return {each.name for each in runtime.api.policy().pods}


def test_portmap_and_bandwidth_come_after_it(runtime: Runtime, pod: str) -> None:
    variables = {"containerid": pod, "netns": f"/run/netns/{pod}", "ifname": "eth0"}
    ports = [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]
    limits = {"ingressRate": 1_000_000, "ingressBurst": 2_000_000}
    portmap = target(
        runtime, PLUGINS / "portmap", {"type": "portmap", "runtimeConfig": {"portMappings": ports}}
    )
    bandwidth = target(
        runtime,
        PLUGINS / "bandwidth",
        {"type": "bandwidth", "runtimeConfig": {"bandwidth": limits}},
    )
    old = {"cniVersion": "1.0.0"}
    result = runtime.add(pod, old)
    for plugin in (portmap, bandwidth):
        done = plugin.call("ADD", "1.0.0", config={"prevResult": result}, **variables)
        assert done.code == 0, done
        result = done.answer
    assert runtime.call("CHECK", pod, old | {"prevResult": result}) == (0, {})
    for plugin in (bandwidth, portmap):
        done = plugin.call("DEL", "1.0.0", config={"prevResult": result}, **variables)
        assert done.code == 0, done


def test_it_gives_the_addresses_for_another_plugin(runtime: Runtime) -> None:
    pod = runtime.pod()
    where = {key: runtime.config[key] for key in ("runDir", "stateDir")}
    ipam = {"type": "weavepy-ipam", "subnet": "10.41.0.0/16", "gateway": "10.41.0.1"}
    bridge = target(
        runtime, PLUGINS / "bridge", {"type": "bridge", "bridge": "other0", "ipam": ipam, **where}
    )
    variables = {"containerid": pod, "netns": f"/run/netns/{pod}", "ifname": "eth0"}
    result = bridge.call("ADD", "1.0.0", **variables).answer
    [ip] = result["ips"]
    assert ip["address"].startswith("10.41.")
    assert ip["gateway"] == "10.41.0.1"
    owners = {each.address: each.owner for each in runtime.api.addresses().addresses}
    assert owners[ip["address"]] == f"cni-ipam:test/{pod}/eth0"
    assert bridge.call("CHECK", "1.0.0", config={"prevResult": result}, **variables).code == 0

    kept = schema.CniGcRequest(network="test", kind="interface", valid=[])
    assert runtime.api.cni_gc(kept).freed == [], "of interfaces, not of addresses"
    for _ in range(2):
        assert bridge.call("DEL", "1.0.0", **variables).code == 0
    assert runtime.left() == []


def test_another_plugin_gives_it_the_addresses(runtime: Runtime, pod: str, tmp_path: Path) -> None:
    ipam = {
        "type": "host-local",
        "subnet": "10.90.0.0/24",
        "dataDir": str(tmp_path),
        "routes": [{"dst": "198.51.100.0/24"}],
    }
    config = {"cniVersion": "1.0.0", "ipam": ipam}
    result = runtime.add(pod, config)
    assert [ip["address"] for ip in result["ips"]] == ["10.90.0.2/24"]
    assert result["routes"] == [{"dst": "198.51.100.0/24", "gw": "10.90.0.1"}]
    assert runtime.call("CHECK", pod, config | {"prevResult": result}) == (0, {})
    runtime.delete(pod, config)
    leases = [file.name for file in (tmp_path / "test").iterdir() if file.name[0].isdigit()]
    assert leases == []


def test_gc_frees_what_it_can_where_another_plugin_fails(runtime: Runtime, pod: str) -> None:
    runtime.add(pod)
    no_gc = {"ipam": {"type": "host-local"}, "cni.dev/valid-attachments": []}
    code, answer = runtime.call("GC", "", no_gc, containerid="", netns="", ifname="")
    assert (code, answer["code"]) == (1, 100), answer
    assert "host-local" in answer["msg"]
    assert runtime.left() == []


def test_an_add_whose_caller_has_gone_is_undone(runtime: Runtime, lab_of_two: Lab) -> None:
    pod = runtime.pod()
    before = runtime.api.ipam().cooling
    request = {
        "network": "test",
        "container": pod,
        "interface": "eth0",
        "kind": "interface",
        "namespace": f"/run/netns/{pod}",
        "ips": ["10.32.7.7"],
    }
    body = json.dumps(request).encode()
    head = f"POST /v1/cni/add HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    where = lab_of_two.store.directories("h1").api_socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(str(where))
        caller.sendall(head + body)
    wait_for(lambda: runtime.api.ipam().cooling, lambda seen: seen == before + 1, TIMEOUT_S)
    assert runtime.interfaces(pod) == set()
    assert runtime.left() == []


def test_an_add_without_a_free_address_is_to_be_tried_again(runtime: Runtime) -> None:
    tiny = {"name": "tiny", "ipam": {"subnet": "10.32.9.0/30"}}
    pod = runtime.pod()
    runtime.add(pod, tiny)
    code, answer = runtime.call("ADD", runtime.pod(), tiny)
    assert (code, answer["code"]) == (1, 11), answer
    runtime.delete(pod, tiny)
