"""`launch`, `join` and `stop` with a real router, in a network namespace of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from router.mesh.secret import encode_token, secret_from_password
from tests.weavepy.cli.conftest import Command
from weavepy.base.settings import Directories

NAMESPACE = f"weavepy-t-cli-{os.getpid()}"
ADDRESS = "10.77.0.1"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2"
    ),
]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    subprocess.run(["ip", "netns", "delete", NAMESPACE], capture_output=True)
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("-n", NAMESPACE, "link", "set", "lo", "up")
        _ip("-n", NAMESPACE, "link", "add", "under0", "type", "veth", "peer", "under1")
        _ip("-n", NAMESPACE, "address", "add", f"{ADDRESS}/24", "dev", "under0")
        _ip("-n", NAMESPACE, "link", "set", "under0", "up")
        _ip("-n", NAMESPACE, "link", "set", "under1", "up")
        yield NAMESPACE
    finally:
        _ip("netns", "delete", NAMESPACE)


@pytest.fixture
def inside(weavepy: Command, namespace: str) -> Iterator[Command]:
    """The command inside the namespace; whatever router it starts is gone afterwards."""
    weavepy.prefix = ("ip", "netns", "exec", namespace)
    yield weavepy
    where = _directories(weavepy)
    for pid_file in (where.router_pid_file, where.datapath_pid_file):
        with suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            if str(weavepy.run_dir).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, signal.SIGKILL)


def test_a_router_starts_in_the_background_and_stops(inside: Command) -> None:
    started = inside("launch", "--detach", "--nickname", "first")
    assert started.returncode == 0, started.stderr
    assert started.stderr == ""
    running, hint, line = started.stdout.splitlines()
    assert running.startswith("weavepy is running: first (")
    assert hint == "To add a host, run there:"
    assert re.fullmatch(rf"  weavepy join weavepy1-[a-z2-7]{{64}} {re.escape(ADDRESS)}", line)
    assert inside("join", "--show").stdout.strip() == line.strip()
    assert _directories(inside).secret_file.stat().st_mode & 0o777 == 0o600

    token = line.split()[2]
    pid = int(_directories(inside).router_pid_file.read_text())
    assert token not in _arguments_of(pid)
    assert _directories(inside).secret_file.read_text().strip() == token
    assert token not in _directories(inside).log_file.read_text()

    status = inside("status")
    assert "first" in status.stdout
    for again in (("launch",), ("launch", "--detach"), ("join", token, "10.77.0.2")):
        refused = inside(*again)
        assert refused.returncode == 1
        assert "runs here already" in refused.stderr

    stopped = inside("stop")
    assert (stopped.stdout, stopped.stderr) == ("stopped\n", "")
    _until_ended(pid)
    assert "weavepy is not running here" in inside("stop").stderr


def test_the_secret_stays_the_same_from_launch_to_launch(inside: Command) -> None:
    first = inside("launch", "--detach", "--port", "6799").stdout
    assert first.endswith(f" {ADDRESS}:6799\n")
    assert first.endswith(inside("join", "--show").stdout)
    inside("stop")
    second = inside("launch", "--detach").stdout
    inside("stop")
    assert first.splitlines()[-1] == f"{second.splitlines()[-1]}:6799"


def test_join_stores_the_secret_and_dials_the_host(inside: Command) -> None:
    token = encode_token(bytes(range(32)))
    joined = inside("join", "-", "10.77.0.2", stdin=f"{token}\n")
    assert joined.returncode == 0, joined.stderr
    assert "10.77.0.2" in inside("status", "targets").stdout
    assert _directories(inside).secret_file.read_text().strip() == token
    inside("stop")

    other = encode_token(bytes(range(1, 33)))
    refused = inside("join", other, "10.77.0.2")
    assert refused.returncode == 1
    assert "has the secret of another mesh" in refused.stderr
    assert _directories(inside).secret_file.read_text().strip() == token

    token_file = inside.run_dir / "token"
    token_file.write_text(other)
    replaced = inside("join", "--replace", "--token-file", str(token_file), "10.77.0.2")
    assert replaced.returncode == 0, replaced.stderr
    assert _directories(inside).secret_file.read_text().strip() == other


def test_a_password_opens_the_same_mesh_and_is_not_shown(inside: Command) -> None:
    password = inside.run_dir / "password"
    password.write_text("correct horse battery\n")
    inside.extra["WEAVEPY_PASSWORD_FILE"] = str(password)
    started = inside("launch", "--detach", "--no-discovery")
    assert started.returncode == 0, started.stderr
    secret = secret_from_password("correct horse battery")
    assert "correct horse" not in started.stdout
    assert encode_token(secret) not in started.stdout
    assert f"weavepy launch --detach --password-file FILE {ADDRESS}" in started.stdout
    assert '"discovery": false' in inside("status", "--json").stdout


def test_an_insecure_mesh_is_announced_loudly(inside: Command) -> None:
    started = inside("launch", "--detach", "--insecure")
    assert started.returncode == 0
    assert "WARNING: --insecure" in started.stderr
    assert f"weavepy launch --detach --insecure {ADDRESS}" in started.stdout
    assert "OFF" in inside("status").stdout


def test_a_launch_that_fails_shows_its_log_and_leaves_nothing(inside: Command) -> None:
    program = (
        "import socket, sys\n"
        "listener = socket.create_server(('', 6783))\n"
        "print('listening', flush=True)\n"
        "sys.stdin.read()\n"
    )
    occupant = subprocess.Popen(
        [*inside.prefix, sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert occupant.stdout is not None
        occupant.stdout.readline()
        failed = inside("launch", "--detach")
    finally:
        occupant.kill()
        occupant.communicate()
    assert failed.returncode == 1
    assert failed.stdout == ""
    *log, last = failed.stderr.splitlines()
    assert any("cannot listen on TCP port 6783" in line for line in log)
    assert last.startswith("weavepy: the router ended at once (exit code 1)")
    assert "Traceback" not in failed.stderr
    with suppress(OSError):
        _until_ended(int(_directories(inside).datapath_pid_file.read_text()))
    assert inside("launch", "--detach").returncode == 0


def test_stop_ends_the_datapath_that_a_killed_router_left(inside: Command) -> None:
    assert inside("launch", "--detach").returncode == 0
    where = _directories(inside)
    datapath = int(where.datapath_pid_file.read_text())
    os.kill(int(where.router_pid_file.read_text()), signal.SIGKILL)
    assert "nobody listens on" in inside("status").stderr
    assert Path(f"/proc/{datapath}").exists()
    stopped = inside("stop")
    assert stopped.stdout == "no router was running; stopped the datapath that it had left\n"
    _until_ended(datapath)


def test_a_datapath_of_another_version_is_ended_and_replaced(inside: Command) -> None:
    """It was left by `stop --keep-datapath` before the package was upgraded, say."""
    where = _directories(inside)
    where.run.mkdir(parents=True, exist_ok=True)
    program = "from router.sleeve import hello; hello.PROTOCOL = 0;"
    program += "from router.sleeve.process import main; main()"
    files = ("--socket", str(where.datapath_socket), "--pid-file", str(where.datapath_pid_file))
    command = (*inside.prefix, "setsid", "--fork", sys.executable, "-c", program, *files)
    subprocess.run(command, check=True, timeout=10)
    deadline = time.monotonic() + 5
    while not where.datapath_socket.exists() or not where.datapath_pid_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    left = int(where.datapath_pid_file.read_text())
    assert inside("launch", "--detach").returncode == 0
    _until_ended(left)
    assert int(where.datapath_pid_file.read_text()) != left
    assert "speaks protocol 0, this router speaks 1" in where.log_file.read_text()


def test_in_the_foreground_it_ends_with_0_on_sigterm(inside: Command) -> None:
    process = subprocess.Popen(
        inside.arguments("launch"),
        env=inside.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while inside("status").returncode != 0:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
        process.terminate()
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert "weavepy1-" not in out + err
    assert "`weavepy join --show` prints the line" in out


def _until_ended(pid: int) -> None:
    """Wait for the last breath of an interpreter that has let go of everything else."""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _directories(command: Command) -> Directories:
    return Directories(run=command.run_dir, state=command.state_dir)


def _arguments_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)
