import http.server
import json
import os
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from router.shell.containers import (
    AmbiguousContainer,
    NoSuchContainer,
    RuntimeFailed,
    find_container,
)
from tests.e2e.waiting import wait_for
from weavepy.base.errors import UsageError

FULL_ID = "4f3c" * 16
CGROUPS = Path("/sys/fs/cgroup")
RUNC_RECORDS = Path("/run/containerd/runc")


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, Any]:
    return {"docker_socket": tmp_path / "docker.sock", "containerd_states": [tmp_path / "ctrd"]}


# --- containerd's directory ----------------------------------------------------------------------


def add_task(state: Path, identifier: str, pid: int | str) -> None:
    bundle = state / "io.containerd.runtime.v2.task" / "k8s.io" / identifier
    bundle.mkdir(parents=True)
    (bundle / "init.pid").write_text(str(pid))


def test_containerds_tasks_are_found_by_the_beginning_of_an_id(
    nowhere: dict[str, Any], tmp_path: Path
) -> None:
    add_task(tmp_path / "ctrd", FULL_ID, os.getpid())
    add_task(tmp_path / "ctrd", "77aa", os.getpid())

    found = find_container("4f3c4f", **nowhere)

    assert (found.id, found.pid, found.runtime) == (FULL_ID, os.getpid(), "containerd")
    assert found.namespace == Path(f"/proc/{os.getpid()}/ns/net")


def test_a_beginning_of_several_ids_is_refused_but_a_whole_one_is_not(
    nowhere: dict[str, Any], tmp_path: Path
) -> None:
    add_task(tmp_path / "ctrd", "web", os.getpid())
    add_task(tmp_path / "ctrd", "web2", os.getpid())

    with pytest.raises(AmbiguousContainer, match="2 containers begin with 'we'"):
        find_container("we", **nowhere)
    assert find_container("web", **nowhere).id == "web"


@pytest.mark.parametrize(("pid", "text"), [("", "holds no PID"), (4194305, "has ended")])
def test_a_task_without_a_process_says_so(
    nowhere: dict[str, Any], tmp_path: Path, pid: int | str, text: str
) -> None:
    add_task(tmp_path / "ctrd", "web", pid)

    with pytest.raises((RuntimeFailed, NoSuchContainer), match=text):
        find_container("web", **nowhere)


def test_an_unknown_container_says_who_was_asked(nowhere: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NoSuchContainer, match=r"no container runtime found .*docker\.sock.*ctrd"):
        find_container("web", **nowhere)
    add_task(tmp_path / "ctrd", "other", os.getpid())
    with pytest.raises(NoSuchContainer, match=r"no running container 'web'; asked containerd at"):
        find_container("web", **nowhere)


@pytest.mark.parametrize("identifier", ["", "../x", "a b", "a/json?x", "-x", "*"])
def test_what_cannot_be_an_id_is_asked_of_nobody(identifier: str, nowhere: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="not a container id"):
        find_container(identifier, **nowhere)


# --- Docker's socket -----------------------------------------------------------------------------


class _DockerLike(http.server.BaseHTTPRequestHandler):
    """Answers as Docker's API 1.43 does, by the containers below."""

    answers: ClassVar[dict[str, tuple[int, object]]] = {
        "running": (200, {"Id": FULL_ID, "State": {"Pid": os.getpid()}}),
        "stopped": (200, {"Id": FULL_ID, "State": {"Pid": 0}}),
        "several": (400, {"message": "Multiple IDs found with provided prefix: several"}),
        "broken": (500, {"message": "server error"}),
        "strange": (200, {"State": None}),
        "list": (200, []),
    }

    def do_GET(self) -> None:
        name = self.path.removeprefix("/containers/").removesuffix("/json")
        status, body = self.answers.get(name, (404, {"message": f"No such container: {name}"}))
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def docker(nowhere: dict[str, Any]) -> Iterator[dict[str, Any]]:
    path = str(nowhere["docker_socket"])
    with socketserver.ThreadingUnixStreamServer(path, _DockerLike) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield nowhere
        server.shutdown()


