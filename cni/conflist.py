"""The network configuration that runtimes read, as `weavepy cni install` writes it."""

import json
from typing import Any

FILE_NAME = "10-weavepy.conflist"
PLUGIN = "weavepy-cni"
IPAM_PLUGIN = "weavepy-ipam"
NETWORK = "weavepy"
DEFAULT_VERSION = "1.0.0"


def conflist(
    name: str = NETWORK,
    version: str = DEFAULT_VERSION,
    *,
    subnet: str = "",
    run_directory: str = "",
    state_directory: str = "",
    chained: tuple[str, ...] = (),
) -> bytes:
    """`chained` are plugins after ours, of those that need no more than their capability."""
    plugin: dict[str, Any] = {
        "type": PLUGIN,
        "capabilities": {"ips": True, "mac": True},
        "hairpinMode": True,
    }
    ipam = {"type": IPAM_PLUGIN} | ({"subnet": subnet} if subnet else {})
    plugin["ipam"] = ipam
    if run_directory:
        plugin["runDir"] = run_directory
    if state_directory:
        plugin["stateDir"] = state_directory
    plugins = [plugin]
    for each in chained:
        capability = {"portmap": "portMappings"}.get(each, each)
        entry: dict[str, Any] = {"type": each, "capabilities": {capability: True}}
        if each == "portmap":
            entry["snat"] = True
        plugins.append(entry)
    content = {"cniVersion": version, "name": name, "plugins": plugins}
    return (json.dumps(content, indent=2) + "\n").encode()
