"""NetworkPolicy objects of a real API server, with real pods on two nodes."""

from collections.abc import Iterator

import pytest

from tests.kube.cluster import TOOLS, UNDERLAY, Cluster
from tests.kube.installed import pod, service, weavepy
from tests.kube.places import wait_for
from tests.kube.shop import Document, Shop, idle_pod, namespaced, network_policy

DENY = network_policy("deny", policyTypes=["Ingress"])
DENY_BOTH = network_policy("deny-both", policyTypes=["Ingress", "Egress"])
ALLOW = network_policy("allow", policyTypes=["Ingress", "Egress"], ingress=[{}], egress=[{}])
WEB_FOR_ALL = network_policy("web", {"app": "web"}, ingress=[{}])
OTHERS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}
WEB_PORT = network_policy(
    "web-port", {"app": "web"}, ingress=[{"from": [OTHERS], "ports": [{"port": 80}]}]
)
FROM_CLIENTS = network_policy(
    "clients",
    {"app": "web"},
    ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}],
)


@pytest.fixture(scope="module")
def shop(cluster: Cluster) -> Iterator[Shop]:
    made = Shop(cluster)
    try:
        made.start()
        yield made
    finally:
        made.reach.close()
        cluster.kubectl("delete", "namespace", "shop", "other", "--wait=false")


@pytest.fixture(autouse=True)
def no_policies(shop: Shop) -> Iterator[None]:
    """What a test that failed has left must not fail the next."""
    yield
    shop.cluster.kubectl("-n", "shop", "delete", "networkpolicy", "--all", "--wait=false")


@pytest.mark.timeout(480)
def test_the_five_demos(shop: Shop) -> None:
    everything, stranger = shop.everything(), shop.to("other/stranger")
    shop.check(everything)
    shop.cluster.apply(DENY)
    shop.check(stranger)
    shop.cluster.apply(DENY_BOTH)
    shop.check(set())
    shop.cluster.apply(ALLOW)
    shop.check(everything)
    shop.delete(ALLOW, DENY_BOTH)

    shop.cluster.apply(WEB_FOR_ALL)
    shop.check(stranger | shop.to("shop/web"))
    shop.delete(WEB_FOR_ALL)

    shop.cluster.apply(WEB_PORT)
    shop.check(stranger | {("other/stranger", "shop/web", 80)})
    shop.delete(DENY, WEB_PORT)
    shop.check(everything)


@pytest.mark.timeout(480)
@pytest.mark.checklist(27)
def test_labels_of_pods_and_namespaces_count_as_they_are_now(shop: Shop) -> None:
    kubectl = shop.cluster.kubectl
    client, web = "shop/client", shop.addresses["shop/web"]
    with shop.having(FROM_CLIENTS):
        shop.connects(client, web, 80)
        kubectl("-n", "shop", "label", "pod", "client", "app=former", "--overwrite")
        shop.connects(client, web, 80, expected=False)
        shop.connects("shop/far", web, 80)
        kubectl("-n", "shop", "label", "pod", "client", "app=client", "--overwrite")
        shop.connects(client, web, 80)
    team = {"namespaceSelector": {"matchLabels": {"team": "a"}}}
    with shop.having(network_policy("team", {"app": "web"}, ingress=[{"from": [team]}])):
        shop.connects("other/stranger", web, 80, expected=False)
        kubectl("label", "namespace", "other", "team=a")
        shop.connects("other/stranger", web, 80)
        shop.connects(client, web, 80, expected=False)


def runs_once(key: str, node: str, command: str) -> Document:
    one = namespaced(key, idle_pod(key, node, {"app": "client"}))
    one["spec"]["restartPolicy"] = "Never"
    one["spec"]["containers"] = [
        {"name": "main", "image": TOOLS, "command": ["/bin/sh", "-c", command]}
    ]
    return one


def ended(shop: Shop, key: str) -> str:
    found: list[str] = []

    def is_over() -> bool:
        found[:] = [shop.get(key)["status"]["phase"]]
        return found[0] in ("Succeeded", "Failed")

    wait_for(f"{key} has ended", is_over, 60)
    return found[0]


@pytest.mark.checklist(25)
def test_a_pod_is_isolated_before_its_first_program_runs(shop: Shop) -> None:
    """Its program calls at once and again and again; once through, and the pod has failed."""
    calls = "agnhost connect --timeout=200ms {}:80"
    tries = f"i=0; while [ $i -lt 10 ]; do {calls} && exit 1; i=$((i+1)); done; exit 0"
    egress = network_policy("nobody-out", {"app": "client"}, policyTypes=["Egress"])
    with shop.having(egress):
        shop.connects("shop/client", shop.addresses["other/stranger"], 80, expected=False)
        keys = [f"shop/early-{number}" for number in range(4)]
        command = tries.format(shop.addresses["other/stranger"])
        pods = [runs_once(key, f"n{1 + at % 2}", command) for at, key in enumerate(keys)]
        shop.cluster.apply(*pods)
        assert [ended(shop, key) for key in keys] == ["Succeeded"] * 4
        shop.delete(*pods)


