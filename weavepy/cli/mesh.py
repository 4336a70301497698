"""`weavepy connect` and `weavepy forget`: the targets of this router."""

import click

from weavepy.cli import output
from weavepy.cli.command import api, command, json_option
from weavepy.client import schema
from weavepy.daemon.options import check_target

_targets = click.argument("targets", metavar="PEER...", nargs=-1, required=True)


@command(
    ("weavepy connect 192.0.2.7", "stay connected to one more peer"),
    ("weavepy connect --replace host2 host3:6799", "to these, and forget all others"),
)
@_targets
@click.option("--replace", is_flag=True, help="Forget all peers that were given before.")
@json_option
def connect(targets: tuple[str, ...], replace: bool, as_json: bool) -> None:
    """Add peers to stay connected to, each as HOST, HOST:PORT or [V6]:PORT.

    Prints the peers that are given now. The connections come up in the background: see
    `weavepy status connections`.
    """
    request = schema.ConnectRequest(
        targets=[check_target(target) for target in targets], replace=replace
    )
    _print_targets(api().connect(request), as_json)


@command(("weavepy forget 192.0.2.7", "stop trying to reach this peer"))
@_targets
@json_option
def forget(targets: tuple[str, ...], as_json: bool) -> None:
    """Stop trying to reach peers, named as they were given; established connections stay."""
    request = schema.ForgetRequest(targets=[check_target(target) for target in targets])
    _print_targets(api().forget(request), as_json)


def _print_targets(answer: schema.TargetsAnswer, as_json: bool) -> None:
    if as_json:
        output.show_json(answer)
        return
    for target in answer.targets:
        click.echo(output.printable(target))
