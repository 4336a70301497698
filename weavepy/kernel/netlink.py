"""Talking to the kernel about its network by pyroute2: what is done seldom, or only once.

It knows nearly every message there is, at a millisecond for each. What a pod's start and the look
every few seconds at all that is attached are made of has its own: `rtnetlink.py`. Here is also what
both have in common: what a link is, what a refusal means, sysctls.

pyroute2 0.9 is asyncio inside, also behind its synchronous `IPRoute`: each call runs an event
loop to completion. What works beside a running uvloop, tried on Python 3.11:

- On a thread whose loop runs, nothing does ("this event loop is already running"). So all of
  this belongs on a worker thread; the daemon keeps one for it (`thread.py`).
- On a worker thread IPRoute makes its loop by the process-wide policy. If that is uvloop's, it
  fails, because uvloop has no netlink transport ("cannot open a UDP handle, invalid family
  16"). So `netlink()` brings its own selector loop, and the policy does not matter.

Opening, using and closing costs 0.6 ms, a dump of a few links 0.9 ms. Against that, a socket kept
for long is tied to the namespace and thread it was made on and has its state torn by an
interrupted dump. So each operation opens its own: a socket belongs to the network namespace
of the thread that opens it, which is also how work inside containers is done (`namespaces.py`).

pyroute2 leaves out attributes it does not know **silently**: asking for a link in another
namespace by id (`target_netnsid`) changes the link of that index in our own. Only attributes
that its message classes list are used here.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from pathlib import Path
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from weavepy.base.errors import WeavepyError

IpInterface = IPv4Interface | IPv6Interface
IpAddress = IPv4Address | IPv6Address

NLM_F_DUMP_INTR = 0x10
IFA_F_NODAD = 0x02
SCOPE_LINK = 253
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
MAX_INTERFACE_NAME_LENGTH = 15

MAX_DUMPS = 50
"""How often a table is read again because it changed meanwhile; a dump takes milliseconds."""

_iproute: Any = IPRoute


class HostError(WeavepyError):
    """The kernel or this host's set-up stands in the way; the text says of what and what to do."""


class MissingRights(HostError):
    """Changing the network needs root, or the capability CAP_NET_ADMIN."""


class KernelRefused(HostError):
    """The kernel said no to one operation; `code` is its errno."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface, as the kernel describes it."""

    index: int
    name: str
    kind: str
    """ "veth", "bridge", "tun" ...; empty for hardware and for the loopback."""
    up: bool
    loopback: bool
    mtu_bytes: int
    mac: str
    master: int
    """The index of the bridge or bond it is a port of; 0 if of none."""
    alias: str
    peer_namespace_id: int | None
    """For a veth whose other end is elsewhere: the kernel's id, in here, of that namespace."""
    operational: bool
    """Carrier is there and frames pass."""


@contextmanager
def netlink() -> Iterator[Any]:
    """An `IPRoute` for the network namespace of the calling thread. Never on a loop's thread."""
    loop = asyncio.SelectorEventLoop()
    try:
        with _iproute(use_event_loop=loop) as route:
            yield route
    finally:
        loop.run_until_complete(asyncio.sleep(0))  # lets the closed transport let go of its socket
        loop.close()


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what the kernel refuses inside into a `HostError` that says what was being done."""
    try:
        yield
    except NetlinkError as error:
        raise refusal(doing, int(error.code)) from error
    except OSError as error:
        raise refusal(doing, error.errno or errno.EIO) from error


def refusal(doing: str, code: int) -> HostError:
    if code in (errno.EPERM, errno.EACCES):
        return MissingRights(
            f"{doing}: not permitted; run as root (or with CAP_NET_ADMIN and CAP_SYS_ADMIN)"
        )
    return KernelRefused(f"{doing}: the kernel refused: {os.strerror(code)}", code)


def dumped(dump: Callable[[], Iterable[Any]]) -> list[Any]:
    """Read a whole table: again, if the kernel marks it as changed in the middle.

    pyroute2 passes the mark on with each message and does nothing about it.
    """
    for _ in range(MAX_DUMPS):
        messages = list(dump())
        if not any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages):
            return messages
    raise HostError("the kernel's network tables change faster than they can be read: try again")


def links(route: Any) -> list[Link]:
    return [_link(message) for message in dumped(route.get_links)]


def routes(route: Any, family: int) -> list[Any]:
    """Of one address family (2 or 10), as pyroute2's messages."""
    return dumped(lambda: route.get_routes(family=family))


def find_link(route: Any, name: str) -> Link | None:
    try:
        return _link(route.link("get", ifname=name)[0])
    except NetlinkError as error:
        if error.code in (errno.ENODEV, errno.ERANGE, errno.EINVAL):
            return None
        raise


def addresses(route: Any, index: int) -> list[IpInterface]:
    """Of one interface, without link-local ones: those configured, not those self-assigned."""
    found = []
    for message in dumped(lambda: route.get_addr(index=index)):
        if message["index"] != index or message["scope"] == SCOPE_LINK:
            continue
        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        found.append(ip_interface(f"{address}/{message['prefixlen']}"))
    return found


SYSCTLS = os.environ.get("WEAVEPY_SYSCTLS", "/proc/sys/net")
"""A container cannot write its /proc/sys; the image has the host's mounted elsewhere. Wherever it
is mounted, it shows the namespace of the thread that looks."""


def set_sysctl(path: str, value: int) -> bool:
    """Write below /proc/sys/net of the thread's namespace; False if the kernel has it not.

    Writes only what differs: some of these files act when written.
    """
    name, wanted = f"{SYSCTLS}/{path}", b"%d" % value
    try:
        with _opened(name, os.O_RDONLY) as file:
            if os.read(file, 32).strip() == wanted:
                return True
        with _opened(name, os.O_WRONLY) as file:
            os.write(file, wanted)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _opened(name: str, flags: int) -> Iterator[int]:
    file = os.open(name, flags | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def get_sysctl(path: str) -> int | None:
    try:
        return int(Path(SYSCTLS, path).read_text())
    except (OSError, ValueError):
        return None


def _link(message: Any) -> Link:
    information = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(information.get_attr("IFLA_INFO_KIND") if information else "") or "",
        up=bool(message["flags"] & IFF_UP),
        loopback=bool(message["flags"] & IFF_LOOPBACK),
        mtu_bytes=message.get_attr("IFLA_MTU") or 0,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        master=message.get_attr("IFLA_MASTER") or 0,
        alias=message.get_attr("IFLA_IFALIAS") or "",
        peer_namespace_id=message.get_attr("IFLA_LINK_NETNSID"),
        operational=message.get_attr("IFLA_OPERSTATE") == "UP",
    )
