"""Examine any plugin: run all cases against it, in a network namespace of its own.

    python -m tests.cni.conformance --plugin /usr/lib/cni/bridge --conf '{"name": "n", ...}' \\
        --second-conf '{"name": "m", "ipam": {"subnet": "10.90.0.0/30", ...}}'

Prints each case that fails, with why, and how many passed. Needs root.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cni.conformance.cases import cases
from tests.cni.conformance.target import Target

BRIDGE = {
    "name": "conformance",
    "type": "bridge",
    "bridge": "cnicf0",
    "isDefaultGateway": True,
    "ipam": {"type": "host-local", "subnet": "10.89.0.0/16"},
}
SECOND = {
    "name": "conformance-second",
    "bridge": "cnicf1",
    "ipam": {"type": "host-local", "subnet": "10.90.0.0/30"},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plugin", type=Path, default=Path("/usr/lib/cni/bridge"))
    parser.add_argument("--conf", type=json.loads, help="without cniVersion; default: a bridge")
    parser.add_argument(
        "--second-conf",
        type=json.loads,
        default={},
        help="what makes it that of another network with room for one container; default: none",
    )
    parser.add_argument("--cni-path", default="/usr/lib/cni")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    host = f"weavepy-cfh-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", host], check=True)
    wrong = {}
    try:
        with tempfile.TemporaryDirectory() as directory:
            config, second = options.conf or BRIDGE, options.second_conf
            if not options.conf:
                second = SECOND
            for ipam in (config.get("ipam", {}), second.get("ipam", {})):
                if ipam.get("type") == "host-local":
                    ipam.setdefault("dataDir", directory)
            target = Target(options.plugin, config, options.cni_path, host, second)
            wanted = [case for case in cases(second=bool(second)) if options.only in case.name]
            for case in wanted:
                try:
                    case.run(target)
                except Exception as error:
                    wrong[case.name] = " ".join(str(error).split())[:300]
    finally:
        subprocess.run(["ip", "netns", "del", host], check=True)
    for name, reason in wrong.items():
        print(f"{name}: {reason}")
    print(f"{len(wanted) - len(wrong)} of {len(wanted)} cases pass")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
