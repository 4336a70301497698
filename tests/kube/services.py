"""What Services and host ports promise, on a real Kubernetes: who is reached, and who is seen.

The tests are here and run in `test_cluster`, in the process that has the cluster.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.cluster import UNDERLAY, Cluster
from tests.kube.installed import fetch, pod, service, start_pods
from tests.kube.places import wait_for

OUTSIDE = str(UNDERLAY[1])
"""The control plane's machine: on the network of the nodes, and no node."""

IMAGE = "localhost/weavepy:latest"


def get(cluster: Cluster, url: str) -> str:
    """From outside of the cluster."""
    return cluster.control.run("curl", "-sm3", url)


def host_of(client: str) -> str:
    return client.rpartition(":")[0].removeprefix("[").removesuffix("]").removeprefix("::ffff:")


def node_port(cluster: Cluster, name: str) -> int:
    port: int = cluster.get("service", name)["spec"]["ports"][0]["nodePort"]
    return port


class Services:
    @pytest.fixture(scope="class")
    @classmethod
    def shop(cls, cluster: Cluster) -> Iterator[dict[str, str]]:
        """One web server, on n2; returns the addresses of its Services, and its own as "pod"."""
        found = start_pods(cluster, pod("shop", "n2", labels={"app": "shop"}))
        local = service("shop-local", {"app": "shop"}, "NodePort")
        local["spec"]["externalTrafficPolicy"] = "Local"
        cluster.apply(
            service("shop", {"app": "shop"}),
            service("shop-anywhere", {"app": "shop"}, "NodePort"),
            local,
        )
        yield {
            "pod": found["shop"],
            "cluster": f"http://{cluster.get('service', 'shop')['spec']['clusterIP']}",
            "anywhere": str(node_port(cluster, "shop-anywhere")),
            "local": str(node_port(cluster, "shop-local")),
        }
        cluster.kubectl("delete", "service", "shop", "shop-anywhere", "shop-local")
        cluster.kubectl("delete", "pod", "shop", "--wait=false")

    def test_a_pod_behind_a_service_sees_which_pod_asks(
        self, cluster: Cluster, shop: dict[str, str], web: dict[str, str]
    ) -> None:
        for name in web:
            wait_for(
                f"{name} is served, and seen",
                lambda name=name: (
                    host_of(fetch(cluster, name, f"{shop['cluster']}/clientip")) == web[name]
                ),
                20,
            )

    def test_a_service_serves_the_pod_that_is_behind_it_and_the_nodes(
        self, cluster: Cluster, shop: dict[str, str]
    ) -> None:
        assert fetch(cluster, "shop", f"{shop['cluster']}/hostname") == "shop"
        for node in cluster.nodes.values():
            assert node.run("curl", "-sm3", f"{shop['cluster']}/hostname") == "shop"

    def test_a_node_port_leads_from_every_node_to_the_pod(
        self, cluster: Cluster, shop: dict[str, str]
    ) -> None:
        for node in cluster.nodes:
            url = f"http://{cluster.address(node)}:{shop['anywhere']}/hostname"
            wait_for(f"{node} leads there", lambda url=url: get(cluster, url) == "shop", 20)

    def test_with_the_traffic_policy_local_the_pod_sees_the_client_from_outside(
        self, cluster: Cluster, shop: dict[str, str]
    ) -> None:
        url = f"http://{cluster.address('n2')}:{shop['local']}/clientip"
        wait_for("it is served", lambda: get(cluster, url), 20)
        seen = host_of(get(cluster, url))
        assert seen == OUTSIDE
        with pytest.raises(RuntimeError):
            get(cluster, f"http://{cluster.address('n1')}:{shop['local']}/clientip")

    def test_a_host_port_leads_to_its_pod_which_sees_the_client(
        self, cluster: Cluster, web: dict[str, str]
    ) -> None:
        wanted = pod("ported", "n3")
        ports = [{"containerPort": 8080, "hostPort": 8099}]
        wanted["spec"]["containers"][0]["ports"] = ports
        start_pods(cluster, wanted)
        url = f"http://{cluster.address('n3')}:8099"
        assert cluster.nodes["n1"].run("curl", "-sm5", f"{url}/hostname") == "ported"
        seen = host_of(get(cluster, f"{url}/clientip"))
        assert seen == OUTSIDE
        assert fetch(cluster, "web-n3", f"{url}/hostname") == "ported", "by a pod of the same node"
        assert fetch(cluster, "ported", f"{url}/hostname") == "ported", "by itself"
        cluster.kubectl("delete", "pod", "ported", "--wait=false")

    def test_what_pods_send_beyond_the_network_comes_from_their_node(
        self, cluster: Cluster, web: dict[str, str]
    ) -> None:
        cluster.control.start(
            "outside", "agnhost", "netexec", "--http-port=8090", "--udp-port=8091"
        )
        try:
            url = f"http://{OUTSIDE}:8090/clientip"
            wait_for("it listens", lambda: get(cluster, url), 20)
            for node in cluster.nodes:
                seen = host_of(fetch(cluster, f"web-{node}", url))
                assert seen == str(cluster.address(node))
        finally:
            cluster.control.stop("outside")

    def test_names_are_resolved_by_a_server_in_a_pod_behind_its_service(
        self, cluster: Cluster, shop: dict[str, str]
    ) -> None:
        script = Path(__file__).with_name("dns.py").read_text()
        name = "shop.default.svc.cluster.local"
        record = f"{name}={shop['cluster'].removeprefix('http://')}"
        server = pod("dns", "n3", "/usr/bin/python3", "-c", script, record)
        server["spec"]["containers"][0] |= {"image": IMAGE, "imagePullPolicy": "IfNotPresent"}
        kube_dns = service("kube-dns", {"app": "dns"})
        kube_dns["spec"]["ports"] = [{"port": 53, "protocol": "UDP", "targetPort": 53}]
        cluster.apply(kube_dns)
        address = cluster.get("service", "kube-dns")["spec"]["clusterIP"]
        askers = [pod(f"asker-{node}", node, "/bin/sleep", "600") for node in cluster.nodes]
        for asker in askers:
            asker["spec"] |= {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": [address],
                    "searches": ["default.svc.cluster.local"],
                    "options": [{"name": "ndots", "value": "5"}],
                },
            }
        start_pods(cluster, server, *askers)
        for node in cluster.nodes:
            wait_for(
                f"a pod of {node} finds the shop by name",
                lambda node=node: fetch(cluster, f"asker-{node}", "http://shop/hostname") == "shop",
                20,
            )
        names = [f"asker-{node}" for node in cluster.nodes]
        cluster.kubectl("delete", "service", "kube-dns")
        cluster.kubectl("delete", "pod", "dns", *names, "--wait=false")
