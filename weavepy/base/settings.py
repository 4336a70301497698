"""Where a router keeps its files, and the ports it uses.

`WEAVEPY_RUN_DIR` and `WEAVEPY_STATE_DIR` let several routers share a machine. The run
directory holds sockets and pid files and may vanish at a reboot; the state directory holds the
identity, the secret and the address ring and must not.
"""

import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 6783
"""TCP for control and UDP for sleeve."""

HTTP_PORT = 6782
"""The read-only listener on 127.0.0.1."""


@dataclass(frozen=True, slots=True)
class Directories:
    run: Path
    state: Path

    @property
    def api_socket(self) -> Path:
        return self.run / "weavepy.sock"

    @property
    def policies_file(self) -> Path:
        return self.state / "policies.json"

    @property
    def cluster_file(self) -> Path:
        """What the API server of Kubernetes said last."""
        return self.state / "cluster.json"

    @property
    def datapath_socket(self) -> Path:
        return self.run / "datapath.sock"

    @property
    def router_pid_file(self) -> Path:
        return self.run / "router.pid"

    @property
    def datapath_pid_file(self) -> Path:
        return self.run / "datapath.pid"

    @property
    def datapath_lock(self) -> Path:
        """Held by a datapath that no router has started."""
        return self.run / "datapath.lock"

    @property
    def datapath_log_file(self) -> Path:
        return self.run / "datapath.log"

    @property
    def log_file(self) -> Path:
        return self.run / "router.log"

    @property
    def identity_file(self) -> Path:
        return self.state / "identity.key"

    @property
    def secret_file(self) -> Path:
        return self.state / "secret"

    @property
    def targets_file(self) -> Path:
        return self.state / "targets.json"

    @property
    def cni_journal(self) -> Path:
        """DELs that came while no router ran."""
        return self.state / "cni-journal"

    @property
    def database_file(self) -> Path:
        return self.state / "weavepy.db"


def directories() -> Directories:
    """Read the environment; nothing is created."""
    return Directories(
        run=Path(os.environ.get("WEAVEPY_RUN_DIR", "/run/weavepy")),
        state=Path(os.environ.get("WEAVEPY_STATE_DIR", "/var/lib/weavepy")),
    )
