"""weavepy on a cluster: the image of this checkout, and the manifest as it stands."""

import json
import secrets
from pathlib import Path
from typing import Any

from tests.kube.cluster import TOOLS, Cluster, condition
from tests.kube.manifest import MANIFEST, ROOT
from tests.kube.places import wait_for

PROGRAM = ROOT / ".venv/bin/weavepy"
NAMESPACE = "kube-system"


def install(cluster: Cluster, image: Path) -> None:
    """Apply the secret and the manifest, and wait until all nodes are Ready."""
    cluster.load_image(image)
    secret = secrets.token_hex(32)
    cluster.kubectl(
        *("-n", NAMESPACE, "create", "secret", "generic", "weavepy"),
        f"--from-literal=secret={secret}",
    )
    cluster.kubectl("apply", "-f", str(MANIFEST))
    cluster.wait_ready()
    wait_for("the routers are ready", lambda: len(ready_routers(cluster)) == len(cluster.nodes), 90)


def ready_routers(cluster: Cluster) -> list[str]:
    """Return the nodes on which the router's pod is Ready."""
    found = cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=weavepy")
    return [pod["spec"]["nodeName"] for pod in found["items"] if condition(pod, "Ready") == "True"]


def weavepy(cluster: Cluster, node: str, *arguments: str) -> str:
    """Run a command on a node, as its administrator would."""
    return cluster.nodes[node].run(str(PROGRAM), *arguments)


def status(cluster: Cluster, node: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(weavepy(cluster, node, "status", "--json"))
    return found


def pod(name: str, node: str = "", *command: str, labels: dict[str, str] | None = None) -> Any:
    """A pod of the tools' image: agnhost's web server on port 8080, or a command."""
    container = {
        "name": "main",
        "image": TOOLS,
        "command": [*(command or ("/usr/bin/agnhost", "netexec", "--http-port=8080"))],
    }
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 0}
    spec |= {"tolerations": [{"operator": "Exists"}], "automountServiceAccountToken": False}
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels or {"app": name}},
        "spec": spec,
    }


def service(name: str, selector: dict[str, str], kind: str = "ClusterIP") -> Any:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": kind, "selector": selector, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def start_pods(cluster: Cluster, *wanted: Any) -> dict[str, str]:
    """Apply pods, wait until they run, and return their addresses by name."""
    cluster.apply(*wanted)
    names = [one["metadata"]["name"] for one in wanted]
    for name in names:
        wait_for(f"pod {name} is Ready", lambda name=name: is_ready(cluster, name), 90)
    return {name: cluster.get("pod", name)["status"]["podIP"] for name in names}


def is_ready(cluster: Cluster, name: str) -> bool:
    return condition(cluster.get("pod", name), "Ready") == "True"


def fetch(cluster: Cluster, pod_name: str, url: str) -> str:
    """Ask for a page from inside a pod. busybox's own limit of time crashes in Debian 12."""
    return cluster.kubectl("exec", pod_name, "--", "timeout", "5", "wget", "-qO-", url)
