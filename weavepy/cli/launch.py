"""`weavepy launch` and `weavepy join`: the router in the foreground, or left in the background.

Secrets come in through files and standard input and never stand in the argument list of the
router. What is typed is checked as a whole before anything is read, created or started.
"""

import dataclasses
import logging
import sys
from typing import Any

import click

from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.settings import Directories
from weavepy.cli.command import command, require_network_rights
from weavepy.cli.router_options import option, parse_router, router_options
from weavepy.daemon.options import Options

_INSECURE_WARNING = (
    "weavepy: WARNING: --insecure: this mesh encrypts nothing and lets anyone in who reaches its"
    " port"
)


@command(
    ("weavepy launch --detach", "start a new mesh, and print the line for the next host"),
    ("weavepy launch host1 host2:6799", "in the foreground, dialling these peers"),
    ("weavepy launch --password-file /root/mesh.pw host1", "with a password that all hosts know"),
    ("weavepy launch --detach --ipalloc-range 10.99.0.0/16", "with other addresses"),
)
@click.argument("peers", metavar="[PEER]...", nargs=-1, envvar="WEAVEPY_PEERS")
@option(
    "--password-file",
    "Derive the mesh's secret from the password in this file (- for standard input).",
    metavar="FILE",
)
@option(
    "--secret-file",
    "Take the mesh's secret from this file: a join token or 64 hex digits (- for standard input).",
    metavar="FILE",
)
@option(
    "--insecure",
    "No encryption and no authentication, for all hosts of the mesh.",
    is_flag=True,
)
@router_options
@option(
    "--detach/--foreground",
    "Run in the background, and return when the router answers.",
    default=False,
    show_default=True,
)
def launch(
    peers: tuple[str, ...],
    password_file: str | None,
    secret_file: str | None,
    insecure: bool,
    detach: bool,
    **router: Any,
) -> int:
    """Start the router of this host, and have it stay connected to each PEER.

    Without a secret given, the mesh's secret is the one in the state directory; the first
    launch makes it. `weavepy join --show` prints the line that adds another host.
    """
    options = parse_router(peers, router)
    require_network_rights("launch")
    where = options.directories
    refuse_if_running(where)

    from weavepy.daemon.secrets import resolve_secret

    secret = resolve_secret(
        where, password_file=password_file, secret_file=secret_file, insecure=insecure
    )
    return _start(options.with_secret(secret.secret, secret.encrypted), secret.origin, detach)


@command(
    ("weavepy join TOKEN host1", "join the mesh of host1, in the background"),
    ("weavepy join --token-file token.txt host1", "without the token in the shell's history"),
    ("ssh host1 weavepy join --show", "print the line that adds another host to host1's mesh"),
)
@click.argument("words", metavar="[TOKEN|-] HOST...", nargs=-1)
@option(
    "--token-file",
    "Read the token from this file; all arguments are hosts then.",
    metavar="FILE",
)
@click.option("--replace", is_flag=True, help="Replace the secret of another mesh on this host.")
@click.option("--show", is_flag=True, help="Only print the line that adds a host to this mesh.")
@router_options
@click.option(
    "--foreground/--detach", default=False, show_default=True, help="Stay in the foreground."
)
def join(
    words: tuple[str, ...],
    token_file: str | None,
    replace: bool,
    show: bool,
    foreground: bool,
    **router: Any,
) -> int:
    """Join the mesh that TOKEN names by way of HOST, and start the router.

    Stores the secret in the state directory. A TOKEN of `-` is read from standard input.
    """
    if show:
        return _show_invitation(words, router)
    token_source, hosts = _split(words, token_file)
    options = parse_router(hosts, router)
    require_network_rights("join")
    where = options.directories
    refuse_if_running(where, instead=f"`weavepy connect {' '.join(hosts)}` adds peers to it")

    from weavepy.daemon.secrets import read_line, secret_of_token, store_secret

    token = read_line(token_source, "token") if token_source else words[0]
    secret = secret_of_token(token)
    store_secret(where, secret, replace=replace)
    options = options.with_secret(secret.secret, secret.encrypted)
    return _start(options, secret.origin, not foreground)


def refuse_if_running(where: Directories, instead: str = "`weavepy stop` ends it") -> None:
    from weavepy.client.http import Client, RouterNotRunning

    try:
        answer = Client(where.api_socket, timeout_s=3.0).request("GET", "/v1/status")
    except RouterNotRunning:
        return
    except WeavepyError:
        running = "a router"
    else:
        router = answer.get("router", {})
        running = f"the router {router.get('nickname', '')} (pid {router.get('pid', '?')})"
    raise WeavepyError(f"{running} runs here already, in {where.run}: {instead}")


def _split(words: tuple[str, ...], token_file: str | None) -> tuple[str, tuple[str, ...]]:
    """Return where the token is read from ("": it is the first word) and the hosts."""
    first = words[0] if words else ""
    if token_file is not None:
        if first == "-" or first.startswith("weavepy1-"):
            raise UsageError("the token is given twice: leave it out, or leave --token-file out")
        source, hosts = token_file, words
    else:
        source, hosts = ("-" if first == "-" else ""), words[1:]
        if not first:
            raise UsageError(
                "no token: `weavepy join --show` on a host of the mesh prints the whole line"
            )
    if not hosts:
        raise UsageError("no host: name at least one host of the mesh to dial")
    return source, hosts


def _start(options: Options, origin: str, detach: bool) -> int:
    from weavepy.cli.invitation import invitation

    if not options.encrypted:
        click.echo(_INSECURE_WARNING, err=True)
    if detach:
        from weavepy.cli.background import start_in_background

        started = start_in_background(options)
        router = started.router
        click.echo(f"weavepy is running: {router.nickname} ({router.name}), pid {router.pid}")
        click.echo(f"To add a host, run there:\n  {invitation(options, origin)}")
        return 0
    if sys.stdout.isatty():
        click.echo(f"To add a host, run there:\n  {invitation(options, origin)}")
    else:
        # This goes to a log, which outlives the mesh and is read by more than root.
        click.echo("`weavepy join --show` prints the line that adds a host to this mesh")
    sys.stdout.flush()
    return run_router(options)


def run_router(options: Options) -> int:
    from weavepy.daemon.main import run

    try:
        return run(options)
    except (WeavepyError, OSError):
        raise
    except Exception:
        # A router that dies of a bug says where: its log is all that is left of it.
        logging.getLogger("weavepy").exception("the router crashed")
        raise


def _show_invitation(words: tuple[str, ...], router: dict[str, Any]) -> int:
    if words:
        raise UsageError("--show takes no token and no host")
    from weavepy.cli.invitation import invitation
    from weavepy.daemon.secrets import load_secret

    options = parse_router((), router)
    secret = load_secret(options.directories)
    if secret is None:
        raise WeavepyError(
            f"no secret is stored in {options.directories.state}: `weavepy launch` makes one, and"
            " a mesh with --password-file, --secret-file or --insecure is joined with the same"
        )
    options = options.with_secret(secret.secret, secret.encrypted)
    click.echo(invitation(_as_running(options), secret.origin))
    return 0


def _as_running(options: Options) -> Options:
    """Prefer what the running router was launched with to what this command was told."""
    from weavepy.client.api import Api

    try:
        router = Api(options.directories).status().router
    except WeavepyError:
        return options
    return dataclasses.replace(options, port=router.port, encrypted=router.encrypted)
