"""Network policies on two hosts without Kubernetes: who reaches whom, before and after.

Four containers: nginx and a client in the namespace `shop` on h1, another client of `shop` and one
of `other` on h2. Each demo is a file that is applied on both hosts.
"""

import json
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import MakeLab
from tests.e2e.tunnels import VXLAN, both_ways, wait_for_overlay
from tests.e2e.waiting import wait_for
from tests.policy.reach import Cell, Reach
from weavepy.lab.lab import Lab

PODS = {
    "h1c1": ("shop", "nginx", "app=nginx"),
    "h1c2": ("shop", "client", "app=client"),
    "h2c1": ("shop", "far", "app=client"),
    "h2c2": ("other", "stranger", "app=client"),
}
NGINX_PROGRAM = "/usr/sbin/nginx"
NGINX = """
daemon off; master_process off; pid {0}/pid; error_log {0}/error;
events {{}}
http {{
    access_log off;
    client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;
    uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;
    server {{ listen 80; listen 8080; location / {{ return 200 "this is nginx\\n"; }} }}
}}
"""
PORTS = (80, 8080)
EVERYBODY, SHOUTED = "10.47.255.255", 9999
Table = set[tuple[str, str, int]]
"""From, to, port."""


def a_policy(name: str, selector: dict[str, str], **spec: Any) -> str:
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"podSelector": {"matchLabels": selector}, **spec},
    }
    return str(yaml.safe_dump(document))


DENY_ALL = a_policy("deny", {}, policyTypes=["Ingress"])
DENY_BOTH = a_policy("deny-both", {}, policyTypes=["Ingress", "Egress"])
ALLOW_ALL = a_policy("allow", {}, policyTypes=["Ingress", "Egress"], ingress=[{}], egress=[{}])
NGINX_FOR_ALL = a_policy("nginx", {"app": "nginx"}, ingress=[{}])
NGINX_PORT = a_policy(
    "nginx-port",
    {"app": "nginx"},
    ingress=[
        {
            "from": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}
            ],
            "ports": [{"port": 80}],
        }
    ],
)


class Shop:
    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self._directory = directory
        self.reach = Reach([lab.namespace(name) for name in PODS if name != "h1c1"], PORTS)
        self._addresses = {name: lab.address(name) for name in PODS}

    def apply(self, *texts: str) -> None:
        self._both("apply", "---\n".join(texts))

    def delete(self, *texts: str) -> None:
        self._both("delete", "---\n".join(texts))

    def _both(self, what: str, text: str) -> None:
        file = self._directory / "objects.yaml"
        file.write_text(text)
        for host in ("h1", "h2"):
            said = self.lab.exec(host, ["weavepy", "policy", what, "-f", str(file)])
            assert said.returncode == 0, said.stderr

    def everything(self) -> Table:
        return {(one, to, port) for one in PODS for to in PODS for port in PORTS if one != to}

    def check(self, expected: Table) -> None:
        """Packets, and what `explain` says about them on both hosts."""
        cells = {
            Cell(self.lab.namespace(one), self._addresses[to], "TCP", port): (one, to, port)
            for one, to, port in self.everything()
        }
        wanted = {cell for cell, key in cells.items() if key in expected}
        got = {cells[cell] for cell in self.reach.table(cells, wanted)}
        assert got == expected
        for host in ("h1", "h2"):
            for port in PORTS:
                assert self._matrix(host, port) == {
                    (one, to, which) for one, to, which in expected if which == port
                }

    def _matrix(self, host: str, port: int) -> Table:
        said = self.lab.exec(
            host, ["weavepy", "policy", "matrix", "--json", "--port", f"{port}/tcp"]
        )
        answer = json.loads(said.stdout)
        names = [self._container(pod) for pod in answer["pods"]]
        return {
            (one, to, port)
            for one, row in zip(names, answer["allowed"], strict=True)
            for to, passes in zip(names, row, strict=True)
            if passes and one != to
        }

    def _container(self, pod: str) -> str:
        plain = pod.partition("@")[0]
        return next(name for name, (space, own, _) in PODS.items() if plain == f"{space}/{own}")

    def hear(self, source: str, expected: set[str]) -> set[str]:
        """Who gets a datagram that goes to everybody; those who should are waited for."""
        ears = {
            self.lab.inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)): name
            for name in PODS
            if name != source
        }
        heard: set[str] = set()
        with self.lab.inside(
            source, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ) as mouth:
            for ear in ears:
                ear.bind(("", SHOUTED))
            mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            mouth.sendto(b"all", (EVERYBODY, SHOUTED))
            while ready := select.select([*ears], [], [], 0.6 if heard >= expected else 5)[0]:
                heard |= {ears[ear] for ear in ready if ear.recv(10)}
        for ear in ears:
            ear.close()
        return heard

    def get(self, source: str) -> str:
        """The page, as a client in that container reads it."""
        client = self.lab.inside(source, lambda: socket.socket())
        with client:
            client.settimeout(5)
            client.connect((self._addresses["h1c1"], 80))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            parts = b""
            while part := client.recv(1000):
                parts += part
        return parts.decode()


