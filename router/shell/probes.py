"""Trying out what this kernel can do, one small experiment per feature.

Each probe is called inside a fresh, empty network namespace, does the real thing there (makes the
device, sends the datagrams, loads the rule), and returns a short note or raises. What it
leaves behind goes away with the namespace.
"""

import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from router.shell.filters import STORM_RULE, STORM_SET
from router.sleeve.ebpf import INGRESS_INTERFACE, loaded_filter
from router.sleeve.tap import IFF_MULTI_QUEUE, TUNSETSTEERINGEBPF
from weavepy.kernel.netlink import MissingRights, find_link, netlink
from weavepy.kernel.nftables import run_transaction
from weavepy.kernel.ownership import Session

UDP_SEGMENT = 103
UDP_GRO = 104

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40


class NotTried(Exception):
    """The experiment needs something that is not there; nothing is known."""


class Absent(Exception):
    """The feature is not there; the text says how one knows."""


def veth() -> str:
    return _make_device("veth", peer={"ifname": "probe1"})


def bridge() -> str:
    return _make_device("bridge")


def vxlan() -> str:
    return _make_device("vxlan", vxlan_id=42, vxlan_port=6784, vxlan_learning=False)


def isolated_ports() -> str:
    """Ports of a bridge that pass nothing to each other; old kernels ignore the wish."""
    with netlink() as route:
        route.link("add", ifname="probe0", kind="bridge")
        route.link("add", ifname="probe1", kind="veth", peer={"ifname": "probe2"})
        bridge, port = find_link(route, "probe0"), find_link(route, "probe1")
        assert bridge is not None
        assert port is not None
        route.link("set", index=port.index, master=bridge.index)
        route.brport("set", index=port.index, isolated=1)
        message = route.link("get", index=port.index)[0]
        data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
        if data is None or not data.get_attr("IFLA_BRPORT_ISOLATED"):
            raise Absent("the kernel ignores the flag")
    return ""


def wireguard() -> str:
    return _make_device("wireguard")


def tap() -> str:
    os.close(_open_tap(0))
    return ""


def tap_vnet_header() -> str:
    os.close(_open_tap(IFF_VNET_HDR))
    return ""


def tap_tso() -> str:
    return _try_tap_offload(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)


def tap_uso() -> str:
    return _try_tap_offload(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6)


def udp_gso() -> str:
    """One send of three pieces, taken as three datagrams."""
    with _udp_pair() as (sender, receiver):
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        sender.send(bytes(250))
        sizes = [len(receiver.recv(65535)) for _ in range(3)]
    if sizes != [100, 100, 50]:
        raise Absent(f"datagrams of {sizes} bytes came in")
    return ""


def udp_gro() -> str:
    """One send of three pieces, taken whole by a receiver that asked for that."""
    with _udp_pair() as (sender, receiver):
        receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        sender.send(bytes(250))
        size = len(receiver.recv(65535))
    if size != 250:
        raise Absent(f"{size} bytes came in at once")
    return ""


def openvswitch() -> str:
    """The kernel's datapath answers as the generic netlink family "ovs_datapath"."""
    name = b"ovs_datapath\0"
    attribute = struct.pack("HH", 4 + len(name), 2) + name
    attribute += bytes(-len(attribute) % 4)
    body = struct.pack("BBH", 3, 1, 0) + attribute  # CTRL_CMD_GETFAMILY
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as generic:
        generic.settimeout(2.0)
        generic.send(struct.pack("IHHII", 16 + len(body), 16, 1, 1, 0) + body)
        answer = generic.recv(65535)
    kind, status = struct.unpack_from("H", answer, 4)[0], struct.unpack_from("i", answer, 16)[0]
    if kind == 2 and status != 0:  # NLMSG_ERROR
        raise OSError(-status, os.strerror(-status))
    return ""


def openvswitch_daemon() -> str:
    """Whoever has the kernel's datapath on this host: it, not the kernel, takes our wishes."""
    program = shutil.which("ovs-vsctl") or shutil.which("ovs-vsctl", path="/usr/sbin:/usr/bin")
    if program is None:
        raise OSError(errno.ENOENT, "Open vSwitch is not installed")
    shown = _run([program, "--timeout=2", "get", "Open_vSwitch", ".", "db_version"])
    if shown.returncode != 0:
        raise OSError(errno.ECONNREFUSED, _last_line(shown.stderr))
    return ""


def esp() -> str:
    """A security association with AES-GCM, as the fast path of an encrypted mesh needs it.

    Failing that, one with the null cipher tells a kernel without ESP from one without AES-GCM.
    """
    ip = _program("ip")
    state = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 mode transport"
    command = [ip, *state.split()]
    gcm = _run([*command, "aead", "rfc4106(gcm(aes))", "0x" + "11" * 20, "128"])
    if gcm.returncode == 0:
        return ""
    null = _run([*command, "enc", "ecb(cipher_null)", "0x", "auth", "digest_null", "0x"])
    if null.returncode == 0:
        raise Absent("the kernel has ESP, but no AES-GCM for it")
    if "type not found" in null.stderr:
        raise Absent("the kernel has no ESP")
    raise Absent(_last_line(gcm.stderr))


def nft_bridge() -> str:
    run_transaction(
        "add table bridge probe\n"
        "add set bridge probe own { type ifname . ether_addr . ipv4_addr; }\n"
        "add chain bridge probe c { type filter hook prerouting priority -300; }\n"
        "add rule bridge probe c iifname . ether saddr . ip saddr @own drop\n"
    )
    return "with concatenation sets"


