"""docker/weavepy.yaml as objects, and the same objects for a cluster that has no image of ours."""

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "docker/weavepy.yaml"

Object = dict[str, Any]

ACCOUNT: Object = {
    "name": "account",
    "projected": {
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
            {"configMap": {"name": "kube-root-ca.crt"}},
        ]
    },
}
"""What kubelet puts at the usual place, where a chroot hides it: token and certificate."""


def objects() -> list[Object]:
    return [found for found in yaml.safe_load_all(MANIFEST.read_text()) if found]


def of_kind(kind: str, among: list[Object] | None = None) -> list[Object]:
    return [found for found in among or objects() if found["kind"] == kind]


def from_host(image: str, program: Path, pods: str) -> list[Object]:
    """The router out of this checkout, by chroot to the node: same objects, rights and probes, but
    for the image, the chroot (SYS_CHROOT, the node's "/") and the node's own processes' numbers."""
    changed = copy.deepcopy(objects())
    (daemon_set,) = of_kind("DaemonSet", changed)
    pod = daemon_set["spec"]["template"]["spec"]
    pod["hostPID"] = True
    pod["volumes"] += [{"name": "host", "hostPath": {"path": "/"}}, ACCOUNT]
    for container in (*pod["initContainers"], *pod["containers"]):
        words = [*container["command"], *container.get("args", [])]
        container["image"] = image
        container["command"] = ["chroot", "/host", str(program)]
        container["args"] = [_on_host(word).replace("10.32.0.0/12", pods) for word in words[1:]]
        capabilities = container["securityContext"]["capabilities"]
        capabilities["add"] = [*capabilities.get("add", []), "SYS_CHROOT", "DAC_OVERRIDE"]
        container["volumeMounts"].append(
            {"name": "host", "mountPath": "/host", "mountPropagation": "HostToContainer"}
        )
    (router,) = pod["containers"]
    mounts = {mount["name"]: mount for mount in router["volumeMounts"]}
    mounts["secret"]["mountPath"] = "/host/run/weavepy-secret"
    router["volumeMounts"].append({"name": "account", "mountPath": "/host/run/weavepy-account"})
    router["args"] += [
        f"--{file}-file=/run/weavepy-account/{name}"
        for file, name in (("token", "token"), ("ca", "ca.crt"))
    ]
    return changed


def _on_host(word: str) -> str:
    """Where the image has the node's folders mounted, the node has them itself."""
    places = {
        "/host/bin": "/opt/cni/bin",
        "/host/conf": "/etc/cni/net.d",
        "/etc/weavepy": "/run/weavepy-secret",
    }
    for there, here in places.items():
        word = word.replace(there, here)
    return word
