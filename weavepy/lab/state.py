"""What a lab remembers between commands, in `state.json` of its directory.

It is written before anything is made, so that `lab down` knows what may exist even if `lab up`
was killed at the worst moment. Commands change it under a lock, and replace it in one rename.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from weavepy.base.errors import UsageError
from weavepy.base.settings import Directories
from weavepy.lab.plan import Plan, check_name, make_plan
from weavepy.lab.system import LabError, held_locks, start_ticks

DEFAULT_DIRECTORY = Path("/run/weavepy-lab")

LOCK_TIMEOUT_S = 30.0
"""Another command on the same lab holds the lock for a few seconds at most."""


class ProcessRecord(msgspec.Struct, frozen=True):
    """A process that the lab started itself."""

    pid: int
    start_ticks: int

    @property
    def running(self) -> bool:
        """False also if the process is gone and its id is used by another."""
        return start_ticks(self.pid) == self.start_ticks


class Impairment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong with a link, in both directions alike. The default is nothing."""

    down: bool = False
    loss: float = 0.0
    """A probability for each packet."""
    delay_ms: float = 0.0
    """One way."""
    mtu_bytes: int = 0
    """Larger packets vanish; 0: all that the interfaces accept pass."""
    rate_bits: int = 0
    """Per second; 0: as fast as the machine can."""
    duplicate: float = 0.0
    """A probability for each packet to come twice."""
    reorder: float = 0.0
    """A probability for each packet to be overtaken by later ones."""

    @property
    def relay(self) -> tuple[float, float, float]:
        """What of it the relaying process does."""
        return self.delay_ms, self.duplicate, self.reorder

    def __str__(self) -> str:
        words = [
            "down" if self.down else "",
            f"loss {self.loss * 100:g}%" if self.loss else "",
            f"delay {self.delay_ms:g}ms" if self.delay_ms else "",
            f"mtu {self.mtu_bytes}" if self.mtu_bytes else "",
            f"rate {self.rate_bits / 1e6:g}mbit" if self.rate_bits else "",
            f"duplicate {self.duplicate * 100:g}%" if self.duplicate else "",
            f"reorder {self.reorder * 100:g}%" if self.reorder else "",
        ]
        return ", ".join(word for word in words if word) or "ok"


class State(msgspec.Struct):
    name: str
    hosts: int
    containers: int
    topology: str
    mtu_bytes: int
    launch_options: list[str]
    """Given by the operator, for every router."""
    namespaces: list[str]
    processes: dict[str, ProcessRecord] = {}
    """By role: "router h1", "delay h1-h2"."""
    impairments: dict[str, Impairment] = {}
    """By the name of the link; links in order have none."""
    attached: dict[str, list[str]] = {}
    """Addresses of each container as they were at its attachment, "ADDRESS/LENGTH"."""
    family: str = "ipv4"
    nat: list[int] = []
    moved: list[str] = []
    """Hosts that are away from the addresses of the plan."""
    rebound: dict[str, int] = {}
    """How often the gateway of a host began anew."""

    @property
    def plan(self) -> Plan:
        return make_plan(
            self.name,
            self.hosts,
            self.containers,
            self.topology,
            self.mtu_bytes,
            self.family,
            self.nat,
        )

    def process(self, role: str) -> ProcessRecord | None:
        record = self.processes.get(role)
        return record if record is not None and record.running else None


def new_state(plan: Plan, launch_options: list[str]) -> State:
    return State(
        name=plan.name,
        hosts=plan.hosts,
        containers=plan.containers,
        topology=plan.topology,
        mtu_bytes=plan.mtu_bytes,
        launch_options=launch_options,
        namespaces=plan.namespaces,
        family=plan.family,
        nat=list(plan.nat),
    )


class Store:
    """The directory of one lab."""

    def __init__(self, name: str, root: Path | None = None) -> None:
        environment = os.environ.get("WEAVEPY_LAB_DIR", "")
        self.name = check_name(name)
        self.root = root or (Path(environment) if environment else DEFAULT_DIRECTORY)
        self.path = self.root / name

    @property
    def file(self) -> Path:
        return self.path / "state.json"

    @property
    def secret_file(self) -> Path:
        return self.path / "secret"

    @property
    def _lock_file(self) -> Path:
        """Beside the directory, because removing the directory needs the lock too."""
        return self.root / f"{self.name}.lock"

    def directories(self, host: str) -> Directories:
        return Directories(run=self.path / host / "run", state=self.path / host / "state")

    def launch_log(self, host: str) -> Path:
        """Where a router's standard output and error go."""
        return self.path / host / "launch.log"

    def read(self) -> State:
        try:
            data = self.file.read_bytes()
        except OSError as error:
            raise LabError(
                f"there is no lab {self.name!r}; `weavepy lab up` makes one" + self._others()
            ) from error
        try:
            return msgspec.json.decode(data, type=State)
        except msgspec.MsgspecError as error:
            raise LabError(
                f"{self.file} is damaged ({error}); `weavepy lab down --name {self.name}` clears up"
            ) from error

    def read_if_sound(self) -> State | None:
        """For cleaning up, which must not depend on a file that is there and whole."""
        try:
            state = self.read()
            _ = state.plan
        except (LabError, UsageError):
            return None
        return state

    def write(self, state: State) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
        temporary = self.file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
        temporary.replace(self.file)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def forget_lock(self) -> None:
        """Called with the lock held, as the last act of removing the lab."""
        self._lock_file.unlink(missing_ok=True)
        if self.root == DEFAULT_DIRECTORY:
            try:
                self.root.rmdir()
            except OSError:
                pass  # other labs are there

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold off other commands on this lab; raises `LabError` if one takes too long."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if self._try_lock(descriptor):
                    held_locks.add(descriptor)
                    yield
                    return
            finally:
                held_locks.discard(descriptor)
                os.close(descriptor)
            if time.monotonic() > deadline:
                raise LabError(f"another command works on lab {self.name!r}; try again later")
            time.sleep(0.05)

    def _try_lock(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._lock_file))
        except FileNotFoundError:
            return False  # unlinked between our open and our lock: that lock locks nobody out

    @contextmanager
    def changing(self) -> Iterator[State]:
        """Read, let the caller change, write: nobody else in between.

        Written also if the caller fails: what it recorded up to then may exist.
        """
        with self.lock():
            state = self.read()
            try:
                yield state
            finally:
                self.write(state)

    def _others(self) -> str:
        try:
            names = sorted(path.parent.name for path in self.root.glob("*/state.json"))
        except OSError:
            names = []
        return f" (there is: {', '.join(names)}; use --name)" if names else ""