def nft_masquerade() -> str:
    run_transaction(
        "add table inet probe\n"
        "add chain inet probe c { type nat hook postrouting priority 100; }\n"
        "add rule inet probe c ip saddr 10.32.0.0/12 masquerade\n"
    )
    return ""


def nft_vxlan() -> str:
    """Telling datagrams apart by source address and VXLAN network id."""
    run_transaction(
        "add table inet probe\n"
        "add set inet probe tunnels { typeof ip saddr . @th,96,24; }\n"
        "add element inet probe tunnels { 192.0.2.1 . 0x1002 }\n"
        "add chain inet probe c { type filter hook input priority -20; }\n"
        "add rule inet probe c udp dport 6784 ip saddr . @th,96,24 @tunnels accept\n"
    )
    return ""


def ipset() -> str:
    """The kernel's half: what protocol version it speaks."""
    body = struct.pack("!BBH", 2, 0, 0) + struct.pack("HHBxxx", 5, 1, 7)  # protocol attribute
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:
        netfilter.settimeout(2.0)
        command = 6 << 8 | 1  # NFNL_SUBSYS_IPSET, IPSET_CMD_PROTOCOL
        netfilter.send(struct.pack("IHHII", 16 + len(body), command, 1, 1, 0) + body)
        answer = netfilter.recv(65535)
    if struct.unpack_from("H", answer, 4)[0] == 2:
        status = -struct.unpack_from("i", answer, 16)[0]
        raise OSError(status, os.strerror(status))
    return ""


def netem() -> str:
    return _try_queue("netem", delay=1000)


def tbf() -> str:
    return _try_queue("tbf", rate=1_000_000, burst=10_000, latency=50_000)


def nft_storm_limit() -> str:
    run_transaction(
        "add table bridge probe\n"
        f"add set bridge probe storms {{ {STORM_SET}; }}\n"
        "add counter bridge probe storm\n"
        "add chain bridge probe c { type filter hook prerouting priority -300; }\n"
        f"add rule bridge probe c {STORM_RULE}\n"
    )
    return ""


def nft_log() -> str:
    run_transaction(
        "add table inet probe\n"
        "add chain inet probe c { type filter hook forward priority 0; }\n"
        "add rule inet probe c log group 6783 snaplen 128\n"
    )
    return ""


def nft_owned() -> str:
    session = Session()
    try:
        if not session.own("inet", "probe"):
            raise Absent("needs Linux 6.9 and libnftables")
    finally:
        session.close()
    return ""


def tap_fair() -> str:
    descriptor = _open_tap(IFF_MULTI_QUEUE)
    try:
        with loaded_filter(INGRESS_INTERFACE) as program:
            fcntl.ioctl(descriptor, TUNSETSTEERINGEBPF, struct.pack("i", program))
    finally:
        os.close(descriptor)
    return ""


def ipv6() -> str:
    if not Path("/proc/sys/net/ipv6").is_dir():
        raise Absent("the kernel has no IPv6")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM):
        return ""


# --- tools -------------------------------------------------------------------------------------


def attempt(probe: Callable[[], str]) -> tuple[bool | None, str]:
    """Whether it is there (None: could not be tried), and a note."""
    try:
        return True, probe()
    except NotTried as error:
        return None, str(error)
    except MissingRights as error:
        return None, str(error)
    except NetlinkError as error:
        code = int(error.code)
        return None if code == errno.EPERM else False, os.strerror(code)
    except OSError as error:
        return None if error.errno == errno.EPERM else False, error.strerror or str(error)
    except Exception as error:  # an experiment that fails in any way at all has found nothing
        return False, str(error) or type(error).__name__


def _make_device(kind: str, **settings: Any) -> str:
    with netlink() as route:
        route.link("add", ifname="probe0", kind=kind, **settings)
        link = find_link(route, "probe0")
        if link is None or link.kind != kind:
            raise Absent("the device did not appear")
        route.link("del", index=link.index)
    return ""


def _open_tap(flags: int) -> int:
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Absent("there is no /dev/net/tun") from None
    try:
        request = struct.pack("16sH22x", b"probetap", IFF_TAP | IFF_NO_PI | flags)
        fcntl.ioctl(descriptor, TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _try_tap_offload(offloads: int) -> str:
    descriptor = _open_tap(IFF_VNET_HDR)
    try:
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, offloads)
    finally:
        os.close(descriptor)
    return ""


@contextmanager
def _udp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Sender and receiver over the loopback, which a new namespace has to bring up first."""
    with netlink() as route:
        loopback = find_link(route, "lo")
        if loopback is not None and not loopback.up:
            route.link("set", index=loopback.index, state="up")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.settimeout(2.0)
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        yield sender, receiver


def _try_queue(kind: str, **settings: int) -> str:
    with netlink() as route:
        route.link("add", ifname="queue0", kind="veth", peer={"ifname": "queue1"})
        link = find_link(route, "queue0")
        assert link is not None
        try:
            route.tc("add", kind=kind, index=link.index, **settings)
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                raise Absent("the kernel has no such queueing discipline") from error
            raise
        finally:
            route.link("del", index=link.index)
    return ""


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise NotTried(f"needs the program {name} (package iproute2)")
    return found


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"
