"""Routers in Kubernetes mode, each in a network namespace, with the stand-in as API server."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from router.shell import namespaces
from tests.kube.stand_in import StandIn
from tests.namespaces import Namespaces, run
from weavepy.base.settings import Directories
from weavepy.client import schema
from weavepy.client.api import Api

SECRET = "2b7e151628aed2a6abf7158809cf4f3c762e7160f38b4da56a784d9045190cfe"
RANGE = "10.32.0.0/24"
RANGE6 = "fd32::/120"
UNDERLAY = "10.78.0.{}/24"
UNDERLAY6 = "fd78::{}/64"


WEAVEPY = ("-m", "weavepy")
"""What Python runs."""


class Host:
    """`n1` has the eleventh address of the underlay, and so on."""

    def __init__(
        self, number: int, namespace: Path, folder: Path, url: str, address: str, pods: str
    ) -> None:
        self.name = f"n{number}"
        self.address = address.partition("/")[0]
        self._pods = pods
        self.namespace = namespace
        self.folder = folder
        self.where = Directories(folder / "run", folder / "state")
        self.api = Api(self.where)
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None
        self.peer = ""
        """The peer's name, once `is_settled` has seen it."""

    def start(self, *options: str, program: tuple[str, ...] = WEAVEPY) -> None:
        """`program` takes weavepy's arguments."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "secret").write_text(SECRET)
        (self.folder / "token").write_text("token")
        self._process = self.spawn(
            *(*program, "kube", f"--node-name={self.name}"),
            *(f"--api-server={self._url}", f"--secret-file={self.folder}/secret"),
            *(f"--token-file={self.folder}/token", f"--ipalloc-range={self._pods}"),
            *options,
        )

    def spawn(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start Python on this node, with the router's directories and log."""
        self.folder.mkdir(exist_ok=True)
        environment = os.environ | {
            "WEAVEPY_RUN_DIR": str(self.where.run),
            "WEAVEPY_STATE_DIR": str(self.where.state),
        }
        command = ["ip", "netns", "exec", self.namespace.name, sys.executable, *arguments]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def stop(self) -> None:
        """The router alone, as the end of its pod does."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=20)
        self._process = None

    def kill(self) -> None:
        """Router and datapath, as when the machine loses power."""
        for file in (self.where.datapath_pid_file, self.where.router_pid_file):
            try:
                os.kill(int(file.read_text()), signal.SIGKILL)
            except (FileNotFoundError, ValueError, ProcessLookupError):
                continue
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None

    def status(self) -> schema.Status:
        return self.api.status()

    def share(self) -> dict[str, int]:
        """How many addresses each owner has, by the peer's name, as this host sees it."""
        return {owner.peer: owner.addresses for owner in self.status().ipam.owners}

    def is_settled(self, peers: int = 3) -> bool:
        """Whether it knows so many peers, and has a ring."""
        status = self.status()
        self.peer = status.router.name
        return len(status.peers) == peers and status.ipam.state == "ready"


class Routers:
    """Make `hosts` of them; `close` whatever happened."""

    def __init__(self, folder: Path, hosts: int, version: int = 4) -> None:
        self._underlay, self._pods = {4: (UNDERLAY, RANGE), 6: (UNDERLAY6, RANGE6)}[version]
        self.api_address = self._underlay.format(1).partition("/")[0]
        self._namespaces = Namespaces()
        self.hub = self._namespaces.add("hub")
        run("ip", "-n", self.hub.name, "link", "add", "br0", "type", "bridge")
        run(
            "ip",
            "-n",
            self.hub.name,
            *("addr", "add", self._underlay.format(1), "dev", "br0", "nodad"),
        )
        run("ip", "-n", self.hub.name, "link", "set", "br0", "up")
        self.hosts: list[Host] = []
        self._folder = folder
        self._count = hosts

    def add_hosts(self, url: str) -> list[Host]:
        for number in range(1, self._count + 1):
            namespace = self._namespaces.add(f"n{number}")
            address = self._underlay.format(10 + number)
            folder = self._folder / f"n{number}"
            host = Host(number, namespace, folder, url, address, self._pods)
            self.hosts.append(host)
            port = ("link", "add", f"p{number}", "type", "veth")
            run("ip", "-n", self.hub.name, *port, "peer", "eth0", "netns", namespace.name)
            run("ip", "-n", self.hub.name, "link", "set", f"p{number}", "master", "br0", "up")
            run("ip", "-n", namespace.name, "addr", "add", address, "dev", "eth0", "nodad")
            run("ip", "-n", namespace.name, "link", "set", "eth0", "up")
        return self.hosts

    def cut(self, host: Host, on: bool = True) -> None:
        state = "down" if on else "up"
        run("ip", "-n", self.hub.name, "link", "set", f"p{host.name[1:]}", state)

    def inside_hub(self, work: Callable[[], object]) -> object:
        with namespaces.opened(self.hub) as descriptor:
            return namespaces.run_inside(descriptor, work)

    def close(self) -> None:
        for host in self.hosts:
            host.kill()
        self._namespaces.remove()


class Server:
    """The stand-in on a thread with a loop of its own: tests are plain functions."""

    def __init__(self, routers: Routers) -> None:
        self._routers = routers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.is_up = False
        self.api = self.do(self._make())
        self._port = 0
        self.start()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout=20)

    def start(self) -> None:
        host = self._routers.api_address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = self._routers.inside_hub(
            lambda: socket.create_server((host, self._port), family=family)
        )
        assert isinstance(listener, socket.socket)
        self._port = listener.getsockname()[1]
        self.do(self.api.start(listener))
        self.is_up = True

    def stop(self) -> None:
        self.do(self.api.stop())
        self.is_up = False

    def close(self) -> None:
        if self.is_up:
            self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    async def _make(self) -> StandIn:
        return StandIn(token="token")
