"""The doctor's word, held against other sources: the kernel's configuration, the ip program."""

import gzip
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from router.shell import probes
from router.shell.doctor import EXPERIMENTS, Finding, examine
from tests.namespaces import can_make_namespaces, inside, run
from tests.router.shell.conftest import World
from weavepy.kernel.netlink import get_sysctl

KERNEL_OPTIONS = {
    "veth pairs": "CONFIG_VETH",
    "Linux bridge": "CONFIG_BRIDGE",
    "TAP device": "CONFIG_TUN",
    "VXLAN device": "CONFIG_VXLAN",
    "Open vSwitch datapath": "CONFIG_OPENVSWITCH",
    "ESP (IPsec)": "CONFIG_INET_ESP",
    "WireGuard": "CONFIG_WIREGUARD",
    "nftables, bridge family": "CONFIG_NF_TABLES_BRIDGE",
    "nftables, masquerade": "CONFIG_NFT_MASQ",
    "ipset": "CONFIG_IP_SET",
    "tc netem": "CONFIG_NET_SCH_NETEM",
    "tc tbf": "CONFIG_NET_SCH_TBF",
    "TAP queues by container": "CONFIG_BPF_SYSCALL",
    "nftables, storm limit": "CONFIG_NFT_LIMIT",
    "IPv6": "CONFIG_IPV6",
}


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    if not can_make_namespaces():
        pytest.skip("needs root, to try things in a network namespace")
    return {finding.subject: finding for finding in examine()}


@pytest.mark.root
def test_what_it_finds_is_what_the_kernel_was_built_with(findings: dict[str, Finding]) -> None:
    try:
        lines = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode().splitlines()
    except FileNotFoundError:
        pytest.skip("this kernel does not show its configuration")
    if "CONFIG_MODULES=y" in lines:
        pytest.skip("with modules, what is configured may still not be there")

    found = {subject: findings[subject].state == "ok" for subject in KERNEL_OPTIONS}

    assert found == {subject: f"{option}=y" in lines for subject, option in KERNEL_OPTIONS.items()}


@pytest.mark.root
def test_each_missing_thing_says_what_it_costs(findings: dict[str, Finding]) -> None:
    assert {finding.state for finding in findings.values()} <= {"ok", "missing", "warn"}
    for finding in findings.values():
        if finding.state == "missing":
            assert finding.cost, finding
            assert finding.detail, finding


@pytest.mark.root
def test_it_leaves_no_trace(findings: dict[str, Finding]) -> None:
    before = (run("ip", "-o", "link"), len(os.listdir("/proc/self/fd")))

    examine()

    assert (run("ip", "-o", "link"), len(os.listdir("/proc/self/fd"))) == before


def test_it_names_who_uses_a_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]

        found = {finding.subject: finding for finding in examine(port=port)}

    assert found[f"UDP port {port}"].state == "warn"
    assert f"process {os.getpid()} (" in found[f"UDP port {port}"].detail
    assert "--port" in found[f"UDP port {port}"].cost


@pytest.mark.root
def test_the_fast_path_needs_its_port_and_what_the_kernel_can(world: World) -> None:
    free = {it.subject: it for it in world.on_host(examine)}
    inside(world.host, "ip", "link", "add", "wvx002", "type", "vxlan", "id", "1", "dstport", "6784")
    inside(world.host, "ip", "link", "set", "wvx002", "up")
    theirs = {it.subject: it for it in world.on_host(examine)}
    inside(world.host, "ip", "link", "set", "wvx002", "alias", "weavepy weave 00:00:00:00:00:02")
    ours = {it.subject: it for it in world.on_host(examine)}

    port = "UDP port 6784"
    assert [it[port].state for it in (free, theirs, ours)] == ["ok", "warn", "ok"]
    assert "1 tunnel(s), such as wvx002" in ours[port].detail
    for subject in ("VXLAN device", "isolated bridge ports", "nftables, VXLAN network ids"):
        assert free[subject].state == "ok", free[subject]


def test_without_rights_it_says_what_it_could_not_try() -> None:
    script = (
        "from router.shell.doctor import examine\n"
        "for it in examine(): print(it.subject, it.state, it.detail, sep='|')\n"
    )
    command = [sys.executable, "-c", script]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    lines = done.stdout.splitlines()
    rows = {subject: rest for subject, *rest in (line.split("|") for line in lines)}
    assert rows["rights"][0] == "missing"
    assert rows["veth pairs"] == ["warn", "could not be tried: needs root"]
    assert all(it.subject in rows for it in EXPERIMENTS)


def test_an_experiment_that_fails_oddly_is_a_finding_not_a_crash() -> None:
    def broken() -> str:
        raise ValueError("odd")

    def forbidden() -> str:
        raise PermissionError(1, "Operation not permitted")

    assert probes.attempt(broken) == (False, "odd")
    assert probes.attempt(forbidden) == (None, "Operation not permitted")


@pytest.mark.root
@pytest.mark.parametrize(("policy", "state"), [("drop", "warn"), ("accept", "ok")])
def test_a_firewall_that_would_cut_containers_off_is_found(
    world: World, policy: str, state: str
) -> None:
    if get_sysctl("bridge/bridge-nf-call-iptables") is None:
        pytest.skip("this kernel has no br_netfilter")
    inside(world.host, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    chain = f"{{ type filter hook forward priority 0; policy {policy}; }}"
    inside(world.host, "nft", "add table ip filter")
    inside(world.host, "nft", f"add chain ip filter FORWARD {chain}")

    found = {it.subject: it for it in world.on_host(examine)}["br_netfilter"]

    assert found.state == state


@pytest.mark.root
def test_it_names_the_fast_path_and_why_not_a_better_one(findings: dict[str, Finding]) -> None:
    found = findings["fast path (auto)"]
    if findings["Open vSwitch daemon"].state == "ok" == findings["Open vSwitch datapath"].state:
        assert found.detail == "by Open vSwitch's kernel datapath"
    else:
        assert "not by Open vSwitch: " in found.detail
    if findings["VXLAN device"].state == "ok":
        assert found.state == "ok"
