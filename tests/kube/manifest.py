"""docker/weavepy.yaml as objects."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "docker/weavepy.yaml"

Object = dict[str, Any]


def objects() -> list[Object]:
    return [found for found in yaml.safe_load_all(MANIFEST.read_text()) if found]


def daemon_set(name: str = "weavepy") -> Object:
    (found,) = [one for one in of_kind("DaemonSet") if one["metadata"]["name"] == name]
    return found


def probe_of_datapath() -> list[str]:
    """What kubelet has run in its container: it lives if that ends with 0."""
    (container,) = daemon_set("weavepy-datapath")["spec"]["template"]["spec"]["containers"]
    command: list[str] = container["livenessProbe"]["exec"]["command"]
    return command


def of_kind(kind: str, among: list[Object] | None = None) -> list[Object]:
    return [found for found in among or objects() if found["kind"] == kind]
