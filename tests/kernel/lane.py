"""The kernel lane: a command as root in a kernel that has what this host's may lack.

User-Mode Linux, Debian's stock build, is a whole kernel in an ordinary process. It boots in two
seconds over the files as they are: what the guest writes goes to its memory and is gone in the
end, and it has no network but its own. Only standard output and the exit status come out, by one
directory which both see (`guest.sh` is the other half).

The kernel has one processor, and so has the process: spread over two, each system call of the
guest wakes the other processor, which makes it four times slower.

    script/kernel-lane [--limit S] [--cpu N] [--memory-mb N] COMMAND [ARGUMENT...]
    script/kernel-lane --check         say why it cannot run here, if so

Exits with the command's status; 125 if there is none (time was up, or the kernel stopped), 77 if
the lane cannot run here.
"""

import argparse
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

KERNEL = "linux.uml"
NEEDED = {KERNEL: "user-mode-linux", "busybox": "busybox-static", "modprobe": "kmod"}
"""Programs, and the Debian packages that have them."""

NO_STATUS = 125
CANNOT_RUN = 77
"""As automake's tests say that they were skipped."""

_MODULES = Path(__file__).parents[2] / "build" / "kernel" / "modules"
"""Debian's, and what `script/kernel-build` adds to them."""
_REGISTERS = Path(__file__).with_name("registers.c")
_GUEST = Path(__file__).with_name("guest.sh")
_POLL_S = 0.05
_CONSOLE_LINES = 20
_PASSED_ON = ("WEAVEPY_", "PYTEST_", "HYPOTHESIS_")
"""Variables of the environment that the command gets, beside PATH."""


def why_not() -> str:
    """Why the lane cannot run here, and what to do about that; empty if it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"User-Mode Linux is for x86_64 only, and this is {platform.machine()}"
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if missing:
        return f"not installed: {' '.join(missing)} (script/bootstrap --tests, as root)"
    if not _MODULES.exists():
        return "its kernel's modules are not built: script/kernel-build"
    if _has_amx() and shutil.which("cc") is None:
        return "not installed: gcc, which makes up for User-Mode Linux's ignorance of AMX"
    return ""


def run(command: Sequence[str], *, limit_s: float, cpu: int, memory_mb: int) -> int:
    """Run it in the guest, its output to ours, and return its status."""
    with tempfile.TemporaryDirectory(prefix="weavepy-lane-") as name:
        shared = Path(name)
        _write_job(shared, command)
        with Path(shared, "console").open("wb") as console:
            kernel = subprocess.Popen(
                _kernel_line(shared, memory_mb),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=dict(os.environ, LD_PRELOAD=_preloaded(shared)),
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )
        try:
            _forward(kernel, shared / "stdout", limit_s)
        finally:
            _reap(kernel, name)
        status = _read(shared / "status")
        if not status:
            last = _read(shared / "console").splitlines()[-_CONSOLE_LINES:]
            print(*last, sep="\n", file=sys.stderr)
            print(f"kernel-lane: no exit status (limit {limit_s:g} s)", file=sys.stderr)
            return NO_STATUS
        return int(status)


def _has_amx() -> bool:
    return " amx_tile" in Path("/proc/cpuinfo").read_text()


def _preloaded(shared: Path) -> str:
    """What the kernel's process is to load first, if anything."""
    if not _has_amx():
        return ""
    library = shared / "registers.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, _REGISTERS], check=True)
    return str(library)


def _write_job(shared: Path, command: Sequence[str]) -> None:
    """What the guest does when it has booted, as a script for bash."""
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if name == "PATH" or name.startswith(_PASSED_ON)
    }
    exports = [f"export {name}={shlex.quote(value)}" for name, value in passed_on.items()]
    lines = [
        *exports,
        f"cd {shlex.quote(os.getcwd())}",
        f"({shlex.join(command)}) </dev/null >/out/stdout 2>&1",
        "echo $? >/out/status",
    ]
    Path(shared, "job").write_text("\n".join(lines) + "\n")
    Path(shared, "stdout").touch()


def _kernel_line(shared: Path, memory_mb: int) -> list[str]:
    return [
        KERNEL,
        f"mem={memory_mb}M",
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        f"init={_GUEST}",
        *("quiet", "panic=1", "con=null", "con0=null,fd:1", "ssl=null"),
        f"uml_dir={shared}",
        f"weavepy.modules={_MODULES}",
        f"weavepy.shared={shared}",
    ]


def _forward(kernel: "subprocess.Popen[bytes]", stdout: Path, limit_s: float) -> None:
    """Until the kernel ends or its time is up."""
    end_at = time.monotonic() + limit_s
    with stdout.open("rb") as source:
        running = True
        while running:
            running = kernel.poll() is None and time.monotonic() < end_at
            if shown := source.read():
                sys.stdout.buffer.write(shown)
                sys.stdout.flush()
            elif running:
                time.sleep(_POLL_S)


def _reap(kernel: "subprocess.Popen[bytes]", name: str) -> None:
    """The kernel and the processes that it made: a killed one leaves them behind.

    They have its command line, in which only ours has this directory.
    """
    mark = f"weavepy.shared={name}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in Path(process, "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue  # it has just ended
    kernel.wait()


def _read(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.exists() else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="kernel-lane", allow_abbrev=False)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--limit", type=float, default=600.0, metavar="S")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--memory-mb", type=int, default=2048, metavar="N")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if reason := why_not():
        print(f"kernel-lane: cannot run here: {reason}", file=sys.stderr)
        return CANNOT_RUN
    if options.check:
        return 0
    if not options.command:
        parser.error("a command is missing")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    return run(options.command, limit_s=options.limit, cpu=options.cpu, memory_mb=options.memory_mb)


if __name__ == "__main__":
    sys.exit(main())
