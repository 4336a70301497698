"""Leaving a router in the background, and seeing it off.

A background router is `weavepy launch` once more, in a session of its own, with the options
that were checked here; its secret goes through a pipe. Whether it came up, its own status says.
"""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import click

from router.sleeve.messages import MAX_MESSAGE_BYTES, Shutdown
from weavepy.base.errors import WeavepyError
from weavepy.base.settings import Directories
from weavepy.base.wire import encode
from weavepy.client import schema
from weavepy.client.api import Api
from weavepy.daemon.options import Options

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
DATAPATH_END_TIMEOUT_S = 5.0
SHOWN_LOG_LINES = 15

_POLL_INTERVAL_S = 0.1
_MAX_LOG_TAIL_BYTES = 16 * 1024

_KEPT_VARIABLES = ("WEAVEPY_RUN_DIR", "WEAVEPY_STATE_DIR", "WEAVEPY_DEBUG")


class StartFailed(WeavepyError):
    """The background router ended, or did not answer in time. Its log was shown."""


def start_in_background(options: Options) -> schema.Status:
    """Start a router, and return its first status when it answers."""
    where = options.directories
    try:
        where.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        log = where.log_file.open("ab")
    except OSError as error:
        raise WeavepyError(f"cannot write {where.log_file}: {error.strerror}") from error
    with log:
        log_start = log.tell()
        child = subprocess.Popen(
            _command_line(options),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=_environment(),
        )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(f"{options.secret.hex()}\n".encode() if options.encrypted else b"")
    try:
        return _wait_until_up(child, where)
    except (WeavepyError, KeyboardInterrupt):
        _end(child)
        for line in _log_tail(where.log_file, log_start):
            click.echo(line, err=True)
        raise


def wait_until_gone(where: Directories) -> None:
    """Wait until no router holds the run directory: only then may another start."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _is_held(where.router_pid_file):
        if time.monotonic() > deadline:
            raise WeavepyError(
                f"the router before this has not ended after {STOP_TIMEOUT_S:g} s: see"
                f" {where.log_file}"
            )
        time.sleep(_POLL_INTERVAL_S)


def end_left_datapath(where: Directories) -> bool:
    """End the datapath that a crashed or stopped router left, and the kernel's tunnels; returns
    whether there was one."""
    if _is_held(where.router_pid_file):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(DATAPATH_END_TIMEOUT_S)
        try:
            connection.connect(str(where.datapath_socket))
            _end_left_tunnels()
            connection.send(encode(Shutdown()))
            while connection.recv(MAX_MESSAGE_BYTES):
                pass  # its snapshot; the end of the stream is the end of the process
        except ConnectionResetError:
            return True
        except TimeoutError as error:
            raise WeavepyError(
                f"the datapath does not end (pid in {where.datapath_pid_file}): kill it"
            ) from error
        except OSError:
            return False
    return True


def _command_line(options: Options) -> list[str]:
    secret = "--secret-file=-" if options.encrypted else "--insecure"
    # -P: the working directory is no place to import from.
    interpreter = [sys.executable, "-P", "-m", "weavepy"]
    return [*interpreter, "launch", "--foreground", secret, *options.arguments()]


def _end_left_tunnels() -> None:
    """They carry frames without router and datapath; its TAP shows which bridge they are on."""
    from fastdp.core.paths import PORT
    from router.shell.bridge import master_of
    from weavepy.daemon.drivers import drivers
    from weavepy.daemon.options import DEFAULT_BRIDGE
    from weavepy.daemon.router import TAP

    for driver in drivers("auto", master_of(TAP) or DEFAULT_BRIDGE, TAP, PORT):
        if driver.left():
            driver.remove_all()


def _environment() -> dict[str, str]:
    """Drop the variables of launch options: the arguments say it all, checked and complete."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WEAVEPY_") or name in _KEPT_VARIABLES
    }


def _wait_until_up(child: "subprocess.Popen[bytes]", where: Directories) -> schema.Status:
    api = Api(where, timeout_s=2.0)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        code = child.poll()
        if code is not None:
            raise StartFailed(f"the router ended at once (exit code {code}): see its log above")
        with contextlib.suppress(WeavepyError):
            status = api.status()
            if status.router.pid == child.pid:
                return status
        time.sleep(_POLL_INTERVAL_S)
    raise StartFailed(
        f"the router did not answer within {START_TIMEOUT_S:g} s: see {where.log_file}"
    )


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(5.0)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _log_tail(path: Path, start: int) -> list[str]:
    """Return the last lines that were written since `start`."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(start, file.tell() - _MAX_LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-SHOWN_LOG_LINES:]


def _is_held(pid_file: Path) -> bool:
    """Tell whether a router holds its lock; the pid in the file may be another namespace's."""
    try:
        descriptor = os.open(pid_file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
