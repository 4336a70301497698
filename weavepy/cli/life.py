"""`weavepy stop` and `weavepy reset`."""

import sys

import click

from weavepy.base.errors import UsageError
from weavepy.cli.command import api, command, timeout_option
from weavepy.client import schema
from weavepy.client.http import RouterNotRunning


@command(
    ("weavepy stop", "stop router and datapath"),
    ("weavepy stop --keep-datapath", "for an upgrade: containers go on talking meanwhile"),
)
@click.option(
    "--keep-datapath",
    is_flag=True,
    help="Leave the datapath running; the next `weavepy launch` adopts it.",
)
def stop(keep_datapath: bool) -> None:
    """Stop the router of this host, and return when it has ended.

    What is attached stays attached and keeps its addresses; without the datapath it reaches
    nobody on other hosts until the next launch.
    """
    from weavepy.cli.background import end_left_datapath, wait_until_gone

    router = api()
    try:
        router.stop(schema.StopRequest(keep_datapath=keep_datapath))
    except RouterNotRunning:
        if keep_datapath or not end_left_datapath(router.directories):
            raise
        click.echo("no router was running; stopped the datapath that it had left")
        return
    wait_until_gone(router.directories)
    click.echo("stopped; the datapath goes on" if keep_datapath else "stopped")


@command(
    ("weavepy reset", "leave the mesh, after a question"),
    ("weavepy reset --yes", "without the question"),
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@timeout_option(10.0, "another peer to take the address ranges over")
def reset(yes: bool, timeout_s: float) -> None:
    """Leave the mesh for good: hand address ranges over, then forget identity, ring and peers.

    The router stops. A later launch makes a new peer.
    """
    from weavepy.cli.background import wait_until_gone

    router = api()
    if not yes:
        _confirm(router.status().router)
    answer = router.reset(schema.ResetRequest(timeout_s=timeout_s))
    wait_until_gone(router.directories)
    click.echo(answer.message)


def _confirm(router: schema.RouterStatus) -> None:
    if not sys.stdin.isatty():
        raise UsageError("reset forgets this peer for good: say --yes if that is meant")
    click.confirm(
        f"{router.nickname} ({router.name}) leaves its mesh and is forgotten. Go on?",
        abort=True,
        err=True,
    )
