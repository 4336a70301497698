"""A host of a lab with the plugin installed, for a container runtime of its own.

A runtime is in the host's network namespace and in no other: the router has to find containers'
namespaces by process id or by path.
"""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from cni.conflist import FILE_NAME, conflist
from cni.executable import write_whole
from tests.cni.programs import install
from tests.e2e.waiting import wait_for
from weavepy.lab.lab import Lab

PLUGINS = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")
TIMEOUT_S = 60.0


def absent_programs(*names: str) -> list[str]:
    return [name for name in names if shutil.which(name) is None]


def has_cgroups() -> bool:
    return (CGROUPS / "memory").is_dir() or (CGROUPS / "cgroup.controllers").exists()


class PluginHost:
    def __init__(self, lab: Lab, host: str, directory: Path) -> None:
        self.lab = lab
        self.host = host
        self.api = lab.api(host)
        self.directory = directory
        self.bin_directory = directory / "bin"
        self.conf_directory = directory / "conf"
        self.space = f"weavepy-{lab.name}-{host}"
        """What is this host's alone on the machine has this name: control groups, for one."""

    def install(self, version: str, name: str = "test", chained: Sequence[str] = ()) -> None:
        install(self.bin_directory)
        for plugin in ("loopback", "portmap", "bandwidth", "host-local"):
            link = self.bin_directory / plugin
            if not link.exists():
                link.symlink_to(PLUGINS / plugin)
        where = self.lab.store.directories(self.host)
        content = conflist(
            name,
            version,
            run_directory=str(where.run),
            state_directory=str(where.state),
            chained=tuple(chained),
        )
        write_whole(self.conf_directory / FILE_NAME, content, 0o644)

    def nsenter(self) -> list[str]:
        """What a command begins with to run in the host's network."""
        return ["nsenter", f"--net=/run/netns/{self.lab.namespace(self.host)}"]

    def environment(self) -> dict[str, str]:
        """Plugins get what the runtime has, so none of the suite's own."""
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def remove_groups(self) -> None:
        """With what is left in them: runtimes leave what could not be started."""
        wait_for(self._removed_groups, bool, TIMEOUT_S)

    def _removed_groups(self) -> bool:
        for group in CGROUPS.glob(f"*/{self.space}"):
            for file in group.rglob("cgroup.procs"):
                for pid in file.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            for inner in [*sorted(group.rglob("*/"), reverse=True), group]:
                try:
                    inner.rmdir()
                except OSError:
                    return False
        return True
