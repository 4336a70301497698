"""The plugin that is examined, and the sandboxes that it is given."""

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    text: bytes
    errors: str

    @property
    def answer(self) -> Any:
        return json.loads(self.text)

    def __str__(self) -> str:
        return f"exit code {self.code}, printed {self.text!r}, said {self.errors!r}"


@dataclass
class Target:
    plugin: Path
    config: dict[str, Any]
    """Without cniVersion."""
    path: str = "/usr/lib/cni"
    host: str = ""
    """The network namespace that the plugin runs in; empty for ours."""
    second: dict[str, Any] = field(default_factory=dict)
    """What makes the configuration that of another network, with room for one container."""

    def call(
        self,
        verb: str,
        version: str = "1.0.0",
        *,
        config: dict[str, Any] | None = None,
        stdin: bytes | None = None,
        without: str = "",
        **variables: str,
    ) -> Outcome:
        """Run it; `config` is merged into the base, `without` names a variable to leave out."""
        content = {"cniVersion": version, **self.config, **(config or {})}
        environment = {"CNI_COMMAND": verb, "CNI_PATH": self.path, "PATH": os.environ["PATH"]}
        environment |= {f"CNI_{name.upper()}": value for name, value in variables.items()}
        environment.pop(without, None)
        enter = ["nsenter", f"--net=/run/netns/{self.host}"] if self.host else []
        done = subprocess.run(
            [*enter, self.plugin],
            input=json.dumps(content).encode() if stdin is None else stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
            env=environment,
        )
        return Outcome(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    @contextlib.contextmanager
    def sandbox(self) -> Iterator["Sandbox"]:
        """A network namespace for one container, which is DELed at the end."""
        name = f"weavepy-cf-{os.getpid()}-{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        made = Sandbox(self, name)
        try:
            yield made
        finally:
            made.clear()
            made.remove()


@dataclass
class Sandbox:
    target: Target
    name: str
    added: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Interfaces, and what was added to the configuration for each."""

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def call(self, verb: str, version: str, **more: Any) -> Outcome:
        variables = {"containerid": self.name, "netns": self.path, "ifname": "eth0"} | more
        outcome = self.target.call(verb, version, **variables)
        if outcome.code == 0 and verb == "ADD":
            self.added[variables["ifname"]] = more.get("config") or {}
        if outcome.code == 0 and verb == "DEL":
            self.added.pop(variables["ifname"], None)
        return outcome

    def clear(self) -> None:
        """DEL what the case has not."""
        for interface, config in sorted(self.added.items()):
            self.call("DEL", "1.0.0", ifname=interface, config=config)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def ip(self, *command: str) -> str:
        done = subprocess.run(
            ["ip", "-n", self.name, *command], capture_output=True, text=True, check=False
        )
        return done.stdout

    def interfaces(self) -> set[str]:
        names = {line.split(":")[1].split("@")[0].strip() for line in self._lines("-o", "link")}
        return names - {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0"}

    def addresses(self) -> set[str]:
        """Without link-local ones, as "ADDRESS/LENGTH"."""
        return {
            line.split()[3]
            for line in self._lines("-o", "addr")
            if "scope global" in line and line.split()[1] != "lo"
        }

    def _lines(self, *command: str) -> list[str]:
        return self.ip(*command).splitlines()
