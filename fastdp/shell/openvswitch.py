"""Asking Open vSwitch and telling it: `ovs-vsctl` (its database) and `ovs-ofctl` (its flows).

Changes go in one transaction each. Every call has an end: whoever waits here is not there for the
other tunnels, and a database that hangs must not stop what needs none. Where the daemons are, the
tools find by themselves (`OVS_RUNDIR`, by default /var/run/openvswitch).

Seen with 3.1: without its database ovs-vswitchd answers no OpenFlow, and its userspace datapath
forwards nothing; a kernel datapath goes on with what it knows. With ovs-vswitchd gone, too, a
kernel datapath passes kinds of frames that it saw in the last seconds, and drops others.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weavepy.kernel.netlink import HostError, MissingRights

ANSWER_S = 3
"""For one call, of whom milliseconds are usual."""
START_S = 10
"""The same while a host starts, with much else to do: what is not there now is done without."""
GRACE_S = 1.0
"""For a tool that does not end by itself when that time is up."""

OPENFLOW = "OpenFlow14"
"""The first with bundles, by which flows change together."""

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where tools are beside PATH, which of a service may hold little."""

_BRIDGE_COLUMNS = "name,datapath_type,fail_mode,protocols,external_ids,ports"
_PORT_COLUMNS = "_uuid,name"
_INTERFACE_COLUMNS = "name,type,options,ofport,ofport_request,mtu_request,error"


class NotInstalled(HostError):
    def __init__(self, program: str) -> None:
        super().__init__(
            f"Open vSwitch is not installed (no {program}): `apt-get install openvswitch-switch`"
        )


class NoAnswer(HostError):
    """Its daemons are not running, or hang; that can change at any time."""


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    kind: str
    """Its type: "internal", "vxlan" ...; empty for one that others made."""
    options: Mapping[str, str]
    number: int
    """OpenFlow's; -1 if it could not be made."""
    wanted_number: int
    wanted_mtu_bytes: int
    error: str
    """Why it could not be made."""


@dataclass(frozen=True, slots=True)
class Bridge:
    name: str
    datapath: str
    """Its type: "system" (the kernel's) or "netdev" (in ovs-vswitchd)."""
    fail_mode: str
    protocols: frozenset[str]
    labels: Mapping[str, str]
    """External ids."""
    interfaces: Mapping[str, Interface]


def bridges(answer_s: int = ANSWER_S) -> dict[str, Bridge]:
    """All of them, by name."""
    output = vsctl(
        "--format=json",
        *("--", f"--columns={_BRIDGE_COLUMNS}", "list", "Bridge"),
        *("--", f"--columns={_PORT_COLUMNS}", "list", "Port"),
        *("--", f"--columns={_INTERFACE_COLUMNS}", "list", "Interface"),
        answer_s=answer_s,
    )
    found, ports, interfaces = (_rows(line) for line in output.splitlines())
    names = {row["_uuid"]: row["name"] for row in ports}
    by_name = {row["name"]: _interface(row) for row in interfaces}
    return {
        row["name"]: Bridge(
            name=row["name"],
            datapath=row["datapath_type"],
            fail_mode=row["fail_mode"] or "",
            protocols=frozenset(_listed(row["protocols"])),
            labels=row["external_ids"],
            interfaces={
                names[port]: by_name[names[port]]
                for port in _listed(row["ports"])
                if names.get(port, "") in by_name
            },
        )
        for row in found
    }


def vsctl(*arguments: str, answer_s: int = ANSWER_S) -> str:
    """Raises `NoAnswer` or another `HostError`; returns when ovs-vswitchd has done it."""
    return _run("ovs-vsctl", answer_s, arguments)


def ensure_flows(bridge: str, wanted: str) -> bool:
    """Have these flows and no others, a line each; False if it was so.

    Flows that are as wanted stay, and go on counting; the others change all at once.
    """
    arguments = ["-O", OPENFLOW]
    with tempfile.NamedTemporaryFile("w", prefix="weavepy-flows-") as file:
        file.write(wanted)
        file.flush()
        if not _run(
            "ovs-ofctl", ANSWER_S, [*arguments, "diff-flows", bridge, file.name], harmless=2
        ):
            return False
        _run("ovs-ofctl", ANSWER_S, [*arguments, "--bundle", "replace-flows", bridge, file.name])
    return True


def packets(bridge: str, cookie: int) -> int:
    """That the flows of this cookie took."""
    arguments = ["-O", OPENFLOW, "dump-aggregate", bridge]
    output = _run("ovs-ofctl", ANSWER_S, [*arguments, f"cookie={cookie:#x}/-1"])
    counted = (part.removeprefix("packet_count=") for part in output.split())
    return sum(int(text) for text in counted if text.isdigit())


def switch_is_alive() -> bool:
    """Whether ovs-vswitchd runs and answers, with or without its database."""
    try:
        _run("ovs-appctl", ANSWER_S, ["-t", "ovs-vswitchd", "version"])
    except HostError:
        return False
    return True


def _run(name: str, answer_s: int, arguments: Sequence[str], harmless: int = 0) -> str:
    program = shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)
    if program is None:
        raise NotInstalled(name)
    try:
        done = subprocess.run(
            [program, f"--timeout={answer_s}", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=answer_s + GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"Open vSwitch does not answer: {name} waited in vain") from error
    if done.returncode not in (0, harmless):
        raise _failure(name, done.returncode, done.stderr)
    return done.stdout


def _failure(name: str, status: int, errors: str) -> HostError:
    last = errors.strip().splitlines()[-1] if errors.strip() else "without saying why"
    said = last.rpartition("|")[2].removeprefix(f"{name}: ")
    if "Permission denied" in errors or "Operation not permitted" in errors:
        return MissingRights(f"Open vSwitch: not permitted ({said}); run as root")
    if status < 0:
        return NoAnswer(f"Open vSwitch does not answer: {name} waited in vain")
    if any(words in errors for words in ("connection failed", "failed to open socket", "pidfile")):
        return NoAnswer(f"Open vSwitch is not running: {said}")
    return HostError(f"Open vSwitch refused: {said}")


def _rows(text: str) -> list[dict[str, Any]]:
    table = json.loads(text)
    names = table["headings"]
    return [dict(zip(names, map(_value, row), strict=True)) for row in table["data"]]


def _value(value: Any) -> Any:
    """RFC 7047, 5.1: a set is a list, empty for what is not there; a map is a dict."""
    match value:
        case ["set", list(members)]:
            return [_value(member) for member in members]
        case ["map", list(pairs)]:
            return dict(pairs)
        case ["uuid", str(text)]:
            return text
        case _:
            return value


def _listed(value: Any) -> list[Any]:
    """A set of one is that one."""
    return value if isinstance(value, list) else [value]


def _interface(row: Mapping[str, Any]) -> Interface:
    return Interface(
        name=row["name"],
        kind=row["type"],
        options=row["options"],
        number=row["ofport"] or 0,
        wanted_number=row["ofport_request"] or 0,
        wanted_mtu_bytes=row["mtu_request"] or 0,
        error=row["error"] or "",
    )
