"""Network namespaces: finding one, and doing something inside it.

A network namespace is a property of a *thread*, so work inside a container is done by a short-lived
thread that enters it and then ends, or by one that comes back at once. Nothing forks: a fork of a
process with threads and a running event loop is a copy of locks that nobody will release.

Two namespaces are the same if their files have one device and inode; paths may differ. A path
may come to name another namespace (a container restarted, a PID reused), so an operation opens
the path once and works on that descriptor to its end.
"""

import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from weavepy.kernel.netlink import HostError, MissingRights

Result = TypeVar("Result")

NAMED_DIRECTORIES = (Path("/run/netns"), Path("/var/run/netns"))
"""Where `ip netns add` and CNI runtimes pin namespaces by name."""

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
"""ioctl of a namespace's file: its CLONE_NEW... flag (linux/nsfs.h)."""

_libc = ctypes.CDLL(None, use_errno=True)


class NoSuchNamespace(HostError):
    """Nothing by that name, path or PID, or it is not a network namespace."""


class OwnNamespace(HostError):
    """The namespace is the host's own: attaching the host to itself is meant to be `expose`."""


def resolve_name(name: str) -> Path:
    """The path of a namespace given by name (as `ip netns` lists it) or by path."""
    if "/" in name:
        path = Path(name)
        if not path.exists():
            raise NoSuchNamespace(f"there is no network namespace at {name}")
        # A last component under /proc is a link into nowhere; only its directory is resolved.
        return path.parent.resolve() / path.name
    for directory in NAMED_DIRECTORIES:
        if name not in ("", ".", "..") and (directory / name).exists():
            return (directory / name).resolve()
    raise NoSuchNamespace(
        f"there is no network namespace named {name!r}: `ip netns` lists those with names; "
        "a path, a PID or a container id will do too"
    )


def resolve_pid(pid: int) -> Path:
    path = Path(f"/proc/{pid}/ns/net")
    if not Path(f"/proc/{pid}").exists():
        raise NoSuchNamespace(f"there is no process {pid}")
    return path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor that keeps this network namespace alive; refuses our own."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise MissingRights(f"opening the namespace {path}: not permitted; run as root") from error
    except OSError as error:
        raise NoSuchNamespace(
            f"the network namespace {path} is gone or cannot be opened: {error.strerror}"
        ) from error
    try:
        if not _is_network_namespace(descriptor):
            raise NoSuchNamespace(f"{path} is not a network namespace")
        if identity(descriptor) == own_identity():
            raise OwnNamespace(
                f"{path} is the host's own network namespace (a container with host networking?): "
                "use `weavepy expose` to put the host on the network"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def own_identity() -> tuple[int, int]:
    """Of the calling thread, which need not be in the namespace of the process's first one."""
    status = os.stat("/proc/thread-self/ns/net")
    return status.st_dev, status.st_ino


def run_inside(descriptor: int, work: Callable[[], Result]) -> Result:
    """Call `work` on a new thread inside the namespace; its result or exception is ours."""
    return _on_own_thread(lambda: _enter(descriptor), work)


@contextmanager
def visited(descriptor: int) -> Iterator[None]:
    """Have the calling thread itself inside: for work that a pod's start waits for.

    A thread made for it takes 0.2 ms, and two turns more of a busy processor. A thread that could
    not come back would do to a container what is meant for its host, so then the process ends.
    """
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(descriptor)
        try:
            yield
        finally:
            if _libc.setns(back, CLONE_NEWNET) != 0:
                os.abort()
    finally:
        os.close(back)


def run_in_new(work: Callable[[], Result]) -> Result:
    """Call `work` inside a new, empty network namespace that vanishes when it returns."""
    return _on_own_thread(_unshare, work)


def _on_own_thread(prepare: Callable[[], None], work: Callable[[], Result]) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            prepare()
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="weavepy-namespace", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        _raise_errno("entering a network namespace")


def _unshare() -> None:
    if _libc.unshare(CLONE_NEWNET) != 0:
        _raise_errno("making a network namespace")


def _raise_errno(doing: str) -> None:
    code = ctypes.get_errno()
    if code == errno.EPERM:
        raise MissingRights(f"{doing}: not permitted; run as root (CAP_SYS_ADMIN)")
    raise HostError(f"{doing}: the kernel refused: {os.strerror(code)}")


def _is_network_namespace(descriptor: int) -> bool:
    try:
        return fcntl.ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False
