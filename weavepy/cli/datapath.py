"""`weavepy datapath`: what carries frames, in the foreground and on its own.

A router starts its datapath itself and leaves it running when it is replaced. Where the end of a
router is the end of all that it started, as in a pod, the datapath gets a pod of its own.
"""

import fcntl
import os
import signal
import sys
import time
from types import FrameType

import click

from weavepy.base.errors import WeavepyError
from weavepy.base.settings import DEFAULT_PORT, directories
from weavepy.cli.command import command, require_network_rights
from weavepy.cli.router_options import option

_POLL_S = 0.05


@command(
    ("weavepy datapath", "then start the router, on the same host"),
)
@option(
    "--port",
    "UDP port; the router's, too.",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    metavar="PORT",
)
@option("--insecure", "For a router with this option.", is_flag=True)
@option("--no-offload", "Use none of the kernel's batching.", is_flag=True)
def datapath(port: int, insecure: bool, no_offload: bool) -> int:
    """Carry frames for a router that is started apart from this, by --separate-datapath.

    Routers come and go; until the first one nothing is carried. Waits for a predecessor to end.
    """
    require_network_rights("datapath")
    where = directories()
    try:
        where.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise WeavepyError(f"cannot make {where.run}: {error.strerror}") from error
    # As the first process of a container it would else not be ended by it.
    signal.signal(signal.SIGTERM, _end)
    _wait_for_predecessor(str(where.datapath_lock))

    from router.sleeve.process import main

    arguments = [
        *("--socket", str(where.datapath_socket), "--pid-file", str(where.datapath_pid_file)),
        *("--port", str(port)),
        *(["--insecure"] if insecure else []),
        *(["--no-offload"] if no_offload else []),
    ]
    return main(arguments)


def _wait_for_predecessor(path: str) -> None:
    """Of another pod, perhaps: TAP, port and socket are only one's. Ours until we end."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL_S)
        else:
            return


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
