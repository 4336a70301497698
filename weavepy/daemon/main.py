"""From options to a running router, and back to an exit code.

Everything here happens once: directories, the lock that keeps a second router out, the log, the
event loop. The router itself is in `router`.
"""

import contextlib
import fcntl
import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import uvloop

from weavepy.base.errors import WeavepyError
from weavepy.base.settings import Directories
from weavepy.daemon.options import Options
from weavepy.daemon.router import Router

log = logging.getLogger(__name__)

COLLECT_AFTER = 50_000, 20, 100
"""The garbage collector's thresholds. As Python comes it goes through everything again and again
while a large cluster's objects are read, for a quarter of that time; hardly anything is in cycles.
"""


class AlreadyRunning(WeavepyError):
    """Another router holds the run directory."""


def run(options: Options) -> int:
    """Run a router in the foreground until it is told to stop; return the exit code.

    Raises `WeavepyError` for whatever keeps it from starting.
    """
    start_log(options.log_level)
    gc.set_threshold(*COLLECT_AFTER)
    make_directories(options.directories)
    with only_router(options.directories.router_pid_file):
        return uvloop.run(_run(options))


async def _run(options: Options) -> int:
    router = Router(options)
    try:
        await router.start()
        await router.until_stopped()
    finally:
        await router.stop()
    return 0


def start_log(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        force=True,
    )
    logging.getLogger("pyroute2").setLevel(logging.WARNING)


def make_directories(directories: Directories) -> None:
    for path, mode in ((directories.run, 0o755), (directories.state, 0o700)):
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise WeavepyError(
                f"cannot make {path}: {error.strerror}; run as root, or set WEAVEPY_RUN_DIR and"
                " WEAVEPY_STATE_DIR to directories of your own"
            ) from error


@contextlib.contextmanager
def only_router(pid_file: Path) -> Iterator[None]:
    """Hold a lock on the pid file, so that a stale one is no obstacle and a live one is."""
    try:
        descriptor = os.open(pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WeavepyError(f"cannot write {pid_file}: {error.strerror}; run as root") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(descriptor, 32).decode(errors="replace").strip()
            raise AlreadyRunning(
                f"a router is running here already (pid {pid}): see `weavepy status`, or end it"
                " with `weavepy stop`"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                pid_file.unlink()
    finally:
        os.close(descriptor)
