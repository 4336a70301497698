"""What the kernel remembers of an attachment for us: the alias of the host's end of its veth.

It outlives every router, cannot be changed by the container, and goes with the interface.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from weavepy.base.errors import UsageError

PREFIX = "weavepy:"
MAX_BYTES = 254
"""The kernel's IFALIASZ, less the terminating zero that pyroute2 adds."""


@dataclass(frozen=True, slots=True)
class Record:
    owner: str
    """What its addresses belong to: a container id, or the namespace's path."""
    interface: str
    """In the container."""
    mac: str
    namespace: Path
    pod: str = ""
    """As "NAMESPACE/NAME"; left out where there is no room for it."""
    uid: str = ""
    """Of the pod."""

    def alias(self) -> str:
        """An owner that is the namespace's path is left out, to fit the kernel's 256 bytes."""
        owner = self.owner if self.owner != str(self.namespace) else ""
        fields = [owner, self.interface, self.mac, str(self.namespace)]
        if self.pod or self.uid:
            fields.append(self.pod)
        if self.uid:
            fields.append(self.uid)
        alias = PREFIX + json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        length = len(alias.encode())
        if length > MAX_BYTES and self.pod:
            return replace(self, pod="").alias()
        if length > MAX_BYTES and self.uid:
            return replace(self, uid="").alias()
        if length > MAX_BYTES:
            raise UsageError(
                f"owner and namespace path are too long together ({length} of {MAX_BYTES} bytes):"
                " use a shorter id or path"
            )
        return alias


def parse_record(alias: str) -> Record | None:
    if not alias.startswith(PREFIX):
        return None
    try:
        owner, interface, mac, namespace, *pod = json.loads(alias[len(PREFIX) :])
    except ValueError:
        return None
    return Record(owner or namespace, interface, mac, Path(namespace), *pod[:2])
