"""A real Kubernetes on this machine: a control plane and some nodes, up in half a minute.

etcd, kube-apiserver, controller manager and scheduler in one place; containerd, kubelet and
kube-proxy in a place per node; all places on one bridge, which lies in a network namespace of its
own. Nothing of it is a stand-in but two images that are made here from static programs. What a
machine without CAP_SYS_RESOURCE, with cgroups of version 1 and without registry needs is said
beside each flag. Nodes have no pod network until somebody installs one.
"""

import concurrent.futures
import contextlib
import ipaddress
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.kube.images import write_image
from tests.kube.pki import Pki
from tests.kube.places import Place, shell, wait_for

CACHE = Path(os.environ.get("WEAVEPY_KUBE_CACHE", Path.home() / ".cache/weavepy/kube"))
PROGRAMS = CACHE / "bin"
NEEDED = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"),
    *("kube-proxy", "kubectl", "agnhost", "etcd"),
)

PLUGINS = Path("/usr/lib/cni")

UNDERLAY = ipaddress.IPv4Network("10.77.0.0/24")
SERVICES = ipaddress.IPv4Network("10.96.0.0/16")
PODS = ipaddress.IPv4Network("10.32.0.0/12")
API = f"https://{UNDERLAY[1]}:6443"
API_SERVICE = SERVICES[1]
READY_S = 120.0

PAUSE = "localhost/pause:1"
TOOLS = "localhost/tools:1"
"""busybox, and agnhost as /usr/bin/agnhost."""

CONTAINERD = """
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE a sandbox could not start
"""


