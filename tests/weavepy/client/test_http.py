"""The client against a stand-in router, and against everything that is not one."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.weavepy.cli.stand_in import StandIn
from weavepy.client import http
from weavepy.client.http import (
    ApiError,
    BadAnswer,
    Client,
    RouterNotRunning,
    RouterSilent,
)


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="weavepy-t-") as base:
        yield Path(base) / "weavepy.sock"


def answer_with(socket_path: Path, answer: bytes) -> threading.Thread:
    """Be a server that sends these bytes to one client, whatever it asks, and hangs up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_path))
    listener.listen()

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_request_returns_the_object_that_the_router_answers_with(socket_path: Path) -> None:
    with StandIn(socket_path) as router:
        answer = Client(socket_path).request("POST", "/v1/connect", {"targets": ["10.0.0.2"]})
    assert answer == {"targets": ["10.0.0.2", "10.0.0.9"]}
    assert router.requests == [("POST", "/v1/connect", {"targets": ["10.0.0.2"]})]


def test_a_missing_socket_means_that_no_router_runs(socket_path: Path) -> None:
    with pytest.raises(RouterNotRunning, match=f"no socket at {socket_path}.*weavepy launch"):
        Client(socket_path).request("GET", "/v1/status")


def test_a_socket_left_by_a_killed_router_means_that_no_router_runs(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
    with pytest.raises(RouterNotRunning, match="nobody listens on"):
        Client(socket_path).request("GET", "/v1/status")


def test_a_path_that_no_socket_can_have_is_explained() -> None:
    with pytest.raises(RouterNotRunning, match="too long"):
        Client(Path("/tmp") / ("x" * 200)).request("GET", "/v1/status")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_a_stranger_is_told_to_become_root(socket_path: Path) -> None:
    socket_path.parent.chmod(0o755)
    with StandIn(socket_path):
        socket_path.chmod(0o660)
        program = (
            "import sys, pathlib; from weavepy.client.http import *\n"
            "try: Client(pathlib.Path(sys.argv[1])).request('GET', '/v1/status')\n"
            "except PermissionDenied as error: print(error)\n"
        )
        drop = "import os, sys; os.setgid(65534); os.setuid(65534)\n"
        result = subprocess.run(
            [sys.executable, "-c", "import weavepy.client.http\n" + drop + program, socket_path],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert "run this as root" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [("usage", 400, 2), ("not-found", 404, 1), ("conflict", 409, 1), ("timeout", 504, 1)],
)
def test_a_failure_keeps_code_message_and_exit_code(
    socket_path: Path, code: str, status: int, exit_code: int
) -> None:
    with StandIn(socket_path) as router, pytest.raises(ApiError) as raised:
        router.fail("/v1/attach", status, code, "no such container: do this")
        Client(socket_path).request("POST", "/v1/attach", {})
    error = raised.value
    assert (error.code, error.status, error.exit_code) == (code, status, exit_code)
    assert str(error) == "no such container: do this"


def test_a_router_that_hangs_is_left_after_the_timeout(socket_path: Path) -> None:
    with StandIn(socket_path) as router:
        router.answering.clear()
        started = time.monotonic()
        with pytest.raises(RouterSilent, match=r"within 0\.2 s"):
            Client(socket_path, timeout_s=0.2).request("GET", "/v1/status")
        assert time.monotonic() - started < 5


def test_a_router_that_drips_does_not_stretch_the_timeout(socket_path: Path) -> None:
    stop = threading.Event()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_path))
    listener.listen()

    def drip() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                while not stop.wait(0.05):
                    connection.send(b"H")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(RouterSilent):
            Client(socket_path, timeout_s=0.4).request("GET", "/v1/status")
    finally:
        stop.set()
        thread.join()


def test_a_full_backlog_is_waited_for(socket_path: Path) -> None:
    """Connecting to a UNIX socket whose queue is full fails at once instead of blocking."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_path))
    listener.listen(0)
    with listener, socket.socket(socket.AF_UNIX) as earlier:
        earlier.connect(str(socket_path))
        with pytest.raises(RouterSilent):
            Client(socket_path, timeout_s=0.2).request("GET", "/v1/status")


@pytest.mark.parametrize(
    ("answer", "explanation"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n{}", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "went away in the middle"),
        (b"HTTP/1.1 200 OK\r\n\r\n[1]", "status 200 and no explanation"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "status 200 and no explanation"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n404: Not Found", "older version"),
        (b"HTTP/1.1 500 Oops\r\n\r\n{}", "status 500 and no explanation"),
        (b'HTTP/1.1 500 Oops\r\n\r\n{"code": 3, "message": []}', "status 500"),
    ],
)
def test_what_is_not_an_answer_is_refused_with_a_reason(
    socket_path: Path, answer: bytes, explanation: str
) -> None:
    server = answer_with(socket_path, answer)
    with pytest.raises(BadAnswer, match=explanation):
        Client(socket_path, timeout_s=5).request("GET", "/v1/status")
    server.join()


def test_an_endless_answer_is_cut(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 1000)
    server = answer_with(socket_path, b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 2000)
    with pytest.raises(BadAnswer, match="longer than 1000 bytes"):
        Client(socket_path, timeout_s=5).request("GET", "/v1/status")
    server.join()


def test_the_client_needs_nothing_but_the_standard_library() -> None:
    program = (
        "import sys, weavepy.client.http\n"
        "slow = {'msgspec', 'click', 'aiohttp', 'http', 'asyncio', 'importlib.metadata'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30
    )
    assert result.stdout.strip() == "[]", result.stderr
