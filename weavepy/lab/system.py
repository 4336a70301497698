"""The few things a lab needs of the kernel: run a tool, list namespaces, know its processes.

A process is known by its id *and* its start time, because ids are used again, or by the network
namespace it lives in, because that cannot be faked and survives every crash of ours.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from weavepy.base.errors import WeavepyError

NETNS_DIRECTORY = Path("/run/netns")

TOOL_TIMEOUT_S = 60.0
"""No single call of `ip`, `nft`, `tc` or `ethtool` takes longer, or the machine is stuck."""

POLL_S = 0.02

PARALLEL_REQUESTS = 8
"""To routers, at one time; they share the machine's cores."""

_PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "bridge": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "iperf3": "iperf3",
    "ping": "iputils-ping",
}

_CLONE_NEWNET = 0x40000000

Item = TypeVar("Item")
Made = TypeVar("Made")


class LabError(WeavepyError):
    """Something of the lab could not be made, found or removed."""


class ToolMissing(LabError):
    def __init__(self, tool: str) -> None:
        super().__init__(
            f"the command {tool!r} is missing; install it, on Debian or Ubuntu with:"
            f" apt-get install {_PACKAGES.get(tool, tool)}"
        )


class ToolFailed(LabError):
    def __init__(self, argv: Sequence[str], why: str) -> None:
        self.why = why
        super().__init__(f"`{' '.join(argv)}` failed: {why}")


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("a lab is made of network namespaces, which only root can make: use sudo")


def require_tool(tool: str) -> None:
    if shutil.which(tool) is None:
        raise ToolMissing(tool)


held_locks: set[int] = set()
"""Descriptors of the locks that we hold. Tools inherit them: if we are killed while one of them
makes something, whoever cleans up waits for it to finish instead of missing what it makes."""


def run(argv: Sequence[str], input_text: str = "", timeout_s: float = TOOL_TIMEOUT_S) -> str:
    """Return what the tool printed; raises `ToolFailed` with what it complained about."""
    try:
        done = subprocess.run(
            argv,
            input=input_text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            pass_fds=tuple(held_locks),
        )
    except FileNotFoundError as error:
        raise ToolMissing(argv[0]) from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(argv, f"no end after {timeout_s:g} s") from error
    if done.returncode != 0:
        complaint = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ToolFailed(argv, complaint[0] if complaint else f"exit status {done.returncode}")
    return done.stdout


def ip_batch(namespace: str, commands: Iterable[str]) -> None:
    """Run many `ip` commands in a namespace with one process."""
    text = "\n".join(commands)
    if text:
        run(["ip", "-n", namespace, "-batch", "-"], text + "\n")


def inside(namespace: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in the namespace; its process id is that of `argv`."""
    return ["ip", "netns", "exec", namespace, *argv]


def in_namespace(namespace: str, make: Callable[[], Made]) -> Made:
    """Call `make` in the namespace and return what it made, typically a socket.

    A socket belongs for ever to the namespace in which it was made. A thread can change its
    namespace alone, so a thread that ends right afterwards leaves no trace of it.
    """
    outcome: list[Made] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            with open(NETNS_DIRECTORY / namespace, "rb") as file:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            outcome.append(make())
        except OSError as error:
            failure.append(LabError(f"cannot enter namespace {namespace}: {error}"))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=enter, name=f"enter {namespace}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def in_parallel(do: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """Call `do` for each, some at a time, and return the results in order."""
    with ThreadPoolExecutor(max_workers=PARALLEL_REQUESTS) as pool:
        return list(pool.map(do, items))


# --- namespaces --------------------------------------------------------------------------------


def list_namespaces() -> list[str]:
    try:
        return sorted(entry.name for entry in NETNS_DIRECTORY.iterdir())
    except FileNotFoundError:
        return []


def namespace_inode(namespace: str) -> int | None:
    """What tells this namespace from all others that exist; None if there is no such."""
    try:
        return (NETNS_DIRECTORY / namespace).stat().st_ino
    except OSError:
        return None


# --- processes ---------------------------------------------------------------------------------


def start_ticks(pid: int) -> int | None:
    """When the process started, in the kernel's ticks; None if it is gone, or a zombie."""
    fields = _stat_fields(pid)
    if fields is None or fields[0] == "Z":
        return None
    return int(fields[19])


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads so far; 0 if it is gone."""
    fields = _stat_fields(pid)
    if fields is None:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def network_namespace_of(pid: int) -> int | None:
    try:
        text = os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None
    return int(text.removeprefix("net:[").removesuffix("]"))


def processes_in(namespaces: Iterable[str]) -> list[int]:
    """Ids of all processes that live in these network namespaces; never our own."""
    inodes = {inode for name in namespaces if (inode := namespace_inode(name)) is not None}
    return [
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and int(entry) != os.getpid()
        if network_namespace_of(int(entry)) in inodes
    ]


def send_signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


@dataclass(frozen=True, slots=True)
class Spawned:
    pid: int
    start_ticks: int


_children: dict[int, subprocess.Popen[bytes]] = {}
"""Processes that this one started and has not collected; they outlive us without harm."""


def spawn(
    argv: Sequence[str], log: Path, directory: Path, environment: Mapping[str, str] | None = None
) -> Spawned:
    """Start a process in the background, apart from our terminal, with its output in `log`."""
    with open(log, "ab") as output:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
    _children[child.pid] = child
    return Spawned(child.pid, start_ticks(child.pid) or 0)


def reap() -> None:
    """Collect those of our children that ended."""
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            del _children[pid]


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = POLL_S) -> bool:
    """Poll until it holds; False if it did not within the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def wait_gone(pid: int, timeout_s: float) -> bool:
    """With its last thread, as one that the kernel keeps waiting keeps sockets open."""

    def gone() -> bool:
        reap()
        return start_ticks(pid) is None and len([*Path(f"/proc/{pid}/task").glob("*")]) < 2

    return wait_until(gone, timeout_s)


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third, the state, on; see proc(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return text[text.rindex(")") + 2 :].split()
