"""Where the API server is. Apart from what speaks to it, as each command of ours reads options."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from weavepy.base.errors import UsageError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where it is and how to speak to it."""

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None


def url_for_pods() -> str:
    """As kubelet tells every pod. Raises `UsageError` outside of one."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        raise UsageError(
            "there is no API server to ask: run this in a pod (docker/weavepy.yaml), or name one"
            " with --api-server"
        )
    port = os.environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
