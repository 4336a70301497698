"""An Open vSwitch of a namespace's own: database and switch, with their sockets in a directory.

This host's kernel may have no datapath for it; the userspace one needs the underlay's interface on
a bridge of its own (`take_underlay`). Both daemons end with `stop`, or with the namespace's
processes.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.namespaces import run
from weavepy.lab.system import start_ticks

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
DATABASE, SWITCH = "ovsdb-server", "ovs-vswitchd"
END_S = 5.0

COUNTED_PROCESSORS_S = 11.0
"""Open vSwitch 3.1 counts processors when the kernel's clock passes 10 s, and has no thread that
looks at what the datapath does not know before that."""


def why_not() -> str:
    """Why there can be none here; empty if there can."""
    if shutil.which(SWITCH) is None or not SCHEMA.exists():
        return "needs Open vSwitch (apt-get install openvswitch-switch)"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun, for Open vSwitch's userspace datapath"
    return ""


def load_kernel_datapath() -> None:
    """Where there is one; in a kernel that has just booted, wait until it can be used."""
    subprocess.run(["modprobe", "-a", "openvswitch", "vport-vxlan"], check=False)
    time.sleep(max(0.0, COUNTED_PROCESSORS_S - float(Path("/proc/uptime").read_text().split()[0])))


class OpenVSwitch:
    def __init__(self, namespace: str, directory: Path) -> None:
        self.directory = directory
        self._namespace = namespace

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not Path(self.directory, "conf.db").exists():
            run("ovsdb-tool", "create", f"{self.directory}/conf.db", str(SCHEMA))
        self.start_daemon(DATABASE)
        self.vsctl("--no-wait", "init")
        self.start_daemon(SWITCH)

    def start_daemon(self, name: str) -> None:
        """Returns when it answers."""
        socket = f"{self.directory}/db.sock"
        what = [f"{self.directory}/conf.db", f"--remote=punix:{socket}"]
        self._run(
            *("ip", "netns", "exec", self._namespace, name),
            *(what if name == DATABASE else [f"unix:{socket}"]),
            *(f"--pidfile={self.directory}/{name}.pid", "--detach", "--no-chdir"),
            *(f"--log-file={self.directory}/{name}.log", "-vconsole:off"),
        )

    def stop(self) -> None:
        for name in (SWITCH, DATABASE):
            self.signal(name, signal.SIGTERM)

    def signal(self, name: str, number: signal.Signals) -> None:
        """One that is not there has nothing to be told; what ends it has ended it on return."""
        try:
            pid = self.pid(name)
            os.kill(pid, number)
        except (FileNotFoundError, ProcessLookupError):
            return
        deadline = time.monotonic() + END_S
        while number in (signal.SIGTERM, signal.SIGKILL) and start_ticks(pid) is not None:
            assert time.monotonic() < deadline, f"{name} does not end"
            time.sleep(0.01)

    def pid(self, name: str) -> int:
        return int(Path(self.directory, f"{name}.pid").read_text())

    def take_underlay(self, interface: str) -> None:
        """Put it on a bridge of the userspace datapath, addresses and all."""
        bridge = f"p-{interface}"
        found = json.loads(run("ip", "-n", self._namespace, "-j", "addr", "show", interface))
        self.vsctl(
            *("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev"),
            *("--", "add-port", bridge, interface),
        )
        ip = ("ip", "-n", self._namespace)
        run(*ip, "link", "set", bridge, "mtu", str(found[0]["mtu"]), "up")
        for address in found[0]["addr_info"]:
            if address["scope"] == "global":
                text = f"{address['local']}/{address['prefixlen']}"
                run(*ip, "addr", "del", text, "dev", interface)
                nodad = ["nodad"] if ":" in text else []
                run(*ip, "addr", "add", text, "dev", bridge, *nodad)

    def vsctl(self, *arguments: str) -> str:
        return self._run("ovs-vsctl", "--timeout=5", *arguments)

    def ofctl(self, *arguments: str) -> str:
        return self._run("ovs-ofctl", "-O", "OpenFlow14", "--timeout=5", *arguments)

    def _run(self, *command: str) -> str:
        environment = os.environ | {
            "OVS_RUNDIR": str(self.directory),
            "OVS_LOGDIR": str(self.directory),
        }
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, env=environment, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout
