"""The image, started with exactly the rights that the manifest gives it, without Kubernetes."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.containers import Container, unpack
from tests.kube.manifest import probe_of_datapath
from tests.kube.places import wait_for
from tests.kube.routers import RANGE, SECRET, Host, Server
from tests.namespaces import can_make_namespaces
from weavepy import __version__
from weavepy.base.settings import Directories
from weavepy.client.api import Api

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not can_make_namespaces(), reason="needs root: network namespaces"
    ),
    pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc: script/bootstrap --tests"),
]


@pytest.fixture
def containers(
    image: Path, hosts: list[Host], server: Server, tmp_path: Path
) -> Iterator[dict[str, Container]]:
    """Of the node n3, whose router of before is gone; its API socket is in tmp_path/node."""
    node, rootfs = tmp_path / "node", tmp_path / "rootfs"
    environment = unpack(image, rootfs) | {"WEAVEPY_NODE_NAME": "n3"}
    host = hosts[2]
    host.kill()
    secret = node / "secret"
    secret.mkdir(parents=True)
    (secret / "secret").write_text(SECRET)
    (secret / "token").write_text("token")
    more = (
        *(f"--api-server={server.api.url}", "--token-file=/etc/weavepy/token"),
        f"--ipalloc-range={RANGE}",
    )
    made = {
        name: Container(
            name,
            in_set,
            rootfs=rootfs,
            environment=environment,
            host=node,
            namespace=host.namespace,
            more=more if name == "router" else (),
        )
        for name, in_set in (
            ("datapath", "weavepy-datapath"),
            ("install-cni", "weavepy"),
            ("router", "weavepy"),
        )
    }
    yield made
    for container in made.values():
        container.close()


def test_it_joins_a_mesh_and_installs_the_plugin(
    containers: dict[str, Container], hosts: list[Host], tmp_path: Path
) -> None:
    containers["install-cni"].run()
    installed = tmp_path / "node/opt/cni/bin/weavepy-cni"
    assert os.access(installed, os.X_OK)
    assert installed.read_bytes().startswith(b"\x7fELF"), "it was compiled with the image"
    vain = subprocess.run([installed], env={"CNI_COMMAND": "VERSION"}, capture_output=True)
    assert (vain.returncode, json.loads(vain.stdout)["cniVersion"]) == (0, "1.1.0")
    assert list((tmp_path / "node/etc/cni/net.d").glob("*.conflist"))

    containers["datapath"].start()
    containers["router"].start()
    api = Api(Directories(tmp_path / "node/run/weavepy", tmp_path / "node/var/lib/weavepy"))

    def is_established() -> bool:
        states = [row.state for row in api.status().connections]
        return states.count("established") == len(hosts) - 1

    wait_for(f"it has met the others, see {containers['router'].log}", is_established, 60)
    assert api.status().datapath.running
    assert containers["datapath"].ends_well(probe_of_datapath())
    assert api.status().router.version == __version__
