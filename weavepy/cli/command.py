"""What the commands share: how they are declared, and how they reach the router.

Each command has examples, which its `--help` shows as they would be typed.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weavepy.base.errors import WeavepyError

if TYPE_CHECKING:
    from weavepy.client.api import Api

Function = TypeVar("Function", bound=Callable[..., Any])
Example = tuple[str, str]
"""A command line, and what it does."""

_CAP_NET_ADMIN = 12


class NeedsRoot(WeavepyError):
    """The command changes interfaces and namespaces, which takes CAP_NET_ADMIN."""

    def __init__(self, command: str) -> None:
        super().__init__(f"`weavepy {command}` needs root: it makes network interfaces")


class _WithExamples(click.Command):
    examples: Sequence[Example] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            formatter.write_dl(list(self.examples), col_max=48)
        super().format_epilog(ctx, formatter)


class _GroupWithExamples(_WithExamples, click.Group):
    pass


def command(
    *examples: Example, name: str | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command with its examples: `@command(("weavepy ps", "list what is attached"))`."""

    def declare(function: Callable[..., Any]) -> click.Command:
        made = click.command(name=name, cls=_WithExamples)(function)
        made.examples = examples
        return made

    return declare


def group(*examples: Example) -> Callable[[Callable[..., Any]], click.Group]:
    """Declare a group that does something itself when it is named alone."""

    def declare(function: Callable[..., Any]) -> click.Group:
        made = click.group(cls=_GroupWithExamples, invoke_without_command=True)(function)
        made.examples = examples
        return made

    return declare


def json_option(function: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, as in docs/api.json.")(
        function
    )


def timeout_option(default_s: float, what: str) -> Callable[[Function], Function]:
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True, max=3600),
        default=default_s,
        show_default=True,
        metavar="SECONDS",
        help=f"How long to wait for {what}.",
    )


def api() -> "Api":
    """Return the API of the router that the environment means."""
    from weavepy.client.api import Api

    return Api()


def require_network_rights(what: str) -> None:
    if os.geteuid() != 0 and not _effective_capabilities() >> _CAP_NET_ADMIN & 1:
        raise NeedsRoot(what)


def _effective_capabilities() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM are how one ends what streams, and no failure; so is a pipe's end."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