def in_sets(shop: Shop, node: str) -> list[str]:
    """All words of the table."""
    table = ("list", "table", "inet", "weavepy_policy")
    return shop.cluster.nodes[node].run("nft", *table).replace(",", " ").split()


@pytest.mark.checklist(26)
def test_the_address_of_a_pod_that_has_ended_is_in_no_set(shop: Shop) -> None:
    with shop.having(FROM_CLIENTS):
        short = runs_once("shop/short", "n2", "sleep 4")
        shop.cluster.apply(short)
        found: list[str] = []

        def has_come() -> bool:
            found[:] = [shop.get("shop/short")["status"].get("podIP", "")]
            return bool(found[0]) and found[0] in in_sets(shop, "n1")

        wait_for("it is a peer", has_come, 30)
        assert ended(shop, "shop/short") == "Succeeded"
        wait_for("it is none any more", lambda: found[0] not in in_sets(shop, "n1"), 5)
        shop.delete(short)


@pytest.mark.checklist(15, 20)
def test_services_and_nodes_are_seen_as_policies_see_them(shop: Shop) -> None:
    cluster, web = shop.cluster, shop.addresses["shop/web"]
    wanted = namespaced("shop/web", service("web", {"app": "web"}, "NodePort"))
    cluster.apply(wanted)
    found = cluster.get("service", "web", "-n", "shop")["spec"]
    address, node_port = found["clusterIP"], found["ports"][0]["nodePort"]
    outside, node = cluster.control.netns, str(cluster.address("n1"))
    shop.connects("other/stranger", address, 80)
    shop.connects("shop/web", address, 80)
    shop.connects(outside, node, node_port)
    with shop.having(DENY):
        shop.connects("other/stranger", address, 80, expected=False)
        shop.connects("shop/web", address, 80, expected=False)
        shop.connects(outside, node, node_port, expected=False)
        shop.connects(cluster.nodes["n1"].netns, web, 80)
        shop.connects(cluster.nodes["n2"].netns, web, 80, expected=False)
        with shop.having(WEB_PORT):  # port 80 of the pod; the Service leads to 8080
            shop.connects("other/stranger", web, 80)
            shop.connects("other/stranger", address, 80, expected=False)
        own = network_policy("own", {"app": "web"}, ingress=[{"from": [{"podSelector": {}}]}])
        with shop.having(own):
            shop.connects("shop/web", address, 80)
            shop.connects("shop/far", address, 80)
            shop.connects("other/stranger", address, 80, expected=False)
        with shop.having(from_outside("web")):
            shop.connects(outside, node, node_port)
    shop.delete(wanted)


def test_a_host_port_leads_to_its_pod_if_policies_let_it(shop: Shop) -> None:
    cluster = shop.cluster
    ported = namespaced("shop/ported", pod("", "n1", labels={"app": "ported"}))
    ported["spec"]["containers"][0]["ports"] = [{"containerPort": 8080, "hostPort": 8097}]
    shop.start_pods(ported)
    outside, node = cluster.control.netns, str(cluster.address("n1"))
    shop.connects(outside, node, 8097)
    with shop.having(DENY):
        shop.connects(outside, node, 8097, expected=False)
        with shop.having(from_outside("ported")):
            shop.connects(outside, node, 8097)
    shop.delete(ported)


def from_outside(app: str) -> Document:
    """What is not on the network has its own address still, when a policy looks at it."""
    block = {"ipBlock": {"cidr": f"{UNDERLAY[1]}/32"}}
    return network_policy(f"outside-{app}", {"app": app}, ingress=[{"from": [block]}])


def router_of(shop: Shop, node: str) -> str:
    """The number of its process, as the node counts."""
    return shop.cluster.nodes[node].run("pgrep", "-of", "weavepy kube", check=False).strip()


def test_a_router_that_restarts_without_the_api_server_has_its_policies(shop: Shop) -> None:
    cluster = shop.cluster
    node = cluster.nodes["n1"]
    with shop.having(DENY):
        shop.check(shop.to("other/stranger"))
        wait_for(
            "it is on disk",
            lambda: '"deny"' in node.run("cat", "/var/lib/weavepy/cluster.json"),
            20,
        )
        node.run("nft", "add table inet cut")
        try:
            node.run("nft", "add chain inet cut out { type filter hook output priority 10; }")
            node.run("nft", "add rule inet cut out tcp dport 6443 drop")
            before = router_of(shop, "n1")
            node.run("kill", "-KILL", before)
            wait_for(
                "another router is there",
                lambda: (
                    router_of(shop, "n1") not in ("", before)
                    and "deny" in weavepy(cluster, "n1", "policy", "status")
                ),
                60,
            )
            shop.check(shop.to("other/stranger"))
            assert "may be old" in weavepy(cluster, "n1", "status")
        finally:
            node.run("nft", "delete table inet cut")
    wait_for(
        "the deletion has come", lambda: "shop/deny" not in weavepy(cluster, "n1", "policy"), 90
    )
    shop.check(shop.everything())