def why_not() -> str:
    """Return what keeps this machine from running a cluster; "" if nothing does."""
    if os.geteuid() != 0:
        return "needs root: makes network namespaces"
    missing = [name for name in NEEDED if not (PROGRAMS / name).exists()]
    if missing:
        return f"no Kubernetes here ({', '.join(missing)} not in {PROGRAMS}): run script/kube-build"
    if not (PLUGINS / "portmap").exists():
        return "needs containernetworking-plugins: run script/bootstrap --tests"
    for program in ("containerd", "runc", "busybox", "iptables", "conntrack"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"needs {program}: run script/bootstrap --tests"
    return ""


class Cluster:
    """`up`, and `down` whatever happened. Nodes are called n1, n2, ..."""

    def __init__(self, nodes: int = 3) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="weavepy-kube-", dir="/tmp"))
        self.name = f"weavepy-k{os.getpid()}"
        self.control = Place("cp", f"{self.name}-cp", self.folder / "cp", PROGRAMS)
        self.nodes = {f"n{number}": self._node(number) for number in range(1, nodes + 1)}
        self._underlay = f"{self.name}-net"
        self._pki_lock = threading.Lock()

    # --- life ------------------------------------------------------------------------------

    def up(self) -> None:
        self._pki = Pki(self.folder / "pki")
        self._make_images()
        shell("ip", "netns", "add", self._underlay)
        shell("ip", "-n", self._underlay, "link", "add", "br0", "type", "bridge")
        shell("ip", "-n", self._underlay, "link", "set", "br0", "up")
        sysctl = "net.bridge.bridge-nf-call-iptables=0"
        with contextlib.suppress(RuntimeError):
            shell("ip", "netns", "exec", self._underlay, "sysctl", "-qw", sysctl)
        self._start_control_plane()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(self.node_up, self.nodes))

    def down(self) -> None:
        for place in (*self.nodes.values(), self.control):
            place.end()
            with contextlib.suppress(RuntimeError):
                shell("ip", "netns", "del", place.netns)
        with contextlib.suppress(RuntimeError):
            shell("ip", "netns", "del", self._underlay)
        self._remove_groups(self.name)
        wait_for(f"{self.folder} is gone", self._remove_folder, 20)

    def node_up(self, name: str) -> None:
        """Boot a node: a new one, or one that `node_down` has left with its disk."""
        place = self.nodes[name]
        address = self.address(name)
        self._plug(place.netns, f"v-{name}", address)
        # A Service's address must get as far as the OUTPUT chain; and kubelet asks a cloud for
        # metadata at its start, which is to fail at once.
        shell("ip", "-n", place.netns, "route", "replace", "default", "via", str(UNDERLAY[1]))
        shell("ip", "-n", place.netns, "route", "replace", "unreachable", "169.254.169.254/32")
        self._make_groups(name)
        with self._pki_lock:
            self._pki.issue(name, f"system:node:{name}", "system:nodes")
            self._pki.kubeconfig(name, API, self.folder / f"{name}.conf")
        place.begin(["bash", str(Path(__file__).with_name("node.sh")), name, str(place.folder)])
        for plugin in ("loopback", "portmap"):  # as a node's administrator installs them
            shutil.copy(PLUGINS / plugin, place.folder / "opt/cni/bin")
        (place.folder / "containerd.toml").write_text(CONTAINERD)
        (place.folder / "kubelet.json").write_text(json.dumps(self._kubelet(name, address)))
        place.start("containerd", "containerd", "--config", f"{place.folder}/containerd.toml")
        wait_for(f"containerd on {name}", lambda: place.run("ctr", "version"), 30)
        for archive in sorted((self.folder / "images").iterdir()):
            place.run("ctr", "-n", "k8s.io", "images", "import", str(archive))
        place.start(
            "kubelet",
            *("kubelet", f"--config={place.folder}/kubelet.json"),
            *(f"--kubeconfig={self.folder}/{name}.conf", f"--hostname-override={name}"),
            *(f"--node-ip={address}", f"--cert-dir={place.folder}/kubelet-pki"),
            *("--container-runtime=remote", f"--pod-infra-container-image={PAUSE}"),
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
        )
        place.start(
            "kube-proxy",
            *("kube-proxy", f"--kubeconfig={self.folder}/proxy.conf", "--proxy-mode=iptables"),
            *(f"--hostname-override={name}", f"--cluster-cidr={PODS}"),
            f"--bind-address={address}",
            # A network namespace may not write these limits.
            *("--conntrack-max-per-core=0", "--conntrack-min=0"),
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        )

    def node_down(self, name: str) -> None:
        """The machine loses power; its disk stays."""
        self.nodes[name].end()
        shell("ip", "netns", "del", self.nodes[name].netns)
        self._remove_groups(f"{self.name}/{name}")

    def load_image(self, archive: Path) -> None:
        """As a registry would bring it."""

        def load(place: Place) -> str:
            return place.run("ctr", "-n", "k8s.io", "images", "import", str(archive))

        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(load, self.nodes.values()))

    def wait_ready(self, *names: str) -> None:
        for name in names or self.nodes:
            wait_for(f"node {name} is Ready", lambda name=name: self.is_ready(name), READY_S)

    # --- looking and asking ----------------------------------------------------------------

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """As the cluster's administrator."""
        program = str(PROGRAMS / "kubectl")
        config = f"--kubeconfig={self.folder}/admin.conf"
        return shell(
            *("nsenter", f"--net=/run/netns/{self.control.netns}", program, config, *arguments),
            given=given,
            environment={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
        )

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", given=json.dumps(listed))

    def is_ready(self, name: str) -> bool:
        return condition(self.get("node", name), "Ready") == "True"

    def address(self, name: str) -> ipaddress.IPv4Address:
        return UNDERLAY[10 + int(name.removeprefix("n"))]

    # --- how it is made --------------------------------------------------------------------

    def _node(self, number: int) -> Place:
        name = f"n{number}"
        return Place(name, f"{self.name}-{name}", self.folder / name, PROGRAMS)

    def _plug(self, netns: str, port: str, address: ipaddress.IPv4Address) -> None:
        shell("ip", "netns", "add", netns)
        peer = ("peer", "name", "eth0", "netns", netns)
        shell("ip", "-n", self._underlay, "link", "add", port, "type", "veth", *peer)
        shell("ip", "-n", self._underlay, "link", "set", port, "master", "br0", "up")
        shell("ip", "-n", netns, "link", "set", "lo", "up")
        shell("ip", "-n", netns, "link", "set", "eth0", "up")
        shell("ip", "-n", netns, "addr", "add", f"{address}/{UNDERLAY.prefixlen}", "dev", "eth0")

    def _make_images(self) -> None:
        folder = self.folder / "images"
        folder.mkdir()
        busybox = Path(shutil.which("busybox") or "/bin/busybox")
        write_image(
            folder / "pause.tar", PAUSE, {"bin/busybox": busybox}, ["/bin/sleep", "2147483647"]
        )
        programs = {"bin/busybox": busybox, "usr/bin/agnhost": PROGRAMS / "agnhost"}
        write_image(folder / "tools.tar", TOOLS, programs, ["/usr/bin/agnhost"])

    def _start_control_plane(self) -> None:
        pki, place = self._pki, self.control
        hosts = [str(UNDERLAY[1]), str(API_SERVICE), "127.0.0.1", "localhost", "kubernetes"]
        pki.issue("apiserver", "kube-apiserver", hosts=hosts)
        users = {
            "admin": ("admin", "system:masters"),
            "manager": ("system:kube-controller-manager", ""),
            "scheduler": ("system:kube-scheduler", ""),
            "proxy": ("system:kube-proxy", ""),
        }
        for name, (user, group) in users.items():
            pki.issue(name, user, group)
            pki.kubeconfig(name, API, self.folder / f"{name}.conf")
        self._plug(place.netns, "v-cp", UNDERLAY[1])
        waits = "mount -t proc proc /proc; touch $0/ready; while :; do sleep 3600 & wait $!; done"
        place.begin(["bash", "-c", waits, str(place.folder)])
        place.start(
            "etcd",
            *("etcd", "--data-dir", f"{place.folder}/etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", "http://127.0.0.1:2379"),
            *("--advertise-client-urls", "http://127.0.0.1:2379"),
            *("--listen-peer-urls", "http://127.0.0.1:2380"),
        )
        keys = pki.folder
        place.start(
            "kube-apiserver",
            *("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--insecure-port=0"),
            *("--secure-port=6443", f"--advertise-address={UNDERLAY[1]}"),
            *(f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=Node,RBAC"),
            *("--enable-admission-plugins=NodeRestriction", "--allow-privileged=true"),
            *(f"--client-ca-file={keys}/ca.crt", f"--tls-cert-file={keys}/apiserver.crt"),
            f"--tls-private-key-file={keys}/apiserver.key",
            f"--kubelet-client-certificate={keys}/admin.crt",
            f"--kubelet-client-key={keys}/admin.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={keys}/sa.key",
            f"--service-account-key-file={keys}/sa.pub",
        )
        wait_for("the API answers", lambda: self.kubectl("get", "--raw", "/readyz") == "ok", 90)
        place.start(
            "kube-controller-manager",
            *("kube-controller-manager", f"--kubeconfig={self.folder}/manager.conf"),
            *("--leader-elect=false", "--use-service-account-credentials=true"),
            f"--service-account-private-key-file={keys}/sa.key",
            f"--root-ca-file={keys}/ca.crt",
        )
        place.start(
            "kube-scheduler",
            *("kube-scheduler", f"--kubeconfig={self.folder}/scheduler.conf"),
            "--leader-elect=false",
        )
        wait_for(
            "there is a default service account",
            lambda: self.kubectl("get", "serviceaccount", "default"),
            60,
        )

    def _kubelet(self, name: str, address: ipaddress.IPv4Address) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": str(address),
            "healthzBindAddress": "127.0.0.1",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self.folder}/pki/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.name}/{name}",
            "failSwapOn": False,
            "clusterDomain": "cluster.local",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "5s",
        }

    def _make_groups(self, name: str) -> None:
        """kubelet wants its root group there in every controller, and cpuset's filled."""
        for controller in _controllers():
            for group in (controller / self.name, controller / self.name / name):
                group.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if (group / file).exists():
                        (group / file).write_text((controller / file).read_text())

    def _remove_folder(self) -> bool:
        """What was killed may still be writing, at its very end."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()

    def _remove_groups(self, path: str) -> None:
        for controller in _controllers():
            top = controller / path
            if not top.exists():
                continue
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()


def condition(found: dict[str, Any], kind: str) -> str:
    """Return the status of one condition of an object, "" if it has none of that kind."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((str(one["status"]) for one in conditions if one["type"] == kind), "")


def _controllers() -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [path for path in sorted(top.iterdir()) if path.is_dir() and path.name != "unified"]
