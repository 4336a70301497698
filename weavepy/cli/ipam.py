"""`weavepy ipam ...` and `weavepy prime`: the address ring."""

import ipaddress
import time

import click

from weavepy.base.errors import UsageError
from weavepy.cli import output
from weavepy.cli.command import api, command, group, json_option, timeout_option
from weavepy.client import schema
from weavepy.daemon.options import parse_network


@group(
    ("weavepy ipam", "how the ring is"),
    ("weavepy ipam allocate backup", "an address for something that weavepy does not attach"),
    ("weavepy ipam lookup 10.32.0.9", "who has this address"),
)
@click.pass_context
def ipam(context: click.Context) -> None:
    """Look at and use the address ring. Without a command: show its status."""
    if context.invoked_subcommand is None:
        context.invoke(status, as_json=False)


@command(("weavepy ipam status", "state, shares and requests that wait"))
@json_option
def status(as_json: bool) -> None:
    """Show how the ring is, who owns how much of it, and which requests wait for what."""
    _show_ring(api().ipam(), as_json)


@command(("weavepy ipam list", "every address that is in use here"), name="list")
@json_option
def list_addresses(as_json: bool) -> None:
    """List the addresses in use on this host: whose they are, on which interface, since when."""
    answer = api().addresses()
    if as_json:
        output.show_json(answer)
        return
    from weavepy.cli import views

    output.show(views.addresses(answer, time.time()))


@command(("weavepy ipam history", "what this host gave, got and lost, and why"))
@json_option
def history(as_json: bool) -> None:
    """Show the recent changes of what this host owns, the newest first, and why they were."""
    answer = api().history()
    if as_json:
        output.show_json(answer)
        return
    from weavepy.cli import views

    output.show(views.history(answer, time.time()))


@command(("weavepy ipam check || weavepy report", "see more if something differs"))
@json_option
def check(as_json: bool) -> int:
    """Compare ring, store and interfaces of this host; exit code 1 and a list if they differ."""
    answer = api().check()
    if as_json:
        output.show_json(answer)
    else:
        from weavepy.cli import views

        output.show(views.findings(answer))
    return 1 if answer.findings else 0


@command(
    ("weavepy rmpeer host3", "take over what host3 owned: it died and will not return"),
    ("weavepy rmpeer 7a:0c:52:3f:11:9d", "by name, where two have one nickname"),
    ("weavepy ipam rmpeer host3 --force", "without asking anybody"),
)
@click.argument("peer", metavar="PEER|NICKNAME")
@click.option(
    "--force",
    is_flag=True,
    help="Ask nobody. If the peer is alive behind a cut cable, or another host does the same,"
    " two containers may get one address.",
)
@timeout_option(10.0, "the consent of a majority")
@json_option
def rmpeer(peer: str, force: bool, timeout_s: float, as_json: bool) -> None:
    """Take over the addresses of a peer that is gone for good.

    More than half of the hosts that own addresses must agree, and none of them may see the peer
    alive. If it returns nevertheless, it comes back empty. A host that still runs leaves with
    `weavepy reset` instead.
    """
    answer = api().rmpeer(schema.RmpeerRequest(peer=peer, force=force, timeout_s=timeout_s))
    if as_json:
        output.show_json(answer)
    else:
        click.echo(output.printable(answer.message))


@command(("weavepy ipam ranges", "the ranges of each peer"))
@json_option
def ranges(as_json: bool) -> None:
    """List which peer owns which ranges of the universe (of each the first 32)."""
    answer = api().ipam()
    if as_json:
        output.show_json(answer.owners)
        return
    from weavepy.cli import views

    output.show([views.ring_owners(answer, with_ranges=True)])


@command(
    ("weavepy ipam allocate backup", "an address of the default subnet for `backup`"),
    ("weavepy ipam allocate backup --subnet 10.40.1.0/24", "out of this subnet"),
)
@click.argument("owner")
@click.option("--subnet", metavar="CIDR", default="", help="Out of this subnet of the universe.")
@timeout_option(30.0, "an address")
@json_option
def allocate(owner: str, subnet: str, timeout_s: float, as_json: bool) -> None:
    """Allocate an address for OWNER, or print the one it has there; release it when done."""
    if subnet:
        parse_network("--subnet", subnet)
    request = schema.AllocateRequest(owner=owner, subnet=subnet, timeout_s=timeout_s)
    _show_address(api().allocate(request), as_json)


@command(("weavepy ipam claim printer 10.32.0.9", "keep this very address for `printer`"))
@click.argument("owner")
@click.argument("address", metavar="ADDRESS[/LENGTH]")
@timeout_option(30.0, "the ring")
@json_option
def claim(owner: str, address: str, timeout_s: float, as_json: bool) -> None:
    """Claim this very address for OWNER; fails with its owner's name if it is in use."""
    if not _is_address(address):
        raise UsageError(f"{address!r} is not an address: expected one such as 10.32.0.9")
    request = schema.ClaimRequest(owner=owner, address=address, timeout_s=timeout_s)
    _show_address(api().claim(request), as_json)


@command(
    ("weavepy ipam release backup", "all addresses of `backup`"),
    ("weavepy ipam release 10.32.0.9", "this address, whoever has it"),
)
@click.argument("which", metavar="OWNER|ADDRESS")
@json_option
def release(which: str, as_json: bool) -> None:
    """Free the addresses of an owner, or one address; prints what was freed."""
    by_address = _is_address(which)
    request = schema.ReleaseRequest(
        owner="" if by_address else which, address=which if by_address else ""
    )
    answer = api().release(request)
    if as_json:
        output.show_json(answer)
        return
    for address in answer.released:
        click.echo(output.printable(address))


@command(
    ("weavepy ipam lookup backup", "the addresses of `backup` on this host"),
    ("weavepy ipam lookup 10.32.0.9", "which peer and which owner has this address"),
)
@click.argument("which", metavar="OWNER|ADDRESS")
@json_option
def lookup(which: str, as_json: bool) -> None:
    """Show the addresses of an owner on this host, or who has an address."""
    by_address = _is_address(which)
    request = schema.LookupRequest(
        owner="" if by_address else which, address=which if by_address else ""
    )
    answer = api().lookup(request)
    if as_json:
        output.show_json(answer)
        return
    if not by_address:
        for address in answer.addresses:
            click.echo(output.printable(address))
        return
    peer = f"{answer.peer}({answer.nickname})" if answer.peer else "nobody yet: there is no ring"
    rows = [
        ("Range of", output.Cell(peer)),
        ("Used by", output.Cell(answer.owner or "nobody on this host")),
    ]
    output.show([output.Facts("", rows)])


for _subcommand in (
    status,
    allocate,
    claim,
    release,
    lookup,
    list_addresses,
    ranges,
    history,
    check,
    rmpeer,
):
    ipam.add_command(_subcommand)


@command(
    ("weavepy prime && weavepy attach web", "attach as soon as there are addresses"),
)
@timeout_option(60.0, "the ring")
@json_option
def prime(timeout_s: float, as_json: bool) -> None:
    """Wait until addresses can be allocated on this host; fails with what is missing."""
    _show_ring(api().prime(schema.PrimeRequest(timeout_s=timeout_s)), as_json)


def _show_ring(answer: schema.IpamStatus, as_json: bool) -> None:
    if as_json:
        output.show_json(answer)
        return
    from weavepy.cli import views

    output.show(views.ipam(answer))


def _show_address(answer: schema.AddressAnswer, as_json: bool) -> None:
    if as_json:
        output.show_json(answer)
    else:
        click.echo(output.printable(answer.address))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return True