@contextmanager
def shop(lab: Lab, directory: Path) -> Iterator[Shop]:
    for container, (space, name, label) in PODS.items():
        host = container[:2]
        argv = ["weavepy", "attach", "--namespace", space, "--name", name, "--label", label]
        said = lab.exec(host, [*argv, lab.namespace(container)])
        assert said.returncode == 0, said.stderr
    wait_for(
        lambda: [len(lab.api(host).policy().pods) for host in ("h1", "h2")],
        lambda counts: counts == [4, 4],
        10,
    )
    if not Path(NGINX_PROGRAM).exists():
        pytest.skip("needs nginx: script/bootstrap --tests installs it")
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(directory))
    command, environment = lab.command("h1c1", [NGINX_PROGRAM, "-c", str(configuration)])
    nginx = subprocess.Popen(command, env=environment)
    made = Shop(lab, directory)
    try:
        wait_for(lambda: _serves(made), lambda serves: serves, 10)
        yield made
    finally:
        made.reach.close()
        nginx.kill()
        nginx.wait()


def _serves(made: Shop) -> bool:
    try:
        return "this is nginx" in made.get("h2c1")
    except OSError:
        return False


@pytest.mark.parametrize("options", [[], VXLAN], ids=["sleeve", "fastdp"])
def test_the_five_demos(make_lab: MakeLab, tmp_path: Path, options: list[str]) -> None:
    lab = make_lab(hosts=2, containers=2, launch_options=options)
    wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp" if options else "sleeve")
    with shop(lab, tmp_path) as demo:
        everything = demo.everything()
        assert demo.hear("h2c2", {"h1c1", "h1c2", "h2c1"}) == {"h1c1", "h1c2", "h2c1"}
        out_of_shop = {key for key in everything if key[1] == "h2c2"}
        demo.check(everything)

        demo.apply(DENY_ALL)
        demo.check(out_of_shop)
        assert demo.hear("h1c2", {"h2c2"}) == {"h2c2"}
        assert demo.hear("h2c2", set()) == set()
        demo.apply(DENY_BOTH)
        demo.check(set())
        demo.apply(ALLOW_ALL)
        demo.check(everything)
        demo.delete(ALLOW_ALL, DENY_BOTH)

        demo.apply(NGINX_FOR_ALL)
        demo.check(out_of_shop | {key for key in everything if key[1] == "h1c1"})
        assert "200 OK" in demo.get("h2c2")
        assert demo.hear("h2c2", {"h1c1"}) == {"h1c1"}
        demo.delete(NGINX_FOR_ALL)

        demo.apply(NGINX_PORT)
        demo.check(out_of_shop | {("h2c2", "h1c1", 80)})
        assert "this is nginx" in demo.get("h2c2")
        demo.delete(DENY_ALL, NGINX_PORT)
        demo.check(everything)
        for host in ("h1", "h2"):
            assert "weavepy_policy" not in lab.exec(host, ["nft", "list", "ruleset"]).stdout
