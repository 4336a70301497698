"""What the packet filter takes of a process that does nothing else: CAP_NET_ADMIN."""

import shutil
import subprocess
import sys

import pytest

from tests.namespaces import Namespaces, can_make_namespaces, inside

pytestmark = pytest.mark.root

NET_ADMIN = 12
PROGRAM = """
from ipaddress import ip_interface
from random import Random
from policy.shell import script
from policy.shell.filter import PolicyFilter
from tests.policy.interpreter import policies_of
from tests.policy.objects import pod, policy
from weavepy.kernel.nflog import PacketLog

capabilities = next(line for line in open("/proc/self/status") if line.startswith("CapEff"))
world = [pod("a", "10.1.0.1"), policy("deny", policyTypes=["Ingress", "Egress"])]
policies = policies_of(world, lambda pod: True)
made = PolicyFilter("weave", Random(1), ports=lambda: {"pod1": [ip_interface("10.1.0.1/16")]})
log, watch = PacketLog(script.LOG_GROUP), made.watch()
assert made.restore(policies.table)
made.place("pod2", [ip_interface("10.1.0.2/16")])
assert not made.restore(policies.table)
assert not watch.read()
print(capabilities.split()[1], made.counts().rules > 40)
made.close()
"""


def test_one_capability_is_enough() -> None:
    setpriv = shutil.which("setpriv")
    if not can_make_namespaces() or setpriv is None:
        pytest.skip("needs root and setpriv (util-linux)")
    world = Namespaces()
    try:
        host = world.add("host")
        inside(host, "ip", "link", "add", "weave", "type", "bridge")
        sets = ["--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin"]
        done = subprocess.run(
            ["ip", "netns", "exec", host.name, setpriv, *sets, sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        capabilities, counted = done.stdout.split()
        assert int(capabilities, 16) == 1 << NET_ADMIN
        assert counted == "True"
        assert "10.1.0.1" in inside(host, "nft", "list", "table", "inet", "weavepy_policy")
        bridge = inside(host, "ip", "-d", "link", "show", "weave")
        assert "nf_call_iptables 1" in bridge
    finally:
        world.remove()