def test_docker_knows_its_containers_by_name(docker: dict[str, Any]) -> None:
    found = find_container("running", **docker)

    assert (found.id, found.pid, found.runtime) == (FULL_ID, os.getpid(), "docker")


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("stopped", NoSuchContainer, "start it first"),
        ("several", AmbiguousContainer, "give more of the id"),
        ("broken", RuntimeFailed, "500: server error"),
        ("strange", RuntimeFailed, "no id and PID"),
        ("list", RuntimeFailed, "other than an object"),
        ("nothere", NoSuchContainer, "asked Docker at"),
    ],
)
def test_docker_may_say_no(
    docker: dict[str, Any], name: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        find_container(name, **docker)


def test_what_docker_does_not_know_containerd_may(docker: dict[str, Any], tmp_path: Path) -> None:
    add_task(tmp_path / "ctrd", "nothere", os.getpid())

    assert find_container("nothere", **docker).runtime == "containerd"


# --- a real containerd ---------------------------------------------------------------------------


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A private containerd; yields its state directory and its socket."""
    for program in ("containerd", "ctr", "runc"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (`apt-get install containerd runc`)")
    if os.geteuid() != 0:
        pytest.skip("needs root, to run containers")
    state, socket = tmp_path / "state", tmp_path / "c.sock"
    configuration = tmp_path / "config.toml"
    configuration.write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{state}"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{socket}"\n'
        f'[ttrpc]\naddress = "{socket}.ttrpc"\n'
    )
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen(
            ["containerd", "--config", str(configuration)], stdout=log, stderr=log
        )
    try:
        give_up_at = time.monotonic() + 60
        while not _answers(socket):
            assert time.monotonic() < give_up_at, (tmp_path / "log").read_text()
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield state, socket
    finally:
        daemon.terminate()
        daemon.wait(20)


def _answers(socket: Path) -> bool:
    command = ["ctr", "--address", str(socket), "version"]
    return subprocess.run(command, capture_output=True).returncode == 0


def copy_program(name: str, rootfs: Path) -> None:
    """With the shared libraries that it needs, to the same places."""
    program = shutil.which(name)
    assert program is not None
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    libraries = [word for word in listed.split() if word.startswith("/")]
    for source, place in [(program, f"/bin/{name}"), *((it, it) for it in libraries)]:
        copy = rootfs / place.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)


@pytest.mark.root
@pytest.mark.slow
def test_a_container_of_a_real_containerd_is_found(
    containerd: tuple[Path, Path], tmp_path: Path
) -> None:
    state, socket = containerd
    rootfs = tmp_path / "rootfs"
    for directory in ("proc", "dev", "sys", "etc", "run", "tmp"):
        (rootfs / directory).mkdir(parents=True)
    copy_program("sleep", rootfs)
    # runc's records and the cgroups of all containerds of a machine are named by these two alone.
    ours = f"weavepy-t-{os.getpid()}"
    ctr = ["ctr", "--address", str(socket), "--namespace", ours]
    command = [*ctr, "run", "-d", "--rootfs", str(rootfs), f"{ours}-web",
               "/bin/sleep", "100"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"containers do not run here: {done.stderr.strip()[-300:]}")
    try:
        found = find_container(ours, docker_socket=tmp_path / "none", containerd_states=[state])

        assert found.id == f"{ours}-web"
        command_line = Path(f"/proc/{found.pid}/cmdline")
        # "started" is said while runc's own program still runs there, about to become ours
        wait_for(command_line.read_bytes, lambda it: it.startswith(b"/bin/sleep\0"), 20)
        assert os.stat(found.namespace).st_ino != os.stat("/proc/self/ns/net").st_ino
    finally:
        for end in (["task", "kill", "-s", "KILL"], ["task", "rm", "-f"], ["container", "rm"]):
            subprocess.run([*ctr, *end, f"{ours}-web"], capture_output=True, timeout=30)
        for left in (*CGROUPS.glob(ours), *CGROUPS.glob(f"*/{ours}"), RUNC_RECORDS / ours):
            left.rmdir()
