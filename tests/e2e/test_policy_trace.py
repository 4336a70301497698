"""What policies drop, as an operator sees it: live, and in the router's log."""

import json
import socket
import subprocess

from tests.e2e.conftest import MakeLab
from tests.e2e.test_policies import DENY_ALL
from tests.e2e.waiting import wait_for

PORT = 9000


def test_a_drop_is_traced_with_names_and_reasons_and_logged_once(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1)
    for host, name in (("h1", "web"), ("h2", "client")):
        argv = ["weavepy", "attach", "--namespace", "shop", "--name", name]
        assert lab.exec(host, [*argv, lab.namespace(f"{host}c1")]).returncode == 0
    file = lab.store.path / "deny.yaml"
    file.write_text(DENY_ALL)
    assert lab.exec("h1", ["weavepy", "policy", "apply", "-f", str(file)]).returncode == 0
    wait_for(lambda: len(lab.api("h1").policy().pods), lambda count: count == 2, 10)
    command, environment = lab.command(
        "h1", ["weavepy", "policy", "trace", "--to", "shop/web", "--count", "2", "--json"]
    )
    tracing = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    gun = lab.inside("h2c1", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    try:
        with gun:

            def fired() -> int | None:
                gun.sendto(b"x", (lab.address("h1c1"), PORT))
                return tracing.poll()

            assert wait_for(fired, lambda status: status is not None, 20) == 0
        assert tracing.stdout is not None
        drop = json.loads(tracing.stdout.readlines()[0])
    finally:
        tracing.kill()
        tracing.wait()
    source, target = lab.address("h2c1"), lab.address("h1c1")
    line = f"shop/client@h2 ({source}) -> shop/web ({target}) {PORT}/udp"
    assert f"{drop['source']} -> {drop['destination']} {drop['service']}" == line
    assert (drop["direction"], drop["place"]) == ("ingress", "new")
    assert drop["policies"] == ["shop/deny"]
    assert drop["why"][-1] == "and no rule allows anything"
    told = f"blocked {line}: ingress of shop/web ({target}), isolated by shop/deny"
    assert sum(told in said for said in lab.last_log_lines()["h1"]) == 1
