"""What the API server said last, on disk: so a router that starts without it has its policies.

It is a copy, and a moment old. One that cannot be read is as good as none, and what is known anew
replaces it whole.
"""

import logging
from pathlib import Path

import msgspec

from kube.core.pods import Namespace, NetworkPolicy, Pod
from weavepy.base.errors import WeavepyError
from weavepy.daemon.files import replace_file

log = logging.getLogger(__name__)

VERSION = 1
MAX_BYTES = 256 * 1024 * 1024
"""Some 500,000 pods."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    namespaces: tuple[Namespace, ...]
    policies: tuple[NetworkPolicy, ...]
    pods: tuple[Pod, ...]


def load(file: Path) -> Snapshot | None:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise WeavepyError("it is too large")
        found = msgspec.json.decode(file.read_bytes(), type=Snapshot)
        if found.version != VERSION:
            raise WeavepyError(f"it is of version {found.version}")
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, WeavepyError) as error:
        log.warning("what the API server said is not remembered: %s: %s", file, error)
        return None
    return found


def save(file: Path, snapshot: Snapshot) -> None:
    """Raises `WeavepyError`; then the one before is still there."""
    content = msgspec.json.encode(snapshot)
    if len(content) > MAX_BYTES:
        raise WeavepyError(f"{len(content)} bytes are too many for {file}")
    replace_file(file, content)
