"""A container of the manifest, run by runc alone: rights, mounts and command are what it says.

For machines without Kubernetes. What kubelet and containerd would make of a DaemonSet's pod with
the host's network is made here, in the network namespace of a test; paths of the host are below a
folder of the test, but for those that are the kernel's.
"""

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tests.kube.manifest import Object, daemon_set

KERNELS = ("/proc/", "/dev/")


def unpack(archive: Path, folder: Path) -> dict[str, str]:
    """The layers of an image onto each other; returns its environment."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> Any:
            found = tar.extractfile(name)
            assert found is not None
            return json.load(found)

        (listed,) = read("manifest.json")
        for layer in listed["Layers"]:
            tar.extract(layer, folder.parent, filter="data")
            folder.mkdir(exist_ok=True)
            subprocess.run(["tar", "-C", folder, "-xf", folder.parent / layer], check=True)
        return dict(pair.split("=", 1) for pair in read(listed["Config"])["config"]["Env"])


class Container:
    """`name` of the manifest, with `more` arguments. `start` it, and `close` whatever happened."""

    def __init__(
        self,
        name: str,
        in_set: str,
        *,
        rootfs: Path,
        environment: dict[str, str],
        host: Path,
        namespace: Path,
        more: tuple[str, ...] = (),
    ) -> None:
        self._pod = daemon_set(in_set)["spec"]["template"]["spec"]
        every = (*self._pod.get("initContainers", []), *self._pod["containers"])
        (self._made,) = [one for one in every if one["name"] == name]
        self._host = host
        self.folder = host / f"{in_set}-{name}"
        self.log = self.folder / "log"
        self._id = f"weavepy-t-{os.getpid()}-{host.name}-{name}"
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(parents=True)
        spec = self._spec(rootfs, environment, namespace, more)
        (self.folder / "config.json").write_text(json.dumps(spec))

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["runc", "run", "--bundle", self.folder, self._id],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(self) -> None:
        """Start it, and wait for its end."""
        self.start()
        assert self._process is not None
        assert self._process.wait(timeout=30) == 0, self.log.read_text()

    def ends_well(self, command: list[str]) -> bool:
        """Run something in it, as kubelet does for a probe."""
        done = subprocess.run(
            ["runc", "exec", self._id, *command], check=False, capture_output=True, timeout=20
        )
        return done.returncode == 0

    def close(self) -> None:
        subprocess.run(["runc", "delete", "--force", self._id], check=False, capture_output=True)
        if self._process is not None:
            self._process.wait(timeout=10)

    def _spec(
        self, rootfs: Path, environment: dict[str, str], namespace: Path, more: tuple[str, ...]
    ) -> Object:
        context = self._made["securityContext"]
        assert not context.get("privileged")
        assert context["capabilities"]["drop"] == ["ALL"]
        rights = [f"CAP_{name}" for name in context["capabilities"].get("add", [])]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": [*self._made["command"], *self._made.get("args", []), *more],
                "env": [f"{key}={value}" for key, value in environment.items()],
                "cwd": "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), rights),
                "noNewPrivileges": not context["allowPrivilegeEscalation"],
            },
            "root": {"path": str(rootfs), "readonly": context["readOnlyRootFilesystem"]},
            "hostname": "node",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {
                    "destination": "/sys",
                    "type": "bind",
                    "source": "/sys",
                    "options": ["rbind", "ro"],
                },
                *map(self._mount, self._made["volumeMounts"]),
            ],
            "linux": {
                "cgroupsPath": f"/{self._id}",
                "namespaces": [
                    *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                    {"type": "network", "path": str(namespace)},
                ],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                "readonlyPaths": ["/proc/sys"],
                "rootfsPropagation": "rslave",
            },
        }

    def _mount(self, wanted: Object) -> Object:
        (volume,) = [one for one in self._pod["volumes"] if one["name"] == wanted["name"]]
        path = volume.get("hostPath", {}).get("path", f"/{wanted['name']}")
        source = Path(path) if path.startswith(KERNELS) else self._host / path.lstrip("/")
        if not path.startswith(KERNELS):
            source.mkdir(parents=True, exist_ok=True)
        options = ["rbind", "ro" if wanted.get("readOnly") else "rw"]
        if wanted.get("mountPropagation") == "HostToContainer":
            options.append("rslave")
        destination = wanted["mountPath"]
        return {
            "destination": destination,
            "type": "bind",
            "source": str(source),
            "options": options,
        }
