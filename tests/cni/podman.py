"""Podman on a host of a lab, with its CNI back end, storage and locks of its own.

Nothing of it is in a mount namespace of its own: Podman binds a container's network namespace below
/run/netns, and the router has to see it there.
"""

import shutil
import subprocess
from pathlib import Path

from tests.cni.host import TIMEOUT_S, PluginHost, absent_programs, has_cgroups
from tests.kube.images import write_image

IMAGE = "localhost/busybox:lab"
NETWORK = "weavepy"

CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
static_dir = "{directory}/static"
tmp_dir = "{directory}/tmp"
volume_path = "{directory}/volumes"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{directory}/bin"]
network_config_dir = "{directory}/conf"
"""

STORAGE = """\
[storage]
driver = "vfs"
graphroot = "{directory}/graph"
runroot = "{directory}/run"
"""

TRUST = '{"default": [{"type": "insecureAcceptAnything"}]}'


def missing() -> str:
    """What Podman needs and this machine has not; empty if it can run."""
    absent = absent_programs("podman", "conmon", "runc", "busybox")
    return ", ".join(absent if has_cgroups() else [*absent, "cgroups"])


class Podman(PluginHost):
    def prepare(self) -> None:
        """Write its configuration, and load an image of one program."""
        self.install("1.0.0", NETWORK)
        for name, text in (("containers.conf", CONTAINERS), ("storage.conf", STORAGE)):
            (self.directory / name).write_text(text.format(directory=self.directory))
        trust, archive = self.directory / "policy.json", self.directory / "image.tar"
        trust.write_text(TRUST)
        busybox = shutil.which("busybox")
        assert busybox is not None
        write_image(archive, IMAGE, {"bin/busybox": Path(busybox)}, ["/bin/busybox"])
        self.podman("load", "--signature-policy", str(trust), "--input", str(archive))

    def run(self, name: str, *options: str) -> str:
        """Start a container that does nothing; return its address as Podman tells it."""
        where = ("--network", NETWORK, "--cgroup-parent", f"/{self.space}")
        self.podman("run", "--detach", "--name", name, *where, *options, IMAGE, "sleep", "3600")
        shown = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
        return self.podman("inspect", "--format", shown, name).stdout.strip()

    def podman(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.nsenter(), "podman", *command],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=self.environment()
            | {
                "CONTAINERS_CONF": str(self.directory / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
            },
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def stop(self) -> None:
        self.podman("rm", "--all", "--force", "--time", "0", check=False)
        self.remove_groups()
