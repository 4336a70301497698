"""Making the plugin a native program: `launcher.c`, compiled, with the Python part behind it.

It is one file, and may be copied: to run, it takes nothing of the host but the kernel. What it
leaves to its Python part takes the interpreter that the part's first line names.

    python -m cni.native OUT        compiles the launcher alone, as the image has it
"""

import functools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cni.executable import INTERPRETER, script, write_whole

SOURCE = Path(__file__).with_name("launcher.c")
PREBUILT = Path(__file__).with_name("launcher")
"""Where the image has it: there is no compiler."""

COMPILER = "cc"
FLAGS = ("-std=gnu11", "-Os", "-static", "-s")
"""Static: it starts quickly, and runs where there is another C library, or none."""

TIMEOUT_S = 60.0


class CannotCompile(Exception):
    """Why not, in a line."""


def executable(interpreter: str = INTERPRETER) -> bytes:
    """The plugin's whole content. Raises `CannotCompile`."""
    launcher = PREBUILT.read_bytes() if PREBUILT.exists() else compiled()
    return with_script(launcher, script(interpreter))


def with_script(launcher: bytes, python: bytes) -> bytes:
    """The launcher finds the script by its length, which is the last line."""
    return launcher + python + b"%08d\n" % len(python)


@functools.cache
def compiled(flags: Sequence[str] = FLAGS) -> bytes:
    """Only the launcher. Raises `CannotCompile`."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "launcher"
        try:
            done = subprocess.run(
                [COMPILER, *flags, "-o", out, SOURCE],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except FileNotFoundError as error:
            raise CannotCompile(f"there is no C compiler ({COMPILER})") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotCompile(str(error)) from error
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CannotCompile(f"{COMPILER}: {said[0]}")
        return out.read_bytes()


def main() -> None:
    [out] = sys.argv[1:] or sys.exit("usage: python -m cni.native OUT")
    try:
        write_whole(Path(out), compiled(), 0o755)
    except CannotCompile as error:
        sys.exit(f"the CNI plugin's launcher cannot be made: {error}")


if __name__ == "__main__":
    main()
