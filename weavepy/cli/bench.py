"""`weavepy bench`: how fast the overlay is between this host and another, now."""

import click

from weavepy.cli import output
from weavepy.cli.command import api, command, json_option
from weavepy.client import schema


@command(
    ("weavepy bench host2", "between this host and host2, for some seconds"),
    ("weavepy bench host2 --seconds 10 --json", "longer, and for programs"),
)
@click.argument("peer")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=30),
    default=2.0,
    show_default=True,
    help="For each of the two TCP runs.",
)
@json_option
def bench(peer: str, seconds: float, as_json: bool) -> None:
    """Measure TCP, small datagrams and round trips between this host and PEER.

    Both routers attach a container of their own for it, which is gone afterwards. The load is
    real: other containers get less of the network meanwhile.
    """
    answer = api().bench(schema.BenchRequest(peer=peer, seconds=seconds))
    if as_json:
        output.show_json(answer)
        return
    lost = 100 * (1 - answer.small_received_pps / max(1.0, answer.small_sent_pps))
    rows = (
        ("TCP to the peer", f"{answer.tcp_gbps:.2f} Gbit/s"),
        ("TCP from the peer", f"{answer.tcp_reverse_gbps:.2f} Gbit/s"),
        ("64-byte datagrams", f"{answer.small_received_pps:,.0f} /s ({max(0.0, lost):.1f} % lost)"),
        ("Round trip", f"{answer.rtt_ms_p50:.2f} ms, 99 % within {answer.rtt_ms_p99:.2f} ms"),
    )
    click.echo(f"{output.printable(answer.nickname)} ({answer.peer}), {answer.route}")
    for name, value in rows:
        click.echo(f"  {name:<18} {value}")
