"""A host of a lab as a containerd node: its own containerd, plugin directory and configuration.

containerd runs in the host's network namespace but not in a PID namespace of its own, as `ctr`
names a container's namespace by its PID, and the router has to find it.
"""

import shutil
import subprocess
import time
from pathlib import Path

from tests.cni.host import PLUGINS, TIMEOUT_S, PluginHost, absent_programs, has_cgroups
from tests.e2e.waiting import wait_for
from weavepy.lab.lab import Lab

CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
oom_score = 0
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{directory}/containerd.sock"
"""


def missing() -> str:
    """What containerd needs and this machine has not; empty if it can run."""
    absent = absent_programs("containerd", "ctr", "runc", "busybox")
    absent += [str(PLUGINS / name) for name in ("portmap",) if not (PLUGINS / name).exists()]
    if not has_cgroups():
        absent.append("cgroups")
    return ", ".join(absent)


class Node(PluginHost):
    def __init__(self, lab: Lab, host: str, directory: Path) -> None:
        super().__init__(lab, host, directory)
        self._containerd: subprocess.Popen[bytes] | None = None
        self._runs: dict[str, subprocess.Popen[bytes]] = {}

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        self._make_root()
        config = self.directory / "config.toml"
        config.write_text(CONFIG.format(directory=self.directory))
        log = (self.directory / "containerd.log").open("wb")
        self._containerd = subprocess.Popen(
            [*self.nsenter(), "containerd", "--config", str(config)],
            stdout=log,
            stderr=log,
            env=self.environment(),
        )
        wait_for(lambda: self._ctr("version", check=False), succeeded, TIMEOUT_S)

    def stop(self) -> None:
        for identifier in list(self._runs):
            self.end(identifier)
        if self._containerd is not None:
            self._containerd.terminate()
            self._containerd.wait(TIMEOUT_S)
        self.remove_groups()

    # --- containers ------------------------------------------------------------------------------

    def run(self, identifier: str, *options: str) -> None:
        """Start a container that does nothing; its network is there when this returns."""
        command = ["run", "--rm", "--cni", *options, "--rootfs", str(self.directory / "rootfs")]
        log = (self.directory / f"run-{identifier}.log").open("wb")
        process = subprocess.Popen(
            self._command(*command, identifier, "/bin/busybox", "sleep", "3600"),
            stdout=log,
            stderr=log,
            env=self.environment(),
        )
        self._runs[identifier] = process
        wait_for(lambda: process.poll() is not None or self.address(identifier), bool, TIMEOUT_S)
        assert process.poll() is None, self.log(identifier)
        assert self.log(identifier) == ""

    def address(self, identifier: str) -> str:
        """Without the length; empty if it has none."""
        for attachment in self.api.attachments().attachments:
            if identifier in attachment.id.split("/")[1].split("-"):
                return attachment.addresses[0].split("/")[0]
        return ""

    def exec(self, identifier: str, *command: str) -> subprocess.CompletedProcess[str]:
        name = f"e{time.monotonic_ns()}"
        busybox = ("/bin/busybox", *command)
        return self._ctr("task", "exec", "--exec-id", name, identifier, *busybox, check=False)

    def end(self, identifier: str) -> None:
        """Kill it and wait until `ctr` has taken its network away."""
        process = self._runs.pop(identifier)
        self._ctr("task", "kill", "-s", "KILL", identifier, check=False)
        process.wait(TIMEOUT_S)

    def log(self, identifier: str) -> str:
        return (self.directory / f"run-{identifier}.log").read_text(errors="replace")

    # --- helpers ---------------------------------------------------------------------------------

    def _ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._command(*arguments),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=self.environment(),
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def _command(self, *arguments: str) -> list[str]:
        """`ctr` runs the plugins itself and has fixed ideas of where they are."""
        address = str(self.directory / "containerd.sock")
        upper = self.directory / "etc"
        script = (
            f"mount -t overlay overlay -o lowerdir=/etc,upperdir={upper}/up,workdir={upper}/work"
            " /etc && mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni/bin /etc/cni/net.d"
            f" && mount --bind {self.bin_directory} /opt/cni/bin"
            f" && mount --bind {self.conf_directory} /etc/cni/net.d"
            ' && exec ctr "$@"'
        )
        inside = [*self.nsenter(), "unshare", "--mount", "sh", "-c", script, "ctr"]
        return [*inside, "--address", address, "--namespace", self.space, *arguments]

    def _make_root(self) -> None:
        root = self.directory / "rootfs"
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
            (root / name).mkdir(parents=True, exist_ok=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, root / "bin" / "busybox")
        for name in ("up", "work"):
            (self.directory / "etc" / name).mkdir(parents=True, exist_ok=True)


def succeeded(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 0
