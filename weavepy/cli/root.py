"""The root command, and the one place where an exception becomes a line and an exit code.

Exit codes: 0 done, 1 failed, 2 asked wrongly. Errors go to stderr as one line that begins with
"weavepy:"; `WEAVEPY_DEBUG=1` shows the traceback instead.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence

import click

from weavepy.base.errors import WeavepyError

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Start and stop": {
        "launch": ("launch", "Start the router of this host."),
        "join": ("launch", "Join the mesh that a token names, and start the router."),
        "kube": ("kube", "Run the router of a Kubernetes node."),
        "datapath": ("datapath", "Run a datapath for a router that is started apart from it."),
        "stop": ("life", "Stop the router, by default with its datapath."),
        "reset": ("life", "Leave the mesh for good and forget it."),
    },
    "Mesh": {
        "connect": ("mesh", "Add peers to stay connected to."),
        "forget": ("mesh", "Stop trying to reach peers."),
    },
    "Containers and host": {
        "attach": ("containers", "Give a container or namespace addresses on the network."),
        "detach": ("containers", "Take a container or namespace off the network."),
        "ps": ("containers", "List what is attached on this host."),
        "expose": ("containers", "Put this host itself on the network."),
        "hide": ("containers", "Take this host off the network again."),
        "cni": ("cni", "Have container runtimes use the network, by the CNI plugin."),
    },
    "Policies": {
        "policy": ("policy", "Say who may talk to whom, and see why they can or cannot."),
    },
    "Addresses": {
        "ipam": ("ipam", "Look at and use the address ring."),
        "prime": ("ipam", "Wait until addresses can be allocated."),
        "rmpeer": ("ipam", "Take over the addresses of a peer that is gone for good."),
    },
    "Look": {
        "status": ("status", "Show how router, peers, addresses and datapath are."),
        "report": ("status", "Show everything, for a bug report; holds no secret."),
        "capture": ("capture", "Copy the frames that pass the overlay to a file or pipe."),
        "bench": ("bench", "Measure the overlay between this host and another."),
        "doctor": ("doctor", "Examine what this machine offers and what is missing."),
        "version": ("version", "Show the version of this command."),
    },
    "Try": {
        "lab": ("lab", "Run a whole mesh on this machine, in network namespaces."),
    },
}
"""Section to command to (module, what it does). The help text is here so that `weavepy --help`
need not import what it lists."""

_EXAMPLES = (
    ("weavepy lab up", "try it: three hosts with two containers each on this machine"),
    ("weavepy launch --detach", "start a new mesh with this host"),
    ("weavepy join TOKEN HOST", "add another host to it"),
    ("weavepy attach web", "put the network namespace `web` on it"),
    ("weavepy status", "see how it is"),
)


class Root(click.Group):
    """Finds a command's module by the table above, at the moment it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                module = importlib.import_module(f"weavepy.cli.{section[cmd_name][0]}")
                command = getattr(module, cmd_name)
                assert isinstance(command, click.Command)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                rows = [(name, what) for name, (_, what) in section.items()]
                formatter.write_dl(rows, col_max=12)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            formatter.write_dl(_EXAMPLES)
        formatter.write_paragraph()
        formatter.write_text(
            "WEAVEPY_RUN_DIR and WEAVEPY_STATE_DIR say which router of this machine is meant"
            " (by default that of /run/weavepy and /var/lib/weavepy)."
        )


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from weavepy import __version__

        click.echo(f"weavepy {__version__}")
        ctx.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def root() -> None:
    """One encrypted network for the containers of many hosts."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; never raises, unless asked to debug."""
    if os.environ.get("WEAVEPY_DEBUG", "") not in ("", "0"):
        return _invoke(arguments)
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
        return 1
    except Exception as error:
        return _fail(error)
    return code


def _invoke(arguments: Sequence[str]) -> int:
    result = root.main(list(arguments), prog_name="weavepy", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _fail(error: Exception) -> int:
    """Say on stderr what is wrong and return the exit code for it."""
    match error:
        case WeavepyError():
            _say(str(error))
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return 2
        case click.UsageError():
            _say(error.format_message(), *_hints(error))
            return 2
        case click.ClickException():
            _say(error.format_message())
            return 1
        case click.exceptions.Abort():
            return 1
        case OSError():
            where = f" ({error.filename})" if error.filename else ""
            _say(f"{error.strerror or error}{where}")
            return 1
        case _:
            _say(
                f"this is a bug: {type(error).__name__}: {error}",
                "set WEAVEPY_DEBUG=1 and run it again to see where; please report it",
            )
            return 1


def _hints(error: click.UsageError) -> Iterator[str]:
    if error.ctx is not None:
        yield f"see `{error.ctx.command_path} --help`"


def _say(message: str, *hints: str) -> None:
    line = "; ".join((" ".join(message.split()).rstrip("."), *hints))
    try:
        click.echo(f"weavepy: {line}", err=True)
    except OSError:
        pass  # nobody is left to tell; the exit code still says it


def _close_stdout() -> None:
    """Whoever read our output has gone: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
