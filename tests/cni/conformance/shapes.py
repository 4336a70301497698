"""What a plugin may print, by version of the specification; written from its text alone.

Each check returns what is wrong, as sentences; nothing means that all is well.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

RESULT = {"cniVersion", "interfaces", "ips", "routes", "dns"}
INTERFACE = {"name", "mac", "sandbox"}
INTERFACE_110 = {"mtu", "socketPath", "pciID"}
ROUTE = {"dst", "gw"}
ROUTE_110 = {"mtu", "advmss", "priority", "table", "scope"}
DNS = {"nameservers", "domain", "search", "options"}
ERROR = {"cniVersion", "code", "msg", "details"}


def at_least(version: str, other: str) -> bool:
    return VERSIONS.index(version) >= VERSIONS.index(other)


def wrong_in_result(version: str, result: Any) -> list[str]:
    if not isinstance(result, dict):
        return [f"the result is no object: {result!r}"]
    found = [f"unknown key {key}" for key in sorted(result.keys() - RESULT)]
    if result.get("cniVersion") != version:
        found.append(f"cniVersion {result.get('cniVersion')!r}, asked was {version}")
    interfaces = result.get("interfaces", [])
    for interface in _objects(interfaces, "interfaces", found):
        found += _wrong_in_interface(version, interface)
    for ip in _objects(result.get("ips", []), "ips", found):
        found += _wrong_in_ip(version, ip, len(interfaces))
    for route in _objects(result.get("routes") or [], "routes", found):
        allowed = ROUTE | (ROUTE_110 if at_least(version, "1.1.0") else set())
        found += [f"unknown key {key} of a route" for key in sorted(route.keys() - allowed)]
        found += _wrong_network("routes.dst", route.get("dst"))
        if "gw" in route:
            found += _wrong_address("routes.gw", route["gw"])
    dns = result.get("dns", {})
    if not isinstance(dns, dict) or dns.keys() - DNS:
        found.append(f"dns is {dns!r}")
    return found


def wrong_in_error(version: str, error: Any) -> list[str]:
    if not isinstance(error, dict):
        return [f"the error is no object: {error!r}"]
    found = [f"unknown key {key}" for key in sorted(error.keys() - ERROR)]
    if error.get("cniVersion", version) != version:
        found.append(f"cniVersion {error['cniVersion']!r}, asked was {version}")
    if not isinstance(error.get("code"), int) or error["code"] <= 0:
        found.append(f"code {error.get('code')!r}")
    if not isinstance(error.get("msg"), str) or not error["msg"]:
        found.append(f"msg {error.get('msg')!r}")
    if not isinstance(error.get("details", ""), str):
        found.append(f"details {error['details']!r}")
    return found


def wrong_in_versions(answer: Any) -> list[str]:
    if not isinstance(answer, dict):
        return [f"the answer is no object: {answer!r}"]
    found = [] if isinstance(answer.get("cniVersion"), str) else ["no cniVersion"]
    supported = answer.get("supportedVersions")
    if not isinstance(supported, list) or not all(isinstance(each, str) for each in supported):
        found.append(f"supportedVersions {supported!r}")
    return found


def _wrong_in_interface(version: str, interface: dict[str, Any]) -> list[str]:
    allowed = INTERFACE | (INTERFACE_110 if at_least(version, "1.1.0") else set())
    found = [f"unknown key {key} of an interface" for key in sorted(interface.keys() - allowed)]
    if not isinstance(interface.get("name"), str) or not interface["name"]:
        found.append(f"an interface without a name: {interface}")
    for key in ("mac", "sandbox"):
        if not isinstance(interface.get(key, ""), str):
            found.append(f"{key} of an interface is {interface[key]!r}")
    mac = interface.get("mac")
    if mac and (len(mac) != 17 or mac.count(":") != 5):
        found.append(f"mac {mac!r}")
    return found


def _wrong_in_ip(version: str, ip: dict[str, Any], interfaces: int) -> list[str]:
    found = []
    allowed = {"address", "gateway", "interface"}
    if not at_least(version, "1.0.0"):
        allowed.add("version")
    found += [f"unknown key {key} of an ip" for key in sorted(ip.keys() - allowed)]
    try:
        address = ipaddress.ip_interface(ip["address"])
    except (KeyError, ValueError):
        return [*found, f"the address of {ip}"]
    if "/" not in ip["address"]:
        found.append(f"{ip['address']} has no length")
    if "version" in allowed and ip.get("version") != str(address.version):
        found.append(f"version {ip.get('version')!r} of {address}")
    if "gateway" in ip:
        found += _wrong_address("ips.gateway", ip["gateway"])
    index = ip.get("interface", 0)
    if not isinstance(index, int) or not 0 <= index < max(interfaces, 1):
        found.append(f"interface {index!r} of {interfaces}")
    return found


def _wrong_network(what: str, text: Any) -> list[str]:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return [f"{what} is {text!r}"]
    return []


def _wrong_address(what: str, text: Any) -> list[str]:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return [f"{what} is {text!r}"]
    return []


def _objects(found: Any, what: str, wrong: list[str]) -> Iterable[dict[str, Any]]:
    if not isinstance(found, list):
        wrong.append(f"{what} is no list: {found!r}")
        return []
    wrong += [f"{what} has {each!r} in it" for each in found if not isinstance(each, dict)]
    return [each for each in found if isinstance(each, dict)]
