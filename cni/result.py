"""The answer to ADD, in the form of the version that was asked for.

0.3.0 to 0.4.0 name the family in each of `ips`; from 1.0.0 on they do not. 1.1.0 tells the MTU.
"""

from cni.call import VERSIONS, Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def of_interface(call: Call, answer: "dict[str, Any]") -> "dict[str, Any]":
    """`answer` is the router's `CniAddAnswer`. The container's interface is the second one."""
    interfaces: list[dict[str, Any]] = [
        {"name": answer["host_interface"], "mac": answer["host_mac"]},
        {"name": call.interface, "mac": answer["mac"], "sandbox": call.namespace},
    ]
    if _at_least(call, "1.1.0"):
        for interface in interfaces:
            interface["mtu"] = answer["mtu"]
    return {
        "cniVersion": call.version,
        "interfaces": interfaces,
        "ips": [{**ip, "interface": 1} for ip in _ips(call, answer)],
        **_rest(call, answer),
    }


def of_addresses(call: Call, answer: "dict[str, Any]") -> "dict[str, Any]":
    """As an IPAM plugin gives it to the plugin that called it: no interfaces."""
    return {
        "cniVersion": call.version,
        "ips": _ips(call, answer),
        **_rest(call, answer),
    }


def _ips(call: Call, answer: "dict[str, Any]") -> "list[dict[str, Any]]":
    ips = []
    for row in answer["addresses"]:
        ip = {"address": row["address"]}
        if row["gateway"]:
            ip["gateway"] = row["gateway"]
        if not _at_least(call, "1.0.0"):
            ip["version"] = "6" if ":" in row["address"] else "4"
        ips.append(ip)
    return ips


def _rest(call: Call, answer: "dict[str, Any]") -> "dict[str, Any]":
    routes = []
    for row in answer["routes"]:
        route = {"dst": row["dst"]}
        if row["gw"]:
            route["gw"] = row["gw"]
        routes.append(route)
    return {"routes": routes, "dns": call.section("dns") or call.section("ipam", "dns")}


def _at_least(call: Call, version: str) -> bool:
    return VERSIONS.index(call.version) >= VERSIONS.index(version)
