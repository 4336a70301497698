"""A host of a lab as a containerd node: its own containerd, plugin directory and configuration.

containerd runs in the host's network namespace but not in a PID namespace of its own, as `ctr`
names a container's namespace by its PID, and the router has to find it.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cni.conflist import FILE_NAME, conflist
from cni.executable import script, write_whole
from weavepy.lab.lab import Lab

PLUGINS = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")
TIMEOUT_S = 60.0

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
    programs = ("containerd", "ctr", "runc", "busybox")
    absent = [name for name in programs if shutil.which(name) is None]
    absent += [str(PLUGINS / name) for name in ("portmap",) if not (PLUGINS / name).exists()]
    if not (CGROUPS / "memory").is_dir() and not (CGROUPS / "cgroup.controllers").exists():
        absent.append("cgroups")
    return ", ".join(absent)


class Node:
    def __init__(self, lab: Lab, host: str, directory: Path) -> None:
        self.lab = lab
        self.host = host
        self.api = lab.api(host)
        self._directory = directory
        self._namespace = lab.plan.namespace(lab.plan.node(host))
        self._containerd: subprocess.Popen[bytes] | None = None
        self._runs: dict[str, subprocess.Popen[bytes]] = {}
        self._space = f"weavepy-{lab.name}-{host}"
        self.bin_directory = directory / "bin"
        self.conf_directory = directory / "conf"

    # --- life ------------------------------------------------------------------------------------

    def install(self, version: str, chained: Sequence[str] = ()) -> None:
        for name in ("weavepy-cni", "weavepy-ipam"):
            write_whole(self.bin_directory / name, script(), 0o755)
        for plugin in ("loopback", "portmap", "bandwidth", "host-local"):
            link = self.bin_directory / plugin
            if not link.exists():
                link.symlink_to(PLUGINS / plugin)
        content = conflist(
            "test",
            version,
            run_directory=str(self.lab.store.directories(self.host).run),
            state_directory=str(self.lab.store.directories(self.host).state),
            chained=tuple(chained),
        )
        write_whole(self.conf_directory / FILE_NAME, content, 0o644)

    def start(self) -> None:
        self._make_root()
        config = self._directory / "config.toml"
        config.write_text(CONFIG.format(directory=self._directory))
        log = (self._directory / "containerd.log").open("wb")
        self._containerd = subprocess.Popen(
            [*self._nsenter(), "containerd", "--config", str(config)],
            stdout=log,
            stderr=log,
            env=self._environment(),
        )
        wait_until(lambda: self._ctr("version", check=False).returncode == 0, "containerd answers")

    def stop(self) -> None:
        for identifier in list(self._runs):
            self.end(identifier)
        if self._containerd is not None:
            self._containerd.terminate()
            self._containerd.wait(TIMEOUT_S)
        wait_until(self._remove_groups, "no container is left in a control group")

    # --- containers ------------------------------------------------------------------------------

    def run(self, identifier: str, *options: str) -> None:
        """Start a container that does nothing; its network is there when this returns."""
        command = ["run", "--rm", "--cni", *options, "--rootfs", str(self._directory / "rootfs")]
        log = (self._directory / f"run-{identifier}.log").open("wb")
        process = subprocess.Popen(
            self._command(*command, identifier, "/bin/busybox", "sleep", "3600"),
            stdout=log,
            stderr=log,
            env=self._environment(),
        )
        self._runs[identifier] = process
        wait_until(
            lambda: process.poll() is not None or self.address(identifier) != "",
            f"{identifier} has an address",
        )
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
        return (self._directory / f"run-{identifier}.log").read_text(errors="replace")

    # --- helpers ---------------------------------------------------------------------------------

    def _ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._command(*arguments),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=self._environment(),
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def _command(self, *arguments: str) -> list[str]:
        """`ctr` runs the plugins itself and has fixed ideas of where they are."""
        address = str(self._directory / "containerd.sock")
        upper = self._directory / "etc"
        script = (
            f"mount -t overlay overlay -o lowerdir=/etc,upperdir={upper}/up,workdir={upper}/work"
            " /etc && mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni/bin /etc/cni/net.d"
            f" && mount --bind {self.bin_directory} /opt/cni/bin"
            f" && mount --bind {self.conf_directory} /etc/cni/net.d"
            ' && exec ctr "$@"'
        )
        inside = [*self._nsenter(), "unshare", "--mount", "sh", "-c", script, "ctr"]
        return [*inside, "--address", address, "--namespace", self._space, *arguments]

    def _nsenter(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._namespace}"]

    def _environment(self) -> dict[str, str]:
        """Plugins get what `ctr` has, so none of the suite's own."""
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def _remove_groups(self) -> bool:
        """With what is left in them: `ctr` leaves a task that could not be started."""
        for group in CGROUPS.glob(f"*/{self._space}"):
            for file in group.rglob("cgroup.procs"):
                for pid in file.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            for inner in [*sorted(group.rglob("*/"), reverse=True), group]:
                try:
                    inner.rmdir()
                except OSError:
                    return False
        return True

    def _make_root(self) -> None:
        root = self._directory / "rootfs"
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
            (root / name).mkdir(parents=True, exist_ok=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, root / "bin" / "busybox")
        for name in ("up", "work"):
            (self._directory / "etc" / name).mkdir(parents=True, exist_ok=True)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not after {timeout_s:g} s: {what}"
        time.sleep(0.05)


def plugin_environment(verb: str, **variables: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": verb,
        "CNI_PATH": str(PLUGINS),
        "PATH": os.environ.get("PATH", ""),
        **{f"CNI_{name.upper()}": value for name, value in variables.items()},
    }


def call(
    plugin: Path, verb: str, config: dict[str, Any], **variables: str
) -> tuple[int, dict[str, Any]]:
    """Run a plugin once; return its exit code and what it printed."""
    done = subprocess.run(
        [plugin],
        input=json.dumps(config).encode(),
        capture_output=True,
        timeout=TIMEOUT_S,
        env=plugin_environment(verb, **variables),
    )
    answer = json.loads(done.stdout) if done.stdout.strip() else {}
    return done.returncode, answer
