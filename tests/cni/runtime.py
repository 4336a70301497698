"""A runtime of our own: pods with namespaces, and what is to be seen of them on the host."""

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from router.shell.filters import SETS
from tests.cni.host import PLUGINS, TIMEOUT_S
from tests.cni.programs import install
from tests.e2e.waiting import wait_for
from weavepy.base.errors import WeavepyError
from weavepy.kernel.nftables import set_elements
from weavepy.lab.lab import Lab

NETWORK = "test"
_numbers = itertools.count()


class Runtime:
    """Calls the plugin for one host of a lab, as a container runtime would."""

    def __init__(self, lab: Lab, host: str, directory: Path, form: str = "") -> None:
        self.lab = lab
        self.host = host
        self.api = lab.api(host)
        self.namespace = lab.plan.namespace(lab.plan.node(host))
        self.plugin = install(directory, form)
        self.ipam_plugin = directory / "weavepy-ipam"
        where = lab.store.directories(host)
        self.journal = where.cni_journal
        self.config: dict[str, Any] = {
            "cniVersion": "1.1.0",
            "name": NETWORK,
            "type": "weavepy-cni",
            "runDir": str(where.run),
            "stateDir": str(where.state),
        }
        self._pods: list[str] = []

    # --- pods ------------------------------------------------------------------------------------

    def pod(self) -> str:
        """A namespace, not attached; its name is the container's id as well."""
        name = f"weavepy-p{os.getpid() % 100_000}-{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._pods.append(name)
        return name

    def remove(self) -> None:
        for name in self._pods:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def call(
        self, verb: str, pod: str, config: dict[str, Any] | None = None, **variables: str
    ) -> tuple[int, dict[str, Any]]:
        content = self.config | (config or {})
        given = {"containerid": pod, "netns": f"/run/netns/{pod}", "ifname": "eth0"} | variables
        path = f"{self.plugin.parent}:{PLUGINS}"
        return call(self.plugin, verb, content, **({"path": path} | given))

    def add(self, pod: str, config: dict[str, Any] | None = None, **more: str) -> dict[str, Any]:
        code, result = self.call("ADD", pod, config, **more)
        assert code == 0, result
        return result

    def delete(self, pod: str, config: dict[str, Any] | None = None, **more: str) -> None:
        code, answer = self.call("DEL", pod, config, **more)
        assert (code, answer) == (0, {})

    def gc(self, *valid: str) -> tuple[int, dict[str, Any]]:
        named = [{"containerID": pod, "ifname": "eth0"} for pod in valid]
        return call(self.plugin, "GC", self.config | {"cni.dev/valid-attachments": named})

    # --- the router ------------------------------------------------------------------------------

    def start_router(self) -> None:
        self.lab.router(self.host, "start")
        wait_for(self.answers, bool, TIMEOUT_S)

    def answers(self) -> bool:
        try:
            return self.api.ipam().state in ("ready", "idle")
        except WeavepyError:
            return False

    # --- what is there ---------------------------------------------------------------------------

    def left(self, *but: str) -> list[str]:
        """All traces of pods on this host other than these."""
        expected = {f"cni:{NETWORK}/{pod}/eth0" for pod in but}
        found = [
            f"{kind} {owner}"
            for kind, owners in (
                ("attachment of", [each.id for each in self.api.attachments().attachments]),
                ("address of", [each.owner for each in self.api.addresses().addresses]),
            )
            for owner in owners
            if owner not in expected | {"weave:expose"}
        ]
        interfaces = self.host_interfaces()
        filtered = self.filtered()
        if len(interfaces) != len(expected):
            found.append(f"interfaces {sorted(interfaces)}")
        found += [f"filter of {name}" for name in sorted(filtered - interfaces)]
        found += [f"no filter of {name}" for name in sorted(interfaces - filtered)]
        return found + [finding.text for finding in self.api.check().findings]

    def host_interfaces(self) -> set[str]:
        done = subprocess.run(
            ["ip", "-n", self.namespace, "-j", "link"], capture_output=True, check=True
        )
        names = {link["ifname"] for link in json.loads(done.stdout)}
        return {name for name in names if name.startswith("vethw")}

    def filtered(self) -> set[str]:
        """The interfaces that any set of the filter names."""
        command = ["ip", "netns", "exec", self.namespace, "nft", "-j", "list", "table", "bridge"]
        done = subprocess.run([*command, "weavepy"], capture_output=True)
        objects = json.loads(done.stdout)["nftables"] if done.returncode == 0 else []
        elements = [value for name in SETS for value, _ in set_elements(objects, name)]
        return {value if isinstance(value, str) else value[0] for value in elements}

    def interfaces(self, pod: str) -> set[str]:
        done = subprocess.run(["ip", "-n", pod, "-j", "link"], capture_output=True, check=True)
        return {link["ifname"] for link in json.loads(done.stdout)} - {"lo"}

    def reaches(self, pod: str, address: str) -> bool:
        command = ["ip", "netns", "exec", pod, "ping", "-c", "1", "-W", "5", address]
        return subprocess.run(command, capture_output=True).returncode == 0


def call(
    plugin: Path, verb: str, config: dict[str, Any], **variables: str
) -> tuple[int, dict[str, Any]]:
    """Run a plugin once; return its exit code and what it printed."""
    environment = {"CNI_COMMAND": verb, "CNI_PATH": str(PLUGINS), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [plugin],
        input=json.dumps(config).encode(),
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment | {f"CNI_{name.upper()}": value for name, value in variables.items()},
    )
    answer = json.loads(done.stdout) if done.stdout.strip() else {}
    return done.returncode, answer
