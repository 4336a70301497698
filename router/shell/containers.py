"""From a container's id to its network namespace, asking Docker or containerd without gRPC.

Docker answers on its socket, over HTTP. containerd needs no question: it keeps a directory per
running task, named by the id, with the PID of its first process in a file. Kubernetes runs
its containers there too, in the containerd namespace `k8s.io`; Docker's own are in `moby`.
"""

import http.client
import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weavepy.base.errors import UsageError
from weavepy.kernel.netlink import HostError, MissingRights

DOCKER_SOCKET = Path("/var/run/docker.sock")
CONTAINERD_STATE_DIRECTORIES = (Path("/run/containerd"), Path("/run/k3s/containerd"))
TASK_DIRECTORY = "io.containerd.runtime.v2.task"
DOCKER_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class NoSuchContainer(HostError):
    """No runtime that was asked knows a running container by that id."""


class AmbiguousContainer(HostError):
    """Several ids begin like this."""


class RuntimeFailed(HostError):
    """A runtime's socket is there but does not answer sensibly."""


@dataclass(frozen=True, slots=True)
class Container:
    id: str
    """In full, also if only its beginning was asked for."""
    pid: int
    runtime: str
    """ "docker" or "containerd"."""

    @property
    def namespace(self) -> Path:
        return Path(f"/proc/{self.pid}/ns/net")


def find_container(
    identifier: str,
    *,
    docker_socket: Path = DOCKER_SOCKET,
    containerd_states: Sequence[Path] = CONTAINERD_STATE_DIRECTORIES,
) -> Container:
    """By id, unambiguous beginning of an id or, with Docker, name."""
    if not _ID.fullmatch(identifier):
        raise UsageError(
            f"{identifier!r} is not a container id: letters, digits, '_', '.' and '-' only"
        )
    looked_at = []
    if docker_socket.is_socket():
        looked_at.append(f"Docker at {docker_socket}")
        container = _ask_docker(identifier, docker_socket)
        if container is not None:
            return container
    for state in containerd_states:
        if (state / TASK_DIRECTORY).is_dir():
            looked_at.append(f"containerd at {state}")
            container = _look_in_containerd(identifier, state)
            if container is not None:
                return container
    if not looked_at:
        places = ", ".join(str(place) for place in (docker_socket, *containerd_states))
        raise NoSuchContainer(
            f"no container runtime found (looked for {places}): give a PID or a network "
            "namespace instead"
        )
    raise NoSuchContainer(f"no running container {identifier!r}; asked {' and '.join(looked_at)}")


# --- Docker --------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DOCKER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask_docker(identifier: str, path: Path) -> Container | None:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", f"/containers/{identifier}/json")
        response = connection.getresponse()
        answer = json.loads(response.read(MAX_ANSWER_BYTES))
    except PermissionError as error:
        raise MissingRights(f"asking Docker at {path}: not permitted; run as root") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RuntimeFailed(f"Docker at {path} does not answer: {error}") from error
    finally:
        connection.close()
    return _read_docker(identifier, response.status, answer)


def _read_docker(identifier: str, status: int, answer: Any) -> Container | None:
    if status == 404:
        return None
    if not isinstance(answer, dict):
        raise RuntimeFailed(f"Docker answered {status} with something other than an object")
    if status != 200:
        message = str(answer.get("message", ""))
        if "multiple" in message.lower():
            raise AmbiguousContainer(
                f"several containers begin with {identifier!r}: give more of the id"
            )
        raise RuntimeFailed(f"Docker answered {status}: {message}")
    try:
        full_id, pid = str(answer["Id"]), int(answer["State"]["Pid"])
    except (KeyError, TypeError, ValueError) as error:
        raise RuntimeFailed(f"Docker's answer about {identifier} has no id and PID") from error
    if pid == 0:
        raise NoSuchContainer(f"the container {identifier} is not running: start it first")
    return Container(full_id, pid, "docker")


# --- containerd ----------------------------------------------------------------------------------


def _look_in_containerd(identifier: str, state: Path) -> Container | None:
    """An exact id wins over longer ones that begin with it."""
    pid_files = {
        file.parent.name: file
        for file in sorted((state / TASK_DIRECTORY).glob("*/*/init.pid"))
        if file.parent.name.startswith(identifier)
    }
    if identifier in pid_files:
        pid_files = {identifier: pid_files[identifier]}
    if len(pid_files) > 1:
        some = ", ".join(list(pid_files)[:3])
        raise AmbiguousContainer(
            f"{len(pid_files)} containers begin with {identifier!r} ({some} ...): give more of "
            "the id"
        )
    for full_id, file in pid_files.items():
        try:
            pid = int(file.read_text())
        except PermissionError as error:
            raise MissingRights(f"reading {file}: not permitted; run as root") from error
        except (OSError, ValueError) as error:
            raise RuntimeFailed(f"{file} holds no PID: is the container starting?") from error
        if not Path(f"/proc/{pid}").exists():
            raise NoSuchContainer(f"the container {full_id} has ended (its process was {pid})")
        return Container(full_id, pid, "containerd")
    return None
