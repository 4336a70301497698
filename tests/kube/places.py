"""Places of a cluster: the control plane and each node, in namespaces of their own.

The first process of a place holds its namespaces; killing it ends everything that runs there, so
nothing is ever killed by name. Programs are started one by one, and can be stopped and started.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from weavepy.base.errors import WeavepyError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def wait_for(what: str, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Poll until it is so; what raises counts as not yet."""
    until = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < until:
        try:
            last = condition()
        except (AssertionError, LookupError, OSError, RuntimeError, WeavepyError) as error:
            last = error
        else:
            if last:
                return
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s:g} s: {what} ({last})")


class Place:
    """`environment` is all that its programs inherit: containerd hands it on to every plugin."""

    def __init__(self, name: str, netns: str, folder: Path, programs: Path) -> None:
        self.name = name
        self.netns = netns
        self.folder = folder
        self._environment = {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PATH": f"{programs}:{SYSTEM_PATH}",
        }
        self._holder: subprocess.Popen[bytes] | None = None
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[str, ...]] = {}
        self.pid = 0
        """Of its first process, as the machine counts."""

    @property
    def is_up(self) -> bool:
        return self.pid != 0

    def begin(self, script: Sequence[str]) -> None:
        """Make the namespaces; the script's last act is to touch the file "ready"."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        self._holder = self._spawn(
            "init",
            [
                *("nsenter", f"--net=/run/netns/{self.netns}"),
                *("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"),
                *("--propagation", "private", "--", *script),
            ],
        )
        wait_for(f"{self.name} has a first process", lambda: _child(self._holder), 10)
        self.pid = _child(self._holder)
        wait_for(f"{self.name} is arranged, see {self.folder}/init.log", ready.exists, 20)

    def start(self, name: str, *command: str) -> None:
        """Start a program; the same again if no command is given."""
        if command:
            self._commands[name] = command
        self._programs[name] = self._spawn(name, [*self._inside(), *self._commands[name]])

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        program = self._programs.pop(name)
        os.kill(_child(program), number)
        program.wait(timeout=20)

    def command(self, *command: str) -> list[str]:
        return [*self._inside(), *command]

    def run(self, *command: str, check: bool = True, timeout_s: float = 60.0) -> str:
        done = subprocess.run(
            self.command(*command),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self._environment,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def end(self) -> None:
        """Pull the plug."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        for process in (*self._programs.values(), *([self._holder] if self._holder else [])):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
        self._programs.clear()
        self._holder = None
        self.pid = 0

    def _inside(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", "--"]

    def _spawn(self, log: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )


def _child(process: subprocess.Popen[bytes] | None) -> int:
    """Return the one child of a process that only makes namespaces for it."""
    assert process is not None
    assert process.poll() is None, f"{process.args!r} has ended"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else 0


def shell(*command: str, given: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Run a command on the machine itself."""
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=dict(environment) if environment is not None else None,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout
